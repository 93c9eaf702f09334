"""The hub's layout on a local web server: /datasets/OWNER/NAME/resolve/REVISION/PATH, answered with a redirect to a store."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.remote import FetchError, Manners
from bloomery.evaluate.download import fetch_rows
from bloomery.evaluate.rows import read_rows
from bloomery.evaluate.tasks.catalog import catalog

FAST = Manners(attempts=3, first_wait_seconds=0.01, timeout_seconds=5)
ARC = "/datasets/allenai/ai2_arc/resolve/main/ARC-Easy/test-00000-of-00001.parquet"
PIQA = "/datasets/ybisk/piqa/resolve/refs%2Fconvert%2Fparquet/plain_text/validation/0000.parquet"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


ROWS = [{"question": f"Which {i}?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "AB"[i % 2]} for i in range(50)]


@pytest.fixture
def hub(web_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_ENDPOINT", web_server.url)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    web_server.files[ARC] = b""
    web_server.files["/store/abc"] = parquet(ROWS)
    web_server.faults[ARC] = [("redirect", f"{web_server.url}/store/abc")] * 9
    return web_server


def fetch(cache: Path, *names: str, folders: tuple[Path, ...] = (), required: tuple[str, ...] | None = None) -> list[str]:
    notes: list[str] = []
    chosen = [catalog()[name] for name in names]
    fetch_rows(chosen, folders, cache, required=names if required is None else required, manners=FAST, note=notes.append)
    return notes


def test_what_is_fetched_is_what_is_read(hub: Any, tmp_path: Path) -> None:
    assert fetch(tmp_path, "arc_easy") == ["fetching allenai/ai2_arc: ARC-Easy/test-00000-of-00001.parquet"]
    rows = read_rows(catalog()["arc_easy"], [tmp_path])
    assert [one.example.gold for one in rows.examples] == [i % 2 for i in range(50)]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["arc_easy.parquet"]


def test_what_is_here_is_not_fetched_again(hub: Any, tmp_path: Path) -> None:
    fetch(tmp_path, "arc_easy")
    asked = len(hub.requests)
    assert fetch(tmp_path, "arc_easy", "arc_easy_chat") == []
    assert fetch(tmp_path / "other", "arc_easy", folders=(tmp_path,)) == []
    assert len(hub.requests) == asked


def test_a_download_that_breaks_off_is_continued_and_whole(hub: Any, tmp_path: Path) -> None:
    hub.faults["/store/abc"] = [("cut", 400), ("cut", 300)]
    fetch(tmp_path, "arc_easy")
    assert (tmp_path / "core" / "arc_easy.parquet").read_bytes() == hub.files["/store/abc"]
    assert any(wanted.startswith("bytes=") for _, path, wanted in hub.requests if path == ARC or path == "/store/abc")


def test_a_revision_with_slashes_is_one_part_of_the_address(hub: Any, tmp_path: Path) -> None:
    hub.files[PIQA] = parquet([{"goal": "g", "sol1": "x", "sol2": "y", "label": 0}])
    fetch(tmp_path, "piqa")
    assert len(read_rows(catalog()["piqa"], [tmp_path]).examples) == 1


def test_a_data_set_that_must_be_asked_for_says_where_to_put_its_file(hub: Any, tmp_path: Path) -> None:
    hub.faults[PIQA] = [("status", 401, {})]
    with pytest.raises(DataError, match=r"status 401.*core/piqa\.parquet and give --data DIR"):
        fetch(tmp_path, "piqa")


def test_of_a_collection_the_rest_is_fetched_where_one_cannot_be_had(hub: Any, tmp_path: Path) -> None:
    hub.faults[PIQA] = [("status", 404, {})]
    notes = fetch(tmp_path, "piqa", "arc_easy", required=("arc_easy",))
    assert any(note.startswith("piqa: ") and "status 404" in note for note in notes)
    assert (tmp_path / "core" / "arc_easy.parquet").is_file()


def test_a_hub_that_fails_for_good_is_an_error_and_leaves_no_file(hub: Any, tmp_path: Path) -> None:
    hub.faults[ARC] = [("status", 503, {})] * 9
    with pytest.raises(FetchError, match="503"):
        fetch(tmp_path, "arc_easy")
    assert not (tmp_path / "core" / "arc_easy.parquet").exists()


def test_offline_means_offline(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set, but core/arc_easy"):
        fetch(tmp_path, "arc_easy")
    assert hub.requests == []
