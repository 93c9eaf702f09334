"""The plan: a recipe's nodes in order, each with its fingerprint, whether it is done, and the reason why not.

A node is done when the store holds a whole artifact of its fingerprint, whoever made it, in whatever run. The reason
compares it with the nearest older artifact of the same stage: the one that this run's node made before, else the one
with the fewest differences.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal  # Any: the values of a JSON document

from bloomery.core.artifact import RECORD, Artifact, Store, find_damage
from bloomery.core.config import suggest
from bloomery.core.errors import BloomeryError, ConfigError, DataError
from bloomery.core.files import read_json
from bloomery.core.fingerprint import fingerprint
from bloomery.core.trackers import find_missing
from bloomery.pipeline.locate import SPEC
from bloomery.pipeline.node import Node, kind_made
from bloomery.pipeline.recipe import Recipe
from bloomery.pipeline.sources import PREFIX, FileHashes, find_source

INPUT_CHANGED = "input changed: "


@dataclass(frozen=True, kw_only=True)
class Step:
    """A node with what identifies its artifact. `inputs`: fingerprints of each slot; `paths`: what the stage is given."""

    node: Node
    fingerprint: str
    kind: str
    facts: Mapping[str, str]
    inputs: Mapping[str, tuple[str, ...]]
    paths: Mapping[str, tuple[Path, ...]]
    state: Literal["done", "run", "left out"]
    reason: str
    differences: tuple[str, ...] = ()
    nearest: str | None = None

    def record(self) -> dict[str, Any]:
        """What the artifact's artifact.json says, but for its metrics and files."""
        return {
            "stage": self.node.stage.name,
            "version": self.node.stage.version,
            "fingerprint": self.fingerprint,
            "kind": self.kind,
            "config": self.node.config.model_dump(mode="json"),
            "inputs": {slot: list(prints) for slot, prints in self.inputs.items()},
            "facts": dict(self.facts),
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every node of a recipe, in an order in which each comes after its inputs."""

    recipe: Recipe
    steps: tuple[Step, ...]
    rebuild: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run."""
        return all(step.state != "run" for step in self.steps)


def make_plan(recipe: Recipe, store: Store, *, only: str | None = None, rebuild: Sequence[str] = ()) -> Plan:
    """What must run, and why. Reads the store and the files that `file:` inputs name; writes only the cache of their hashes.

    `only` leaves out every other node, `rebuild` makes nodes and all that depend on them again. Raises ConfigError for an
    unknown id or for an `only` whose inputs are not done, DataError for a missing input file.
    """
    for option, node_id in [("--only", only), *(("--rebuild", node_id) for node_id in rebuild)]:
        if node_id is not None and node_id not in recipe.nodes:
            raise ConfigError(f'{option} {node_id}: there is no stage with the id "{node_id}"; {suggest(node_id, recipe.nodes)}')
    hashes = FileHashes(store.root / "files.json")
    previous = previous_artifacts(store, recipe.name)
    steps: dict[str, Step] = {}
    for node in _in_order(recipe):
        steps[node.id] = identify(node, store, steps, hashes)
    for node_id, step in steps.items():
        steps[node_id] = _decide(step, steps, store, only=only, rebuild=rebuild, previous=previous.get(node_id))
    if store.root.is_dir():
        hashes.save()
    if only is not None:
        _check_inputs_are_done(steps[only], steps)
    _check_launches(step for step in steps.values() if step.state == "run")
    return Plan(recipe=recipe, steps=tuple(steps.values()), rebuild=tuple(rebuild))


def previous_artifacts(store: Store, run_name: str) -> dict[str, Path]:
    """The artifact folder that each node of the last run of this name made, where it still stands."""
    spec = store.root / run_name / SPEC
    try:
        nodes = read_json(spec)["nodes"] if spec.is_file() else []
        found = {node["id"]: store.root / node["artifact"] for node in nodes}
    except (BloomeryError, KeyError, TypeError):
        return {}  # only reasons depend on it
    return {node_id: path for node_id, path in found.items() if (path / RECORD).is_file()}


def input_paths(step: Step) -> dict[str, Any]:  # Any: a path, a list of paths or None, as the slot says
    """The keyword arguments of a stage's function for its slots."""
    arguments: dict[str, Any] = {}
    for name, slot in step.node.stage.inputs.items():
        paths = step.paths.get(name, ())
        if slot.many:
            arguments[name] = list(paths)
        elif len(paths) > 1:
            raise DataError(f"{step.node.id}.inputs.{name}: takes one input; found {len(paths)} files, the first of them {paths[0]}")
        else:
            arguments[name] = paths[0] if paths else None
    return arguments


def identify(node: Node, store: Store, steps: Mapping[str, Step], hashes: FileHashes) -> Step:
    """The step of a node whose parents are in `steps`, before anyone looked whether it is done."""
    inputs: dict[str, tuple[str, ...]] = {}
    paths: dict[str, tuple[Path, ...]] = {}
    for slot_name, sources in node.inputs.items():
        for source in sources:
            if source.startswith(PREFIX):
                try:
                    found, print_ = find_source(source.removeprefix(PREFIX), node.stage.inputs[slot_name], hashes)
                except (ConfigError, DataError) as error:
                    raise type(error)(f"{node.id}.inputs.{slot_name}: {error}") from error
            else:
                parent = steps[source]
                found, print_ = (store.artifact_path(parent.node.stage.name, parent.fingerprint),), parent.fingerprint
            inputs[slot_name] = (*inputs.get(slot_name, ()), print_)
            paths[slot_name] = (*paths.get(slot_name, ()), *found)
    facts = node.stage.facts(node.config)
    print_ = fingerprint(stage=node.stage.name, version=node.stage.version, config=node.config, inputs=inputs, facts=facts)
    kind = kind_made(node.stage, node.inputs, lambda parent: steps[parent].kind)
    return Step(node=node, fingerprint=print_, kind=kind, facts=facts, inputs=inputs, paths=paths, state="run", reason="never made")


def _decide(
    step: Step, steps: Mapping[str, Step], store: Store, *, only: str | None, rebuild: Sequence[str], previous: Path | None
) -> Step:
    node = step.node
    artifact = store.find(node.stage.name, step.fingerprint)
    if only not in (None, node.id):
        return replace(step, state="done", reason="done") if artifact else replace(step, state="left out", reason=f"--only {only}")
    if node.id in rebuild:
        return replace(step, reason="--rebuild")
    above = [parent for parent in node.parents() if steps[parent].reason.startswith(("--rebuild", "input rebuilt"))]
    if above and only is None:
        return replace(step, reason=f"input rebuilt: {', '.join(above)}")
    if artifact is not None:
        damage = find_damage(artifact)
        return replace(step, reason=f"damaged: {damage}") if damage else replace(step, state="done", reason="done")
    return _explain(step, steps, store, previous)


def _explain(step: Step, steps: Mapping[str, Step], store: Store, previous: Path | None) -> Step:
    # Two nodes of one stage (say two `crawl`) are not each other's past.
    others = {other.fingerprint for other in steps.values()}
    older = [artifact for artifact in store.list_artifacts(step.node.stage.name) if artifact.fingerprint not in others]
    mine = [artifact for artifact in older if previous is not None and artifact.path.name == previous.name]
    compared = [(len(found := _differences(step, artifact)), found, artifact) for artifact in mine or older]
    if not compared:
        return step
    _, differences, nearest = min(compared, key=lambda entry: entry[0])
    reason = "; ".join(_summarise(differences)) or "its artifact is of another kind"
    return replace(step, reason=reason, differences=tuple(differences), nearest=nearest.path.name)


def _differences(step: Step, artifact: Artifact) -> list[str]:
    record, now = artifact.record, step.record()
    found = []
    if record["version"] != now["version"]:
        found.append(f"stage version {record['version']} -> {now['version']}")
    for title, key in (("config", "config"), ("facts", "facts")):
        before, after = dict(_flatten(record.get(key, {}))), dict(_flatten(now[key]))
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                found.append(f"{title} changed: {name} {_show(before, name)} -> {_show(after, name)}")
    for slot in sorted(record["inputs"].keys() | now["inputs"].keys()):
        if record["inputs"].get(slot) != now["inputs"].get(slot):
            found.append(f"{INPUT_CHANGED}{_name_sources(step, slot, record['inputs'].get(slot, []))}")
    return found


def _name_sources(step: Step, slot: str, before: Sequence[str]) -> str:
    sources = step.node.inputs.get(slot, ())
    changed = [source for source, print_ in zip(sources, step.inputs.get(slot, ()), strict=True) if print_ not in before]
    return ", ".join(changed or sources) or f"{slot} (now none)"


def _summarise(differences: Sequence[str]) -> Iterator[str]:
    """The causes in words of one line: a changed config or environment says it all, changed inputs only when alone."""
    own = [text for text in differences if not text.startswith(INPUT_CHANGED)]
    if not own and differences:
        yield INPUT_CHANGED + ", ".join(text.removeprefix(INPUT_CHANGED) for text in differences)
    yield from own[:3]
    if len(own) > 3:
        yield f"and {len(own) - 3} more"


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else key)
    elif value != {}:
        yield prefix, value


