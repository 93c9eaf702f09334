"""Writes docs/recipe.md, the reference of every stage, from the stages' own types: `python docs/make_reference.py`.

A test compares the file with what this would write, so that the reference cannot fall behind the code.
"""

import inspect
from pathlib import Path
from types import NoneType
from typing import get_args

from pydantic import BaseModel

from bloomery.core.stage import Launch, Stage
from bloomery.stages.catalog import STAGES, load_stage

HEAD = """# Recipe reference

Written by `python docs/make_reference.py` from the stages' own types; do not edit by hand.

A recipe is one TOML file. Each `[stages.<id>]` names a stage, what feeds each of its slots (another id, `"file:<glob>"`,
or a list of these), its settings, and where it runs:

```toml
name = "mine"                                        # the run's folder: runs/mine
seed = 0                                             # given to every stage that has a `seed` and does not set it

[stages.filtered]
stage  = "filter"
inputs = { documents = "extracted" }
config = { thresholds = { too_few_words = 40 } }
```

Every mistake in a recipe is reported at once, with its line. `bloomery run RECIPE --dry-run` shows what would run and why;
`--set filtered.thresholds.too_few_words=60` changes one setting for one run.

An experiment runs some of its stages once for each of several seeds: with `seeds = [0, 1, 2]` at the head and `per_seed = true` in
`[stages.dpo]` there are `dpo_seed0`, `dpo_seed1`, `dpo_seed2`. One of them reads, of other stages per seed, what was made with its
seed; a stage that is not per seed gets all of them in a slot that takes many. `--set seeds=[0]` tries it with one.
"""


def reference() -> str:
    """The whole page, Markdown."""
    parts = [HEAD, "## `launch`\n", _fields(Launch)]
    for name in STAGES:
        stage = load_stage(name)
        parts += [f"\n## {name}\n", _describe(stage), _slots(stage), "\n", _fields(stage.config_type)]
    return "\n".join(parts).rstrip() + "\n"


def _describe(stage: Stage) -> str:
    return inspect.cleandoc(stage.run.__doc__ or "") + "\n"


def _slots(stage: Stage) -> str:
    lines = []
    for name, slot in stage.inputs.items():
        others = [f"unless `{other}` is given" for other in stage.one_of if name in stage.one_of and other != name]
        words = [
            slot.takes,
            "one or more" if slot.many else "one",
            *(others or (["optional"] if slot.optional else [])),
        ]
        lines.append(f"- input `{name}`: {', '.join(words)}")
    return "\n".join([*lines, f"- output: {stage.output}{f', or what `{stage.passes_on}` is' if stage.passes_on else ''}"])


def _fields(config_type: type[BaseModel], prefix: str = "") -> str:
    rows = [] if prefix else ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, field in config_type.model_fields.items():
        # A table that may be left out is described like one that may not.
        inner = [part for part in get_args(field.annotation) if part is not NoneType]
        is_optional_table = len(inner) == 1 and isinstance(inner[0], type) and issubclass(inner[0], BaseModel)
        annotation = inner[0] if is_optional_table else field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            rows.append(f"| `{prefix}{name}` | table | | {_cell(field.description or annotation.__doc__)} |")
            rows.append(_fields(annotation, f"{prefix}{name}."))
            continue
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
        rows.append(f"| `{prefix}{name}` | {_cell(_type_name(annotation))} | {_cell(default)} | {_cell(field.description)} |")
    return "\n".join(rows)


def _type_name(annotation: object) -> str:
    text = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    return text.replace("typing.", "").replace("Annotated", "")


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    (Path(__file__).parent / "recipe.md").write_text(reference(), encoding="utf-8")
