"""Which documents are asked for, and which answers become documents."""

import json
from collections import Counter

import pyarrow as pa
import pytest

from bloomery.core.documents import document_table
from bloomery.curate.rules import RULE_SETS
from bloomery.curate.synthesize import (
    Judge,
    Written,
    assign,
    clean,
    copied_fraction,
    extract_seed,
    generated_rules,
    synthetic_id,
    topic_seed,
    trim_to_sentence,
    written_table,
)
from bloomery.curate.synthetic_prompts import AUDIENCES, STYLES, write_prompt

SEEDS = [topic_seed("iron"), topic_seed("tides")]
WAYS = {"styles": {"a": "Write a of {subject}.", "b": "Write b of {subject}."}, "audiences": {"x": "For x.", "y": "For y."}}
STORY = (
    "The smith opened the furnace before the sun was up and counted the baskets of charcoal along the wall. There were nine, one fewer "
    "than the night before, and the snow outside had no marks in it. She asked her brother about it while he washed, and he only laughed, "
    "because he had burnt it himself to keep the young goats warm. They worked until noon with the wind from the river, and the bloom "
    "that came out of the clay was small and grey and good."
)


def requests(count, seeds=SEEDS, **changes):
    options = {
        "styles": {"a": "Write a of {subject}.", "b": "Write b of {subject}."},
        "audiences": {"x": "For x.", "y": "For y."},
        "seed": 0,
    }
    return list(assign(range(count), seeds, **{**options, **changes}))


def written(text, number=0, *, was_cut=False):
    return Written(requests(number + 1)[number], text, was_cut)


def judged(texts, judge):
    table = written_table([written(text, i) for i, text in enumerate(texts)], model="m", trim=True)
    keep, dropped = judge.judge(table)
    return keep, [row["rule"] for row in dropped], dropped


def own_judge(**changes):
    rules = generated_rules(max_copied_fraction=0.2, drop_cut=False)
    return Judge([*rules, *changes.pop("rules", ())], **{"languages": ["en"], "max_similarity": 0.5, **changes})


def test_seeds_take_turns_and_go_through_all_styles_and_audiences_before_one_comes_again():
    made = requests(16)
    assert [item.seed.topic for item in made[:4]] == ["iron", "tides", "iron", "tides"]
    pairs = Counter((item.seed.topic, item.style, item.audience) for item in made)
    assert len(pairs) == 8 and set(pairs.values()) == {2}
    assert set(Counter((item.seed.topic, item.style, item.audience) for item in made[:8]).values()) == {1}
    assert len({item.draw for item in made}) == 16


def test_a_request_is_a_function_of_its_number_and_the_seed_alone():
    assert requests(9)[8] == next(assign([8], SEEDS, **WAYS, seed=0))
    orders = {tuple((item.style, item.audience) for item in requests(8, seed=seed)) for seed in range(6)}
    assert len(orders) > 1


def test_a_prompt_says_what_it_is_about_for_whom_and_shows_an_extract_as_it_stands():
    for name, style in STYLES.items():
        assert "{subject}" in style, name
        prompt = write_prompt(style=style, audience=AUDIENCES["children"], topic="iron {audience}", extract=None)
        assert "iron {audience}" in prompt and "{subject}" not in prompt and "children" in prompt
    prompt = write_prompt(style=STYLES["story"], audience=AUDIENCES["general"], topic=None, extract="A {subject} {extract}\n\nend")
    assert "A {subject} {extract}\n\nend" in prompt and "the subject of this extract" in prompt


def test_an_extract_ends_with_a_sentence_if_one_ends_in_its_second_half():
    seed = extract_seed({"id": "d", "text": "Iron is a metal. It melts at a high temperature", "source": "web"}, characters=30)
    assert seed.extract == "Iron is a metal."
    assert trim_to_sentence("no end here at all") == "no end here at all"
    assert trim_to_sentence("Yes. a very long rest without any end whatsoever") == "Yes. a very long rest without any end whatsoever"
    assert trim_to_sentence("鉄は金属です。熱い。そして") == "鉄は金属です。熱い。"


