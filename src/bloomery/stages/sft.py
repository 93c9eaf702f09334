"""sft: a chat model from a language model, by imitation of conversations (supervised fine-tuning); midtraining, too.

Conversations are rendered in the checkpoint's own chat format and packed into rows in which none sees another. Loss is
on what the assistant says and on the end of its turn, and on nothing else (or, for midtraining and for comparison, on
all of it). Sets of conversations, and texts as tokens, are mixed by weights or passes. Writes a Hugging Face folder
and training.json.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any  # Any: metrics are plain JSON values

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from bloomery.core import dist
from bloomery.core.config import suggest
from bloomery.core.conversation import read_conversations
from bloomery.core.conversation_rows import Calculator
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_json
from bloomery.core.stage import Launch, Runtime, Slot, Stage
from bloomery.generate.samples import conversation_prompts, write_samples
from bloomery.model.architectures import read_config
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import linear_next_token
from bloomery.objectives.terms import LossTerms
from bloomery.tokens.chat import Rendered
from bloomery.tokens.conversation_set import COUNTS, LossOn, TooLong, render_set
from bloomery.tokens.loader import (
    Batch,
    ConversationRows,
    RowSource,
    conversation_rows,
    make_batch,
    make_mixed_batch,
    open_rows,
    shuffled_rows,
)
from bloomery.tokens.packing import MAX_PADDING
from bloomery.tokens.packing_index import open_verified
from bloomery.tokens.plan import Phase, Plan, make_plan
from bloomery.tokens.renderer import load_renderer
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.checkpoint import Snapshots
from bloomery.train.compute import prepare_model
from bloomery.train.fit import Run, TrainingConfig, final_loss, fit, make_state
from bloomery.train.layout import find_misfits
from bloomery.train.schedule import Decay
from bloomery.train.sharding import arrange, distribute, gather_model
from bloomery.train.spikes import spike_summary
from bloomery.train.step import StepReport, micro_batch_rows, num_micro_batches, own_share, sum_losses

VALIDATION_TOKENS = 65_536
"""Places of held-out text that a validation reads of each input of tokens."""


class SftConfig(TrainingConfig):
    """Fine-tuning on conversations."""

    learning_rate: PositiveFloat = 0.003
    embedding_learning_rate: PositiveFloat = 0.003
    decay: Decay = "linear"
    names: list[str] = Field(default=[])
    """One for each input, conversations first and then tokens: a set of the mixture. Where they are fewer, files of one folder (what
    a glob names) are one set. Empty: all conversations are one set, "conversations", and tokens are tokens, tokens2, ..."""
    mixture: dict[str, NonNegativeFloat] = Field(default={})
    """Weights of the sets by name, in any unit, measured in places of rows. Empty: each set by its size and its passes."""
    epochs: PositiveFloat = 2.0
    """Passes over the conversations (with a `mixture`: over as much as they all hold); not read when `steps` is given."""
    epochs_of: dict[str, PositiveFloat] = Field(default={})
    """Passes over single sets, by name, where they are not `epochs`."""
    steps: NonNegativeInt = 0
    """How many steps to train; 0 = as many as `epochs` takes."""
    sequence_tokens: PositiveInt = 256
    """Places in a row."""
    batch_tokens: PositiveInt = 8192
    """Places in a step, all processes together."""
    too_long: TooLong = "cut_end"
    """What becomes of a conversation longer than a row: its end is cut ("cut_end"), its oldest exchanges ("drop_turns"), or all of it."""
    loss_on: LossOn = "assistant"
    """"all": every token of a conversation is trained, the user's, too."""
    calculator: Calculator = "turns"
    """What the annotations of GSM8K's calculator become: "turns" are calls of a tool and their results, "remove" is nothing."""
    held_out_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Share of the conversations, by a hash of their prompt, that is kept for validation."""
    num_validations: PositiveInt = 5

    @model_validator(mode="after")
    def _check_names(self) -> "SftConfig":
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names = {self.names} has a name twice")
        if self.mixture and self.epochs_of:
            raise ValueError("mixture and epochs_of both say how much is read of each set; give one of them")
        for where, named in (("mixture", self.mixture), ("epochs_of", self.epochs_of)):
            for name in named if self.names else ():
                if name not in self.names:
                    raise ValueError(f'{where}: "{name}" is not among the names; {suggest(name, self.names)}')
        if self.mixture and not any(self.mixture.values()):
            raise ValueError("mixture: all weights are zero")
        return self


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """A set of the mixture: its rows, its held-out rows (None where there are none), and what happened to its conversations."""

    name: str
    train: RowSource
    held_out: RowSource | None = None
    counts: Mapping[str, int]
    prompts: Sequence[Rendered] = ()
    """Held-out conversations."""
    fingerprint: str = ""
    """Of tokens, the hash of their manifest."""


def sft(
    config: SftConfig, *, init: Path, conversations: Sequence[Path], tokens: Sequence[Path] = (), out: Path, runtime: Runtime
) -> Mapping[str, Any]:
    """Writes a checkpoint folder; of a conversations artifact only train.jsonl.gz is read. `tokens` are texts to mix in.

    Raises ConfigError for sizes that do not fit each other, DataError for conversations with nothing to learn in them.
    """
    if (out / "training.json").is_file():  # written last: nothing is left to do
        return _metrics(read_json(out / "training.json"))
    device, launch = resolve_device(runtime.device), runtime.launch
    parallel = arrange(launch, device)
    model = load_model(init)
    add_adapters(model, config.lora, seed=config.seed)
    launch = prepare_model(model, precision=config.precision, launch=launch, device=device)
    model = distribute(model, parallel, launch, device)
    batch_rows = _batch_rows(config, model, init, parallel.layout.data)
    tokenizer = load_tokenizer(init)
    sets = open_sets(config, tokenizer, init=init, conversations=conversations, tokens=tokens, index=out / ".scratch" / "rows")
    plan = plan_rows(config, sets, batch_rows=batch_rows)
    names = [found.name for found in sets] if len(sets) > 1 else []

    def batches_of_step(step: int) -> list[Batch]:
        draw = plan.draw(step)
        share = own_share(np.arange(len(draw.row)), launch)
        batch = make_mixed_batch([found.train for found in sets], draw.source[share], draw.row[share])
        return [part.to(device) for part in batch.split(num_micro_batches(len(share), config.sequence_tokens, device, launch))]

    prompts = conversation_prompts([held for found in sets for held in found.prompts], count=config.num_samples)
    held_out = {found.name: found.held_out for found in sets if found.held_out is not None}
    run = Run(
        num_steps=plan.num_steps,
        objective=functools.partial(response_objective, names=names),
        batches_of_step=batches_of_step,
        validate=functools.partial(measure_sets, sources=held_out),
        num_validations=config.num_validations if held_out else 0,
        window_of_step=lambda step: _describe_rows(plan, sets, step),
        count_data=(lambda step: _count_places(plan, names, step)) if names else None,
        sample=functools.partial(write_samples, tokenizer=tokenizer, prompts=prompts, num_tokens=config.sample_tokens),
        stage="sft",
        note_step=note_trained,
    )
    state = make_state(model, config, parallel)
    keep = {"keep_last": launch.keep_snapshots, "keep_every_steps": launch.keep_every_steps}
    settings = " ".join([config.model_dump_json(), *(found.fingerprint for found in sets if found.fingerprint)])
    snapshots = Snapshots(out / ".scratch", settings=settings, **keep)
    fit(state, run, config, snapshots=snapshots, runtime=runtime)
    described = describe_sets(plan, sets)
    training = {
        "steps": state.step,
        "tokens": state.tokens,
        **{name: sum(found.get(name, 0) for found in described.values()) for name in _totals()},
        "epochs": round(float(plan.epochs(state.step).max()), 4),
        "padding_fraction": round(_padding_fraction(sets), 6),
        "train_loss": final_loss(state),
        "skipped_steps": state.skipped,
        **spike_summary(state),
        "sets": described,
        "samples": state.samples,
        "curve": [[row["step"], row["tokens"], row["loss"]] for row in state.curve],
        "validation": state.curve,
    }
    if (whole := gather_model(model)) is not None:
        save_model(whole, out, tokenizer=init, like=init)
        write_json(out / "training.json", training)
    dist.barrier()
    return _metrics(training)


def open_sets(
    config: SftConfig, tokenizer: Tokenizer, *, init: Path, conversations: Sequence[Path], tokens: Sequence[Path], index: Path
) -> list[TrainingSet]:
    """The sets of the mixture in the order of their names. Raises DataError for one that has nothing to learn in it."""
    names = config.names or ["conversations", *(f"tokens{i or ''}" for i in (0, *range(2, len(tokens) + 1)))][: 1 + len(tokens)]
    groups = _group(conversations, len(names) - len(tokens)) if config.names else [list(conversations)]
    if len(names) != len(groups) + len(tokens):
        raise ConfigError(
            f"sft: names = {names} names {len(names)} sets, but {len(conversations)} inputs `conversations` and "
            f"{len(tokens)} `tokens` are connected"
        )
    unknown = [name for name in {**config.mixture, **config.epochs_of} if name not in names]
    if unknown:
        raise ConfigError(f'sft: "{unknown[0]}" is not among the sets; {suggest(unknown[0], names)}')
    render = load_renderer(init, tokenizer)
    sets = []
    for name, paths in zip(names, groups, strict=False):
        files = [path / "train.jsonl.gz" if (path / "train.jsonl.gz").is_file() else path for path in paths]
        rows = read_conversations(files, calculator=config.calculator)
        how = {"row_tokens": config.sequence_tokens, "too_long": config.too_long, "loss_on": config.loss_on}
        found = render_set(rows, render, **how, held_out_fraction=config.held_out_fraction)  # type: ignore[arg-type]  # of a mixed dict
        if not found.train:
            raise DataError(
                f"{', '.join(map(str, files))}: found no conversation with an assistant's turn to learn ({found.counts['unanswered']} have "
                f"none, {found.counts['dropped']} are too long for {config.sequence_tokens} tokens)"
            )
        packed = [conversation_rows(part, row_tokens=config.sequence_tokens) for part in (found.train, found.held_out)]
        counts = {"": len(found.train), "held_out": len(found.held_out), **found.counts}
        named = {f"{what}_conversations".lstrip("_"): count for what, count in counts.items()}
        held_out = packed[1] if found.held_out else None
        sets.append(TrainingSet(name=name, train=packed[0], held_out=held_out, counts=named, prompts=found.held_out))
    opened = [_open_tokens(path, name, config, tokenizer, index) for path, name in zip(tokens, names[len(groups) :], strict=True)]
    return [*sets, *opened]


def _group(paths: Sequence[Path], count: int) -> list[list[Path]]:
    if len(paths) == count:
        return [[path] for path in paths]
    files = itertools.groupby(paths, key=lambda path: path.parent if path.suffix else path)
    return [list(group) for _, group in files]


def _open_tokens(folder: Path, name: str, config: SftConfig, tokenizer: Tokenizer, index: Path) -> TrainingSet:
    if dist.rank() != 0:
        dist.barrier()  # rank 0 packs and hashes for all
    opening = functools.partial(open_verified, folder, tokenizer_sha256=tokenizer.sha256, index=index)
    train, held_out = opening(split="train"), opening(split="validation")
    if not train.num_tokens:
        raise DataError(f"{folder}: its train split has no tokens to train on (set {name})")
    rows = open_rows(train, row_tokens=config.sequence_tokens, max_padding=MAX_PADDING, index=index)
    kept = open_rows(held_out, row_tokens=config.sequence_tokens, index=index) if held_out.num_tokens else None
    if dist.rank() == 0:
        dist.barrier()
    return TrainingSet(name=name, train=rows, held_out=kept, counts={}, fingerprint=train.manifest_sha256)


def plan_rows(config: SftConfig, sets: Sequence[TrainingSet], *, batch_rows: int) -> Plan:
    """Which rows of which set each step reads, by the weights of the config or by the passes over each set."""
    packed = [found.train.packed for found in sets]
    passes = [Fraction(repr(config.epochs_of.get(s.name, config.epochs))) * p.rows_an_epoch for s, p in zip(sets, packed, strict=True)]
    weights = [Fraction(repr(config.mixture.get(found.name, 0.0))) for found in sets] if config.mixture else passes
    steps = config.steps or max(1, round(sum(passes) / batch_rows))
    phase = Phase(num_steps=steps, batch_rows=batch_rows, row_tokens=config.sequence_tokens, weights=weights)
    sizes, whole = {phase.row_tokens: [p.num_rows for p in packed]}, {phase.row_tokens: [p.rows_an_epoch for p in packed]}
    return make_plan([phase], sizes, rows_an_epoch=whole, seed=config.seed)


def response_objective(model: Transformer, batch: Batch, *, names: Sequence[str] = ()) -> LossTerms:
    """Next-token loss of the tokens that are to be learnt; on a CPU logits are computed for these only.

    With `names` of several sets, also the sums `loss/NAME` and `weight/NAME` of each.
    """
    hidden_BTD = model.hidden_states(batch.token_BT, position_BT=batch.position_BT, document_BT=batch.document_BT, max_runs=batch.max_runs)
    flat = (hidden_BTD.flatten(0, 1), model.head_weight(), batch.target_BT.flatten(), batch.weight_BT.flatten())
    if not names:
        return linear_next_token(*flat, compiled=model.compiled)
    assert batch.source_B is not None
    group_N = batch.source_B.repeat_interleave(batch.token_BT.shape[1])
    return linear_next_token(*flat, compiled=model.compiled, group_N=group_N, group_names=names)


def note_trained(report: StepReport) -> dict[str, float]:
    """For the log: the share of the tokens of a step that have a loss."""
    return {"train/trained_fraction": round(report.weight / report.tokens, 4)} if report.tokens else {}


def measure_sets(model: Transformer, *, sources: Mapping[str, RowSource]) -> dict[str, float]:
    """Loss in nats a trained token on the held-out rows of all sets and, where there are several, of each: `loss/NAME`."""
    terms = {name: _sum_held_out(model, source) for name, source in sources.items()}
    loss = {"loss": sum(float(t.loss_sum) for t in terms.values()) / max(sum(float(t.weight) for t in terms.values()), 1.0)}
    return loss | ({f"loss/{name}": float(t.loss_sum) / max(float(t.weight), 1.0) for name, t in terms.items()} if len(terms) > 1 else {})


def measure(model: Transformer, *, source: RowSource) -> dict[str, float]:
    """Loss in nats a response token on all held-out conversations."""
    return measure_sets(model, sources={"": source})


def describe_sets(plan: Plan, sets: Sequence[TrainingSet]) -> dict[str, dict[str, Any]]:
    """For training.json: of each set, what was read of it in the whole run and what happened to its conversations."""
    places, epochs = plan.places_drawn(plan.num_steps).tolist(), plan.epochs(plan.num_steps).tolist()
    return {
        found.name: {**found.counts, "rows": found.train.packed.num_rows, "set_tokens": found.train.packed.num_tokens}
        | {"tokens": places[i], "epochs": round(epochs[i], 4)}
        for i, found in enumerate(sets)
    }


def _totals() -> list[str]:
    return ["conversations", "held_out_conversations", *(f"{name}_conversations" for name in COUNTS)]


def _padding_fraction(sets: Sequence[TrainingSet]) -> float:
    packed = [found.train.packed for found in sets]
    return 1 - sum(rows.num_tokens for rows in packed) / sum(rows.num_rows * rows.row_tokens for rows in packed)


def _describe_rows(plan: Plan, sets: Sequence[TrainingSet], step: int) -> dict[str, Any]:
    draw = plan.draw(step)
    if len(sets) == 1:
        return {"rows": draw.row.tolist()}
    return {f"rows of {found.name}": draw.row[draw.source == i].tolist() for i, found in enumerate(sets)}


def _count_places(plan: Plan, names: Sequence[str], step: int) -> dict[str, int]:
    return {f"train/tokens/{name}": count for name, count in zip(names, plan.places_drawn(step).tolist(), strict=True)}


def _sum_held_out(model: Transformer, source: RowSource) -> LossTerms:
    num_rows, row_tokens = source.packed.num_rows, source.packed.row_tokens
    wanted = num_rows if isinstance(source, ConversationRows) else min(num_rows, max(1, VALIDATION_TOKENS // row_tokens))
    rows = np.arange(num_rows) if wanted == num_rows else shuffled_rows(np.arange(wanted), num_rows=num_rows, seed=0)
    size = micro_batch_rows(row_tokens, model.device)
    batches = (make_batch(source, rows[i : i + size]).to(model.device) for i in range(0, wanted, size))
    return sum_losses(model, batches, response_objective)


def _batch_rows(config: SftConfig, model: Transformer, init: Path, num_parts: int) -> int:
    if model.config.max_positions < config.sequence_tokens:
        raise ConfigError(f"sequence_tokens = {config.sequence_tokens} is more than the {model.config.max_positions} positions of {init}")
    batch_rows = config.batch_tokens // config.sequence_tokens
    if batch_rows < num_parts:
        raise ConfigError(
            f"batch_tokens = {config.batch_tokens} holds {batch_rows} rows of sequence_tokens = {config.sequence_tokens}; "
            f"{num_parts} processes need at least a row each"
        )
    return batch_rows


def check_launch(config: SftConfig, launch: Launch, inputs: Mapping[str, Any]) -> list[str]:
    """What of a launch does not fit the model, where it is made already, and the batch."""
    refused = [f"launch: pipeline = {launch.pipeline} is for pretrain only; sft takes data and tensor"] if launch.pipeline > 1 else []
    init = inputs.get("init")
    model = read_config(init) if init and (init / "config.json").is_file() else None
    rows, adapters = config.batch_tokens // config.sequence_tokens, config.lora.rank > 0
    return refused + find_misfits(launch, model, batch_rows=rows, row_tokens=config.sequence_tokens, lora=adapters)


def _metrics(training: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in training.items() if isinstance(value, int | float)}
    by_set = {f"tokens/{name}": found["tokens"] for name, found in training["sets"].items()} if len(training["sets"]) > 1 else {}
    return {**plain, **by_set, **({"validation_loss": training["validation"][-1]["loss"]} if training["validation"] else {})}


STAGE = Stage(
    name="sft",
    config_type=SftConfig,
    run=sft,
    inputs={
        "init": Slot("checkpoint"),
        "conversations": Slot("conversations", many=True),
        "tokens": Slot("tokens", many=True, optional=True),
    },
    output="checkpoint",
    version=4,
    spmd=True,
    check_launch=check_launch,
)
