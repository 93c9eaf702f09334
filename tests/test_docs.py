"""The documents say what the code does."""

import re
import runpy
from pathlib import Path

from bloomery.stages.catalog import STAGES

ROOT = Path(__file__).resolve().parents[1]


def test_the_recipe_reference_is_what_the_stages_say_today():
    written = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["reference"]()
    assert written == made, "docs/recipe.md is out of date: python docs/make_reference.py"


def test_every_link_of_the_readme_and_the_docs_leads_to_a_file():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_names_every_stage():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in STAGES if f"[`{name}`](src/bloomery/stages/{name}.py)" not in readme] == []
