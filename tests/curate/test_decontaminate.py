"""The search for held-out prompts, against a plain search over lists of words; and planted leaks of real benchmarks."""

import gzip
import html
import itertools
import json
import random
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest

from bloomery.core.documents import read_documents
from bloomery.core.errors import DataError
from bloomery.curate.decontaminate import (
    DecontaminateConfig,
    Hit,
    Prompt,
    answer_texts,
    cut_hits,
    describe_hits,
    find_contaminated,
    index_prompts,
    list_prompt_files,
    name_tasks,
    prompt_texts,
    read_index,
    read_prompts,
    write_index,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"
CONFIG = DecontaminateConfig()
LONG = "A train leaves the station at nine and travels north at sixty miles an hour until it meets another train"


def search(texts: list[str], prompts: list[Prompt], config: DecontaminateConfig = CONFIG) -> list[list[Hit]]:
    return find_contaminated(pa.chunked_array([pa.array(texts, pa.large_string())]), index_prompts(prompts, config))


def hits(texts: list[str], prompts: list[str], config: DecontaminateConfig = CONFIG) -> list[str | None]:
    """The first prompt that each text has."""
    found = search(texts, [Prompt("task", i, "prompt", prompt) for i, prompt in enumerate(prompts)], config)
    return [prompts[min(found, key=lambda hit: hit.start).row] if found else None for found in found]


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
        {"query": "Question: Which?\nAnswer:", "choices": ["a"]},
        {"context": "WORLD HISTORY: This one", "continuation": "Byrd"},
        {"context_options": ["The cup fell, so the cup", "The cup fell, so the mat"], "continuation": "broke.", "gold": 1},
    ]
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [(p.row, p.text) for p in read_prompts(path, "bench") if p.part == "prompt"]
    assert asked == [
        *enumerate(["Be brief.\nWhy?", "And now?", "Where?", "Which?", "This one"], start=1),
        (6, "The cup fell, so the cup broke."),
        (6, "The cup fell, so the mat broke."),
    ]
    assert prompt_texts({"answer": "There."}) == []
    path.write_text('{"question": "Where?"}\n{"answer": "There."}\n')
    with pytest.raises(DataError, match=r"bench\.jsonl, row 2: no prompt among answer"):
        list(read_prompts(path, "bench"))


def test_answers_are_the_right_ones():
    assert answer_texts({"choices": ["Rome", "Paris"], "gold": "1"}) == ["Paris"]
    assert answer_texts({"choices": "['Rome', 'Paris']", "gold": 0}) == ["Rome"]
    assert answer_texts({"context": "?", "answer": "Onion", "aliases": "['Onion', 'Bulb onion']"}) == ["Onion", "Bulb onion"]
    assert answer_texts({"prompt": "def f():", "canonical_solution": "    return 1", "test": "assert f()"}) == ["    return 1"]
    assert answer_texts({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}) == ["!"]


def test_files_of_one_name_are_told_apart_by_their_folders():
    paths = [Path("a/gsm8k/test.jsonl.gz"), Path("a/mmlu/test.jsonl.gz"), Path("a/core/copa.jsonl.gz")]
    assert name_tasks(paths) == ["gsm8k/test", "mmlu/test", "copa"]


def test_code_is_found_with_its_punctuation_deleted_with_or_without_its_underscores():
    code = "def has_close(numbers: list[float], threshold: float) -> bool: return min_gap(numbers) < threshold"
    for pattern in (r"[^\w\s]", r"[^\w\s]|_"):
        assert hits([re.sub(pattern, "", code)], [code]) == [code]


@pytest.mark.parametrize(
    "copy",
    [
        "What’s the name of the well-known æsthetic café’s owner, Prof. O'Neill?",
        "WHATS THE NAME OF THE WELLKNOWN ÆSTHETIC CAFÉS OWNER PROF ONEILL",
        "Whats the name of the well known æsthetic cafes owner Prof ONeill",
        "> What's the name of\n> the well-\n> known æsthetic cafe\u0301's  owner, Prof. O'Neill?",
        "What's the name of the well-known æs\u00adthetic ca-\n  fé's owner,\tProf.\u00a0O'Neill?",
        "Ｗｈａｔ's the *name* of the **well-known** æsthetic\u200b café's owner, Prof. O`Neill",
    ],
)
def test_a_short_prompt_is_found_whatever_became_of_its_punctuation_hyphens_and_accents(copy):
    prompt = "What's the name of the well-known æsthetic café's owner, Prof. O'Neill?"
    assert hits([f"Before. {copy} After."], [prompt]) == [prompt]


