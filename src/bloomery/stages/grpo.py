"""grpo: a chat model learns from rewards by comparing its own answers to one prompt (GRPO and its kin, RLVR).

Each rollout asks a batch of prompts several times, has the answers judged, and raises those that are better than their
siblings. There is no value model. `algorithm` is a set of defaults: see docs/rl.md for the equations and which to take
when. Writes a Hugging Face folder and training.json.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal  # Any: metrics are plain JSON values

import torch
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor

from bloomery.align.actor import Actor, Collected, describe_rollout, make_judges
from bloomery.align.episodes import EntropyUse, EpisodeBatch, join_episodes, said_logps
from bloomery.align.learner import Learner, check_rl_launch, load_policy, run_rollouts, share_batches, training_metrics, write_policy
from bloomery.align.monitor import largest_drift, warn_of_silence
from bloomery.align.rewards import REWARD_SLOTS
from bloomery.align.rollouts import REWARD, Rollout, RolloutConfig, minibatch, read_prompts
from bloomery.core.files import read_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.model.transformer import Transformer
from bloomery.objectives.advantages import (
    above_baseline,
    batch_mean,
    group_relative,
    has_spread,
    kl_estimate,
    leave_one_out,
    moving_baseline,
)
from bloomery.objectives.policy_gradient import Aggregate, clipped_policy_loss, entropy_bonus, kl_loss
from bloomery.objectives.terms import LossTerms
from bloomery.tokens.renderer import load_renderer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.train.fit import make_state

WatchDrift = Callable[[Tensor, Tensor, Tensor], None]
Algorithm = Literal["grpo", "dr_grpo", "dapo", "rloo", "reinforce"]
Baseline = Literal["group_std", "group_mean", "leave_one_out", "batch_mean", "moving_mean", "none"]

DEFAULTS: dict[str, dict[str, Any]] = {
    "grpo": {"baseline": "group_std", "aggregate": "sequence"},
    "dr_grpo": {"baseline": "group_mean", "aggregate": "constant"},
    "dapo": {
        "baseline": "group_std", "aggregate": "token", "clip_high": 0.28, "resample_attempts": 3, "mask_truncated": True,
    },
    "rloo": {"baseline": "leave_one_out", "ratio_of": "answer", "kl_in": "reward", "kl_estimator": "k1"},
    "reinforce": {"baseline": "batch_mean", "aggregate": "token"},
}  # fmt: skip
"""What each algorithm sets that is not said otherwise."""


class GrpoConfig(RolloutConfig):
    """Learning from rewards without a value model. `algorithm` fills in what is not said; every setting can be said."""

    algorithm: Algorithm = "grpo"
    """grpo (arXiv:2402.03300), dr_grpo (2503.20783), dapo (2503.14476), rloo (2402.14740), reinforce (Williams 1992)."""
    baseline: Baseline = "group_std"
    """What a reward is compared with: the mean of its group (`group_std` divides by the deviation, too), the others of it, the
    mean of the rollout, a moving mean of rollouts, or nothing."""
    aggregate: Aggregate = "sequence"
    """How tokens are averaged: all alike ("token"), by answer ("sequence"), or over max_tokens ("constant")."""
    ratio_of: Literal["token", "answer"] = "token"
    """Whether a token's probability is compared with that in the rollout and clipped, or that of the whole answer."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where kl_weight counts: as a loss of each token, or (as k1, summed over an answer) less reward."""
    mask_truncated: bool = False
    """Whether answers that ran into max_tokens are left out of the loss; their rewards still count in their group."""
    resample_attempts: NonNegativeInt = 0
    """How often other prompts are asked in place of those to which all answers are worth the same (dynamic sampling)."""
    baseline_decay: float = Field(default=0.9, ge=0, lt=1)
    """How much of the moving mean stays at each rollout."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        known = DEFAULTS.get(values.get("algorithm", "grpo"), {}) if isinstance(values, dict) else {}
        return {**known, **values} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check(self) -> "GrpoConfig":
        if self.group_size < 2 and self.baseline in ("group_std", "group_mean", "leave_one_out"):
            raise ValueError(f'group_size = {self.group_size}: baseline = "{self.baseline}" compares at least 2 answers to a prompt')
        if self.dual_clip and self.dual_clip <= 1:
            raise ValueError(f"dual_clip = {self.dual_clip}: a bound on the ratio is above 1, or 0 for none")
        return self


def grpo(
    config: GrpoConfig,
    *,
    init: Path,
    prompts: Sequence[Path],
    reward_models: Sequence[Path] = (),
    functions: Sequence[Path] = (),
    judge: Path | None = None,
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Writes a checkpoint folder. Raises DataError without prompts or rewards, ConfigError for rewards that do not fit the inputs."""
    if (out / "training.json").is_file():  # written last: nothing is left to do
        return training_metrics(read_json(out / "training.json"))
    policy = load_policy(config, init, runtime)
    model, launch = policy.model, policy.launch
    tokenizer = load_tokenizer(init)
    found = read_prompts(prompts, load_renderer(init, tokenizer), config, context_tokens=model.config.max_positions)
    judges = make_judges(config, reward_models=reward_models, functions=functions, judge=judge, device=model.device, launch=launch)
    actor = Actor(model, tokenizer=tokenizer, prompts=found, judges=judges, config=config, init=init, launch=launch)
    learner = Learner(actor, make_state(model, config, policy.parallel), config)

    def make_rollout(number: int) -> Rollout:
        return teach(collect(actor, number, config=config), actor, number, config=config, carried=learner.state.carried)

    def batches(rollout: Rollout, number: int, update: int) -> list[EpisodeBatch]:
        return share_batches(rollout.episodes, minibatch(number, update, rollout.trained_N, config), policy)

    objective = functools.partial(policy_objective, config=config, vocab_size=tokenizer.vocab_size, watch_drift=learner.watch_drift)
    how: dict[str, Any] = {"make_rollout": make_rollout, "batches": batches, "objective": objective}
    training = run_rollouts(learner, policy, stage="grpo", **how, out=out, runtime=runtime)
    write_policy(model, training, init=init, out=out)
    return training_metrics(training)


