"""A model as judge of two answers under a principle, and what its judgement is worth.

It is asked in both orders, because models prefer a place (arXiv:2306.05685, sec. 3.3), and the two chances are averaged: what is left
has no preference of place by construction, and swapping the answers turns p into 1 - p. The chances are soft labels
(arXiv:2212.08073, sec. 4.1; 2309.00267, sec. 3.1); after written reasoning they are near 0 or 1 and are clamped, to 0.4 .. 0.6 there.

A judge is measured wherever a program knows the truth: agreement with it, and its 95 % interval. One whose interval includes a half may
as well have tossed a coin, and is said to be so.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: a row of JSON

import torch
from scipy.stats import binomtest

from bloomery.align.constitution import Constitution, Principle, draw_principles
from bloomery.align.reward_source import Answer, RewardSource, Row, prompt_messages
from bloomery.core.conversation import Message
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Endpoint
from bloomery.generate.answer_store import AnswerStore
from bloomery.generate.answers import Answerer
from bloomery.generate.letters import Chooser, LocalChooser, RemoteChooser
from bloomery.generate.remote_engine import RemoteEngine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.huggingface import load_model
from bloomery.tokens.renderer import load_prompt_renderer
from bloomery.tokens.tokenizer import load_tokenizer

log = logging.getLogger(__name__)

REASONING_REQUEST = "Before you decide, think it through step by step: how does each answer do?"
VERDICT_REQUEST = "So which one? Reply with one letter, A or B."


class Comparison(NamedTuple):
    """Two answers to a prompt, and the principle by which they are compared."""

    prompt: Sequence[Message]
    first: str
    second: str
    principle: Principle


class Judgement(NamedTuple):
    """The chance that the first answer is the better one: averaged over both orders and clamped; and P(A) in each order."""

    probability: float
    first_as_a: float
    second_as_a: float

    @property
    def is_consistent(self) -> bool:
        """Whether both orders name the same answer."""
        return (self.first_as_a > 0.5) == (self.second_as_a < 0.5)


class Agreement(NamedTuple):
    """How often a judge names the answer that the truth names, over comparisons where the truth names one; its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float
    num_comparisons: int

    @property
    def is_near_chance(self) -> bool:
        """Whether a coin could have done as well."""
        return self.low <= 0.5

    def describe(self) -> str:
        """A clause that says it."""
        value, low, high = (round(100 * share) for share in (self.value, self.low, self.high))
        coin = ": near chance, its labels say little or nothing" if self.is_near_chance else ""
        return f"agrees with the program on {value} % of {self.num_comparisons:,} comparisons (95 % interval {low} to {high}){coin}"


class Reasoner(NamedTuple):
    """Who writes the reasoning before a verdict, and how."""

    answerer: Answerer
    params: SamplingParams


def judge_comparisons(
    chooser: Chooser, constitution: Constitution, comparisons: Sequence[Comparison], *, clamp: float = 0.0, reasoner: Reasoner | None = None
) -> list[Judgement]:
    """A judgement of each comparison. Probabilities are kept in clamp .. 1 - clamp; 0 leaves them as they are."""
    questions = []
    for prompt, first, second, principle in comparisons:
        questions += [constitution.comparison(principle, prompt, *order) for order in ((first, second), (second, first))]
    if reasoner is not None:
        questions = _reason(reasoner, questions)
    chances = chooser.choose(questions)
    return [combine(first, second, clamp=clamp) for first, second in zip(chances[::2], chances[1::2], strict=True)]


def combine(first_as_a: float, second_as_a: float, *, clamp: float) -> Judgement:
    """The judgement of P(A) in the order (first, second) and P(A) in the order (second, first).

    >>> combine(0.9, 0.3, clamp=0.0).probability, combine(0.9, 0.3, clamp=0.4).probability
    (0.8, 0.6)
    """
    probability = (first_as_a + (1.0 - second_as_a)) / 2
    return Judgement(min(max(probability, clamp), 1.0 - clamp), first_as_a, second_as_a)


def measure_agreement(judgements: Sequence[Judgement], truths: Sequence[tuple[float | None, float | None]]) -> Agreement | None:
    """Agreement with the golds (first, second) of each comparison; None where nowhere one is higher. Exactly a half agrees half."""
    points = []
    for judgement, (first, second) in zip(judgements, truths, strict=True):
        if first is not None and second is not None and first != second:
            said = 0.5 if judgement.probability == 0.5 else float(judgement.probability > 0.5)
            points.append(said if first > second else 1.0 - said)
    if not points:
        return None
    count, agreed = len(points), sum(points)
    interval = binomtest(int(agreed), count).proportion_ci(method="wilson")
    return Agreement(agreed / count, float(interval.low), float(interval.high), count)


