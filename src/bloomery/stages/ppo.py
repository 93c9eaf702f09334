"""ppo: a chat model learns from rewards with a critic beside it (RLHF as in InstructGPT, arXiv:2203.02155).

Each rollout asks a batch of prompts; the reward of an answer lies on its last token and the distance to the model that training
started from is a cost at each token; a critic says what was to be expected, and generalised advantage estimation what each token
was worth beyond it. Then some clipped steps. See docs/rl.md. Writes a Hugging Face folder and training.json.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal  # Any: metrics are plain JSON values

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from bloomery.align.actor import Actor, Collected, describe_rollout, make_judges
from bloomery.align.critic import attach_critic, critic_of, detach_critic, make_critic
from bloomery.align.episodes import EntropyUse, EpisodeBatch, measure_episodes, said_logps, said_values
from bloomery.align.learner import Learner, check_rl_launch, load_policy, run_rollouts, share_batches, training_metrics, write_policy
from bloomery.align.monitor import largest_drift, warn_of_silence
from bloomery.align.rewards import REWARD_SLOTS
from bloomery.align.rollouts import REWARD, Rollout, RolloutConfig, minibatch, read_prompts
from bloomery.core import dist
from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.model.transformer import Transformer
from bloomery.objectives.advantages import KlEstimator, adapt_kl_weight, gae, kl_estimate, token_rewards, whiten
from bloomery.objectives.next_token import linear_next_token
from bloomery.objectives.policy_gradient import clipped_policy_loss, entropy_bonus, kl_loss, value_loss
from bloomery.objectives.terms import LossTerms
from bloomery.tokens.loader import Batch, TokenRows, make_batch, rows_of_step, token_rows
from bloomery.tokens.renderer import load_renderer
from bloomery.tokens.shards import open_tokens
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.train.fit import make_state
from bloomery.train.step import StepReport, micro_batch_rows

UPDATE_KL = "update_kl"
"""The carried number that says how far the policy has moved within a rollout."""


class PpoConfig(RolloutConfig):
    """Learning from rewards with a value model."""

    group_size: PositiveInt = 1
    batch_prompts: PositiveInt = 64
    epochs: PositiveInt = 2
    minibatches: PositiveInt = 2
    kl_weight: NonNegativeFloat = 0.05
    """What KL to the model that training starts from costs; of an adaptive weight the first one."""
    kl_estimator: KlEstimator = "k1"
    kl_in: Literal["reward", "loss"] = "reward"
    """Where it counts: less reward at each token, or a loss."""
    kl_target: NonNegativeFloat = 0.0
    """Nats an answer that kl_weight is steered towards (Ziegler 2019, arXiv:1909.08593, sec. 2.2); 0 = it stays what it is."""
    kl_horizon: PositiveInt = 10_000
    """Answers within which the weight can grow or fall by a fifth."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount of a token's reward for the one before it."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """lambda of generalised advantage estimation."""
    whiten_rewards: bool = False
    """Rewards of tokens to variance 1, keeping their mean."""
    whiten_advantages: bool = True
    """Advantages to mean 0 and variance 1."""
    unstopped_reward: float | None = None
    """The reward of an answer that did not end by itself, whatever its sources say; None = theirs. A low one teaches to stop."""
    value_weight: PositiveFloat = 0.1
    """Weight of the critic's loss beside the policy's: it matters for max_gradient_norm, which is of both together."""
    value_clip: NonNegativeFloat = 0.2
    """How far a value moves from that in the rollout before its loss stops to reward it; 0 = any way."""
    critic_learning_rate: PositiveFloat = 1e-4
    critic_from: Literal["auto", "policy", "reward_model"] = "auto"
    """What the critic starts as: "auto" is the first of the reward models, if there are any."""
    max_update_kl: NonNegativeFloat = 0.0
    """When the policy is this far from the rollout's (mean k3 of tokens, in nats), the rest of its steps are passed over; 0 = never."""
    pretraining_weight: NonNegativeFloat = 0.0
    """Weight of the next-token loss on `pretraining` tokens, mean over tokens (PPO-ptx, arXiv:2203.02155, eq. 2); 0 = none."""
    pretraining_rows: PositiveInt = 8
    """Rows of pretraining tokens in a step, all processes together."""
    pretraining_sequence_tokens: PositiveInt = 128

    @model_validator(mode="after")
    def _check(self) -> "PpoConfig":
        if self.dual_clip and self.dual_clip <= 1:
            raise ValueError(f"dual_clip = {self.dual_clip}: a bound on the ratio is above 1, or 0 for none")
        if self.kl_target and not self.kl_weight:
            raise ValueError("kl_target steers kl_weight, which is 0 and would stay so; give it a first value")
        return self


