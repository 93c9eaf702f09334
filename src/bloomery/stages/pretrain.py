"""pretrain: a language model from tokens, or, with `init`, the further training of one that exists.

Documents are packed into rows and stay apart in them (no attention across). Several tokens inputs are mixed in asked
proportions, the same all along or in the stages of a curriculum. Midtraining and continued pretraining are this stage
with another mixture, an `init` and another schedule. Writes a Hugging Face folder and training.json.
"""

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any  # Any: metrics are plain JSON values

import numpy as np
from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from bloomery.core import dist
from bloomery.core.config import Config, suggest
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_json
from bloomery.core.stage import Launch, Runtime, Slot, Stage
from bloomery.generate.samples import PROMPT_TOKENS, write_samples
from bloomery.model.architectures import read_config
from bloomery.model.config import ModelShape, count_params, make_model_config
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model, read_special_tokens, save_model
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import linear_next_token
from bloomery.objectives.terms import LossTerms
from bloomery.tokens.loader import Batch, TokenRows, make_batch, make_mixed_batch, open_rows, read_ahead, shuffled_rows
from bloomery.tokens.packing import MAX_PADDING
from bloomery.tokens.packing_index import open_verified
from bloomery.tokens.plan import Phase, Plan, make_plan
from bloomery.tokens.sources import OTHERS, TrainingData
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.checkpoint import Snapshots
from bloomery.train.compute import prepare_model
from bloomery.train.fit import Run, TrainingConfig, final_loss, fit, make_state, schedule_factor
from bloomery.train.layout import find_misfits
from bloomery.train.schedule import ScheduleSegment, segment_factor
from bloomery.train.sharding import arrange, distribute, gather_model
from bloomery.train.spikes import spike_summary
from bloomery.train.step import micro_batch_rows, num_micro_batches, own_share, sum_losses

log = logging.getLogger(__name__)

UNITS = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_count(value: object) -> object:
    """A number of tokens as people write it.

    >>> parse_count("2M"), parse_count("1.5B"), parse_count(300)
    (2000000, 1500000000, 300)
    """
    if not isinstance(value, str):
        return value
    number, unit = (value[:-1], UNITS[value[-1]]) if value[-1:] in UNITS else (value, 1)
    try:
        return round(float(number) * unit)
    except (ValueError, OverflowError) as error:
        raise ValueError('expected a number of tokens such as 2000000, "500k", "2M" or "1.5B"') from error


TokenCount = Annotated[PositiveInt, BeforeValidator(parse_count)]


class CurriculumStage(Config):
    """A part of a run; what it does not say is as in the run."""

    tokens: TokenCount
    """How many tokens to train on in this stage."""
    mixture: dict[str, NonNegativeFloat] = Field(default={})
    """Weights of the sources by name; empty: the run's `mixture`."""
    sequence_tokens: NonNegativeInt = 0
    """Places in a row; 0 = the run's."""
    batch_tokens: NonNegativeInt = 0
    """Places in a step; 0 = the run's."""
    schedule: ScheduleSegment | None = None
    """The learning rate of this stage; without it the schedule of the whole run goes on."""


class PretrainConfig(TrainingConfig):
    """Next-token prediction on packed documents."""

    model: ModelShape = ModelShape()
    """Its shape; with an `init` the checkpoint's shape is kept and this is not read."""
    tokens: TokenCount = 2_000_000
    """How many tokens to train on, all epochs together: 2000000, "2M", "1.5B". Not read with a `curriculum`."""
    sequence_tokens: PositiveInt = 256
    """Places in a row: as far as attention reaches."""
    batch_tokens: PositiveInt = 8192
    """Places in a step, all processes together."""
    names: list[str] = Field(default=[])
    """One for each tokens input, in their order: a source of the mixture. Empty: tokens, tokens2, ..."""
    mixture: dict[str, NonNegativeFloat] = Field(default={})
    """Weights of the sources by name, in any unit; needs `names`. Every prefix of the training stream holds them to within a
    row. Empty: each source by its size."""
    max_epochs: NonNegativeFloat = 0.0
    """How often a source is read at most: it then drops out, and the others share its part. 0 = as often as is asked for."""
    curriculum: list[CurriculumStage] = Field(default=[])
    """Stages one after another; empty: one stage of `tokens` tokens."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared log-normaliser, against drifting logits (1e-4 in PaLM)."""
    num_validations: PositiveInt = 10
    validation_tokens: NonNegativeInt = 65_536
    """Places of held-out text that each validation reads, the same each time, in equal parts from all sources; 0 = all there are."""

    @model_validator(mode="after")
    def _check_names(self) -> "PretrainConfig":
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names = {self.names} has a name twice")
        if OTHERS in self.names:
            raise ValueError(f'names: "{OTHERS}" is what the log calls the sources of little weight together; choose another name')
        mixtures = {"mixture": self.mixture, **{f"curriculum.{i}.mixture": stage.mixture for i, stage in enumerate(self.curriculum)}}
        for where, mixture in mixtures.items():
            if mixture and not self.names:
                raise ValueError(f"{where} speaks of sources by name: give `names`, one for each tokens input")
            for name in mixture:
                if name not in self.names:
                    raise ValueError(f'{where}: "{name}" is not among the names; {suggest(name, self.names)}')
            if mixture and not any(mixture.values()):
                raise ValueError(f"{where}: all weights are zero")
        return self

    @property
    def stages(self) -> list[CurriculumStage]:
        """The curriculum with everything said: of one stage, where none is given."""
        stages = self.curriculum or [CurriculumStage(tokens=self.tokens)]
        run = {"mixture": self.mixture, "sequence_tokens": self.sequence_tokens, "batch_tokens": self.batch_tokens}
        return [stage.model_copy(update={key: getattr(stage, key) or value for key, value in run.items()}) for stage in stages]


