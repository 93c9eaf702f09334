"""An n-gram language model with interpolated modified Kneser-Ney smoothing, learned and queried by compiled loops.

Chen & Goodman 1999 ("An empirical study of smoothing techniques", sec. 3.3 and appendix), in the back-off form of
Heafield et al. 2013: p(w | h) of every n-gram seen is stored interpolated, with a back-off weight for every context, so
that a query is one look-up of the longest n-gram seen and a product of back-off weights. Words are those of
`curate/kernels.py`, lower-cased, ASCII digits read as 0; every line with words is a sentence between <s> and </s>.

The n-grams are a trie over words, its nodes numbered level by level and sorted inside: node g has the word `word[g]`,
its children are first_child[g] .. first_child[g + 1]. Level 1 has a node for each word of the vocabulary, whose number
is the word's id. Nothing is hashed but the words themselves, so no two n-grams are ever taken for each other.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, PositiveInt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from bloomery.core.config import Config
from bloomery.core.errors import DataError
from bloomery.core.files import write_atomically
from bloomery.curate.kernels import TextColumn, compiled, decode_character, hash_words, text_column, word_kind

UNKNOWN, BEGIN, END = 0, 1, 2
MARKERS = ("<unk>", "<s>", "</s>")
FIRST_WORD = 3
NEVER = -99.0
"""log10 probability of <s> after anything, as ARPA files have it."""
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Where too little was counted for Chen & Goodman's estimate; KenLM's defaults for `--discount_fallback`."""
BUCKET_BITS = 16
BEGIN_SIZE, END_SIZE = -1, -2
"""What stands in place of a word's size for the begin and the end of a line."""
_LOW = np.uint64(0xFFFFFFFF)

Array = np.ndarray[Any, np.dtype[Any]]


class NgramConfig(Config):
    """What an n-gram model counts."""

    order: int = Field(default=3, ge=2, le=5)
    """Words of the longest n-grams."""
    min_word_count: PositiveInt = 2
    """Words seen less often become <unk>."""
    prune_from: int = Field(default=3, ge=0, le=5)
    """From this order on, n-grams seen once are left out: a quarter of the size, 2 to 3 % more perplexity; 0 = keep all."""


class NgramModel(NamedTuple):
    """A trie of n-grams; see the head of this file. Probabilities and back-off weights are log10, float32."""

    levels: Array
    """int64 [order + 1]: nodes levels[k - 1] .. levels[k] are the k-grams."""
    word: Array
    first_child: Array
    logp: Array
    backoff: Array
    hashes: Array
    """uint64, sorted: the word with id i has hashes[i - 3]."""
    spelling: Array
    """UTF-8 of all words, one after another; word i of the vocabulary ends at spelling_end[i - 3]."""
    spelling_end: Array
    unknown_types: Array
    """int64 [1]: how many different words became <unk>. One of them is taken for 1 / so many of <unk>."""

    @property
    def order(self) -> int:
        """Words of the longest n-grams."""
        return len(self.levels) - 1

    @property
    def num_words(self) -> int:
        """Entries of the vocabulary, markers counted."""
        return int(self.levels[1])


class Estimate(NamedTuple):
    """A model, and what was counted on the way to it."""

    model: NgramModel
    discounts: list[tuple[float, float, float]]
    """D1, D2 and D3+ of each order."""
    num_ngrams: list[int]
    num_tokens: int
    unknown_fraction: float


class LogProbabilities(NamedTuple):
    """For each text: log10 probability of all its lines, tokens (words and ends of lines), and words that are unknown."""

    log10: Array
    tokens: Array
    unknown: Array


