"""The loop around a policy that learns from its own answers: rollout, some optimizer steps, rollout, and so on, by `fit`.

PPO and GRPO differ in what a rollout is made into and in the objective; all else is here: where rollouts are kept, what is
logged at each step, the check of the sampler's log-probabilities, the rule that stops by gold, and what is written at the end.

Shapes: N answers, T tokens of an answer.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: metrics are plain JSON values

import numpy as np
import torch
from torch import Tensor

from bloomery.align.actor import Actor
from bloomery.align.episodes import EpisodeBatch, Episodes, make_batches
from bloomery.align.monitor import MAX_DRIFT, StopRule, judge_drift, judge_gold, largest_drift, rounded
from bloomery.align.rollouts import Rollout, RolloutConfig, RolloutStore
from bloomery.core import dist
from bloomery.core.files import write_json
from bloomery.core.stage import Launch, Runtime
from bloomery.generate.samples import write_samples
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Transformer
from bloomery.train.checkpoint import Snapshots
from bloomery.train.compute import prepare_model
from bloomery.train.fit import Run, final_loss, fit
from bloomery.train.layout import find_misfits
from bloomery.train.sharding import Parallel, arrange, distribute
from bloomery.train.spikes import spike_summary
from bloomery.train.state import TrainState
from bloomery.train.step import B, Objective, StepReport

log = logging.getLogger(__name__)

IN_RECORD = ("reward", "gold", "kl", "kl_k3", "length", "stopped", "groups_without_spread", "kl_weight")
"""What training.json has of each rollout; metrics.jsonl has all."""


class Policy(NamedTuple):
    """A model that is about to be trained, and how."""

    model: Transformer
    parallel: Parallel
    launch: Launch


class Learner:
    """What a run of rollouts has in hand between its steps."""

    def __init__(self, actor: Actor, state: TrainState, config: RolloutConfig) -> None:
        self.actor, self.state, self.config = actor, state, config
        self.rollout: Rollout | None = None
        self.number, self.update = 0, 0
        self._drifts: list[Tensor] = []
        self._told_drift = 0.0

    def begin(self, rollout: Rollout, number: int, update: int) -> None:
        """Takes a rollout in hand for one of its steps."""
        self.rollout, self.number, self.update = rollout, number, update
        if update == 0:
            self.state.carried = dict(rollout.carried)

    def number_of(self, name: str) -> Callable[[], float]:
        """What gives a number of the rollout in hand."""
        return lambda: self.rollout.numbers[name] if self.rollout is not None else 0.0

    def watch_drift(self, logp_NT: Tensor, sampled_NT: Tensor, mask_NT: Tensor) -> None:
        """Notes how far the sampler's log-probabilities are from those that the trainer computes."""
        self._drifts.append(largest_drift(logp_NT, sampled_NT, mask_NT > 0))

    def note_step(self) -> dict[str, float]:
        """The numbers of the rollout that a step was made from, at its first step. Raises DataError if the sampler has drifted away."""
        if self.update > 0 or self.rollout is None:
            return {}
        numbers = dict(self.rollout.numbers)
        if "logp_drift" not in numbers:  # the first step has computed the log-probabilities of the rollout
            numbers["logp_drift"] = dist.maximum(max((float(drift) for drift in self._drifts), default=0.0))
            self._drifts.clear()
        row = {"step": self.state.step, "rollout": self.number, **{name: numbers[name] for name in IN_RECORD if name in numbers}}
        self.state.history = [*self.state.history, row]
        if self.number == 0 or numbers["logp_drift"] > 2 * self._told_drift:  # not each time: metrics.jsonl has it
            judge_drift(numbers["logp_drift"], dtype=self.state.model.compute_dtype, number=self.number)
            self._told_drift = max(self._told_drift, numbers["logp_drift"], MAX_DRIFT / 2)
        return {f"rollout/{name}": value for name, value in numbers.items()}


def load_policy(config: RolloutConfig, init: Path, runtime: Runtime) -> Policy:
    """The checkpoint to train, with adapters if it is to have any, on its device."""
    device = resolve_device(runtime.device)
    parallel = arrange(runtime.launch, device)
    model = load_model(init)
    add_adapters(model, config.lora, seed=config.seed)
    launch = prepare_model(model, precision=config.precision, launch=runtime.launch, device=device)
    return Policy(distribute(model, parallel, launch, device), parallel, launch)


