"""Which weights are updated how: by their role in the model, never by a substring of their name.

matrices     inside the layers: Muon or AdamW, decayed
embeddings   the table of tokens and, where it is not the same, the output matrix or scalar head: AdamW, not decayed
vectors      norms and biases: AdamW, not decayed

Where only adapters are trained (LoRA), they are matrices and AdamW's: Muon makes all directions of an update equally
large, and a matrix of a few rows has few to begin with.
"""

from typing import Any, Literal  # Any: torch's optimizer groups are dictionaries of anything

import torch
from torch import nn

from bloomery.model.device import has_fast_bfloat16
from bloomery.model.transformer import Transformer
from bloomery.train.muon import Muon
from bloomery.train.sharding import Parallel

OptimizerName = Literal["muon", "adamw"]

ADAM_BETAS = (0.9, 0.95)
"""As in GPT-3, Llama and OLMo: the usual 0.999 remembers a thousand steps, longer than many runs here."""
ADAM_EPS = 1e-10
"""Small, because gradients of embeddings of rare tokens are."""
MUON_MOMENTUM = 0.95


def make_optimizers(
    model: Transformer,
    *,
    name: OptimizerName,
    learning_rate: float,
    embedding_learning_rate: float,
    weight_decay: float,
    parallel: Parallel | None = None,
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model. Each group keeps its full learning rate as `full_lr`; see `set_learning_rate`."""
    matrices, embeddings, vectors = split_by_role(model)

    def group(params: list[nn.Parameter], rate: float, decay: float) -> list[dict[str, Any]]:
        return [{"params": params, "full_lr": rate, "lr": rate, "weight_decay": decay}] if params else []

    decayed = group(matrices, learning_rate, weight_decay)
    plain = [*group(embeddings, embedding_learning_rate, 0.0), *group(vectors, embedding_learning_rate, 0.0)]
    trains_adapters = any(not p.requires_grad for p in model.model.layers.parameters())
    if name == "adamw" or trains_adapters or not matrices:
        return [torch.optim.AdamW([*decayed, *plain], betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)]
    dtype = torch.bfloat16 if has_fast_bfloat16(matrices[0].device) else torch.float32
    muon = Muon(decayed, lr=learning_rate, momentum=MUON_MOMENTUM, weight_decay=weight_decay, dtype=dtype, parallel=parallel)
    return [muon, *([torch.optim.AdamW(plain, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)] if plain else [])]


def split_by_role(model: Transformer) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that are trained, as (matrices of the layers, embeddings and output matrix, vectors); each stands in one list."""
    trained = [p for p in model.parameters() if p.requires_grad]
    inside = {id(p) for p in model.model.layers.parameters()}
    matrices = [p for p in trained if p.ndim >= 2]
    vectors = [p for p in trained if p.ndim < 2]
    return [p for p in matrices if id(p) in inside], [p for p in matrices if id(p) not in inside], vectors


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Sets every group to `factor` times its full learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["full_lr"]
