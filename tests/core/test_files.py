"""Files are whole or absent, equal rows give equal bytes, and damage is named with file and line."""

import gzip

import pytest
import zstandard

from bloomery.core.errors import DataError
from bloomery.core.files import expand, read_json, read_jsonl, remove_temporary_files, write_atomically, write_json, write_jsonl

ROWS = [{"b": 1, "a": "ä"}, {"text": "line\nbreak\u2028"}]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), write_atomically(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_come_back_and_equal_rows_give_equal_bytes(tmp_path, name):
    assert write_jsonl(tmp_path / name, ROWS) == 2
    first = (tmp_path / name).read_bytes()
    assert list(read_jsonl(tmp_path / name)) == ROWS
    write_jsonl(tmp_path / name, iter(ROWS))
    assert (tmp_path / name).read_bytes() == first
    if name.endswith(".gz"):
        assert first[4:8] == b"\0\0\0\0"


def test_zstandard_is_read_and_a_cut_file_is_named(tmp_path):
    plain = b'{"a": 1}\n{"a": 2}\n'
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(plain))
    assert [row["a"] for row in read_jsonl(tmp_path / "a.jsonl.zst")] == [1, 2]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(plain * 1000)[:-20])
    with pytest.raises(DataError, match=r"b\.jsonl\.gz: cannot be read"):
        list(read_jsonl(tmp_path / "b.jsonl.gz"))


@pytest.mark.parametrize("line", ["{", "[1]", '"x"', '{"a": ' + "[" * 100_000])
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n' + line + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:3: "):
        list(read_jsonl(tmp_path / "a.jsonl"))


def test_folders_are_searched_sorted_and_without_ledgers_and_hidden_files(tmp_path):
    for name in ("b/2.txt", "b/10.txt", "a/1.txt", "ledger/1.txt", ".hidden/1.txt", "b/.2.txt.tmp-1", "b/x.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [path.relative_to(tmp_path).as_posix() for path in expand(tmp_path, suffixes=(".txt",))]
    assert found == ["a/1.txt", "b/10.txt", "b/2.txt"]
    twice = [tmp_path / "b" / "*.txt", tmp_path / "b" / "2.txt"]
    assert expand(twice, suffixes=()) == [tmp_path / "b" / "10.txt", tmp_path / "b" / "2.txt"]
    with pytest.raises(DataError, match=r"nothing: found no file there; expected names ending in \.txt"):
        expand(tmp_path / "nothing", suffixes=(".txt",))


def test_temporary_files_are_removed_at_every_depth(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".a.tmp-12").write_text("")
    (tmp_path / "x" / "a").write_text("")
    remove_temporary_files(tmp_path)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a"]


def test_a_missing_or_damaged_json_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json: not a readable JSON"):
        read_json(tmp_path / "a.json")
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
