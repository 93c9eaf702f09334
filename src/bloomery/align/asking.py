"""Asking a model in conversations, with every answer kept: what the stages of Constitutional AI have in common.

The model is a checkpoint or any Hugging Face folder that converses, or one behind an OpenAI-compatible endpoint. It is opened at
the first question that has no kept answer yet.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: a row of JSON

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from bloomery.align.constitution import Constitution, Shipped
from bloomery.align.reward_source import Answer as Sampled
from bloomery.align.reward_source import Row, prompt_messages
from bloomery.align.rewards import RewardSpec, make_rewards
from bloomery.align.seeds import draw_seed
from bloomery.core.config import Config
from bloomery.core.conversation import Message, read_conversations
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.metrics import Bar
from bloomery.core.stage import Launch, Runtime
from bloomery.generate.answer_rules import followed_fraction
from bloomery.generate.answer_store import AnswerStore, request_key
from bloomery.generate.answers import Answer, Answerer, LocalAnswerer, keep_answers
from bloomery.generate.engine import Engine
from bloomery.generate.remote_engine import RemoteEngine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model
from bloomery.tokens.renderer import load_prompt_renderer
from bloomery.tokens.tokenizer import load_tokenizer

KEPT_COLUMNS = ("skill", "answer", "format")
"""What of a prompt's row goes with what is made of it, so that it can be verified again."""


class AskingConfig(Config):
    """Who is asked what, by which principles."""

    model: str = ""
    """The model's name at the endpoint of `launch`; leave it empty for the input `model`."""
    constitution: Shipped = "default"
    """A constitution that comes along: "default" has sixteen principles for assistants, "manners" five that a program can check.
    The input `principles` (a TOML file) takes its place."""
    only_principles: list[str] = Field(default=[])
    """Names of the principles that are used; [] = all of the constitution."""
    num_prompts: PositiveInt = 1000
    exclude_skills: list[str] = Field(default=["critique", "comparison"])
    """By default what `synthesize` writes of critiques and comparisons: those are not requests."""
    temperature: NonNegativeFloat = 1.0
    max_tokens: PositiveInt = 128
    """Of an answer."""
    gold: list[RewardSpec] = Field(default=[])
    """What answers are really worth, measured and never shown to the model; [] = the rules that the principles name, if any."""
    seed: NonNegativeInt = 0

    @property
    def params(self) -> SamplingParams:
        """How answers are drawn."""
        return SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature)


class Asker:
    """Asks, and keeps every answer in `store`."""

    def __init__(self, open_model: Callable[[], Answerer], store: AnswerStore, bar: Bar) -> None:
        self._open, self._store, self._bar = open_model, store, bar
        self._answerer: Answerer | None = None

    def ask(self, conversations: Sequence[Sequence[Message]], params: SamplingParams, *, seeds: Sequence[int]) -> list[Answer]:
        """An answer to each conversation. Raises DataError where no answer can be had at all."""
        settings = params.model_dump(mode="json")
        keys = [
            request_key({"messages": list(messages), "seed": seed, **settings}) for messages, seed in zip(conversations, seeds, strict=True)
        ]
        missing = list({key: i for i, key in enumerate(keys) if self._store.get(key) is None}.values())
        self._bar.advance(len(keys) - len(missing))
        if missing:
            self._answerer = self._answerer or self._open()
            asked, chosen = [conversations[i] for i in missing], [seeds[i] for i in missing]
            for _ in keep_answers(self._answerer, asked, params, seeds=chosen, store=self._store, keys=[keys[i] for i in missing]):
                self._bar.advance()
        rows = [self._store.get(key) for key in keys]
        assert all(row is not None for row in rows), "every answer was asked for"
        return [Answer(**row) for row in rows if row is not None]


class Truth(NamedTuple):
    """What a program knows of answers: a number for each, higher is better, or None; and what it is called."""

    name: str
    score: Callable[[Sequence[Row], Sequence[Sampled]], list[float | None]]


def choose_prompts(config: AskingConfig, prompts: Sequence[Path]) -> list[Row]:
    """The same random `num_prompts` of all prompts, each text once; of an artifact's folder only train.jsonl.gz is read."""
    files = [path / "train.jsonl.gz" if (path / "train.jsonl.gz").is_file() else path for path in prompts]
    usable = {prompt_key(row): row for row in read_conversations(files) if row.get("skill") not in config.exclude_skills}
    if not usable:
        raise DataError(f"{', '.join(map(str, files))}: no prompt in it of other skills than exclude_skills")
    order = sorted(usable, key=lambda key: (draw_seed("prompts", config.seed, key), key))
    return [usable[key] for key in order[: config.num_prompts]]


def prompt_key(row: Row) -> str:
    """A prompt's text, all its messages together."""
    return "\x00".join(message["content"] for message in prompt_messages(row))


def kept_columns(row: Row) -> dict[str, Any]:
    """The columns that go with what is made of a prompt."""
    return {column: row[column] for column in KEPT_COLUMNS if column in row}


def make_truth(gold: Sequence[RewardSpec], constitution: Constitution) -> Truth | None:
    """What measures answers: the sources of `gold`, else the share of the constitution's rules that are followed, else nothing."""
    if gold:
        rewards = make_rewards(gold)
        return Truth("gold", lambda rows, answers: rewards(rows, answers).total)
    if not constitution.rules:
        return None
    rules = constitution.rules
    return Truth("rules", lambda rows, answers: [followed_fraction(rules, row, a.text) for row, a in zip(rows, answers, strict=True)])


def open_answerer(folder: Path | None, name: str, runtime: Runtime) -> Answerer:
    """The model in a folder, or `name` at the endpoint of the launch."""
    if folder is None:
        assert runtime.launch.endpoint is not None
        return RemoteEngine(runtime.launch.endpoint, name)
    tokenizer = load_tokenizer(folder)
    engine = Engine(load_model(folder, device=resolve_device(runtime.device)).eval(), tokenizer)
    return LocalAnswerer(engine, load_prompt_renderer(folder, tokenizer))


def check_model(config: AskingConfig, launch: Launch, inputs: Mapping[str, Any]) -> list[str]:
    """What of a launch does not fit: a name is one at an endpoint."""
    if launch.endpoint is None and config.model:
        return [f'config.model = "{config.model}" is a name at an endpoint: give launch.endpoint, or leave it empty']
    return []


def require_model(stage: str, model: Path | None, config: AskingConfig, launch: Launch) -> None:
    """Raises ConfigError unless there is exactly one model to ask."""
    if (model is None) == (not (config.model and launch.endpoint)):
        found = "neither" if model is None else "both"
        raise ConfigError(
            f"{stage}: give the input `model` (a checkpoint), or launch.endpoint and the model's name there (config.model); found {found}"
        )
