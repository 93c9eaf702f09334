"""A policy that answers and is taught: the engine it speaks through, what judges it, and the model that it started as.

Both PPO and GRPO ask it the same things: answers to prompts, what they are worth, what the reference would have said of
them, and how it does on prompts that it never learns from. What they make of that is in their stages.

Shapes: N answers, P prompts, T tokens of an answer.
"""

import functools
import importlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol  # Any: what vLLM's engine gives

import torch
from torch import Tensor

from bloomery.align.episodes import Episodes, measure_episodes, said_logps
from bloomery.align.monitor import describe_episodes, describe_groups, describe_values, rounded, standard_error
from bloomery.align.rewards import RewardSum, make_rewards
from bloomery.align.rollouts import (
    GOLD,
    REWARD,
    Prompt,
    Prompts,
    RolloutConfig,
    as_episodes,
    ask,
    judge_samples,
    prompts_of_rollout,
    warn_of_narrow_sampling,
)
from bloomery.core.stage import Launch
from bloomery.generate.engine import Engine, RolloutEngine
from bloomery.model.huggingface import load_model
from bloomery.model.lora import adapters_off
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import Tokenizer

log = logging.getLogger(__name__)


class Judges(NamedTuple):
    """What answers are trained on, and what is only measured (None: nothing)."""

    rewards: RewardSum
    gold: RewardSum | None


class Collected(NamedTuple):
    """Answers, num_samples to each prompt one after another, and what they are worth by name (float64 N, NaN not known)."""

    episodes: Episodes
    values: dict[str, Tensor]


class Speaks(Protocol):
    """A RolloutEngine that is told when the weights have changed."""

    def speak_as(self, model: Transformer) -> RolloutEngine:
        """The engine, with the weights that the model has now."""
        ...


class Actor:
    """The policy of a run. `model` is trained by others; this reads its weights whenever it is asked something."""

    def __init__(
        self,
        model: Transformer,
        *,
        tokenizer: Tokenizer,
        prompts: Prompts,
        judges: Judges,
        config: RolloutConfig,
        init: Path,
        launch: Launch,
    ) -> None:
        self.model, self.tokenizer, self.prompts, self.judges, self.config = model, tokenizer, prompts, judges, config
        self.launch = launch
        self.is_narrow = warn_of_narrow_sampling(config)
        self._engine = _make_engine(config, model, tokenizer, init)
        self._reference = _load_reference(model, init) if config.kl_weight or config.measure_kl else None

    @property
    def measures_kl(self) -> bool:
        """Whether there is a reference."""
        return self._reference is not None

    def collect(self, number: int, *, attempt: int = 0) -> Collected:
        """Answers to the prompts of a rollout, judged. Every process gets all of them."""
        rows = prompts_of_rollout(number, attempt, num_prompts=len(self.prompts.train), config=self.config)
        asked = [self.prompts.train[i] for i in rows]
        return self._ask(asked, self.config.group_size, key=(self.config.seed, "rollout", number, attempt))

    def policy_logps(self, episodes: Episodes) -> Tensor:
        """NT: the policy's log-probabilities of what was said, computed as training computes them."""
        return self._logps(self.model, episodes)

    def reference_logps(self, episodes: Episodes) -> Tensor:
        """NT: those of the model that training started from. With adapters it is the policy without them."""
        assert self._reference is not None
        with adapters_off(self.model) if self._reference is self.model else nullcontext():
            return self._logps(self._reference, episodes)

    def validate(self, model: Transformer) -> dict[str, float]:
        """How the policy does on held-out prompts: `reward`, `gold` (and `gold_error`), `kl`, `length`, `stopped` and the rest."""
        held_out = self.prompts.held_out[: self.config.validation_prompts]
        each = self.config.validation_samples
        episodes, values = self._ask(held_out, each, key=(self.config.seed, "validation"))
        reference_NT = self.reference_logps(episodes) if self.config.measure_kl else None
        found = describe_values(values) | describe_episodes(episodes, logp_NT=episodes.sampled_logp_NT, reference_NT=reference_NT)
        errors = {f"{name}_error": standard_error(values[name], group_size=each) for name in (REWARD, GOLD) if name in values}
        return {**found, **errors}

    def _ask(self, prompts: Sequence[Prompt], each: int, *, key: Sequence[int | str]) -> Collected:
        engine = self._engine.speak_as(self.model)
        samples = ask(engine, prompts, self.config.params, num_samples=each, key=key)
        judges = self.judges
        values = judge_samples(samples, prompts, self.tokenizer, self.config, rewards=judges.rewards, gold=judges.gold)
        return Collected(as_episodes(samples, prompts), values)

    def _logps(self, model: Transformer, episodes: Episodes) -> Tensor:
        number = functools.partial(_logps_of, model, temperature=self.config.temperature, vocab_size=self.tokenizer.vocab_size)
        return measure_episodes(episodes, number, self.model.device, self.launch)


