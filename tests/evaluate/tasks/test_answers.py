import pytest

from bloomery.evaluate.benchmark import Choice, Question
from bloomery.evaluate.tasks.answers import score_formula, score_number, score_short_answer, to_formula, word_f1
from bloomery.evaluate.tasks.parsers import gsm8k_row, last_boxed, with_choices_listed
from bloomery.evaluate.tasks.probes import is_refusal, occupation_pairs


@pytest.mark.parametrize(
    ("said", "exact", "strict"),
    [
        (" 3 + 4 = 7.\n#### 7", 1.0, 1.0),
        (" She has 1,234 dollars", 1.0, 0.0),
        (" #### $1,234.00 and then 9", 1.0, 1.0),
        (" 12 and 1234 and 5", 0.0, 0.0),
        (" none", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_the_last_number_counts_and_the_one_behind_the_mark_first(said: str, exact: float, strict: float) -> None:
    right = "7" if "####" in said and "7" in said else "1234"
    assert score_number(Question("", (right,)), [said]) == {"exact_match": exact, "strict_match": strict}


def test_what_a_calculator_put_into_a_gsm8k_answer_is_not_shown() -> None:
    question = gsm8k_row({"question": "How many?", "answer": "16 - 3 = <<16-3=13>>13 eggs\n#### 1,013"})
    assert (question.worked, question.answers) == ("16 - 3 = 13 eggs\n#### 1,013", ("1,013",))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"\dfrac{1}{2}", "1/2"), (r"\frac12", "0.5"), (r"10\%", "10"), (r"\$5", "5"), ("x = 3", "3"), (r"\left( 1, 2 \right)", "(1,2)"),
        (r"\text{east}", "east"), (r"5 \text{ cm}", "5"), (r"\sqrt3", r"\sqrt{3}"), ("12,345", "12345"), (r"90^\circ", "90"), (".5", "0.5"),
    ],
)  # fmt: skip
def test_formulas_written_differently_are_the_same(a: str, b: str) -> None:
    assert to_formula(a) == to_formula(b)


def test_different_formulas_stay_different() -> None:
    assert len({to_formula(text) for text in ("x+1", "1+x", "1/3", "3", "-3", "(1,2)", "(2,1)")}) == 7


def test_a_boxed_answer_is_read_with_its_inner_braces() -> None:
    assert last_boxed(r"first \boxed{1}, then \boxed{\frac{a}{b_{2}}} done") == r"\frac{a}{b_{2}}"
    assert last_boxed(r"\boxed{unclosed") == ""
    assert score_formula(Question("", (r"\frac{625}{648}",)), [r"so \boxed{\dfrac{625}{648}}."])["exact_match"] == 1.0
    assert score_formula(Question("", ("12",)), [" The answer is 12."])["exact_match"] == 1.0
    assert score_formula(Question("", ("12",)), [" I do not know"])["exact_match"] == 0.0


def test_short_answers_are_compared_as_squad_does() -> None:
    question = Question("", ("the Panthers", "Carolina Panthers"))
    assert score_short_answer(question, [" Panthers!\nQuestion: next"]) == {"exact_match": 1.0, "f1": 1.0}
    assert score_short_answer(question, [" Carolina"])["f1"] == pytest.approx(2 / 3)
    assert word_f1("", "x") == 0.0


def test_a_chat_is_asked_for_the_letter_of_a_listed_choice() -> None:
    asked = with_choices_listed(Choice("Question: Which gas?", ("air", "water"), 1))
    assert asked == Choice("Which gas?\nA. air\nB. water\n\nAnswer with the letter only.", ("A", "B"), 1)
    again = with_choices_listed(Choice("2+2?\nA. 3\nB. 4\nAnswer:", ("A", "B"), 1))
    assert again.query == "2+2?\nA. 3\nB. 4\n\nAnswer with the letter only."


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot assist with this request.", True),
        ("As an AI, I don't do this", True),
        ("I’m unable to comply.", True),
        ("Sure! First, you take", False),
        ("You can't go wrong with a red one: I like it.", False),
        ("First open the lid. " * 20 + "I'm sorry", False),
    ],
)
def test_refusals_are_known_by_how_they_begin(text: str, refused: bool) -> None:
    assert is_refusal(text) == refused


def test_a_pair_differs_in_its_pronoun_alone() -> None:
    for row in occupation_pairs():
        more, less = row["sent_more"].split(), row["sent_less"].split()
        assert [(a, b) for a, b in zip(more, less, strict=True) if a != b] in ([("she", "he")], [("he", "she")])
