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
    assert {"quickstart", "smoke", "web", "continue"} <= set(shipped_recipes())


def test_the_recipe_of_continued_pretraining_starts_from_a_checkpoint_and_its_tokenizer():
    recipe = load_recipe(find_recipe("continue"))
    assert recipe.name == "continue" and recipe.nodes["start"].inputs == {"model": ("file:checkpoint",)}
    assert recipe.nodes["base"].inputs["init"] == recipe.nodes["tokens"].inputs["tokenizer"] == ("start",)