def pretrain(
    config: PretrainConfig, *, tokens: Sequence[Path] | Path, tokenizer: Path, init: Path | None = None, out: Path, runtime: Runtime
) -> Mapping[str, Any]:
    """Writes a checkpoint folder. `tokens` is one folder or several, each a source of the mixture.

    Raises ConfigError for sizes that do not fit each other, DataError for tokens of another tokenizer or none at all.
    """
    if (out / "training.json").is_file():  # written last: nothing is left to do
        return _metrics(read_json(out / "training.json"))
    device, launch = resolve_device(runtime.device), runtime.launch
    parallel = arrange(launch, device)
    vocabulary = load_tokenizer(tokenizer)
    data = _open_data(config, [tokens] if isinstance(tokens, Path) else list(tokens), vocabulary, out, parallel.layout.data)
    plan, logged = data.plan, data.logged_names()
    if init is None:
        read_special_tokens(tokenizer)  # what cannot be saved at the end is better refused now
    model = _make_model(config, vocabulary, init)
    launch = prepare_model(model, precision=config.precision, launch=launch, device=device)
    model = distribute(model, parallel, launch, device)

    def load(step: int) -> Batch:
        draw = plan.draw(step)
        share = own_share(np.arange(len(draw.row)), launch)
        return make_mixed_batch(data.train[draw.row_tokens], draw.source[share], draw.row[share])

    load_ahead = read_ahead(load)

    def batches_of_step(step: int) -> list[Batch]:
        batch = load_ahead(step)
        if dist.rank() == 0:
            data.say_what_repeats(step)
        return [part.to(device) for part in batch.split(num_micro_batches(batch.num_rows, batch.token_BT.shape[1], device, launch))]

    run = Run(
        num_steps=plan.num_steps,
        objective=functools.partial(next_token_objective, z_loss=config.z_loss, names=logged if len(data.names) > 1 else ()),
        batches_of_step=batches_of_step,
        validate=functools.partial(measure_sources, sources=data.held_out, token_bytes=vocabulary.token_bytes(), config=config),
        num_validations=config.num_validations if data.held_out else 0,
        learning_rate_factor=functools.partial(stage_factor, config=config, plan=plan),
        window_of_step=data.describe_step,
        new_levels=frozenset(plan.first_step(i) for i in range(1, len(plan.phases))),
        count_data=data.count_tokens if len(data.names) > 1 else None,
        sample=functools.partial(
            write_samples,
            tokenizer=vocabulary,
            prompts=data.beginnings(config.num_samples, num_tokens=PROMPT_TOKENS),
            num_tokens=config.sample_tokens,
        ),
        stage="pretrain",
        has_init=init is not None,
    )
    state = make_state(model, config, parallel)
    # What is read is part of what a run is: a snapshot of other tokens is refused, too.
    keep = {"keep_last": launch.keep_snapshots, "keep_every_steps": launch.keep_every_steps}
    snapshots = Snapshots(out / ".scratch", settings=f"{config.model_dump_json()} {' '.join(data.fingerprints)}", **keep)
    fit(state, run, config, snapshots=snapshots, runtime=runtime)
    training = {
        "steps": state.step,
        "tokens": state.tokens,
        "params": count_params(model.config),
        "epochs": round(max(plan.epochs(state.step).tolist()), 4),
        "padding_fraction": round(data.padding_fraction(), 6),
        "train_loss": final_loss(state),
        "skipped_steps": state.skipped,
        **spike_summary(state),
        "curve": [[row["step"], row["tokens"], row["bits_per_byte"]] for row in state.curve],
        "validation": state.curve,
        "samples": state.samples,
        "sources": data.describe(),
    }
    if (whole := gather_model(model)) is not None:
        save_model(whole, out, tokenizer=tokenizer, like=init)
        write_json(out / "training.json", training)
    dist.barrier()
    return _metrics(training)