def share_batches(episodes: Episodes, chosen: np.ndarray, policy: Policy) -> list[EpisodeBatch]:
    """This process's share of the chosen episodes as micro-batches; at least one, without weight if there is no episode for it.

    `episodes.of_token["weight"]` is what an objective counts.
    """
    share = np.array_split(chosen, dist.world_size())[dist.rank()]
    if not len(share):
        share, episodes = np.zeros(1, dtype=np.int64), episodes.with_tokens(weight=torch.zeros_like(episodes.of_token["weight"]))
    return make_batches(episodes, share, policy.model.device, policy.launch)


def run_rollouts(
    learner: Learner,
    policy: Policy,
    *,
    stage: str,
    make_rollout: Callable[[int], Rollout],
    batches: Callable[[Rollout, int, int], Sequence[B]],
    objective: Objective[B],
    out: Path,
    runtime: Runtime,
    pass_over: Callable[[int], int] | None = None,
    after_step: Callable[[StepReport], None] | None = None,
) -> dict[str, Any]:
    """Trains to the end. `make_rollout(number)`, and `batches(rollout, number, update)` of each of its steps, are pure functions of
    these, the weights and what the state carries. Returns what is to stand in training.json."""
    config, state, actor = learner.config, learner.state, learner.actor
    settings = config.model_dump_json()
    store = RolloutStore(out / ".scratch", settings=settings, updates=config.updates)

    def batches_of_step(data_step: int) -> Sequence[B]:
        number, update = divmod(data_step, config.updates)
        rollout = store.get(number, functools.partial(make_rollout, number))
        learner.begin(rollout, number, update)
        return batches(rollout, number, update)

    def note_step(report: StepReport) -> Mapping[str, float]:
        if after_step is not None:
            after_step(report)
        return learner.note_step()

    held_out = actor.prompts.held_out
    samples = [prompt.ids for prompt in held_out[: config.num_samples]]
    run = Run(
        num_steps=config.rollouts * config.updates,
        objective=objective,
        batches_of_step=batches_of_step,
        validate=actor.validate,
        num_validations=config.num_validations if held_out else 0,
        window_of_step=lambda step: {"rollout": step // config.updates},
        sample=functools.partial(write_samples, tokenizer=actor.tokenizer, prompts=samples, num_tokens=config.sample_tokens),
        note_step=note_step,
        pass_over=pass_over,
        stage=stage,
        guard=functools.partial(judge_gold, rule=StopRule(config.stop_errors, config.stop_checks)),
    )
    keep = {"keep_last": policy.launch.keep_snapshots, "keep_every_steps": policy.launch.keep_every_steps}
    fit(state, run, config, snapshots=Snapshots(out / ".scratch", settings=settings, **keep), runtime=runtime)
    return {
        "steps": state.step,
        "rollouts": -(-state.step // config.updates),
        "tokens": state.tokens,
        "prompts": len(actor.prompts.train),
        "held_out_prompts": len(held_out),
        "too_long_prompts": actor.prompts.num_too_long,
        "narrow_sampling": actor.is_narrow,
        "train_loss": final_loss(state),
        "skipped_steps": state.skipped,
        **spike_summary(state),
        "early_stop": state.early_stop,
        "carried": rounded(state.carried),
        "samples": state.samples,
        "history": state.history,
        "validation": state.curve,
    }


def write_policy(model: Transformer, training: Mapping[str, Any], *, init: Path, out: Path) -> None:
    """Writes the checkpoint, and training.json last. Every process calls it."""
    if dist.rank() == 0:
        save_model(model, out, tokenizer=init, like=init)
        write_json(out / "training.json", training)
    dist.barrier()


def check_rl_launch(config: RolloutConfig, launch: Launch, inputs: Mapping[str, Any]) -> list[str]:
    """What of a launch does not fit: the policy speaks while it is trained, so every process needs a whole copy of it."""
    inside = {"pipeline": launch.pipeline, "tensor": launch.tensor}
    refused = [
        f"launch: {name} = {size} is not for rollouts; every process holds a whole policy" for name, size in inside.items() if size > 1
    ]
    if launch.strategy == "fsdp" and launch.num_processes > 1:
        refused.append("launch: strategy = 'fsdp' is not for rollouts; every process holds a whole policy ('ddp')")
    answers = config.batch_prompts * config.num_samples // config.minibatches
    return refused or find_misfits(launch, None, batch_rows=min(answers, config.batch_prompts), row_tokens=None)


def training_metrics(training: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of training.json that stand in a report."""
    plain = {name: value for name, value in training.items() if isinstance(value, int | float)}
    last = training["history"][-1] if training["history"] else {}
    held_out = training["validation"][-1] if training["validation"] else {}
    found = {name: last[name] for name in IN_RECORD if name in last}
    found |= {f"validation_{name}": held_out[name] for name in IN_RECORD if name in held_out}
    return {**plain, **found, "stopped_early": bool(training["early_stop"])}
