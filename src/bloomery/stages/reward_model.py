"""reward_model: a language model becomes one that says how good an answer is, from pairs or rankings of answers, or people's votes.

Writes a Hugging Face folder of sequence classification with one label, whose rewards have mean 0 and deviation 1 over reference
answers, training.json with accuracy and calibration on held-out comparisons, and reliability.svg.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: metrics are plain JSON values

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from bloomery.align.preference_formats import LabelledRow, RankedRow
from bloomery.align.preference_rows import preference_files, read_pairs, read_preferences, read_rankings
from bloomery.align.reward_model import RankBatch, RankedIds, make_rank_batch, ranking_rewards, score_rows, score_states, split_rankings
from bloomery.align.reward_report import compare, draw_reliability, report_accuracy
from bloomery.align.reward_scale import Scaling, normalise_head
from bloomery.align.votes import Votes, rankings_of_votes
from bloomery.core import dist
from bloomery.core.conversation import Message, read_conversations
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_json, write_text
from bloomery.core.plots import draw_curves
from bloomery.core.stage import Launch, Runtime, Slot, Stage
from bloomery.core.votes import read_votes
from bloomery.model.architectures import read_config
from bloomery.model.device import resolve_device
from bloomery.model.heads import replace_head
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Transformer
from bloomery.objectives.reward import RankingLoss, Ties, ranking_loss
from bloomery.objectives.terms import LossTerms
from bloomery.tokens.loader import rows_of_step
from bloomery.tokens.renderer import WholeRenderer, load_whole_renderer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.train.checkpoint import Snapshots
from bloomery.train.compute import prepare_model
from bloomery.train.fit import Run, TrainingConfig, final_loss, fit, make_state
from bloomery.train.layout import find_misfits
from bloomery.train.optimizer import OptimizerName
from bloomery.train.schedule import Decay
from bloomery.train.sharding import arrange, distribute, gather_model
from bloomery.train.spikes import spike_summary
from bloomery.train.state import TrainState
from bloomery.train.step import MICRO_BATCH_TOKENS, own_share, sum_losses

MAX_REFERENCES = 2000
"""Reference answers that rewards are normalised on; more say nothing more."""


class RewardModelConfig(TrainingConfig):
    """A reward model from comparisons of answers."""

    optimizer: OptimizerName = "adamw"
    learning_rate: PositiveFloat = 1e-4
    embedding_learning_rate: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.0
    decay: Decay = "linear"
    loss: RankingLoss = "bradley_terry"
    """"bradley_terry": all pairs of a prompt's answers; "plackett_luce": the ranking, choice after choice. Of pairs they are one."""
    ties: Ties = "left_out"
    """What answers of equal rank say: nothing, or ("even") that their rewards should be equal."""
    margin_weight: NonNegativeFloat = 0.0
    """A pair's `margin`, times this, is what its better answer must be ahead by; 0 = margins are not trained on. "bradley_terry" only."""
    centering: NonNegativeFloat = 0.01
    """Weight of the squared sum of a pair's rewards, which holds them near 0."""
    normalise: Literal["none", "references"] = "references"
    """"references": afterwards rewards are shifted and scaled to mean 0 and deviation 1 over the reference answers: those of
    the slot `references`, else the best held-out answers (without any, the best ones trained on)."""
    format: str = "auto"
    """Of the files of `pairs`; "auto" tells it by their columns."""
    votes: Votes = "majority"
    """What several annotators of one item of `labels` say together: what more than half of them say (else a tie; of rankings the mean
    rank), or ("soft") the share of them who say it as the pair's `probability`, for "bradley_terry" only."""
    max_pairs: NonNegativeInt = 0
    """At most so many pairs are trained on, a ranking of K answers counted as C(K, 2); 0 = all. Fewer are a part of more."""
    accuracy_at_pairs: tuple[PositiveInt, ...] = ()
    """Also train models from so many pairs each, with the same settings, only to see how accuracy grows with their number."""
    epochs: PositiveFloat = 1.0
    """Passes over the comparisons; not read when `steps` is given. A second one overfits (arXiv:2203.02155, app. C.2)."""
    steps: NonNegativeInt = 0
    """How many steps to train; 0 = as many as `epochs` takes."""
    batch_prompts: PositiveInt = 64
    """Prompts in a step, each with all its answers, all processes together."""

    held_out_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the prompts, by a hash of them, whose comparisons are kept for validation."""
    num_validations: PositiveInt = 4

    @model_validator(mode="after")
    def _check_margins(self) -> "RewardModelConfig":
        if self.margin_weight and self.loss != "bradley_terry":
            raise ValueError(f'margin_weight is defined for loss = "bradley_terry" only; found loss = "{self.loss}"')
        if self.votes == "soft" and self.loss != "bradley_terry":
            raise ValueError(f'votes = "soft" is defined for loss = "bradley_terry" only; found loss = "{self.loss}"')
        return self


class Comparisons(NamedTuple):
    """Comparisons as ids, those to train on in a fixed random order; and how many were left out: too long to read, or all ties."""

    train: list[RankedIds]
    held_out: list[RankedIds]
    num_too_long: int
    num_tied: int


class Trained(NamedTuple):
    """A trained model, whole, on rank 0 (elsewhere None), and its run."""

    model: Transformer | None
    state: TrainState


def reward_model(
    config: RewardModelConfig,
    *,
    init: Path,
    pairs: Sequence[Path] = (),
    labels: Sequence[Path] = (),
    references: Sequence[Path] = (),
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Writes a reward model's folder. Raises DataError for rows that are no comparisons, or if none is left to train on."""
    if (out / "training.json").is_file():  # written last: nothing is left to do
        return _metrics(read_json(out / "training.json"))
    device, render = resolve_device(runtime.device), load_whole_renderer(init, load_tokenizer(init))
    found = read_comparisons(config, pairs, render, max_tokens=read_config(init).max_positions, labels=labels)
    if not found.train:
        raise DataError(
            f"{', '.join(map(str, [*pairs, *labels]))}: found no comparison to train on ({len(found.held_out)} held out, "
            f"{found.num_too_long} longer than the model reads, {found.num_tied} without a better and a worse answer)"
        )
    by_pairs = {}
    for count in config.accuracy_at_pairs:
        by_pairs[str(count)] = _accuracy_at(count, config, found, init, out, runtime)
    trained = _train(config, first_pairs(found.train, config.max_pairs), found.held_out, init, out / ".scratch" / "run", runtime)
    training: dict[str, Any] = {
        **_describe_run(trained.state, found, first_pairs(found.train, config.max_pairs)),
        "accuracy_by_pairs": by_pairs,
    }
    if trained.model is not None:
        model = trained.model.to(device)
        model.compute_dtype = torch.float32
        scaling = _normalise(config, model, found, _reference_ids(references, render))
        training["scaling"] = scaling._asdict() if scaling is not None else None
        training["held_out"] = _measure_whole(model, found.held_out, scaling)
        save_model(model, out, tokenizer=init, like=init)
        _draw(training, out)
        write_json(out / "training.json", training)
    dist.barrier()
    return _metrics(read_json(out / "training.json"))