@pytest.mark.parametrize(
    ("said", "cleaned"),
    [
        ("Sure! Here is a story about iron:\n\nThe smith woke.", "The smith woke."),
        ("Certainly, here's the text.\nThe smith woke.", "The smith woke."),
        ("Here are five questions:\n1. What is iron?", "1. What is iron?"),
        ("Sure enough, the smith woke: it was day.", "Sure enough, the smith woke: it was day."),
        ("Okay", "Okay"),
    ],
)
def test_what_an_assistant_says_before_the_text_goes(said, cleaned):
    assert clean(said, trim=False) == cleaned


def test_a_document_says_where_it_comes_from_and_its_id_depends_on_what_was_asked_alone():
    table = written_table([written(STORY)], model="m", trim=True)
    row = table.to_pylist()[0]
    meta = json.loads(row["meta"])
    assert meta["synthetic"] is True and meta["model"] == "m" and meta["topic"] == "iron" and len(meta["prompt_sha256"]) == 64
    assert (row["source"], row["language"]) == ("synthetic", "en")
    assert row["id"] == synthetic_id("m", requests(1)[0]) != synthetic_id("m", requests(3)[2])


def test_a_cut_answer_ends_with_its_last_sentence_and_a_whole_one_is_let_be():
    cut = written_table([written(f"{STORY} And then the", was_cut=True), written(f"{STORY} And then the", 1)], model="m", trim=True)
    assert cut.column("text").to_pylist() == [STORY, f"{STORY} And then the"]


def test_refusals_and_empty_answers_go_and_a_text_that_speaks_of_a_refusal_stays():
    later = f"{STORY} {STORY[::-1]} I cannot help you, said the miller."
    texts = ["I'm sorry, but I can't write that.", "As an AI language model, I have no furnace.", " \n", later]
    keep, rules, _ = judged(texts, own_judge())
    assert (keep, rules) == ([False, False, False, True], ["refusal", "refusal", "empty"])


def test_an_answer_that_copies_its_prompt_goes_with_the_share_that_it_copies():
    extract = " ".join(f"word{i}" for i in range(40))
    about = extract_seed({"id": "d", "text": extract, "source": None}, characters=1000)
    (asked,) = requests(1, seeds=[about])
    table = written_table([Written(asked, f"{extract} and {STORY}", False), Written(asked, STORY, False)], model="m", trim=True)
    keep, dropped = own_judge().judge(table)
    assert keep == [False, True]
    assert dropped[0]["rule"] == "copies_prompt" and 0.2 < dropped[0]["value"] < 0.5 and dropped[0]["threshold"] == 0.2
    assert copied_fraction("too short", "too short") == 0.0


def test_what_repeats_a_seed_or_an_answer_before_it_goes_and_the_ledger_names_the_twin():
    judge = own_judge()
    judge.add_seeds(document_table([{"id": "s1", "text": STORY}]))
    other = "Tides come twice a day because the moon pulls the near water more than the far, and the earth turns under both heaps of it."
    near = STORY.replace("before the sun", "before the moon")
    keep, rules, dropped = judged([near, other, other.upper(), f"{other} So."], judge)
    assert (keep, rules) == ([False, True, False, False], ["repeats_seed", "repeats_document", "repeats_document"])
    assert dropped[0]["kept_id"] == "s1" and 0.5 < dropped[0]["value"] < 1
    assert dropped[1]["value"] == 1.0 and dropped[1]["kept_id"] == synthetic_id("m", requests(2)[1])


def test_rules_of_the_filter_apply_too_and_a_loop_is_dropped():
    loop = "the iron is hot and " * 60
    keep, rules, dropped = judged([loop, STORY], own_judge(rules=RULE_SETS["gopher"]))
    assert keep == [False, True]
    assert rules[0] in {rule.name for rule in RULE_SETS["gopher"]} and dropped[0]["value"] > dropped[0]["threshold"]


def test_nothing_in_gives_nothing_out():
    assert isinstance(written_table([], model="m", trim=True), pa.Table)