def estimate_ngrams(texts: pa.ChunkedArray, config: NgramConfig) -> Estimate:
    """The model of all texts together, in memory (about 110 bytes a word). Raises DataError if they hold no words."""
    column = _column(texts)
    hashes, starts, sizes = _list_words(*column)
    is_word = sizes > 0
    kinds, first, inverse, counts = np.unique(hashes[is_word], return_index=True, return_inverse=True, return_counts=True)
    if not len(kinds):
        raise DataError("the documents hold no words to learn an n-gram model from")
    is_kept = counts >= config.min_word_count
    ids = np.where(is_kept, np.cumsum(is_kept) - 1 + FIRST_WORD, UNKNOWN)
    tokens = np.where(sizes == BEGIN_SIZE, BEGIN, END).astype(np.int32)
    tokens[is_word] = ids[inverse]
    at = np.flatnonzero(is_word)[first[is_kept]]
    spelling_end = np.cumsum(sizes[at]).astype(np.int64)
    spelling = np.concatenate([column.data[starts[i] : starts[i] + sizes[i]] for i in at] or [np.zeros(0, np.uint8)])
    unknown_fraction = float((tokens == UNKNOWN).sum() / is_word.sum())
    num_unknown = int((~is_kept).sum())
    num_words = int(is_kept.sum()) + FIRST_WORD
    del hashes, starts, sizes, is_word, inverse, first
    trie = _estimate(tokens, num_words, config)
    model = NgramModel(*trie[:5], kinds[is_kept], spelling, spelling_end, np.array([max(num_unknown, 1)]))
    return Estimate(model, trie.discounts, np.diff(model.levels).tolist(), len(tokens) - int((tokens == BEGIN).sum()), unknown_fraction)


def measure_log_probabilities(model: NgramModel, texts: pa.ChunkedArray) -> LogProbabilities:
    """Log10 probabilities of whole texts, line by line."""
    penalty = np.log10(float(model.unknown_types[0]))
    result = _score(*_column(texts), *_query(model), penalty)
    return LogProbabilities(result[:, 0], result[:, 1].astype(np.int64), result[:, 2].astype(np.int64))


def conditional_log10(model: NgramModel, context: list[int], word: int) -> float:
    """log10 p(word | context) of ids, as the compiled query computes it. For a close look; texts go through the other."""
    state, value = np.full(model.order, -1, np.int64), 0.0
    for given in [*context, word]:
        value = _step(state, given, model.levels, model.word, model.first_child, model.logp, model.backoff)
    return float(value)


def vocabulary(model: NgramModel) -> list[str]:
    """The words by their ids, markers first."""
    ends = model.spelling_end.tolist()
    raw = model.spelling.tobytes()
    return [*MARKERS, *(raw[start:end].decode("utf-8", "replace") for start, end in zip([0, *ends[:-1]], ends, strict=True))]


def export_arpa(model: NgramModel, path: Path) -> None:
    """Writes the model as an ARPA file, which KenLM and SRILM read. There <unk> stands for all unknown words at once."""
    words = vocabulary(model)
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\\data\\\n")
        for k in range(1, model.order + 1):
            file.write(f"ngram {k}={int(model.levels[k] - model.levels[k - 1])}\n")
        for k in range(1, model.order + 1):
            file.write(f"\n\\{k}-grams:\n")
            for node, ids in _walk(model, k):
                backoff = f"\t{model.backoff[node]:.7g}" if k < model.order else ""
                file.write(f"{model.logp[node]:.7g}\t{' '.join(words[i] for i in ids)}{backoff}\n")
        file.write("\n\\end\\\n")


def save_ngrams(path: Path, model: NgramModel) -> None:
    """Writes a model as one safetensors file; equal models give equal bytes."""
    with write_atomically(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in model._asdict().items()}, temporary)


def load_ngrams(path: Path) -> NgramModel:
    """The model in a file written by `save_ngrams`. Raises DataError for another kind of file."""
    try:
        with safe_open(path, "np") as file:
            missing = set(NgramModel._fields) - set(file.keys())
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a readable n-gram model: {error}") from error
    if missing:
        raise DataError(f"{path}: not an n-gram model: it has no {', '.join(sorted(missing))}")
    return NgramModel(**load_file(path))


