"""bloomery ladder: a family of small models on the data of a recipe, the law of their losses, and how far it misses a larger one."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any  # Any: tables of a recipe

import typer

from bloomery.cli.display import Debug, Json, print_json, print_table, print_text, session
from bloomery.cli.options import DEFAULT_STORE, RecipeSetOption, StoreOption, WorkersOption
from bloomery.cli.running import run_recipe

if TYPE_CHECKING:
    from bloomery.scaling.ladder import Rung

log = logging.getLogger(__name__)

LADDER_EXAMPLES = (
    "Examples:\n\n    bloomery ladder my.toml --widths 48,64,96,128 --ratios 5,10,20 --held-out 160:20\n\n"
    "    bloomery ladder my.toml --stage base --widths 48,64,96,128 --flops 1e12,4e12,1.6e13 --held-out 160:20    (IsoFLOP)\n\n"
    "    bloomery ladder ladder --widths 64,80,96,128 --ratios 4,8,16 --held-out 160:16 --dry-run    (the shipped recipe's texts)\n\n"
    "    bloomery ladder my.toml --layers 3 --widths 48,64,96,128 --ratios 4,8,16 --held-out 192:8,256:8    (two, and none deeper)\n\n"
    "    bloomery ladder my.toml --widths 64,80,96 --ratios 5,20 --tasks hellaswag,lambada_openai --data benchmarks --limit 500\n\n"
    "The runs are a recipe, written to --out: killed, the same command continues; `bloomery budget --law LAW.json` reads the law."
)


def ladder(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one: its data and tokenizer.", metavar="RECIPE")],
    widths: Annotated[str, typer.Option("--widths", help="Of the models, multiples of 16.", metavar="N,N...")],
    held_out: Annotated[
        str, typer.Option("--held-out", help="Larger runs to predict: width and tokens a parameter.", metavar="WIDTH:RATIO,...")
    ] = "",
    ratios: Annotated[str, typer.Option("--ratios", help="Tokens a parameter: each width with each.", metavar="X,X...")] = "",
    flops: Annotated[str, typer.Option("--flops", help="Budgets: each spent on each width (IsoFLOP).", metavar="C,C...")] = "",
    layers: Annotated[int, typer.Option("--layers", min=0, help="Of every model; 0 = one for 64 dimensions.", metavar="N")] = 0,
    tasks: Annotated[str, typer.Option("--tasks", help="Benchmarks to ask every model, with commas between.", metavar="A,B")] = "",
    data: Annotated[list[str] | None, typer.Option("--data", help="A folder of benchmarks' rows.", metavar="DIR")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows of each benchmark; 0 = all.", metavar="N")] = 0,
    shots: Annotated[int, typer.Option("--shots", min=-1, help="Examples shown; -1 = the benchmark's own number.", metavar="N")] = -1,
    overrides: RecipeSetOption = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Which `pretrain` of the recipe (default: the only one).", metavar="ID")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where the recipe of the ladder goes.", metavar="FILE")] = None,
    workers: WorkersOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the recipe, list its runs and stop.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a ladder of small models, fit their law, and predict a larger run that it has not seen."""
    with session(as_json=as_json, debug=debug, on_interrupt="Stopped. The same command continues."):
        from bloomery.core.errors import ConfigError
        from bloomery.pipeline.derive import evaluate_table, find_one, keep_upstream, read_tables, write_recipe
        from bloomery.pipeline.locate import find_recipe

        asked = [task for task in tasks.split(",") if task]
        if (data or limit) and not asked:
            raise ConfigError("--data and --limit say what --tasks are asked of: name some")
        source = find_recipe(recipe)
        raw = read_tables(source, overrides=overrides or ())
        base = find_one(raw, "pretrain", stage)
        upstream = keep_upstream(raw, base)
        given = raw["stages"][base].get("config", {})
        sizes = {key: int(given[key]) for key in ("sequence_tokens", "batch_tokens") if key in given}  # not the dial's: the recipe's
        rungs, larger = _plan(widths, ratios, flops, held_out, num_layers=layers, vocab_size=_vocab_size(upstream), sizes=sizes)
        runs = _runs(raw["stages"][base], [*rungs, *larger])
        scores = {"scores": evaluate_table(list(runs), tasks=asked, data=data or (), limit=limit, num_shots=shots)} if asked else {}
        tokens = raw["stages"][base].get("inputs", {}).get("tokens", [])
        inputs = {"models": list(runs), **{name: name for name in scores}, "tokens": [tokens] if isinstance(tokens, str) else tokens}
        law = {"stage": "scaling_law", "inputs": inputs, "config": {"num_held_out": len(larger)}}
        name = f"ladder-{source.stem}"
        comment = f"The ladder of `{base}` of {source.name}, as `bloomery ladder` made it: change it there, or here."
        stages = {**upstream, **runs, **scores, "law": law}
        path = write_recipe(
            out or Path(f"{name}.toml"),
            name=name,
            seed=int(raw.get("seed", 0)),
            cluster=raw.get("cluster"),
            comment=comment,
            stages=stages,
        )
        if dry_run:
            rows = [[r.name, f"{r.params / 1e6:.3f} M", f"{r.tokens / 1e6:.2f} M", f"{r.flops:.2e}"] for r in [*rungs, *larger]]
            if as_json:
                print_json({"recipe": str(path), "runs": [{**r._asdict(), "flops": r.flops} for r in [*rungs, *larger]]})
            else:
                print_table(["run", "parameters", "tokens", "FLOP"], rows)
                print_text(f"\nThe recipe is {path}: the same command without --dry-run, or `bloomery run {path}`, runs it.")
            return
        _run(path, store, workers=workers, as_json=as_json)


