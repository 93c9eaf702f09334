"""A small store that real stages made, with near duplicates, personal data and two languages: what the corpus page looks at."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bloomery.cli.main import app
from bloomery.core.files import write_jsonl

RECIPE = """\
name = "look"

[stages.extracted]
stage  = "extract"
inputs = { pages = "file:texts.jsonl" }

[stages.filtered]
stage  = "filter"
inputs = { documents = "extracted" }

[stages.filtered.config]
rules = ["language", "gopher_quality"]
languages = ["en", "de"]
thresholds = { too_few_stop_words = 0, too_few_alphabetic = 0.5 }
language_thresholds = { de = { too_few_words = 20 } }

[stages.unique]
stage  = "dedup"
inputs = { documents = "filtered" }

[stages.private]
stage  = "redact"
inputs = { documents = "unique" }
"""

TREES = ("oak", "ash", "elm", "pine", "birch", "beech", "maple")
HOSTILE = "<img src=x onerror=alert(1)> <script>alert(2)</script> "


def make_text(number: int, sentences: int) -> str:
    verbs = ("stands behind", "is taller than", "has to be cut with", "and the smith of")
    return " ".join(
        f"The {TREES[(number + i) % 7]} {verbs[(number * i) % 4]} the house of village {number * 31 + i * 7}, and the nurse is with her."
        for i in range(sentences)
    )


def make_rows() -> list[dict[str, object]]:
    """Forty texts of different lengths, a third said to be German, then some of each kind that a stage drops or changes."""
    texts = [make_text(number, 1 + number % 9) for number in range(40)]
    texts += [texts[8], texts[17] + " One sentence more, said once.", f"{HOSTILE}{make_text(70, 6)}"]
    texts += [f"{make_text(80, 6)} Write to jane.doe@acme.io or call +1 212-736-5000. {make_text(81, 4)}"]
    rows = []
    for i, text in enumerate(texts):
        language = "fr" if i == 39 else "de" if i % 3 == 0 else "en"
        url = f"https://a{i % 2}.example/{i}"
        rows.append({"id": f"t{i:02d}", "text": text, "url": url, "source": f"s{i % 2}", "language": language, "language_score": 0.9})
    return rows


def make_store(folder: Path) -> Path:
    """The store of that recipe, in `folder`."""
    write_jsonl(folder / "texts.jsonl", make_rows())
    (folder / "look.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, ["run", "look.toml", "--workers", "1"])
    assert result.exit_code == 0, result.output
    return folder / "runs"


def node_path(store: Path, node: str) -> Path:
    """The artifact of a node of the run."""
    spec = json.loads((store / "look" / "spec.json").read_text())
    return store / next(entry["artifact"] for entry in spec["nodes"] if entry["id"] == node)
