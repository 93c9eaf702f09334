"""The recipes that come with bloomery can be read, and their names are those of their files."""

import pytest

from bloomery.pipeline.locate import find_recipe, shipped_recipes
from bloomery.pipeline.recipe import load_recipe


@pytest.mark.parametrize("name", ["quickstart", "smoke", "web"])
def test_a_shipped_recipe_has_no_mistakes(name):
    recipe = load_recipe(find_recipe(name))
    assert recipe.name == name
    assert {"crawl", "pretrain", "sft", "preference", "evaluate", "export"} <= {node.stage.name for node in recipe.nodes.values()}


def test_all_shipped_recipes_are_tested_above():
    assert {"quickstart", "smoke", "web"} <= set(shipped_recipes())
