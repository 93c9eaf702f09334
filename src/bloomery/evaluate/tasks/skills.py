"""The task of held-out skill prompts: greedy answers checked against the gold that `synthesize` wrote beside them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: a row of JSON

from bloomery.core.conversation import read_conversations
from bloomery.core.errors import DataError
from bloomery.evaluate.task import Outcome, PromptFormat, Task
from bloomery.generate.verify import verify
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import Tokenizer

PLAIN_PROMPT = "Question: {question}\nAnswer:"
"""How a model that knows no chat template is asked, as the few-shot literature does; its answer is the first line."""


def skills_task(prompts: Sequence[Path], *, num_prompts: int, seed: int) -> Task:
    """At most `num_prompts` prompts (0 = all) with an `answer` and a `format`, the same random ones for every model.

    Of an artifact's folder only test.jsonl.gz is read: its training conversations are no test.
    Raises DataError if no row has both.
    """
    files = [path / "test.jsonl.gz" if (path / "test.jsonl.gz").is_file() else path for path in prompts]
    rows = {question(row): row for row in read_conversations(files) if "answer" in row and "format" in row}
    if not rows:
        raise DataError(f"{', '.join(map(str, files))}: no prompt with an `answer` and a `format` to score against")
    chosen = sorted(rows, key=lambda text: hashlib.blake2b(f"{seed}\x00{text}".encode(), digest_size=16).digest())
    examples = [rows[text] for text in (chosen[:num_prompts] if num_prompts else chosen)]
    return Task(name="skills", examples=examples, prompt=skill_prompt, score=score_skill)


def question(row: Mapping[str, Any]) -> str:
    """The last user message of a row."""
    return next((str(message["content"]) for message in reversed(row["messages"]) if message["role"] == "user"), "")


def skill_prompt(row: Mapping[str, Any], tokenizer: Tokenizer, prompt_format: PromptFormat) -> list[int]:
    """Token ids that end where the answer begins."""
    if prompt_format == "plain":
        return [*tokenizer.begin, *tokenizer.encode(PLAIN_PROMPT.format(question=question(row)))]
    messages = row["messages"][:-1] if row["messages"][-1]["role"] == "assistant" else row["messages"]
    return render(tokenizer, messages, add_generation_prompt=True).ids


def score_skill(row: Mapping[str, Any], text: str, stopped: bool, prompt_format: PromptFormat) -> Outcome:
    """Verifies an answer. In plain text it is the first line, and the line's end finishes it as well as an end token."""
    completion, newline = text, ""
    if prompt_format == "plain":
        line, newline, _ = text.partition("\n")
        completion = line.strip(" ")
    verdict = verify(row, completion)
    well_formed = verdict.well_formed and (stopped or bool(newline))
    return Outcome(completion, correct=verdict.correct and well_formed, well_formed=well_formed, stopped=stopped)
