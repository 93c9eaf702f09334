"""Trying something with the model, optimizer and data of one training of a recipe, without making its artifact."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from bloomery.core.artifact import Store
from bloomery.core.config import suggest
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.stage import Runtime
from bloomery.pipeline.locate import find_recipe, find_run, read_spec
from bloomery.pipeline.plan import Step, input_paths, make_plan
from bloomery.pipeline.recipe import load_recipe

TRIED = ("pretrain", "sft", "reward_model", "preference")
"""Stages whose loss is to fall; with rewards its level says nothing."""


def find_trial_step(name: str, store: Path, *, stage_id: str | None, overrides: list[str]) -> Step:
    """The training of a recipe or run that a trial is made with: `stage_id`, or the only one there is.

    Raises ConfigError for an id that is no such training, DataError where what it reads is not made yet.
    """
    folder = find_run(name, store)
    if folder is None:
        recipe = load_recipe(find_recipe(name), overrides=overrides)
    else:
        spec, store = read_spec(folder), folder.parent
        recipe = load_recipe(Path(spec["recipe_file"]), overrides=[*spec["overrides"], *overrides], seed=spec["seed"])
    plan = make_plan(recipe, Store(store))
    found = {step.node.id: step for step in plan.steps if step.node.stage.name in TRIED}
    if stage_id is None and len(found) != 1:
        raise ConfigError(f"{name}: has {len(found)} trainings ({', '.join(found) or 'none'}); name one: --stage ID")
    if stage_id is not None and stage_id not in found:
        raise ConfigError(f"--stage {stage_id}: no training of {name} with a loss that is to fall; {suggest(stage_id, found)}")
    step = found[stage_id or next(iter(found))]
    missing = [path for paths in step.paths.values() for path in paths if not path.exists()]
    if missing:
        raise DataError(f"{step.node.id}: its input {missing[0]} is not made yet. Run the recipe first: bloomery run {name}")
    return step


def run_trial(step: Step, trial: Callable[..., None]) -> None:
    """Calls the stage up to where it would train, and there `trial(state, run, config)`, which has to raise something to end it.

    What the stage writes on the way goes to a temporary folder that is removed.
    """
    with tempfile.TemporaryDirectory(prefix="bloomery-trial-") as folder:
        out = Path(folder) / "out"
        out.mkdir()
        launch = step.node.launch.model_copy(update={"devices": 1, "nodes": 1, "data": 0, "tensor": 1, "pipeline": 1, "replicas": 1})
        runtime = Runtime(label=step.node.id, quiet=True, launch=launch.model_copy(update={"strategy": "ddp"}), trial=trial)
        step.node.stage.run(step.node.config, **input_paths(step), out=out, runtime=runtime)