def collect(actor: Actor, number: int, *, config: GrpoConfig) -> Collected:
    """The answers of a rollout. With dynamic sampling, groups without spread make room for those of other prompts.

    If too few are found, the rest is filled up with groups without spread (DAPO, arXiv:2503.14476, sec. 3.2, asks on and on).
    """
    found = actor.collect(number)
    for attempt in range(1, config.resample_attempts + 1):
        spread_P = has_spread(found.values[REWARD], group_size=config.group_size)
        if bool(spread_P[: config.batch_prompts].all()):
            break
        more = actor.collect(number, attempt=attempt)
        found = join_groups([found, more], group_size=config.group_size, num_groups=config.batch_prompts)
    return found


def join_groups(parts: Sequence[Collected], *, group_size: int, num_groups: int) -> Collected:
    """The first groups with spread of some collections, and, if these are too few, of those without."""
    values = {name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values}
    spread_P = has_spread(values[REWARD], group_size=group_size)
    chosen_P = torch.argsort((~spread_P).int(), stable=True)[:num_groups].sort().values
    chosen_N = (chosen_P[:, None] * group_size + torch.arange(group_size)).flatten()
    episodes = join_episodes([part.episodes for part in parts], chosen_N)
    return Collected(episodes, {name: value[chosen_N] for name, value in values.items()})


def teach(collected: Collected, actor: Actor, number: int, *, config: GrpoConfig, carried: Mapping[str, float]) -> Rollout:
    """A rollout with the advantage of each token, and what else its steps need.

    With one step a rollout the trainer's log-probabilities of that step are those of the rollout: no pass is made for them.
    """
    episodes, values = collected
    said_NT = episodes.said_NT.float()
    old_NT = actor.policy_logps(episodes) if config.updates > 1 else episodes.sampled_logp_NT
    reference_NT = actor.reference_logps(episodes) if actor.measures_kl else None
    reward_N = values[REWARD]
    if config.kl_weight and config.kl_in == "reward" and reference_NT is not None:
        kl_NT = kl_estimate(old_NT, reference_NT, "k1")
        reward_N = reward_N - config.kl_weight * (kl_NT * said_NT).sum(1).double()
    baseline = carried.get("baseline", batch_mean(values[REWARD]).item())
    advantage_N = advantages(reward_N, baseline, config=config)
    trained_N = ~values[REWARD].isnan()
    if config.mask_truncated:
        trained_N &= episodes.stopped_N
    of_token = {"advantage": advantage_N[:, None] * said_NT, "weight": trained_N[:, None] * said_NT}
    numbers = describe_rollout(collected, group_size=config.group_size, logp_NT=old_NT, reference_NT=reference_NT)
    if config.updates > 1:
        of_token["old_logp"] = old_NT
        numbers["logp_drift"] = float(largest_drift(old_NT, episodes.sampled_logp_NT, episodes.said_NT))
    if config.kl_weight and config.kl_in == "loss" and reference_NT is not None:
        of_token["reference_logp"] = reference_NT
    rollout = Rollout(
        episodes=episodes.with_tokens(**of_token),
        values=values,
        trained_N=trained_N,
        group_size=config.group_size,
        carried={"baseline": moving_baseline(baseline, reward_N, decay=config.baseline_decay)} if config.baseline == "moving_mean" else {},
        numbers=numbers,
    )
    warn_of_silence(rollout, number)
    return rollout


