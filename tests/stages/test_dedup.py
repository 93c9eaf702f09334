"""dedup at large: pieces, rounds and earlier runs change nothing that they should not."""

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.core.documents import document_table, read_documents, write_documents
from bloomery.core.errors import DataError
from bloomery.core.stage import Runtime
from bloomery.curate.dedup_exact import normalise
from bloomery.curate.kernels import band_keys
from bloomery.curate.ledger import read_ledger
from bloomery.curate.minhash import DedupConfig, estimate_similarity, sign_texts
from bloomery.stages import dedup

SHARED = Path(__file__).parents[3] / "shared" / "data"


def make_texts(num_texts: int, *, seed: int) -> list[str]:
    """Texts of random words; most are edited copies of an earlier one, some exact ones in another case, some have no words."""
    draw = random.Random(seed)
    texts: list[str] = []
    for i in range(num_texts):
        if i % 17 == 16:
            texts.append(draw.choice(["", "!!!", "???"]))
            continue
        words = [f"w{draw.randrange(2000)}" for _ in range(120)]
        if i > 5 and draw.random() < 0.6:
            words = draw.choice([text for text in texts if len(text) > 9]).split()
            for _ in range(draw.choice([0, 0, 2, 6, 14])):
                words[draw.randrange(len(words))] = f"w{draw.randrange(2000)}"
        texts.append(draw.choice([" ", "\n"]).join(words).replace("w1", draw.choice(["w1", "W1"])))
    return texts


