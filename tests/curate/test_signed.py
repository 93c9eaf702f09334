"""What is signed is found again by number."""

import numpy as np
import pyarrow as pa
import pytest

from bloomery.core.errors import DataError
from bloomery.curate.signed import Signed, count_batches, look_up, read_batch, read_signed, write_signed


def some(names: list[str]) -> Signed:
    n = len(names)
    draw = np.random.default_rng(n)
    exact, sketches = draw.integers(0, 256, (n, 16)).astype(np.uint8), draw.integers(0, 256, (n, 6)).astype(np.uint8)
    return Signed(pa.array(names, pa.string()), np.arange(n) - 3, exact, sketches, draw.integers(0, 2**63, (n, 4)).astype(np.uint64))


def is_equal(a: Signed, b: Signed) -> bool:
    return a.ids.equals(b.ids) and all(np.array_equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))


def test_batches_come_back_as_they_were_written(tmp_path):
    batches = [some(["a", "b", "c"]), some([]), some(["d"])]
    write_signed(tmp_path / "0.arrow", batches)
    assert count_batches(tmp_path / "0.arrow") == [3, 0, 1]
    assert all(is_equal(a, b) for a, b in zip(read_signed(tmp_path / "0.arrow"), batches, strict=True))
    assert is_equal(read_batch(tmp_path / "0.arrow", 2), batches[2])


def test_documents_are_looked_up_by_number_through_all_sources(tmp_path):
    parts = [[some(["a", "b"]), some(["c"])], [some([])], [some(["d", "e", "f"])]]
    paths = [tmp_path / f"{i}.arrow" for i in range(3)]
    for path, batches in zip(paths, parts, strict=True):
        write_signed(path, batches)
    found = look_up(paths, np.array([0, 3, 3, 6]), np.array([5, 0, 5, 2, 3]))
    assert found.ids.to_pylist() == ["f", "a", "f", "c", "d"]
    assert found.exact.tolist() == [parts[2][0].exact[2].tolist(), parts[0][0].exact[0].tolist()] + [
        row.tolist() for row in (parts[2][0].exact[2], parts[0][1].exact[0], parts[2][0].exact[0])
    ]
    nothing = look_up(paths, np.array([0, 3, 3, 6]), np.zeros(0, np.int64))
    assert len(nothing.ids) == 0 and nothing.sketches.shape == (0, 6)


def test_a_damaged_file_is_named(tmp_path):
    write_signed(tmp_path / "0.arrow", [some(["a"])])
    (tmp_path / "0.arrow").write_bytes((tmp_path / "0.arrow").read_bytes()[:50])
    with pytest.raises(DataError, match=r"0\.arrow: not readable"):
        count_batches(tmp_path / "0.arrow")
