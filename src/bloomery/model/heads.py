"""Models that say a number instead of a next token: rewards of whole documents, values of single tokens.

The body is a language model's; the head is one row, `score.weight`, as in Hugging Face's sequence classification with
one label, which such a checkpoint is. A reward is the number at a document's last token, a value the one at any token.

Shapes: B rows, T tokens, N documents.
"""

import torch
from torch import Tensor

from bloomery.model.transformer import Linear, Transformer, draw_normal


def replace_head(model: Transformer, *, seed: int) -> Transformer:
    """The body of a language model under a new scalar head, sharing its weights.

    The head is drawn with deviation 1/sqrt(dim + 1) (arXiv:2009.01325, app. B.1), so that numbers begin near 0.
    """
    with torch.device("meta"):
        scalar = Transformer(model.config.model_copy(update={"head": "scalar"}), seed=None)
    scalar.model, scalar.compute_dtype = model.model, model.compute_dtype
    head = Linear(model.config.dim, 1)
    draw_normal(head.weight, key=f"{seed}/head/score", deviation=(model.config.dim + 1) ** -0.5)
    scalar.score = head.to(next(model.parameters()).device)
    return scalar


def token_values(model: Transformer, token_BT: Tensor, *, position_BT: Tensor | None = None, document_BT: Tensor | None = None) -> Tensor:
    """The number that a model with a scalar head says at each token, float32 BT."""
    hidden_BTD = model.hidden_states(token_BT, position_BT=position_BT, document_BT=document_BT)
    return model.logits(hidden_BTD)[..., 0]


def document_rewards(value_BT: Tensor, document_BT: Tensor) -> Tensor:
    """The number at the last token of each document, [N], row after row; document 0 is padding.

    >>> document_rewards(torch.tensor([[1., 2., 3., 4.], [5., 6., 7., 8.]]), torch.tensor([[1, 1, 2, 0], [1, 1, 1, 1]])).tolist()
    [2.0, 3.0, 8.0]
    """
    next_BT = torch.nn.functional.pad(document_BT[:, 1:], (0, 1))
    return value_BT[(document_BT > 0) & (document_BT != next_BT)]
