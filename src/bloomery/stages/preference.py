"""preference: a chat model that prefers the better of two answers, learnt from the answers themselves, without a reward model.

DPO and its kin, SimPO and ORPO learn from pairs, KTO from answers that are each called good or bad. The reference is the
checkpoint that the training starts from, or another; its log-probabilities of all answers are computed once and kept
(align/reference.py). Writes a Hugging Face folder and training.json.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple  # Any: metrics are plain JSON values

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from bloomery.align.answers import batches_by_length
from bloomery.align.preference_data import (
    Examples,
    RenderedLabel,
    RenderedPair,
    mixed_rows_of_step,
    num_places,
    render_labels,
    render_pairs,
    thin_out,
)
from bloomery.align.preference_formats import LabelledRow, PairRow
from bloomery.align.preference_loss import (
    LabelBatch,
    PairBatch,
    PairLoss,
    label_objective,
    make_label_batch,
    make_pair_batch,
    pair_objective,
    swap_answer,
    with_reference_point,
)
from bloomery.align.preference_rows import read_labelled, read_pairs
from bloomery.align.reference import cached_reference_logps
from bloomery.align.votes import BothBad, Votes, VoteTies, labels_of_votes, pairs_of_votes
from bloomery.core import dist
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_json
from bloomery.core.stage import Launch, Runtime, Slot, Stage
from bloomery.core.votes import read_votes
from bloomery.generate.samples import conversation_prompts, write_samples
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Transformer
from bloomery.objectives.kto import Weights, balanced_weights, is_balanced, mismatch
from bloomery.tokens.chat import Rendered
from bloomery.tokens.loader import rows_of_step
from bloomery.tokens.renderer import Renderer, load_renderer
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.checkpoint import Snapshots
from bloomery.train.compute import prepare_model
from bloomery.train.fit import Run, TrainingConfig, final_loss, fit, group_means, make_state
from bloomery.train.layout import find_misfits
from bloomery.train.optimizer import OptimizerName
from bloomery.train.schedule import Decay
from bloomery.train.sharding import Parallel, arrange, distribute, gather_model
from bloomery.train.spikes import spike_summary
from bloomery.train.step import MICRO_BATCH_TOKENS, B, Objective, own_share, sum_losses

log = logging.getLogger(__name__)

Loss = PairLoss | Literal["kto"]
REFERENCE_FREE = ("simpo", "orpo")
SMOOTHED = ("sigmoid", "robust", "sigmoid_norm")
SOFT = ("sigmoid", "sigmoid_norm")
"""Losses that read a pair's `probability`."""


