"""Votes of people as pairs, rankings and labelled answers, worked out by hand."""

import json
from pathlib import Path

import pytest

from bloomery.align.votes import labels_of_votes, pairs_of_votes, rankings_of_votes
from bloomery.core.errors import DataError
from bloomery.core.votes import CHOICES, ItemVotes, Vote, parse_item, read_votes

PROMPT = [{"role": "user", "content": "Which?"}]


def item(*choices: str) -> ItemVotes:
    votes = [Vote(f"annotator {i}", choice, CHOICES[choice]) for i, choice in enumerate(choices)]
    return ItemVotes("x", PROMPT, ["first", "second"], ["m", "n"], votes)


def ranking(*ranks: list[int]) -> ItemVotes:
    texts = [f"answer {i}" for i in range(len(ranks[0]))]
    return ItemVotes("x", PROMPT, texts, [""] * len(texts), [Vote(f"annotator {i}", "ranking", given) for i, given in enumerate(ranks)])


def pairs(one, **settings):
    found = pairs_of_votes([one], **{"votes": "majority", "ties": "left_out", **settings})
    return [(row.chosen[0]["content"], row.rejected[0]["content"], row.probability) for row in found]


def labels(one, both_bad="undesirable"):
    return [(row.completion[0]["content"], row.label) for row in labels_of_votes([one], both_bad=both_bad)]


def test_what_more_than_half_say_is_the_pair():
    assert pairs(item("a")) == [("first", "second", None)]
    assert pairs(item("b", "b", "a")) == [("second", "first", None)]
    assert pairs(item("a", "b")) == pairs(item("a", "tie", "both_bad")) == pairs(item("tie")) == []


def test_softly_a_pair_has_the_share_that_says_so_and_a_tie_is_half_a_vote_each():
    assert pairs(item("a", "a", "b", "a"), votes="soft") == [("first", "second", 0.75)]
    assert pairs(item("b", "tie"), votes="soft") == [("second", "first", 0.75)]
    assert pairs(item("a", "b"), votes="soft") == []
    assert pairs(item("a", "a"), votes="soft") == [("first", "second", None)]


def test_a_tie_is_left_out_or_an_even_pair():
    for one in (item("tie"), item("both_bad"), item("a", "b")):
        assert pairs(one) == [] and pairs(one, ties="even") == [("first", "second", 0.5)]
    assert pairs(item("a", "b"), votes="soft", ties="even") == [("first", "second", 0.5)]


def test_kto_learns_that_both_are_bad_when_most_say_so():
    assert labels(item("a")) == [("first", True), ("second", False)]
    assert labels(item("both_bad", "both_bad", "a")) == [("first", False), ("second", False)]
    assert labels(item("both_bad"), both_bad="left_out") == labels(item("tie")) == labels(item("a", "both_bad")) == []


def test_rankings_of_several_are_joined_by_their_mean_rank():
    (row,) = rankings_of_votes([ranking([1, 2, 3], [1, 3, 2], [2, 1, 3])], votes="majority")
    assert row.ranks == [1, 2, 3]
    (row,) = rankings_of_votes([ranking([1, 2, 2])], votes="soft")
    assert row.ranks == [1, 2, 2] and row.probability is None


def test_softly_rankings_that_differ_are_a_pair_with_its_share_for_every_two_answers():
    assert pairs(ranking([1, 2, 3], [1, 3, 2]), votes="soft") == [("answer 0", "answer 1", 1.0), ("answer 0", "answer 2", 1.0)]


def test_of_a_ranking_kto_takes_the_best_and_the_worst():
    assert labels(ranking([2, 1, 3])) == [("answer 1", True), ("answer 2", False)]


def test_a_line_comes_back_as_it_was_written(tmp_path: Path):
    written = [item("a", "tie"), ranking([1, 2, 2])]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(one.record()) + "\n" for one in written))
    assert list(read_votes(tmp_path)) == list(read_votes([tmp_path / "votes.jsonl"])) == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"votes": []}, "with a vote in it"),
        ({"completions": ["one"]}, "two texts or more"),
        ({"prompt": "Which?"}, "`prompt`"),
        ({"models": ["m"]}, "each of 2 completions"),
        ({"votes": [{"annotator": "ann", "choice": "a", "ranks": [2, 1]}]}, r"'a' \[2, 1\]"),
        ({"votes": [{"annotator": "ann", "choice": "left", "ranks": [1, 2]}]}, "'left'"),
        ({"votes": [{"annotator": "ann", "choice": "a", "ranks": [1]}]}, r"found \[1\]"),
        ({"votes": ["a"]}, "needs an `annotator`"),
    ],
)
def test_a_line_that_is_no_item_is_named_with_what_is_wrong(tmp_path: Path, change, message):
    row = {**item("a").record(), **change}
    with pytest.raises(DataError, match=message):
        parse_item(row)
    (tmp_path / "votes.jsonl").write_text(json.dumps(item("a").record()) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"votes\.jsonl:2: .*bloomery labels export"):
        list(read_votes(tmp_path / "votes.jsonl"))