def _plan(
    widths: str, ratios: str, flops: str, held_out: str, *, num_layers: int, vocab_size: int, sizes: dict[str, int]
) -> tuple[list["Rung"], list["Rung"]]:
    from bloomery.core.errors import ConfigError
    from bloomery.scaling.fitting import Measured, check_runs
    from bloomery.scaling.ladder import plan_rungs

    same = {"vocab_size": vocab_size, "num_layers": num_layers, **sizes}

    def plan(found: list[int], *, ratios: list[float], budgets: list[float]) -> list["Rung"]:
        return plan_rungs(found, ratios=ratios, budgets=budgets, **same)

    try:
        budgets = [float(part) for part in flops.split(",") if part]
        each = [float(part) for part in ratios.split(",") if part]
        rungs = plan([int(part) for part in widths.split(",")], ratios=each, budgets=budgets)
        pairs = _pairs(held_out)
        larger = [rung for width, ratio in pairs for rung in plan([width], ratios=[ratio], budgets=[])]
    except ValueError as error:
        raise ConfigError(f"the ladder cannot be planned: {error}") from error
    if len(larger) < len(pairs):
        raise ConfigError(f"--held-out {held_out}: {len(pairs) - len(larger)} of these runs would take too few steps to say anything")
    larger.sort(key=lambda rung: rung.flops)
    if larger and rungs and larger[0].flops <= rungs[-1].flops:
        raise ConfigError(
            f"--held-out {held_out}: {larger[0].name} takes {larger[0].flops:.2e} FLOP, no more than {rungs[-1].name} "
            f"({rungs[-1].flops:.2e}): what is held out must be larger than every run of the fit"
        )
    try:
        check_runs([Measured(rung.params, rung.tokens, 1.0) for rung in rungs])
    except ValueError as error:
        raise ConfigError(
            f"no law can be fitted to this ladder: {error}. Add --widths or --ratios (runs of few steps are left out)"
        ) from error
    _warn_of_depth(rungs, larger)
    return rungs, larger


def _pairs(held_out: str) -> set[tuple[int, float]]:
    try:
        return {(int(width), float(ratio)) for width, ratio in (part.split(":") for part in held_out.split(",") if part)}
    except ValueError as error:
        raise ValueError(f"--held-out {held_out}: expected a width and the tokens a parameter, as in 128:8 or 128:8,192:8") from error


def _warn_of_depth(rungs: Sequence["Rung"], larger: Sequence["Rung"]) -> None:
    """L(N, D) counts parameters only, and deeper models learnt what those of the fit had not: docs/ladder.md, A longer step misses."""
    fitted = {rung.config["model"]["depth"] for rung in rungs}
    for run in larger:
        if run.config["model"]["depth"] not in fitted:
            log.warning(
                "the held-out model has %d layers, those of the fit %s: the law may miss it by several per cent (docs/ladder.md); "
                "--layers gives all the same",
                run.config["model"]["depth"],
                " and ".join(map(str, sorted(fitted))),
            )


def _runs(table: Mapping[str, Any], rungs: Sequence["Rung"]) -> dict[str, dict[str, Any]]:
    """The recipe's `pretrain` once for each rung: what the dial makes is the rung's, the rest the recipe's."""
    given = table.get("config", {})
    own = {key: value for key, value in table.items() if key != "config"}
    settings = {key: value for key, value in given.items() if key not in rungs[0].config}
    return {rung.name: {**own, "config": {**settings, **rung.config}} for rung in rungs}


def _vocab_size(upstream: dict[str, Any]) -> int:
    from bloomery.core.errors import ConfigError
    from bloomery.stages.train_tokenizer import TrainTokenizerConfig

    tables = [table for table in upstream.values() if table.get("stage") == "train_tokenizer"]
    if not tables:
        raise ConfigError("the recipe trains no tokenizer: the sizes of a ladder need the size of its vocabulary")
    return int(tables[-1].get("config", {}).get("vocab_size", TrainTokenizerConfig().vocab_size))


def _run(path: Path, store: Path, *, workers: int | None, as_json: bool) -> None:
    from bloomery.core.artifact import Store
    from bloomery.core.files import read_json
    from bloomery.pipeline.report import write_report

    result = run_recipe(path, store, workers=workers)
    write_report(Store(store), result.folder)
    law = result.folder / "law"
    report = read_json(law / "ladder.json")
    if as_json:
        print_json({"recipe": str(path), "law_file": str(law / "law.json"), **report})
        return
    print_table(
        ["constant", "value", "95 %"],
        [[n, f"{c['value']:.4g}", f"{c['low']:.4g}..{c['high']:.4g}"] for n, c in report["constants"].items()],
    )
    for row in report["held_out"]:
        predicted = row["predicted"]
        interval = f"{predicted['value']:.4f} [{predicted['low']:.4f}, {predicted['high']:.4f}]: {100 * row['error']:+.2f} %"
        size = f"{row['params'] / 1e6:.2f} M parameters, {row['tokens'] / 1e6:.1f} M tokens"
        print_text(f"\nHeld out: {size}: measured {row['loss']:.4f}, predicted {interval}")
    if report["held_out"] and report["context"]:
        print_text(f"\n{report['context']['sentence']}")
    for task in report["tasks"]:
        print_text(f"\n{task['title']}: {task['sentence']}")
    print_text(f"\nPage: {law / 'ladder.html'}\nLaw:  bloomery budget --law {law / 'law.json'} ...")
