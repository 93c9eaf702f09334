"""Stage constitution: conversations with answers that a model has criticised and revised by principles (Constitutional AI, first half).

    draft -> (critique -> revision) x rounds -> conversations of (prompt, last revision), for `sft`       arXiv:2212.08073, sec. 3.1

Each round draws a principle for the prompt, none twice before all have come. The model is a checkpoint, any Hugging Face folder that
converses, or one behind an OpenAI-compatible endpoint. Every answer is kept on disk as it comes, so that a run that is killed asks only for
what is missing; every step of every prompt stands in `steps.jsonl.gz`. What rules and golds know is measured of drafts and of revisions.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: a row of JSON

from pydantic import NonNegativeFloat, PositiveInt

from bloomery.align.asking import (
    Asker,
    AskingConfig,
    Truth,
    check_model,
    choose_prompts,
    kept_columns,
    make_truth,
    open_answerer,
    prompt_key,
    require_model,
)
from bloomery.align.constitution import Constitution, Principle, draw_principles, load_constitution
from bloomery.align.reward_source import Answer as Sampled
from bloomery.align.reward_source import Row, prompt_messages
from bloomery.align.seeds import draw_seed
from bloomery.core.conversation import Message
from bloomery.core.errors import DataError
from bloomery.core.files import write_json, write_jsonl
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.generate.answer_store import AnswerStore
from bloomery.generate.answers import Answer
from bloomery.generate.sampling import SamplingParams

log = logging.getLogger(__name__)

CHUNK_PROMPTS = 200
"""Prompts that take each step together."""


class ConstitutionConfig(AskingConfig):
    """How often a draft is revised, and how."""

    rounds: PositiveInt = 4
    """Critiques and revisions of each answer; the paper has four."""
    critique: Literal["written", "skipped"] = "written"
    """Without one the model is asked for the revision at once (sec. 3.5: nearly as good for large models)."""
    revision_temperature: NonNegativeFloat = 1.0
    """Of critiques and revisions. Small models do better at 0."""
    max_critique_tokens: PositiveInt = 128


class Turn(NamedTuple):
    """One round of one prompt. `answer` is what the next round starts from: the revision, or what was there if it is of no use."""

    principle: Principle
    critique: str
    revision: str
    answer: str
    outcome: str
    """"revised", "unchanged", or why the revision is not used: "empty", "length", "refused", "filtered"."""


class Story(NamedTuple):
    """A prompt's draft and all that was made of it."""

    row: Row
    draft: Answer
    turns: list[Turn]

    @property
    def answer(self) -> str:
        """The last revision."""
        return self.turns[-1].answer if self.turns else self.draft.text


