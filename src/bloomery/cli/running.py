"""How many workers a run has, and the run of a recipe that a command has written."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bloomery.core.stage import Cluster
    from bloomery.pipeline.run import RunResult


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS


def choose_workers(option: int | None, cluster: "Cluster") -> int:
    """Workers of a run: the option's, the recipe's, or one a core; 0 leaves it to a Ray cluster that stands elsewhere."""
    elsewhere = cluster.kind == "ray" and cluster.address != "local"
    return option or cluster.workers or (0 if elsewhere else default_workers())


def run_recipe(path: Path, store: Path, *, workers: int | None) -> "RunResult":
    """Runs what is not done of the recipe, as `bloomery run` does."""
    from bloomery.core.artifact import Store
    from bloomery.pipeline.plan import make_plan
    from bloomery.pipeline.recipe import load_recipe
    from bloomery.pipeline.run import run_plan

    recipe, artifacts = load_recipe(path), Store(store)
    count = choose_workers(workers, recipe.cluster)
    return run_plan(make_plan(recipe, artifacts), artifacts, workers=count, command=["bloomery", *sys.argv[1:]])
