"""The command line: typed functions as commands. Heavy imports stand inside the functions, so that --help is quick.

bloomery run quickstart                 everything, from raw pages to an aligned model, with a report
bloomery chat runs/quickstart           talk to it
bloomery serve runs/quickstart          let OpenAI's clients talk to it
bloomery export runs/quickstart         take it away, for transformers or llama.cpp
bloomery arena MODEL MODEL --prompts    who answers better?
bloomery budget --params 1B             what would it cost?
bloomery status|why|report|inspect RUN  look at a run
bloomery stage NAME --input ... --out   one stage on your own files
"""

import atexit
import gc
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any  # Any: rows for a table

import typer

from bloomery.cli import (
    ablate,
    arena,
    budget,
    doctor,
    evaluation,
    generation,
    labels,
    ladder,
    looks,
    lr_find,
    mix,
    models,
    scoring,
    serving,
    web,
)
from bloomery.cli.display import (
    Debug,
    Json,
    format_bytes,
    format_seconds,
    print_json,
    print_scores,
    print_table,
    print_text,
    session,
)
from bloomery.cli.options import DEFAULT_STORE, ClusterOption, RecipeSetOption, RunArgument, StoreOption, WorkersOption
from bloomery.cli.running import choose_workers, default_workers

if TYPE_CHECKING:
    from bloomery.core.artifact import Store
    from bloomery.pipeline.plan import Plan

app = typer.Typer(
    name="bloomery",
    help="From raw web crawl to an aligned chat model.\n\nStart with `bloomery run quickstart`, then `bloomery chat quickstart`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.command(
    epilog="Examples:\n\n    bloomery run quickstart\n\n    bloomery run my.toml --set filtered.thresholds.too_few_words=40 --dry-run\n\n"
    "    bloomery run my.toml --only dedup --workers 8"
)
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.", metavar="RECIPE")],
    store: StoreOption = DEFAULT_STORE,
    overrides: RecipeSetOption = None,
    only: Annotated[str | None, typer.Option("--only", help="Run just this stage; its inputs must be done.", metavar="ID")] = None,
    rebuild: Annotated[
        list[str] | None, typer.Option("--rebuild", help="Make this stage, and all that depends on it, again.", metavar="ID")
    ] = None,
    workers: WorkersOption = None,
    cluster: ClusterOption = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random draw; overrides the recipe's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and why, and stop.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a recipe: every stage that is not done yet. Killed at any moment, the same command continues."""
    with session(as_json=as_json, debug=debug, on_interrupt="Stopped. Nothing finished is lost: the same command continues."):
        from bloomery.pipeline.locate import find_recipe

        path, options = find_recipe(recipe), [*(overrides or ()), *(f"cluster.{k}={v}" for k, v in _parse_cluster(cluster).items())]
        key = None if only or rebuild or dry_run else _recall_key(path, options, seed)
        if key is not None and (found := _recall_run(path, store, key)):
            _show_end(*found, made=[], as_json=as_json)
            return
        if not dry_run:
            _start_early(workers, cluster)

        from bloomery.core.artifact import Store
        from bloomery.pipeline.plan import make_plan
        from bloomery.pipeline.recipe import load_recipe
        from bloomery.pipeline.run import run_plan

        artifacts = Store(store)
        plan = make_plan(load_recipe(path, overrides=options, seed=seed), artifacts, only=only, rebuild=rebuild or ())
        if dry_run:
            _show_plan(plan, artifacts, as_json=as_json)
            return
        workers = choose_workers(workers, plan.recipe.cluster)
        result = run_plan(plan, artifacts, workers=workers, command=["bloomery", *sys.argv[1:]])
        if result.made or not (result.folder / "report.html").is_file():
            from bloomery.pipeline.report import write_report

            write_report(artifacts, result.folder)
        if key is not None:
            from bloomery.pipeline.recall import remember

            remember(result.folder, key)
        _show_end(result.folder, result.found, made=result.made, as_json=as_json)


@app.command(epilog="Examples:\n\n    bloomery status runs/quickstart\n\n    bloomery status quickstart --json")
def status(run: RunArgument, store: StoreOption = DEFAULT_STORE, as_json: Json = False, debug: Debug = False) -> None:
    """Show how far a run is: each stage's state, time, memory and size."""
    with session(as_json=as_json, debug=debug):
        from bloomery.pipeline.locate import require_run
        from bloomery.pipeline.status import read_status

        folder = require_run(run, store)
        state = read_status(folder)
        if as_json:
            print_json(state)
            return
        rows = [_status_row(node) for node in state["nodes"]]
        print_table(["id", "stage", "state", "time", "memory", "size", "made because"], rows, title=f"{folder}: {state['status']}")