def next_token_objective(model: Transformer, batch: Batch, *, z_loss: float, names: Sequence[str] = ()) -> LossTerms:
    """Next-token loss of a batch of packed rows, documents apart.

    With `names` of more than one source, also the sums `loss/NAME` and `weight/NAME` of each; the last name takes all
    sources beyond it.
    """
    hidden_BTD = model.hidden_states(batch.token_BT, position_BT=batch.position_BT, document_BT=batch.document_BT, max_runs=batch.max_runs)
    flat = (hidden_BTD.flatten(0, 1), model.head_weight(), batch.target_BT.flatten(), batch.weight_BT.flatten())
    if not names:
        return linear_next_token(*flat, z_loss=z_loss, compiled=model.compiled)
    assert batch.source_B is not None
    group_N = batch.source_B.clamp(max=len(names) - 1).repeat_interleave(batch.token_BT.shape[1])
    return linear_next_token(*flat, z_loss=z_loss, compiled=model.compiled, group_N=group_N, group_names=names)


def stage_factor(step: int, *, config: PretrainConfig, plan: Plan) -> float:
    """What the learning rate is multiplied by at `step` (from 0): by the stage's own schedule, else by the run's."""
    number = plan.phase_of(step)
    segment = config.stages[number].schedule
    if segment is None:
        return schedule_factor(step, plan.num_steps, config)
    return segment_factor(step - plan.first_step(number), segment, num_steps=plan.phases[number].num_steps)


