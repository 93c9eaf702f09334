"""bloomery mix: small runs on many mixtures of a recipe's sources, the law of their losses, its error, and the proportions it suggests."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple  # Any: tables of a recipe

import typer

from bloomery.cli.display import Debug, Json, print_json, print_table, print_text, session
from bloomery.cli.options import DEFAULT_STORE, RecipeSetOption, StoreOption, WorkersOption
from bloomery.cli.running import run_recipe

if TYPE_CHECKING:
    from bloomery.pipeline.plan import Plan
    from bloomery.scaling.mixture_plan import MixturePlan

MIX_EXAMPLES = (
    "Examples:\n\n    bloomery mix mixture\n\n    bloomery mix my.toml --stage base --proxies 32 --held-out 8 --width 96 --tokens 2M\n\n"
    "    bloomery mix my.toml --target encyclopedia=2,books=1 --max-epochs 4\n\n"
    "    bloomery mix my.toml --set base.tokens=500M --dry-run\n\n"
    "The runs are a recipe, written to --out: killed, the same command continues. (The stage `mix` is something else: it joins documents.)"
)
MAX_EPOCHS = 4.0
"""Where neither the command nor the recipe says: more passes over the same text hardly help (arXiv:2305.16264)."""
REPEATED = 2
"""Mixtures that are run with every seed: the natural one and the first that was drawn."""


class _Base(NamedTuple):
    """The `pretrain` that proportions are wanted for."""

    name: str
    table: dict[str, Any]
    names: list[str]
    sources: list[str]
    tokens: int
    max_epochs: float
    seed: int


class _Sizes(NamedTuple):
    train: list[int]
    vocab_size: int


def mix(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one: its sources.", metavar="RECIPE")],
    stage: Annotated[
        str | None, typer.Option("--stage", help="Which `pretrain` of the recipe (default: the only one).", metavar="ID")
    ] = None,
    proxies: Annotated[int, typer.Option("--proxies", min=1, help="Mixtures to run, the natural one among them.")] = 24,
    held_out: Annotated[int, typer.Option("--held-out", min=0, help="How many of them test the law and are not fitted.")] = 6,
    width: Annotated[int, typer.Option("--width", help="Of the small models, a multiple of 16; 64 to a layer.")] = 64,
    tokens: Annotated[str, typer.Option("--tokens", help="That each of them reads.", metavar="COUNT")] = "1M",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of two of the mixtures, and of the check: they show the noise.")] = 3,
    target: Annotated[
        str,
        typer.Option("--target", help="Weights of the sources in the loss to lower (default: all the same).", metavar="NAME=WEIGHT,..."),
    ] = "",
    max_epochs: Annotated[
        float | None, typer.Option("--max-epochs", min=0, help="Of a source at most, 0 for no limit (default: the recipe's, else 4).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the mixtures and the runs (default: the recipe's).")] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Also run the suggested mixture.")] = True,
    overrides: RecipeSetOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where the recipe of the runs goes.", metavar="FILE")] = None,
    workers: WorkersOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the recipe, list its runs and stop.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Suggest proportions of sources from small runs on many mixtures, and show first how wrong the law is on runs it has not seen."""
    with session(as_json=as_json, debug=debug, on_interrupt="Stopped. The same command continues."):
        from bloomery.pipeline.derive import find_one, keep_upstream, read_tables, write_recipe
        from bloomery.pipeline.locate import find_recipe

        source = find_recipe(recipe)
        raw = read_tables(source, overrides=overrides or ())
        base = _read_base(raw, find_one(raw, "pretrain", stage), max_epochs=max_epochs, seed=seed)
        goal = _parse_target(target, base.names)
        _check_counts(proxies, held_out, len(base.names))
        upstream = keep_upstream(raw, base.name)
        path = out or Path(f"mixture-{source.stem}.toml")
        comment = f"Small runs on mixtures of the sources of `{base.name}` of {source.name}, as `bloomery mix` made them."
        name, cluster = f"mixture-{source.stem}", raw.get("cluster")
        write = functools.partial(write_recipe, path, name=name, seed=base.seed, cluster=cluster, comment=comment)
        write(stages=upstream)  # the mixtures are drawn around the sizes of the sources, so these come first
        if (sizes := _read_sizes(base, path, store, upstream, run=not dry_run, workers=workers)) is None:
            _tell_of_sources(path, as_json=as_json)
            return
        plan, runs = _plan(base, sizes, proxies=proxies, held_out=held_out, width=width, tokens=tokens, seeds=seeds)
        inputs = _law_inputs(plan, seeds)
        law: dict[str, Any] = {"stage": "mixture_law", "inputs": inputs, "config": _law_config(base, goal)}
        write(stages={**upstream, **runs, "law": law})
        if dry_run:
            _show_runs(path, base.names, plan, seeds, as_json=as_json)
            return
        result = run_recipe(path, store, workers=workers)
        page, made = result.folder / "law", bool(result.made)
        if check:
            checks = _check_runs(base, page, runs["natural"], seeds)
            checked = {**law, "inputs": {**inputs, "checks": list(checks)}}
            write(stages={**upstream, **runs, "law": law, **checks, "checked": checked})
            result = run_recipe(path, store, workers=workers)
            page, made = result.folder / "checked", made or bool(result.made)
        if made or not (result.folder / "report.html").is_file():
            _write_report(store, result.folder)
        _show(path, page, as_json=as_json)