@dataclass(frozen=True)
class PretrainingBatch:
    """Rows of pretraining tokens. `scale` makes a sum over their tokens a mean, in the weight of the policy's loss."""

    rows: Batch
    scale: float

    @property
    def document_BT(self) -> Tensor:
        """Which places hold a token."""
        return self.rows.document_BT


PpoBatch = EpisodeBatch | PretrainingBatch


def ppo(
    config: PpoConfig,
    *,
    init: Path,
    prompts: Sequence[Path],
    reward_models: Sequence[Path] = (),
    functions: Sequence[Path] = (),
    judge: Path | None = None,
    pretraining: Path | None = None,
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Writes a checkpoint folder. Raises DataError without prompts or rewards, ConfigError for settings that do not fit the inputs."""
    if (out / "training.json").is_file():  # written last: nothing is left to do
        return training_metrics(read_json(out / "training.json"))
    policy = load_policy(config, init, runtime)
    model, launch = policy.model, policy.launch
    tokenizer = load_tokenizer(init)
    found = read_prompts(prompts, load_renderer(init, tokenizer), config, context_tokens=model.config.max_positions)
    judges = make_judges(config, reward_models=reward_models, functions=functions, judge=judge, device=model.device, launch=launch)
    actor = Actor(model, tokenizer=tokenizer, prompts=found, judges=judges, config=config, init=init, launch=launch)
    state = make_state(model, config, policy.parallel)
    critic = make_critic(model, init=init, reward_model=_critic_source(config, reward_models), seed=config.seed)
    attach_critic(state, critic, learning_rate=config.critic_learning_rate)
    learner = Learner(actor, state, config)
    rows = _pretraining_rows(config, pretraining, actor)

    def make_rollout(number: int) -> Rollout:
        return teach(actor.collect(number), actor, critic, number, config=config, carried=state.carried)

    def batches(rollout: Rollout, number: int, update: int) -> list[PpoBatch]:
        chosen = minibatch(number, update, rollout.trained_N, config)
        own: list[PpoBatch] = [*share_batches(rollout.episodes, chosen, policy)]
        if rows is None:
            return own
        num_said = float(rollout.episodes.of_token["weight"][chosen].sum())
        return own + pretraining_batches(rows, number * config.updates + update, num_said, config=config, actor=actor)

    objective = functools.partial(
        ppo_objective,
        config=config,
        vocab_size=tokenizer.vocab_size,
        kl_weight=learner.number_of("kl_weight"),
        watch_drift=learner.watch_drift,
    )
    training = run_rollouts(
        learner,
        policy,
        stage="ppo",
        make_rollout=make_rollout,
        batches=batches,
        objective=objective,
        pass_over=functools.partial(pass_over, learner=learner, config=config),
        after_step=functools.partial(note_move, learner=learner),
        out=out,
        runtime=runtime,
    )
    detach_critic(model)
    write_policy(model, training, init=init, out=out)
    return training_metrics(training)


def teach(
    collected: Collected, actor: Actor, critic: Transformer, number: int, *, config: PpoConfig, carried: Mapping[str, float]
) -> Rollout:
    """A rollout with rewards, values, advantages and returns of each token, and the weight of KL for the next one."""
    episodes, values = collected
    said_NT = episodes.said_NT
    old_NT = actor.policy_logps(episodes) if config.updates > 1 else episodes.sampled_logp_NT
    reference_NT = actor.reference_logps(episodes) if actor.measures_kl else None
    value_NT = measure_episodes(episodes, functools.partial(said_values, critic), actor.model.device, actor.launch)
    kl_weight = carried.get("kl_weight", config.kl_weight)
    score_N = values[REWARD].float()
    if config.unstopped_reward is not None:
        score_N = torch.where(episodes.stopped_N | score_N.isnan(), score_N, config.unstopped_reward)
    trained_N = ~score_N.isnan()
    weight_NT = (trained_N[:, None] & said_NT).float()
    kl_NT = kl_estimate(old_NT, reference_NT, config.kl_estimator) if reference_NT is not None else torch.zeros_like(old_NT)
    reward_NT = token_rewards(score_N, kl_NT, said_NT, kl_weight=kl_weight if config.kl_in == "reward" else 0.0)
    if config.whiten_rewards:
        reward_NT = whiten(reward_NT, weight_NT, shift_mean=False)
    advantage_NT = gae(reward_NT, value_NT, said_NT, gamma=config.gamma, lam=config.lam)
    return_NT = advantage_NT + value_NT
    if config.whiten_advantages:
        advantage_NT = whiten(advantage_NT, weight_NT)
    numbers = describe_rollout(collected, group_size=config.group_size, logp_NT=old_NT, reference_NT=reference_NT)
    numbers |= {"kl_weight": kl_weight, "explained_variance": explained_variance(value_NT, return_NT, weight_NT)}
    of_token = {"advantage": advantage_NT, "old_value": value_NT, "return": return_NT, "weight": weight_NT}
    if config.updates > 1:
        of_token["old_logp"] = old_NT
        numbers["logp_drift"] = float(largest_drift(old_NT, episodes.sampled_logp_NT, said_NT))
    if config.kl_in == "loss" and config.kl_weight and reference_NT is not None:
        of_token["reference_logp"] = reference_NT
    if config.kl_target:
        kl_weight = adapt_kl_weight(
            kl_weight, numbers["kl"], target=config.kl_target, num_episodes=episodes.count, horizon=config.kl_horizon
        )
    rollout = Rollout(
        episodes=episodes.with_tokens(**of_token),
        values=values,
        trained_N=trained_N,
        group_size=config.group_size,
        carried={"kl_weight": kl_weight} if config.kl_target else {},
        numbers=numbers,
    )
    warn_of_silence(rollout, number)
    return rollout


def explained_variance(value_NT: Tensor, return_NT: Tensor, mask_NT: Tensor) -> float:
    """The share of the returns' variance that the critic foresaw: 1 is all of it, 0 none, below 0 worse than their mean."""
    kept = mask_NT > 0
    if int(kept.sum()) < 2:
        return 0.0
    spread = return_NT[kept].var().item()
    return 1 - (return_NT - value_NT)[kept].var().item() / spread if spread > 0 else 0.0


def ppo_objective(
    model: Transformer,
    batch: PpoBatch,
    *,
    config: PpoConfig,
    vocab_size: int,
    kl_weight: Callable[[], float],
    watch_drift: Callable[[Tensor, Tensor, Tensor], None],
) -> LossTerms:
    """Policy, critic, and what else is asked for, of some episodes; or the next-token loss of pretraining rows."""
    if isinstance(batch, PretrainingBatch):
        return pretraining_terms(model, batch, config=config)
    entropy: EntropyUse = "trained" if config.entropy_weight else "measured"
    said = said_logps(model, batch, temperature=config.temperature, vocab_size=vocab_size, entropy=entropy)
    assert said.entropy_NT is not None
    given, mask_NT = batch.of_token, batch.of_token["weight"]
    old_NT = given.get("old_logp")
    if old_NT is None:
        old_NT = said.logp_NT.detach()
        watch_drift(old_NT, given["sampled_logp"], batch.mask_NT)
    bounds: dict[str, Any] = {"clip_low": config.clip_low, "clip_high": config.clip_high, "dual_clip": config.dual_clip}
    terms = clipped_policy_loss(said.logp_NT, old_NT, given["advantage"], mask_NT, **bounds)
    critic = value_loss(said_values(critic_of(model), batch), given["old_value"], given["return"], mask_NT, clip=config.value_clip)
    loss = terms.loss_sum + config.value_weight * critic.loss_sum
    if "reference_logp" in given:
        corrected_NT = old_NT if config.kl_corrected else None
        penalty = kl_loss(said.logp_NT, given["reference_logp"], mask_NT, estimator=config.kl_estimator, old_logp_NT=corrected_NT)
        loss = loss + kl_weight() * penalty.loss_sum
    if config.entropy_weight:
        loss = loss + config.entropy_weight * entropy_bonus(said.entropy_NT, mask_NT).loss_sum
    told = {**terms.metrics, **critic.metrics, "policy_loss": terms.loss_sum.detach(), "value_loss": critic.loss_sum.detach()}
    told["entropy"] = (said.entropy_NT.detach() * mask_NT).sum()
    metrics = {f"token/{name}": value for name, value in told.items() if name != "tokens"}
    return LossTerms(loss, terms.weight, {**metrics, "weight/token": terms.metrics["tokens"], **_no_pretraining(loss.device)})


def pretraining_terms(model: Transformer, batch: PretrainingBatch, *, config: PpoConfig) -> LossTerms:
    """pretraining_weight times the mean next-token loss, as a part of the policy's sum: it has no weight of its own."""
    rows = batch.rows
    hidden_BTD = model.hidden_states(rows.token_BT, position_BT=rows.position_BT, document_BT=rows.document_BT, max_runs=rows.max_runs)
    flat = (hidden_BTD.flatten(0, 1), model.head_weight(), rows.target_BT.flatten(), rows.weight_BT.flatten())
    terms = linear_next_token(*flat, compiled=model.compiled)
    zero = torch.zeros((), device=terms.loss_sum.device)
    told = {"loss/pretraining": terms.loss_sum.detach(), "weight/pretraining": terms.weight}
    return LossTerms(config.pretraining_weight * batch.scale * terms.loss_sum, zero, told)


def pretraining_batches(rows: TokenRows, step: int, num_said: float, *, config: PpoConfig, actor: Actor) -> list[PpoBatch]:
    """This process's share of a step's pretraining rows."""
    chosen = rows_of_step(step, num_rows=rows.packed.num_rows, batch_rows=config.pretraining_rows, seed=config.seed)
    scale = num_said / max(float(make_batch(rows, chosen).weight_BT.sum()), 1.0)
    share = np.array_split(chosen, dist.world_size())[dist.rank()]
    if not len(share):
        return []
    size = micro_batch_rows(config.pretraining_sequence_tokens, actor.model.device, actor.launch)
    parts = make_batch(rows, share).split(-(-len(share) // size))
    return [PretrainingBatch(part.to(actor.model.device), scale) for part in parts]


def pass_over(data_step: int, *, learner: Learner, config: PpoConfig) -> int:
    """The rest of a rollout's steps, once the policy has moved too far from it."""
    update = data_step % config.updates
    moved = learner.state.carried.get(UPDATE_KL, 0.0)
    return config.updates - update if config.max_update_kl and update and moved > config.max_update_kl else 0


def note_move(report: StepReport, *, learner: Learner) -> None:
    """Remembers how far the policy is from the rollout; it is forgotten with the next one."""
    tokens = report.metrics.get("weight/token", 0.0)
    learner.state.carried = {**learner.state.carried, UPDATE_KL: report.metrics["token/approx_kl"] / tokens if tokens else 0.0}


def _critic_source(config: PpoConfig, reward_models: Sequence[Path]) -> Path | None:
    if config.critic_from == "reward_model" and not reward_models:
        raise ConfigError('critic_from = "reward_model", but the input reward_models is empty')
    return reward_models[0] if reward_models and config.critic_from != "policy" else None


def _pretraining_rows(config: PpoConfig, pretraining: Path | None, actor: Actor) -> TokenRows | None:
    if bool(config.pretraining_weight) != (pretraining is not None):
        found = "no input `pretraining`" if pretraining is None else "an input `pretraining`"
        raise ConfigError(f"pretraining_weight = {config.pretraining_weight} and {found}: the mix needs both")
    if pretraining is None:
        return None
    length = config.pretraining_sequence_tokens
    if length > actor.model.config.max_positions:
        positions = actor.model.config.max_positions
        raise ConfigError(f"pretraining_sequence_tokens = {length} is more than the model's {positions} positions")
    return token_rows(open_tokens(pretraining, split="train", tokenizer_sha256=actor.tokenizer.sha256), row_tokens=length)


def _no_pretraining(device: torch.device) -> dict[str, Tensor]:
    # On every batch, so that all processes add up the same numbers.
    return dict(zip(("loss/pretraining", "weight/pretraining"), itertools.repeat(torch.zeros((), device=device)), strict=False))


STAGE = Stage(
    name="ppo",
    config_type=PpoConfig,
    run=ppo,
    inputs={
        "init": Slot("checkpoint"),
        "prompts": Slot("conversations", many=True),
        **REWARD_SLOTS,
        "pretraining": Slot("tokens", optional=True),
    },
    output="checkpoint",
    version=1,
    spmd=True,
    check_launch=check_rl_launch,
)
