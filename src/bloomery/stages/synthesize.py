"""Stage synthesize: instruction data made by program, each row with the gold answer that a program will check.

Kinds with honest names: `skills`, small verifiable problems (curate/skills.py); `documentation`, questions whose answers
stand in the given documents (curate/docs_questions.py); `multiple_choice`, skills, and questions about documents where
there are some, with four choices (curate/multiple_choice.py); `calculator`, conversations with a tool (curate/tool_use.py);
`manners`, flawed answers to skills, criticised, revised and compared by principles (curate/manners.py). Writes
`train.jsonl.gz` (conversations) and `test.jsonl.gz` (prompts to hold out: no prompt stands in both).
"""

import functools
import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: a row of JSON

from pydantic import Field, NonNegativeInt, field_validator

from bloomery.align.constitution import Constitution, load_constitution
from bloomery.core.calculator import CALCULATOR
from bloomery.core.config import Config, suggest
from bloomery.core.documents import list_document_files, read_documents
from bloomery.core.errors import ConfigError
from bloomery.core.files import read_jsonl, write_jsonl
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate import docs_questions, multiple_choice, tool_use
from bloomery.curate.docs_questions import Question, find_questions, unambiguous
from bloomery.curate.manners import FLAWS, Case, Part, draw_cases
from bloomery.curate.multiple_choice import make_choices
from bloomery.curate.skills import SKILLS, SkillRow, draw_skill_rows, is_held_out

log = logging.getLogger(__name__)


class SynthesizeConfig(Config):
    """What to make, and how much of it."""

    kinds: list[Literal["skills", "documentation", "multiple_choice", "calculator", "manners"]] = Field(default=["skills"], min_length=1)
    skills: list[str] = Field(default=list(SKILLS), min_length=1)
    num_skill_examples: NonNegativeInt = 40_000
    """Training conversations over all skills, shared out evenly; a skill with fewer different prompts gives fewer."""
    num_skill_tests: NonNegativeInt = 500
    wordy_fraction: float = Field(default=0.0, ge=0.0, le=0.5)
    """Share of the skills' training answers that are right but in a sentence, not in the asked format, as uneven human
    demonstrations are. It rises from skill to skill, from none for the first to twice this share for the last:
    fine-tuning copies the habit, and preferences can unlearn it. Prompts, golds and tests stay as they are."""
    wrong_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the skills' training answers that are wrong, as careless demonstrations are: the right answer to another prompt
    of the skill. Golds and tests stay as they are."""
    num_manners_examples: NonNegativeInt = 12_000
    """Of the kind "manners", over all its parts."""
    manners_parts: list[Part] = Field(default=["answers", "critiques", "comparisons"], min_length=1)
    """Plain answers (the habit), answers criticised and revised under a principle, two answers compared under one."""
    flaws: list[str] = Field(default=list(FLAWS), min_length=1)
    """Which principles of the constitution "manners" are broken, and asked about."""
    flawed_fraction: float = Field(default=0.6, ge=0.0, le=1.0)
    """Share of the plain answers that have one of those flaws, or two."""
    max_documentation_examples: NonNegativeInt = 4_000
    max_documentation_tests: NonNegativeInt = 100
    num_choice_examples: NonNegativeInt = 4_000
    """Training questions with four choices, fewer where there are not so many different questions."""
    num_choice_tests: NonNegativeInt = 100
    num_calculator_examples: NonNegativeInt = 4_000
    num_calculator_tests: NonNegativeInt = 100
    seed: NonNegativeInt = 0

    @field_validator("skills")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in SKILLS:
                raise ValueError(f'unknown skill "{name}"; {suggest(name, SKILLS)}')
        return names

    @field_validator("flaws")
    @classmethod
    def _are_flaws(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in FLAWS:
                raise ValueError(f'unknown flaw "{name}"; {suggest(name, FLAWS)}')
        return names


class Split(NamedTuple):
    """Rows to train on and rows to hold out."""

    train: list[SkillRow]
    test: list[SkillRow]


def synthesize(config: SynthesizeConfig, *, documents: Sequence[Path] = (), out: Path, runtime: Runtime) -> Mapping[str, Any]:
    """Writes train.jsonl.gz and test.jsonl.gz. `documents` are read for questions about them, with choices and without."""
    train: list[SkillRow] = []
    test: list[SkillRow] = []
    if "skills" in config.kinds:
        made = make_skill_rows(config)
        train, test = train + made.train, test + made.test
    if "documentation" in config.kinds:
        if not documents:
            raise ConfigError(
                'synthesize: kinds has "documentation", but no documents are given. '
                'Connect the input `documents`, or use kinds = ["skills"].'
            )
        made = make_documentation_rows(config, documents, out=out, runtime=runtime)
        train, test = train + made.train, test + made.test
        if not made.train:
            log.warning("no question was found in the documents: none of them is a page of Python documentation")
    elif documents and "multiple_choice" not in config.kinds:
        log.warning('documents are given, but kinds has no "documentation" and no "multiple_choice": they are not read')
    if "multiple_choice" in config.kinds:
        made = make_choice_rows(config, documents, out=out, runtime=runtime)
        train, test = train + made.train, test + made.test
    if "calculator" in config.kinds:
        made = make_calculator_rows(config)
        train, test = train + made.train, test + made.test
    write_jsonl(out / "test.jsonl.gz", (prompt_row(row) for row in _shuffled(test, config.seed)))
    manners = make_manners(config) if "manners" in config.kinds else []
    if manners and not test:
        test = make_skill_rows(config).test
    write_jsonl(out / "train.jsonl.gz", [*_demonstrations(config, _shuffled(train, config.seed)), *manners])
    counts = {f"{split}/{name}": count for split, rows in (("train", train), ("test", test)) for name, count in _by_skill(rows)}
    return {"train_rows": len(train) + len(manners), "test_rows": len(test), **counts, **_count_parts(manners)}


def make_skill_rows(config: SynthesizeConfig) -> Split:
    """Rows of each of the config's skills; an instance of the tests is in training under no phrasing."""
    train: list[SkillRow] = []
    test: list[SkillRow] = []
    num_train = _shares(config.num_skill_examples, len(config.skills))
    num_test = _shares(config.num_skill_tests, len(config.skills))
    for name, train_count, test_count in zip(config.skills, num_train, num_test, strict=True):
        train += draw_skill_rows(SKILLS[name], count=train_count, held_out=False, seed=config.seed)
        test += draw_skill_rows(SKILLS[name], count=test_count, held_out=True, seed=config.seed)
    return Split(train, test)


