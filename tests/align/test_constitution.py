"""Principles are data, checked strictly."""

from pathlib import Path

import pytest

from bloomery.align.constitution import draw_principles, load_constitution, parse_constitution, tell
from bloomery.core.errors import ConfigError

GOOD = {"name": "short", "critique": "Is it short?", "revision": "Make it short.", "comparison": "Which is shorter?"}


def write(folder: Path, text: str) -> Path:
    (folder / "mine.toml").write_text(text)
    return folder / "mine.toml"


def test_the_shipped_constitutions_are_whole() -> None:
    default, manners = load_constitution("default"), load_constitution("manners")
    assert len(default.principles) == 16 == len({one.comparison for one in default.principles}) and default.rules == {}
    assert [one.name for one in manners.principles] == list(manners.rules) == ["right", "bare", "sure", "calm", "once"]


def test_a_file_of_ones_own_takes_their_place_with_its_own_wording(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'comparison_question = "{comparison} {prompt} 1:{first} 2:{second} {other}"\n[[principles]]\nname = "short"\n'
        'critique = "Is it short?"\nrevision = "Make it short."\ncomparison = "Which?"\nrule = "short"\n',
    )
    law = load_constitution("default", path)
    (principle,) = law.principles
    (asked,) = law.comparison(principle, [{"role": "user", "content": "{first} {"}], "a{second}", "b}")
    assert asked == {"role": "user", "content": "Which? {first} { 1:a{second} 2:b} {other}"}
    assert law.critique_turn(principle)["content"] == "Is it short?" and law.revision_turn(principle)["content"] == "Make it short."
    assert list(law.rules) == ["short"]


def test_every_mistake_of_a_file_is_told_at_once_with_the_nearest_name() -> None:
    table = {
        "critique_qestion": "{critique}",
        "principles": [GOOD, {**GOOD, "critque": "x"}, {"name": "b", "critique": "c", "revision": "r", "comparison": "", "rule": "calmm"}],
    }
    with pytest.raises(ConfigError) as error:
        parse_constitution(table, name="mine.toml")
    said = str(error.value)
    for part in (
        "mine.toml: 4 mistake(s)",
        'critique_qestion: unknown setting; did you mean "critique_question"?',
        'principle 2 (short): critque: unknown setting; did you mean "critique"?',
        "principle 3 (b): comparison",
        'did you mean "calm"?',
    ):
        assert part in said, said
    with pytest.raises(ConfigError, match='two principles are named "short"'):
        parse_constitution({"principles": [GOOD, GOOD]}, name="x")
    with pytest.raises(ConfigError, match=r"comparison_question: it needs \{second\}"):
        parse_constitution({"comparison_question": "{comparison} {prompt} {first}", "principles": [GOOD]}, name="x")


def test_a_file_without_principles_or_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected one or more tables \[\[principles\]\], found nothing"):
        load_constitution("default", write(tmp_path, ""))
    with pytest.raises(ConfigError, match=r"mine\.toml: not a readable TOML file"):
        load_constitution("default", write(tmp_path, "[[principles]"))
    with pytest.raises(ConfigError, match="not a readable TOML file"):
        load_constitution("default", tmp_path / "none.toml")


def test_principles_are_drawn_by_key_and_none_twice_before_all_have_come() -> None:
    principles = load_constitution("default").principles
    drawn = draw_principles(principles, 20, key="a prompt")
    assert len({one.name for one in drawn[:16]}) == 16 and drawn == draw_principles(principles, 20, key="a prompt")
    assert len({draw_principles(principles, 1, key=str(i))[0].name for i in range(200)}) == 16


def test_a_prompt_of_several_messages_is_told_with_their_roles() -> None:
    assert tell([{"role": "user", "content": "hi"}]) == "hi"
    assert tell([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]) == "System: Be brief.\n\nUser: hi"


def test_a_part_of_the_principles_can_be_named_and_an_unknown_name_is_refused_with_the_nearest():
    assert [principle.name for principle in load_constitution("manners", only=["calm", "right"]).principles] == ["right", "calm"]
    with pytest.raises(ConfigError, match=r'no principle is named "clam"; did you mean "calm"'):
        load_constitution("manners", only=["clam"])
