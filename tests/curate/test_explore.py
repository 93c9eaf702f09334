"""Looks into curation: samples, histograms, thresholds, clusters and what-if, from the tables that stages leave."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.core.documents import document_table, write_documents
from bloomery.core.errors import ConfigError, DataError
from bloomery.curate import explore
from bloomery.curate.ledger import ledger_row, ledger_table, write_ledger
from bloomery.curate.rules import Rule, apply_rules

RULES = [
    Rule(name="short", signal="words", drops="below", threshold=10),
    Rule(name="loud", signal="capitals", drops="above", threshold=0.5),
]


@pytest.fixture
def folder(tmp_path):
    """An artifact of a filter over forty documents in two shards: words 0..39, every fifth one loud."""
    for shard in range(2):
        rows = [
            {"id": f"d{i:02d}", "text": f"text {i}", "url": f"https://site{i % 3}.example/{i}", "language": "en", "language_score": 0.9,
             "signal_words": float(i), "signal_capitals": 0.9 if i % 5 == 0 else 0.1, "signal_unspaced_fraction": 0.0}
            for i in range(shard * 20, shard * 20 + 20)
        ]  # fmt: skip
        table = document_table(rows)
        verdicts = apply_rules(table, RULES, languages=[])
        (tmp_path / "signals").mkdir(exist_ok=True)
        pq.write_table(verdicts.judged, tmp_path / "signals" / f"{shard:05d}.parquet")
        write_documents(tmp_path / f"{shard:05d}.parquet", table.filter(verdicts.keep))
        write_ledger(tmp_path / "ledger" / f"{shard:05d}.parquet", verdicts.ledger)
    return tmp_path


def test_every_rule_is_explained_for_one_document_with_its_value_and_threshold(folder):
    row = explore.read_signals(folder).row(5, named=True)
    assert explore.explain_rules(row, RULES, languages=[]) == [
        {"rule": "short", "value": 5.0, "drops": "below", "threshold": 10.0, "broken": True},
        {"rule": "loud", "value": 0.9, "drops": "above", "threshold": 0.5, "broken": True},
    ]


def test_a_histogram_counts_every_document_once(folder):
    histogram = explore.make_histogram(folder, "words", num_bins=4)
    assert sum(histogram.kept) == 24 and sum(histogram.dropped) == 16
    assert [k + d for k, d in zip(histogram.kept, histogram.dropped, strict=True)] == [10, 10, 10, 10]
    assert histogram.quantiles["50%"] == 19.5
    lines = explore.histogram_lines(histogram, threshold=10)
    assert len(lines) == 4 and lines[1].endswith("<- threshold") and lines[0].count(".") > lines[1].count(".")
    with pytest.raises(ConfigError, match='no signal is named "wrds"; did you mean "words"'):
        explore.make_histogram(folder, "wrds")


def test_on_a_logarithmic_scale_bins_grow_by_a_factor_and_what_is_not_above_zero_is_in_the_first():
    values = np.array([0.0, 1.0, 3.0, 10.0, 30.0, 100.0, np.nan])
    histogram = explore.bin_values("words", values, np.zeros(7, bool), num_bins=2, is_log=True)
    assert histogram.is_log and histogram.edges[0] == 1 and histogram.edges[1] == pytest.approx(histogram.edges[2] ** 0.5)
    assert histogram.kept == [3, 3] and histogram.dropped == [0, 0]


def test_samples_are_drawn_by_rule_and_are_the_same_every_time(folder):
    drawn = explore.sample_dropped(folder, rule="short", num_documents=3)
    assert drawn == explore.sample_dropped(folder, rule="short", num_documents=3)
    assert {row["rule"] for row in drawn} == {"short"} and len(drawn) == 3
    assert len(explore.sample_dropped(folder, rule=None, num_documents=100)) == 16
    with pytest.raises(ConfigError, match='no document was dropped by "shrt"; did you mean "short"'):
        explore.sample_dropped(folder, rule="shrt", num_documents=3)
    kept = explore.sample_kept(folder, num_documents=5)
    assert len({row["id"] for row in kept}) == 5 and all("text" in row for row in kept)


def test_documents_are_found_by_id_and_counted_by_domain(folder):
    found = explore.find_documents([folder], ["d11", "d39", "d00", "nobody"])
    assert {id: row["text"] for id, row in found.items()} == {"d11": "text 11", "d39": "text 39"}
    counted = explore.count_by(folder, "domain")
    assert counted.rows["documents"].sum() == 24 and counted.rows["bytes"].sum() == 24 * len("text 17") and not counted.is_estimated
    assert set(counted.rows["name"]) == {f"site{i}.example" for i in range(3)}
    unread = explore.count_by(folder, "domain", max_text_bytes=10)
    assert unread.is_estimated and unread.rows["bytes"].null_count() == 3  # nobody measured their lengths
    assert unread.rows.drop("bytes").equals(counted.rows.drop("bytes"))


def test_clusters_come_largest_first_with_their_members(tmp_path):
    similarity = {"a": {"a": 1.0, "b": 0.8, "c": 0.9}, "d": {"d": 1.0}, "e": {"e": 1.0, "f": 1.0}}
    rows = [(id, kept, len(group), id == kept, value) for kept, group in similarity.items() for id, value in group.items()]
    names = ("id", "cluster", "cluster_size", "kept", "similarity")
    (tmp_path / "clusters").mkdir()
    pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), tmp_path / "clusters" / "00000.parquet")
    clusters = explore.largest_clusters(tmp_path, num_clusters=5)
    assert [(c["kept"], c["size"], [m["id"] for m in c["members"]]) for c in clusters] == [("a", 3, ["c", "b"]), ("e", 2, ["f"])]
    with pytest.raises(DataError, match="look into the artifact of a dedup stage"):
        explore.largest_clusters(tmp_path / "nowhere", num_clusters=5)


def test_what_two_texts_share_and_do_not_adds_up_to_both():
    first, second = "The ore is\nbroken, washed and weighed.", "The ore is broken and weighed twice."
    pieces = explore.compare_texts(first, second)
    assert "".join(p.text for p in pieces if p.where != "second") == first
    assert " ".join("".join(p.text for p in pieces if p.where != "first").split()) == second
    assert [p.where for p in pieces] == ["both", "first", "second", "both", "first", "second"]


def test_texts_made_to_be_slow_to_compare_are_compared_coarsely_and_lose_nothing():
    first, second = "start b " + "a " * 3000 + "b end", "start c " + "a " * 2500 + "c " + "a " * 500 + "end"
    pieces = explore.compare_texts(first, second)
    assert "".join(p.text for p in pieces if p.where != "second") == first
    assert "".join(p.text for p in pieces if p.where != "first").split() == second.split()
    assert [p.where for p in pieces] == ["both", "first", "second", "both"] and pieces[-1].text == "end"


def test_an_empty_ledger_and_signals_of_another_stage_are_told(tmp_path):
    write_ledger(tmp_path / "ledger" / "00000.parquet", ledger_table([ledger_row(stage="s", rule="r", id="i")]))
    assert explore.sample_dropped(tmp_path, rule="r", num_documents=1)[0]["id"] == "i"
    with pytest.raises(DataError, match="look into the artifact of a filter stage"):
        explore.read_signals(tmp_path)