def _read_base(raw: Mapping[str, Any], name: str, *, max_epochs: float | None, seed: int | None) -> _Base:
    """Raises ConfigError if there is no mixture to find proportions for."""
    from bloomery.core.errors import ConfigError
    from bloomery.stages.pretrain import PretrainConfig, parse_count

    table = raw["stages"][name]
    config, inputs = table.get("config", {}), table.get("inputs", {})
    sources = inputs.get("tokens", [])
    if not isinstance(sources, list) or len(sources) < 2:
        raise ConfigError(
            f"`{name}` has one source: proportions need two or more inputs `tokens`, each a source (see recipes/mixture.toml)"
        )
    names = config.get("names", [])
    if len(names) != len(sources):
        raise ConfigError(
            f"`{name}` has {len(sources)} inputs `tokens` and {len(names)} names: give `names` in its config, one for each, in their order"
        )
    if "init" in inputs:
        raise ConfigError(f"`{name}` goes on from a checkpoint (init): small models that begin with nothing say little of that")
    try:
        stages = config.get("curriculum") or [{"tokens": config.get("tokens", PretrainConfig().tokens)}]
        total = sum(int(str(parse_count(one["tokens"]))) for one in stages)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"`{name}`: tokens: {error}") from error
    limit = max_epochs if max_epochs is not None else float(config.get("max_epochs", 0.0)) or MAX_EPOCHS
    chosen = seed if seed is not None else int(config.get("seed", raw.get("seed", 0)))
    return _Base(name, table, list(names), list(sources), total, limit, chosen)


def _parse_target(text: str, names: Sequence[str]) -> dict[str, float]:
    from bloomery.core.config import suggest
    from bloomery.core.errors import ConfigError

    weights = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if name not in names:
            raise ConfigError(f'--target: "{name}" is not among the sources; {suggest(name, names)}')
        try:
            weights[name] = float(value) if equals else 1.0
        except ValueError as error:
            raise ConfigError(f"--target {part}: expected NAME=WEIGHT, a number") from error
    if weights and not (min(weights.values()) >= 0 and 0 < sum(weights.values()) < float("inf")):
        raise ConfigError(f"--target {text}: expected weights of 0 or more, not all 0")
    return weights


def _check_counts(proxies: int, held_out: int, num_sources: int) -> None:
    from bloomery.core.errors import ConfigError
    from bloomery.scaling.mixture_law import FEWEST_HELD_OUT, fewest_runs

    if held_out < FEWEST_HELD_OUT:
        raise ConfigError(f"--held-out {held_out}: a law is not trusted before {FEWEST_HELD_OUT} or more mixtures have tested it")
    if proxies - held_out < fewest_runs(num_sources):
        raise ConfigError(
            f"--proxies {proxies} with --held-out {held_out} leaves {proxies - held_out} mixtures "
            f"to fit a law of {num_sources} sources to: give --proxies {fewest_runs(num_sources) + held_out} or more"
        )