class PreferenceConfig(TrainingConfig):
    """Learning from preferences without a reward model."""

    optimizer: OptimizerName = "adamw"
    learning_rate: PositiveFloat = 1e-4
    embedding_learning_rate: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.0
    decay: Decay = "linear"
    loss: Loss = "sigmoid"
    """"sigmoid" is DPO, "robust", "sigmoid_norm", "ipo" and "hinge" its kin; "simpo" and "orpo" need no reference; "kto" learns
    from labelled answers. See docs/preference.md for the equations and when to use which."""
    beta: PositiveFloat = 0.1
    """How dear it is to leave the reference: small lets the model go far. The scale of SimPO's reward (2 to 2.5 there), the weight
    of ORPO's odds ratio."""
    gamma: NonNegativeFloat = 0.5
    """SimPO: the margin that a pair's rewards are to have."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The share of pairs that may be labelled the wrong way round: conservative DPO with "sigmoid" and "sigmoid_norm", unbiased
    with "robust". A pair whose row has a `probability` of being right is smoothed by that instead ("sigmoid", "sigmoid_norm")."""
    nll_weight: NonNegativeFloat = 0.0
    """Weight of the chosen answer's mean negative log-probability, added to the loss of pairs (RPO, arXiv:2404.19733, eq. 1)."""
    desirable_weight: NonNegativeFloat = 0.0
    """KTO: lambda_D; 0 = by the rule that n_D lambda_D / (n_U lambda_U) lies between 1 and 4/3."""
    undesirable_weight: NonNegativeFloat = 0.0
    """KTO: lambda_U; 0 = by the same rule. Both are given, or none."""
    desirable_per_undesirable: NonNegativeFloat = 0.0
    """KTO: desirable answers that are kept for each undesirable one (0.1 is 1:10); 0 = all labels are."""
    format: str = "auto"
    """Of the files of `pairs`; "auto" tells it by their columns. See docs/preference.md for the names."""
    votes: Votes = "majority"
    """What several annotators of one item of `labels` say together: what more than half of them say (else a tie; of rankings the mean
    rank), or ("soft") the share of them who say it as the pair's `probability`. KTO's labels are always the majority's."""
    ties: VoteTies = "left_out"
    """What a tie of `labels` says: nothing, or ("even") that both are as good, a pair of probability 0.5 ("sigmoid", "sigmoid_norm")."""
    both_bad: BothBad = "undesirable"
    """KTO: what "both bad" in `labels` says: two undesirable answers, or nothing. To losses of pairs it is a tie."""
    epochs: PositiveFloat = 1.0
    """Passes over the pairs; not read when `steps` is given."""
    steps: NonNegativeInt = 0
    """How many steps to train; 0 = as many as `epochs` takes."""
    batch_pairs: PositiveInt = 64
    """Pairs in a step, all processes together; of KTO's labelled answers twice as many."""

    held_out_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the pairs, by a hash of their prompt, that is kept for validation."""
    num_validations: PositiveInt = 4

    @model_validator(mode="after")
    def _check_loss(self) -> "PreferenceConfig":
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ValueError(f'label_smoothing is defined for loss = {", ".join(SMOOTHED)}; found loss = "{self.loss}"')
        if self.nll_weight and self.loss in ("orpo", "kto"):
            raise ValueError(f'nll_weight is defined for losses of pairs that have no such term; found loss = "{self.loss}"')
        if (self.desirable_weight or self.undesirable_weight or self.desirable_per_undesirable) and self.loss != "kto":
            raise ValueError(f'weights and numbers of labels are for loss = "kto"; found loss = "{self.loss}"')
        if self.ties == "even" and self.loss not in SOFT:
            raise ValueError(f'ties = "even" is defined for loss = {", ".join(SOFT)}; found loss = "{self.loss}"')
        if (self.desirable_weight == 0) != (self.undesirable_weight == 0):
            raise ValueError("give both desirable_weight and undesirable_weight, or none of them")
        return self


class Sources(NamedTuple):
    """Where preferences come from: files or an artifact of pairs, and files of votes."""

    pairs: Path | None
    labels: tuple[Path, ...] = ()

    def read_pairs(self, config: PreferenceConfig) -> Iterator[PairRow]:
        """All of them as pairs."""
        if self.pairs is not None:
            yield from read_pairs(self.pairs, format=config.format)
        if self.labels:
            yield from pairs_of_votes(read_votes(self.labels), votes=config.votes, ties=config.ties)

    def read_labelled(self, config: PreferenceConfig) -> Iterator[LabelledRow]:
        """All of them as labelled answers."""
        if self.pairs is not None:
            yield from read_labelled(self.pairs, format=config.format)
        if self.labels:
            yield from labels_of_votes(read_votes(self.labels), both_bad=config.both_bad)

    def __str__(self) -> str:
        return ", ".join(map(str, (*filter(None, [self.pairs]), *self.labels)))


class Plan(NamedTuple, Generic[B]):
    """What a loss trains on: which examples a step has, how many there are, and the micro-batches of any of them."""

    rows_of: Callable[[int], np.ndarray]
    make_batches: Callable[[np.ndarray], list[B]]
    objective: Objective[B]
    prepare: Callable[[Transformer, Sequence[B]], Sequence[B]] | None
    num_train: int
    num_held_out: int
    batch_rows: int
    counts: Mapping[str, int]
    answers: list[Rendered]
    """Of the held-out examples, to show what the model writes."""


ReferenceOf = Callable[[Sequence[Rendered]], np.ndarray]


def preference(
    config: PreferenceConfig,
    *,
    init: Path,
    pairs: Path | None = None,
    labels: Sequence[Path] = (),
    out: Path,
    runtime: Runtime,
    reference: Path | None = None,
) -> Mapping[str, Any]:
    """Writes a checkpoint folder. Raises DataError for rows that are no preferences, or if none is left to train on."""
    if (out / "training.json").is_file():  # written last: nothing is left to do
        return _metrics(read_json(out / "training.json"))
    device, launch = resolve_device(runtime.device), runtime.launch
    parallel = arrange(launch, device)
    model = load_model(init)
    add_adapters(model, config.lora, seed=config.seed)
    model = model.to(device)
    launch = prepare_model(model, precision=config.precision, launch=launch, device=device)
    tokenizer = load_tokenizer(init)
    places = launch.micro_batch_tokens or MICRO_BATCH_TOKENS[device.type == "cuda"]
    make_plan = plan_labels if config.loss == "kto" else plan_pairs
    reference_of = _make_reference(model, init, reference, tokenizer, runtime)
    # Before the model is spread: of the reference each process reads answers by itself.
    sources = Sources(pairs, tuple(labels))
    plan: Plan[Any] = make_plan(config, sources, load_renderer(init, tokenizer), model, reference_of, parallel=parallel, places=places)
    model = distribute(model, parallel, launch, device)
    held_out = plan.make_batches(np.arange(plan.num_train, plan.num_train + plan.num_held_out))
    prompts = conversation_prompts(plan.answers, count=config.num_samples)
    run = Run(
        num_steps=config.steps or max(1, round(config.epochs * plan.num_train / plan.batch_rows)),
        objective=plan.objective,
        batches_of_step=lambda step: plan.make_batches(own_share(plan.rows_of(step), launch)),
        prepare=plan.prepare,
        validate=functools.partial(measure, batches=held_out, objective=plan.objective, prepare=plan.prepare),
        num_validations=config.num_validations if held_out else 0,
        window_of_step=lambda step: {"pairs": plan.rows_of(step).tolist()},
        sample=functools.partial(write_samples, tokenizer=tokenizer, prompts=prompts, num_tokens=config.sample_tokens),
        stage="preference",
    )
    state = make_state(model, config, parallel)
    keep = {"keep_last": launch.keep_snapshots, "keep_every_steps": launch.keep_every_steps}
    snapshots = Snapshots(out / ".scratch", settings=config.model_dump_json(), **keep)
    fit(state, run, config, snapshots=snapshots, runtime=runtime)
    training = {
        "steps": state.step,
        "tokens": state.tokens,
        **plan.counts,
        "train_loss": final_loss(state),
        "skipped_steps": state.skipped,
        **spike_summary(state),
        "samples": state.samples,
        "curve": [[row["step"], row["tokens"], row["loss"]] for row in state.curve],
        "validation": state.curve,
    }
    if (whole := gather_model(model)) is not None:
        save_model(whole, out, tokenizer=init, like=init)
        write_json(out / "training.json", training)
    dist.barrier()
    return _metrics(training)


def plan_pairs(
    config: PreferenceConfig,
    sources: Sources,
    render: Renderer,
    model: Transformer,
    reference_of: ReferenceOf,
    *,
    parallel: Parallel,
    places: int,
) -> Plan[PairBatch]:
    """Pairs for every loss but KTO."""
    rows = sources.read_pairs(config)
    found = render_pairs(rows, render, max_tokens=model.config.max_positions, held_out_fraction=config.held_out_fraction)
    _check_number(found, sources, "pairs", at_least=parallel.layout.data)
    everything = [*found.train, *found.held_out]
    answers = [answer for pair in everything for answer in pair.answers]
    reference_N2 = np.zeros((len(everything), 2)) if config.loss in REFERENCE_FREE else reference_of(answers).reshape(-1, 2)
    num_tokens = [sum(map(num_places, pair.answers)) for pair in everything]

    def make_batches(indices: np.ndarray) -> list[PairBatch]:
        parts = [indices[part] for part in batches_by_length([num_tokens[i] for i in indices], places)]
        return [make_pair_batch([everything[i] for i in part], reference_N2[part], model.device) for part in parts]

    assert config.loss != "kto"
    objective = functools.partial(
        pair_objective,
        loss=config.loss,
        beta=config.beta,
        gamma=config.gamma,
        label_smoothing=config.label_smoothing,
        nll_weight=config.nll_weight,
    )
    return Plan(
        rows_of=functools.partial(rows_of_step, num_rows=len(found.train), batch_rows=config.batch_pairs, seed=config.seed),
        make_batches=make_batches,
        objective=objective,
        prepare=None,
        num_train=len(found.train),
        num_held_out=len(found.held_out),
        batch_rows=config.batch_pairs,
        counts={"pairs": len(found.train), "held_out_pairs": len(found.held_out), "too_long_pairs": found.num_too_long},
        answers=[pair.chosen for pair in found.held_out],
    )


def plan_labels(
    config: PreferenceConfig,
    sources: Sources,
    render: Renderer,
    model: Transformer,
    reference_of: ReferenceOf,
    *,
    parallel: Parallel,
    places: int,
) -> Plan[LabelBatch]:
    """Labelled answers for KTO, and for each a mismatched one."""
    rows = sources.read_labelled(config)
    found = render_labels(rows, render, max_tokens=model.config.max_positions, held_out_fraction=config.held_out_fraction)
    train = thin_out(found.train, desirable_per_undesirable=config.desirable_per_undesirable)
    held_out = found.held_out if len(found.held_out) > 1 else []
    _check_number(found._replace(train=train), sources, "labelled answers", at_least=max(2, parallel.layout.data))
    labels = np.array([example.label for example in train])
    batch_rows = 2 * config.batch_pairs
    weights = choose_weights(config, labels, sources)
    everything = [*train, *held_out]
    max_places = model.config.max_positions
    mismatched = [cut_answer(answer, max_places) for part in (train, held_out) if part for answer in mismatched_answers(part)]
    reference_N, mismatched_reference_N = reference_of([example.answer for example in everything]), reference_of(mismatched)
    num_tokens = [num_places(example.answer) for example in everything]

    def make_batches(indices: np.ndarray) -> list[LabelBatch]:
        batches = []
        for chosen in batches_by_length([num_tokens[i] for i in indices], places):
            part = indices[chosen]
            examples, others = [everything[i] for i in part], [mismatched[i] for i in part]
            batches.append(make_label_batch(examples, reference_N[part], others, mismatched_reference_N[part], model.device))
        return batches

    counts = {"labels": len(train), "desirable": int(labels.sum()), "undesirable": int((~labels).sum())}
    return Plan(
        rows_of=functools.partial(mixed_rows_of_step, labels=labels, batch_rows=batch_rows, seed=config.seed),
        make_batches=make_batches,
        objective=functools.partial(label_objective, beta=config.beta, weights=weights),
        prepare=functools.partial(with_reference_point, parallel=parallel),
        num_train=len(train),
        num_held_out=len(held_out),
        batch_rows=batch_rows,
        counts={**counts, "held_out_labels": len(held_out), "too_long_labels": found.num_too_long},
        answers=[example.answer for example in held_out],
    )


def choose_weights(config: PreferenceConfig, labels: np.ndarray, sources: Sources) -> Weights:
    """lambda_D and lambda_U: as configured, with a warning where they do not balance the labels, or by the rule.

    Raises DataError for labels of one kind, or so few of one that a batch might have none: no reference point can tell
    them from the others.
    """
    desirable, batch_rows = int(labels.sum()), 2 * config.batch_pairs
    undesirable, scarce = len(labels) - desirable, min(desirable, len(labels) - desirable)
    found = f"{sources}: found {desirable} desirable and {undesirable} undesirable answers"
    if scarce == 0:
        raise DataError(f"{found}; KTO learns from both kinds")
    if scarce * batch_rows < len(labels):
        needed = -(-len(labels) // (2 * scarce))
        raise DataError(f"{found}, so a batch of {batch_rows} may have one kind only; batch_pairs = {needed} always has both")
    if not config.desirable_weight:
        return balanced_weights(desirable, undesirable)
    weights = Weights(config.desirable_weight, config.undesirable_weight)
    if not is_balanced(desirable, undesirable, weights):
        rule = balanced_weights(desirable, undesirable)
        problem = "n_D desirable_weight / (n_U undesirable_weight) is not between 1 and 4/3"
        log.warning("%s: %s; the rule gives desirable_weight = %g, undesirable_weight = %g", found, problem, *rule)
    return weights


def mismatched_answers(labels: Sequence[RenderedLabel]) -> list[Rendered]:
    """Each example's prompt with the answer of another, for the reference point."""
    partners = mismatch([example.prompt for example in labels])
    return [swap_answer(example, labels[partner]) for example, partner in zip(labels, partners, strict=True)]


