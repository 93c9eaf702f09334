"""The redact stage: every document stays, its personal data does not, and all shards give a value the same fake."""

import json

import pytest

from bloomery.core.config import check_config
from bloomery.core.documents import document_table, read_documents, write_documents
from bloomery.core.stage import Runtime
from bloomery.curate.ledger import read_ledger
from bloomery.curate.redact import RedactConfig
from bloomery.stages.redact import redact


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(3):
        rows = [
            {"id": f"{number}-0", "text": f"Text {number}: write to jane@acme.io, call (212) 736-5000.", "language": "en"},
            {"id": f"{number}-1", "text": "Nothing to see here.", "language": "en", "meta": {"title": "t"}},
        ]
        write_documents(folder / f"{number}.parquet", document_table(rows))
    return folder


def run(config, documents, out, *, workers=1):
    out.mkdir()
    counts = redact(config, documents=[documents], out=out, runtime=Runtime.local(out, workers=workers))
    return counts, [row for path in sorted(out.glob("*.parquet")) for row in read_documents(path).to_pylist()]


def test_no_document_is_dropped_and_replacements_are_counted_by_kind(documents, tmp_path):
    counts, rows = run(RedactConfig(), documents, tmp_path / "out")
    assert [row["id"] for row in rows] == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert rows[0]["text"] == "Text 0: write to <EMAIL>, call <PHONE>." and rows[1]["text"] == "Nothing to see here."
    assert counts["documents_in"] == counts["documents_out"] == 6 and len(read_ledger(tmp_path / "out")) == 0
    assert counts["replaced/email"] == counts["replaced/phone"] == 3 and counts["replaced/card"] == 0
    assert [row["signal_pii_email"] for row in rows] == [1, 0, 1, 0, 1, 0]
    assert all("pii" not in json.loads(row["meta"]) for row in rows)


def test_a_value_has_the_same_fake_in_every_shard_and_with_two_workers(documents, tmp_path):
    config = RedactConfig(mode="fake", seed=3, spans="meta")
    _, rows = run(config, documents, tmp_path / "one")
    _, again = run(config, documents, tmp_path / "two", workers=2)
    assert rows == again
    assert len({row["text"].split()[4] for row in rows[::2]}) == 1 and "jane" not in str(rows) and "736-5000" not in str(rows)
    assert [(span["kind"], span["start"]) for span in json.loads(rows[0]["meta"])["pii"]] == [("email", 17), ("phone", 36)]


def test_redacting_what_is_redacted_finds_nothing(documents, tmp_path):
    run(RedactConfig(mode="fake"), documents, tmp_path / "once")
    counts, _ = run(RedactConfig(mode="count"), tmp_path / "once", tmp_path / "twice")
    assert {name: count for name, count in counts.items() if name.startswith("found/") and count} == {}


def test_an_unknown_kind_is_refused_with_its_name():
    _, mistakes = check_config(RedactConfig, {"kinds": ["emails"]})
    assert len(mistakes) == 1 and "emails" in mistakes[0]
