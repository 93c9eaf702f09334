"""Arrays in the user's cache folder: made once, mapped after that, made again where they are not whole."""

import numpy as np
import pytest

from bloomery.core.cached_arrays import cache_folder, cached_arrays, cached_table

NAMES = ("numbers", "words")


class Maker:
    """Makes the arrays, and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"numbers": np.arange(10_000, dtype=np.uint32), "words": np.array(["a", "bc"])}


def check(arrays):
    assert arrays["numbers"].tolist() == list(range(10_000)) and arrays["words"].tolist() == ["a", "bc"]


def test_arrays_are_made_once_and_then_mapped(tmp_path):
    make = Maker()
    for _ in range(3):
        check(arrays := cached_arrays("table-1", NAMES, make, folder=tmp_path))
    assert make.calls == 1
    assert isinstance(arrays["numbers"], np.memmap) and not arrays["numbers"].flags.writeable
    check(cached_arrays("table-2", NAMES, make, folder=tmp_path))
    assert make.calls == 2


@pytest.mark.parametrize("damage", ["cut", "missing", "emptied"])
def test_a_table_that_is_not_whole_is_made_and_kept_again(tmp_path, damage):
    make = Maker()
    cached_arrays("table", NAMES, make, folder=tmp_path)
    path = tmp_path / "table" / "numbers.npy"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "cut" else 0])
    for _ in range(2):
        check(cached_arrays("table", NAMES, make, folder=tmp_path))
    assert make.calls == 2 and [child.name for child in tmp_path.iterdir()] == ["table"]


def test_where_nothing_can_be_written_they_are_made_each_time(tmp_path):
    (tmp_path / "file").write_text("")
    make = Maker()
    for _ in range(2):
        check(cached_arrays("table", NAMES, make, folder=tmp_path / "file"))
    assert make.calls == 2


def test_the_cache_is_where_the_user_has_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "bloomery"


def count_to_ten():
    return np.arange(10)


def test_a_table_is_kept_under_the_name_and_the_source_of_what_makes_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert [cached_table(count_to_ten).tolist() for _ in range(2)] == [list(range(10))] * 2
    assert [path.name.split("-")[0] for path in (tmp_path / "bloomery").iterdir()] == ["count_to_ten"]
