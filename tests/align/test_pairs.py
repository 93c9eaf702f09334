from bloomery.align.pairs import (
    Pair,
    PromptPairs,
    Ranked,
    all_pairs,
    balance,
    best_and_worst,
    is_flipped,
    make_pairs,
    mean_rewards,
    pair_row,
    prompt_messages,
    rank_answers,
)
from bloomery.align.reward_source import Answer

RIGHT, WRONG, MALFORMED = 1.0, 0.3, 0.1


def pairs_of(*samples: tuple[str, float], max_pairs: int = 9, min_margin: float = 0.5, gold: str | None = None) -> PromptPairs:
    answers = [Answer(text, stopped=True) for text, _ in samples]
    rewards = [reward for _, reward in samples]
    return make_pairs(answers, rewards, min_chosen_reward=RIGHT, min_margin=min_margin, max_pairs=max_pairs, gold=gold)


def test_right_answers_are_chosen_over_wrong_and_malformed_ones() -> None:
    made = pairs_of(("12", RIGHT), ("13", WRONG), ("twelve", MALFORMED))
    assert made == PromptPairs([Pair("12", "13"), Pair("12", "twelve")], "paired")


def test_the_most_frequent_mistakes_come_first_and_each_once() -> None:
    made = pairs_of(("13", WRONG), ("14", WRONG), ("12", RIGHT), ("14", WRONG), ("15", WRONG), max_pairs=2)
    assert made.pairs == [Pair("12", "14"), Pair("12", "13")]


def test_prompts_without_a_mistake_give_no_pair() -> None:
    assert pairs_of(("12", RIGHT), ("12", RIGHT)) == PromptPairs([], "all_good")


def test_prompts_without_a_right_answer_give_no_pair() -> None:
    assert pairs_of(("13", WRONG), ("x", MALFORMED)) == PromptPairs([], "none_good")


def test_the_gold_may_stand_in_where_no_answer_is_right() -> None:
    made = pairs_of(("13", WRONG), ("x", MALFORMED), ("13", WRONG), gold="12")
    assert made == PromptPairs([Pair("12", "13"), Pair("12", "x")], "gold_chosen")
    assert pairs_of(("12", RIGHT), ("13", WRONG), gold="12").case == "paired"


def test_a_mistake_within_the_margin_is_not_rejected() -> None:
    assert pairs_of(("12", RIGHT), ("13", 0.8)).pairs == []
    assert pairs_of(("12", RIGHT), ("13", 0.8), min_margin=0.2).pairs == [Pair("12", "13")]


def test_the_same_text_is_never_chosen_and_rejected() -> None:
    made = pairs_of(("12", RIGHT), ("12", 0.0), (" 12", MALFORMED))
    assert made.pairs == [Pair("12", " 12")]


def test_different_right_answers_take_turns() -> None:
    made = pairs_of(("a", RIGHT), ("b", RIGHT), ("x", WRONG), ("y", WRONG), ("z", WRONG))
    assert made.pairs == [Pair("a", "x"), Pair("b", "y"), Pair("a", "z")]


def test_no_answers_give_no_pairs() -> None:
    assert pairs_of() == PromptPairs([], "none_good")


def test_a_pair_has_the_columns_of_trl() -> None:
    user = {"role": "user", "content": "6 + 6?"}
    row = {"messages": [user, {"role": "assistant", "content": "12"}], "skill": "addition"}
    assert pair_row(row, Pair("12", "13")) == {
        "prompt": [user],
        "chosen": [{"role": "assistant", "content": "12"}],
        "rejected": [{"role": "assistant", "content": "13"}],
        "skill": "addition",
    }


def test_a_prompt_is_what_stands_before_the_last_answer() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert prompt_messages({"messages": turns}) == turns
    assert prompt_messages({"messages": [*turns, {"role": "assistant", "content": "d"}]}) == turns


SCORED = [("a", 0.5), ("b", 2.0), ("c", 0.5), ("d", -1.0)]


def test_a_text_sampled_twice_has_the_mean_of_its_rewards() -> None:
    answers = [Answer("x", stopped=True), Answer("y", stopped=True), Answer("x", stopped=False)]
    assert mean_rewards(answers, [1.0, 0.5, 0.0]) == [("x", 0.5), ("y", 0.5)]


def test_all_pairs_are_those_of_different_worth_and_a_random_part_of_them_depends_on_the_key_alone() -> None:
    found = all_pairs(SCORED, min_margin=0.0, max_pairs=99, key="p")
    assert {(pair.chosen + pair.rejected, pair.margin) for pair in found} == {("ba", 1.5), ("bc", 1.5), ("bd", 3), ("ad", 1.5), ("cd", 1.5)}
    assert all_pairs(SCORED, min_margin=0.0, max_pairs=2, key="p") == found[:2]
    assert [pair.rejected for pair in all_pairs(SCORED, min_margin=2.0, max_pairs=9, key="p")] == ["d"]
    firsts = {all_pairs(SCORED, min_margin=0.0, max_pairs=1, key=str(key))[0] for key in range(50)}
    assert len(firsts) == 5
    assert best_and_worst(SCORED, min_margin=0.5) == [Pair("b", "d", 3.0)]
    assert best_and_worst(SCORED[:1], min_margin=0.0) == best_and_worst([], min_margin=0.0) == []


def test_a_ranking_has_the_best_answer_and_ties() -> None:
    assert rank_answers(SCORED, max_answers=4, tie_margin=0.0) == Ranked(["a", "b", "c", "d"], [2, 1, 2, 3])
    assert rank_answers(SCORED, max_answers=4, tie_margin=1.5) == Ranked(["a", "b", "c", "d"], [1, 1, 1, 2])
    assert rank_answers([("a", 0.0), ("c", 0.0), ("b", 1.0)], max_answers=2, tie_margin=0.0) == Ranked(["a", "b"], [2, 1])
    assert rank_answers([("a", 0.5), ("c", 0.5)], max_answers=4, tie_margin=0.0) is None


def test_a_ratio_keeps_the_rarer_label_whole() -> None:
    labels = [i % 5 == 0 for i in range(100)]
    keys = [str(i) for i in range(100)]
    kept = balance(keys, labels, desirable_per_undesirable=1.0, max_rows=0)
    assert kept == sorted(kept) and sum(labels[i] for i in kept) == 20 and len(kept) == 40
    tenth = balance(keys, labels, desirable_per_undesirable=0.1, max_rows=0)
    assert (sum(labels[i] for i in tenth), len(tenth)) == (8, 88)
    few = balance(keys, labels, desirable_per_undesirable=1.0, max_rows=10)
    assert (sum(labels[i] for i in few), len(few)) == (5, 10)
    assert balance(keys, labels, desirable_per_undesirable=0.0, max_rows=0) == list(range(100))
    assert len(balance(keys, labels, desirable_per_undesirable=0.0, max_rows=7)) == 7


def test_about_the_given_share_of_labels_is_turned_round() -> None:
    assert not any(is_flipped(str(i), 0.0) for i in range(100))
    assert 0.22 < sum(is_flipped(str(i), 0.25) for i in range(4000)) / 4000 < 0.28
