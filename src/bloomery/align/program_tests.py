"""Programs that a model wrote, run against the tests of their prompt's row, in the sandbox (generate/sandbox.py, docs/sandbox.md)."""

import os
import re
import sys
from collections.abc import Sequence

from bloomery.align.reward_source import Answer, RewardSource, Row
from bloomery.core.errors import DataError
from bloomery.generate.sandbox import Program, SandboxLimits, check_sandbox, judge_programs

_FENCE = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


def tests_source(column: str, limits: SandboxLimits) -> RewardSource:
    """1 for a program that passes every test of its row, else 0. Raises ConfigError where this system has no sandbox.

    The row's column holds Python that ends without an exception if the program is right, or a list of such tests. With an
    `entry_point`, tests that define `check` (HumanEval's) are called with it; `setup` is what the tests need.
    """
    check_sandbox()
    workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1

    def score(rows: Sequence[Row], answers: Sequence[Answer]) -> list[float | None]:
        programs = [make_program(row, answer.text, column) for row, answer in zip(rows, answers, strict=True)]
        # Samples of one prompt are often the same program.
        different = list(dict.fromkeys(programs))
        judged = dict(zip(different, judge_programs(different, limits, workers=workers), strict=True))
        return [float(judged[program].passed) for program in programs]

    return score


def make_program(row: Row, text: str, column: str) -> Program:
    """The program in an answer: what its last ``` fence holds, or all of it; and the tests of its row."""
    tests, entry, setup = row.get(column), row.get("entry_point"), row.get("setup") or ""
    lines = [tests] if isinstance(tests, str) else tests
    if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in lines):
        raise DataError(
            f"a row to test programs with needs Python or a list of tests in `{column}`, found {tests!r:.80} in {dict(row)!r:.200}"
        )
    if entry is not None and not (isinstance(entry, str) and entry.isidentifier()):
        raise DataError(f"`entry_point` must be the name of a function, found {entry!r:.80}")
    whole = "\n".join(lines)
    if entry and re.search(r"^def check\(", whole, re.MULTILINE):
        whole += f"\ncheck({entry})"
    fenced = _FENCE.findall(text)
    return Program(source=fenced[-1] if fenced else text, tests=whole, setup=str(setup), functions=(entry,) if entry else ())
