"""Configs refuse what has no place in an identity, and tell every mistake at once."""

import pytest
from pydantic import ValidationError

from bloomery.core.config import Config, check_config, suggest


class Inner(Config):
    depth: int = 2
    rate: float = 0.5


class Outer(Config):
    name: str
    inner: Inner = Inner()
    share: float = 0.1


def test_every_mistake_is_told_with_its_dotted_key_and_the_nearest_name():
    config, mistakes = check_config(Outer, {"inner": {"depht": 3, "rate": "x"}, "shape": 1})
    assert config is None
    assert sorted(mistakes)[0] == 'inner.depht: unknown setting; did you mean "depth"?'
    assert any(text.startswith("inner.rate: ") and "found 'x'" in text for text in mistakes)
    assert "name: required, but not given" in mistakes
    assert 'shape: unknown setting; did you mean "share"?' in mistakes
    assert len(mistakes) == 4


def test_sound_values_make_a_config():
    config, mistakes = check_config(Outer, {"name": "a", "inner": {"depth": 3}})
    assert mistakes == []
    assert config == Outer(name="a", inner=Inner(depth=3))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(ValidationError, match="not a finite number"):
        Outer(name="a", share=value)


def test_configs_are_frozen():
    with pytest.raises(ValidationError):
        Outer(name="a").name = "b"


def test_a_word_far_from_all_names_is_answered_with_the_list():
    assert suggest("zebra", ["cat", "ant"]) == "known: ant, cat"
    assert suggest("zebra", []) == "none are known"
