"""Rollouts: prompts are answered by the policy as it is, answers are judged, and what comes out is trained on.

A rollout is a pure function of (weights, its number, seed). It lies on the disk until the steps made from it are in a
snapshot, so that a run that was killed between two of them goes on with the answers that the first one was made from. Each
process answers and judges a share of the prompts, whole groups of samples; all of them then have the whole rollout.

Shapes: N answers, P prompts (N = P * group_size), T tokens of an answer.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: a row of JSON

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bloomery.align.episodes import EPISODE_FIELDS, Episode, Episodes, make_episodes
from bloomery.align.reward_source import Answer, prompt_messages
from bloomery.align.rewards import RewardSpec, RewardSum
from bloomery.core import dist
from bloomery.core.conversation import read_conversations
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_atomically
from bloomery.generate.engine import RolloutEngine, Sample
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.text import answer_text
from bloomery.objectives.advantages import KlEstimator
from bloomery.tokens.loader import rows_of_step
from bloomery.tokens.renderer import Renderer
from bloomery.tokens.tokenizer import Tokenizer
from bloomery.train.fit import TrainingConfig
from bloomery.train.optimizer import OptimizerName
from bloomery.train.schedule import Decay

log = logging.getLogger(__name__)

REWARD, GOLD = "reward", "gold"
"""The names of the totals; a part is `reward/NAME` or `gold/NAME`."""


class RolloutConfig(TrainingConfig):
    """What every stage that learns from its own answers can be told; each has its own defaults."""

    optimizer: OptimizerName = "adamw"
    learning_rate: PositiveFloat = 1e-4
    embedding_learning_rate: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.0
    warmup_fraction: float = Field(default=0.0, ge=0, le=1)
    decay: Decay = "linear"
    spike_sigmas: NonNegativeFloat = 0.0
    """0: the loss of a policy gradient has no usual level, so only a step that is not finite is left out."""
    rollback_spikes: NonNegativeInt = 0
    rollouts: PositiveInt = 100
    """How often answers are sampled; each time `epochs` * `minibatches` optimizer steps are made from them."""
    batch_prompts: PositiveInt = 32
    """Prompts of a rollout, all processes together."""
    group_size: PositiveInt = 8
    """Answers to each prompt."""
    epochs: PositiveInt = 1
    """Passes over the answers of a rollout."""
    minibatches: PositiveInt = 1
    """Optimizer steps of a pass, each on its own part of the answers."""
    max_tokens: PositiveInt = 64
    """The most tokens of an answer, its `<|end|>` counted."""
    temperature: PositiveFloat = 1.0
    """Of sampling, and of the log-probabilities that are trained."""
    top_k: NonNegativeInt = 0
    """Draw among so many tokens only; 0 = all. What is then drawn from is not what is trained, and a warning says so."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """As top_k, by probability."""
    engine: Literal["built_in", "vllm"] = "built_in"
    """What answers: the engine of this package, or vLLM on GPUs, which gets the weights after each update."""
    rewards: list[RewardSpec] = Field(default=[RewardSpec(source="verifier")], min_length=1)
    """What answers are worth, summed by weight: what is trained on."""
    exclude_skills: list[str] = Field(default=["documentation"])
    """Skills that are not asked: those whose gold is one wording among many."""
    gold: list[RewardSpec] = Field(default=[])
    """What they should be worth: measured beside `rewards`, never trained on."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """A token's probability may fall to 1 - clip_low of that in the rollout before it gets no more gradient."""
    clip_high: PositiveFloat = 0.2
    """It may rise to 1 + clip_high; above clip_low this is DAPO's clip-higher."""
    dual_clip: float = Field(default=0.0, ge=0)
    """Bound on the ratio of tokens with negative advantage, above 1; 0 = none."""
    kl_weight: NonNegativeFloat = 0.0
    """What KL to the model that training starts from costs; 0 = nothing."""
    kl_estimator: KlEstimator = "k3"
    """k1, k2 or k3; see docs/rl.md for which has which gradient."""
    kl_corrected: bool = True
    """As a loss, whether the estimate is multiplied by the ratio to the rollout: its gradient is then that of KL(policy || reference)."""
    measure_kl: bool = True
    """Whether KL is measured where it costs nothing; that takes a pass of the reference over each rollout."""
    entropy_weight: NonNegativeFloat = 0.0
    """What the entropy of each token is rewarded with."""
    held_out_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the prompts, by a hash of each, that is kept for validation."""
    validation_prompts: PositiveInt = 64
    """At most so many of them are answered at a validation."""
    validation_samples: PositiveInt = 1
    """Answers to each, at the temperature of training; the same draws each time."""
    num_validations: NonNegativeInt = 5
    stop_errors: NonNegativeFloat = 2.0
    """Gold that lies so many standard errors below its best at `stop_checks` validations in a row ends the run at its best; 0 = never.

    Without `gold` there is nothing to stop by.
    """
    stop_checks: PositiveInt = 2

    @property
    def updates(self) -> int:
        """Optimizer steps made from one rollout."""
        return self.epochs * self.minibatches

    @property
    def params(self) -> SamplingParams:
        """How answers are drawn."""
        return SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


class Prompt(NamedTuple):
    """A conversation up to the assistant's turn, as ids, and the row that it is from."""

    ids: list[int]
    row: Mapping[str, Any]


