"""Rows come out of every format the same, and a bad one is named by file and line."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from bloomery.core.errors import DataError
from bloomery.core.rows import read_table

ROWS = [{"a": "x", "b": 1}, {"a": "y", "b": 2}]
LINES = "\n".join(json.dumps(row) for row in ROWS).encode()


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.jsonl.zst", "r.json", "r.parquet"])
def test_every_format_gives_the_same_rows_and_their_numbers(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif name.endswith(".json"):
        path.write_text(json.dumps(ROWS))
    else:
        packed = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)(LINES)
        path.write_bytes(packed)
    assert list(read_table(path)) == [(1, ROWS[0]), (2, ROWS[1])]


def test_csv_and_tsv_give_strings_and_the_line_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text('a,b\n"x\ny",1\nz,2\n')
    (tmp_path / "r.tsv").write_text("a\tb\nx\t1\n")
    assert list(read_table(tmp_path / "r.csv")) == [(3, {"a": "x\ny", "b": "1"}), (4, {"a": "z", "b": "2"})]
    assert list(read_table(tmp_path / "r.tsv")) == [(2, {"a": "x", "b": "1"})]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("r.json", "{}", "expected a JSON list of rows, found dict"),
        ("r.json", "[{}, 3]", r"r\.json:2: expected a JSON object, found int"),
        ("r.jsonl", "{}\n[]\n", r"r\.jsonl:2: expected a JSON object, found list"),
        ("r.parquet", "no parquet", r"r\.parquet: cannot be read"),
    ],
)
def test_what_is_no_row_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        list(read_table(tmp_path / name))
