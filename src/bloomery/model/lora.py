"""LoRA (arXiv:2106.09685): a matrix W stays as it is, and a product of two narrow ones is trained beside it.

    y = W x + alpha / rank * B (A x)            eq. 3 and sec. 4.1; B is zero at first, so that nothing changes

`add_adapters` puts A and B into a model and freezes the rest. Whoever saves a model saves W + alpha / rank * B A in W's
place: a checkpoint is whole without this file. The adapters alone go beside it in PEFT's format (`save_adapter`), and
one that came from elsewhere is read by `load_adapter`. No dropout: a step would no longer follow from its number alone.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_atomically, write_text
from bloomery.model.config import LORA_TARGETS, Head, LoraConfig
from bloomery.model.transformer import Linear, Transformer, draw_uniform
from bloomery.model.weights import read_file

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the names of the model that it wraps."""
PLAIN = {
    "bias": ("none",), "use_dora": (False,), "use_rslora": (False,), "fan_in_fan_out": (False,), "lora_bias": (False,),
    "modules_to_save": (), "rank_pattern": (), "alpha_pattern": (), "layers_to_transform": (), "layer_replication": (),
    "exclude_modules": (), "target_parameters": (), "trainable_token_indices": (), "alora_invocation_tokens": (), "use_qalora": (False,),
    "use_bdlora": (), "arrow_config": (), "kasa_config": (), "monteclora_config": (),
    # Not among them: PiSSA, OLoRA, CorDA and LoftQ, which change the matrices that the adapters are added to.
    "init_lora_weights": (True, "gaussian", "eva", "orthogonal", "mica", "lora_ga"),
}  # fmt: skip
"""Settings of PEFT by which adapters become something else, and the values that leave them what they are here; None and
what is empty always does."""
SCALAR_HEAD = ("classifier", "score")
"""What PEFT saves whole, beside the adapters, of a sequence classification: whichever of these a model has."""


