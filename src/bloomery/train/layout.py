"""How processes are laid out, and which sizes fit a model: arithmetic only, so that it can be asked before any is started.

The processes stand on a grid of four axes, pipeline x replicas x shards x tensor, the last one running fastest, so that
those who talk most are neighbours on one machine. data = replicas x shards: these read different rows.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bloomery.core.errors import ConfigError
from bloomery.core.stage import Launch
from bloomery.model.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The lengths of the axes. `virtual_stages`: runs of layers that each process of a pipeline holds."""

    pipeline: int = 1
    replicas: int = 1
    shards: int = 1
    tensor: int = 1
    virtual_stages: int = 1

    @property
    def data(self) -> int:
        """How many parts the rows of a step are dealt in."""
        return self.replicas * self.shards

    @property
    def num_processes(self) -> int:
        """All of them."""
        return self.pipeline * self.data * self.tensor

    @property
    def num_stages(self) -> int:
        """How many runs the layers are cut into."""
        return self.pipeline * self.virtual_stages

    def data_rank(self, rank: int) -> int:
        """Which part of the rows process number `rank` reads.

        >>> [Layout(replicas=2, tensor=2).data_rank(rank) for rank in range(4)]
        [0, 0, 1, 1]
        """
        return rank // self.tensor % self.data

    def pipeline_rank(self, rank: int) -> int:
        """Which place of the pipeline process number `rank` has."""
        return rank // (self.tensor * self.data)

    def tensor_rank(self, rank: int) -> int:
        """Which part of each matrix process number `rank` holds."""
        return rank % self.tensor

    def layers_of(self, stage: int, num_layers: int) -> range:
        """The layers of a run: as even as can be, the longer runs first (the last one has the output matrix, too).

        >>> [list(Layout(pipeline=2).layers_of(stage, 3)) for stage in range(2)]
        [[0, 1], [2]]
        """
        size, longer = divmod(num_layers, self.num_stages)
        start = stage * size + min(stage, longer)
        return range(start, start + size + (stage < longer))


def make_layout(launch: Launch, *, num_processes: int) -> Layout:
    """The grid of a launch on so many processes. Raises ConfigError saying which sizes would fill it."""
    inside = launch.tensor * launch.pipeline
    if num_processes % inside:
        raise ConfigError(
            f"launch: tensor = {launch.tensor} times pipeline = {launch.pipeline} does not divide {num_processes} processes "
            f"(devices x nodes); their product can be {_list(_divisors(num_processes))}"
        )
    data = num_processes // inside
    if launch.data not in (0, data):
        raise ConfigError(
            f"launch: data = {launch.data} x tensor = {launch.tensor} x pipeline = {launch.pipeline} is {launch.data * inside} processes; "
            f"devices x nodes is {num_processes}: data must be {data}, or left out"
        )
    if launch.strategy == "ddp" and launch.replicas != 1:
        raise ConfigError(f'launch: replicas = {launch.replicas} is for strategy = "fsdp"; with "ddp" every process has a copy')
    if data % launch.replicas:
        raise ConfigError(f"launch: replicas = {launch.replicas} does not divide data = {data}; it can be {_list(_divisors(data))}")
    replicas = data if launch.strategy == "ddp" else launch.replicas
    is_interleaved = launch.pipeline > 1 and launch.schedule == "interleaved"
    return Layout(
        pipeline=launch.pipeline,
        replicas=replicas,
        shards=data // replicas,
        tensor=launch.tensor,
        virtual_stages=launch.virtual_stages if is_interleaved else 1,
    )


def find_misfits(launch: Launch, model: ModelConfig | None, *, batch_rows: int, row_tokens: int | None, lora: bool = False) -> list[str]:
    """What of a launch does not fit its own sizes, the model's (None: not known yet) or the batch's; each with what does.

    `row_tokens` is None where rows have no fixed length.
    """
    try:
        layout = make_layout(launch, num_processes=launch.num_processes)
    except ConfigError as error:
        return [str(error)]
    misfits: list[str] = []
    if layout.num_processes == 1:
        return misfits
    if launch.nodes > 1 and not launch.rendezvous:
        misfits.append(f'launch: nodes = {launch.nodes} need rendezvous = "HOST:PORT", an address of the first that all can reach')
    if layout.pipeline > 1 and layout.tensor * layout.shards > 1:
        misfits.append(
            f"launch: pipeline = {layout.pipeline} goes together with copies that read other rows (strategy = 'ddp') only; "
            f"found tensor = {layout.tensor} and strategy = {launch.strategy!r}"
        )
    if lora and layout.tensor * layout.pipeline > 1:
        misfits.append(f"launch: adapters (lora) train with data only; found tensor = {layout.tensor} and pipeline = {layout.pipeline}")
    if batch_rows < layout.data * layout.pipeline:
        share = "a row each" if layout.pipeline == 1 else f"{layout.pipeline} rows each, one for every place of the pipeline"
        misfits.append(
            f"launch: a step has {batch_rows} rows; data = {layout.data} need at least {share}: "
            f"raise the batch, or let data be at most {max(batch_rows // layout.pipeline, 1)}"
        )
    if layout.virtual_stages > 1 and batch_rows % (layout.data * layout.pipeline):
        misfits.append(
            f"launch: a step has {batch_rows} rows for data = {layout.data}; with schedule = 'interleaved' the rows of each part must be a "
            f"multiple of pipeline = {layout.pipeline}: let the batch hold a multiple of {layout.data * layout.pipeline}, or take '1f1b'"
        )
    if layout.tensor > 1 and launch.sequence_parallel and row_tokens is not None and row_tokens % layout.tensor:
        misfits.append(
            f"launch: tensor = {layout.tensor} cannot part rows of {row_tokens} tokens; it can be {_list(_divisors(row_tokens, launch))}, "
            "or sequence_parallel = false"
        )
    return misfits + ([] if model is None else _find_model_misfits(launch, layout, model))


def _find_model_misfits(launch: Launch, layout: Layout, model: ModelConfig) -> list[str]:
    misfits = []
    shared = math.gcd(model.num_heads, model.num_kv_heads, model.mlp_dim)
    if shared % layout.tensor:
        misfits.append(
            f"launch: tensor = {layout.tensor} does not divide num_heads = {model.num_heads}, num_kv_heads = {model.num_kv_heads} "
            f"and mlp_dim = {model.mlp_dim}; it can be {_list(_divisors(shared, launch))}"
        )
    if layout.num_stages > model.num_layers:
        runs = f" x virtual_stages = {layout.virtual_stages}" if layout.virtual_stages > 1 else ""
        fitting = [n for n in _divisors(launch.num_processes) if n * layout.virtual_stages <= model.num_layers]
        misfits.append(
            f"launch: pipeline = {layout.pipeline}{runs} needs at least {layout.num_stages} layers; the model has {model.num_layers}: "
            f"pipeline can be {_list(fitting or [1])}"
        )
    return misfits


def _divisors(number: int, launch: Launch | None = None) -> list[int]:
    """All divisors; with a launch, those that also divide its processes."""
    whole = number if launch is None else math.gcd(number, launch.num_processes)
    return [n for n in range(1, whole + 1) if whole % n == 0]


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
