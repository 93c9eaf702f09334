"""Models of a campaign: a name and the fingerprint of the weights, and back to the folder that they lie in."""

import hashlib
from pathlib import Path

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.errors import DataError
from bloomery.core.files import sha256_file
from bloomery.core.fingerprint import canonical_json
from bloomery.web.directory import Directory
from bloomery.web.labels.campaigns import ModelName


def name_model(name: str, folder: Path) -> ModelName:
    """The model in `folder`: the artifact's fingerprint, or a hash of the weights of a folder of others."""
    if (folder / RECORD).is_file():
        return ModelName(name, read_artifact(folder).fingerprint)
    hashes = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return ModelName(name, hashlib.sha256(canonical_json(hashes).encode()).hexdigest())


def find_folder(directory: Directory, model: ModelName) -> Path:
    """Where the model lies: the artifact of its fingerprint, else the folder of its name. Raises DataError if it is there no more."""
    for entry in directory.artifacts("checkpoint"):
        if entry.fingerprint == model.fingerprint:
            return entry.path
    folder = Path(model.name)
    if (folder / "config.json").is_file() and name_model(model.name, folder) == model:
        return folder
    raise DataError(
        f"{model.name}: the weights that this campaign is about are not in {directory.store.root} any more, so no answers can be made"
    )