def advantages(reward_N: Tensor, baseline: float, *, config: GrpoConfig) -> Tensor:
    """The configured advantage of each answer; `baseline` is the moving mean."""
    if config.baseline == "leave_one_out":
        return leave_one_out(reward_N, group_size=config.group_size)
    if config.baseline in ("group_std", "group_mean"):
        return group_relative(reward_N, group_size=config.group_size, scale="std" if config.baseline == "group_std" else "none")
    compared = {"batch_mean": batch_mean(reward_N), "moving_mean": torch.tensor(baseline, dtype=torch.float64)}
    return above_baseline(reward_N, compared.get(config.baseline, torch.tensor(0.0)))


def policy_objective(model: Transformer, batch: EpisodeBatch, *, config: GrpoConfig, vocab_size: int, watch_drift: WatchDrift) -> LossTerms:
    """The configured loss of some episodes, whose log-probabilities are computed here."""
    entropy: EntropyUse = "trained" if config.entropy_weight else "measured"
    said = said_logps(model, batch, temperature=config.temperature, vocab_size=vocab_size, entropy=entropy)
    assert said.entropy_NT is not None
    given, mask_NT = batch.of_token, batch.of_token["weight"]
    old_NT = given.get("old_logp")
    if old_NT is None:
        old_NT = said.logp_NT.detach()
        watch_drift(old_NT, given["sampled_logp"], batch.mask_NT)
    terms = ratio_loss(said.logp_NT, old_NT, given["advantage"], mask_NT, config=config)
    how: dict[str, Any] = {"aggregate": config.aggregate, "constant_tokens": config.max_tokens}
    if config.ratio_of == "answer":
        how = {"aggregate": "constant", "constant_tokens": 1}
    loss = terms.loss_sum
    if "reference_logp" in given:
        corrected_NT = old_NT if config.kl_corrected else None
        penalty = kl_loss(said.logp_NT, given["reference_logp"], mask_NT, estimator=config.kl_estimator, old_logp_NT=corrected_NT, **how)
        loss = loss + config.kl_weight * penalty.loss_sum
    if config.entropy_weight:
        loss = loss + config.entropy_weight * entropy_bonus(said.entropy_NT, mask_NT, **how).loss_sum
    counted = "answer" if config.ratio_of == "answer" else "token"
    metrics = {f"{counted}/{name}": value for name, value in terms.metrics.items() if name != "tokens"}
    metrics |= {f"weight/{counted}": terms.metrics["tokens"], "weight/token": mask_NT.sum()}
    metrics["token/entropy"] = (said.entropy_NT.detach() * mask_NT).sum()
    return LossTerms(loss, terms.weight, metrics)


def ratio_loss(logp_NT: Tensor, old_NT: Tensor, advantage_NT: Tensor, mask_NT: Tensor, *, config: GrpoConfig) -> LossTerms:
    """The clipped loss, of tokens or of whole answers (whose log-probability is the sum of their tokens')."""
    bounds: dict[str, Any] = {"clip_low": config.clip_low, "clip_high": config.clip_high, "dual_clip": config.dual_clip}
    if config.ratio_of == "token":
        how: dict[str, Any] = {"aggregate": config.aggregate, "constant_tokens": config.max_tokens}
        return clipped_policy_loss(logp_NT, old_NT, advantage_NT, mask_NT, **bounds, **how)
    whole = [torch.where(mask_NT > 0, logp, 0.0).sum(1, keepdim=True) for logp in (logp_NT, old_NT)]
    is_counted_N1 = (mask_NT > 0).any(1, keepdim=True).float()
    length_N1 = mask_NT.sum(1, keepdim=True).clamp_min(1)
    advantage_N1 = torch.where(mask_NT > 0, advantage_NT, 0.0).sum(1, keepdim=True) / length_N1
    return clipped_policy_loss(whole[0], whole[1], advantage_N1, is_counted_N1, **bounds)


STAGE = Stage(
    name="grpo",
    config_type=GrpoConfig,
    run=grpo,
    inputs={
        "init": Slot("checkpoint"),
        "prompts": Slot("conversations", many=True),
        **REWARD_SLOTS,
    },
    output="checkpoint",
    version=1,
    spmd=True,
    check_launch=check_rl_launch,
)
