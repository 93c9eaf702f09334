"""Muon: momentum whose singular values are all made 1, for the matrices inside a transformer.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon
An update then turns every direction of a weight matrix by the same amount, not mostly the few that dominate its
gradient. Matrices of one shape are orthogonalised together in one batched product. Equal to `torch.optim.Muon` with
adjust_lr_fn="match_rms_adamw", but for two things: the batching, and that the products are float32 where bfloat16 is slow.
Several processes share this work: each orthogonalises some matrices, whole, also where it holds only parts of all of them.

Shapes: N matrices of one shape, R rows, C columns.
"""

from collections.abc import Callable, Iterable
from typing import Any  # Any: torch's optimizer groups are dictionaries of anything

import torch
from torch import Tensor, nn

from bloomery.train.sharding import Parallel, cut_of, local, part_of

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, chosen by Jordan for the steepest slope at zero; five rounds bring singular
values into about 0.7..1.2."""
NEWTON_SCHULZ_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay; every parameter must be a matrix.

    The update is scaled by 0.2 * sqrt(max(R, C)), which gives it the size of AdamW's (arXiv:2502.16982, eq. 4), so
    that both take the same learning rate.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype,
        parallel: Parallel | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype
        self.parallel = parallel or Parallel()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closures here
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[object, ...], list[Tensor]] = {}
            for weight_RC in group["params"]:
                if weight_RC.grad is not None:
                    alike.setdefault((weight_RC.shape, cut_of(weight_RC)), []).append(weight_RC)
            for weights in alike.values():
                self._update(weights, group)

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        lookahead = [self._add_momentum(weight_RC, group["momentum"]) for weight_RC in weights]
        update_NRC = self.parallel.spread(orthogonalise, self.parallel.gather(lookahead, like=weights).to(self.dtype))
        scale = 0.2 * max(update_NRC.shape[-2:]) ** 0.5
        for weight_RC, update_RC in zip(weights, update_NRC, strict=True):
            own = local(weight_RC)
            own.mul_(1 - group["lr"] * group["weight_decay"])
            own.add_(part_of(update_RC, weight_RC).to(own.dtype), alpha=-group["lr"] * scale)

    def _add_momentum(self, weight_RC: Tensor, momentum: float) -> Tensor:
        grad_RC = weight_RC.grad
        assert grad_RC is not None
        state = self.state[weight_RC]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight_RC)
        own_RC = local(grad_RC)
        return torch.lerp(own_RC, local(state["momentum_buffer"]).lerp_(own_RC, 1 - momentum), momentum)


def orthogonalise(matrix_NRC: Tensor) -> Tensor:
    """U V^T of each matrix's singular value decomposition U S V^T, roughly (singular values between about 0.7 and 1.2)."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix_NRC.shape[-2] > matrix_NRC.shape[-1]
    x_NRC = matrix_NRC.mT if tall else matrix_NRC
    x_NRC = x_NRC / x_NRC.float().norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7).to(x_NRC.dtype)
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        gram_NRR = x_NRC @ x_NRC.mT
        polynomial_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, polynomial_NRR, x_NRC, beta=a)
    return x_NRC.mT if tall else x_NRC