def test_a_hit_names_task_row_and_span():
    prompts = [Prompt("quiz", 3, "prompt", "Where does the river Neva end?"), Prompt("trains", 8, "prompt", LONG)]
    text = f"Élan: “{LONG.title()}.” — Where does\n the river NEVA end?"
    [found] = search([text], prompts)
    assert [(hit.task, hit.row, text[hit.start : hit.end]) for hit in found] == [
        ("trains", 8, LONG.title()),
        ("quiz", 3, "Where does\n the river NEVA end"),
    ]
    detail = json.loads(describe_hits(text, found))
    assert detail["num_hits"] == 2 and detail["hits"][1]["text"] == "Where does the river NEVA end"
    assert {"task": "trains", "row": 8, "start": found[0].start, "end": found[0].end}.items() <= detail["hits"][0].items()


def test_every_row_that_a_passage_is_from_is_named():
    prompts = [Prompt(task, row, "prompt", LONG) for task in ("a", "b") for row in (1, 2)]
    [found] = search([LONG], prompts)
    assert [(hit.task, hit.row) for hit in found] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_most_of_a_short_question_counts_only_near_its_answer():
    question = Prompt("quiz", 1, "prompt", "Which English king lost the colonies in the late 18th century?", ("George III", "yes"))
    most = "It was asked which English king lost the colonies in the late war"
    texts = [
        f"{most}; the answer is George the Third, or GEORGE III.",
        f"George III! {most}.",
        f"{most}. Yes.",
        most + " word" * 21 + " George III",
    ]
    found = search(texts, [question])
    assert [[hit.match for hit in of_text] for of_text in found] == [["answer"], ["answer"], [], []]
    assert texts[0][found[0][0].start : found[0][0].end].endswith("GEORGE III")
    assert search(texts, [question], DecontaminateConfig(answer_ngram_words=0)) == [[], [], [], []]


def test_answers_are_searched_for_where_they_are_long():
    solution = "First add the three apples to the four pears, then take away the two that were eaten, which leaves five."
    prompts = [Prompt("sums", 1, "answer", solution), Prompt("sums", 2, "answer", "It leaves five of them.")]
    assert [hit.part for hit in search([f"{solution} It leaves five of them."], prompts)[0]] == ["answer"]
    assert search([solution], prompts, DecontaminateConfig(parts=["prompt"])) == [[]]


def test_an_index_is_read_as_it_was_written(tmp_path):
    prompts = [Prompt("quiz", 1, "prompt", "Which king lost the American colonies?", ("George III",)), Prompt("trains", 2, "answer", LONG)]
    index = index_prompts(prompts, CONFIG)
    write_index(tmp_path / "index.npz", index)
    again = read_index(tmp_path / "index.npz")
    texts = pa.chunked_array([pa.array([LONG, "which king lost the american colonies"], pa.large_string())])
    assert find_contaminated(texts, again) == find_contaminated(texts, index) != [[], []]


def cut(text: str, prompt: str, **config) -> str | None:
    [found] = search([text], [Prompt("quiz", 1, "prompt", prompt)])
    assert found
    return cut_hits(text, found, DecontaminateConfig(mode="passage", min_words_left=3, **config)).text


def test_a_leaked_passage_is_cut_to_words_sentences_or_paragraphs():
    question = "Where does the river Neva end?"
    text = f"Rivers are long. A quiz: {question} In the sea! It does.\n\nMore on lakes.\nAnd on seas."
    assert cut(text, question, cut_to="words") == "Rivers are long. A quiz: In the sea! It does.\n\nMore on lakes.\nAnd on seas."
    assert cut(text, question, cut_to="words", margin_words=3) == "Rivers are It does.\n\nMore on lakes.\nAnd on seas."
    assert cut(text, question) == "Rivers are long. In the sea! It does.\n\nMore on lakes.\nAnd on seas."
    assert cut(text, question, cut_to="paragraph") == "More on lakes.\nAnd on seas."


def test_a_document_of_too_many_leaks_or_of_little_else_is_dropped():
    question = "Where does the river Neva end?"
    assert cut(f"One two three. {question} " * 4, question, max_cuts=3) is None
    assert cut(f"One two three. {question} " * 4, question, max_cuts=4) == "One two three. One two three. One two three. One two three."
    assert cut(f"One two. {question}", question) is None


