"""preference: a chat model that prefers the better of two answers, by direct preference optimisation (DPO) and its kin.

The reference is the checkpoint the training starts from. Its log-probabilities of all answers are computed once and
kept. Writes a Hugging Face folder and training.json.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: rows and metrics are plain JSON values

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from bloomery.align.reference import PairBatch, RenderedPair, answer_logps, make_pair_batch, reference_logps
from bloomery.core import dist
from bloomery.core.conversation import Message, find_problem
from bloomery.core.errors import DataError
from bloomery.core.files import expand, read_json, read_jsonl, sha256_file, write_atomically, write_json
from bloomery.core.stage import Launch, Runtime, Slot, Stage
from bloomery.generate.samples import conversation_prompts, write_samples
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Transformer
from bloomery.model.weights import weight_files
from bloomery.objectives.preference import PreferenceLoss, pair_loss
from bloomery.objectives.terms import LossTerms
from bloomery.tokens.chat import render
from bloomery.tokens.loader import rows_of_step
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.checkpoint import Snapshots
from bloomery.train.compute import prepare_model
from bloomery.train.fit import Run, TrainingConfig, final_loss, fit, make_state
from bloomery.train.layout import find_misfits
from bloomery.train.optimizer import OptimizerName
from bloomery.train.schedule import Decay
from bloomery.train.sharding import arrange, distribute, gather_model
from bloomery.train.spikes import spike_summary
from bloomery.train.step import Objective, micro_batch_rows, own_share, sum_losses

PAIR_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


class PreferenceConfig(TrainingConfig):
    """Direct preference optimisation on pairs of answers."""

    optimizer: OptimizerName = "adamw"
    learning_rate: PositiveFloat = 1e-4
    embedding_learning_rate: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.0
    decay: Decay = "linear"
    loss: PreferenceLoss = "sigmoid"
    """"sigmoid" is DPO, "ipo" and "hinge" its kin; see objectives/preference.py for the equations."""
    beta: PositiveFloat = 0.1
    """How dear it is to leave the reference: small lets the model go far."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The share of pairs that may be labelled the wrong way round (conservative DPO); "sigmoid" only."""
    nll_weight: NonNegativeFloat = 0.0
    """Weight of the chosen answer's mean negative log-probability, added to the loss (RPO, arXiv:2404.19733, eq. 1)."""
    epochs: PositiveFloat = 1.0
    """Passes over the pairs; not read when `steps` is given."""
    steps: NonNegativeInt = 0
    """How many steps to train; 0 = as many as `epochs` takes."""
    batch_pairs: PositiveInt = 64
    """Pairs in a step, all processes together."""

    held_out_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the pairs, by a hash of their prompt, that is kept for validation."""
    num_validations: PositiveInt = 4

    @model_validator(mode="after")
    def _check_smoothing(self) -> "PreferenceConfig":
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(f'label_smoothing is defined for loss = "sigmoid" only; found loss = "{self.loss}"')
        return self


class Pairs(NamedTuple):
    """Rendered pairs, and how many were left out because they are longer than the model reads."""

    train: list[RenderedPair]
    held_out: list[RenderedPair]
    num_too_long: int


def preference(config: PreferenceConfig, *, init: Path, pairs: Path, out: Path, runtime: Runtime) -> Mapping[str, Any]:
    """Writes a checkpoint folder. Raises DataError for rows that are no pairs, or if none is left to train on."""
    if (out / "training.json").is_file():  # written last: nothing is left to do
        return _metrics(read_json(out / "training.json"))
    device, launch = resolve_device(runtime.device), runtime.launch
    parallel = arrange(launch, device)
    model = load_model(init)
    add_adapters(model, config.lora, seed=config.seed)
    model = model.to(device)
    launch = prepare_model(model, precision=config.precision, launch=launch, device=device)
    files = expand(pairs, suffixes=PAIR_SUFFIXES)
    tokenizer = load_tokenizer(init)
    found = read_pairs(files, tokenizer, max_tokens=model.config.max_positions, held_out_fraction=config.held_out_fraction)
    if len(found.train) < parallel.layout.data:
        raise DataError(f"{pairs}: found {len(found.train)} pairs to train on, {found.num_too_long} longer than the model reads")
    everything = [*found.train, *found.held_out]
    rows_at_once = micro_batch_rows(max(len(answer.ids) for pair in everything for answer in pair), device, launch)
    reference_N2 = _reference(
        model, everything, [init / "config.json", *weight_files(init), *files], out, batch_pairs=-(-rows_at_once // 2)
    )

    model = distribute(model, parallel, launch, device)  # after the reference, for which each process reads pairs by itself
    pairs_of = functools.partial(rows_of_step, num_rows=len(found.train), batch_rows=config.batch_pairs, seed=config.seed)
    answers = [pair.chosen for pair in found.held_out]
    prompts = conversation_prompts(answers, count=config.num_samples)

    def make_batches(indices: np.ndarray) -> list[PairBatch]:
        parts = np.array_split(indices, max(1, -(-2 * len(indices) // rows_at_once)))
        return [make_pair_batch([everything[i] for i in part], reference_N2[part], device) for part in parts if len(part)]

    def batches_of_step(step: int) -> list[PairBatch]:
        return make_batches(own_share(pairs_of(step), launch))

    objective = functools.partial(pair_objective, config=config)
    held_out = make_batches(np.arange(len(found.train), len(everything)))
    run = Run(
        num_steps=config.steps or max(1, round(config.epochs * len(found.train) / config.batch_pairs)),
        objective=objective,
        batches_of_step=batches_of_step,
        validate=functools.partial(measure, batches=held_out, objective=objective),
        num_validations=config.num_validations if held_out else 0,
        window_of_step=lambda step: {"pairs": pairs_of(step).tolist()},
        sample=functools.partial(write_samples, tokenizer=tokenizer, prompts=prompts, num_tokens=config.sample_tokens),
    )
    state = make_state(model, config, parallel)
    keep = {"keep_last": launch.keep_snapshots, "keep_every_steps": launch.keep_every_steps}
    snapshots = Snapshots(out / ".scratch", settings=config.model_dump_json(), **keep)
    fit(state, run, config, snapshots=snapshots, runtime=runtime)
    training = {
        "steps": state.step,
        "tokens": state.tokens,
        "pairs": len(found.train),
        "held_out_pairs": len(found.held_out),
        "too_long_pairs": found.num_too_long,
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


def read_pairs(files: Sequence[Path], tokenizer: Tokenizer, *, max_tokens: int, held_out_fraction: float) -> Pairs:
    """The pairs of files with TRL's columns prompt, chosen and rejected (messages, or plain strings), split by a hash of the prompt.

    Raises DataError naming file and row of one that is no pair.
    """
    found = Pairs([], [], 0)
    for path in files:
        for number, row in enumerate(read_jsonl(path), start=1):
            where = f"{path}, row {number}"
            prompt = _messages(row.get("prompt"), "user", f"{where}: `prompt`")
            answers = [_messages(row.get(name), "assistant", f"{where}: `{name}`") for name in ("chosen", "rejected")]
            # Only the answer is judged: an assistant's earlier turns are part of the prompt.
            context: list[Message] = [{"role": m["role"], "content": m["content"], "loss": False} for m in prompt]
            pair = RenderedPair(*(render(tokenizer, [*context, *answer]) for answer in answers))
            if max(len(answer.ids) for answer in pair) - 1 > max_tokens:
                found = found._replace(num_too_long=found.num_too_long + 1)
                continue
            digest = hashlib.blake2b("\x00".join(m["content"] for m in prompt).encode("utf-8", "replace"), digest_size=8).digest()
            (found.held_out if int.from_bytes(digest, "big") < held_out_fraction * 2**64 else found.train).append(pair)
    return found


def pair_objective(model: Transformer, batch: PairBatch, *, config: PreferenceConfig) -> LossTerms:
    """The configured loss of a batch of pairs."""
    logp_B, length_B = answer_logps(model, batch)
    length_N2 = length_B.view(-1, 2).clamp_min(1)
    logp_N2, reference_N2 = logp_B.view(-1, 2), batch.reference_logp_N2
    scale_N2 = length_N2 if config.loss == "ipo" else torch.ones_like(length_N2)  # IPO's authors average over tokens
    policy, reference = logp_N2 / scale_N2, reference_N2 / scale_N2
    arguments = (policy[:, 0], policy[:, 1], reference[:, 0], reference[:, 1])
    terms = pair_loss(*arguments, beta=config.beta, loss=config.loss, label_smoothing=config.label_smoothing)
    chosen_nll = -(logp_N2[:, 0] / length_N2[:, 0]).sum()
    return LossTerms(terms.loss_sum + config.nll_weight * chosen_nll, terms.weight, {**terms.metrics, "chosen_nll": chosen_nll.detach()})


def measure(model: Transformer, *, batches: Sequence[PairBatch], objective: Objective[PairBatch]) -> dict[str, float]:
    """Loss, accuracy and margin on held-out pairs."""
    terms = sum_losses(model, batches, objective)
    return {name: float(value / terms.weight) for name, value in {"loss": terms.loss_sum, **terms.metrics}.items()}


def _messages(value: Any, role: str, where: str) -> list[Message]:
    messages = [{"role": role, "content": value}] if isinstance(value, str) else value
    problem = find_problem(messages)
    if problem or (role == "assistant" and messages[-1]["role"] != "assistant"):
        raise DataError(f"{where}: {problem or 'must end with an assistant message'}")
    return list(messages)


def _reference(model: Transformer, pairs: Sequence[RenderedPair], made_from: Sequence[Path], out: Path, *, batch_pairs: int) -> np.ndarray:
    """The reference's log-probabilities, float32 [N, 2], computed once and kept in scratch by what they were computed from."""
    key = hashlib.sha256("".join([str(model.compute_dtype), *(sha256_file(path) for path in made_from)]).encode()).hexdigest()
    path = out / ".scratch" / f"reference-{key[:16]}.npy"
    if not path.is_file():
        reference_N2 = reference_logps(model, pairs, batch_pairs=batch_pairs)
        if dist.rank() == 0:
            with write_atomically(path) as temporary, temporary.open("wb") as file:
                np.save(file, reference_N2)
    dist.barrier()
    kept: np.ndarray = np.load(path)
    return kept


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
    inputs={"init": Slot("checkpoint"), "pairs": Slot("pairs")},
    output="checkpoint",
    version=2,
    spmd=True,
    check_launch=check_launch,
)