class LoraLinear(nn.Module):
    """A Linear with an adapter. `weight` and `bias` are the Linear's own and keep their names; A and B have PEFT's."""

    def __init__(self, linear: Linear, *, rank: int, scale: float) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale
        self.is_on = True
        output_dim, input_dim = linear.weight.shape
        self.lora_A, self.lora_B = Linear(input_dim, rank), Linear(rank, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """What the Linear gives, and what the adapter adds."""
        out = F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        if not self.is_on:
            return out
        adapted: Tensor = self.lora_B(self.lora_A(x))
        return out + self.scale * adapted

    def merged_weight(self) -> Tensor:
        """The matrix of a Linear that computes the same."""
        return (self.weight + self.scale * (self.lora_B.weight @ self.lora_A.weight)).detach()


@torch.no_grad()
def add_adapters(model: Transformer, config: LoraConfig, *, seed: int) -> None:
    """Puts an adapter beside each target, and freezes everything else; does nothing for rank 0.

    A is drawn as PEFT draws it, uniformly within 1/sqrt(inputs); B is zero.
    """
    if not config.rank:
        return
    model.requires_grad_(False)
    for name, linear in [item for item in model.named_modules() if isinstance(item[1], Linear)]:
        parent, _, target = name.rpartition(".")
        if target in config.targets:
            adapted = LoraLinear(linear, rank=config.rank, scale=config.alpha / config.rank).to(linear.weight.device)
            draw_uniform(adapted.lora_A.weight, key=f"{seed}/lora/{name}", limit=linear.weight.shape[1] ** -0.5)
            adapted.lora_B.weight.zero_()
            setattr(model.get_submodule(parent), target, adapted)
    model.lora = config


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Within it a model computes as it did before its adapters were added: the reference of a policy that trains only them."""
    adapted = [module for module in model.modules() if isinstance(module, LoraLinear)]
    for module in adapted:
        module.is_on = False
    try:
        yield
    finally:
        for module in adapted:
            module.is_on = True


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What training changes, by name: the adapters where there are any, else every weight."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def merged_weights(model: Transformer) -> dict[str, Tensor]:
    """Every weight by its name in a checkpoint, the adapters added to theirs."""
    weights = {name: weight.detach() for name, weight in model.named_parameters() if ".lora_" not in name}
    adapted = {f"{name}.weight": module.merged_weight() for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    return {**weights, **adapted}


@torch.no_grad()
def merge_adapters(model: Transformer) -> None:
    """Adds the adapters to their weights and takes them out; everything can be trained again."""
    for name, module in [item for item in model.named_modules() if isinstance(item[1], LoraLinear)]:
        parent, _, target = name.rpartition(".")
        output_dim, input_dim = module.weight.shape
        linear = Linear(input_dim, output_dim)
        linear.weight, linear.bias = nn.Parameter(module.merged_weight()), module.bias
        setattr(model.get_submodule(parent), target, linear)
    model.lora = LoraConfig()
    model.requires_grad_(True)


def save_adapter(model: Transformer, folder: Path, *, base: str | None) -> None:
    """Writes the adapters of a model as PEFT does; `base` names the model that they belong to, where it has a name.

    A scalar head, which is new and trained whole, is written with them.
    """
    config, is_scalar = model.lora, model.config.head == "scalar"
    raw = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if is_scalar else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "target_modules": sorted(config.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": list(SCALAR_HEAD) if is_scalar else None,
    }
    adapters = {f"{PEFT_PREFIX}{name}": p.detach().cpu().contiguous() for name, p in _adapter_parameters(model).items()}
    write_text(folder / ADAPTER_CONFIG, json.dumps(raw, indent=2, sort_keys=True) + "\n")
    with write_atomically(folder / ADAPTER_WEIGHTS) as temporary:
        save_file(adapters, temporary, metadata={"format": "pt"})


@torch.no_grad()
def load_adapter(model: Transformer, folder: Path) -> None:
    """Adds the adapters of a PEFT folder to a model. Raises DataError for what is no plain LoRA of this model's matrices."""
    add_adapters(model, _read_adapter_config(folder / ADAPTER_CONFIG, model.config.head), seed=0)
    missing = _adapter_parameters(model)
    for name, found in read_file(folder / ADAPTER_WEIGHTS):
        parameter = missing.pop(name.removeprefix(PEFT_PREFIX), None)
        if parameter is None or parameter.shape != found.shape:
            expected = "no such matrix" if parameter is None else f"{list(parameter.shape)}"
            raise DataError(f"{folder}: {name} is {list(found.shape)}; the model has {expected}. Is it an adapter of another model?")
        parameter.copy_(found)
    if missing:
        raise DataError(
            f"{folder}: has no {PEFT_PREFIX}{next(iter(missing))}; expected adapters in every layer, for each of the target_modules "
            f"of its {ADAPTER_CONFIG}"
        )


def _adapter_parameters(model: Transformer) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if ".lora_" in name or name.startswith(SCALAR_HEAD)}


def _read_adapter_config(path: Path, head: Head) -> LoraConfig:
    raw: dict[str, Any] = read_json(path)
    if set(raw.get("modules_to_save") or ()) == set(SCALAR_HEAD):
        if head == "tokens":
            raise DataError(f"{path}: is a LoRA with the scalar head of a reward model, which a language model has no place for")
        raw["modules_to_save"] = None
    unlike = {key: raw[key] for key, plain in PLAIN.items() if raw.get(key) and raw[key] not in plain}
    if raw.get("peft_type") != "LORA":
        unlike = {"peft_type": raw.get("peft_type")}
    if unlike:
        found = ", ".join(f"{key} = {value!r}" for key, value in unlike.items())
        raise DataError(f"{path}: {found}; expected a plain LoRA")
    asked = raw.get("target_modules")
    # PEFT writes "all-linear" as the matrices that it found, in a small model each by its whole name.
    names = list(LORA_TARGETS) if asked == "all-linear" else asked
    names = sorted({str(name).rpartition(".")[2] for name in names}) if isinstance(names, list) else names
    if not isinstance(names, list) or not names or set(names) - set(LORA_TARGETS):
        raise DataError(f"{path}: target_modules = {asked!r}; expected names among {', '.join(LORA_TARGETS)}")
    return LoraConfig(rank=raw["r"], alpha=raw["lora_alpha"], targets=tuple(name for name in LORA_TARGETS if name in names))
