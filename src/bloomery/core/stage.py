"""What a stage is: a typed function from artifacts to one artifact, and nothing about where it runs.

Identity (config, inputs, version) and execution (Launch, Runtime) are two kinds of type and never mix: the same
recipe has the same fingerprints on a laptop and on a cluster.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal  # Any: a stage's function takes its own config type and slots

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from bloomery.core.config import Config
from bloomery.core.metrics import Bar, MetricsLog, progress
from bloomery.core.pool import LocalPool, Pool
from bloomery.core.stopping import StopRequested, never
from bloomery.core.trackers import TrackerName

Kind = Literal[
    "pages",
    "documents",
    "tokenizer",
    "tokens",
    "checkpoint",
    "reward_model",
    "conversations",
    "pairs",
    "functions",
    "principles",
    "scores",
    "scorer",
    "frontier",
    "scaling_law",
    "ablation",
    "mixture_law",
    "lists",
    "labels",
]
"""A reward model is a Hugging Face folder of sequence classification with one label; functions are files of Python;
principles a constitution in TOML (align/constitution.py); labels votes of people on answers (core/votes.py)."""


@dataclass(frozen=True)
class Slot:
    """A named input. `many`: any number of artifacts or files, given to the stage as list[Path]; else one Path (or None).

    `also`: kinds that may stand there in place of `kind`.
    """

    kind: Kind
    many: bool = False
    optional: bool = False
    also: tuple[Kind, ...] = ()

    @property
    def takes(self) -> str:
        """What may stand there, in words."""
        return " or ".join((self.kind, *self.also))


def lacks_one_of(stage: "Stage", given: Collection[str]) -> str | None:
    """What to say of a stage that is given none of the inputs of which it needs one; None if all is well."""
    if not stage.one_of or any(name in given for name in stage.one_of):
        return None
    names = " or ".join(f'"{name}" ({stage.inputs[name].kind})' for name in stage.one_of)
    return f"the stage {stage.name} needs the input {names}, but none of them is given"


def fits(kind: str, slot: Slot) -> bool:
    """Whether an artifact of this kind can fill the slot. A checkpoint has its tokenizer with it."""
    return kind in (slot.kind, *slot.also) or (kind == "checkpoint" and slot.kind == "tokenizer")


class Cluster(Config):
    """Where data stages find their workers: never part of what is made. The `[cluster]` table of a recipe."""

    kind: Literal["local", "ray"] = "local"
    """Processes of this machine, or tasks of a Ray cluster whose machines share the store's disk."""
    workers: NonNegativeInt = 0
    """Tasks at once; 0 is what `--workers` says, else one a core (of all machines, for "ray")."""
    address: str = Field(default="local", min_length=1)
    """For "ray": "local" starts one on this machine for the run, "auto" finds the one that runs here, "HOST:PORT" names its head."""


