"""The search for held-out prompts, against a plain search over lists of words."""

import gzip
import json
import random
import re

import pyarrow as pa
import pytest

from bloomery.core.errors import DataError
from bloomery.curate.decontaminate import (
    DecontaminateConfig,
    find_contaminated,
    index_prompts,
    list_prompt_files,
    prompt_text,
    read_prompts,
)

CONFIG = DecontaminateConfig()
LONG = "A train leaves the station at nine and travels north at sixty miles an hour until it meets another train"


def hits(texts: list[str], prompts: list[str], config: DecontaminateConfig = CONFIG) -> list[str | None]:
    found = find_contaminated(pa.chunked_array([pa.array(texts, pa.large_string())]), index_prompts(prompts, config))
    return [hit.prompt if hit else None for hit in found]


def test_a_prompt_is_found_whatever_its_case_spacing_and_punctuation():
    assert hits([f"Before. {LONG.upper().replace(' ', ' ... ')}, after."], [LONG]) == [LONG]


def test_thirteen_words_in_a_row_are_too_many_and_twelve_are_not():
    words = LONG.split()
    assert hits([" ".join(words[3:16]), " ".join(words[3:15])], [LONG]) == [LONG, None]


def test_a_short_prompt_must_occur_whole_and_a_tiny_one_is_not_searched_for():
    prompt = "What is the capital of France?"
    texts = ["Quiz: what is the capital of France", "what is the capital of Spain", "What is 3 + 4? It is 7."]
    assert hits(texts, [prompt, "What is 3 + 4?"]) == [prompt, None, None]


def test_words_do_not_join_across_other_words():
    assert hits(["what is the lovely capital of France"], ["What is the capital of France?"]) == [None]


def test_the_search_finds_what_a_plain_search_finds():
    draw = random.Random(3)
    vocabulary = [f"w{i}" for i in range(6)]
    config = DecontaminateConfig(ngram_words=6, min_prompt_words=4)
    prompts = [" ".join(draw.choices(vocabulary, k=draw.randrange(2, 10))) for _ in range(40)]
    texts = [" ".join(draw.choices(vocabulary, k=draw.randrange(0, 60))) for _ in range(60)]

    def contains(text: str, prompt: str) -> bool:
        words, asked = re.findall(r"\w+", text), re.findall(r"\w+", prompt)
        if len(asked) < 4:
            return False
        size = min(len(asked), 6)
        runs = [asked[i : i + size] for i in range(len(asked) - size + 1)]
        return any(words[i : i + size] in runs for i in range(len(words) - size + 1))

    found = hits(texts, prompts, config)
    expected = [[p for p in prompts if contains(text, p)] for text in texts]
    assert 0 < sum(map(bool, expected)) < len(texts)
    for prompt, candidates in zip(found, expected, strict=True):
        assert (prompt in candidates) if candidates else prompt is None


def test_no_prompts_find_nothing():
    assert hits(["anything"], []) == [None]


def test_prompts_are_read_from_the_columns_that_benchmarks_use(tmp_path):
    rows = [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]},
        {"prompt": [{"role": "user", "content": "And now?"}], "chosen": []},
        {"question": "Where?", "answer": "There."},
        {"query": "Which?", "choices": ["a"]},
    ]
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_prompts(path)) == ["Be brief.\nWhy?", "And now?", "Where?", "Which?"]
    assert prompt_text({"answer": "There."}) is None
    path.write_text('{"question": "Where?"}\n{"answer": "There."}\n')
    with pytest.raises(DataError, match=r"bench\.jsonl, row 2: no prompt among answer"):
        list(read_prompts(path))


def test_of_a_folder_of_conversations_only_the_held_out_part_is_read(tmp_path):
    for folder, names in {"synthesized": ["train.jsonl.gz", "test.jsonl.gz"], "bench": ["a.jsonl.gz", "b.jsonl.gz"]}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(gzip.compress(b""))
    files = list_prompt_files([tmp_path / "synthesized", tmp_path / "bench"])
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        "bench/a.jsonl.gz",
        "bench/b.jsonl.gz",
        "synthesized/test.jsonl.gz",
    ]
