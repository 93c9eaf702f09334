"""Groups of duplicates: who is in them, and how each differs from the document that stayed."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any  # Any: JSON and rows of Parquet

import polars as pl

from bloomery.chat.refusal import Refusal
from bloomery.curate.explore import CLUSTERS, cluster_members, cluster_sizes, compare_texts, document_files, find_documents, ledger_files
from bloomery.curate.parquet_rows import find_ids, read_places
from bloomery.web.corpus.funnel import Shelf
from bloomery.web.corpus.samples import COLUMNS, MAX_CHARACTERS, show_document
from bloomery.web.directory import ArtifactEntry

MAX_MEMBERS = 12
"""Of one group, in a list of groups."""
MAX_COMPARED = 8
"""Documents of one group that are compared with the one that stayed."""
MAX_WORDS = 1000
LEAD_CHARACTERS = 200
"""What is shown of two texts before their first difference, where that is far from their beginning."""

OPS = {"both": "same", "first": "removed", "second": "added"}


def list_clusters(shelf: Shelf, artifact_id: str, *, offset: int, limit: int) -> dict[str, Any]:
    """Groups `offset` to `offset + limit`, the largest first, with the document that stayed and those most like it."""
    entry = _open(shelf, artifact_id)
    sizes = _sizes(shelf, entry.path)
    page = sizes.slice(offset, limit)
    members = cluster_members(entry.path, page["cluster"].to_list(), most=MAX_MEMBERS - 1)
    urls = _find_urls(entry.path, list(members), [member["id"] for found in members.values() for member in found])
    clusters = [
        {
            "id": kept,
            "size": size,
            "members": [
                {"id": kept, "url": urls.get(kept), "kept": True, "similarity": 1.0},
                *({**member, "url": urls.get(member["id"]), "kept": False} for member in members[kept]),
            ],
        }
        for kept, size in page.iter_rows()
    ]
    return {"total": len(sizes), "clusters": clusters}


def show_cluster(shelf: Shelf, artifact_id: str, cluster: str) -> dict[str, Any]:
    """One group: the document that stayed, and of those most like it what they have less and more. `skipped` characters at the
    beginning of both are the same and left out."""
    entry = _open(shelf, artifact_id)
    members = cluster_members(entry.path, [cluster], most=MAX_COMPARED)[cluster]
    if not members:
        raise Refusal(404, "there is no such group of duplicates in this artifact", code="not_found", param="cluster")
    ids = [cluster, *(member["id"] for member in members)]
    rows = find_documents([entry.path, *shelf.inputs(entry.path)], ids, columns=COLUMNS)
    gone = _beginnings(entry.path, [id for id in ids if id not in rows])
    kept = rows.get(cluster, {"id": cluster})
    others = []
    for member in members:
        row = rows.get(member["id"], gone.get(member["id"], {"id": member["id"]}))
        skipped, segments = compare(kept["text"], row["text"]) if kept.get("text") and row.get("text") else (0, [])
        others.append({"doc": show_document(row), "similarity": member["similarity"], "segments": segments, "skipped": skipped})
    sizes = _sizes(shelf, entry.path)
    size = sizes.filter(sizes["cluster"] == cluster)["size"].item()
    return {"id": cluster, "size": size, "kept": show_document(kept), "others": others}


def compare(kept: str, other: str) -> tuple[int, list[dict[str, str]]]:
    """Where two texts are shown from, and from there what is the same, what only the kept one has and what only the other has."""
    low, high = 0, min(len(kept), len(other))
    while low < high:  # the length of their common beginning, by halves: slices are compared faster than letters
        middle = (low + high + 1) // 2
        low, high = (middle, high) if kept[:middle] == other[:middle] else (low, middle - 1)
    start = 0
    if low > MAX_CHARACTERS // 2:
        start = max(kept.rfind(space, 0, low - LEAD_CHARACTERS) + 1 for space in " \n")
    pieces = compare_texts(kept[start : start + 2 * MAX_CHARACTERS], other[start : start + 2 * MAX_CHARACTERS], max_words=MAX_WORDS)
    return start, [{"op": OPS[piece.where], "text": piece.text} for piece in pieces]


def _open(shelf: Shelf, artifact_id: str) -> ArtifactEntry:
    entry = shelf.artifact(artifact_id)
    if not (entry.path / CLUSTERS).is_dir():
        raise Refusal(400, f"{entry.name} was made by the stage {entry.stage}: groups of duplicates are those of dedup")
    return entry


def _sizes(shelf: Shelf, path: Path) -> pl.DataFrame:
    make = functools.partial(cluster_sizes, path)
    return shelf.memory.get(shelf.key(path, "clusters"), make, lambda frame: int(frame.estimated_size()))


def _find_urls(path: Path, kept: Sequence[str], gone: Sequence[str]) -> dict[str, str | None]:
    places = find_ids(document_files(path), kept) | find_ids(ledger_files(path), gone)
    rows = read_places(list(places.values()), columns=["url"])
    return {id: row.get("url") for id, row in zip(places, rows, strict=True)}


def _beginnings(path: Path, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    places = find_ids(ledger_files(path), ids)
    rows = read_places(list(places.values()), columns=["id", "url", "text_sample"])
    return dict(zip(places, rows, strict=True))