def _walk(model: NgramModel, order: int) -> Iterator[tuple[int, list[int]]]:
    # Every node of a level with its words.
    nodes = np.arange(model.levels[order - 1], model.levels[order])
    words, parents = [model.word[nodes]], nodes
    for _ in range(order - 1):
        parents = np.searchsorted(model.first_child, parents, side="right") - 1
        words.append(model.word[parents])
    rows = np.stack(words[::-1], axis=1).tolist()
    yield from zip(nodes.tolist(), rows, strict=True)


class _Trie(NamedTuple):
    levels: Array
    word: Array
    first_child: Array
    logp: Array
    backoff: Array
    discounts: list[tuple[float, float, float]]


class _Level(NamedTuple):
    # All k-grams: sorted keys (index of the prefix, word), index of the suffix, raw counts, whether they begin with <s>.
    prefix: Array
    word: Array
    suffix: Array
    raw: Array
    is_begin: Array


def _estimate(tokens: npt.NDArray[np.int32], num_words: int, config: NgramConfig) -> _Trie:
    levels = _count_levels(tokens, num_words, config.order)
    kept, discounts = [np.arange(num_words)], []
    probabilities: list[Array] = []
    backoffs: list[Array] = []
    parts_word, parts_parent = [np.arange(num_words)], [np.zeros(0, np.int64)]
    renumbered = np.arange(num_words)
    for k in range(1, config.order + 1):
        level = levels[k - 1]
        if k < config.order:
            continuations = np.bincount(levels[k].suffix, minlength=len(level.word))
            adjusted = np.where(level.is_begin, level.raw, continuations).astype(np.float64)
        else:
            adjusted = level.raw.astype(np.float64)
        if k == 1:
            adjusted[BEGIN] = 0.0  # nothing is ever followed by <s>
        steps = _discounts(adjusted)
        discounts.append((steps[1], steps[2], steps[3]))
        left = np.maximum(adjusted - steps[np.minimum(adjusted, 3).astype(np.int64)], 0.0)
        if k == 1:
            gamma = 1.0 - left.sum() / adjusted.sum()
            probability = left / adjusted.sum() + gamma / (num_words - 1)
            probability[BEGIN] = 10.0**NEVER
            probabilities.append(probability)
            continue
        is_kept = level.raw >= (2 if config.prune_from and k >= config.prune_from else 1)
        num_contexts = len(levels[k - 2].word)
        total = np.bincount(level.prefix, weights=adjusted, minlength=num_contexts)
        share = np.where(is_kept, left / total[level.prefix], 0.0)
        gamma_of = 1.0 - np.bincount(level.prefix, weights=share, minlength=num_contexts)
        gamma_of = np.where(total > 0, np.maximum(gamma_of, 1e-12), 1.0)
        backoffs.append(gamma_of[kept[-1]])
        probability = share + gamma_of[level.prefix] * probabilities[-1][level.suffix]
        probabilities.append(probability)
        chosen = np.flatnonzero(is_kept)
        parts_word.append(level.word[chosen])
        parts_parent.append(renumbered[level.prefix[chosen]])
        renumbered = np.full(len(is_kept), -1, np.int64)
        renumbered[chosen] = np.arange(len(chosen))
        kept.append(chosen)
    sizes = [len(part) for part in parts_word]
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    parents = np.concatenate([part + bounds[max(k - 1, 0)] for k, part in enumerate(parts_parent)])
    num_inner = int(bounds[config.order - 1])
    first_child = bounds[1] + np.searchsorted(parents, np.arange(num_inner + 1), side="left")
    return _Trie(
        bounds,
        np.concatenate(parts_word).astype(np.uint32),
        first_child.astype(np.int64),
        np.concatenate([np.log10(p[rows]) for p, rows in zip(probabilities, kept, strict=True)]).astype(np.float32),
        np.concatenate([np.log10(b) for b in backoffs]).astype(np.float32),
        discounts,
    )


