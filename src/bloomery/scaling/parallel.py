"""The simplest way to spread a training over devices that fits their memory, in the words of a recipe's `launch`.

Ways are tried from the one that costs the least speed to the one that costs the most (docs/parallel.md: "take the first
line that is enough"); the first that fits with micro-batches of a fair size is taken. The costs below only order the
ways; nobody has measured them on several devices here.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple  # Any: settings of a launch

from bloomery.scaling.hardware import Device
from bloomery.scaling.memory import Checkpointing, Memory, Optimizer, Setup, estimate_memory
from bloomery.scaling.shape import Shape

MEMORY_FRACTION = 0.92
"""Of a device's memory that a plan may fill: the estimate is good to about a tenth."""
MAX_MICRO_BATCH_TOKENS, FAIR_MICRO_BATCH_TOKENS = 65_536, 8192
CHECKPOINTING_COST: dict[Checkpointing, float] = {"none": 0.0, "selective": 0.10, "full": 0.33}
SHARDING_COST, SHARDING_ACROSS_NODES_COST, PIPELINE_COST = 0.02, 0.05, 0.20
TENSOR_COST = {1: 0.0, 2: 0.06, 4: 0.12, 8: 0.20}
RENDEZVOUS = "first-node:29500"


class Way(NamedTuple):
    """One way to lay devices out, and what a device then holds."""

    devices: int
    nodes: int
    strategy: str
    replicas: int
    tensor: int
    pipeline: int
    checkpointing: Checkpointing
    micro_batch_tokens: int
    memory: Memory

    @property
    def data(self) -> int:
        """Devices, or groups of them, that read different rows."""
        return self.devices * self.nodes // (self.tensor * self.pipeline)

    def launch_settings(self) -> dict[str, Any]:
        """The `launch` of a recipe's stage: what differs from its defaults."""
        settings: dict[str, Any] = {"devices": self.devices}
        settings |= {"nodes": self.nodes, "rendezvous": RENDEZVOUS} if self.nodes > 1 else {}
        settings |= {"strategy": self.strategy} if self.strategy != "ddp" else {}
        settings |= {"replicas": self.replicas} if self.strategy == "fsdp" and self.replicas > 1 else {}
        settings |= {"tensor": self.tensor} if self.tensor > 1 else {}
        settings |= {"pipeline": self.pipeline} if self.pipeline > 1 else {}
        settings |= {"activation_checkpointing": self.checkpointing} if self.checkpointing != "none" else {}
        return settings | {"micro_batch_tokens": self.micro_batch_tokens}


class Work(NamedTuple):
    """What is to be trained."""

    shape: Shape
    batch_tokens: int
    sequence_tokens: int
    optimizer: Optimizer = "muon"

    @property
    def batch_rows(self) -> int:
        """Rows of a step, for all devices together."""
        return self.batch_tokens // self.sequence_tokens


def choose_way(work: Work, device: Device, *, num_devices: int) -> Way | None:
    """The cheapest way that fits; None if none does. Raises ValueError for a number of devices that fills no machines."""
    ways = sorted(_list_ways(work, device, num_devices=num_devices), key=lambda way: (_cost(way), way.tensor, way.pipeline))
    for wants_fair in (True, False):
        for way in ways:
            found = _fit(way, work, device, wants_fair=wants_fair)
            if found is not None:
                return found
    return None


def fewest_devices(work: Work, device: Device, *, at_most: int = 16_384) -> Way | None:
    """The way on the smallest number of devices, a power of two or whole machines; None if it would take more than `at_most`."""
    num_devices = 1
    while num_devices <= at_most:
        if num_devices < device.per_node or num_devices % device.per_node == 0:
            way = choose_way(work, device, num_devices=num_devices)
            if way is not None:
                return way
        num_devices *= 2
    return None


def _list_ways(work: Work, device: Device, *, num_devices: int) -> Iterator[Way]:
    """Every layout that the trainer takes, its micro-batch and memory still to be found."""
    if num_devices > device.per_node and num_devices % device.per_node:
        below = num_devices // device.per_node * device.per_node
        raise ValueError(
            f"{num_devices} {device.key} do not fill machines of {device.per_node}: take {below} or {below + device.per_node}, "
            "or say with --per-node how many a machine has"
        )
    nodes = max(1, num_devices // device.per_node)
    blank = Way(num_devices // nodes, nodes, "ddp", 1, 1, 1, "none", 0, Memory(0, 0, 0, 0, 0, 0))
    levels: tuple[Checkpointing, ...] = ("none", "full") if device.key == "cpu" else ("none", "selective", "full")
    for level in levels:
        yield blank._replace(checkpointing=level)
        for tensor in TENSOR_COST:
            if blank.devices % tensor or not _shares(work, tensor):
                continue
            data = num_devices // tensor
            if tensor > 1:
                yield blank._replace(checkpointing=level, tensor=tensor)
            if data > 1:
                yield blank._replace(checkpointing=level, tensor=tensor, strategy="fsdp")
            if nodes > 1 and blank.devices > tensor:
                yield blank._replace(checkpointing=level, tensor=tensor, strategy="fsdp", replicas=nodes)
        for pipeline in (2, 4, 8, 16):
            if num_devices % pipeline == 0 and pipeline <= work.shape.num_layers:
                yield blank._replace(checkpointing=level, pipeline=pipeline)


def _shares(work: Work, tensor: int) -> bool:
    shape = work.shape
    return not any(size % tensor for size in (shape.num_heads, shape.num_kv_heads, shape.mlp_dim, work.sequence_tokens))


def _cost(way: Way) -> float:
    """The share of speed that a way is taken to lose."""
    sharding = 0.0
    if way.strategy == "fsdp":
        stays_inside = way.nodes == 1 or way.replicas == way.nodes
        sharding = SHARDING_COST if stays_inside else SHARDING_ACROSS_NODES_COST
    return CHECKPOINTING_COST[way.checkpointing] + sharding + TENSOR_COST[way.tensor] + (PIPELINE_COST if way.pipeline > 1 else 0.0)


def _fit(way: Way, work: Work, device: Device, *, wants_fair: bool) -> Way | None:
    """The way with the largest micro-batch that fits, a power of two of rows; None if a fair one (or one row) does not."""
    if work.batch_rows < way.data * way.pipeline:
        return None
    own_rows = work.batch_rows // way.data // way.pipeline
    least = min(own_rows, max(1, FAIR_MICRO_BATCH_TOKENS // work.sequence_tokens)) if wants_fair else 1
    rows = 1 << min(own_rows, max(1, MAX_MICRO_BATCH_TOKENS // work.sequence_tokens)).bit_length() - 1
    while rows >= min(least, 1 << least.bit_length() - 1):
        memory = estimate_memory(work.shape, _setup(way, work, device, rows=rows, own_rows=own_rows))
        if memory.total <= MEMORY_FRACTION * device.memory_bytes:
            return way._replace(micro_batch_tokens=rows * work.sequence_tokens, memory=memory)
        rows //= 2
        if not rows:
            break
    return None


def _setup(way: Way, work: Work, device: Device, *, rows: int, own_rows: int) -> Setup:
    return Setup(
        micro_batch_tokens=rows * work.sequence_tokens,
        sequence_tokens=work.sequence_tokens,
        accumulates=own_rows > rows or way.pipeline > 1,
        optimizer=work.optimizer,
        checkpointing=way.checkpointing,
        is_compiled=device.key != "cpu",
        shards=way.data // way.replicas if way.strategy == "fsdp" else 1,
        tensor=way.tensor,
        pipeline=way.pipeline,
    )