@app.command(
    epilog="Examples:\n\n    bloomery why quickstart\n\n    bloomery why runs/quickstart filtered\n\n"
    "    bloomery why recipes/quickstart.toml --set filtered.thresholds.too_few_words=40"
)
def why(
    run: Annotated[str, typer.Argument(help="A run's folder or name, or a recipe.", metavar="RUN")],
    stage_id: Annotated[str | None, typer.Argument(help="Only this stage, with every difference.", metavar="[ID]")] = None,
    store: StoreOption = DEFAULT_STORE,
    overrides: RecipeSetOption = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed, as for `run`.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say for each stage whether it is done, and if not, what changed since its nearest older artifact."""
    with session(as_json=as_json, debug=debug):
        from bloomery.core.artifact import Store
        from bloomery.pipeline.locate import find_recipe, find_run, read_spec
        from bloomery.pipeline.plan import make_plan
        from bloomery.pipeline.recipe import load_recipe

        folder = find_run(run, store)
        if folder is None:
            path, options = find_recipe(run), list(overrides or ())
        else:
            spec = read_spec(folder)
            path, options, store = Path(spec["recipe_file"]), [*spec["overrides"], *(overrides or ())], folder.parent
            seed = spec["seed"] if seed is None else seed
        artifacts = Store(store)
        plan = make_plan(load_recipe(path, overrides=options, seed=seed), artifacts)
        _show_plan(plan, artifacts, as_json=as_json, only=stage_id)


@app.command(epilog="Examples:\n\n    bloomery report runs/quickstart")
def report(run: RunArgument, store: StoreOption = DEFAULT_STORE, as_json: Json = False, debug: Debug = False) -> None:
    """Write report.html and report.md of a run again, from what is in the store."""
    with session(as_json=as_json, debug=debug):
        from bloomery.core.artifact import Store
        from bloomery.pipeline.locate import require_run
        from bloomery.pipeline.report import write_report

        folder = require_run(run, store)
        path = write_report(Store(folder.parent), folder)
        if as_json:
            print_json({"report": path})
        else:
            print_text(f"{path}")


@app.command(
    epilog="Examples:\n\n    bloomery stage extract --input pages='crawl/*.warc.gz' --out extracted\n\n"
    "    bloomery stage dedup --input documents=extracted --out unique --set bands=20 --set rows=5"
)
def stage(
    name: Annotated[str, typer.Argument(help="The stage, such as extract, filter, dedup or tokenize.", metavar="NAME")],
    out: Annotated[Path, typer.Option("--out", help="The folder to make; it must not exist.", metavar="DIR")],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Files, a folder or an artifact for an input.", metavar="SLOT=PATH_OR_GLOB")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the stage.", metavar="KEY=VALUE")] = None,
    workers: WorkersOption = None,
    cluster: ClusterOption = None,
    devices: Annotated[int, typer.Option("--devices", min=1, help="Processes that train together.")] = 1,
    launch: Annotated[list[str] | None, typer.Option("--launch", help="How they share it.", metavar="KEY=VALUE")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run one stage on your own files, without a recipe or a store. Killed, the same command continues."""
    with session(as_json=as_json, debug=debug, on_interrupt="Stopped. The same command continues."):
        _start_early(workers, cluster)
        from bloomery.core.stage import Cluster
        from bloomery.pipeline.single import parse_inputs, parse_settings, run_single_stage
        from bloomery.stages.catalog import load_stage

        place = Cluster.model_validate(_parse_cluster(cluster))
        artifact = run_single_stage(
            load_stage(name),
            inputs=parse_inputs(inputs or ()),
            settings=parse_settings(settings or ()),
            out=out,
            workers=choose_workers(workers, place),
            devices=devices,
            launch_settings=parse_settings(launch or (), flag="--launch"),
            cluster=place,
        )
        models.show_artifact(artifact, as_json=as_json)


app.command(epilog=looks.INSPECT_EXAMPLES)(looks.inspect)
app.command(epilog=models.CHAT_EXAMPLES)(models.chat)
app.command(epilog=generation.GENERATE_EXAMPLES)(generation.generate)
app.command(epilog=serving.SERVE_EXAMPLES)(serving.serve)
app.command(epilog=evaluation.EVALUATE_EXAMPLES)(evaluation.evaluate)
app.command(
    name="lm-eval", epilog=evaluation.LM_EVAL_EXAMPLES, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)(evaluation.lm_eval)
app.command(epilog=scoring.SCORE_EXAMPLES)(scoring.score)
app.command(epilog=models.EXPORT_EXAMPLES)(models.export)
app.command(epilog=arena.ARENA_EXAMPLES)(arena.arena)
app.add_typer(labels.app)
app.command(epilog=budget.BUDGET_EXAMPLES)(budget.budget)
app.command(epilog=ladder.LADDER_EXAMPLES)(ladder.ladder)
app.command(epilog=ablate.ABLATE_EXAMPLES)(ablate.ablate)
app.command(epilog=mix.MIX_EXAMPLES)(mix.mix)
app.command(epilog=doctor.DOCTOR_EXAMPLES)(doctor.doctor)
app.command(name="lr-find", epilog=lr_find.LR_FIND_EXAMPLES)(lr_find.lr_find)
app.command(epilog=web.WEB_EXAMPLES)(web.web)


def main() -> None:
    """The console script."""
    # What is imported stays until the end: looking for garbage in it took a tenth of a second at the start and another at the end.
    gc.set_threshold(20_000, 20, 20)
    atexit.register(gc.freeze)
    # Read by GNU OpenMP when torch is loaded, so set before. Threads that wait spin for long by default and lose most of
    # their time where another process wants the cores too (a training step took four times as long); with a short spin
    # a quiet machine keeps nine tenths of its speed and a busy one works on.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    app()


def _parse_cluster(option: str | None) -> dict[str, str]:
    """The settings of [cluster] that --cluster stands for."""
    from bloomery.core.config import suggest
    from bloomery.core.errors import ConfigError

    if option is None:
        return {}
    kind, _, address = option.partition(":")
    if kind not in ("local", "ray") or (address and kind == "local"):
        raise ConfigError(f"--cluster {option}: expected local, ray, ray:auto or ray:HOST:PORT; {suggest(kind, ['local', 'ray'])}")
    return {"kind": kind} | ({"address": address} if address else {})


def _start_early(workers: int | None, cluster: str | None) -> None:
    """Lets the server that workers are forked from import while this process does, if there will be any."""
    if (workers or default_workers()) > 1 and cluster in (None, "local"):
        from bloomery.core.pool import start_fork_server

        start_fork_server()


def _show_plan(plan: "Plan", store: "Store", *, as_json: bool, only: str | None = None) -> None:
    from bloomery.core.config import suggest
    from bloomery.core.errors import ConfigError

    steps = [step for step in plan.steps if only in (None, step.node.id)]
    if not steps:
        raise ConfigError(f'there is no stage with the id "{only}"; {suggest(only or "", plan.recipe.nodes)}')
    if as_json:
        nodes = [
            {
                "id": step.node.id,
                "stage": step.node.stage.name,
                "state": step.state,
                "reason": step.reason,
                "differences": step.differences,
                "nearest": step.nearest,
                "fingerprint": step.fingerprint,
                "artifact": store.artifact_path(step.node.stage.name, step.fingerprint),
            }
            for step in steps
        ]
        print_json({"recipe": plan.recipe.name, "done": plan.is_done, "nodes": nodes})
        return
    rows = [[step.node.id, step.node.stage.name, step.state, step.reason if step.state != "done" else ""] for step in steps]
    print_table(["id", "stage", "state", "reason"], rows)
    for step in steps if only else []:
        print_text(f"artifact: {store.artifact_path(step.node.stage.name, step.fingerprint)}")
        if step.nearest:
            print_text("\n".join([f"compared with {step.nearest}:", *(f"  {text}" for text in step.differences)]))
    if plan.is_done and not only:
        print_text("All is done.")


def _status_row(node: dict[str, Any]) -> list[str]:
    timing = node["timing"]
    return [
        node["id"],
        node["stage"],
        node["status"],
        format_seconds(timing["seconds"]) if timing else "",
        format_bytes(timing["peak_memory_bytes"]) if timing else "",
        format_bytes(node["bytes"]) if node["status"] == "done" else "",
        node["reason"],
    ]


def _recall_key(recipe: Path, overrides: list[str], seed: int | None) -> str | None:
    from bloomery.pipeline.recall import recall_key

    try:
        return recall_key(recipe, overrides=overrides, seed=seed)
    except (OSError, ValueError):
        return None  # whatever is wrong with the recipe, reading it properly says it better


def _recall_run(recipe: Path, store: Path, key: str) -> tuple[Path, list[str]] | None:
    """The folder and nodes of this recipe's run if it is certain, without a plan, that all of it is done."""
    import tomllib

    from bloomery.pipeline.recall import recall

    folder = store / str(tomllib.loads(recipe.read_text(encoding="utf-8")).get("name"))
    ids = recall(folder, key)
    return (folder, ids) if ids and (folder / "report.html").is_file() else None


def _show_end(folder: Path, found: list[str], *, made: list[str], as_json: bool) -> None:
    from bloomery.core.files import read_json
    from bloomery.pipeline.locate import finished_nodes

    report_path = folder / "report.html"
    if as_json:
        print_json({"run": folder, "made": made, "already_done": found, "report": report_path})
        return
    print_text(f"\nDone: {len(made)} stage(s) made." if made else "All is done: nothing had to be made.")
    for path in finished_nodes(folder, kind="scores").values():
        print_scores(read_json(path / "scores.json"))
    for node_id in finished_nodes(folder, kind="frontier"):
        print_text(f"Methods: {folder / node_id / 'frontier.html'}")
    for node_id in finished_nodes(folder, kind="ablation"):
        print_text(f"Arms:    {folder / node_id / 'ablation.html'}")
    print_text(f"Report:  {report_path}")
    if finished_nodes(folder, kind="checkpoint"):
        print_text(f"Chat:    bloomery chat {shlex.quote(str(folder))}")
    print_text(f"Look in: bloomery inspect {shlex.quote(str(folder))}")