def cut_answer(answer: Rendered, max_places: int) -> Rendered:
    """A mismatched answer that the model can read: a long prompt with a long answer may be too long for it together."""
    return Rendered(answer.ids[: max_places + 1], answer.loss_mask[: max_places + 1])


def measure(
    model: Transformer,
    *,
    batches: Sequence[B],
    objective: Objective[B],
    prepare: Callable[[Transformer, Sequence[B]], Sequence[B]] | None,
) -> dict[str, float]:
    """Loss, accuracy, margin and whatever else the objective tells, on held-out examples."""
    terms = sum_losses(model, batches if prepare is None else prepare(model, batches), objective)
    means = group_means({name: float(value / terms.weight) for name, value in {"loss": terms.loss_sum, **terms.metrics}.items()})
    if "reward/desirable" in means and "reward/undesirable" in means:
        means["margin"] = means["reward/desirable"] - means["reward/undesirable"]
    return means


def _make_reference(model: Transformer, init: Path, reference: Path | None, tokenizer: Tokenizer, runtime: Runtime) -> ReferenceOf:
    if reference is not None and load_tokenizer(reference).sha256 != tokenizer.sha256:
        raise DataError(f"{reference}: its tokenizer is not that of {init}, so its log-probabilities would be of other tokens")

    def make_model() -> Transformer:
        if reference is None:
            return model
        other = load_model(reference).to(model.device)
        other.compute_dtype = model.compute_dtype
        return other

    computed_in = f"{model.compute_dtype} on {model.device.type}"
    return functools.partial(
        cached_reference_logps, checkpoint=reference or init, computed_in=computed_in, make_model=make_model, runtime=runtime
    )