def _read_sizes(base: _Base, path: Path, store: Path, upstream: Mapping[str, Any], *, run: bool, workers: int | None) -> _Sizes | None:
    """Tokens of each source, which are made first if `run`; None if they are not there."""
    from bloomery.core.artifact import Store
    from bloomery.core.errors import ConfigError
    from bloomery.core.files import read_json

    if run:
        run_recipe(path, store, workers=workers)
    elif not _load_plan(path, store).is_done:
        return None
    strange = [source for source in base.sources if source not in upstream]
    if strange:
        raise ConfigError(f"`{base.name}`: tokens: {strange[0]} is no stage of the recipe, so its size is not known here")
    steps = {step.node.id: step for step in _load_plan(path, store).steps}
    folders = [Store(store).artifact_path(steps[name].node.stage.name, steps[name].fingerprint) for name in base.sources]
    manifests = [read_json(folder / "manifest.json") for folder in folders]
    for name, manifest in zip(base.names, manifests, strict=True):
        if not manifest["splits"]["train"]["tokens"]:
            raise ConfigError(f"the source {name} has no tokens to train on")
        if not manifest["splits"]["validation"]["tokens"]:
            raise ConfigError(f"the source {name} has no held-out tokens, so no loss: give its `tokenize` a larger validation_fraction")
    return _Sizes([int(manifest["splits"]["train"]["tokens"]) for manifest in manifests], int(manifests[0]["vocab_size"]))


def _plan(
    base: _Base, sizes: _Sizes, *, proxies: int, held_out: int, width: int, tokens: str, seeds: int
) -> tuple["MixturePlan", dict[str, Any]]:
    """The mixtures, and their runs as entries of a recipe."""
    from bloomery.core.errors import ConfigError
    from bloomery.scaling.ladder import plan_rung
    from bloomery.scaling.mixture_plan import plan_mixtures, share_caps
    from bloomery.stages.pretrain import parse_count

    given = base.table.get("config", {})
    try:
        count = int(str(parse_count(tokens)))
        share_caps(sizes.train, tokens=base.tokens, max_epochs=base.max_epochs)  # better refused now than after the runs
        caps = share_caps(sizes.train, tokens=count, max_epochs=base.max_epochs)
        plan = plan_mixtures(sizes.train, num_fitted=proxies - held_out, num_held_out=held_out, caps=caps, seed=base.seed)
        rung = plan_rung(width, count, vocab_size=sizes.vocab_size)  # rows and batches too: the recipe's may be of millions
    except ValueError as error:
        raise ConfigError(f"the small runs cannot be planned: {error}") from error
    dropped = {"curriculum", "mixture", "max_epochs", "seed", "num_samples", *rung.config}
    settings = {key: value for key, value in given.items() if key not in dropped}
    common = {**settings, **rung.config, "num_validations": 1}
    table = {key: value for key, value in base.table.items() if key != "config"}
    runs = {}
    for name, (share_S, own_seed) in _named(plan, seeds, base.seed).items():
        mixture = {} if name.startswith("natural") else {"mixture": dict(zip(base.names, share_S.tolist(), strict=True))}
        runs[name] = {**table, "config": {**common, **mixture, "seed": own_seed}}
    return plan, runs


def _named(plan: "MixturePlan", seeds: int, seed: int) -> dict[str, tuple[Any, int]]:
    """Every run: its mixture and its seed."""
    runs = {_fitted_name(i): (share_S, seed) for i, share_S in enumerate(plan.fitted)}
    runs |= {f"held_out_{i + 1:02d}": (share_S, seed) for i, share_S in enumerate(plan.held_out)}
    return runs | {
        f"{_fitted_name(i)}_seed{k}": (share_S, seed + k) for i, share_S in enumerate(plan.fitted[:REPEATED]) for k in range(1, seeds)
    }


def _fitted_name(i: int) -> str:
    return f"mixture_{i:02d}" if i else "natural"