def agreement_metrics(agreement: Agreement | None) -> dict[str, Any]:
    """As a stage returns it; `judge_agreement` is absent where no program knows the truth."""
    if agreement is None:
        return {"judge_known": 0}
    named = {f"judge_agreement{end}": getattr(agreement, name) for end, name in (("", "value"), ("_low", "low"), ("_high", "high"))}
    return {"judge_known": agreement.num_comparisons, **named, "judge_near_chance": agreement.is_near_chance}


def warn_of_judge(label: str, agreement: Agreement | None) -> None:
    """Says what the judge is worth: a warning where it is near chance, or nobody can tell."""
    if agreement is None:
        log.warning(
            "%s: how far the judge is right is unknown: no row has a gold, and no principle a rule, by which a program could tell", label
        )
    elif agreement.is_near_chance:
        log.warning("%s: the judge %s", label, agreement.describe())
    else:
        log.info("%s: the judge %s", label, agreement.describe())


def make_judge(
    folder: Path | None,
    *,
    constitution: Constitution,
    device: torch.device | str = "cpu",
    endpoint: Endpoint | None = None,
    model: str = "",
    num_principles: int = 1,
    opponents: int = 2,
) -> RewardSource:
    """A source of rewards: the mean chance that an answer is better than others to the same prompt, 0 to 1.

    The judge is the checkpoint or any Hugging Face folder `folder`, or `model` behind `endpoint`. Each different answer meets the next
    `opponents` ones, by the first `num_principles` principles drawn for the prompt; an answer without an opponent has None.
    Raises ConfigError if there is no judge.
    """
    chooser = open_chooser(folder, device=device, endpoint=endpoint, model=model)

    def source(rows: Sequence[Row], answers: Sequence[Answer]) -> list[float | None]:
        prompts = ["\x00".join(message["content"] for message in prompt_messages(row)) for row in rows]
        texts_of: dict[str, dict[str, None]] = {}
        row_of = dict(zip(prompts, rows, strict=True))
        for prompt, answer in zip(prompts, answers, strict=True):
            texts_of.setdefault(prompt, {})[answer.text] = None
        met: list[tuple[str, str, str]] = []
        comparisons = []
        for prompt, texts in texts_of.items():
            for first, second in _meetings(list(texts), opponents):
                for principle in _drawn(constitution, num_principles, prompt):
                    met.append((prompt, first, second))
                    comparisons.append(Comparison(prompt_messages(row_of[prompt]), first, second, principle))
        points: dict[tuple[str, str], list[float]] = {}
        for (prompt, first, second), judgement in zip(met, judge_comparisons(chooser, constitution, comparisons), strict=True):
            points.setdefault((prompt, first), []).append(judgement.probability)
            points.setdefault((prompt, second), []).append(1.0 - judgement.probability)
        found = [points.get((prompt, answer.text)) for prompt, answer in zip(prompts, answers, strict=True)]
        return [None if values is None else sum(values) / len(values) for values in found]

    return source


def open_chooser(
    folder: Path | None,
    *,
    device: torch.device | str = "cpu",
    endpoint: Endpoint | None = None,
    model: str = "",
    votes: int = 8,
    store: AnswerStore | None = None,
) -> Chooser:
    """The judge in a folder, or behind an endpoint. Raises ConfigError if there is neither."""
    if folder is not None:
        tokenizer = load_tokenizer(folder)
        return LocalChooser(load_model(folder, device=device).eval(), tokenizer, load_prompt_renderer(folder, tokenizer))
    if endpoint is None or not model:
        raise ConfigError(
            "a judge is needed: give the input `judge` (a checkpoint or Hugging Face folder), or launch.endpoint and its model's name"
        )
    return RemoteChooser(RemoteEngine(endpoint, model, store=store), votes=votes)


def _reason(reasoner: Reasoner, questions: Sequence[Sequence[Message]]) -> list[list[Message]]:
    asked = [[*question[:-1], _user(f"{question[-1]['content']}\n\n{REASONING_REQUEST}")] for question in questions]
    thought = {done.number: done.answer.text for done in reasoner.answerer.answer(asked, reasoner.params, seeds=[0] * len(asked))}
    return [[*question, {"role": "assistant", "content": thought[i]}, _user(VERDICT_REQUEST)] for i, question in enumerate(asked)]


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _meetings(texts: Sequence[str], opponents: int) -> list[tuple[str, str]]:
    """Every text with the next ones of a circle, each two at most once."""
    found: dict[tuple[int, int], tuple[str, str]] = {}
    for i in range(len(texts)):
        for step in range(1, min(opponents, len(texts) - 1) + 1):
            j = (i + step) % len(texts)
            found.setdefault((min(i, j), max(i, j)), (texts[i], texts[j]))
    return list(found.values())


def _drawn(constitution: Constitution, count: int, key: str) -> list[Principle]:
    return draw_principles(constitution.principles, count, key=key)