def _check_number(found: Examples[RenderedPair] | Examples[RenderedLabel], sources: Sources, what: str, *, at_least: int) -> None:
    if len(found.train) < at_least:
        too_long = f"{found.num_too_long} longer than the model reads"
        raise DataError(f"{sources}: found {len(found.train)} {what} to train on, {too_long}; at least {at_least} are needed")


def check_launch(config: PreferenceConfig, launch: Launch, inputs: Mapping[str, Any]) -> list[str]:
    """What of a launch does not fit: a pair's loss needs both its answers whole, so only rows can be shared."""
    inside = {"pipeline": launch.pipeline, "tensor": launch.tensor}
    refused = [f"launch: {name} = {size} is not for preference; it takes data" for name, size in inside.items() if size > 1]
    return refused or find_misfits(launch, None, batch_rows=config.batch_pairs, row_tokens=None)


def _metrics(training: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in training.items() if isinstance(value, int | float)}
    last = training["validation"][-1] if training["validation"] else {}
    return {**plain, **{f"validation_{name}": last[name] for name in ("loss", "accuracy", "margin") if name in last}}


STAGE = Stage(
    name="preference",
    config_type=PreferenceConfig,
    run=preference,
    inputs={
        "init": Slot("checkpoint"),
        "pairs": Slot("pairs", optional=True),
        "labels": Slot("labels", many=True, optional=True),
        "reference": Slot("checkpoint", optional=True),
    },
    one_of=("pairs", "labels"),
    output="checkpoint",
    version=3,
    spmd=True,
    check_launch=check_launch,
)