def _count_levels(tokens: npt.NDArray[np.int32], num_words: int, order: int) -> list[_Level]:
    # Level by level: the k-gram that ends at i is (the (k - 1)-gram that ends at i - 1, word i), two numbers in one key.
    begins = tokens == BEGIN
    numbers = np.arange(len(tokens), dtype=np.int32)
    place = numbers - np.maximum.accumulate(np.where(begins, numbers, np.int32(0)))
    raw = np.bincount(tokens, minlength=num_words)
    levels = [_Level(np.zeros(0), np.arange(num_words), np.zeros(0), raw, np.arange(num_words) == BEGIN)]
    ending = tokens
    for k in range(2, order + 1):
        at = np.flatnonzero(place >= k - 1).astype(np.int32)
        keys = (ending[at - 1].astype(np.uint64) << np.uint64(32)) | tokens[at].astype(np.uint64)
        order_of_keys = np.argsort(keys, kind="stable").astype(np.int32)
        keys = keys[order_of_keys]
        is_first = np.concatenate([[True], keys[1:] != keys[:-1]])
        starts = np.flatnonzero(is_first)
        unique, at = keys[starts], at[order_of_keys]
        del keys, order_of_keys
        prefix = (unique >> np.uint64(32)).astype(np.int32)
        counts = np.diff(np.append(starts, len(at))).astype(np.int32)
        levels.append(_Level(prefix, (unique & _LOW).astype(np.int32), ending[at[starts]], counts, levels[-1].is_begin[prefix]))
        ending = np.full(len(tokens), -1, np.int32)
        ending[at] = np.cumsum(is_first, dtype=np.int32) - 1
    return levels


def _discounts(adjusted: Array) -> Array:
    # D(0) = 0, D1, D2, D3+ from the counts of counts (Chen & Goodman 1999, eq. 26).
    t1, t2, t3, t4 = (int((adjusted == k).sum()) for k in (1, 2, 3, 4))
    steps = np.array([0.0, *FALLBACK_DISCOUNTS])
    if t1 and t2 and t3 and t4:
        y = t1 / (t1 + 2 * t2)
        found = np.array([0.0, 1 - 2 * y * t2 / t1, 2 - 3 * y * t3 / t2, 3 - 4 * y * t4 / t3])
        if np.all(found[1:] > 0) and np.all(found[1:] <= [1, 2, 3]):
            steps = found
    return steps


def _column(texts: pa.ChunkedArray) -> TextColumn:
    data, offsets = text_column(texts, lowercase=True)
    return TextColumn(np.where((data >= 49) & (data <= 57), np.uint8(48), data), offsets)


def _query(model: NgramModel) -> tuple[Array, ...]:
    shift = np.uint64(64 - BUCKET_BITS)
    buckets = np.searchsorted(model.hashes >> shift, np.arange((1 << BUCKET_BITS) + 1, dtype=np.uint64))
    return model.hashes, buckets, model.levels, model.word, model.first_child, model.logp, model.backoff


@compiled
def _list_words(data, offsets):  # type: ignore[no-untyped-def]  # compiled
    # Hash, start and bytes of every word; lines with words stand between entries of size BEGIN_SIZE and END_SIZE.
    num_documents = len(offsets) - 1
    room = len(data) // 4 + 1024
    hashes, starts, sizes = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int32)
    words, count = np.empty(1024, np.uint64), 0
    for d in range(num_documents):
        at, end = offsets[d], offsets[d + 1]
        while at < end:
            stop = at
            while stop < end and data[stop] != 10:
                stop += 1
            if stop - at + 1 > len(words):
                words = np.empty(2 * (stop - at + 1), np.uint64)
            found = hash_words(data, at, stop, words)
            if found:
                if count + found + 2 > room:
                    room = 2 * (count + found + 2)
                    more_hashes, more_starts, more_sizes = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int32)
                    more_hashes[:count], more_starts[:count], more_sizes[:count] = hashes[:count], starts[:count], sizes[:count]
                    hashes, starts, sizes = more_hashes, more_starts, more_sizes
                hashes[count], starts[count], sizes[count] = 0, at, BEGIN_SIZE
                hashes[count + 1 : count + 1 + found] = words[:found]
                _place_words(data, at, stop, starts[count + 1 :], sizes[count + 1 :])
                count += found + 2
                hashes[count - 1], starts[count - 1], sizes[count - 1] = 0, stop, END_SIZE
            at = stop + 1
    return hashes[:count].copy(), starts[:count].copy(), sizes[:count].copy()


