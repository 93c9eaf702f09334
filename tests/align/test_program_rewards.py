"""Programs and puzzles: a model's answer is run or scored where it can do no harm."""

import json
from pathlib import Path
from typing import Any

import pytest

from bloomery.align.program_tests import make_program
from bloomery.align.reward_source import Answer
from bloomery.align.rewards import RewardSpec, make_rewards
from bloomery.core.errors import DataError

ADD = {"prompt": "Write add(a, b).", "tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]}
HUMAN_EVAL = {
    "prompt": "Write add.",
    "tests": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(0, 0) == 0\n",
    "entry_point": "add",
}
RIGHT = "def add(a, b):\n    return a + b\n"


def scores(source: str, rows: list[dict[str, Any]], texts: list[str], **settings: Any) -> list[float | None]:
    spec = RewardSpec.model_validate({"source": source, **settings})
    return make_rewards([spec])(rows, [Answer(text, True) for text in texts]).total


def test_a_program_is_worth_1_if_every_test_passes_and_0_whatever_else_it_does() -> None:
    wrong = [
        "def add(a, b):\n    return 3\n",
        "def add(a, b)\n    return a + b\n",
        "import os\ndef add(a, b):\n    os._exit(0)\n",
        "def add(a, b):\n    while True: pass\n",
        "class Equal:\n    def __eq__(self, other): return True\ndef add(a, b):\n    return Equal()\n",
        "",
    ]
    texts = [RIGHT, f"Here it is:\n```python\n{RIGHT}```\nIt adds.", f"```python\nx = 1\n```\nor\n```\n{RIGHT}\n```", *wrong]
    limits = {"cpu_seconds": 1, "wall_seconds": 4.0}
    assert scores("tests", [ADD] * len(texts), texts, sandbox=limits) == [1.0, 1.0, 1.0, *[0.0] * len(wrong)]
    assert scores("tests", [HUMAN_EVAL] * 2, [RIGHT, wrong[0]], sandbox=limits) == [1.0, 0.0]


def test_a_row_whose_tests_are_none_is_an_error_that_shows_it() -> None:
    with pytest.raises(DataError, match=r"needs Python or a list of tests in `tests`, found None"):
        make_program({"prompt": "q"}, RIGHT, "tests")
    with pytest.raises(DataError, match=r"must be the name of a function, found 'add\(\)'"):
        make_program({**ADD, "entry_point": "add()"}, RIGHT, "tests")


@pytest.fixture(scope="module")
def puzzles() -> list[dict[str, Any]]:
    reasoning_gym = pytest.importorskip("reasoning_gym")
    names = ("countdown", "basic_arithmetic", "spell_backward", "zebra_puzzles")
    made = [reasoning_gym.create_dataset(name, seed=4, size=1)[0] for name in names]
    rows: list[dict[str, Any]] = json.loads(json.dumps(made))  # as a JSONL file keeps them
    return rows


def test_puzzles_have_the_scores_that_reasoning_gym_gives_them(puzzles: list[dict[str, Any]]) -> None:
    import reasoning_gym

    for text in ("gold", "", "7", "The answer is 7"):
        texts = [str(row["answer"]) if text == "gold" else text for row in puzzles]
        expected = [
            reasoning_gym.get_score_answer_fn(row["metadata"]["source_dataset"])(said, row)
            for row, said in zip(puzzles, texts, strict=True)
        ]
        assert scores("reasoning_gym", puzzles, texts) == pytest.approx(expected)
        assert (text == "gold") <= (expected == [1.0] * 4)


def test_an_answer_that_is_code_reaches_nothing_and_one_that_never_ends_is_worth_nothing(
    puzzles: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bloomery.align import reasoning_tasks

    monkeypatch.setattr(reasoning_tasks, "ANSWER_SECONDS", 0.7)
    countdown, trace = puzzles[0], tmp_path / "trace"
    hostile = f"[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0](['touch', '{trace}'])"
    found = scores("reasoning_gym", [countdown] * 3, [hostile, "9**9**9**9", str(countdown["answer"])])
    assert found[0] is not None and found[0] < 0.1 and found[1:] == [0.0, 1.0] and not trace.exists()


def test_a_row_that_is_no_task_is_an_error(puzzles: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match=r"needs `answer` and `metadata` with `source_dataset`"):
        scores("reasoning_gym", [{"prompt": "q", "answer": "a", "metadata": {}}], ["a"])
    with pytest.raises(DataError, match='reasoning-gym has no task "nonsense"'):
        scores("reasoning_gym", [{**puzzles[0], "metadata": {"source_dataset": "nonsense"}}], ["a"])
