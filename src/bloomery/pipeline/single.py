"""One stage without a store: `bloomery stage NAME --input slot=PATH --out DIR`, and the commands that are one stage.

The work goes on in a hidden folder beside DIR, named after the fingerprint, so that a killed command continues and
DIR only ever appears whole.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: the values of a TOML table

from bloomery.core.artifact import RECORD, Artifact, Store, explain_os_errors, find_damage, locked_folder, read_artifact, seal_folder
from bloomery.core.config import check_config, suggest
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Cluster, Launch, Stage, lacks_one_of
from bloomery.pipeline.launch import launch, open_cluster
from bloomery.pipeline.node import Node
from bloomery.pipeline.plan import Step, identify
from bloomery.pipeline.recipe import parse_value
from bloomery.pipeline.sources import PREFIX, FileHashes

log = logging.getLogger(__name__)


def run_single_stage(
    stage: Stage,
    *,
    inputs: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    out: Path,
    workers: int = 1,
    devices: int = 1,
    launch_settings: Mapping[str, Any] | None = None,
    cluster: Cluster | None = None,
) -> Artifact:
    """Runs `stage` into the folder `out` and returns the artifact there. If it is already there, nothing is done.

    `inputs`: for each slot, paths or globs. `launch_settings` are those of a recipe's `launch`. Raises ConfigError for wrong
    slots or settings or if `out` holds something else.
    """
    where = {"devices": devices, **(launch_settings or {})}
    step = _identify(stage, inputs=inputs, settings=settings, out=out, where=where)
    if out.exists() or out.is_symlink():
        return _check_existing(out, step)
    work = out.with_name(f".{out.name}.unfinished-{step.fingerprint[:16]}")
    with explain_os_errors(out.parent), locked_folder(work, on_wait=lambda holder: log.info("waiting for %s", holder)):
        if out.exists():
            return _check_existing(out, step)
        if not (work / RECORD).is_file():
            started = time.monotonic()
            log_folder = out.with_name(f"{out.name}.logs")
            with open_cluster(cluster or Cluster()) as open_pool:
                metrics = launch(step, out=work, log_folder=log_folder, workers=workers, open_pool=open_pool)
            log.info("%s: done in %.1f s", stage.name, time.monotonic() - started)
        else:
            metrics = read_artifact(work).record["metrics"]
        artifact = seal_folder(work, out, {**step.record(), "metrics": dict(metrics)})
    work.with_name(f"{work.name}.lock").unlink(missing_ok=True)
    return artifact


def parse_settings(options: Sequence[str], *, flag: str = "--set") -> dict[str, Any]:
    """The table that "key=value" options spell; dots make inner tables. Raises ConfigError for an option without a value."""
    table: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"{flag} {option}: expected key=value")
        inner = table
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{flag} {option}: {key} is not a table")
        inner[keys[-1]] = parse_value(value.strip())
    return table


def parse_inputs(options: Sequence[str]) -> dict[str, list[str]]:
    """The slots that "slot=PATH" options fill; a slot named twice gets both. Raises ConfigError for an option without a path."""
    inputs: dict[str, list[str]] = {}
    for option in options:
        slot, equals, path = option.partition("=")
        if not equals or not slot or not path:
            raise ConfigError(f"--input {option}: expected slot=PATH_OR_GLOB")
        inputs.setdefault(slot, []).append(path)
    return inputs


def _identify(
    stage: Stage, *, inputs: Mapping[str, Sequence[str]], settings: Mapping[str, Any], out: Path, where: Mapping[str, Any]
) -> Step:
    config, mistakes = check_config(stage.config_type, settings)
    launch, launch_mistakes = check_config(Launch, where)
    mistakes = [f"--set {mistake}" for mistake in mistakes] + [f"--launch {mistake}" for mistake in launch_mistakes]
    for slot in inputs:
        if slot not in stage.inputs:
            mistakes.append(f'--input {slot}: the stage {stage.name} has no input "{slot}"; {suggest(slot, stage.inputs)}')
    for name, slot_type in stage.inputs.items():
        if name not in inputs and not slot_type.optional:
            mistakes.append(f"--input {name}=...: the stage {stage.name} needs {slot_type.takes} there")
    if problem := lacks_one_of(stage, inputs):
        mistakes.append(f"--input: {problem}")
    if launch is not None and launch.num_processes > 1 and not stage.spmd:
        mistakes.append(f"--devices {launch.num_processes}: the stage {stage.name} runs on one device")
    if mistakes or config is None or launch is None:
        raise ConfigError("\n  ".join([f"{stage.name}: {len(mistakes)} mistake(s)", *mistakes]))
    node = Node(
        id=stage.name,
        stage=stage,
        config=config,
        inputs={slot: tuple(f"{PREFIX}{path}" for path in paths) for slot, paths in inputs.items()},
        launch=launch,
    )
    return identify(node, Store(out.parent), {}, FileHashes(out.parent / ".no-cache"))


def _check_existing(out: Path, step: Step) -> Artifact:
    if (out / RECORD).is_file():
        artifact = read_artifact(out)
        if artifact.fingerprint == step.fingerprint and find_damage(artifact) is None:
            log.info("%s: already done", out)
            return artifact
        raise ConfigError(f"{out}: already holds what {artifact.record['stage']} made of other inputs or settings. Choose another --out.")
    raise ConfigError(f"{out}: already exists and is not an artifact. Choose another --out, or remove it.")
