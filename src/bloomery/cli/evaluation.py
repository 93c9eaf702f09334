"""The commands that measure models: evaluate (benchmarks, and models side by side) and lm-eval (its tasks on our models)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any  # Any: JSON records

import typer

from bloomery.cli.display import Debug, Json, print_json, print_scores, print_table, print_text, session
from bloomery.cli.options import DEFAULT_STORE, NodeOption, StageSetOption, StoreOption

EVALUATE_EXAMPLES = (
    "Examples:\n\n    bloomery evaluate quickstart --tasks core --data benchmarks\n\n"
    "    bloomery evaluate path/to/huggingface_folder --tasks arc_easy,hellaswag,mmlu --download --limit 500\n\n"
    "    bloomery evaluate runs/quickstart/base runs/quickstart/sft runs/quickstart/dpo --tasks probes --prompts runs/quickstart/skills\n\n"
    "    bloomery evaluate quickstart --corpus texts.jsonl.gz    (bits per byte by source)\n\n"
    "    bloomery evaluate --list"
)
LM_EVAL_EXAMPLES = (
    "Examples:\n\n    bloomery lm-eval quickstart --tasks arc_easy --num_fewshot 5\n\n"
    "    bloomery lm-eval path/to/huggingface_folder --include_path my_tasks --tasks my_task --limit 100"
)


def evaluate(
    model: Annotated[list[str] | None, typer.Argument(help="Runs, checkpoints or Hugging Face folders.", metavar="RUN|MODEL...")] = None,
    tasks: Annotated[str | None, typer.Option("--tasks", help="Benchmarks and collections, with commas between.", metavar="A,B")] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="A folder of benchmarks' rows.", metavar="DIR")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch from the hub what --data lacks.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows of each benchmark; 0 = all.", metavar="N")] = 0,
    shots: Annotated[int, typer.Option("--shots", min=-1, help="Examples shown; -1 = the benchmark's own number.", metavar="N")] = -1,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the chat template.")] = False,
    corpus: Annotated[list[str] | None, typer.Option("--corpus", help="Documents, for bits per byte.", metavar="PATH")] = None,
    trained_on: Annotated[
        list[str] | None, typer.Option("--trained-on", help="Training documents, for contamination.", metavar="PATH")
    ] = None,
    lists: Annotated[list[str] | None, typer.Option("--lists", help="Lists of bad words, for toxicity.", metavar="PATH")] = None,
    scorer: Annotated[list[str] | None, typer.Option("--scorer", help="A toxicity classifier's folder.", metavar="DIR")] = None,
    prompts: Annotated[list[str] | None, typer.Option("--prompts", help="Held-out prompts to compare on.", metavar="PATH")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to make (default: under the store).", metavar="DIR")] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", help="A tokens artifact, for bits per byte.", metavar="PATH")] = None,
    baseline: Annotated[str | None, typer.Option("--baseline", help="Whom win rates are against; default the first.", metavar="N")] = None,
    node: NodeOption = None,
    list_tasks: Annotated[bool, typer.Option("--list", help="Show all benchmarks and collections, and leave.")] = False,
    settings: StageSetOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure models on benchmarks, or side by side on held-out prompts, with 95 % intervals."""
    with session(as_json=as_json, debug=debug, on_interrupt="Stopped. The same command continues."):
        from bloomery.core.errors import ConfigError

        folders = [Path(folder) for folder in data or ()]
        if list_tasks:
            _show_catalog(folders, as_json=as_json)
            return
        if not model:
            raise ConfigError("evaluate: name a run, a checkpoint or a Hugging Face folder (or --list)")

        from bloomery.core.files import read_json
        from bloomery.pipeline.locate import find_checkpoint, find_input
        from bloomery.pipeline.single import parse_settings, run_single_stage
        from bloomery.stages.catalog import load_stage

        names = distinct_names(model)
        chosen = [name for name in (tasks or "").split(",") if name]
        slots = {"prompts": prompts, "corpus": corpus, "documents": trained_on, "lists": lists, "scorers": scorer}
        slots["tokens"] = [tokens] if tokens is not None else None
        if not chosen and not prompts and not corpus:
            raise ConfigError("evaluate: nothing to evaluate on: give --tasks (and --data or --download), --prompts or --corpus")
        found = [find_checkpoint(name, store, node=node) for name in model]
        if download:
            folders = _download(chosen, folders)
        inputs = {slot: [find_input(path, store) for path in paths] for slot, paths in slots.items() if paths}
        inputs |= {"models": [str(path) for path in found], **({"data": list(map(str, folders))} if chosen and folders else {})}
        options = {"names": names, "baseline": baseline or names[0], "tasks": chosen, "limit": limit, "num_shots": shots, "chat": chat}
        options |= parse_settings(settings or ())
        artifact = run_single_stage(
            load_stage("evaluate"), inputs=inputs, settings=options, out=out or _default_out(store, names, inputs, options)
        )
        scores = read_json(artifact.path / "scores.json")
        if as_json:
            print_json({"path": str(artifact.path), **scores})
        else:
            show_scores(scores, artifact.path)


def lm_eval(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A run, a checkpoint or a Hugging Face folder.", metavar="RUN|MODEL")],
    node: NodeOption = None,
    store: StoreOption = DEFAULT_STORE,
    debug: Debug = False,
) -> None:
    """Run any task of lm-eval (EleutherAI) on a model: all other options are lm-eval's own."""
    with session(as_json=False, debug=debug):
        from bloomery.core.errors import ConfigError
        from bloomery.pipeline.locate import find_checkpoint

        path = find_checkpoint(model, store, node=node)
        try:
            from bloomery.evaluate.lm_eval_adapter import run_command_line
        except ImportError as error:
            raise ConfigError(f"lm-eval is not installed ({error.name}): pip install 'bloomery[lm-eval]'") from error
        run_command_line(path, context.args)


