"""Reward functions written for TRL work here unchanged, and what is wrong with one is said with its name and the sample."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from bloomery.align.reward_source import Answer
from bloomery.align.rewards import RewardSpec, make_rewards
from bloomery.core.errors import ConfigError, DataError

TRL_EXAMPLES = '''
"""Reward functions as TRL's documentation writes them."""
import re


def reward_len(completions, **kwargs):
    """Longer completions are better."""
    return [float(len(completion)) for completion in completions]


def format_reward_func(completions, **kwargs):
    """Messages, when prompts are conversations."""
    pattern = r"^<think>.*?</think><answer>.*?</answer>$"
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(pattern, content) else 0.0 for content in contents]


def reward_func(completions, ground_truth, **kwargs):
    """A column of the data set."""
    matches = [re.search(r"\\\\boxed\\{(.*?)\\}", completion) for completion in completions]
    contents = [match.group(1) if match else "" for match in matches]
    return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth)]


def math_reward_func(prompts, completions, task, **kwargs):
    """None: not a task of this function."""
    return [(1.0 if completion == "4" else 0.0) if t == "math" else None for completion, t in zip(completions, task)]


def with_state(prompts, completions, trainer_state=None, log_extra=None, log_metric=None):
    """Takes what a trainer hands in, and logs."""
    log_extra("length", [len(c) for c in completions])
    log_metric("mean", 0.0)
    return [0.5 for _ in prompts]


async def waits(completions, **kwargs):
    """Asks somebody else."""
    return [1.0 for _ in completions]


def helper(text):
    """No reward function: it takes no completions."""
    return text
'''


@pytest.fixture
def trl_file(tmp_path: Path) -> Path:
    (tmp_path / "trl_rewards.py").write_text(TRL_EXAMPLES)
    return tmp_path / "trl_rewards.py"


def rewards_of(path: Path, function: str, rows: list[dict[str, Any]], texts: list[str]) -> list[float | None]:
    spec = RewardSpec(source="function", function=function)
    return make_rewards([spec], functions=[path])(rows, [Answer(text, True) for text in texts]).total


def test_functions_of_trls_documentation_work_unchanged(trl_file: Path) -> None:
    text = {"prompt": "What is 2+2?"}
    talk = {"prompt": [{"role": "user", "content": "What is 2+2?"}]}
    assert rewards_of(trl_file, "reward_len", [text, text], ["4", "four"]) == [1.0, 4.0]
    shaped = ["<think>2+2</think><answer>4</answer>", "4"]
    assert rewards_of(trl_file, "format_reward_func", [talk, talk], shaped) == [1.0, 0.0]
    rows = [{**text, "ground_truth": "4"}, {**text, "ground_truth": "5"}]
    assert rewards_of(trl_file, "reward_func", rows, [r"it is \boxed{4}"] * 2) == [1.0, 0.0]
    rows = [{**text, "task": "math"}, {**text, "task": "code"}]
    assert rewards_of(trl_file, "math_reward_func", rows, ["4", "4"]) == [1.0, None]
    assert rewards_of(trl_file, "with_state", [talk], ["4"]) == [0.5]
    assert rewards_of(trl_file, "waits", [talk, text], ["4", "5"]) == [1.0, 1.0]


def test_rows_of_messages_are_prompts_of_messages_without_their_answer(tmp_path: Path) -> None:
    (tmp_path / "seen.py").write_text(
        "def seen(prompts, completions, answer, skill):\n"
        "    assert prompts == [[{'role': 'user', 'content': 'q'}]] * 2, prompts\n"
        "    assert completions == [[{'role': 'assistant', 'content': 'a'}], [{'role': 'assistant', 'content': 'b'}]]\n"
        "    assert answer == ['x', None] and skill == [None, 's']\n"
        "    return [1, 0]\n"
    )
    question, said = {"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}
    rows = [{"messages": [question, said], "answer": "x"}, {"messages": [question], "skill": "s"}]
    assert rewards_of(tmp_path / "seen.py", "", rows, ["a", "b"]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1.0]", r"gave 1 rewards for 2 samples"),
        ("return 1.0", r"gave 1.0; expected a list of 2 numbers"),
        ("return [0.5, float('nan')]", r"gave nan for sample 1 of 2; expected a finite number, or None"),
        ("return ['good', 0.5]", r"gave 'good' for sample 0 of 2"),
        ("return 1 / 0", r"broken raised ZeroDivisionError: division by zero \(line 2\); it got 2 samples and the columns"),
        ("return answers", r"broken raised NameError: name 'answers' is not defined \(line 2\)"),
    ],
)
def test_what_is_wrong_with_a_function_is_said_with_its_name_and_the_sample(tmp_path: Path, body: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"def broken(completions, **columns):\n    {body}\n")
    with pytest.raises(DataError, match=message) as caught:
        rewards_of(path, "broken", [{"prompt": "q"}] * 2, ["a", "b"])
    assert "mine.py" in str(caught.value) and "broken" in str(caught.value)


def test_a_file_that_cannot_be_used_is_refused_before_anything_is_sampled(tmp_path: Path, trl_file: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(completions):\n    return (\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "twin.py").write_text("def reward_len(completions):\n    return []\n")
    wrong = [
        ((tmp_path / "broken.py",), "f", "cannot be loaded: it raised SyntaxError"),
        ((tmp_path / "empty.py",), "f", "has no function that takes `completions`"),
        ((trl_file,), "reward_length", 'no function is named "reward_length".*did you mean "reward_len"'),
        ((trl_file,), "", "there are several functions; set `function`"),
        ((trl_file, tmp_path / "twin.py"), "reward_len", "stands in .* and in "),
        ((), "f", 'functions = "file:rewards.py"'),
    ]
    for paths, function, message in wrong:
        with pytest.raises(ConfigError, match=message):
            make_rewards([RewardSpec(source="function", function=function)], functions=list(paths))


def test_a_file_of_functions_is_only_read(trl_file: Path) -> None:
    before = hashlib.sha256(trl_file.read_bytes()).digest()
    rewards_of(trl_file, "reward_len", [{"prompt": "q"}], ["a"])
    assert sorted(path.name for path in trl_file.parent.iterdir()) == ["trl_rewards.py"]
    assert hashlib.sha256(trl_file.read_bytes()).digest() == before