def read_comparisons(
    config: RewardModelConfig, paths: Sequence[Path], render: WholeRenderer, *, max_tokens: int, labels: Sequence[Path] = ()
) -> Comparisons:
    """The comparisons of files of any known format and of votes, split by a hash of the prompt (of the answers, where all have one prompt).

    Raises DataError naming file and line of a row that is none.
    """
    rows = list(_read_rows(paths, config.format))
    rows += rankings_of_votes(read_votes(list(labels)), votes=config.votes) if labels else []
    has_one_prompt = len({_digest(row.prompt, 0) for row in rows}) == 1
    keyed: list[tuple[bytes, RankedIds]] = []
    found = Comparisons([], [], 0, 0)
    for row in rows:
        whole = [*row.prompt, *(message for answer in row.completions for message in answer)]
        is_held_out = int.from_bytes(_digest(whole if has_one_prompt else row.prompt, 0), "big") < config.held_out_fraction * 2**64
        if len(set(row.ranks)) == 1 and (is_held_out or config.ties == "left_out"):
            found = found._replace(num_tied=found.num_tied + 1)
            continue
        ranking = render_ranking(row, render)
        if ranking.num_places > max_tokens:
            found = found._replace(num_too_long=found.num_too_long + 1)
        elif is_held_out:
            found.held_out.append(ranking)
        else:
            keyed.append((_digest(whole, config.seed), ranking))
    return found._replace(train=[ranking for _, ranking in sorted(keyed, key=lambda item: item[0])])


def _read_rows(paths: Sequence[Path], format: str) -> Iterator[RankedRow]:
    """Rankings; labelled answers as pairs of a desirable and an undesirable one: all answers to one prompt may be thousands."""
    for path in preference_files(list(paths)):
        if isinstance(next(read_preferences(path, format=format), None), LabelledRow):
            for pair in read_pairs(path, format=format):
                yield RankedRow(pair.prompt, [pair.chosen, pair.rejected], [1, 2])
        else:
            yield from read_rankings(path, format=format)


