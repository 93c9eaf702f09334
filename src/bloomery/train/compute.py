"""How a model computes while it trains: dtype, float8, compiled layers, recomputed activations, size of a micro-batch.

Compilation, recomputation and micro-batches change the time and the memory of a step and nothing of what it means
(rounding apart); they stand in `launch`. The precision is part of what is made and stands in the config.
"""

import importlib
from typing import Any  # Any: torchao has no types

import torch
from torch import nn

from bloomery.core import dist
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Launch
from bloomery.model.attention import use_installed_kernels
from bloomery.model.config import ModelConfig, count_params
from bloomery.model.device import Precision, resolve_dtype
from bloomery.model.transformer import Linear, Transformer

CUDA_MICRO_BATCH_TOKENS = 65536
"""Beyond it nothing is gained."""
COMPILED_CPU_MICRO_BATCH_TOKENS = 2048
"""Of compiled layers on a CPU: as fast as more at 13.8 M and 30 M parameters, for less memory (docs/benchmarks.md)."""
MEMORY_FRACTION = 0.8
TRAINING_BYTES_PER_PARAM = 16
"""A weight, its gradient and AdamW's two moments, in float32 each (Muon has one moment)."""
SELECTIVE_MEMORY_BUDGET = 0.3
"""The share of what a compiled layer would keep that it may keep."""
FLOAT8_MULTIPLE = 16
"""Hopper's float8 products take sizes that are multiples of it."""
FLOAT8_MIN_DIM = 1024
"""Smaller products are slower in float8: making the scales costs more than the product saves."""


def prepare_model(model: Transformer, *, precision: Precision, launch: Launch, device: torch.device) -> Launch:
    """Sets up a whole model, before it is spread over processes; returns the launch with its micro-batch decided.

    Sets torch's compiler for the whole process (memory budget; on a CPU deterministic sums, and what is computed again). Raises
    ConfigError for float8 or selective recomputation where it cannot be.
    """
    model.compute_dtype = resolve_dtype(precision, device)
    if precision == "fp8":
        convert_to_float8(model)
    if device.type == "cuda" and model.compute_dtype != torch.float32:
        use_installed_kernels(device)
    model.recompute_layers = launch.activation_checkpointing == "full"
    model.compiled = launch.compile == "on" or (launch.compile == "auto" and device.type == "cuda")
    if launch.activation_checkpointing == "selective":
        if not model.compiled:
            raise ConfigError("launch: activation_checkpointing = 'selective' is the compiler's work; add compile = 'on', or take 'full'")
        torch._functorch.config.activation_memory_budget = SELECTIVE_MEMORY_BUDGET
    if model.compiled and device.type == "cpu":
        torch.use_deterministic_algorithms(True)  # else the compiler sums over threads in the order in which they end
        # What is cheap to compute again (norms, silu times gate, softmax) is not kept, though the backward pass then writes it out.
        torch._functorch.config.ban_recompute_materialized_backward = False
    if model.compiled:
        torch._dynamo.config.cache_size_limit = max(64, torch._dynamo.config.cache_size_limit)
        for layer in model.model.layers:
            layer.compile()
    if launch.micro_batch_tokens:
        return launch
    if device.type != "cuda":
        return launch.model_copy(update={"micro_batch_tokens": COMPILED_CPU_MICRO_BATCH_TOKENS}) if model.compiled else launch
    free_bytes, element_bytes = torch.cuda.mem_get_info(device)[0], model.compute_dtype.itemsize
    fitting = fitting_tokens(model.config, memory_bytes=free_bytes, element_bytes=element_bytes, recomputed=model.recompute_layers)
    # What fits everywhere: processes that share a model must go through it equally often. A row at least is tried.
    return launch.model_copy(update={"micro_batch_tokens": max(1, -int(dist.maximum(-fitting)))})


def convert_to_float8(model: Transformer, *, emulate: bool = False) -> int:
    """Has the matrices inside the layers multiply in float8 with a scale a tensor (e4m3 forward, e5m2 gradients), as torchao does it.

    The weights stay what they are. Matrices with a side below 1,024 or not a multiple of 16 are left alone; returns how many were not.
    `emulate` computes the same roundings on hardware without float8. Raises ConfigError without torchao or without a fitting matrix.
    """
    try:
        float8: Any = importlib.import_module("torchao.float8")
    except ImportError as error:
        raise ConfigError("precision = 'fp8' needs torchao: pip install 'bloomery[gpu]'") from error
    fits = _fits_float8 if not emulate else _has_float8_sizes
    count = 0
    for layer in model.model.layers:
        count += sum(fits(module, name) for name, module in layer.named_modules())
        float8.convert_to_float8_training(layer, module_filter_fn=fits, config=float8.Float8LinearConfig(emulate=emulate))
    if not count:
        sizes = f"both sides of {FLOAT8_MIN_DIM} or more and multiples of {FLOAT8_MULTIPLE}"
        raise ConfigError(f"precision = 'fp8': no matrix inside the layers of this model has {sizes}; use bf16")
    return count


def fitting_tokens(config: ModelConfig, *, memory_bytes: float, element_bytes: int, recomputed: bool) -> int:
    """How many tokens can go through a whole model at a time, as a power of two: row counts then divide the batch.

    `memory_bytes` are free before the model is there. 0 if not even its weights and optimizer fit.
    """
    room = MEMORY_FRACTION * memory_bytes - TRAINING_BYTES_PER_PARAM * count_params(config)
    fitting = int(room / activation_bytes(config, element_bytes=element_bytes, recomputed=recomputed))
    return min(CUDA_MICRO_BATCH_TOKENS, 1 << fitting.bit_length() - 1) if fitting > 0 else 0


def activation_bytes(config: ModelConfig, *, element_bytes: int, recomputed: bool) -> int:
    """About what the backward pass needs to keep for one token, logits and their derivative included.

    In a compiled layer eleven times its width and three times the width of its MLP: 67 GB for 1 B parameters and 32,768
    tokens on an H200 where this says 69, with weights and optimizer. Recomputed, one layer is whole at a time.
    """
    layer = element_bytes * (11 * config.dim + 3 * config.mlp_dim)
    kept = config.num_layers * element_bytes * config.dim + layer if recomputed else config.num_layers * layer
    return kept + 2 * element_bytes * config.vocab_size


def _has_float8_sizes(module: nn.Module, name: str) -> bool:
    return isinstance(module, Linear) and all(size % FLOAT8_MULTIPLE == 0 for size in module.weight.shape)


def _fits_float8(module: nn.Module, name: str) -> bool:
    return _has_float8_sizes(module, name) and isinstance(module, Linear) and min(module.weight.shape) >= FLOAT8_MIN_DIM