def measure_sources(
    model: Transformer, *, sources: Mapping[str, TokenRows], token_bytes: np.ndarray, config: PretrainConfig
) -> dict[str, float]:
    """`measure` of all sources together and, where there are several, of each: `loss/NAME`, `bits_per_byte/NAME`."""
    places = -(-config.validation_tokens // len(sources))
    sums = {name: _sum_held_out(model, source, token_bytes, places=places) for name, source in sources.items()}
    whole = _held_out_numbers(np.sum(list(sums.values()), axis=0))
    if len(sources) == 1:
        return whole
    return whole | {f"{key}/{name}": value for name, found in sums.items() for key, value in _held_out_numbers(found).items()}


def measure(model: Transformer, *, source: TokenRows, token_bytes: np.ndarray, config: PretrainConfig) -> dict[str, float]:
    """Loss in nats a token, and bits a byte, of held-out rows: the first of a fixed shuffle, up to `validation_tokens` places.

    Bits per byte compares models whatever their tokenizer: what it costs to say the end of a document counts, and has no bytes.
    """
    return _held_out_numbers(_sum_held_out(model, source, token_bytes, places=config.validation_tokens))


def _sum_held_out(model: Transformer, source: TokenRows, token_bytes: np.ndarray, *, places: int) -> np.ndarray:
    """Nats, targets and bytes, float64 [3]."""
    device, packed = model.device, source.packed
    wanted = min(places // packed.row_tokens or packed.num_rows, packed.num_rows)
    rows = shuffled_rows(np.arange(wanted), num_rows=packed.num_rows, seed=0)
    size = micro_batch_rows(packed.row_tokens, device)
    batches = [make_batch(source, rows[i : i + size]) for i in range(0, len(rows), size)]
    num_bytes = sum(int(token_bytes[batch.target_BT[batch.weight_BT > 0].numpy()].sum()) for batch in batches)
    terms = sum_losses(model, (batch.to(device) for batch in batches), functools.partial(next_token_objective, z_loss=0.0))
    return np.array([float(terms.loss_sum), float(terms.weight), num_bytes])


def _held_out_numbers(sums: np.ndarray) -> dict[str, float]:
    nats, targets, num_bytes = sums.tolist()
    return {"loss": nats / max(targets, 1), "bits_per_byte": nats / math.log(2) / max(num_bytes, 1)}


def _open_data(config: PretrainConfig, folders: Sequence[Path], vocabulary: Tokenizer, out: Path, num_parts: int) -> TrainingData:
    names = config.names or [f"tokens{i or ''}" for i in (0, *range(2, len(folders) + 1))][: len(folders)]
    if len(names) != len(folders):
        raise ConfigError(f"pretrain: names = {names} names {len(names)} sources, but {len(folders)} are connected to the input `tokens`")
    phases = [(_batch_rows(stage, num_parts), stage.sequence_tokens, stage) for stage in config.stages]
    index = out / ".scratch" / "rows"
    if dist.rank() != 0:
        dist.barrier()  # rank 0 packs and hashes for all
    opening = functools.partial(open_verified, tokenizer_sha256=vocabulary.sha256, index=index)
    sets = [opening(folder, split="train") for folder in folders]
    held_out = {
        name: open_rows(found, row_tokens=config.sequence_tokens, index=index)
        for name, folder in zip(names, folders, strict=True)
        if (found := opening(folder, split="validation")).num_tokens
    }
    lengths = dict.fromkeys(row_tokens for _, row_tokens, _ in phases)
    train = {
        row_tokens: [open_rows(tokens, row_tokens=row_tokens, max_padding=MAX_PADDING, index=index) for tokens in sets]
        for row_tokens in lengths
    }
    if dist.rank() == 0:
        dist.barrier()
    weights = [[stage.mixture.get(name, 0.0) for name in names] if stage.mixture else [t.num_tokens for t in sets] for *_, stage in phases]
    for i, (name, folder, tokens) in enumerate(zip(names, folders, sets, strict=True)):
        if not tokens.num_tokens and (len(folders) == 1 or any(stage.mixture.get(name) for *_, stage in phases)):
            raise DataError(f"{folder}: its train split has no tokens to train on (source {names[i]})")
    if not all(any(row) for row in weights):
        raise DataError(f"{', '.join(map(str, folders))}: no train split has tokens to train on")
    plan = make_plan(
        [
            Phase(num_steps=max(1, round(stage.tokens / (rows * length))), batch_rows=rows, row_tokens=length, weights=weight)
            for (rows, length, stage), weight in zip(phases, weights, strict=True)
        ],
        {length: [source.packed.num_rows for source in sources] for length, sources in train.items()},
        rows_an_epoch={length: [source.packed.rows_an_epoch for source in sources] for length, sources in train.items()},
        seed=config.seed,
        max_epochs=config.max_epochs,
    )
    return TrainingData(names=names, train=train, held_out=held_out, fingerprints=[t.manifest_sha256 for t in sets], plan=plan)


def _batch_rows(stage: CurriculumStage, num_parts: int) -> int:
    batch_rows = stage.batch_tokens // stage.sequence_tokens
    if batch_rows < num_parts:
        raise ConfigError(
            f"batch_tokens = {stage.batch_tokens} holds {batch_rows} rows of sequence_tokens = {stage.sequence_tokens}; "
            f"{num_parts} processes need at least a row each"
        )
    return batch_rows


def _make_model(config: PretrainConfig, vocabulary: Tokenizer, init: Path | None) -> Transformer:
    if init is None and config.lora.rank:
        raise ConfigError(f"lora.rank = {config.lora.rank}: there is no `init` whose weights the adapters could be added to")
    longest = max(config.sequence_tokens, *(stage.sequence_tokens for stage in config.stages))
    if init is None:
        return Transformer(make_model_config(config.model, vocab_size=vocabulary.vocab_size, max_positions=longest), seed=config.seed)
    model = load_model(init)
    if model.config.vocab_size < vocabulary.vocab_size:
        raise DataError(
            f"{init}: has {model.config.vocab_size} tokens; the tokenizer of this run has {vocabulary.vocab_size}. Use the model's own."
        )
    if model.config.max_positions < longest:
        raise ConfigError(f"sequence_tokens = {longest} is more than the {model.config.max_positions} positions of {init}")
    add_adapters(model, config.lora, seed=config.seed)
    return model


def check_launch(config: PretrainConfig, launch: Launch, inputs: Mapping[str, Any]) -> list[str]:
    """What of a launch does not fit the model and the batches. The model of an `init` that is not made yet is not looked at."""
    init = inputs.get("init")
    model = None if init else make_model_config(config.model, vocab_size=1, max_positions=config.sequence_tokens)
    if init and (init / "config.json").is_file():
        model = read_config(init)
    misfits: dict[str, None] = {}  # in order, each once
    for stage in config.stages:
        rows, adapters = stage.batch_tokens // stage.sequence_tokens, config.lora.rank > 0
        misfits |= dict.fromkeys(find_misfits(launch, model, batch_rows=rows, row_tokens=stage.sequence_tokens, lora=adapters))
    return list(misfits)


def _metrics(training: Mapping[str, Any]) -> dict[str, Any]:
    last = training["validation"][-1] if training["validation"] else {}
    plain = {name: value for name, value in training.items() if isinstance(value, int | float)}
    held_out = {f"validation_{name}": value for name, value in last.items() if name.partition("/")[0] in ("loss", "bits_per_byte")}
    by_source = {f"tokens/{name}": source["tokens"] for name, source in training["sources"].items()} if len(training["sources"]) > 1 else {}
    return {**plain, **by_source, **held_out}


STAGE = Stage(
    name="pretrain",
    config_type=PretrainConfig,
    run=pretrain,
    inputs={"tokens": Slot("tokens", many=True), "tokenizer": Slot("tokenizer"), "init": Slot("checkpoint", optional=True)},
    output="checkpoint",
    version=3,
    spmd=True,
    check_launch=check_launch,
)
