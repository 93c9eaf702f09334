"""The few collective operations that training needs, over torch.distributed; one process is a world of size 1."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any  # Any: what `gather_objects` carries is whatever is picklable

import torch
import torch.distributed as dist

from bloomery.core.errors import ConfigError

Group = dist.ProcessGroup | None
"""Some of the processes; None is all of them."""
TIMEOUT_MINUTES = 30
"""How long a process waits for the others: rank 0 may be writing a large checkpoint."""


def rank() -> int:
    """This process's number, 0 .. world_size() - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_sum(tensor: torch.Tensor, group: Group = None) -> torch.Tensor:
    """The elementwise sum over the processes of a group, in place, on every one of them."""
    if dist.is_initialized():
        dist.all_reduce(tensor, group=group)
    return tensor


def all_gather(tensor: torch.Tensor, group: Group = None) -> torch.Tensor:
    """The tensors of all processes of a group, which are of one shape, behind one another in their first dimension."""
    if not dist.is_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return torch.cat(parts)


def maximum(value: float) -> float:
    """The largest of all processes' values."""
    if not dist.is_initialized():
        return value
    found = torch.tensor(value, dtype=torch.float64, device=_device())
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found)


def say(value: bool) -> bool:
    """What rank 0 says, on every process: for decisions that depend on a clock."""
    if not dist.is_initialized():
        return value
    said = torch.tensor(value, device=_device())
    dist.broadcast(said, 0)
    return bool(said)


def gather_objects(value: Any, group: Group = None) -> list[Any]:
    """The values of all processes of a group, in the order of their numbers, on every one of them."""
    if not dist.is_initialized():
        return [value]
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, value, group=group)
    return found


def new_group() -> Group:
    """All processes once more, talking through the CPU: for a thread beside the training. Every process must call it."""
    return dist.new_group(backend="gloo") if dist.is_initialized() else None


def barrier() -> None:
    """Waits until every process is here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the group that torchrun's environment describes (gloo on CPU, and nccl beside it on CUDA); without one, does nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    timeout = timedelta(minutes=TIMEOUT_MINUTES)
    if torch.cuda.is_available():
        local_rank, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= found:
            raise ConfigError(f"launch: devices = {local_rank + 1} or more; this machine has {found} GPUs, one for each process")
        torch.cuda.set_device(local_rank)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=timeout)
    else:
        dist.init_process_group("gloo", timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _device() -> torch.device:
    """Where small messages travel from; the backend of the main group decides."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
