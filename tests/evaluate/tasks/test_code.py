"""HumanEval and MBPP: rows, prompts, programs and pass@k; the programs run in the sandbox."""

import ast
import itertools
import json
import sys
from pathlib import Path

import pytest

from bloomery.core.errors import ConfigError, DataError
from bloomery.evaluate.asking import arrange, prefix
from bloomery.evaluate.benchmarking import prepare
from bloomery.evaluate.rows import read_rows
from bloomery.evaluate.tasks.catalog import catalog
from bloomery.evaluate.tasks.code import humaneval_row, mbpp_row, pass_at_k, program_of, score_one, score_programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

ADD = {
    "task_id": "HumanEval/900",
    "prompt": "import math\n\ndef half(x):\n    return x / 2\n\n"
    'def add(a: int, b: int) -> int:\n    """ The sum.\n    >>> add(1, 2)\n    3\n    """\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n    assert half(candidate(2, 2)) == 2\n",
}  # fmt: skip


def mbpp(task_id: int, name: str, code: str, tests: list[str], **more: object) -> dict:
    return {"task_id": task_id, "text": f"Write a function {name}.", "code": code, "test_list": tests, "test_setup_code": "", **more}


ROWS = [
    *[mbpp(i, f"shown{i}", f"def shown{i}(x):\r\n    return x", [f"assert shown{i}(1) == 1"]) for i in (2, 3, 4)],
    mbpp(11, "twice", "def twice(x):\n    return 2 * x", ["assert twice(2) == 4", "assert twice('a') == 'aa'"]),
    # As task 601 of the public file: the tests make objects of a class that the solution defines.
    mbpp(12, "chain", "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\ndef chain(pairs): return len(pairs)",
         ["assert chain([Pair(1, 2), Pair(3, 4)]) == 2"]),
    mbpp(13, "sum", "def sum(xs):\n    return max(xs)", ["assert sum([1, 2]) == 2"]),
    mbpp(14, "close", "def close(x):\n    return x + 1e-12", ["assert math.isclose(close(1), 1)"], test_setup_code="import math"),
    mbpp(600, "not asked", "x = 1", ["assert x"]),
]  # fmt: skip


def test_pass_at_k_is_the_share_of_subsets_in_which_one_passes() -> None:
    for n, c in ((5, 0), (5, 2), (6, 5), (4, 4)):
        passed = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = [any(subset) for subset in itertools.combinations(passed, k)]
            assert pass_at_k(n, c, k) == pytest.approx(sum(subsets) / len(subsets))
    with pytest.raises(ValueError, match="pass@3 of 1 out of 2"):
        pass_at_k(2, 1, 3)


def test_a_completion_of_humaneval_passes_only_if_it_is_right() -> None:
    question = humaneval_row(ADD)
    completions = {
        "\n    return a + b\n\ndef unrelated(: syntax error": 1.0,  # cut before what comes after the function
        "    return a + b": 1.0,
        "\n    return a - b": 0.0,
        "\n    pass": 0.0,
        "\nimport os\nos._exit(0)": 0.0,
        "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.": 1.0,
        "```\n    return a + b\n```": 1.0,
        "def add(a, b):\n    return half(2 * (a + b))": 1.0,
        "": 0.0,
        # The tests' own helper is not the program's to change.
        "\n    return a * 3 if a == 1 else 99\n\nhalf = lambda x: 2": 0.0,
    }
    found = score_programs([question] * len(completions), [[text] for text in completions])
    assert dict(zip(completions, [score["pass_at_1"] for score in found], strict=True)) == completions
    many = score_one(question, ["\n    return a + b"] * 3 + ["\n    return 0"] * 9)
    assert many == {"pass_at_1": pytest.approx(0.25), "pass_at_10": pytest.approx(pass_at_k(12, 3, 10))}


