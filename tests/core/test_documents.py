"""The document table reads what other tools write, keeps ids, and equal tables give equal bytes."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.core.documents import (
    SCHEMA,
    document_id,
    document_table,
    list_document_files,
    read_document_batches,
    read_documents,
    write_documents,
)
from bloomery.core.errors import DataError
from bloomery.core.files import write_jsonl


def test_a_table_survives_the_disk_and_equal_tables_give_equal_bytes(tmp_path):
    table = document_table([{"id": "a", "text": "hello", "signal_words": 1}, {"id": "b", "text": "two words", "stars": 3}])
    write_documents(tmp_path / "00000.parquet", table)
    write_documents(tmp_path / "00001.parquet", pa.concat_tables([table.slice(0, 1), table.slice(1)]))
    assert read_documents(tmp_path / "00000.parquet").equals(table)
    assert (tmp_path / "00000.parquet").read_bytes() == (tmp_path / "00001.parquet").read_bytes()
    assert json.loads(table.column("meta")[1].as_py()) == {"stars": 3}


@pytest.mark.parametrize("column", ["text", "content", "raw_content", "document"])
def test_jsonl_of_other_tools_is_read(tmp_path, column):
    (tmp_path / "a.jsonl").write_text(json.dumps({column: "hello", "url": "http://x", "stars": 3}) + "\n")
    row = read_documents(tmp_path / "a.jsonl").to_pylist()[0]
    assert (row["text"], row["url"], row["source"], row["id"]) == ("hello", "http://x", "a.jsonl", document_id("a.jsonl", 0))
    assert json.loads(row["meta"]) == {"stars": 3}


def test_foreign_parquet_is_read_and_its_id_is_kept(tmp_path):
    pq.write_table(pa.table({"id": [7, 8], "content": ["a", "b"]}), tmp_path / "a.parquet")
    table = read_documents(tmp_path / "a.parquet")
    assert table.column("id").to_pylist() == ["7", "8"]
    assert table.column("text").to_pylist() == ["a", "b"]
    assert table.schema.names[: len(SCHEMA.names)] == SCHEMA.names


def test_files_without_text_are_refused_by_name(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"body": "x"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: no text column among body"):
        read_documents(tmp_path / "a.jsonl")
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: no text column among body"):
        read_documents(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_text("nonsense")
    with pytest.raises(DataError, match=r"b\.parquet: not a readable Parquet file"):
        read_documents(tmp_path / "b.parquet")


def test_a_text_file_is_one_document_and_broken_bytes_are_marked(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    assert read_documents(tmp_path / "a.txt").column("text").to_pylist() == ["caf\ufffd\n"]
    (tmp_path / "load.py").write_text("import this\n")
    assert list_document_files(tmp_path) == [tmp_path / "a.txt"]  # a program in a folder may be the data's own
    (program,) = list_document_files(tmp_path / "*.py")
    assert read_documents(program).column("text").to_pylist() == ["import this\n"]
    assert [len(table) for table in read_document_batches(program)] == [1]


def test_lone_surrogates_have_no_place_in_utf8(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    assert read_documents(tmp_path / "a.jsonl").column("text").to_pylist() == ["a?b"]


@pytest.mark.parametrize("name", ["d.parquet", "d.jsonl", "foreign.parquet"])
def test_batches_of_a_file_are_its_documents_whatever_their_size(tmp_path, name):
    rows = [{"id": str(i), "text": f"{i} " * (i % 50), "stars": i} for i in range(300)]
    path = tmp_path / name
    if name == "d.jsonl":
        write_jsonl(path, rows)
    elif name == "d.parquet":
        write_documents(path, document_table(rows))
    else:
        pq.write_table(pa.table({"content": [row["text"] for row in rows]}), path)
    whole = read_documents(path)
    for max_bytes in (1, 1000, 1 << 20):
        batches = list(read_document_batches(path, max_bytes=max_bytes))
        assert pa.concat_tables(batches).equals(whole)
        assert max_bytes > 1000 or len(batches) > 3


def test_an_empty_file_is_one_empty_batch(tmp_path):
    (tmp_path / "e.jsonl").write_text("")
    assert [len(table) for table in read_document_batches(tmp_path / "e.jsonl")] == [0]
    write_documents(tmp_path / "e.parquet", document_table([]))
    assert [len(table) for table in read_document_batches(tmp_path / "e.parquet")] == [0]
