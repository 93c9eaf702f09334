"""What a diagnosis wants to know of token files: whose ids they are, how much is there twice, how much of what is held out is
also trained on. All of it of a bounded part of the data."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bloomery.core.files import read_json
from bloomery.tokens.shards import Split, TokenSet, open_tokens

NGRAM = 13
"""Tokens in a row that two texts share by accident only in what everybody writes; GPT-3's number (arXiv:2005.14165, app. C)."""
LEAKED = 0.8
"""Share of a held-out document's n-grams that stand in the training data, from which on the document does."""
MAX_DOCUMENTS = 200_000
MAX_TOKENS = 20_000_000
MAX_HELD_OUT = 500
CHUNK_TOKENS = 1_000_000
BASE = np.uint64(0x9E3779B97F4A7C15)


def measure_tokens(folder: Path, *, tokenizer_sha256: str = "") -> dict[str, float]:
    """Numbers of a tokens artifact by the names that a diagnosis knows.

    Evenly spaced documents stand for all where there are more than some hundred thousand, or twenty million tokens.
    """
    train, held_out = open_unverified(folder, "train"), open_unverified(folder, "validation")
    manifest = read_json(folder / "manifest.json")
    found = {"data/tokenizer_differs": float(bool(tokenizer_sha256) and manifest["tokenizer_sha256"] != tokenizer_sha256)}
    chosen = _sample(train, num_documents=MAX_DOCUMENTS, num_tokens=MAX_TOKENS)
    hashes = [hashlib.blake2b(train.document(i).tobytes(), digest_size=8).digest() for i in chosen.tolist()]
    found["data/largest_id"] = float(max((int(part.max()) for part in _chunks(train, chosen)), default=-1))
    if hashes:
        found["data/duplicate_fraction"] = 1 - len(set(hashes)) / len(hashes)
    if held_out.num_documents and hashes:
        found["data/leaked_fraction"] = leaked_fraction(train, held_out, chosen)
    return found


def leaked_fraction(train: TokenSet, held_out: TokenSet, chosen: np.ndarray) -> float:
    """The share of held-out documents of which `LEAKED` or more stands in these training documents, by runs of NGRAM tokens.

    Documents shorter than a run are left out.
    """
    held = [_ngram_hashes(held_out.document(i)) for i in _sample(held_out, num_documents=MAX_HELD_OUT, num_tokens=MAX_TOKENS).tolist()]
    held = [hashes for hashes in held if len(hashes)]
    if not held:
        return 0.0
    wanted = np.unique(np.concatenate(held))
    seen = np.zeros(len(wanted), dtype=bool)
    for part in _chunks(train, chosen):
        hashes = _ngram_hashes(part)
        place = np.searchsorted(wanted, hashes).clip(max=len(wanted) - 1)
        seen[place[wanted[place] == hashes]] = True
    shares = [float(seen[np.searchsorted(wanted, hashes)].mean()) for hashes in held]
    return float(np.mean(np.array(shares) >= LEAKED))


def open_unverified(folder: Path, split: Split) -> TokenSet:
    """One split of a tokens artifact without reading all of it for its hashes: for a look, not for training."""
    files = [path for path in (folder / split).glob("*") if path.suffix in (".bin", ".idx")]
    return open_tokens(folder, split=split, verified={path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files})


def _sample(tokens: TokenSet, *, num_documents: int, num_tokens: int) -> np.ndarray:
    """Numbers of evenly spaced documents."""
    share = min(1.0, num_documents / max(tokens.num_documents, 1), num_tokens / max(tokens.num_tokens, 1))
    return np.linspace(0, tokens.num_documents - 1, int(share * tokens.num_documents)).astype(np.int64)


def _chunks(tokens: TokenSet, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """The ids of these documents, end to end, about CHUNK_TOKENS at a time."""
    parts, count = [], 0
    for i in chosen.tolist():
        parts.append(tokens.document(i))
        count += len(parts[-1])
        if count >= CHUNK_TOKENS:
            yield np.concatenate(parts)
            parts, count = [], 0
    if count:
        yield np.concatenate(parts)


def _ngram_hashes(ids: np.ndarray) -> np.ndarray:
    """A number for each run of NGRAM tokens, uint64; empty for fewer tokens."""
    count = len(ids) - NGRAM + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64)
    values = ids.astype(np.uint64) + np.uint64(1)
    found = np.zeros(count, dtype=np.uint64)
    for k in range(NGRAM):
        found = found * BASE + values[k : k + count]
        found ^= found >> np.uint64(29)
    return found