def show_scores(scores: Mapping[str, Any], folder: Path) -> None:
    """Tables of what was measured, and where the rest is."""
    if scores["num_prompts"]:
        print_scores(scores)
    if "ratings" in scores:
        _show_ratings(scores)
    if "tasks" in scores:
        _show_tasks(scores)
    if "tradeoffs" in scores:
        _show_tradeoffs(scores)
    files = [name for name in ("evaluation.html", "samples.parquet", "task_samples.parquet") if (folder / name).exists()]
    print_text(f"All of it: {folder / 'scores.json'}, {', '.join(files)}")


def _show_tasks(scores: Mapping[str, Any]) -> None:
    from bloomery.evaluate.page import core_text, left_out, task_rows

    rows = task_rows(scores)
    models = scores["models"]
    marked = any(row["contaminated"] for row in rows)
    lines = [
        [
            row["name"],
            row["metric"],
            str(row["shots"]),
            f"{row['rows']:,}",
            *row["cells"],
            f"{100 * row['chance']:.0f} %" if row["chance"] else "",
        ]
        + ([row["contaminated"]] if marked else [])
        for row in rows
    ]
    limit = f", at most {scores['limit']:,} rows each" if scores.get("limit") else ""
    title = f"Benchmarks, with 95 % intervals{limit}"
    print_table(["task", "figure", "shots", "rows", *models, "chance", *(["contaminated"] if marked else [])], lines, title=title)
    for model in models if "core" in scores else ():
        print_text(f"CORE of {model}: {core_text(scores['core'][model])}")
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out(scores):
        reasons.setdefault("no rows of it in --data" if "Looked for" in reason else reason, []).append(name)
    for reason, names in reasons.items():
        print_text(f"left out: {', '.join(names)} ({reason})")


def _show_ratings(scores: Mapping[str, Any]) -> None:
    from bloomery.core.rating_tables import rating_tables

    for table in rating_tables(scores):
        rows = [[row["model"], row["bradley_terry"], row["elo"], row["order_spread"], row["games"]] for row in table["rows"]]
        title = f"Ratings by {table['kind']} answers, the gold as judge, with 95 % intervals"
        print_table(["model", "Bradley-Terry", "Elo", "order", "won / tied / lost"], rows, title=title)
        if table["problem"]:
            print_text(f"No Bradley-Terry ratings: {table['problem']}")


def _show_tradeoffs(scores: Mapping[str, Any]) -> None:
    from bloomery.evaluate.page import format_interval

    columns = {
        "helpfulness": "helpful",
        "instruction_following": "follows instructions",
        "entropy_nats": "entropy",
        "distinct_2": "distinct-2",
    }
    rows = []
    for row in scores["tradeoffs"]:
        cost = row["cost"]
        flops = f"{cost['training_flops']:.1e}" if "training_flops" in cost else "-"
        rows.append([row["model"], *(format_interval(key, row[key]) for key in columns), flops])
    print_table(["model", *columns.values(), "FLOPs of its training"], rows, title="What each stage gains and costs")


def _show_catalog(folders: Sequence[Path], *, as_json: bool) -> None:
    from bloomery.evaluate.rows import find_files
    from bloomery.evaluate.tasks.catalog import catalog, collections

    known = catalog()
    if as_json:
        print_json(
            {
                "collections": collections(),
                "tasks": {
                    name: {
                        "title": b.title,
                        "kind": b.kind,
                        "metric": b.metric,
                        "num_shots": b.num_shots,
                        "chance": b.chance,
                        "groups": b.groups,
                    }
                    for name, b in known.items()
                },
            }
        )
        return
    rows = []
    for name, benchmark in known.items():
        here = "yes" if benchmark.source.built_in or find_files(benchmark.source, folders) else "hub" if benchmark.source.hub else "no"
        rows.append([name, benchmark.title, benchmark.kind, str(benchmark.num_shots), benchmark.metric, ", ".join(benchmark.groups), here])
    print_table(["task", "what it is", "kind", "shots", "figure", "collections", "rows here"], rows)
    print_text(f"Collections: {', '.join(collections())}. bits_per_byte scores the documents of --corpus.")


def _download(chosen: Sequence[str], folders: Sequence[Path]) -> list[Path]:
    from bloomery.core.cached_arrays import cache_folder
    from bloomery.evaluate.download import fetch_rows
    from bloomery.evaluate.tasks.catalog import choose

    cache = cache_folder() / "benchmarks"
    benchmarks = choose([name for name in chosen if name != "bits_per_byte"])
    return [*folders, *fetch_rows(benchmarks, folders, cache, required=chosen, note=lambda text: typer.echo(text, err=True))]


def _default_out(store: Path, names: Sequence[str], inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps([inputs, options], sort_keys=True, default=str).encode()).hexdigest()[:8]
    short = "-".join(name.strip("/").replace("/", "_") for name in names)[:80]
    return store / "evaluations" / f"{short}-{digest}"


def distinct_names(models: Sequence[str]) -> list[str]:
    """What models are called beside one another: the ends of their paths, where these differ."""
    short = [Path(name.rstrip("/")).name for name in models]
    return short if len(set(short)) == len(short) else list(models)
