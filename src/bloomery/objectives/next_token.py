"""Next-token prediction: the loss of pretraining and of fine-tuning, which differ only in the weight of each token.

`next_token` is the definition. `linear_next_token` is the same from the hidden states on, the output matrix included:
it goes through the tokens in chunks and takes the gradient on the way, so that logits never exist for a whole batch.
`token_logps` is the log-probability that every other objective stands on, and `linear_token_logps` the same from the
hidden states on.

Shapes: ... any leading dimensions, N tokens, D model, V vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple  # Any: torch types neither the context nor the result of an autograd function

import torch
import torch.nn.functional as F
from torch import Tensor

from bloomery.objectives.terms import LossTerms

CHUNK_TOKENS = {"cpu": 512, "cuda": 8192}
"""Tokens whose logits exist at one time: on a CPU 8 MB of them with 4,096 tokens of vocabulary (78 ms for 4,096 tokens
against 101 with all logits at once, one core)."""
LEAVE_OUT_BELOW = 0.9
"""The share of tokens with weight from which on a CPU computes the others, too: a copy of ever another size leaves holes in the
heap (7 % of all the memory of a training with packed rows) and saves little."""
COMPILED_LOGITS_BYTES = {"cpu": 2**28, "cuda": 2**33}
"""Compiled, larger chunks are faster: the softmax and its derivative are then one pass over what the product wrote."""


def token_logps(logits: Tensor, target: Tensor) -> Tensor:
    """Log-probability of each target, float32 in target's shape, for logits with one more dimension, V.

    >>> token_logps(torch.zeros(2, 4), torch.tensor([0, 3])).exp().tolist()
    [0.25, 0.25]
    """
    logits = logits.float()
    return logits.gather(-1, target.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def linear_token_logps(hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, *, chunk_tokens: int | None = None) -> Tensor:
    """`token_logps` of the logits hidden_ND @ head_VD.T, float32 [N], without ever holding more than `chunk_tokens` rows of them.

    The backward pass computes the logits again, chunk by chunk: a product more, for none of them in memory in between.
    """
    size = chunk_tokens or CHUNK_TOKENS[hidden_ND.device.type]
    logp_N: Tensor = _LinearTokenLogps.apply(hidden_ND, head_VD, target_N, size)  # type: ignore[no-untyped-call]  # torch does not type `apply`
    return logp_N


def next_token(logits: Tensor, target: Tensor, weight: Tensor, *, z_loss: float = 0.0) -> LossTerms:
    """Cross-entropy of `target` under `logits`, in nats, each token times its weight; weight 0 takes a token out.

    `z_loss` times the squared log-normaliser is added: it keeps logits from drifting (PaLM, arXiv:2204.02311, sec. 5,
    1e-4 there); the metric `nll` is then the loss without it.

    >>> terms = next_token(torch.zeros(3, 4), torch.tensor([0, 1, 2]), torch.tensor([1.0, 1.0, 0.0]))
    >>> round(terms.loss_sum.item(), 4), terms.weight.item()
    (2.7726, 2.0)
    """
    logits = logits.float()
    normaliser = logits.logsumexp(-1)
    # where, not a product: a target without weight may sit beside logits that are not finite, and 0 * inf is NaN.
    loss = torch.where(weight > 0, normaliser - logits.gather(-1, target.unsqueeze(-1)).squeeze(-1), 0.0) * weight
    nll = loss.sum()
    penalty = (torch.where(weight > 0, normaliser, 0.0).square() * weight).sum()
    return LossTerms(nll + z_loss * penalty, weight.sum().float(), {"nll": nll.detach()} if z_loss else {})


def linear_next_token(
    hidden_ND: Tensor,
    head_VD: Tensor,
    target_N: Tensor,
    weight_N: Tensor,
    *,
    z_loss: float = 0.0,
    chunk_tokens: int | None = None,
    compiled: bool = False,
    group_N: Tensor | None = None,
    group_names: Sequence[str] = (),
) -> LossTerms:
    """`next_token` of the logits hidden_ND @ head_VD.T, without ever holding more than `chunk_tokens` rows of them.

    On a CPU tokens of weight 0 are left out before the product where they are more than a tenth, so fine-tuning on short
    answers pays for the answers only; on CUDA, and compiled, the number of tokens stays what it is, so that nothing waits to
    count them. The product is computed in hidden_ND's dtype, everything after it in float32. Without `chunk_tokens` chunks
    are as large as is fast.

    With `group_N`, the number of each token's group (its source, for example), the metrics hold the sums `loss/NAME` and
    `weight/NAME` of each group, z_loss left out.
    """
    device = hidden_ND.device.type
    if device == "cpu" and not compiled:
        kept = weight_N.nonzero().squeeze(-1)
        if len(kept) < LEAVE_OUT_BELOW * len(weight_N):
            hidden_ND, target_N, weight_N = hidden_ND[kept], target_N[kept], weight_N[kept]
            group_N = None if group_N is None else group_N[kept]
    if chunk_tokens is None:
        chunk_tokens = COMPILED_LOGITS_BYTES[device] // (2 * len(head_VD)) if compiled else CHUNK_TOKENS[device]
    arguments = (hidden_ND, head_VD, target_N, weight_N, z_loss, max(chunk_tokens, 1), compiled)
    loss, nll_N = _LinearNextToken.apply(*arguments)  # type: ignore[no-untyped-call]  # torch does not type `apply`
    metrics = {"nll": nll_N.sum()} if z_loss else {}
    if group_N is not None:
        for kind, value_N in (("loss", nll_N), ("weight", weight_N)):
            sums = torch.zeros(len(group_names), device=hidden_ND.device).index_add_(0, group_N, value_N.float())
            metrics |= {f"{kind}/{name}": sums[i] for i, name in enumerate(group_names)}
    return LossTerms(loss, weight_N.sum().float(), metrics)


class TokenLogps(NamedTuple):
    """float32 [N]: the log-probability of each target, and the entropy of what it was chosen from (which has no gradient)."""

    logp_N: Tensor
    entropy_N: Tensor


def linear_logps_and_entropy(hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, *, temperature: float = 1.0) -> TokenLogps:
    """`token_logps` of the logits hidden_ND @ head_VD.T / temperature, and their entropy, in one go: one matrix of N x V is kept for the
    gradient, in hidden_ND's dtype.

    On one core 1,024 targets among 4,096 take 65 ms forward and backward in bfloat16, where autograd takes 180. The product is
    computed in hidden_ND's dtype, everything after it in float32.
    """
    head_VD = head_VD.to(hidden_ND.dtype)
    logp_N, entropy_N = _LinearLogpsAndEntropy.apply(hidden_ND, head_VD, target_N, temperature)  # type: ignore[no-untyped-call]  # as above
    return TokenLogps(logp_N, entropy_N)


class _LinearLogpsAndEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        # float() copies what is in another dtype; what it does not is nobody else's, so both may be written to.
        logits_NV = F.linear(hidden_ND, head_VD).float()
        if temperature != 1.0:
            logits_NV.div_(temperature)
        logits_NV.sub_(logits_NV.amax(-1, keepdim=True))
        target_logit_N = logits_NV.gather(-1, target_N[:, None])[:, 0]
        share_NV = logits_NV.exp()
        total_N = share_NV.sum(-1)
        normaliser_N = total_N.log()
        entropy_N = normaliser_N - torch.linalg.vecdot(share_NV, logits_NV) / total_N
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(hidden_ND, head_VD, target_N, share_NV.div_(total_N[:, None]).to(hidden_ND.dtype))
            ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_N)
        return target_logit_N - normaliser_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_ND, head_VD, target_N, share_NV = ctx.saved_tensors
        scale_N1 = (grads[0] / ctx.temperature)[:, None]
        slope_NV = (share_NV.float() * -scale_N1).scatter_add_(-1, target_N[:, None], scale_N1).to(hidden_ND.dtype)
        return slope_NV @ head_VD, slope_NV.mT @ hidden_ND, None, None


class _LinearNextToken(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        target_N: Tensor,
        weight_N: Tensor,
        z_loss: float,
        chunk_tokens: int,
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        narrow_VD = head_VD.to(hidden_ND.dtype)
        needs_grad = any(ctx.needs_input_grad)
        # Eager, all chunks share their buffers: new ones for each leave holes in a CPU's heap that nothing fits into.
        buffers = None if compiled else _Buffers(hidden_ND, len(narrow_VD), min(chunk_tokens, len(hidden_ND)))
        grad_ND = torch.empty_like(hidden_ND) if needs_grad else None
        grad_VD, loss, nlls = None, torch.zeros((), device=hidden_ND.device), [torch.zeros(0, device=hidden_ND.device)]
        for part in _chunks(len(hidden_ND), chunk_tokens):
            targets = (target_N[part], weight_N[part], z_loss, needs_grad)
            if buffers is None:
                part_loss, nll_N, slope_NV = _compiled_loss_and_slope()(F.linear(hidden_ND[part], narrow_VD), *targets)
            else:
                narrow_NV, wide_NV = buffers.logits(hidden_ND[part], narrow_VD)
                part_loss, nll_N, slope_NV = _loss_and_slope_in_place(narrow_NV, wide_NV, *targets)
            loss = loss + part_loss
            nlls.append(nll_N)
            if grad_ND is not None:
                grad_ND[part] = slope_NV @ narrow_VD
                part_VD = slope_NV.mT @ hidden_ND[part]
                grad_VD = part_VD.float() if grad_VD is None else grad_VD.add_(part_VD)
        grad_VD = torch.zeros_like(head_VD) if grad_VD is None else grad_VD.to(head_VD.dtype)
        ctx.save_for_backward(hidden_ND if grad_ND is None else grad_ND, grad_VD)
        nll_N = torch.cat(nlls)
        ctx.mark_non_differentiable(nll_N)
        return loss, nll_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        grad_ND, grad_VD = ctx.saved_tensors
        return grad_ND * grads[0], grad_VD * grads[0], None, None, None, None, None


class _LinearTokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, chunk_tokens: int) -> Tensor:
        narrow_VD = head_VD.to(hidden_ND.dtype)
        logp_N, normaliser_N = (torch.empty(len(hidden_ND), device=hidden_ND.device) for _ in range(2))
        for part in _chunks(len(hidden_ND), chunk_tokens):
            wide_NV = F.linear(hidden_ND[part], narrow_VD).float()
            target_logit_N = wide_NV.gather(-1, target_N[part, None]).squeeze(-1)
            top_N1 = wide_NV.amax(-1, keepdim=True)
            # In place, because what is new costs more than what is computed.
            normaliser_N[part] = wide_NV.sub_(top_N1).exp_().sum(-1).log_().add_(top_N1.squeeze(-1))
            logp_N[part] = target_logit_N - normaliser_N[part]
        ctx.save_for_backward(hidden_ND, head_VD, target_N, normaliser_N)
        ctx.chunk_tokens = chunk_tokens
        return logp_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_ND, head_VD, target_N, normaliser_N = ctx.saved_tensors
        narrow_VD = head_VD.to(hidden_ND.dtype)
        grad_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        grad_VD = torch.zeros(head_VD.shape, device=head_VD.device) if ctx.needs_input_grad[1] else None
        for part in _chunks(len(hidden_ND), ctx.chunk_tokens):
            wide_NV = F.linear(hidden_ND[part], narrow_VD).float().sub_(normaliser_N[part, None]).exp_()
            wide_NV.mul_(-grads[0][part, None]).scatter_add_(-1, target_N[part, None], grads[0][part, None])
            slope_NV = wide_NV.to(hidden_ND.dtype)
            if grad_ND is not None:
                grad_ND[part] = slope_NV @ narrow_VD
            if grad_VD is not None:
                grad_VD += slope_NV.mT @ hidden_ND[part]
        return grad_ND, None if grad_VD is None else grad_VD.to(head_VD.dtype), None, None


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _loss_and_slope(
    logits_NV: Tensor, target_N: Tensor, weight_N: Tensor, z_loss: float, needs_slope: bool
) -> tuple[Tensor, Tensor, Tensor]:
    wide_NV = logits_NV.float()
    normaliser_N = wide_NV.logsumexp(-1)
    nll_N = normaliser_N - wide_NV.gather(-1, target_N[:, None]).squeeze(-1)
    loss = ((nll_N + z_loss * normaliser_N.square()) * weight_N).sum()
    if not needs_slope:
        return loss, nll_N * weight_N, logits_NV
    slope_NV = (wide_NV - normaliser_N[:, None]).exp() * (weight_N * (1 + 2 * z_loss * normaliser_N))[:, None]
    is_target_NV = torch.arange(logits_NV.shape[-1], device=logits_NV.device) == target_N[:, None]
    return loss, nll_N * weight_N, (slope_NV - torch.where(is_target_NV, weight_N[:, None], 0.0)).to(logits_NV.dtype)


class _Buffers:
    """Where the logits of one chunk after another are, in the dtype of the product and in float32 (one tensor where these are the same)."""

    def __init__(self, hidden_ND: Tensor, vocab_size: int, num_rows: int) -> None:
        self._narrow_NV = hidden_ND.new_empty(num_rows, vocab_size)
        self._wide_NV = torch.empty_like(self._narrow_NV, dtype=torch.float32) if hidden_ND.dtype != torch.float32 else self._narrow_NV

    def logits(self, hidden_ND: Tensor, head_VD: Tensor) -> tuple[Tensor, Tensor]:
        """hidden_ND @ head_VD.mT, twice; what was here before is gone."""
        narrow_NV = torch.mm(hidden_ND, head_VD.mT, out=self._narrow_NV[: len(hidden_ND)])
        return narrow_NV, narrow_NV if self._wide_NV is self._narrow_NV else self._wide_NV[: len(hidden_ND)].copy_(narrow_NV)


def _loss_and_slope_in_place(
    narrow_NV: Tensor, wide_NV: Tensor, target_N: Tensor, weight_N: Tensor, z_loss: float, needs_slope: bool
) -> tuple[Tensor, Tensor, Tensor]:
    # The same as above, where nothing fuses it: wide_NV holds logits, exp(logits - top), and at last the slope, which narrow_NV gets.
    top_N1 = wide_NV.amax(-1, keepdim=True)
    target_logit_N = wide_NV.sub_(top_N1).gather(-1, target_N[:, None]).squeeze(-1)
    total_N = wide_NV.exp_().sum(-1)
    nll_N = total_N.log() - target_logit_N
    normaliser_N = total_N.log() + top_N1.squeeze(-1)
    loss = ((nll_N + z_loss * normaliser_N.square()) * weight_N).sum()
    if needs_slope:
        wide_NV.mul_((weight_N * (1 + 2 * z_loss * normaliser_N) / total_N)[:, None])
        wide_NV.scatter_add_(-1, target_N[:, None], -weight_N[:, None])
        narrow_NV.copy_(wide_NV)
    return loss, nll_N * weight_N, narrow_NV


@functools.cache
def _compiled_loss_and_slope() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    return torch.compile(_loss_and_slope)
