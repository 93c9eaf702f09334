"""What "auto" means here."""

import torch

from bloomery.model.device import has_fast_bfloat16, keep_freed_memory, resolve_device, resolve_dtype


def test_auto_takes_bfloat16_exactly_where_it_is_fast() -> None:
    cpu = torch.device("cpu")
    assert resolve_dtype("auto", cpu) == (torch.bfloat16 if has_fast_bfloat16(cpu) else torch.float32)
    assert resolve_dtype("fp32", cpu) == torch.float32 and resolve_dtype("bf16", cpu) == torch.bfloat16
    assert not has_fast_bfloat16(torch.device("meta"))


def test_auto_takes_cuda_if_there_is_one() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu").type == "cpu"


def test_memory_can_be_kept_more_than_once() -> None:
    keep_freed_memory()
    keep_freed_memory()
    assert torch.ones(1 << 20).sum().item() == 1 << 20