def test_the_reference_solutions_of_mbpp_pass_and_wrong_ones_do_not() -> None:
    questions = [mbpp_row(row) for row in ROWS if row["task_id"] in range(11, 511)]
    right = [[f"\n{question.worked}\n\nYou are an expert [garbage"] for question in questions]
    assert [score["pass_at_1"] for score in score_programs(questions, right)] == [1.0] * 4
    wrong = [["\ndef twice(x): return x"], ["\ndef chain(x): return 2"], ["\nx = 1"], [""]]
    assert [score["pass_at_1"] for score in score_programs(questions, wrong)] == [0.0] * 4


def test_mbpp_shows_three_solved_tasks_and_the_tests_of_the_fourth(tmp_path: Path) -> None:
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    benchmark = catalog()["mbpp"]
    rows = read_rows(benchmark, [tmp_path])
    assert [located.line for located in rows.examples] == [4, 5, 6, 7] and [located.line for located in rows.shots] == [1, 2, 3]
    asked = next(one for one in arrange(benchmark, rows, limit=0, num_shots=3) if one.located.line == 4)
    text = prefix(benchmark, asked) + asked.located.example.prompt
    assert text.startswith(
        "You are an expert Python programmer, and here is your task: Write a function shown2. Your code should pass these tests:\n\n"
        "assert shown2(1) == 1\n[BEGIN]\ndef shown2(x):\n    return x\n[DONE]\n\nYou are an expert"
    )
    assert text.count("[DONE]") == 3 and text.endswith("assert twice(2) == 4\nassert twice('a') == 'aa'\n[BEGIN]")


def test_the_sanitized_format_of_mbpp_is_read_too(tmp_path: Path) -> None:
    row = {"task_id": 20, "prompt": "Round down.", "code": "def f(x): return int(x)", "test_imports": ["import math"], "test_list": ["assert f(1.5) == math.floor(1.5)"]}  # fmt: skip # noqa: E501
    assert score_one(mbpp_row(row), ["\ndef f(x): return int(x)\n[DONE]"]) == {"pass_at_1": 1.0}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("humaneval", {"prompt": "def add("}, "HumanEval.jsonl:2: humaneval: prompt is not Python"),
        ("humaneval", {"entry_point": "sub"}, 'entry_point is "sub", which "prompt" does not define'),
        ("humaneval", {"test": ""}, 'expected a text in "test"'),
    ],
)
def test_a_row_that_cannot_be_run_is_named_by_file_and_line(tmp_path: Path, name: str, change: dict, message: str) -> None:
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(ADD) + "\n" + json.dumps({**ADD, **change}) + "\n")
    with pytest.raises(DataError, match=message):
        read_rows(catalog()[name], [tmp_path])


def test_a_prompt_of_humaneval_is_gone_on_with_where_it_ends() -> None:
    program = program_of(humaneval_row(ADD), "\n    return a + b")
    assert program.source == ADD["prompt"].rstrip() + "\n    return a + b"
    assert {name for name in catalog() if name.startswith("humaneval")} >= {"humaneval", "humaneval_pass10", "humaneval_chat"}


def test_the_given_solutions_are_texts_that_begin_where_the_prompt_ends(tmp_path: Path) -> None:
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(ADD) + "\n")
    (example,) = [one.example for one in read_rows(catalog()["humaneval_solution"], [tmp_path]).examples]
    ast.parse(example.context + example.continuation)
    assert example.context == ADD["prompt"].rstrip() and example.continuation == "\n" + ADD["canonical_solution"].rstrip()


def test_where_programs_cannot_be_run_no_model_is_asked_for_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(ADD) + "\n")
    ready = prepare(["code"], [tmp_path], documents=[], toxicity=None, chat=False)
    assert "humaneval" in ready.benchmarks
    monkeypatch.setattr(sys, "platform", "darwin")  # one of the places where there is no sandbox
    with pytest.raises(ConfigError, match="darwin"):
        prepare(["humaneval"], [tmp_path], documents=[], toxicity=None, chat=False)
    ready = prepare(["code"], [tmp_path], documents=[], toxicity=None, chat=False)
    assert set(ready.benchmarks) == {"humaneval_solution"} and "darwin" in ready.skipped["humaneval"]
