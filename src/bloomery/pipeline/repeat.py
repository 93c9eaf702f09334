"""Stages that a recipe runs once for each of its `seeds`: `per_seed = true` makes dpo_seed0, dpo_seed1 ... of one entry.

A stage per seed reads, of another one per seed, what was made with its own seed; a stage that is not, and takes many
inputs, gets all of them, seed after seed. Everything else about the entries is equal, so that what differs between the
results is chance.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from bloomery.pipeline.node import Node


def seed_id(node_id: str, seed: int) -> str:
    """The id of the one that is run with `seed`.

    >>> seed_id("dpo", 2)
    'dpo_seed2'
    """
    return f"{node_id}_seed{seed}"


def repeat_nodes(nodes: Mapping[str, Node], per_seed: AbstractSet[str], seeds: Sequence[int]) -> dict[str, Node]:
    """All nodes, those of `per_seed` once a seed, with inputs that name the right ones."""
    repeated: dict[str, Node] = {}
    for node_id, node in nodes.items():
        if node_id not in per_seed:
            inputs = {slot: _all_seeds(sources, per_seed, seeds) for slot, sources in node.inputs.items()}
            repeated[node_id] = replace(node, inputs=inputs)
            continue
        for seed in seeds:
            inputs = {slot: tuple(seed_id(s, seed) if s in per_seed else s for s in sources) for slot, sources in node.inputs.items()}
            seeded = {"seed": seed} if "seed" in type(node.config).model_fields else {}
            name = seed_id(node_id, seed)
            repeated[name] = replace(node, id=name, config=node.config.model_copy(update=seeded), inputs=inputs)
    return repeated


def find_mistakes(nodes: Mapping[str, Node], per_seed: AbstractSet[str], seeds: Sequence[int]) -> list[tuple[str, str]]:
    """(id, what is wrong) for each node that cannot be repeated, or cannot be fed by repeated ones."""
    found = []
    for node_id, node in nodes.items():
        repeated = [source for source in node.parents() if source in per_seed]
        for slot, sources in node.inputs.items():
            takes_one = node_id not in per_seed and not node.stage.inputs[slot].many
            if takes_one and len(seeds) > 1 and (taken := next((source for source in sources if source in per_seed), None)):
                found.append((node_id, f"{slot} takes one input, but {taken} is made once per seed; make {node_id} per_seed, too"))
        if node_id in per_seed and "seed" not in type(node.config).model_fields and not repeated:
            found.append(
                (node_id, f"per_seed would make {len(seeds)} times the same: {node.stage.name} has no seed, and no input that has")
            )
        found += [(node_id, f'"{name}" is also the name of a stage per seed') for name in _clashes(node_id, nodes, per_seed, seeds)]
    return found


def _all_seeds(sources: Sequence[str], per_seed: AbstractSet[str], seeds: Sequence[int]) -> tuple[str, ...]:
    return tuple(name for source in sources for name in ([seed_id(source, seed) for seed in seeds] if source in per_seed else [source]))


def _clashes(node_id: str, nodes: Mapping[str, Node], per_seed: AbstractSet[str], seeds: Sequence[int]) -> list[str]:
    names = [seed_id(node_id, seed) for seed in seeds] if node_id in per_seed else []
    return [name for name in names if name in nodes]
