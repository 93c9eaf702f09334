"""Identity of an artifact: a hash of what made it, never of when or where.

fingerprint = sha256 of the canonical JSON of (stage, version, config, input fingerprints, facts). The encoder refuses
whatever has no stable text (paths, callables, sets, NaN), so that facts of execution cannot leak into identity.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any  # Any: the values of a JSON document

from bloomery.core.config import Config


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, finite numbers only.

    >>> canonical_json({"b": 1, "a": [True, None, "x"]})
    '{"a":[true,null,"x"],"b":1}'
    Raises TypeError for a value without a stable text form, naming where it stands.
    """
    return json.dumps(_plain(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def fingerprint(
    *, stage: str, version: int, config: Config, inputs: Mapping[str, Sequence[str]], facts: Mapping[str, str] | None = None
) -> str:
    """sha256 (64 hex digits) that identifies what `stage` makes of `config` and of inputs named by their fingerprints.

    `facts` are what the output depends on besides (see `Stage.facts`); none at all is the same as an empty table.
    """
    identity: dict[str, Any] = {
        "stage": stage,
        "version": version,
        "config": config.model_dump(mode="json"),
        "inputs": {slot: list(prints) for slot, prints in inputs.items()},
    }
    if facts:
        identity["facts"] = dict(facts)
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value}: only finite numbers can be part of a fingerprint")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: only strings can be keys in a fingerprint")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}: it has no stable text form and cannot be part of a fingerprint")