def make_manners(config: SynthesizeConfig) -> list[dict[str, Any]]:
    """Conversations in which answers have flaws, are criticised, revised and compared; no prompt of the tests is among them."""
    per_skill = _shares(config.num_manners_examples, len(config.skills))
    drawn = [
        draw_skill_rows(SKILLS[name], count=n, held_out=False, seed=config.seed) for name, n in zip(config.skills, per_skill, strict=True)
    ]
    rows = _shuffled((row for of_skill in drawn for row in of_skill), config.seed)
    if not rows:
        return []
    cases = draw_cases(
        rows,
        count=config.num_manners_examples,
        parts=config.manners_parts,
        flaws=config.flaws,
        flawed_fraction=config.flawed_fraction,
        seed=config.seed,
    )
    law = load_constitution("manners")
    return [manners_row(case, law) for case in cases]


def manners_row(case: Case, law: Constitution) -> dict[str, Any]:
    """The conversation of a case in the constitution's words. Loss is on what is to be learnt: not on the answer that is criticised."""
    principle = next((one for one in law.principles if one.name == case.principle), None)
    if principle is None:
        return conversation_row(case.row, case.said)
    prompt = prompt_row(case.row)["messages"]
    if case.part == "comparisons":
        asked = law.comparison(principle, prompt, case.said, case.other)
        return {"messages": [*asked, {"role": "assistant", "content": case.better}], "skill": "comparison"}
    messages = [*prompt, {"role": "assistant", "content": case.said, "loss": False}, law.critique_turn(principle)]
    messages += [{"role": "assistant", "content": case.critique}, law.revision_turn(principle)]
    return {"messages": [*messages, {"role": "assistant", "content": case.revision}], "skill": "critique"}


def make_documentation_rows(config: SynthesizeConfig, documents: Sequence[Path], *, out: Path, runtime: Runtime) -> Split:
    """Questions about the documents; of more than are wanted, the same random ones whatever the order of the files."""
    items = [(path, out / ".scratch" / f"{i:05d}.jsonl") for i, path in enumerate(_training_files(documents))]
    with runtime.progress(len(items), "files") as bar:
        for _ in runtime.pool().map(_find_in_file, items):
            bar.advance()
    found = unambiguous(Question(row["prompt"], row["answer"]) for _, shard in items for row in read_jsonl(shard))
    rows = _shuffled((SkillRow(docs_questions.SKILL, q.prompt, q.answer, docs_questions.FORMAT) for q in found), config.seed)
    held_out = [is_held_out(docs_questions.SKILL, row.prompt) for row in rows]
    train = [row for row, held in zip(rows, held_out, strict=True) if not held]
    test = [row for row, held in zip(rows, held_out, strict=True) if held]
    return Split(train[: config.max_documentation_examples], test[: config.max_documentation_tests])