def write_shards(folder: Path, texts: list[str], *, num_shards: int, name: str = "") -> Path:
    rows = [{"id": f"{name}{i:04d}", "text": text, "url": f"https://a.example/{i}"} for i, text in enumerate(texts)]
    size = -(-len(rows) // num_shards)
    for shard in range(num_shards):
        write_documents(folder / f"{name}{shard}.parquet", document_table(rows[shard * size : (shard + 1) * size]))
    return folder


def run(out: Path, documents: list[Path], *, workers: int = 1, existing: tuple[Path, ...] = (), **config: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    runtime = Runtime.local(out, workers=workers)
    metrics = dedup.dedup(DedupConfig(**config), documents=documents, existing=existing, out=out, runtime=runtime)
    runtime.close()
    return dict(metrics)


def files_of(folder: Path) -> dict[str, bytes]:
    named = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: named[name].read_bytes() for name in sorted(named) if not name.startswith(".")}


def kept_ids(folder: Path) -> list[str]:
    return [id for path in sorted(folder.glob("*.parquet")) for id in read_documents(path).column("id").to_pylist()]


def read_clusters(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "clusters").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def find_clusters_by_force(texts: list[str]) -> list[set[int]]:
    """All pairs: equal texts, or texts with words that share a band; their transitive closure."""
    signatures = sign_texts(pa.chunked_array([pa.array(texts, pa.large_string())]), DedupConfig())
    keys = band_keys(signatures, 14)
    groups = [{i} for i in range(len(texts))]
    for a, b in itertools.combinations(range(len(texts)), 2):
        has_words = any(c.isalnum() for c in texts[a])
        if normalise(texts[a]) == normalise(texts[b]) or (has_words and (keys[a] == keys[b]).any()):
            merged = next(g for g in groups if a in g) | next(g for g in groups if b in g)
            groups = [g for g in groups if not g & merged] + [merged]
    return groups


def test_clusters_are_those_of_all_pairs_and_every_document_is_in_one(tmp_path):
    texts = make_texts(150, seed=1)
    metrics = run(tmp_path / "out", [write_shards(tmp_path / "in", texts, num_shards=4)], keep_bands=True)
    groups = find_clusters_by_force(texts)
    rows = read_clusters(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"{i:04d}" for i in range(150)]
    assert metrics["clusters"] == sum(len(group) > 1 for group in groups) and 20 < len(groups) < 120
    signatures = sign_texts(pa.chunked_array([pa.array(texts, pa.large_string())]), DedupConfig())
    for group in groups:
        best = min(group, key=lambda i: (-len(texts[i].encode()), i))
        for i in group:
            assert (rows[i]["cluster"], rows[i]["cluster_size"], rows[i]["kept"]) == (f"{best:04d}", len(group), i == best)
            if i != best:
                # Two estimates by the same hashes, one of them from 8 bits of each.
                assert rows[i]["similarity"] == pytest.approx(float(estimate_similarity(signatures[i], signatures[best])), abs=0.03)
    ledger = {row["id"]: row for row in read_ledger(tmp_path / "out").to_pylist()}
    assert kept_ids(tmp_path / "out") == [row["id"] for row in rows if row["kept"]]
    for i, row in enumerate(rows):
        if not row["kept"]:
            is_equal = normalise(texts[i]) == normalise(texts[int(row["cluster"])])
            assert ledger[row["id"]]["rule"] == ("exact_duplicate" if is_equal else "near_duplicate")
            assert (ledger[row["id"]]["kept_id"], ledger[row["id"]]["value"]) == (row["cluster"], row["similarity"])
    assert len(ledger) == sum(not row["kept"] for row in rows)
    assert {row["rule"] for row in ledger.values()} == {"exact_duplicate", "near_duplicate"}


@pytest.mark.parametrize("min_similarity", [0.0, 0.9])
def test_units_rounds_partitions_and_workers_change_no_byte(min_similarity, tmp_path, monkeypatch):
    documents = [write_shards(tmp_path / "in", make_texts(160, seed=2), num_shards=3)]
    settings = {"min_similarity": min_similarity, "keep_bands": True}
    run(tmp_path / "one", documents, **settings)
    run(tmp_path / "two", documents, workers=2, **settings)
    monkeypatch.setattr(dedup, "ROWS_PER_ROUND", 500)
    monkeypatch.setattr("bloomery.core.shuffle.ROWS_PER_PARTITION", 100)
    monkeypatch.setattr("bloomery.core.documents.MAX_BATCH_ROWS", 7)
    monkeypatch.setattr(dedup, "BATCHES_PER_UNIT", 2)
    run(tmp_path / "pieces", documents, **settings)
    forests = list((tmp_path / "pieces" / ".scratch").rglob("*.npy"))
    assert len({path.parent.name for path in forests}) > 3 and len(forests) > 80
    assert not list((tmp_path / "pieces" / ".scratch").rglob("keys/*/*.arrow"))
    one, two, pieces = (files_of(tmp_path / name) for name in ("one", "two", "pieces"))
    assert one == two
    # Row groups follow the batches; the rows are the same.
    assert one.keys() == pieces.keys()
    for name in one:
        assert pq.read_table(tmp_path / "pieces" / name).equals(pq.read_table(tmp_path / "one" / name)), name


def test_a_similarity_that_is_asked_for_holds_between_dropped_documents_and_their_leader(tmp_path):
    base = [f"w{i}" for i in range(200)]
    texts = [" ".join(base[start : start + 100]) for start in range(0, 60, 4)]
    run(tmp_path / "loose", [write_shards(tmp_path / "in", texts, num_shards=2)])
    run(tmp_path / "strict", [tmp_path / "in"], min_similarity=0.98)
    assert len(kept_ids(tmp_path / "loose")) == 1 and len(kept_ids(tmp_path / "strict")) > 5


def test_new_documents_give_way_to_those_of_an_earlier_run_as_if_both_had_come_at_once(tmp_path):
    texts = make_texts(240, seed=3)
    old = write_shards(tmp_path / "a", texts[:120], num_shards=2, name="a")
    new = write_shards(tmp_path / "b", texts[120:], num_shards=3, name="b")
    run(tmp_path / "joint", [old, new], keep="first")
    run(tmp_path / "old", [old], keep="first", keep_bands=True)
    metrics = run(tmp_path / "new", [new], existing=(tmp_path / "old",), keep="first", keep_bands=True)
    # A cluster that holds an old document loses all new ones in both; one of new documents alone keeps its first.
    assert kept_ids(tmp_path / "new") == [id for id in kept_ids(tmp_path / "joint") if id.startswith("b")]
    assert metrics["documents_in"] == 120
    joint = {row["id"]: row for row in read_ledger(tmp_path / "joint").to_pylist()}
    incremental = {row["id"]: row for row in read_ledger(tmp_path / "new").to_pylist()}
    against_old = [id for id, row in incremental.items() if row["kept_id"].startswith("a")]
    assert len(against_old) > 20 and {row["kept_id"] for row in incremental.values()} & set(kept_ids(tmp_path / "old"))
    # Where a new document joins two old clusters, both old documents stay: old ones are never dropped.
    split = set(kept_ids(tmp_path / "old")) - set(kept_ids(tmp_path / "joint"))
    for id, row in incremental.items():
        assert row["kept_id"] in kept_ids(tmp_path / "old") + kept_ids(tmp_path / "new")
        if joint[id]["kept_id"] == row["kept_id"]:
            assert (joint[id]["rule"], joint[id]["value"]) == (row["rule"], row["value"])
        else:
            assert split
    # A third run against both earlier ones.
    third = write_shards(tmp_path / "c", texts[100:140], num_shards=1, name="c")
    metrics = run(tmp_path / "third", [third], existing=(tmp_path / "old", tmp_path / "new"), keep="first")
    assert metrics["documents_out"] == 0
    assert {row["kept_id"] for row in read_ledger(tmp_path / "third").to_pylist()} <= {
        *kept_ids(tmp_path / "old"),
        *kept_ids(tmp_path / "new"),
    }


def test_a_new_document_that_joins_two_old_ones_is_dropped_and_both_old_ones_stay(tmp_path):
    base = [f"w{i}" for i in range(300)]
    left, middle, right = (" ".join(base[start : start + 200]) for start in (0, 20, 40))  # Jaccard 0.81 and 0.66
    config = {"keep": "first", "min_similarity": 0.74}
    run(tmp_path / "old", [write_shards(tmp_path / "a", [left, right], num_shards=1, name="a")], keep_bands=True, **config)
    assert kept_ids(tmp_path / "old") == ["a0000", "a0001"]
    run(tmp_path / "new", [write_shards(tmp_path / "b", [middle], num_shards=1, name="b")], existing=(tmp_path / "old",), **config)
    assert [row["kept_id"] for row in read_ledger(tmp_path / "new").to_pylist()] == ["a0000"]
    run(tmp_path / "joint", [tmp_path / "a", tmp_path / "b"], **config)
    assert kept_ids(tmp_path / "joint") == ["a0000"]


def test_an_earlier_run_without_bands_or_with_others_is_named(tmp_path):
    folder = write_shards(tmp_path / "in", make_texts(12, seed=4), num_shards=1)
    run(tmp_path / "old", [folder])
    with pytest.raises(DataError, match=r"old: no bands/ there.*keep_bands = true"):
        run(tmp_path / "new", [folder], existing=(tmp_path / "old",))
    run(tmp_path / "other", [folder], keep_bands=True, bands=16)
    with pytest.raises(DataError, match=r'"bands": 16.*this run has .*"bands": 14'):
        run(tmp_path / "new", [folder], existing=(tmp_path / "other",))


def test_a_text_that_half_the_corpus_has_is_one_row_of_each_unit(tmp_path):
    texts = ["Error 404"] * 70 + make_texts(30, seed=5)
    run(tmp_path / "out", [write_shards(tmp_path / "in", texts, num_shards=2)])
    assert kept_ids(tmp_path / "out").count("0000") == 1 and not {f"{i:04d}" for i in range(1, 70)} & set(kept_ids(tmp_path / "out"))
    largest = pq.read_table(tmp_path / "out" / "bands" / "largest.parquet").to_pylist()
    assert len(largest) > 15 and all(row["documents"] == 70 and row["first_id"] == "0000" for row in largest[:15])


def test_the_newest_of_a_cluster_stays_when_asked_for(tmp_path):
    rows = [{"id": str(i), "text": "The same text.", "date": date} for i, date in enumerate(["2020-01-02", "2021-01-01", "", "2020"])]
    write_documents(tmp_path / "in" / "0.parquet", document_table(rows))
    run(tmp_path / "out", [tmp_path / "in"], keep="newest")
    assert kept_ids(tmp_path / "out") == ["1"]
    with pytest.raises(DataError, match=r"0\.parquet: no column signal_quality"):
        run(tmp_path / "other", [tmp_path / "in"], keep="quality", keep_signal="quality")


def test_no_documents_make_an_empty_corpus(tmp_path):
    write_documents(tmp_path / "in" / "0.parquet", document_table([]))
    metrics = run(tmp_path / "out", [tmp_path / "in"], keep_bands=True)
    assert metrics["documents_in"] == metrics["documents_out"] == 0
    assert run(tmp_path / "new", [tmp_path / "in"], existing=(tmp_path / "out",))["documents_out"] == 0


@pytest.mark.skipif(not (SHARED / "text" / "encyclopedia.parquet").exists(), reason="the shared texts are not here")
def test_of_real_texts_and_their_edited_copies_only_one_of_each_stays(tmp_path):
    texts = [text for text in read_documents(SHARED / "text" / "encyclopedia.parquet").column("text").to_pylist() if len(text) > 2000][:60]
    draw = np.random.default_rng(6)
    copies = []
    for text in texts:
        words = text.split(" ")
        for place in draw.integers(0, len(words), len(words) // 200):
            words[place] = "edited"
        copies.append(" ".join(words))
    run(tmp_path / "alone", [write_shards(tmp_path / "a", texts, num_shards=1, name="a")], keep="first")
    unique = kept_ids(tmp_path / "alone")
    run(tmp_path / "both", [tmp_path / "a", write_shards(tmp_path / "b", copies, num_shards=1, name="b")], keep="first")
    assert kept_ids(tmp_path / "both") == unique and len(unique) > 50


def test_a_run_that_lost_some_of_its_scratch_ends_with_the_same_bytes(tmp_path):
    documents = [write_shards(tmp_path / "in", make_texts(60, seed=7), num_shards=2)]
    metrics = run(tmp_path / "whole", documents, keep_bands=True)
    for step in ("signed", "forest", "buckets"):
        out = tmp_path / f"lost-{step}"
        run(out, documents, keep_bands=True)
        scratch = out / ".scratch" / "dedup"
        lost = [path for path in scratch.rglob("*") if path.is_file() and {step, "forest"} & set(path.parts)]
        for path in [*lost, scratch / "kept.i64", *(path for path in out.rglob("*.parquet"))]:
            path.unlink()
        assert run(out, documents, keep_bands=True) == metrics
        assert files_of(out) == files_of(tmp_path / "whole")