def constitution(
    config: ConstitutionConfig,
    *,
    model: Path | None = None,
    prompts: Sequence[Path],
    principles: Path | None = None,
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Writes train.jsonl.gz, steps.jsonl.gz and constitution.json. Raises ConfigError for a constitution with mistakes or without one
    model to ask, DataError if no draft comes out.
    """
    require_model("constitution", model, config, runtime.launch)
    law = load_constitution(config.constitution, principles, only=config.only_principles)
    rows = choose_prompts(config, prompts)
    num_answers = len(rows) * (1 + config.rounds * (2 if config.critique == "written" else 1))
    stories: list[Story] = []
    with AnswerStore(out / ".scratch" / "answers.jsonl") as store, runtime.progress(num_answers, "answers") as bar:
        asker = Asker(lambda: open_answerer(model, config.model, runtime), store, bar)
        for start in range(0, len(rows), CHUNK_PROMPTS):
            stories += revise(config, law, asker, rows[start : start + CHUNK_PROMPTS])
    told = [story for story in stories if story.turns]
    if not told:
        raise DataError(f"constitution: none of {len(rows)} prompts has a draft to revise; the first one's: {stories[0].draft.text!r:.200}")
    write_jsonl(out / "steps.jsonl.gz", map(_step_row, stories))
    conversations = [
        {"messages": [*prompt_messages(one.row), {"role": "assistant", "content": one.answer}], **kept_columns(one.row)} for one in told
    ]
    write_jsonl(out / "train.jsonl.gz", conversations)
    rounds = [measure_round(law, make_truth(config.gold, law), told, number) for number in range(config.rounds + 1)]
    write_json(out / "constitution.json", {"principles": [one.name for one in law.principles], "rounds": rounds})
    return _metrics(stories, told, rounds)


def revise(config: ConstitutionConfig, law: Constitution, asker: Asker, rows: Sequence[Row]) -> list[Story]:
    """Drafts of some prompts, and all rounds. A prompt without a usable draft has no turns."""
    prompts = [prompt_messages(row) for row in rows]
    keys = [prompt_key(row) for row in rows]
    drafts = asker.ask(prompts, config.params, seeds=[draw_seed("draft", config.seed, key) for key in keys])
    stories = [Story(row, draft, []) for row, draft in zip(rows, drafts, strict=True)]
    live = [i for i, draft in enumerate(drafts) if draft.text.strip() and draft.ending in ("end", "length")]
    drawn = {i: draw_principles(law.principles, config.rounds, key=f"{config.seed}/{keys[i]}") for i in live}
    for number in range(config.rounds):
        said: dict[int, list[Message]] = {i: [*prompts[i], _said(stories[i].answer)] for i in live}
        critiques = dict.fromkeys(live, "")
        if config.critique == "written":
            said = {i: [*said[i], law.critique_turn(drawn[i][number])] for i in live}
            found = _ask(config, asker, said, keys, f"critique/{number}", config.max_critique_tokens)
            critiques = {i: answer.text for i, answer in found.items()}
            said = {i: [*said[i], _said(critiques[i])] for i in live}
        said = {i: [*said[i], law.revision_turn(drawn[i][number])] for i in live}
        for i, answer in _ask(config, asker, said, keys, f"revision/{number}", config.max_tokens).items():
            outcome = _outcome(answer, stories[i].answer)
            kept = answer.text if outcome == "revised" else stories[i].answer
            stories[i].turns.append(Turn(drawn[i][number], critiques[i], answer.text, kept, outcome))
    return stories


def measure_round(law: Constitution, truth: Truth | None, stories: Sequence[Story], number: int) -> dict[str, Any]:
    """What a program knows of the answers after so many rounds (0: the drafts): the shares that break rules, and the mean gold."""
    rows = [story.row for story in stories]
    answers = [Sampled(story.turns[number - 1].answer if number else story.draft.text, stopped=True) for story in stories]
    found: dict[str, Any] = {"round": number}
    if law.rules:
        broken = [
            {name for name, rule in law.rules.items() if not rule(row, answer.text)} for row, answer in zip(rows, answers, strict=True)
        ]
        found["violating"] = sum(map(bool, broken)) / len(broken)
        found["violations"] = {name: sum(name in one for one in broken) / len(broken) for name in law.rules}
    if truth is not None and truth.name == "gold":
        golds = [value for value in truth.score(rows, answers) if value is not None]
        found["gold"] = sum(golds) / len(golds) if golds else None
    return found


def _ask(
    config: ConstitutionConfig, asker: Asker, said: Mapping[int, list[Message]], keys: Sequence[str], purpose: str, max_tokens: int
) -> dict[int, Answer]:
    params = SamplingParams(max_tokens=max_tokens, temperature=config.revision_temperature)
    seeds = [draw_seed(purpose, config.seed, keys[i]) for i in said]
    return dict(zip(said, asker.ask(list(said.values()), params, seeds=seeds), strict=True))


def _outcome(answer: Answer, before: str) -> str:
    if answer.ending != "end":
        return answer.ending
    return "empty" if not answer.text.strip() else "unchanged" if answer.text == before else "revised"


def _said(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _step_row(story: Story) -> dict[str, Any]:
    turns = [
        {"principle": turn.principle.name, "critique": turn.critique, "revision": turn.revision, "outcome": turn.outcome}
        for turn in story.turns
    ]
    draft = {"text": story.draft.text, "ending": story.draft.ending}
    return {"prompt": prompt_messages(story.row), "draft": draft, "turns": turns, "answer": story.answer, **kept_columns(story.row)}


def _metrics(stories: Sequence[Story], told: Sequence[Story], rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    outcomes = Counter(turn.outcome for story in told for turn in story.turns)
    metrics: dict[str, Any] = {
        "conversations": len(told),
        "prompts": len(stories),
        "changed_fraction": sum(story.answer != story.draft.text for story in told) / len(told),
        **{f"turns/{outcome}": count for outcome, count in sorted(outcomes.items())},
    }
    for name, measured in (("draft", rounds[0]), ("revision", rounds[-1])):
        metrics |= {f"{key}/{name}": measured[key] for key in ("violating", "gold") if measured.get(key) is not None}
    if "violating" in rounds[0]:
        log.info(
            "answers that break a rule: %.0f %% of drafts, %.0f %% of last revisions", *(100 * rounds[i]["violating"] for i in (0, -1))
        )
    return metrics


STAGE = Stage(
    name="constitution",
    config_type=ConstitutionConfig,
    run=constitution,
    inputs={
        "model": Slot("checkpoint", optional=True),
        "prompts": Slot("conversations", many=True),
        "principles": Slot("principles", optional=True),
    },
    output="conversations",
    version=1,
    check_launch=check_model,
)
