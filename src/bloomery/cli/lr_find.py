"""bloomery lr-find: a learning-rate range test with a training's own model, optimizer and data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any  # Any: a trial is given whatever the stage trains with

import typer

from bloomery.cli.display import Debug, Json, print_json, print_table, print_text, session
from bloomery.cli.options import DEFAULT_STORE, RecipeSetOption, StoreOption

if TYPE_CHECKING:
    from bloomery.train.range_test import Sweep

LR_FIND_EXAMPLES = (
    "Examples:\n\n    bloomery lr-find quickstart --stage base\n\n"
    "    bloomery lr-find my.toml --stage base --from 1e-5 --to 10 --steps 200\n\n"
    "    bloomery lr-find quickstart --stage sft --set sft.optimizer=adamw --plot sft.png --json\n\n"
    "What the training reads must be made already: run the recipe first, or as far as that."
)
TABLE_ROWS = 12


def lr_find(
    recipe: Annotated[str, typer.Argument(help="A recipe file, the name of a shipped one, or a run.", metavar="RECIPE|RUN")],
    stage: Annotated[str | None, typer.Option("--stage", help="Which training (default: the only one).", metavar="ID")] = None,
    lowest: Annotated[float | None, typer.Option("--from", min=0.0, help="First rate (default: a thousandth of the recipe's).")] = None,
    highest: Annotated[float | None, typer.Option("--to", min=0.0, help="Last rate (default: a thousand times the recipe's).")] = None,
    steps: Annotated[int, typer.Option("--steps", min=20, help="Steps from one to the other.")] = 120,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the sweep (default: lr-find-ID.png here).", metavar="FILE.png")] = None,
    overrides: RecipeSetOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Sweep the learning rate over some steps of a training and say which to take. Nothing is kept but the picture."""
    with session(as_json=as_json, debug=debug):
        from bloomery.core.errors import ConfigError
        from bloomery.core.plots import save_sweep
        from bloomery.pipeline.trial import find_trial_step, run_trial

        step = find_trial_step(recipe, store, stage_id=stage, overrides=list(overrides or ()))
        settings = step.node.config.model_dump(mode="json")
        usual = settings["learning_rate"]
        low, high = lowest or usual / 1000, highest or usual * 1000
        path = plot or Path(f"lr-find-{step.node.id}.png")
        if high < 10 * low:
            raise ConfigError(f"--from {low:g} --to {high:g}: expected the last rate to be at least ten times the first")
        if path.suffix not in (".png", ".svg"):
            raise ConfigError(f"--plot {path}: the picture is PNG or SVG; let the name end in .png or .svg")

        from bloomery.train.range_test import Sweep, SweepDone, suggest_rates, sweep_learning_rates

        def trial(state: Any, run: Any, config: Any) -> None:
            points = sweep_learning_rates(state, run, config, lowest=low, highest=high, num_steps=steps)
            raise SweepDone(Sweep(points, suggest_rates(points, num_steps=steps)))

        try:
            run_trial(step, trial)
        except SweepDone as done:
            sweep = done.sweep
        marks = {"steepest descent": sweep.suggestion.steepest, "a tenth of the minimum": sweep.suggestion.minimum_tenth, "recipe": usual}
        losses, means = ([(p.learning_rate, value) for p, value in zip(sweep.points, of, strict=True)] for of in _curves(sweep))
        save_sweep(path, losses, means, marks=marks, x_label="learning rate (of matrices)", y_label="loss")
        found = _describe(sweep, settings, plot=path)
        if as_json:
            print_json(found)
        else:
            _show(found, sweep, node=step.node.id)


def _curves(sweep: "Sweep") -> tuple[list[float], list[float]]:
    return [point.loss for point in sweep.points], [point.smoothed for point in sweep.points]


def _describe(sweep: "Sweep", settings: dict[str, Any], *, plot: Path) -> dict[str, Any]:
    share = settings["embedding_learning_rate"] / settings["learning_rate"]
    suggested = sweep.suggestion.suggested
    return {
        **sweep.suggestion._asdict(),
        "learning_rate": suggested,
        "embedding_learning_rate": share * suggested,
        "recipe_learning_rate": settings["learning_rate"],
        "optimizer": settings["optimizer"],
        "plot": str(plot),
        "points": [point._asdict() for point in sweep.points],
    }


def _show(found: dict[str, Any], sweep: "Sweep", *, node: str) -> None:
    every = max(1, len(sweep.points) // TABLE_ROWS)
    rows = [[f"{p.learning_rate:.2e}", f"{p.loss:.3f}", f"{p.smoothed:.3f}"] for p in sweep.points[::every]]
    print_table(["learning rate", "loss", "running mean"], rows, title=f"{node}: {len(sweep.points)} steps with {found['optimizer']}")
    exploded = f"; the loss exploded at {found['exploded_at']:.2g}" if found["exploded_at"] else "; it never exploded"
    print_text(f"Steepest descent at {found['steepest']:.2g}, lowest at {found['minimum']:.2g}{exploded}.")
    rates = f"learning_rate = {found['learning_rate']:.2g}, embedding_learning_rate = {found['embedding_learning_rate']:.2g}"
    print_text(f"Suggested ({found['rule']}): {rates}; the recipe has {found['recipe_learning_rate']:.2g}.")
    print_text(f"Plot: {found['plot']}")
