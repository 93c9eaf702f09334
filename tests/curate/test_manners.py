"""Every example of bad manners is what it says, judged by the rules, which know nothing of how it was made."""

from bloomery.curate.manners import FLAWS, PRAISE, draw_cases, say
from bloomery.curate.skills import SKILLS, draw_skill_rows
from bloomery.generate.answer_rules import RULES

ROWS = [
    row
    for name in ("addition", "sort_words", "larger_number", "uppercase")
    for row in draw_skill_rows(SKILLS[name], count=60, held_out=False, seed=0)
]
PARTS = ("answers", "critiques", "comparisons")


def broken(row, text) -> set[str]:
    return {flaw for flaw in FLAWS if not RULES[flaw]({"answer": row.answer}, text)}


def cases(part, *, count=600, flaws=FLAWS, flawed_fraction=0.6):
    return list(draw_cases(ROWS, count=count, parts=[part], flaws=flaws, flawed_fraction=flawed_fraction, seed=1))


def test_a_flaw_breaks_its_own_principle_and_no_other() -> None:
    for flaw in FLAWS[1:]:
        assert broken(ROWS[0], say(ROWS[0].answer, [flaw])) == {flaw}
    assert broken(ROWS[0], say("wrong", [])) == {"right"} and broken(ROWS[0], say(ROWS[0].answer, [])) == set()


def test_the_given_share_of_plain_answers_is_flawed() -> None:
    found = [len(broken(case.row, case.said)) for case in cases("answers")]
    assert 0.54 < sum(map(bool, found)) / len(found) < 0.66 and max(found) == 2
    assert not any(broken(case.row, case.said) for case in cases("answers", flawed_fraction=0.0))


def test_a_critique_finds_the_fault_and_the_revision_mends_it_and_nothing_else() -> None:
    found = cases("critiques")
    for case in found:
        before, after = broken(case.row, case.said), broken(case.row, case.revision)
        assert (case.critique == PRAISE) == (case.principle not in before)
        assert after == before - {case.principle}
        assert case.critique != PRAISE or case.revision == case.said
    assert {case.principle for case in found} == set(FLAWS)
    assert 0.4 < sum(case.critique == PRAISE for case in found) / len(found) < 0.6


def test_of_two_compared_answers_the_better_one_alone_follows_the_principle() -> None:
    found = cases("comparisons")
    for case in found:
        better, worse = (case.said, case.other) if case.better == "A" else (case.other, case.said)
        assert case.principle not in broken(case.row, better) and case.principle in broken(case.row, worse)
    assert 0.45 < sum(case.better == "A" for case in found) / len(found) < 0.55


def test_the_same_seed_draws_the_same_and_parts_take_turns() -> None:
    drawn = list(draw_cases(ROWS, count=9, parts=PARTS, flaws=["calm"], flawed_fraction=1.0, seed=3))
    assert drawn == list(draw_cases(ROWS, count=9, parts=PARTS, flaws=["calm"], flawed_fraction=1.0, seed=3))
    assert [case.part for case in drawn] == [*PARTS] * 3 and len({case.row.prompt for case in drawn}) == 3
    assert all(broken(case.row, case.said) <= {"calm"} for case in drawn)
