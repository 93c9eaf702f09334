from bloomery.align.pairs import Pair, PromptPairs, make_pairs, pair_row, prompt_messages
from bloomery.align.rewards import Answer

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
