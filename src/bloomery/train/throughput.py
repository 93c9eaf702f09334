"""How much of the machine a training uses: model FLOP utilisation against a tabled or a measured peak, and memory.

MFU = tokens/s * flops_per_token / peak, where flops_per_token is PaLM's count (model/config.py: 6 for each parameter of a
matrix product, 4 where a LoRA leaves it as it is, attention in full and not its causal half, nothing for recomputed
activations, padding not counted), and the peak is the data sheet's dense bfloat16 rate of the GPU, or the rate that a
large matrix product reaches here.
"""

import functools
import time

import torch

from bloomery.core.memory import peak_memory_bytes
from bloomery.scaling.hardware import peak_bf16_flops

PROBE_SIZE = {"cpu": 1024, "cuda": 8192}
PROBE_ROUNDS = 6
"""The best of these counts: the first warm up, and a shared machine only ever slows down."""


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that matrix products of `dtype` can reach on one `device`: from the table where it is known, else measured once."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        tabled = peak_bf16_flops(torch.cuda.get_device_name(device))
        if tabled is not None:
            return tabled
    return _measure(device, dtype, torch.get_num_threads())


def memory_in_use(device: torch.device) -> int:
    """The most bytes that this process has needed so far: of the GPU's memory if it trains there, else of the machine's."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory_bytes()


@functools.lru_cache(maxsize=8)
def _measure(device: torch.device, dtype: torch.dtype, num_threads: int) -> float:
    size = PROBE_SIZE.get(device.type, PROBE_SIZE["cpu"])
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(PROBE_ROUNDS):
        started = time.perf_counter()
        product = matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
        del product
    return 2 * size**3 / best
