"""resume.toml says what spec.json says: read again it plans the same artifacts, for every recipe that is shipped."""

import tomllib
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.pipeline.locate import shipped_recipes
from bloomery.pipeline.recipe import EXPERIMENT, load_recipe
from bloomery.pipeline.run import resolved_recipe
from bloomery.web.runs.toml import to_toml

PLAIN = st.recursive(
    st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)

RUNNABLE = sorted(name for name, path in shipped_recipes().items() if EXPERIMENT not in tomllib.loads(path.read_text()))
"""Experiments never run as they are: `bloomery ablate` writes the recipe that does."""


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_any_plain_table_reads_back_as_it_was(table):
    assert tomllib.loads(to_toml(table)) == table


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_resolved_recipe_written_as_a_file_plans_the_same_artifacts(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = load_recipe(shipped_recipes()[name])
    resolved = resolved_recipe(_plan(first))
    (tmp_path / "resume.toml").write_text(to_toml(resolved), encoding="utf-8")
    again = load_recipe(tmp_path / "resume.toml")
    assert again.nodes == first.nodes and again.seed == first.seed and again.cluster == first.cluster and again.name == first.name


def _plan(recipe):
    return SimpleNamespace(recipe=recipe, steps=[SimpleNamespace(node=node) for node in recipe.nodes.values()])
