"""Where a model computes and in which precision: what "auto" means on this machine.

bfloat16 where the hardware multiplies it (CUDA from Ampere on, CPUs with AVX512_BF16 or AMX: there about twice as fast),
float16 on older CUDA devices (training then scales its loss, see train/loss_scale.py), float32 elsewhere: on other CPUs
both are emulated and slower.
"""

import ctypes
import sys
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp16", "fp32", "fp8"]

DTYPES = {"bf16": torch.bfloat16, "fp8": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h for mallopt."""


def resolve_device(device: str) -> torch.device:
    """The device that "auto" stands for here (CUDA if there is one), or the one that is named."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype to compute in."""
    if precision != "auto":
        return DTYPES[precision]
    if has_fast_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def return_freed_memory() -> None:
    """Gives the memory of freed tensors back to the system, wherever it lies; the other half of `keep_freed_memory`.

    Tensors of ever different sizes leave holes that nothing fits into: fine-tuning grew to 4 GB where 1.5 are in use.
    """
    _call_libc("malloc_trim", 0)


def keep_freed_memory() -> None:
    """Asks glibc to keep the memory of freed tensors instead of giving it back to the system after each use.

    A training step frees and asks again for the same hundreds of megabytes, and the kernel clears every page anew: on
    two cores that is a quarter of the time. Without glibc nothing happens.
    """
    _call_libc("mallopt", M_MMAP_THRESHOLD, 2**30)
    _call_libc("mallopt", M_TRIM_THRESHOLD, 2**31 - 1)


def _call_libc(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None  # getattr: musl has none
    if function is not None:
        function(*arguments)
