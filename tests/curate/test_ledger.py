"""The ledger: what was dropped, by which rule."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.core.documents import shard_name
from bloomery.core.errors import DataError
from bloomery.curate.ledger import (
    FOLDER,
    SCHEMA,
    count_bytes,
    count_rules,
    ledger_row,
    ledger_table,
    read_ledger,
    sample_text,
    write_ledger,
)


def test_a_ledger_is_read_back_in_order_of_its_shards(tmp_path):
    for index in (1, 0):
        rows = [ledger_row(stage="filter", rule=f"rule_{index}", id=f"{index}-{i}", text="some\ntext", value=1.5) for i in range(2)]
        write_ledger(tmp_path / FOLDER / shard_name(index), ledger_table(rows))
    table = read_ledger(tmp_path)
    assert table.schema == SCHEMA
    assert table.column("id").to_pylist() == ["0-0", "0-1", "1-0", "1-1"]
    assert table.column("text_sample").to_pylist() == ["some text"] * 4
    assert count_rules(table) == {"dropped/rule_0": 2, "dropped/rule_1": 2}


def test_a_stage_without_a_ledger_dropped_nothing(tmp_path):
    assert len(read_ledger(tmp_path)) == 0


def test_a_file_that_is_no_ledger_is_named(tmp_path):
    (tmp_path / FOLDER).mkdir()
    pq.write_table(ledger_table([]).select(["id"]), tmp_path / FOLDER / "00000.parquet")
    with pytest.raises(DataError, match=r"00000\.parquet: not a readable ledger"):
        read_ledger(tmp_path)


def test_a_sample_is_the_beginning_on_one_line():
    assert sample_text("a\n\n b " * 500) == ("a b " * 500)[:200]
    assert sample_text(None) is None


def test_bytes_are_those_of_the_texts_as_they_came_in():
    came = pa.table({"id": ["a", "b", "c"], "text": pa.array(["xx", "é", "yyyy"], pa.large_string())})
    rows = [ledger_row(stage="s", rule=rule, id=name) for rule, name in (("r", "b"), ("q", "c"), ("r", "a"), ("r", "elsewhere"))]
    assert count_bytes(ledger_table(rows), came) == {"dropped_bytes/q": 4, "dropped_bytes/r": 4}
    assert count_bytes(ledger_table([]), came) == {}
