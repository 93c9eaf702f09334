"""Answers to the tasks of reasoning-gym, scored by the task's own rule, in a process of their own (reasoning_child.py).

A row carries what reasoning-gym made: `metadata` with `source_dataset`, `answer`, and the question as `question`, else as its last message.
"""

import json
import select
import subprocess
import sys
from collections.abc import Sequence
from typing import Any  # Any: a row of JSON

from bloomery.align.reward_source import Answer, RewardSource, Row, prompt_messages
from bloomery.core.errors import ConfigError, DataError

START_SECONDS = 60.0
ANSWER_SECONDS = 2.0
"""For one answer; it is worth nothing if its scorer is not done by then (9**9**9 never is)."""


def reasoning_source() -> RewardSource:
    """The score that reasoning-gym gives each answer, 0 to 1. Raises ConfigError without the package, or where there is no sandbox."""
    child = _Child()

    def score(rows: Sequence[Row], answers: Sequence[Answer]) -> list[float | None]:
        return [child.ask(_task(row), answer.text) for row, answer in zip(rows, answers, strict=True)]

    return score


class _Child:
    """The process, started again when an answer has ended or stalled it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._start()

    def ask(self, task: dict[str, Any], text: str) -> float:
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({**task, "text": text}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended; there will be no answer
        found = self._read(ANSWER_SECONDS)
        if found is None:
            self._end()
            return 0.0
        if "unknown" in found:
            raise DataError(f'reasoning-gym has no task "{task["task"]}"')
        return float(found["score"])

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bloomery.align.reasoning_child"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = self._read(START_SECONDS) or {"unsafe": "its process ended at once"}
        if "version" in found:
            return self._process
        self._end()
        if "missing" in found:
            raise ConfigError("this needs reasoning-gym: pip install 'bloomery[reasoning]'")
        raise ConfigError(f"answers of a model cannot be scored by reasoning-gym safely here, so none is: {found['unsafe']}")

    def _read(self, seconds: float) -> dict[str, Any] | None:
        assert self._process is not None and self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else ""
        found: dict[str, Any] | None = json.loads(line) if line else None
        return found

    def _end(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process = None


def _task(row: Row) -> dict[str, Any]:
    metadata = row.get("metadata")
    name = metadata.get("source_dataset") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or "answer" not in row:
        raise DataError(f"a task of reasoning-gym needs `answer` and `metadata` with `source_dataset`, found {dict(row)!r:.200}")
    question = row.get("question") or prompt_messages(row)[-1]["content"]
    return {"task": name, "entry": {"question": question, "answer": row["answer"], "metadata": metadata}}