def render_ranking(row: RankedRow, render: WholeRenderer) -> RankedIds:
    """The answers to a prompt as ids, each after the prompt."""
    answers = [render([*row.prompt, *answer]) for answer in row.completions]
    return RankedIds(answers, row.ranks, row.margin or 0.0, 0.0 if row.probability is None else 1.0 - row.probability)


def first_pairs(rankings: Sequence[RankedIds], num_pairs: int) -> list[RankedIds]:
    """The first rankings that have no more than `num_pairs` pairs together, one at least; 0 = all."""
    kept: list[RankedIds] = []
    total = 0
    for ranking in rankings:
        total += len(ranking.ranks) * (len(ranking.ranks) - 1) // 2
        if num_pairs and total > num_pairs and kept:
            break
        kept.append(ranking)
    return kept


def reward_objective(model: Transformer, batch: RankBatch, *, config: RewardModelConfig) -> LossTerms:
    """The configured loss of a batch of comparisons."""
    margin_N = config.margin_weight * batch.margin_N if config.margin_weight else None
    reward_NK = ranking_rewards(model, batch)
    wrong_N = batch.wrong_N if config.loss == "bradley_terry" else None
    return ranking_loss(
        reward_NK, batch.rank_NK, loss=config.loss, margin_N=margin_N, wrong_N=wrong_N, centering=config.centering, ties=config.ties
    )


def _train(
    config: RewardModelConfig, train: Sequence[RankedIds], held_out: Sequence[RankedIds], init: Path, scratch: Path, runtime: Runtime
) -> Trained:
    device, launch = resolve_device(runtime.device), runtime.launch
    parallel = arrange(launch, device)
    body = load_model(init)
    add_adapters(body, config.lora, seed=config.seed)
    model = replace_head(body, seed=config.seed)
    model.lora = body.lora
    model = model.to(device)
    launch = prepare_model(model, precision=config.precision, launch=launch, device=device)
    model = distribute(model, parallel, launch, device)
    places = launch.micro_batch_tokens or MICRO_BATCH_TOKENS[device.type == "cuda"]
    rows_of = functools.partial(rows_of_step, num_rows=len(train), batch_rows=config.batch_prompts, seed=config.seed)

    def make_batches(rankings: Sequence[RankedIds]) -> list[RankBatch]:
        return [make_rank_batch([rankings[i] for i in part], device) for part in split_rankings(rankings, places=places)]

    objective = functools.partial(reward_objective, config=config)
    validation = make_batches(held_out)
    run = Run(
        num_steps=config.steps or max(1, round(config.epochs * len(train) / config.batch_prompts)),
        objective=objective,
        batches_of_step=lambda step: make_batches([train[i] for i in own_share(rows_of(step), launch)]),
        validate=lambda model: _mean_metrics(sum_losses(model, validation, objective)),
        num_validations=config.num_validations if validation else 0,
        window_of_step=lambda step: {"comparisons": rows_of(step).tolist()},
        stage="reward_model",
    )
    state = make_state(model, config, parallel)
    keep = {"keep_last": launch.keep_snapshots, "keep_every_steps": launch.keep_every_steps}
    snapshots = Snapshots(scratch, settings=f"{config.model_dump_json()} {len(train)}", **keep)
    fit(state, run, config, snapshots=snapshots, runtime=runtime)
    return Trained(gather_model(model), state)


def _accuracy_at(
    num_pairs: int, config: RewardModelConfig, found: Comparisons, init: Path, out: Path, runtime: Runtime
) -> dict[str, float]:
    """Accuracy of a model trained on the first so many pairs; kept in the work folder, for a run that is interrupted later."""
    path = out / ".scratch" / f"pairs-{num_pairs}.json"
    if not path.is_file():
        train = first_pairs(found.train, num_pairs)
        trained = _train(config, train, found.held_out, init, path.with_suffix(""), runtime)
        if trained.model is not None:
            model = trained.model.to(resolve_device(runtime.device))
            model.compute_dtype = torch.float32
            report = _measure_whole(model, found.held_out, None)
            kept = {name: report[name] for name in ("accuracy", "accuracy_low", "accuracy_high") if name in report}
            write_json(path, {"pairs": _count_pairs(train), **kept})
        dist.barrier()
    measured: dict[str, float] = read_json(path)
    return measured