@compiled
def _place_words(data, start, end, starts, sizes):  # type: ignore[no-untyped-def]  # compiled
    # Where the words of data[start:end] stand, in the order in which `hash_words` lists their hashes.
    at, count, first = start, 0, -1
    while at < end:
        point, length = decode_character(data, at, end)
        kind = word_kind(point)
        if first >= 0 and kind != 1:
            starts[count], sizes[count] = first, at - first
            count, first = count + 1, -1
        if kind == 1 and first < 0:
            first = at
        elif kind == 2:
            starts[count], sizes[count] = at, length
            count += 1
        at += length
    if first >= 0:
        starts[count], sizes[count] = first, end - first


@compiled
def _find_word(value, hashes, buckets):  # type: ignore[no-untyped-def]  # compiled
    bucket = np.int64(value >> np.uint64(48))
    for i in range(buckets[bucket], buckets[bucket + 1]):
        if hashes[i] == value:
            return i + 3
    return 0


@compiled
def _find_child(parent, wanted, word, first_child):  # type: ignore[no-untyped-def]  # compiled
    low, high = first_child[parent], first_child[parent + 1]
    end = high
    while low < high:
        middle = (low + high) >> 1
        if word[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < end and word[low] == wanted else -1


@compiled
def _step(state, given, levels, word, first_child, logp, backoff):  # type: ignore[no-untyped-def]  # compiled
    # log10 p of one more word. state[k] is the node of the last k words, -1 if they were not seen; it moves on by the word.
    # (state[0] is not used. Where a k-gram was not seen, no longer one that ends with it was.)
    order, longest = len(levels) - 1, 1
    node, before = np.int64(given), state[1]
    state[1] = node
    while longest < order and before >= 0:
        child = _find_child(before, given, word, first_child)
        if child < 0:
            break
        longest += 1
        node = child
        if longest < order:
            before = state[longest]
            state[longest] = child
    value = np.float64(logp[node])
    if longest < order:
        # `before` is the context that the n-gram was not found after; it and all longer ones are backed off from.
        if before >= 0:
            value += backoff[before]
        for k in range(longest + 1, order):
            if state[k] >= 0:
                value += backoff[state[k]]
            state[k] = -1
    return value


@compiled
def _score(data, offsets, hashes, buckets, levels, word, first_child, logp, backoff, penalty):  # type: ignore[no-untyped-def]  # compiled
    num_documents, order = len(offsets) - 1, len(levels) - 1
    result = np.zeros((num_documents, 3), np.float64)
    words, state = np.empty(1024, np.uint64), np.empty(order, np.int64)
    for d in range(num_documents):
        at, end = offsets[d], offsets[d + 1]
        total, tokens, unknown = 0.0, 0, 0
        while at < end:
            stop = at
            while stop < end and data[stop] != 10:
                stop += 1
            if stop - at + 1 > len(words):
                words = np.empty(2 * (stop - at + 1), np.uint64)
            found = hash_words(data, at, stop, words)
            if found:
                state[:] = -1
                state[1] = 1
                for i in range(found + 1):
                    given = 2 if i == found else _find_word(words[i], hashes, buckets)
                    total += _step(state, given, levels, word, first_child, logp, backoff)
                    if given == 0:
                        total -= penalty
                        unknown += 1
                tokens += found + 1
            at = stop + 1
        result[d, 0], result[d, 1], result[d, 2] = total, tokens, unknown
    return result


def describe_estimate(estimate: Estimate) -> Mapping[str, Any]:
    """What a report says of how a model was made."""
    return {
        "tokens": estimate.num_tokens,
        "ngrams": estimate.num_ngrams,
        "discounts": [[round(value, 6) for value in steps] for steps in estimate.discounts],
        "unknown_fraction": round(estimate.unknown_fraction, 6),
        "unknown_types": int(estimate.model.unknown_types[0]),
    }
