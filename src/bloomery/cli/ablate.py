"""bloomery ablate: one model on several kinds of data, and what can be said of their differences."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any  # Any: JSON records

import typer

from bloomery.cli.display import Debug, Json, print_json, print_table, print_text, session
from bloomery.cli.options import DEFAULT_STORE, StoreOption, WorkersOption
from bloomery.cli.running import run_recipe

if TYPE_CHECKING:
    from bloomery.pipeline.ablation import Derived, Experiment

ABLATE_EXAMPLES = (
    "Examples:\n\n    bloomery ablate ablate-web --set pages.inputs.pages='file:crawl/*.warc.gz'\n\n"
    "    bloomery ablate my.toml --dry-run\n\n    bloomery ablate my.toml --set ablation.seeds='[0, 1, 2, 3, 4]' --set base.tokens=4M\n\n"
    "The experiment is a recipe with a table [ablation] (docs/ablate.md). Its runs are a recipe too, written to --out: killed, the same "
    "command continues."
)


def ablate(
    experiment: Annotated[str, typer.Argument(help="A recipe file with a table [ablation], or the name of a shipped one.", metavar="FILE")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting, for all arms.", metavar="ID.KEY=VALUE|ablation.KEY=VALUE")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where the recipe of all arms goes.", metavar="FILE")] = None,
    workers: WorkersOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the recipe, list its stages by arm and stop.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the same model on different data, and say which differences are real."""
    with session(as_json=as_json, debug=debug, on_interrupt="Stopped. The same command continues."):
        from bloomery.pipeline.ablation import derive_experiment, read_file
        from bloomery.pipeline.derive import write_recipe
        from bloomery.pipeline.locate import find_recipe

        source = find_recipe(experiment)
        raw, asked = read_file(source, overrides=overrides or ())
        derived = derive_experiment(raw, asked)
        name = f"{raw['name']}-arms"
        path = write_recipe(
            out or Path(f"{name}.toml"),
            name=name,
            seed=int(raw.get("seed", 0)),
            seeds=derived.seeds,
            cluster=raw.get("cluster"),
            comment=f"The arms of {source.name}, as `bloomery ablate` made them: change them there, or here.",
            stages=derived.stages,
        )
        if dry_run:
            _show_plan(path, asked, derived, as_json=as_json)
            return
        _run(path, store, workers=workers, as_json=as_json)


def _show_plan(path: Path, asked: "Experiment", derived: "Derived", *, as_json: bool) -> None:
    from bloomery.pipeline.derive import keep_upstream
    from bloomery.pipeline.recipe import load_recipe

    load_recipe(path)
    above = {arm: {*keep_upstream({"stages": derived.stages}, f"{asked.model}_{arm}"), f"{asked.model}_{arm}"} for arm in asked.arms}
    rows = [[name, table["stage"], [arm for arm in above if name in above[arm]]] for name, table in derived.stages.items()]
    if as_json:
        stages = [{"id": name, "stage": stage, "arms": arms} for name, stage, arms in rows]
        print_json({"recipe": str(path), "seeds": derived.seeds, "models": derived.models, "stages": stages})
        return
    everyone = list(above)
    print_table(["id", "stage", "arms"], [[name, stage, "all" if arms == everyone else ", ".join(arms)] for name, stage, arms in rows])
    print_text(f"\n{asked.model}_* are trained once for each of {len(derived.seeds)} seeds.")
    print_text(f"The recipe is {path}: the same command without --dry-run, or `bloomery run {path}`, runs it.")


def _run(path: Path, store: Path, *, workers: int | None, as_json: bool) -> None:
    from bloomery.core.artifact import Store
    from bloomery.core.files import read_json
    from bloomery.pipeline.ablation import REPORT
    from bloomery.pipeline.report import write_report

    result = run_recipe(path, store, workers=workers)
    if result.made or not (result.folder / "report.html").is_file():
        write_report(Store(store), result.folder)
    page = result.folder / REPORT / "ablation.html"
    report = read_json(page.with_suffix(".json"))
    if as_json:
        print_json({"recipe": str(path), "page": str(page), **report})
        return
    show(report)
    print_text(f"\nPage: {page}")


def show(report: dict[str, Any]) -> None:
    """The table of what was measured, and all that is said of it."""
    arms = report["arms"]
    rows = [[row["name"], *(row["shown"][arm] for arm in arms), row["verdict"]] for row in report["outcomes"]]
    print_table(["outcome", *arms, "best"], rows, title=report["question"])
    for section in report["statement"]:
        print_text("\n".join(["", section["title"], *(f"  - {sentence}" for sentence in section["sentences"])]))
