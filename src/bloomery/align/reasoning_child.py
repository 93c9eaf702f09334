"""The process that scores answers to reasoning-gym's tasks, behind the sandbox's walls: the one file that knows the package.

Some of its scorers hand an answer to sympy's parser, which evaluates it as Python, or compute what it says, however long that takes.
So answers of a model are scored here, by a process that can reach nothing, and that its parent may kill (see reasoning_tasks.py).
Run as `python -m bloomery.align.reasoning_child`: a line of JSON in, `{"task", "text", "entry"}`, a line out, `{"score"}`.
"""

import json
import math
import os
import sys
from typing import Any  # Any: a row of JSON

from bloomery.generate.sandbox_walls import Limits, Unsafe, die_with_parent, raise_walls

try:
    import reasoning_gym
except ImportError:
    reasoning_gym = None  # its parent says what to install

CPU_SECONDS, MEMORY_BYTES = 86_400, 4 << 30


def main() -> None:
    """Answers until its input ends. Without the package or the walls it says so in its first line, and ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a scorer prints is no answer of ours
    die_with_parent(os.getppid())
    if reasoning_gym is None:
        _say(answers, {"missing": True})
        return
    names = set(reasoning_gym.factory.DATASETS)
    try:
        raise_walls(Limits(CPU_SECONDS, MEMORY_BYTES, 0), scratch=None)
    except Unsafe as error:
        _say(answers, {"unsafe": str(error)})
        return
    _say(answers, {"version": reasoning_gym.__version__})
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["task"] not in names:
            _say(answers, {"unknown": True})
            continue
        _say(answers, {"score": _score(reasoning_gym.get_score_answer_fn(asked["task"]), asked)})


def _score(score_answer: Any, asked: dict[str, Any]) -> float:
    try:
        score = float(score_answer(asked["text"], asked["entry"]))
    except BaseException:  # noqa: BLE001  (its parsers raise anything for what they cannot read, and the answer may raise itself)
        return 0.0
    return min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0


def _say(answers: Any, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
