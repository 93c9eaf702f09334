"""The dial against its neighbours: small models at the dial's rates, batch and weight decay, and around them, on the data of a recipe.

    python bench/dial.py bench/ladder.toml --store /tmp/dial --plot docs/images/dial.svg
    python bench/dial.py bench/ladder.toml --store /tmp/dial --widths 64,80,96 --ratio 8

One setting at a time is changed, the rest stays the dial's (the batch the recipe's, where that says one). The table says how far above the
best of its sweep each loss is; further seeds say how much of that is chance. 20 runs of 0.12 to 0.32 M parameters: about 10 minutes of
two cores. Finished runs are not run again.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bloomery.core.artifact import Store, read_artifact
from bloomery.core.files import write_text
from bloomery.core.plots import draw_curves
from bloomery.pipeline.derive import find_one, keep_upstream, read_tables, write_recipe
from bloomery.pipeline.plan import make_plan
from bloomery.pipeline.recipe import load_recipe
from bloomery.pipeline.run import run_plan
from bloomery.scaling.ladder import Rung, plan_rungs

SWEEPS = {
    "learning_rate": (1 / 4, 1 / 2, 1, 2, 4),
    "embedding_learning_rate": (1 / 4, 1, 4),
    "batch_tokens": (1 / 4, 1 / 2, 1, 2),
    "weight_decay": (0, 1),
}
WIDER = {"batch_tokens": (1 / 2, 1), "learning_rate": (1 / 2, 1, 2)}
"""All sweeps are made at the smallest width, where they are cheap; these at the others."""
NUM_SEEDS = 3
"""At the smallest width."""


class Trial(NamedTuple):
    """One run: which setting is changed by which factor, and its id in the recipe."""

    width: int
    setting: str
    factor: float
    node_id: str
    config: dict[str, Any]


def main() -> None:
    """Runs what is missing, prints the tables, draws the sweeps of the learning rate."""
    options = read_options()
    raw = read_tables(Path(options.recipe))
    base = find_one(raw, "pretrain", None)
    upstream, given = keep_upstream(raw, base), raw["stages"][base]
    vocab_size = upstream["tokenizer"]["config"]["vocab_size"]
    batch = given.get("config", {}).get("batch_tokens", 0)
    rungs = [plan_rungs([width], vocab_size=vocab_size, ratios=[options.ratio], batch_tokens=batch)[0] for width in options.widths]
    trials = list(list_trials(options.widths, rungs))
    table = {key: value for key, value in given.items() if key != "config"}
    runs = {trial.node_id: {**table, "config": {**given.get("config", {}), **trial.config}} for trial in trials}
    comment = f"The dial and its neighbours on the data of {options.recipe}, as bench/dial.py made it."
    options.store.mkdir(parents=True, exist_ok=True)
    path = write_recipe(options.store / "dial.toml", name="dial", seed=0, comment=comment, stages={**upstream, **runs})
    store = Store(options.store)
    folder = run_plan(make_plan(load_recipe(path), store), store, workers=options.workers).folder
    losses = {trial.node_id: float(read_artifact(folder / trial.node_id).record["metrics"]["validation_loss"]) for trial in trials}
    print_tables(options.widths, rungs, trials, losses)
    if options.plot:
        write_text(options.plot, draw(options.widths, rungs, trials, losses))


def list_trials(widths: list[int], rungs: list[Rung]) -> Iterator[Trial]:
    """The dial's own run first, for each width, then its neighbours and other seeds; equal settings are one run."""
    for width, rung in zip(widths, rungs, strict=True):
        is_smallest = width == min(widths)
        yield Trial(width, "dial", 1, f"w{width}", rung.config)
        for setting, factors in (SWEEPS if is_smallest else WIDER).items():
            for factor in factors:
                value = rung.config[setting] * factor
                changed = {setting: int(value) if setting == "batch_tokens" else float(f"{value:.4g}")}
                node_id = f"w{width}" if factor == 1 else f"w{width}_{setting}_{factor:g}".replace(".", "p")
                yield Trial(width, setting, factor, node_id, {**rung.config, **changed})
        for seed in range(1, NUM_SEEDS if is_smallest else 1):
            yield Trial(width, "seed", seed, f"w{width}_seed{seed}", {**rung.config, "seed": seed})


def print_tables(widths: list[int], rungs: list[Rung], trials: list[Trial], losses: dict[str, float]) -> None:
    """A Markdown table of all sweeps, and of seeds."""
    print("| width | setting | in the middle | " + "loss by factor: percent above the best of the sweep |")
    print("|---|---|---|---|")
    for width, rung in zip(widths, rungs, strict=True):
        for setting in SWEEPS:
            found = {trial.factor: losses[trial.node_id] for trial in trials if (trial.width, trial.setting) == (width, setting)}
            if not found:
                continue
            best = min(found.values())
            cells = [f"x{factor:g}: {loss:.4f} (+{100 * (loss / best - 1):.2f} %)" for factor, loss in sorted(found.items())]
            print(f"| {width} | {setting} | {rung.config[setting]:g} | {', '.join(cells)} |")
        seeds = [losses[trial.node_id] for trial in trials if trial.width == width and trial.setting in ("dial", "seed")]
        if len(seeds) > 1:
            spread = 100 * (max(seeds) - min(seeds)) / statistics.fmean(seeds)
            print(f"| {width} | seed | | {', '.join(f'{loss:.4f}' for loss in seeds)}: apart by {spread:.2f} % |")


def draw(widths: list[int], rungs: list[Rung], trials: list[Trial], losses: dict[str, float]) -> str:
    """Percent above the best of the sweep over the learning rate as a multiple of the dial's, one line a width."""
    lines = {}
    for width, rung in zip(widths, rungs, strict=True):
        found = sorted(
            (trial.factor, losses[trial.node_id]) for trial in trials if (trial.width, trial.setting) == (width, "learning_rate")
        )
        best = min(loss for _, loss in found)
        lines[f"width {width}, {rung.params / 1e6:.2f} M"] = [(factor, 100 * (loss / best - 1)) for factor, loss in found]
    return draw_curves(
        lines,
        x_label="learning rate of matrices, as a multiple of the dial's",
        y_label="loss, % above the best of the sweep",
        marks={"the dial": [1.0]},
        log_x=True,
    )


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="data and tokenizer")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--widths", type=lambda text: [int(part) for part in text.split(",")], default=[64, 80, 96])
    parser.add_argument("--ratio", type=float, default=8.0, help="tokens a parameter")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