CHANGES = {
    "verbatim": lambda text: text,
    "upper case": str.upper,
    "lower case": str.lower,
    "title case": str.title,
    "white space": lambda text: re.sub(r"\s+", " \t  ", text),
    "punctuation deleted": lambda text: re.sub(r"[^\w\s]", "", text),
    "punctuation to spaces": lambda text: re.sub(r"[^\w\s]", " ", text),
    "punctuation changed": lambda text: re.sub(r"[.,;:!?]", " —", text).replace("'", "’").replace('"', "“"),
    "one word a line": lambda text: "\n".join(text.split()),
    "split over lines": lambda text: re.sub(r"(\S+\s+\S+\s+\S+)\s+", r"\1\n", text),
    "empty lines": lambda text: re.sub(r"(\S+\s+\S+\s+\S+)\s+", r"\1\n\n", text),
    "quoted mail": lambda text: "> " + re.sub(r"(\S+\s+\S+\s+\S+\s+\S+)\s+", r"\1\n> ", text),
    "HTML entities": lambda text: html.unescape(html.escape(text)),
    "hyphenated": lambda text: re.sub(r"\b([a-z]{4})([a-z]{4})", r"\1-\n\2", text),
    "decomposed": lambda text: unicodedata.normalize("NFKD", text),
}


@pytest.mark.skipif(not (SHARED / "eval").is_dir(), reason="the evaluation sets are not on this machine")
def test_every_leak_planted_in_real_documents_is_found_and_clean_documents_are_not():
    prompts: list[Prompt] = []
    for path in sorted((SHARED / "eval").glob("*/*.jsonl.gz")):
        task = path.name.split(".")[0]
        prompts.extend(itertools.islice((p for p in read_prompts(path, f"{path.parent.name}/{task}") if p.part == "prompt"), 60))
    index = index_prompts(prompts, CONFIG)
    searched = [i for i in range(len(prompts)) if index.searched[i]]
    clean = read_documents(SHARED / "text" / "speeches.jsonl.gz").column("text").to_pylist()
    assert find_contaminated(pa.chunked_array([pa.array(clean, pa.large_string())]), index) == [[]] * len(clean)
    draw = random.Random(0)
    planted = []
    for number, i in enumerate(draw.sample(searched, 600)):
        name = list(CHANGES)[number % len(CHANGES)]
        document = draw.choice(clean)[:3000]
        place = draw.choice([match.start() for match in re.finditer(r"\s", document)])
        planted.append((i, name, f"{document[:place]}\n{CHANGES[name](prompts[i].text)}\n{document[place:]}"))
    found = find_contaminated(pa.chunked_array([pa.array([text for _, _, text in planted], pa.large_string())]), index)
    assert [(name, prompts[i]) for (i, name, _), hit in zip(planted, found, strict=True) if not hit] == []
    named = [
        any((hit.task, hit.row) == (prompts[i].task, prompts[i].row) for hit in hit) for (i, _, _), hit in zip(planted, found, strict=True)
    ]
    assert sum(named) > 0.95 * len(named)  # of rows that begin with the same instructions, eight are named


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


@pytest.mark.parametrize(
    ("copy", "prompt"),
    [
        ("什么是人工智能的定义？", "什么是人工智能的定义"),
        ("日本の首都は　どこですか", "日本の首都はどこですか？"),
        ("مَا هِيَ عَاصِمَةُ المملكة العربيـــة السعودية", "ما هي عاصمة المملكة العربية السعودية"),
        ("STRASSE IM GROSSEN ALTEN DORF BEI KOELN", "Straße im großen alten Dorf bei Koeln"),
        ("ГДЕ НАХОДИТСЯ СТОЛИЦА РОССИЙСКОЙ ФЕДЕРАЦИИ", "Где находится столица Российской Федерации?"),
    ],
)
def test_prompts_of_other_scripts_are_found(copy, prompt):
    assert hits([copy], [prompt]) == [prompt]


def test_a_text_of_one_endless_line_with_very_many_leaks_takes_no_longer_than_another():
    question = "Where does the river Neva end"
    text = f"One two three. {question}? " * 20_000
    [found] = search([text], [Prompt("quiz", 1, "prompt", question)])
    assert len(found) == 20_000
    assert cut_hits(text, found, DecontaminateConfig(mode="passage")) == (None, 20_000, 0)
    assert cut_hits(text, found, DecontaminateConfig(mode="passage", max_cuts=20_000)).text == " ".join(["One two three."] * 20_000)
