"""Every format of preferences gives the pairs, labels or rankings that it says, and a bad row is named by file and line."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.align.preference_formats import FORMATS, LabelledRow, PairRow, RankedRow
from bloomery.align.preference_rows import as_columns, read_labelled, read_pairs, read_preferences, read_rankings
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import write_jsonl

REAL = Path(__file__).parents[3] / "shared" / "data" / "preference"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_rows(*rows: dict[str, Any], name: str = "rows.jsonl") -> Path:
        write_jsonl(tmp_path / name, rows)
        return tmp_path / name

    return write_rows


AB = PairRow([user("q")], [said("a")], [said("b")])
TWO_TURNS = [user("q"), said("x"), user("r")]
EQUAL = PairRow(TWO_TURNS, [said("a")], [said("a")])
REVIEW = "Write a sentence from a film review."
SOLUTION = {"is_correct": False, "solution": "wrong"}

EXAMPLES: list[tuple[str, dict[str, Any], Sequence[Any]]] = [
    ("pairs", {"prompt": "q", "chosen": "a", "rejected": "b"}, [AB]),
    ("pairs", {"prompt": [user("q")], "chosen": [said("a")], "rejected": [said("b")], "margin": 2}, [AB._replace(margin=2.0)]),
    ("pairs", {"prompt": "q", "chosen": "a", "rejected": "b", "probability": 0.7}, [AB._replace(probability=0.7)]),
    ("pairs", {"prompt": "q", "chosen": [user("q"), said("a")], "rejected": [user("q"), said("b")]}, [AB]),
    ("labels", {"prompt": "q", "completion": "a", "label": True}, [LabelledRow([user("q")], [said("a")], True)]),
    ("labels", {"prompt": [user("q")], "completion": [said("a")], "label": 0}, [LabelledRow([user("q")], [said("a")], False)]),
    (
        "rankings",
        {"prompt": "q", "completions": ["a", [said("b")], "c"], "ranks": [2, 1, 2]},
        [RankedRow([user("q")], [[said("a")], [said("b")], [said("c")]], [2, 1, 2])],
    ),
    ("conversations", {"chosen": [user("q"), said("a")], "rejected": [user("q"), said("b")]}, [AB]),
    ("conversations", {"chosen": [*TWO_TURNS, said("a")], "rejected": [*TWO_TURNS, said("a")]}, [EQUAL]),
    (
        "conversations",
        {
            "chosen": "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: a",
            "rejected": "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: ab",
        },
        [PairRow(TWO_TURNS, [said("a")], [said("ab")])],
    ),
    (
        "conversations",  # an answer that goes on with turns of its own
        {"chosen": "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        [PairRow([user("q")], [said("x\n\nHuman: r\n\nAssistant: a")], [said("b")])],
    ),
    (
        "sharegpt",
        {
            "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        [AB._replace(prompt=[{"role": "system", "content": "s"}, user("q")])],
    ),
    ("labelled_messages", {"messages": [*TWO_TURNS, said("a")], "label": False}, [LabelledRow(TWO_TURNS, [said("a")], False)]),
    (
        "gsm8k_solutions",
        {
            "question": "q", "ground_truth": "right", "6b_finetuning": SOLUTION, "6b_verification": SOLUTION,
            "175b_finetuning": SOLUTION, "175b_verification": {"is_correct": True, "solution": "right too"},
        },
        [LabelledRow([user("q")], [said(text)], text != "wrong") for text in ("right", "wrong", "wrong", "wrong", "right too")],
    ),
    ("llmbar", {"input": "q", "output_1": "b", "output_2": "a", "label": 2}, [AB]),
    (
        "pandalm",
        {"instruction": "q", "input": "i", "response1": True, "response2": "b", "annotator1": 1, "annotator2": 2, "annotator3": 1},
        [RankedRow([user("q\n\ni")], [[said("True")], [said("b")]], [1, 2])],
    ),
    (
        "pandalm",
        {"instruction": "q", "input": "", "response1": "a", "response2": "b", "annotator1": 1, "annotator2": 2, "annotator3": 0},
        [RankedRow([user("q")], [[said("a")], [said("b")]], [1, 1])],
    ),
    (
        "persona",
        {"persona": "p", "question": "q", "answer_matching_behavior": " a", "answer_not_matching_behavior": " b"},
        [AB],
    ),
    ("polarity", {"id": "1", "text": "good .", "label": "pos"}, [LabelledRow([user(REVIEW)], [said("good .")], True)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "expected"), EXAMPLES, ids=[f"{i}-{name}" for i, (name, _, _) in enumerate(EXAMPLES)])
def test_a_format_is_told_by_its_columns_and_says_what_it_says(
    write: Callable[..., Path], name: str, row: dict[str, Any], expected: Sequence[Any]
) -> None:
    path = write(row)
    assert list(read_preferences(path)) == list(expected)
    assert list(read_preferences(path, format=name)) == list(expected)


def test_every_format_has_an_example_here() -> None:
    assert {name for name, _, _ in EXAMPLES} == {known.name for known in FORMATS}


def test_files_of_several_formats_are_read_together_and_parquet_like_jsonl(tmp_path: Path, write: Callable[..., Path]) -> None:
    pq.write_table(pa.Table.from_pylist([{"prompt": [user("q")], "chosen": [said("a")], "rejected": [said("b")]}]), tmp_path / "p.parquet")
    (tmp_path / "q.json").write_text(json.dumps([{"prompt": "q", "chosen": "a", "rejected": "b"}]))
    paths = [tmp_path / "p.parquet", tmp_path / "q.json", write({"prompt": "q", "completions": ["b", "a"], "ranks": [2, 1]})]
    assert list(read_pairs(paths)) == [AB, AB, AB]


def test_of_an_artifact_only_what_may_be_trained_on_is_read(write: Callable[..., Path], tmp_path: Path) -> None:
    write({"prompt": "q", "chosen": "a", "rejected": "b"}, name="train.jsonl.gz")
    write({"prompt": "secret", "chosen": "a", "rejected": "b"}, name="test.jsonl.gz")
    assert list(read_pairs(tmp_path)) == [AB]


def test_a_ranking_gives_a_pair_for_every_two_answers_of_different_rank(write: Callable[..., Path]) -> None:
    path = write({"prompt": "q", "completions": ["a", "b", "c", "d"], "ranks": [2, 1, 2, 3]})
    pairs = [(row.chosen[0]["content"], row.rejected[0]["content"]) for row in read_pairs(path)]
    assert pairs == [("b", "a"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]


def test_labels_of_a_pair_and_of_a_ranking_are_its_ends_and_ties_say_nothing(write: Callable[..., Path]) -> None:
    path = write(
        {"prompt": "q", "completions": ["a", "b", "c"], "ranks": [3, 1, 2]}, {"prompt": "t", "completions": ["a", "b"], "ranks": [1, 1]}
    )
    assert [(row.completion[0]["content"], row.label) for row in read_labelled(path)] == [("a", False), ("b", True)]
    path = write({"prompt": "q", "chosen": "a", "rejected": "b"}, name="pairs.jsonl")
    assert [(row.completion[0]["content"], row.label) for row in read_labelled(path)] == [("a", True), ("b", False)]


def test_labelled_answers_to_one_prompt_are_paired_in_order_and_ranked_in_two(write: Callable[..., Path]) -> None:
    labels = [("q", "a", True), ("r", "x", True), ("q", "b", False), ("q", "c", True), ("s", "y", False), ("s", "z", False)]
    path = write(*({"prompt": p, "completion": c, "label": label} for p, c, label in labels))
    assert list(read_pairs(path)) == [AB]
    ranked = [([m[0]["content"] for m in row.completions], row.ranks) for row in read_rankings(path)]
    assert ranked == [(["a", "b", "c"], [1, 2, 1]), (["y", "z"], [1, 1])]
    assert list(read_rankings(write({"prompt": "q", "chosen": "a", "rejected": "b"}))) == [
        RankedRow([user("q")], [[said("a")], [said("b")]], [1, 2])
    ]


def test_rows_written_with_their_columns_are_read_as_what_they_were(write: Callable[..., Path]) -> None:
    rows = [
        AB,
        AB._replace(margin=0.5),
        AB._replace(probability=0.9),
        LabelledRow([user("q")], [said("a")], False),
        RankedRow([user("q")], [[said("a")], [said("b")]], [1, 1]),
    ]
    assert [next(read_preferences(write(as_columns(row), name=f"{i}.jsonl"))) for i, row in enumerate(rows)] == rows


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "q", "chosen": "a"}, r"rows\.jsonl:2: has no `rejected`; expected a row of the format pairs"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, r"rows\.jsonl:2: `prompt`: `messages` must be a list"),
        (
            {"prompt": "q", "chosen": [user("a")], "rejected": "b"},
            r"rows\.jsonl:2: `chosen`: must end with a message of the role assistant",
        ),
        ({"prompt": "q", "chosen": "a", "rejected": None}, r"rows\.jsonl:2: `rejected`: .* found None"),
        ({"prompt": "q", "chosen": "a", "rejected": [user("z"), said("b")]}, r"`rejected` begins with a message of the role user"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "probability": 1.5}, r"jsonl:2: `probability` must be a number from 0 to 1"),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "margin": "big"},
            r"rows\.jsonl:2: `margin` must be a number from 0 on, found 'big'",
        ),
    ],
)
def test_a_row_that_is_no_pair_is_named(write: Callable[..., Path], row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        list(read_pairs(write({"prompt": "q", "chosen": "a", "rejected": "b"}, row)))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "q", "completions": ["a"], "ranks": [1]}, "at least two answers"),
        ({"prompt": "q", "completions": ["a", "b"], "ranks": [1]}, "for each of 2 completions, found"),
        ({"prompt": "q", "completions": ["a", "b"], "ranks": [0, 1]}, "a whole number from 1 on"),
        ({"prompt": "q", "completion": "a", "label": "yes"}, "`label` must be true .* found 'yes'"),
        ({"chosen": "Human: q", "rejected": "\n\nHuman: q"}, "transcripts must begin with"),
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: r\n\nAssistant: a"}, "share a prompt"),
        ({"chosen": [user("q"), said("a")], "rejected": [user("r"), said("a")]}, "no prompt that both answer"),
        ({"conversations": [{"from": "robot", "value": "x"}], "chosen": {}, "rejected": {}}, "a `from` among system, human, gpt"),
        ({"messages": [said("a")], "label": True}, "an answer without a prompt"),
        ({"input": "q", "output_1": "a", "output_2": "b", "label": 3}, "must be 1 or 2, the number of the better output, found 3"),
        ({"instruction": "q", "response1": "a", "response2": "b", "annotator1": 7}, r"must be 0 \(a tie\), 1 or 2, found \[7\]"),
        ({"text": "x", "label": "neutral"}, '"pos" or "neg", found \'neutral\''),
        ({"question": "q", "answer": "a"}, "found the columns answer, question, which are no known format of preferences. Known: rankings"),
    ],
)
def test_a_row_of_any_format_that_does_not_fit_it_is_named(write: Callable[..., Path], row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: .*{words}"):
        list(read_preferences(write(row)))


def test_a_format_of_no_known_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'ranking' is no format of preferences; did you mean \"rankings\""):
        list(read_preferences(Path("x"), format="ranking"))


REAL_ROWS: dict[str, dict[type, int]] = {
    "anthropic_evals_persona": {PairRow: 8000},
    "dpo_en_demo": {PairRow: 300},
    "gsm8k_model_solutions": {LabelledRow: 5 * 984},
    "gsm8k_solution_pairs": {PairRow: 2446},
    "hh_rlhf_harmless_base_test": {PairRow: 1712},
    "kto_en_demo": {LabelledRow: 300},
    "llmbar_gptinst": {PairRow: 92},
    "llmbar_natural": {PairRow: 100},
    "llmbar_neighbor": {PairRow: 134},
    "pandalm_human_testset": {RankedRow: 638},
    "sentence_polarity": {LabelledRow: 9005},
}


PAIRS_OF_OTHERS = {"gsm8k_model_solutions": 1253, "kto_en_demo": 1, "pandalm_human_testset": 579, "sentence_polarity": 4485}


@pytest.mark.parametrize("name", REAL_ROWS)
def test_every_row_of_a_real_set_is_read(name: str) -> None:
    path = REAL / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip("needs shared/data/preference beside the repository")
    rows = list(read_preferences(path))
    assert Counter(map(type, rows)) == REAL_ROWS[name]
    pairs = list(read_pairs(path))
    assert len(pairs) == PAIRS_OF_OTHERS.get(name, len(rows))
    assert all(row.prompt[-1]["role"] != "assistant" and row.chosen[0]["role"] == row.rejected[0]["role"] == "assistant" for row in pairs)
