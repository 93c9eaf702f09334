"""Next-token prediction: the loss of pretraining and of fine-tuning, which differ only in the weight of each token.

`next_token` is the definition. `linear_next_token` is the same from the hidden states on, the output matrix included:
it goes through the tokens in chunks and takes the gradient on the way, so that logits never exist for a whole batch.

Shapes: ... any leading dimensions, N tokens, D model, V vocabulary.
"""

from typing import Any  # Any: torch types neither the context nor the result of an autograd function

import torch
import torch.nn.functional as F
from torch import Tensor

from bloomery.objectives.terms import LossTerms

CHUNK_TOKENS = 512
"""Tokens whose logits exist at one time: 8 MB of them with 4,096 tokens of vocabulary (78 ms for 4,096 tokens against
101 with all logits at once, one core)."""


def token_logps(logits: Tensor, target: Tensor) -> Tensor:
    """Log-probability of each target, float32 in target's shape, for logits with one more dimension, V.

    >>> token_logps(torch.zeros(2, 4), torch.tensor([0, 3])).exp().tolist()
    [0.25, 0.25]
    """
    logits = logits.float()
    return logits.gather(-1, target.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


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
    hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, weight_N: Tensor, *, z_loss: float = 0.0, chunk_tokens: int = CHUNK_TOKENS
) -> LossTerms:
    """`next_token` of the logits hidden_ND @ head_VD.T, without ever holding more than `chunk_tokens` rows of them.

    Tokens of weight 0 are left out before the product, so fine-tuning on short answers pays for the answers only.
    The product is computed in hidden_ND's dtype, everything after it in float32.
    """
    kept = weight_N.nonzero().squeeze(-1)
    if len(kept) < len(weight_N):
        hidden_ND, target_N, weight_N = hidden_ND[kept], target_N[kept], weight_N[kept]
    loss, nll = _LinearNextToken.apply(hidden_ND, head_VD, target_N, weight_N, z_loss, chunk_tokens)  # type: ignore[no-untyped-call]
    return LossTerms(loss, weight_N.sum().float(), {"nll": nll} if z_loss else {})


class _LinearNextToken(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, weight_N: Tensor, z_loss: float, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        narrow_VD = head_VD.to(hidden_ND.dtype)
        needs_grad = any(ctx.needs_input_grad)
        grad_ND, grad_VD = torch.empty_like(hidden_ND), torch.zeros_like(head_VD, dtype=torch.float32)
        loss, nll = (torch.zeros((), device=hidden_ND.device) for _ in range(2))
        for start in range(0, len(hidden_ND), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            weight, target = weight_N[part], target_N[part].unsqueeze(-1)
            logits = F.linear(hidden_ND[part], narrow_VD).float()
            # Computed in place step by step: logits, exp(logits - top), and at last the gradient of the logits.
            top = logits.amax(-1, keepdim=True)
            target_logit = logits.sub_(top).gather(-1, target).squeeze(-1)
            total = logits.exp_().sum(-1)
            token_nll = total.log() - target_logit
            normaliser = total.log() + top.squeeze(-1)
            nll += (token_nll * weight).sum()
            loss += ((token_nll + z_loss * normaliser.square()) * weight).sum()
            if needs_grad:
                logits.mul_((weight * (1 + 2 * z_loss * normaliser) / total).unsqueeze(-1)).scatter_add_(-1, target, -weight.unsqueeze(-1))
                slope = logits.to(hidden_ND.dtype)
                grad_ND[part] = slope @ narrow_VD
                grad_VD += slope.mT @ hidden_ND[part]
        ctx.save_for_backward(grad_ND, grad_VD.to(head_VD.dtype))
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        grad_ND, grad_VD = ctx.saved_tensors
        return grad_ND * grads[0], grad_VD * grads[0], None, None, None, None
