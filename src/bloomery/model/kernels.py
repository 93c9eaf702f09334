"""RMSNorm and rotary positions with their derivatives written out.

Left to autograd each takes a dozen passes over memory, which on a CPU costs as much as the matrix products between
them: written out, a norm of 4,096 x 256 numbers and its backward pass take 4.6 ms instead of 8.7 (one core). Under
torch.compile the plain formulas stand instead: the compiler fuses them with what is before and after.

Shapes: ... any leading dimensions, D the normalised dimension, B batch, T tokens, H heads, K head dimension.
"""

from typing import Any  # Any: torch types neither the context nor the result of an autograd function

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x over the root mean square of its last dimension, times a weight (arXiv:1910.07467, eq. 4); float32 inside, x's dtype outside.

    >>> rms_norm(torch.tensor([3.0, 4.0]), torch.ones(2), 0.0).square().mean().item()
    1.0
    """
    if torch.compiler.is_compiling():
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight_D).to(x.dtype)
    out: Tensor = _RMSNorm.apply(x, weight_D, eps)  # type: ignore[no-untyped-call]  # torch does not type `apply`
    return out


def rotate(x_BTHK: Tensor, cos_BT1K: Tensor, sin_BT1K: Tensor) -> Tensor:
    """Turns each pair (k, k + K/2) of a head by its position's angles (RoPE, arXiv:2104.09864, eq. 34, in GPT-NeoX's layout)."""
    if torch.compiler.is_compiling():
        first, second = x_BTHK.chunk(2, -1)
        return x_BTHK * cos_BT1K + torch.cat((-second, first), -1) * sin_BT1K
    out: Tensor = _Rotate.apply(x_BTHK, cos_BT1K, sin_BT1K)  # type: ignore[no-untyped-call]  # torch does not type `apply`
    return out


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        scale = square.mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
        normed = x.float() * scale
        ctx.save_for_backward(normed, scale, weight_D)
        out: Tensor = (normed * weight_D).to(x.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight_D = ctx.saved_tensors
        grad = grads[0].float()
        product = grad * normed
        # With n = x * s and g = grad * weight:  dx = s * (g - n * mean(g * n)).
        mean = (product @ weight_D.float()).unsqueeze(-1).mul_(1 / normed.shape[-1])
        grad_x = (grad * weight_D).addcmul_(normed, mean, value=-1).mul_(scale)
        return grad_x.to(grads[0].dtype), product.flatten(0, -2).sum(0).to(weight_D.dtype), None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHK: Tensor, cos_BT1K: Tensor, sin_BT1K: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BT1K, sin_BT1K)
        return _turn(x_BTHK, cos_BT1K, sin_BT1K, sign=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos_BT1K, sin_BT1K = ctx.saved_tensors
        return _turn(grads[0], cos_BT1K, sin_BT1K, sign=-1), None, None


def _turn(x_BTHK: Tensor, cos_BT1K: Tensor, sin_BT1K: Tensor, *, sign: int) -> Tensor:
    half = x_BTHK.shape[-1] // 2
    out_BTHK = x_BTHK * cos_BT1K
    out_BTHK[..., :half].addcmul_(x_BTHK[..., half:], sin_BT1K[..., :half], value=-sign)
    out_BTHK[..., half:].addcmul_(x_BTHK[..., :half], sin_BT1K[..., half:], value=sign)
    return out_BTHK
