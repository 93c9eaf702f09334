"""A recipe: one TOML file that names the stages of a model's life, what feeds each, and their settings.

    name = "quickstart"
    seed = 0
    [stages.filtered]                                  # an id of your choice
    stage  = "filter"                                  # a stage of stages/catalog.py
    inputs = { documents = "extracted" }               # slot = an id, "file:GLOB", or a list of them
    config = { thresholds = { too_few_words = 40 } }   # the stage's own Config
    launch = { devices = 1 }                           # where it runs; never part of what is made
    per_seed = true                                    # run once for each of the recipe's `seeds = [0, 1, 2]` (see repeat.py)
    [cluster]                                          # where data stages find workers; never part of what is made
    kind = "ray"

Reading is strict: every mistake is reported at once, with its line and the nearest valid name. The seed of the recipe
is given to every stage whose config has a `seed` and does not set it.
"""

import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any  # Any: the values of a TOML document before they are validated

from bloomery.core.config import Config, check_config, suggest
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Cluster, Launch, Slot, Stage, fits, lacks_one_of
from bloomery.pipeline.node import Node, kind_made
from bloomery.pipeline.places import Places
from bloomery.pipeline.repeat import find_mistakes, repeat_nodes
from bloomery.pipeline.sources import PREFIX
from bloomery.stages.catalog import load_stage

RESERVED_NAMES = ("artifacts", "work", "logs")
NODE_KEYS = ("stage", "inputs", "config", "launch", "per_seed")
RECIPE_KEYS = ("name", "description", "seed", "seeds", "cluster", "stages")
EXPERIMENT = "ablation"
"""A table that makes a recipe an experiment (pipeline/ablation.py): no run of its own."""
CLUSTER, SEEDS = "cluster", "seeds"
"""In --set, the table and the list of these names; so no stage can have them as an id."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checked recipe. `overrides` are the --set options it was read with, `seed` the one in force."""

    name: str
    seed: int
    path: Path
    overrides: tuple[str, ...]
    nodes: Mapping[str, Node]
    cluster: Cluster = field(default_factory=Cluster)


def load_recipe(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    find_stage: Callable[[str], Stage] = load_stage,
    is_experiment: bool = False,
) -> Recipe:
    """The recipe in `path`, with `overrides` ("ID.key=value", "cluster.key=value", "seeds=[0]") applied.

    Raises ConfigError with every mistake in it. Of an experiment (which is not to be run as it stands) the stages are checked.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    reader = _Reader(Places(path, text), find_stage)
    reader.apply_overrides(raw, overrides)
    name, recipe_seed, tables = reader.check_head(raw, seed, is_experiment=is_experiment)
    nodes = {node_id: node for node_id, table in tables.items() if (node := reader.check_node(node_id, table, recipe_seed))}
    reader.check_links(tables)
    cluster = reader.check_cluster(raw)
    nodes = reader.repeat(nodes, tables, raw)
    reader.raise_mistakes(path)
    return Recipe(name=name, seed=recipe_seed, path=path, overrides=tuple(overrides), nodes=nodes, cluster=cluster)


def parse_value(text: str) -> Any:  # Any: whatever TOML can say
    """The value of a --set option: TOML where it is TOML, else the text itself.

    >>> parse_value("[1, 2]"), parse_value("2M"), parse_value("true"), parse_value('"5"')
    ([1, 2], '2M', True, '5')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def apply_override(raw: dict[str, Any], option: str) -> list[str]:
    """Puts what --set says ("ID.key=value", "cluster.key=value", "seeds=[0]") into a recipe's tables, and returns where.

    Raises ConfigError for an option that says nothing of the kind, or names no stage of the recipe.
    """
    name, equals, value = option.partition("=")
    node_id, *keys = name.strip().split(".")
    stages = raw.get("stages", {})
    if equals and node_id == SEEDS and not keys:
        where = [SEEDS]
    elif not equals or not keys or not all(keys):
        raise ConfigError(f"--set {option}: expected ID.key=value")
    elif node_id == CLUSTER and len(keys) > 1:
        raise ConfigError(f"--set {option}: expected cluster.key=value")
    elif node_id == CLUSTER:
        where = [CLUSTER, *keys]
    elif node_id not in stages:
        raise ConfigError(f'--set {option}: there is no stage with the id "{node_id}"; {suggest(node_id, stages)}')
    else:
        where = ["stages", node_id, *(keys if keys[0] in ("inputs", "launch") else ["config", *keys])]
    table: Any = raw
    for key in where[:-1]:
        table = table.setdefault(key, {}) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        raise ConfigError(f"--set {option}: {'.'.join(where[:-1]).removeprefix('stages.')} is not a table")
    table[where[-1]] = parse_value(value.strip())
    return where