def _law_inputs(plan: "MixturePlan", seeds: int) -> dict[str, list[str]]:
    names = list(_named(plan, seeds, 0))
    num_fitted, num_held_out = len(plan.fitted), len(plan.held_out)
    repeats = names[num_fitted + num_held_out :]
    inputs = {"models": names[:num_fitted], "held_out": names[num_fitted : num_fitted + num_held_out]}
    return {**inputs, "repeats": repeats} if repeats else inputs


def _law_config(base: _Base, goal: Mapping[str, float]) -> dict[str, Any]:
    return {**({"target": dict(goal)} if goal else {}), "tokens": base.tokens, "max_epochs": base.max_epochs}


def _check_runs(base: _Base, law: Path, natural: Mapping[str, Any], seeds: int) -> dict[str, Any]:
    from bloomery.core.files import read_json

    found = read_json(law / "mixture_law.json")["mixture"]
    mixture = {name: found[name] for name in base.names}
    return {
        f"suggested_seed{k}" if k else "suggested": {**natural, "config": {**natural["config"], "mixture": mixture, "seed": base.seed + k}}
        for k in range(seeds)
    }


def _load_plan(path: Path, store: Path) -> "Plan":
    from bloomery.core.artifact import Store
    from bloomery.pipeline.plan import make_plan
    from bloomery.pipeline.recipe import load_recipe

    return make_plan(load_recipe(path), Store(store))


def _write_report(store: Path, folder: Path) -> None:
    from bloomery.core.artifact import Store
    from bloomery.pipeline.report import write_report

    write_report(Store(store), folder)


def _tell_of_sources(path: Path, *, as_json: bool) -> None:
    told = "The sources are not made yet: mixtures are drawn around their sizes, so that they come first."
    if as_json:
        print_json({"recipe": str(path), "runs": None, "reason": told})
        return
    print_text(f"{told}\n`bloomery run {path}` makes them; then --dry-run lists the runs. Without --dry-run the command does all of it.")


def _show_runs(path: Path, names: Sequence[str], plan: "MixturePlan", seeds: int, *, as_json: bool) -> None:
    mixtures = {name: dict(zip(names, share_S.tolist(), strict=True)) for name, (share_S, _) in _named(plan, seeds, 0).items()}
    if as_json:
        print_json({"recipe": str(path), "runs": [{"name": name, "mixture": mixture} for name, mixture in mixtures.items()]})
        return
    rows = [[name, *(f"{100 * share:.1f}" for share in mixture.values())] for name, mixture in mixtures.items()]
    print_table(["run", *(f"{name}, %" for name in names)], rows)
    print_text(f"\nThe recipe is {path}: the same command without --dry-run runs it, and then the suggested mixture.")


def _show(path: Path, folder: Path, *, as_json: bool) -> None:
    from bloomery.core.files import read_json

    report = read_json(folder / "mixture_law.json")
    if as_json:
        print_json({"recipe": str(path), "page": str(folder / "mixture_law.html"), **report})
        return
    rows = []
    for row in report["sources"]:
        found = {key: 100 * value for key, value in row["suggested"].items()}
        limit = f"{100 * row['cap']:.1f}" if row["cap"] < 1 else "-"
        interval = f"{found['value']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"
        rows.append([row["name"], f"{100 * row['natural']:.1f}", interval, limit, "limited by max_epochs" if row["is_capped"] else ""])
    print_table(["source", "by size, %", "suggested, %", "limit, %", ""], rows)
    trial, noise = report["trial"], report["noise"].get("target")
    errors = f"{trial['rmse']['value']:.4f} [{trial['rmse']['low']:.4f}, {trial['rmse']['high']:.4f}] bits per byte"
    beside = f"; noise between seeds {noise['value']:.4f} [{noise['low']:.4f}, {noise['high']:.4f}]" if noise else ""
    print_text(f"\nError on {trial['num_runs']} held-out mixtures: {errors}{beside}")
    print_text(f"{report['verdict']['text']}\n\nPage: {folder / 'mixture_law.html'}")
    from bloomery.stages.mixture_law import mixture_toml

    print_text(f"TOML: {mixture_toml({name: report['mixture'][name] for name in report['names']})}")
