"""Units of text and their duplicates against plain Python."""

import json
import random
import re
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.curate.paragraphs import (
    DedupParagraphsConfig,
    choose_removed,
    find_units,
    judge_units,
    list_frequent,
    merge_frequent,
    remove_units,
    state_units,
)


def column(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def write_files(folder: Path, files: list[list[str]]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.jsonl" for i in range(len(files))]
    for path, texts in zip(paths, files, strict=True):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return paths


def dedup(folder: Path, files: list[list[str]], config: DedupParagraphsConfig) -> list[list[str]]:
    """The files' texts without duplicates; as the stage does it, without its files."""
    paths = write_files(folder, files)
    judged = judge_units(config, pa.concat_tables([state_units(config, path, i) for i, path in enumerate(paths)]))
    result = []
    for i, texts in enumerate(files):
        mine = judged.filter(pa.compute.equal(judged.column("shard"), i))
        units = find_units(column(texts), config)
        removed = choose_removed(units, mine, 0, config)
        numbers = [[u for u in range(len(removed)) if removed[u] and units.spans[u, 0] == n] for n in range(len(texts))]
        result.append([remove_units(text, units, numbers[n], n).text for n, text in enumerate(texts)])
    return result


def plain_units(text: str, unit: str) -> list[str]:
    pieces = re.split(r"\n(?:[ \t\r]*\n)+" if unit == "paragraph" else "\n", text)
    return [piece.strip(" \t\r\n") for piece in pieces if piece.strip(" \t\r\n")]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("ab. \t\n", max_size=20), max_size=4), st.sampled_from(["paragraph", "line"]))
def test_units_are_what_a_plain_split_finds(texts, unit):
    units = find_units(column(texts), DedupParagraphsConfig(unit=unit))
    found = [(d, units.column.data[a:b].tobytes().decode()) for d, a, b in units.spans.tolist()]
    assert found == [(i, piece) for i, text in enumerate(texts) for piece in plain_units(text, unit)]


@pytest.mark.parametrize("unit", ["paragraph", "line"])
@pytest.mark.parametrize("keep", ["first", "none"])
@pytest.mark.parametrize("min_documents", [1, 2, 3])
def test_duplicates_are_what_plain_counting_finds(tmp_path, unit, keep, min_documents):
    draw = random.Random(unit + keep)
    lines = [f"line number {i}" for i in range(12)]
    files = [["\n\n".join(draw.choices(lines, k=draw.randrange(6))) for _ in range(5)] for _ in range(3)]
    config = DedupParagraphsConfig(unit=unit, keep=keep, min_documents=min_documents, min_characters=0)
    owners: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for f, texts in enumerate(files):
        for d, text in enumerate(texts):
            for piece in set(plain_units(text, unit)):
                owners[piece].append((f, d))
    expected = [
        [
            "\n\n".join(
                piece
                for piece in plain_units(text, unit)
                if len(owners[piece]) < min_documents or (keep == "first" and owners[piece][0] == (f, d))
            )
            for d, text in enumerate(texts)
        ]
        for f, texts in enumerate(files)
    ]
    assert dedup(tmp_path / "files", files, config) == expected


def test_case_punctuation_and_spacing_do_not_make_another_unit_but_other_words_do(tmp_path):
    files = [
        ["Subscribe to our newsletter, it is free!"],
        ["SUBSCRIBE  to our “newsletter” – it is free", "Subscribe to our newsletters, it is free!"],
    ]
    assert dedup(tmp_path / "files", files, DedupParagraphsConfig()) == [files[0], ["", files[1][1]]]


def test_short_units_and_units_without_words_are_never_removed(tmp_path):
    files = [["* * * * * * * * * * * * * * * * * * * *\n\nRead more"]] * 2
    assert dedup(tmp_path / "files", files, DedupParagraphsConfig()) == files
    assert dedup(tmp_path / "files", files, DedupParagraphsConfig(min_characters=5))[1] == ["* * * * * * * * * * * * * * * * * * * *"]


def test_a_removed_line_leaves_the_indentation_and_the_empty_lines_of_the_others(tmp_path):
    files = [["    result = compute(first, second)"], ["def one():\n    result = compute(first, second)\n    return result\n\n\nEnd."]]
    config = DedupParagraphsConfig(unit="line", min_characters=0)
    assert dedup(tmp_path / "files", files, config)[1] == ["def one():\n    return result\n\n\nEnd."]


def test_a_paragraph_goes_if_most_of_its_ngrams_are_in_an_earlier_document(tmp_path):
    words = [f"w{i}" for i in range(40)]
    first, edited, other = " ".join(words), " ".join([*words[:36], "x", "y"]), " ".join(words[20:40] + [f"z{i}" for i in range(20)])
    config = DedupParagraphsConfig(match="ngrams", ngram_words=5)
    # edited: 32 of its 34 5-grams are in `first`; other: 16 of 36.
    assert dedup(tmp_path / "files", [[first], [edited, other]], config) == [[first], ["", other]]
    strict = DedupParagraphsConfig(match="ngrams", ngram_words=5, min_ngram_fraction=0.95)
    assert dedup(tmp_path / "files", [[first], [edited, other]], strict) == [[first], [edited, other]]


def test_ngrams_are_counted_as_a_plain_loop_counts_them(tmp_path):
    draw = random.Random(4)
    texts = ["\n\n".join(" ".join(draw.choices("abcd", k=draw.randrange(1, 9))) for _ in range(4)) for _ in range(12)]
    config = DedupParagraphsConfig(match="ngrams", ngram_words=3, min_characters=0, min_ngram_fraction=0.5)

    def ngrams(piece: str) -> list[tuple[str, ...]]:
        words = piece.split()
        return [tuple(words[i : i + 3]) for i in range(len(words) - 2)] or [tuple(words)]

    first: dict[tuple[str, ...], int] = {}
    for d, text in enumerate(texts):
        for gram in (gram for piece in plain_units(text, "paragraph") for gram in ngrams(piece)):
            first.setdefault(gram, d)
    expected = []
    for d, text in enumerate(texts):
        pieces = plain_units(text, "paragraph")
        expected.append("\n\n".join(p for p in pieces if sum(first[g] < d for g in ngrams(p)) < 0.5 * len(ngrams(p))))
    assert dedup(tmp_path / "files", [texts[:5], texts[5:]], config) == [expected[:5], expected[5:]]


def test_the_most_frequent_removed_units_are_listed_once_with_their_documents(tmp_path):
    config = DedupParagraphsConfig(min_characters=0)
    files = [["all share this\n\nonly one"], ["all share this\n\ntwo have this"], ["two have this\n\nAll share this!"]]
    paths = write_files(tmp_path / "files", files)
    judged = judge_units(config, pa.concat_tables([state_units(config, path, i) for i, path in enumerate(paths)]))
    found = []
    for i, texts in enumerate(files):
        mine = judged.filter(pa.compute.equal(judged.column("shard"), i))
        found.extend(list_frequent(find_units(column(texts), config), mine, 0))
    assert [(row["documents"], row["text"]) for row in merge_frequent(found)] == [(3, "all share this"), (2, "two have this")]
