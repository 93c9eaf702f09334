"""What a command line's RECIPE, RUN, MODEL or PATH stands for: a file, a run's folder, one artifact, a model's folder.

A run is named by its folder (`runs/quickstart`) or by its name alone (`quickstart`, looked up in the store).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.config import suggest
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json

SPEC = "spec.json"


def find_recipe(name: str) -> Path:
    """The file that a command line's RECIPE names: a path, or the name of a shipped recipe."""
    if name.endswith(".toml") or "/" in name:
        if not Path(name).is_file():
            raise ConfigError(f"{name}: no such recipe file; shipped are: {', '.join(sorted(shipped_recipes()))}")
        return Path(name)
    shipped = shipped_recipes()
    if name not in shipped:
        raise ConfigError(f'there is no shipped recipe "{name}"; {suggest(name, shipped)}. A file of your own ends in .toml')
    return shipped[name]


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with bloomery, by name: inside the wheel, or beside src/ in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "recipes", package.parents[1] / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in folder.glob("*.toml")}
    return {}


def find_run(name: str, store: Path) -> Path | None:
    """The folder of a run, or None if there is none of that name."""
    for folder in (Path(name), store / name):
        if (folder / SPEC).is_file():
            return folder
    return None


def require_run(name: str, store: Path) -> Path:
    """The folder of a run. Raises DataError that lists the runs there are."""
    folder = find_run(name, store)
    if folder is None:
        known = sorted(spec.parent.name for spec in store.glob(f"*/{SPEC}"))
        raise DataError(f"{name}: no run there, and none of that name in {store}/; {suggest(name, known)}")
    return folder


def find_artifact(name: str, store: Path) -> Path:
    """The folder of one artifact: a path, or RUN/ID. Raises DataError if it is not a finished artifact."""
    for folder in (Path(name), store / name):
        if (folder / RECORD).is_file():
            return folder
    raise DataError(f"{name}: not a finished artifact (no {RECORD} there, nor in {store / name})")


def find_input(name: str, store: Path) -> str:
    """A path or glob as it is; where nothing is there, RUN/ID of the store."""
    return str(store / name) if not Path(name).exists() and (store / name).exists() else name


def find_checkpoint(name: str, store: Path, *, node: str | None = None, also_rewards: bool = False) -> Path:
    """The folder of a model: a Hugging Face folder, a checkpoint artifact, or of a run its best candidate.

    Of a run that is what its last finished `export` made, else the last finished checkpoint; `node` names another,
    with `also_rewards` also a reward model. Raises DataError if no model is there, ConfigError for an unknown node.
    """
    run = find_run(name, store)
    if run is None:
        for folder in (Path(name), store / name):
            if any(folder.glob("model*.safetensors")) and (folder / "config.json").is_file():
                if node is not None:
                    raise ConfigError(f"--model {node}: {folder} is one model, not a run")
                return folder
        raise DataError(f"{name}: neither a run nor a model's folder (config.json and model.safetensors)")
    models = finished_nodes(run, kind="checkpoint")
    if node is not None:
        models |= finished_nodes(run, kind="reward_model") if also_rewards else {}
        if node not in models:
            raise ConfigError(f"--model {node}: {run} has no finished model of that id; {suggest(node, models)}")
        return models[node]
    if not models:
        raise DataError(f"{run}: no model of this run is finished yet. `bloomery status {run}` shows how far it is.")
    exported = [path for path in models.values() if read_artifact(path).record["stage"] == "export"]
    return (exported or list(models.values()))[-1]


def find_reward_model(name: str, store: Path, *, node: str | None = None) -> Path:
    """The folder of a reward model: a Hugging Face folder, or of a run the last one finished; `node` names another.

    Raises DataError if there is none, ConfigError for an unknown node.
    """
    run = find_run(name, store)
    if run is None:
        return find_checkpoint(name, store, node=node)
    models = finished_nodes(run, kind="reward_model")
    if not models:
        raise DataError(f"{run}: no reward model of this run is finished. `bloomery status {run}` shows how far it is.")
    if node is not None and node not in models:
        raise ConfigError(f"--model {node}: {run} has no finished reward model of that id; {suggest(node, models)}")
    return models[node] if node is not None else list(models.values())[-1]


def find_scores(checkpoint: Path) -> list[Path]:
    """The evaluations of a checkpoint that lie beside it in the store, oldest name first; of an export also those of its model."""
    if not (checkpoint / RECORD).is_file():
        return []
    record = read_artifact(checkpoint).record
    names = {record["fingerprint"], *(record["inputs"].get("model", []) if record["stage"] == "export" else [])}
    others = [path.parent for path in sorted(checkpoint.resolve().parent.glob(f"*/{RECORD}"))]
    found = [(path, read_artifact(path)) for path in others if path.name.startswith("evaluate")]
    return [path for path, artifact in found if names & set(artifact.record["inputs"].get("models", []))]


def finished_nodes(run: Path, *, kind: str | None = None) -> dict[str, Path]:
    """The finished artifacts of a run by node id, in the order of its plan; only those of `kind` if one is given."""
    found = {node["id"]: run.parent / node["artifact"] for node in read_spec(run)["nodes"]}
    finished = {node_id: path for node_id, path in found.items() if (path / RECORD).is_file()}
    return {node_id: path for node_id, path in finished.items() if kind is None or read_artifact(path).kind == kind}


def read_spec(run: Path) -> Mapping[str, Any]:
    """The spec.json of a run. Raises DataError if it is missing or damaged."""
    spec: Mapping[str, Any] = read_json(run / SPEC)
    if not {"name", "seed", "nodes", "recipe_file", "overrides"} <= set(spec):
        raise DataError(f"{run / SPEC}: not the record of a run. Run its recipe again to write it anew.")
    return spec