def _show(values: Mapping[str, Any], name: str) -> str:
    return str(values[name]) if name in values else "(default)" if not name.startswith("facts") else "(none)"


def _check_launches(steps: Iterable[Step]) -> None:
    """Before the first stage runs, not when the one that trains is reached hours later."""
    mistakes = []
    for step in steps:
        inputs = {slot: paths[0] for slot, paths in step.paths.items() if paths}
        misfits = [*step.node.stage.check_launch(step.node.config, step.node.launch, inputs), *find_missing(step.node.launch.trackers)]
        mistakes += [f"{step.node.id}: {misfit}" for misfit in misfits]
    if mistakes:
        raise ConfigError("\n  ".join([f"{len(mistakes)} launch(es) that cannot be", *mistakes]))


def _check_inputs_are_done(step: Step, steps: Mapping[str, Step]) -> None:
    missing = [parent for parent in step.node.parents() if steps[parent].state != "done"]
    if missing:
        raise ConfigError(f"--only {step.node.id}: its inputs are not made yet: {', '.join(missing)}. Run the recipe without --only first.")


def _in_order(recipe: Recipe) -> list[Node]:
    """The nodes, parents first; otherwise as the file has them."""
    ordered: dict[str, Node] = {}

    def add(node: Node) -> None:
        if node.id not in ordered:
            for parent in node.parents():
                add(recipe.nodes[parent])
            ordered[node.id] = node

    for node in recipe.nodes.values():
        add(node)
    return list(ordered.values())