class Prompts(NamedTuple):
    """Prompts to train on and to validate with, and how many left no room for an answer."""

    train: list[Prompt]
    held_out: list[Prompt]
    num_too_long: int


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Answers and what they are worth. `values` holds float64 N by name: `reward`, `gold` and their parts; NaN is not known.

    `trained_N` is false where an answer is left out of the loss. `carried` are the numbers that the next rollout begins with.
    """

    episodes: Episodes
    values: Mapping[str, Tensor]
    trained_N: Tensor
    group_size: int
    carried: Mapping[str, float]
    numbers: Mapping[str, float]


def read_prompts(paths: Sequence[Path], render: Renderer, config: RolloutConfig, *, context_tokens: int) -> Prompts:
    """The prompts of conversation files that have the columns which rewards need, split by a hash of their text: one prompt is never
    on both sides.

    Of an artifact's folder only train.jsonl.gz is read. Raises DataError if there is none to train on.
    """
    files = [path / "train.jsonl.gz" if (path / "train.jsonl.gz").is_file() else path for path in paths]
    columns = dict.fromkeys(column for spec in (*config.rewards, *config.gold) for column in spec.needed_columns)
    found, num_unfit = Prompts([], [], 0), 0
    for row in read_conversations(files, calculator="remove"):  # an answer is one turn: nobody works a call out
        if any(column not in row for column in columns) or row.get("skill") in config.exclude_skills:
            num_unfit += 1
            continue
        messages = prompt_messages(row)
        ids = render(messages, tools=row.get("tools") or (), add_generation_prompt=True).ids
        if len(ids) >= context_tokens:
            found = found._replace(num_too_long=found.num_too_long + 1)
            continue
        text = "\x00".join(str(message.get("content")) for message in messages)
        share = _number("prompt", text) / 2**63
        (found.held_out if share < config.held_out_fraction else found.train).append(Prompt(ids, row))
    if not found.train:
        raise DataError(
            f"{', '.join(map(str, files))}: found no prompt to train on ({len(found.held_out)} are held out, "
            f"{found.num_too_long} leave no room for an answer in a context of {context_tokens} tokens, {num_unfit} have a skill that is "
            f"excluded or are without a column that rewards need: {', '.join(columns) or 'none is needed'})"
        )
    return found


def prompts_of_rollout(number: int, attempt: int, *, num_prompts: int, config: RolloutConfig) -> np.ndarray:
    """Which prompts are asked, int64 [batch_prompts]: in turn, each epoch in its own order; at a later attempt, others."""
    seed = config.seed if attempt == 0 else _number(config.seed, "attempt", attempt)
    return rows_of_step(number, num_rows=num_prompts, batch_rows=config.batch_prompts, seed=seed)


def ask(
    engine: RolloutEngine, prompts: Sequence[Prompt], params: SamplingParams, *, num_samples: int, key: Sequence[int | str]
) -> list[Sample]:
    """`num_samples` answers to each prompt, one prompt after another. Each process asks a share; all get the whole.

    The draws of an answer follow from `key`, its prompt's place and its own number alone.
    """
    share = np.array_split(np.arange(len(prompts)), dist.world_size())[dist.rank()]
    asked = [(int(place), k) for place in share for k in range(num_samples)]
    seeds = [_number(*key, place, k) for place, k in asked]
    own = engine.generate([prompts[place].ids for place, _ in asked], params, seeds=seeds) if asked else []
    return [sample for part in dist.gather_objects(own) for sample in part]


def judge(
    rewards: RewardSum | None,
    rows: Sequence[Mapping[str, Any]],
    answers: Sequence[Answer],
    *,
    name: str,
    together: bool,
) -> dict[str, Tensor]:
    """float64 N by name: the total of `rewards` as `name`, each part as `name/PART`; NaN where it is None.

    Each process judges a share and all get the whole; `together`: each judges all, for rewards that look at the whole batch.
    """
    if rewards is None:
        return {}
    size = 1 if together else dist.world_size()
    share = np.array_split(np.arange(len(rows)), size)[0 if together else dist.rank()]
    scores = rewards([rows[i] for i in share], [answers[i] for i in share])
    columns = [scores.total, *(scores.parts[part] for part in rewards.names)]
    gathered = [columns] if together else dist.gather_objects(columns)
    names = [name, *(f"{name}/{part}" for part in rewards.names)]
    whole = [[value for part in gathered for value in part[i]] for i in range(len(names))]
    return {
        one: torch.tensor([float("nan") if value is None else value for value in column], dtype=torch.float64)
        for one, column in zip(names, whole, strict=True)
    }


def judge_samples(
    samples: Sequence[Sample],
    prompts: Sequence[Prompt],
    tokenizer: Tokenizer,
    config: RolloutConfig,
    *,
    rewards: RewardSum,
    gold: RewardSum | None,
) -> dict[str, Tensor]:
    """What samples are worth, by name; len(samples) / len(prompts) of each prompt, one prompt after another."""
    each = len(samples) // len(prompts)
    rows = [prompt.row for prompt in prompts for _ in range(each)]
    answers = [Answer(answer_text(tokenizer, sample.tokens), sample.finish != "length", len(sample.tokens)) for sample in samples]
    found: dict[str, Tensor] = {}
    for source, specs, name in ((rewards, config.rewards, REWARD), (gold, config.gold, GOLD)):
        together = any(spec.whiten != "none" for spec in specs)
        found |= judge(source, rows, answers, name=name, together=together)
    return found


def as_episodes(samples: Sequence[Sample], prompts: Sequence[Prompt]) -> Episodes:
    """Samples as episodes in which all was said by the policy, what ended them too."""
    each = len(samples) // len(prompts)
    return make_episodes(
        [
            Episode(prompts[i // each].ids, sample.tokens, [True] * len(sample.tokens), sample.logps, sample.finish != "length")
            for i, sample in enumerate(samples)
        ]
    )


def minibatch(number: int, update: int, trained_N: Tensor, config: RolloutConfig) -> np.ndarray:
    """The episodes that a step learns from: all that are trained, or with several minibatches a part, in another order each epoch.

    Where there are fewer answers than minibatches, some of these are empty.
    """
    indices = trained_N.nonzero()[:, 0].numpy()
    if config.minibatches == 1:
        return indices
    epoch, part = divmod(update, config.minibatches)
    seed = _number(config.seed, "minibatches", number, epoch)
    order = rows_of_step(0, num_rows=len(indices), batch_rows=len(indices), seed=seed) if len(indices) else indices
    return np.sort(np.array_split(indices[order], config.minibatches)[part])


class RolloutStore:
    """Rollouts in a folder, each in a file; `settings` says what made them, so that those of others are not met."""

    def __init__(self, scratch: Path, *, settings: str, updates: int) -> None:
        self.scratch, self.updates = scratch, updates
        self.folder = scratch / f"rollouts-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
        self._last: tuple[int, Rollout] | None = None

    def get(self, number: int, make: Callable[[], Rollout]) -> Rollout:
        """The rollout of this number: from memory, the disk, or made now. Called on every process."""
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        path = self._path(number)
        dist.barrier()  # nobody may see a file that another is yet to write
        rollout = load_rollout(path) if dist.say(path.is_file()) else None
        if rollout is None:
            rollout = make()
            if dist.rank() == 0:
                save_rollout(path, rollout)
                self._prune()
        self._last = (number, rollout)
        return rollout

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def _prune(self) -> None:
        # A snapshot within a rollout's steps, or one that a spike may lead back to, needs the rollout that was being used.
        needed = []
        for path in self.scratch.glob("step-*/state.json"):
            with contextlib.suppress(DataError):  # the thread that writes snapshots has just removed this one
                needed.append(read_json(path)["data_step"] // self.updates)
        for path in self.folder.glob("*.safetensors") if needed else ():
            if int(path.stem) < min(needed):
                path.unlink(missing_ok=True)


def save_rollout(path: Path, rollout: Rollout) -> None:
    """Writes a rollout, atomically."""
    episodes = rollout.episodes
    named = {name: getattr(episodes, name) for name in EPISODE_FIELDS}
    named |= {f"token/{name}": value for name, value in episodes.of_token.items()}
    named |= {f"value/{name}": value for name, value in rollout.values.items()}
    facts = {"group_size": rollout.group_size, "carried": dict(rollout.carried), "numbers": dict(rollout.numbers)}
    with write_atomically(path) as temporary:
        tensors = {name: value.contiguous() for name, value in {**named, "trained_N": rollout.trained_N}.items()}
        save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})


def load_rollout(path: Path) -> Rollout:
    """A rollout that `save_rollout` wrote."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        named: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    of_token = {name.removeprefix("token/"): value for name, value in named.items() if name.startswith("token/")}
    return Rollout(
        episodes=Episodes(**{name: named[name] for name in EPISODE_FIELDS}, of_token=of_token),
        values={name.removeprefix("value/"): value for name, value in named.items() if name.startswith("value/")},
        trained_N=named["trained_N"],
        **facts,
    )


def warn_of_narrow_sampling(config: RolloutConfig) -> bool:
    """Whether answers are drawn from other probabilities than are trained, which top-k and top-p do; says so once."""
    is_narrow = bool(config.top_k) or config.top_p < 1.0
    if is_narrow and dist.rank() == 0:
        log.warning(
            "top_k = %d, top_p = %g: answers are drawn from fewer tokens than the log-probabilities that are trained know of, "
            "so the gradient is not that of what is drawn (0 and 1 turn it off)", config.top_k, config.top_p,
        )  # fmt: skip
    return is_narrow


def _number(*parts: int | str) -> int:
    """A number from 0 to 2**63 - 1 that follows from its parts."""
    digest = hashlib.blake2b("\x00".join(map(str, parts)).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