def make_judges(
    config: RolloutConfig,
    *,
    reward_models: Sequence[Path],
    functions: Sequence[Path],
    judge: Path | None,
    device: torch.device,
    launch: Launch,
) -> Judges:
    """The rewards and the gold of a config, from the inputs of its stage."""
    inputs: dict[str, Any] = {
        "reward_models": reward_models, "functions": functions, "judge": judge, "device": device, "endpoint": launch.endpoint,
    }  # fmt: skip
    return Judges(make_rewards(config.rewards, **inputs), make_rewards(config.gold, **inputs) if config.gold else None)


def describe_rollout(collected: Collected, *, group_size: int, logp_NT: Tensor, reference_NT: Tensor | None) -> dict[str, float]:
    """All that is told of a rollout at each step, by its short names."""
    found = describe_values(collected.values)
    found |= describe_episodes(collected.episodes, logp_NT=logp_NT, reference_NT=reference_NT)
    if group_size > 1:
        found |= describe_groups(collected.values[REWARD], group_size=group_size)
    unknown = collected.values[REWARD].isnan().double().mean().item()
    return rounded({**found, "left_out": unknown})


def answers_for_log(collected: Collected, tokenizer: Tokenizer, *, count: int) -> list[Mapping[str, Any]]:
    """The first answers as text, with what they are worth."""
    episodes = collected.episodes
    found: list[Mapping[str, Any]] = []
    for i in range(min(count, episodes.count)):
        prompt = episodes.prompt_NS[i, : int(episodes.prompt_length_N[i])].tolist()
        answer = episodes.token_NT[i, : int(episodes.length_N[i])].tolist()
        worth = {name: value[i].item() for name, value in collected.values.items() if not value[i].isnan()}
        found.append({"prompt": tokenizer.decode(prompt), "text": tokenizer.decode(answer), **rounded(worth)})
    return found


class _BuiltIn:
    def __init__(self, model: Transformer, tokenizer: Tokenizer) -> None:
        self._engine = Engine(model, tokenizer)

    def speak_as(self, model: Transformer) -> RolloutEngine:
        return self._engine


class _Vllm:
    # Not run yet: vLLM needs a GPU and is not installed where this is tested.
    def __init__(self, init: Path) -> None:
        # Not imported above: it raises where vLLM is not installed.
        engine: Any = importlib.import_module("bloomery.generate.vllm_engine").VLLMEngine
        self._engine = engine(init, gpu_memory_fraction=VLLM_MEMORY_FRACTION)

    def speak_as(self, model: Transformer) -> RolloutEngine:
        self._engine.update_weights(model)
        speaking: RolloutEngine = self._engine
        return speaking


VLLM_MEMORY_FRACTION = 0.3
"""Of a GPU that also trains; TRL's default where both share one."""


def _make_engine(config: RolloutConfig, model: Transformer, tokenizer: Tokenizer, init: Path) -> Speaks:
    return _Vllm(init) if config.engine == "vllm" else _BuiltIn(model, tokenizer)


def _load_reference(model: Transformer, init: Path) -> Transformer:
    """The model of `init`, frozen, its matrices in the dtype they are multiplied in; with adapters, the policy itself."""
    if model.lora.rank:
        return model
    reference = load_model(init)
    reference.compute_dtype = model.compute_dtype
    reference.requires_grad_(False)
    for weight in reference.parameters():
        if weight.ndim > 1:  # what a product would cast them to each time
            weight.data = weight.data.to(model.compute_dtype)
    return reference.to(model.device)


def _logps_of(model: Transformer, batch: Any, *, temperature: float, vocab_size: int) -> Tensor:
    return said_logps(model, batch, temperature=temperature, vocab_size=vocab_size).logp_NT
