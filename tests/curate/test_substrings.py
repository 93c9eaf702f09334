"""Repeated passages against a plain loop over tuples of words, by both ways of finding them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.core.config import check_config
from bloomery.curate.substrings import (
    WORD_SHIFT,
    DedupSubstringsConfig,
    cut_words,
    find_candidates,
    find_words,
    judge_by_suffix_array,
    judge_minima,
    judge_runs,
    merge_intervals,
    state_minima,
)


def write_files(folder: Path, files: list[list[str]]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.jsonl" for i in range(len(files))]
    for path, texts in zip(paths, files, strict=True):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return paths


def find_cuts(paths: list[Path], config: DedupSubstringsConfig, *, by_suffix_array: bool) -> list[list[list[int]]]:
    """For each file its merged cuts, in words of the file; as the stage does it, without its files."""
    repeated = judge_minima(pa.concat_tables([state_minima(config, path, i) for i, path in enumerate(paths)]))
    found = []
    for i, path in enumerate(paths):
        mine = repeated.column("shard").to_numpy() == i
        found.append(find_candidates(config, path, repeated.column("place").to_numpy()[mine] - (i << WORD_SHIFT)))
    bases = [i << WORD_SHIFT for i in range(len(paths))]
    if by_suffix_array:
        hashes, opens = np.concatenate([f.hashes for f in found]), np.concatenate([f.opens for f in found])
        numbers = np.concatenate([f.numbers + base for f, base in zip(found, bases, strict=True)])
        cuts = judge_by_suffix_array(config, hashes, numbers, opens)
    else:
        word = np.concatenate([f.runs + base for f, base in zip(found, bases, strict=True)])
        keys, checks = np.concatenate([f.keys for f in found]), np.concatenate([f.checks for f in found])
        cuts = judge_runs(config, pa.table({"key": keys, "check": checks, "word": word}))
    return [merge_intervals(cuts.filter(pa.compute.equal(cuts.column("shard"), i))).tolist() for i in range(len(paths))]


def plain_cuts(files: list[list[str]], config: DedupSubstringsConfig) -> list[list[list[int]]]:
    """The words to cut, from the definition: each later run equal to an earlier one, but for the words of that first one."""
    size = config.min_tokens
    places: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for number, texts in enumerate(files):
        first = 0
        for text in texts:
            words = text.split()
            for i in range(len(words) - size + 1):
                places.setdefault(tuple(words[i : i + size]), []).append((number, first + i))
            first += len(words)
    gone: list[set[int]] = [set() for _ in files]
    for runs in places.values():
        if len(runs) > 1:
            (first_file, first_word), *later = runs
            for number, word in runs if config.keep == "none" else later:
                whole = set(range(first_word, first_word + size)) if config.keep == "first" and number == first_file else set()
                gone[number] |= set(range(word, word + size)) - whole
    merged = []
    for words_gone in gone:
        intervals: list[list[int]] = []
        for word in sorted(words_gone):
            if intervals and intervals[-1][1] == word:
                intervals[-1][1] += 1
            else:
                intervals.append([word, word + 1])
        merged.append(intervals)
    return merged


texts = st.lists(st.sampled_from("abc"), max_size=24).map(" ".join)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=3),
    st.integers(2, 7),
    st.sampled_from(["first", "none"]),
)
def test_both_ways_cut_what_a_plain_loop_cuts(tmp_path_factory, files, min_tokens, keep):
    config = DedupSubstringsConfig(min_tokens=min_tokens, keep=keep)
    paths = write_files(tmp_path_factory.getbasetemp() / "files", files)
    expected = plain_cuts(files, config)
    assert find_cuts(paths, config, by_suffix_array=True) == expected
    assert find_cuts(paths, config, by_suffix_array=False) == expected


def cut(text: str, first: int, end: int) -> str:
    words = find_words(pa.chunked_array([pa.array([text], pa.large_string())]))
    return cut_words(text, words, 0, np.array([[first, end]], np.int64)).text


def test_a_cut_takes_whole_words_with_their_punctuation_and_leaves_one_break():
    text = "Où est-il? “Là-bas”, dit-elle.\n\n  Il partit; puis, le soir…\n    il revint."
    assert cut(text, 3, 5) == "Où est-il? dit-elle.\n\n  Il partit; puis, le soir…\n    il revint."
    assert cut(text, 5, 12) == "Où est-il? “Là-bas”,\n    il revint."
    assert cut(text, 0, 14) == ""
    assert cut("你好世界。你好", 1, 3) == "你界。你好"


def test_words_of_one_document_do_not_run_on_into_the_next(tmp_path):
    words = [f"w{i}" for i in range(12)]
    files = [[" ".join(words[:6]), " ".join(words[6:])], [" ".join(words[:6]), " ".join(words[6:])], [" ".join(words)]]
    config = DedupSubstringsConfig(min_tokens=5)
    for by_suffix_array in (True, False):
        found = find_cuts(write_files(tmp_path / "files", files), config, by_suffix_array=by_suffix_array)
        assert found == [[], [[0, 12]], [[0, 12]]] == plain_cuts(files, config)


def test_runs_of_one_word_are_no_repeats():
    config, mistakes = check_config(DedupSubstringsConfig, {"min_tokens": 1})
    assert config is None and "min_tokens" in mistakes[0]


@pytest.mark.parametrize("by_suffix_array", [True, False])
def test_nothing_repeats_in_no_text(tmp_path, by_suffix_array):
    paths = write_files(tmp_path / "files", [["", "a"], ["b"]])
    assert find_cuts(paths, DedupSubstringsConfig(), by_suffix_array=by_suffix_array) == [[], []]
