import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.core.errors import DataError
from bloomery.core.files import write_jsonl
from bloomery.evaluate.benchmark import Choice
from bloomery.evaluate.rows import BUILT_IN, MissingRows, read_rows
from bloomery.evaluate.tasks.catalog import catalog

GOOD = {"query": "Question: is it?", "choices": ["yes", "no"], "gold": 1}


def read(folder: Path, name: str = "arc_easy"):
    return read_rows(catalog()[name], [folder])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold": 2}, r"arc_easy\.jsonl:2: arc_easy: gold is 2; expected a number from 0 to 1"),
        ({"gold": -1}, r":2: .*gold is -1"),
        ({"gold": True}, r":2: .*gold is True"),
        ({"gold": "1"}, r":2: .*gold is '1'"),
        ({"choices": []}, r":2: .*at least two choices, found \[\]"),
        ({"choices": ["yes", " "]}, r":2: .*choice 1 is ' '"),
        ({"choices": "yes"}, r":2: .*at least two choices"),
        ({"query": ""}, r""":2: .*expected a text in "query", found ''"""),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, change: dict, message: str) -> None:
    write_jsonl(tmp_path / "arc_easy.jsonl", [GOOD, {**GOOD, **change}])
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_missing_column_and_a_line_that_is_no_json_are_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "arc_easy.jsonl", [GOOD, {"query": "q", "gold": 0}])
    with pytest.raises(DataError, match=r"arc_easy\.jsonl:2: arc_easy: no 'choices' in it; found gold, query"):
        read(tmp_path)
    (tmp_path / "arc_easy.jsonl").write_text(json.dumps(GOOD) + "\n\n[1]\n")
    with pytest.raises(DataError, match=r"arc_easy\.jsonl:3: expected a JSON object, found list"):
        read(tmp_path)
    (tmp_path / "arc_easy.jsonl").write_text(json.dumps(GOOD) + "\n{oops\n")
    with pytest.raises(DataError, match=r"arc_easy\.jsonl:2: not a JSON object"):
        read(tmp_path)


def test_rows_of_the_hubs_parquet_files_and_of_dclms_jsonl_are_the_same_examples(tmp_path: Path) -> None:
    hub = {"question": ["Which gas?"], "choices": [{"text": ["air", "water"], "label": ["A", "B"]}], "answerKey": ["B"]}
    pq.write_table(pa.table(hub), tmp_path / "arc_easy.parquet")
    example = read(tmp_path).examples[0].example
    assert example == Choice("Question: Which gas?", ("air", "water"), 1)
    write_jsonl(tmp_path / "arc_challenge.jsonl", [{"query": "Question: Which gas?", "choices": ["air", "water"], "gold": 1}])
    assert read(tmp_path, "arc_challenge").examples[0].example == example


@pytest.mark.parametrize(
    ("name", "file", "row", "expected"),
    [
        ("boolq", "boolq", {"passage": "P.", "question": "is it", "answer": True}, ("Passage: P.\nQuestion: is it?", ("no", "yes"), 1)),
        ("piqa", "piqa", {"goal": "Do it", "sol1": "so", "sol2": "thus", "label": 1}, ("Question: Do it", ("so", "thus"), 1)),
        (
            "copa",
            "copa",
            {"premise": "It rained.", "choice1": "He got wet.", "choice2": "It was dry.", "question": "effect", "label": 0},
            ("It rained, therefore", ("he got wet.", "it was dry."), 0),
        ),
        (
            "hellaswag",
            "hellaswag",
            {"activity_label": "Roof", "ctx_a": "A man sits.", "ctx_b": "he", "endings": ["sings [title] loud", "eats"], "label": "1"},
            ("Roof: A man sits. He", ("sings. loud", "eats"), 1),
        ),
        (
            "mmlu",
            "mmlu",
            {"question": "2+2?", "choices": ["3", "4"], "answer": 1, "subject": "maths"},
            ("2+2?\nA. 3\nB. 4\nAnswer:", ("A", "B"), 1),
        ),
    ],
)  # fmt: skip
def test_the_public_formats_are_read(tmp_path: Path, name: str, file: str, row: dict, expected: tuple) -> None:
    write_jsonl(tmp_path / f"{file}.jsonl", [row])
    write_jsonl(tmp_path / "mmlu_dev.jsonl", [row] if name == "mmlu" else [])
    example = read(tmp_path, name).examples[0].example
    assert isinstance(example, Choice)
    assert (example.query, example.choices, example.gold) == expected


def test_winogrande_is_read_as_two_contexts_with_one_ending(tmp_path: Path) -> None:
    row = {"sentence": "Ann beat Bob because _ was strong.", "option1": "Ann", "option2": "Bob", "answer": "1"}
    write_jsonl(tmp_path / "winogrande.jsonl", [row])
    example = read(tmp_path, "winogrande").examples[0].example
    assert example[:3] == (("Ann beat Bob because Ann", "Ann beat Bob because Bob"), "was strong.", 0)


def test_a_benchmark_without_a_file_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingRows, match=rf"piqa: no file.*core/piqa.*{tmp_path}.*--download.*ybisk/piqa"):
        read(tmp_path, "piqa")


def test_probes_come_with_their_rows(tmp_path: Path) -> None:
    rows = read(tmp_path, "stereotype_pairs")
    assert {located.file for located in rows.examples} == {BUILT_IN}
    assert rows.examples[0].example.choices == (
        "The nurse said that she would be there at noon.",
        "The nurse said that he would be there at noon.",
    )