def _normalise(config: RewardModelConfig, model: Transformer, found: Comparisons, references: Sequence[Sequence[int]]) -> Scaling | None:
    if config.normalise == "none":
        return None
    best = [ids for ranking in found.held_out or found.train for ids, rank in zip(ranking.answers, ranking.ranks, strict=True) if rank == 1]
    chosen = (references or best)[:MAX_REFERENCES]
    return normalise_head(model, score_states(model, chosen))


def _measure_whole(model: Transformer, rankings: Sequence[RankedIds], scaling: Scaling | None) -> dict[str, Any]:
    """What the finished model says of comparisons; see reward_report.py."""
    flat = iter(score_rows(model, [ids for ranking in rankings for ids in ranking.answers]))
    rewards = [[next(flat) for _ in ranking.answers] for ranking in rankings]
    compared = compare(rewards, [ranking.ranks for ranking in rankings], [ranking.margin for ranking in rankings])
    return report_accuracy(compared, scale=scaling.deviation if scaling is not None else 1.0)


def _reference_ids(paths: Sequence[Path], render: WholeRenderer) -> list[list[int]]:
    if not paths:
        return []
    rows = [row["messages"] for row in read_conversations(list(paths)) if row["messages"][-1]["role"] == "assistant"]
    if not rows:
        raise DataError(f"references: no conversation of {', '.join(map(str, paths))} ends with an answer")
    return [render(messages) for messages in rows[:MAX_REFERENCES]]


def _describe_run(state: TrainState, found: Comparisons, train: Sequence[RankedIds]) -> dict[str, Any]:
    return {
        "steps": state.step,
        "tokens": state.tokens,
        "comparisons": len(train),
        "pairs": _count_pairs(train),
        "held_out_comparisons": len(found.held_out),
        "too_long": found.num_too_long,
        "tied": found.num_tied,
        "train_loss": final_loss(state),
        "skipped_steps": state.skipped,
        **spike_summary(state),
        "curve": [[row["step"], row["tokens"], row["loss"]] for row in state.curve],
        "validation": state.curve,
    }


def _draw(training: Mapping[str, Any], out: Path) -> None:
    held_out, by_pairs = training["held_out"], training["accuracy_by_pairs"]
    if held_out["pairs"]:
        write_text(out / "reliability.svg", draw_reliability(held_out))
        points = [*((row["pairs"], row["accuracy"]) for row in by_pairs.values()), (training["pairs"], held_out["accuracy"])]
        if by_pairs:
            series = {"accuracy": sorted(points)}
            write_text(out / "accuracy_by_pairs.svg", draw_curves(series, x_label="pairs", y_label="accuracy on held-out pairs"))


def _mean_metrics(terms: LossTerms) -> dict[str, float]:
    return {name: float(value / terms.weight) for name, value in {"loss": terms.loss_sum, **terms.metrics}.items()}


def _count_pairs(rankings: Sequence[RankedIds]) -> int:
    return sum(len(ranking.ranks) * (len(ranking.ranks) - 1) // 2 for ranking in rankings)


def _digest(messages: Sequence[Message], seed: int) -> bytes:
    text = "\x00".join([str(seed), *(message.get("content") or "" for message in messages)])
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def _metrics(training: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in training.items() if isinstance(value, int | float)}
    held_out = {f"held_out_{name}": value for name, value in training["held_out"].items() if isinstance(value, int | float)}
    by_pairs = {f"accuracy_at/{count}": row["accuracy"] for count, row in training["accuracy_by_pairs"].items() if "accuracy" in row}
    scaling = {f"scaling_{name}": value for name, value in (training["scaling"] or {}).items()}
    return {**plain, **held_out, **by_pairs, **scaling}


def check_launch(config: RewardModelConfig, launch: Launch, inputs: Mapping[str, Any]) -> list[str]:
    """What of a launch does not fit: a reward is read at one place of a row, so only rows can be shared."""
    inside = {"pipeline": launch.pipeline, "tensor": launch.tensor}
    refused = [f"launch: {name} = {size} is not for reward_model; it takes data" for name, size in inside.items() if size > 1]
    return refused or find_misfits(launch, None, batch_rows=config.batch_prompts, row_tokens=None)


STAGE = Stage(
    name="reward_model",
    config_type=RewardModelConfig,
    run=reward_model,
    inputs={
        "init": Slot("checkpoint"),
        "pairs": Slot("pairs", many=True, optional=True),
        "labels": Slot("labels", many=True, optional=True),
        "references": Slot("conversations", many=True, optional=True),
    },
    output="reward_model",
    one_of=("pairs", "labels"),
    version=1,
    spmd=True,
    check_launch=check_launch,
)