class Endpoint(Config):
    """Where a model behind OpenAI's API is asked, and with which manners. The model's name is not here: it is part of what is made."""

    url: str = Field(pattern=r"^https?://[^\s/]+(/.*)?$")
    """The base of the API: "http://127.0.0.1:8000/v1"."""
    key_variable: str = ""
    """The environment variable that holds the key; "" sends none."""
    in_flight: PositiveInt = 16
    """Requests at once."""
    attempts: PositiveInt = 6
    """Of a request, before it counts as failed."""
    first_wait_seconds: PositiveFloat = 1.0
    """Wait after the first failure; doubled after each further one."""
    max_wait_seconds: PositiveFloat = 120.0
    """The longest wait, also when the server asks for more (Retry-After)."""
    timeout_seconds: PositiveFloat = 600.0
    """For one attempt, from the connection to the last byte."""
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the limit of an answer in a conversation."""
    price_per_million_prompt_tokens: NonNegativeFloat = 0.0
    price_per_million_answer_tokens: NonNegativeFloat = 0.0


class Launch(Config):
    """Where a stage runs and how its work is spread over processes: never part of its identity.

    `devices` times `nodes` processes train together. They are laid out as pipeline x data x tensor: processes of one
    `tensor` group share every matrix, those of one pipeline each hold some layers, and the rest read other rows. See
    docs/parallel.md for which to choose when.
    """

    devices: PositiveInt = 1
    """Processes on each machine, one a GPU; 1 (and one machine) = in this process."""
    nodes: PositiveInt = 1
    """Machines that train together; they share the disk that the store is on."""
    rendezvous: str = Field(default="", pattern=r"^([^\s:]+:\d+)?$")
    """With several nodes: HOST:PORT of the first, which all can reach."""
    data: NonNegativeInt = 0
    """Processes that read different rows; 0 = as many as `tensor` and `pipeline` leave over."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """What those hold: each a whole copy ("ddp"), or each a part of weights, gradients and optimizer ("fsdp")."""
    replicas: PositiveInt = 1
    """With "fsdp": whole copies of the model, each spread over data / replicas processes (HSDP; say one copy a node)."""
    tensor: PositiveInt = 1
    """Processes that share each matrix: attention by heads, the MLP by width, embeddings by token."""
    sequence_parallel: bool = True
    """With `tensor`: between the matrices each of them keeps a part of the sequence, not all of it."""
    pipeline: PositiveInt = 1
    """Processes one after another that hold a run of layers each."""
    schedule: Literal["1f1b", "interleaved"] = "1f1b"
    """Of a pipeline: one run of layers a process, or several by turns, which idles less and sends more."""
    virtual_stages: int = Field(default=2, ge=2)
    """With "interleaved": runs of layers a process."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether torch.compile makes the layers: "auto" on CUDA only, because on a CPU it takes a minute and a C++ compiler."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """"selective" computes again for the backward pass what is cheap (compiled layers only), "full" all but what lies between layers."""
    micro_batch_tokens: NonNegativeInt = 0
    """Places that go through the model at a time in each process; 0 = 8,192 on CPUs (compiled 2,048), on GPUs what fits up to 65,536."""
    keep_snapshots: PositiveInt = 2
    """Newest snapshots of a running training that are kept."""
    keep_every_steps: NonNegativeInt = 0
    """Snapshots at multiples of this many steps are made and kept, too, while the training runs; 0 = none."""
    trackers: tuple[TrackerName, ...] = ()
    """Where training's numbers go beside metrics.jsonl."""
    endpoint: Endpoint | None = None
    """Of a stage that asks a model: one behind an OpenAI-compatible address, in place of a checkpoint."""

    @property
    def num_processes(self) -> int:
        """How many processes train together."""
        return self.devices * self.nodes


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How a stage runs here: workers, logs, device, launch. `quiet` on every rank but 0. `open_pool` makes a pool of so many workers."""

    workers: int = 1
    device: str = "auto"
    launch: Launch = field(default_factory=Launch)
    metrics: MetricsLog = field(default_factory=lambda: MetricsLog(None))
    label: str = ""
    quiet: bool = False
    open_pool: Callable[[int], Pool] = LocalPool
    stop_requested: StopRequested = never
    """Whether training is to save and end before its next step."""
    trial: Callable[..., None] | None = None
    """Called by `train.fit.fit` with (state, run, config) in place of training, to try something with a stage's own model and data;
    it raises something in the end, so that the stage writes nothing."""

    @staticmethod
    def local(out: Path, *, workers: int = 1) -> "Runtime":
        """A runtime for calling a stage by hand: this machine, metrics.jsonl beside the output folder."""
        return Runtime(workers=workers, metrics=MetricsLog(out.with_name(f"{out.name}.metrics.jsonl")), label=out.name)

    def pool(self) -> Pool:
        """The pool that data stages map over: one for all maps of a stage, because workers take longer to start than a small shard."""
        return self._pool

    def close(self) -> int:
        """Ends the workers, if there are any, and returns the most memory that one of them needed (0 if none worked)."""
        if "_pool" not in self.__dict__:
            return 0  # never asked for: never made
        peak = self._pool.worker_peak_bytes
        if peak:
            self.metrics.write({"curate/worker_peak_bytes": peak})
        self._pool.close()
        return peak

    @functools.cached_property
    def _pool(self) -> Pool:
        return self.open_pool(self.workers)

    def progress(self, total: int, unit: str) -> contextlib.AbstractContextManager[Bar]:
        """A progress bar labelled with the stage's name in the recipe; progress.json beside a store's metrics.jsonl says the same."""
        log = self.metrics.path
        file = log.with_name("progress.json") if log is not None and log.name == "metrics.jsonl" else None
        return progress(self.label, total=total, unit=unit, quiet=self.quiet, file=file)


def no_facts(config: Any) -> Mapping[str, str]:
    """Most stages depend on nothing outside their inputs and config."""
    return {}


def runs_alone(config: Any, launch: Launch, inputs: Mapping[str, Any]) -> Sequence[str]:
    """Of a stage whose work is not spread over processes nothing can be asked."""
    return []


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a model's life.

    `run(config, *, <slot>=..., out=Path, runtime=Runtime) -> metrics` fills the folder `out` and returns numbers that
    are the same on every run (counts, losses; timings go to `runtime.metrics`). Called again on a folder that a killed
    run left half full, it continues and ends with the same bytes. Bump `version` when the same inputs and config give
    other bytes than before. `facts(config)` names what the output depends on outside of inputs (the Python
    environment that `crawl` documents); it becomes part of the fingerprint. `check_launch(config, launch, inputs)` says
    what of a launch does not fit the config and those inputs that exist already, before any process is started. Of the
    slots `one_of`, which are optional each, one at least must be filled. What is made is of the kind that the slot `passes_on` is
    filled with; without one, or with files of no artifact, of the kind `output`.
    """

    name: str
    config_type: type[Config]
    run: Callable[..., Mapping[str, Any]]
    inputs: Mapping[str, Slot]
    output: Kind
    version: int
    spmd: bool = False
    facts: Callable[[Any], Mapping[str, str]] = no_facts
    one_of: Sequence[str] = ()
    passes_on: str = ""
    check_launch: Callable[[Any, Launch, Mapping[str, Any]], Sequence[str]] = runs_alone