class _Reader:
    """Collects mistakes while a recipe is read, so that all can be told at once."""

    def __init__(self, places: Places, find_stage: Callable[[str], Stage]) -> None:
        self._places = places
        self._find_stage = find_stage
        self._mistakes: list[tuple[int, str]] = []
        self._wired: dict[str, tuple[Stage, dict[str, tuple[str, ...]]]] = {}  # also of nodes whose config is wrong

    def raise_mistakes(self, path: Path) -> None:
        if self._mistakes:
            lines = [text for _, text in sorted(self._mistakes)]
            count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
            raise ConfigError("\n  ".join([f"{path}: {count}", *lines]))

    def _report(self, where: Sequence[str], message: str) -> None:
        line, place = self._places.describe(where)
        self._mistakes.append((line, f"{place}: {message}"))

    def apply_overrides(self, raw: dict[str, Any], overrides: Sequence[str]) -> None:
        for option in overrides:
            try:
                self._places.note_override(apply_override(raw, option), f"--set {option}")
            except ConfigError as error:
                self._mistakes.append((0, str(error)))

    def check_cluster(self, raw: Mapping[str, Any]) -> Cluster:
        """The [cluster] table; mistakes in it are collected like all others."""
        table = raw.get(CLUSTER, {})
        if not isinstance(table, dict):
            self._report([CLUSTER], f"cluster must be a table; found {table!r}")
            return Cluster()
        cluster, mistakes = check_config(Cluster, table)
        for mistake in mistakes:
            self._report([CLUSTER, mistake.partition(":")[0]], f"{CLUSTER}.{mistake}")
        return cluster or Cluster()

    def check_head(self, raw: dict[str, Any], seed: int | None, *, is_experiment: bool) -> tuple[str, int, dict[str, dict[str, Any]]]:
        if EXPERIMENT in raw and not is_experiment:
            self._report([EXPERIMENT], "this is an experiment of several arms, which `bloomery ablate` runs, not a recipe of one run")
        for key in raw:
            if key not in (*RECIPE_KEYS, EXPERIMENT):
                self._report([key], f'unknown key "{key}"; {suggest(key, RECIPE_KEYS)}')
        name = raw.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            self._report(["name"], f"name must be letters, digits, - and _, for the run's folder; found {name!r}")
        elif name in RESERVED_NAMES or name.endswith(".json"):
            self._report(["name"], f'name "{name}" is reserved: the store keeps its own folder of that name')
        recipe_seed = raw.get("seed", 0) if seed is None else seed
        if not isinstance(recipe_seed, int) or isinstance(recipe_seed, bool) or recipe_seed < 0:
            self._report(["seed"], f"seed must be a whole number >= 0; found {recipe_seed!r}")
        tables = raw.get("stages")
        if not isinstance(tables, dict) or not tables:
            self._report(["stages"], "a recipe needs at least one [stages.<id>] table")
            tables = {}
        for node_id, table in tables.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", node_id):
                self._report(["stages", node_id], f'the id "{node_id}" must be small letters, digits and _')
            if node_id in (CLUSTER, SEEDS):
                self._report(
                    ["stages", node_id], f'the id "{node_id}" is reserved: --set {node_id}... is about the recipe\'s own {node_id}'
                )
            if not isinstance(table, dict):
                self._report(["stages", node_id], f"stages.{node_id} must be a table; found {table!r}")
        return str(name), recipe_seed, {key: table for key, table in tables.items() if isinstance(table, dict)}

    def check_node(self, node_id: str, table: dict[str, Any], seed: int) -> Node | None:
        where = ["stages", node_id]
        before = len(self._mistakes)
        for key in table:
            if key not in NODE_KEYS:
                self._report([*where, key], f'{node_id}: unknown key "{key}"; {suggest(key, NODE_KEYS)}')
        for key in ("inputs", "config", "launch"):
            if not isinstance(table.get(key, {}), dict):
                self._report([*where, key], f"{node_id}.{key} must be a table; found {table[key]!r}")
                table = {**table, key: {}}
        if not isinstance(table.get("stage"), str):
            self._report(where, f'{node_id}: needs stage = "...", the name of what it does')
            return None
        try:
            stage = self._find_stage(table["stage"])
        except ConfigError as error:
            self._report([*where, "stage"], f"{node_id}: {error}")
            return None
        settings = dict(table.get("config", {}))
        if "seed" in stage.config_type.model_fields:
            settings.setdefault("seed", seed)
        config = self._check_table(node_id, "config", stage.config_type, settings)
        launch = self._check_table(node_id, "launch", Launch, table.get("launch", {}))
        if launch and launch.num_processes > 1 and not stage.spmd:
            name = "devices" if launch.devices > 1 else "nodes"
            message = f"{node_id}: the stage {stage.name} runs on one device; found {name} = {launch.num_processes}"
            self._report([*where, "launch", name], message)
        inputs = self._check_slots(node_id, stage, table.get("inputs", {}))
        self._wired[node_id] = (stage, inputs)
        if config is None or launch is None or len(self._mistakes) > before:
            return None
        return Node(id=node_id, stage=stage, config=config, inputs=inputs, launch=launch)

    def repeat(self, nodes: Mapping[str, Node], tables: Mapping[str, dict[str, Any]], raw: Mapping[str, Any]) -> dict[str, Node]:
        """The nodes with those that are `per_seed` once for each of the recipe's `seeds`."""
        per_seed = set()
        for node_id, table in tables.items():
            where = ["stages", node_id, "per_seed"]
            if not isinstance(table.get("per_seed", False), bool):
                self._report(where, f"{node_id}.per_seed must be true or false; found {table['per_seed']!r}")
            elif table.get("per_seed"):
                per_seed.add(node_id)
                if isinstance(table.get("config"), dict) and "seed" in table["config"]:
                    self._report(where, f"{node_id}: per_seed gives it the recipe's seeds; it cannot have config.seed as well")
        seeds = raw.get(SEEDS, [])
        if not isinstance(seeds, list) or not all(type(n) is int and n >= 0 for n in seeds) or len(set(seeds)) < len(seeds):
            self._report([SEEDS], f"seeds must be a list of different whole numbers >= 0; found {seeds!r}")
        elif per_seed and not seeds:
            self._report([SEEDS], f"{', '.join(sorted(per_seed))}: per_seed needs the recipe to have seeds = [0, 1, 2]")
        elif seeds:
            for node_id, mistake in find_mistakes(nodes, per_seed, seeds):
                self._report(["stages", node_id], f"{node_id}: {mistake}")
            return repeat_nodes(nodes, per_seed, seeds)
        return dict(nodes)

    def _check_table(self, node_id: str, key: str, config_type: type[Config], values: Mapping[str, Any]) -> Any:  # Any: that config type
        config, mistakes = check_config(config_type, values)
        for mistake in mistakes:
            dotted = mistake.partition(":")[0]
            self._report(["stages", node_id, key, *dotted.split(".")], f"{node_id}.{key}.{mistake}")
        return config

    def _check_slots(self, node_id: str, stage: Stage, given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        inputs: dict[str, tuple[str, ...]] = {}
        where = ["stages", node_id, "inputs"]
        for name, value in given.items():
            sources = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
            slot = stage.inputs.get(name)
            if slot is None:
                self._report([*where, name], f'{node_id}: the stage {stage.name} has no input "{name}"; {suggest(name, stage.inputs)}')
            elif value == [] and slot.optional:
                pass  # so that --set can take away what a recipe connects
            elif not sources or not all(isinstance(source, str) for source in sources):
                self._report([*where, name], f'{node_id}.inputs.{name}: expected an id, "file:..." or a list of them; found {value!r}')
            elif len(sources) > 1 and not slot.many:
                self._report([*where, name], f"{node_id}.inputs.{name}: takes one input; found {len(sources)}")
            else:
                inputs[name] = sources
        for name, slot in stage.inputs.items():
            if name not in given and not slot.optional:
                self._report(where, f'{node_id}: the stage {stage.name} needs the input "{name}" ({slot.takes}), but it is not given')
        if problem := lacks_one_of(stage, [name for name, value in given.items() if value != []]):
            self._report(where, f"{node_id}: {problem}")
        return {name: inputs[name] for name in stage.inputs if name in inputs}

    def check_links(self, ids: Collection[str]) -> None:
        parents: dict[str, list[str]] = {}
        for node_id, (stage, inputs) in self._wired.items():
            links = [(slot, source) for slot, sources in inputs.items() for source in sources if not source.startswith(PREFIX)]
            parents[node_id] = [source for _, source in links if source in self._wired]
            for slot_name, source in links:
                self._check_link(node_id, slot_name, stage.inputs[slot_name], source, ids)
        if cycle := _find_cycle(parents):
            self._report(["stages", cycle[0], "inputs"], f"a circle of inputs: {' <- '.join([*cycle, cycle[0]])}")

    def _check_link(self, node_id: str, slot_name: str, slot: Slot, source: str, ids: Collection[str]) -> None:
        where = ["stages", node_id, "inputs", slot_name]
        if source not in ids:
            hint = suggest(source, [other for other in ids if other != node_id])
            self._report(where, f'{node_id}.inputs.{slot_name}: there is no stage with the id "{source}"; {hint} (files: "file:PATH")')
        elif source in self._wired and not fits(kind := self._kind_made(source), slot):
            made = self._wired[source][0].name
            self._report(where, f"{node_id}.inputs.{slot_name}: needs {slot.takes}, but {source} ({made}) makes {kind}")

    def _kind_made(self, node_id: str, seen: tuple[str, ...] = ()) -> str:
        stage, inputs = self._wired[node_id]

        def kind_of(source: str) -> str:
            in_circle = source in (node_id, *seen)  # reported with the other circles
            return stage.output if in_circle or source not in self._wired else self._kind_made(source, (node_id, *seen))

        return kind_made(stage, inputs, kind_of)


def _find_cycle(parents: Mapping[str, Sequence[str]]) -> list[str]:
    finished: set[str] = set()
    for start in parents:
        trail: list[str] = []
        if cycle := _follow(start, parents, trail, finished):
            return cycle
    return []


def _follow(node: str, parents: Mapping[str, Sequence[str]], trail: list[str], finished: set[str]) -> list[str]:
    if node in trail:
        return trail[trail.index(node) :]
    if node in finished:
        return []
    trail.append(node)
    for parent in parents[node]:
        if cycle := _follow(parent, parents, trail, finished):
            return cycle
    finished.add(trail.pop())
    return []