def make_choice_rows(config: SynthesizeConfig, documents: Sequence[Path], *, out: Path, runtime: Runtime) -> Split:
    """Multiple-choice questions, as many of skills as of documents where there are both; tests of test instances only."""
    per_skill = config.model_copy(
        update={"num_skill_examples": 2 * config.num_choice_examples, "num_skill_tests": 2 * config.num_choice_tests}
    )
    unlimited = config.model_copy(update={"max_documentation_examples": 10**9, "max_documentation_tests": 10**9})
    sides = [make_skill_rows(per_skill)]
    if documents:
        sides.append(make_documentation_rows(unlimited, documents, out=out, runtime=runtime))
    splits = []
    for wanted, number in ((config.num_choice_examples, 0), (config.num_choice_tests, 1)):
        of_sides = []
        for side in sides:
            made = make_choices(((row.skill, row.prompt, row.answer) for row in side[number]), seed=config.seed)
            rows = (SkillRow(multiple_choice.SKILL, choice.prompt, choice.letter, multiple_choice.FORMAT) for choice in made)
            of_sides.append(_shuffled(rows, config.seed))
        mixed = [row for pair in itertools.zip_longest(*of_sides) for row in pair if row is not None]
        splits.append(mixed[:wanted])
    return Split(*splits)


def make_calculator_rows(config: SynthesizeConfig) -> Split:
    """Questions for the calculator; an expression of the tests is in training under no wording."""
    wanted = ((config.num_calculator_examples, False), (config.num_calculator_tests, True))
    drawn = (tool_use.draw_tool_rows(count=count, held_out=held_out, seed=config.seed) for count, held_out in wanted)
    return Split(*([SkillRow(tool_use.SKILL, r.prompt, r.answer, tool_use.FORMAT, r.expression) for r in rows] for rows in drawn))


def prompt_row(row: SkillRow) -> dict[str, Any]:
    """The row as a prompt: the user's message, and the answer and format for the verifier."""
    found = {"messages": [{"role": "user", "content": row.prompt}], "skill": row.skill, "answer": row.answer, "format": row.format}
    return {**found, "tools": [CALCULATOR]} if row.expression else found


def conversation_row(row: SkillRow, said: str) -> dict[str, Any]:
    """The row as a conversation to train on: the prompt row with the answer that a demonstrator `said`."""
    prompt = prompt_row(row)
    if row.expression:
        return {**prompt, "messages": tool_use.tool_messages(tool_use.ToolRow(row.prompt, row.expression, row.answer))}
    return {**prompt, "messages": [*prompt["messages"], {"role": "assistant", "content": said}]}


def _demonstrations(config: SynthesizeConfig, rows: Iterable[SkillRow]) -> Iterator[dict[str, Any]]:
    wordy = _wordy_shares(config)
    last_answer: dict[str, str] = {}
    for row in rows:
        is_wrong = row.skill in SKILLS and _share("wrong", row) < config.wrong_fraction
        # Where the last answer of the skill is the right one here, too, the demonstration stays right.
        said = last_answer.get(row.skill, row.answer) if is_wrong else row.answer
        last_answer[row.skill] = row.answer
        yield conversation_row(row, f"The answer is {said}." if _share("wordy", row) < wordy.get(row.skill, 0.0) else said)


def _find_in_file(item: tuple[Path, Path]) -> None:
    path, shard = item
    if shard.exists():
        return
    table = read_documents(path)
    texts, urls = table.column("text").to_pylist(), table.column("url").to_pylist()
    questions = (q for text, url in zip(texts, urls, strict=True) for q in find_questions(text or "", url=url or ""))
    write_jsonl(shard, (q._asdict() for q in questions))


def _wordy_shares(config: SynthesizeConfig) -> dict[str, float]:
    last = max(len(config.skills) - 1, 1)
    return {name: 2 * config.wordy_fraction * i / last for i, name in enumerate(config.skills)}


def _share(purpose: str, row: SkillRow) -> float:
    """A number in [0, 1) that depends on the row and the purpose alone."""
    digest = hashlib.blake2b(f"{purpose}\x00{row.skill}\x00{row.prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _training_files(documents: Sequence[Path]) -> list[Path]:
    # A mixture keeps documents back for validation: a question about one of those would train on it.
    folders = [path / "train" if (path / "train").is_dir() else path for path in documents]
    return list_document_files(folders)


def _shares(total: int, parts: int) -> list[int]:
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def _shuffled(rows: Iterable[SkillRow], seed: int) -> list[SkillRow]:
    key = functools.partial(_order_key, seed)
    return sorted(rows, key=key)


def _order_key(seed: int, row: SkillRow) -> bytes:
    return hashlib.blake2b(f"{seed}\x00{row.skill}\x00{row.prompt}".encode(), digest_size=16).digest()


def _count_parts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    names = {"critique": "critiques", "comparison": "comparisons"}
    return {f"manners/{name}": count for name, count in sorted(Counter(names.get(row["skill"], "answers") for row in rows).items())}


def _by_skill(rows: Iterable[SkillRow]) -> list[tuple[str, int]]:
    return sorted(Counter(row.skill for row in rows).items())


STAGE = Stage(
    name="synthesize",
    config_type=SynthesizeConfig,
    run=synthesize,
    inputs={"documents": Slot("documents", many=True, optional=True)},
    output="conversations",
    version=1,
)
