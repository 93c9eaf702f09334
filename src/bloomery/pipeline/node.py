"""A node of a plan: one stage with its settings, and what feeds it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.config import Config
from bloomery.core.stage import Launch, Stage
from bloomery.pipeline.sources import PREFIX


@dataclass(frozen=True, kw_only=True)
class Node:
    """One entry of a recipe. `inputs`: for each slot its sources, ids of other nodes or "file:..."."""

    id: str
    stage: Stage
    config: Config
    inputs: Mapping[str, tuple[str, ...]]
    launch: Launch

    def parents(self) -> list[str]:
        """The ids of the nodes that feed this one."""
        return [source for sources in self.inputs.values() for source in sources if not source.startswith(PREFIX)]


def kind_made(stage: Stage, inputs: Mapping[str, Sequence[str]], kind_of_node: Callable[[str], str]) -> str:
    """The kind of what a stage makes of these inputs, written as in `Node`; `kind_of_node` says what another node makes."""
    for source in inputs.get(stage.passes_on, ()):
        folder = Path(source.removeprefix(PREFIX)).expanduser()
        if not source.startswith(PREFIX):
            found = kind_of_node(source)
        else:
            found = read_artifact(folder).kind if (folder / RECORD).is_file() else stage.output
        if found in (stage.output, *stage.inputs[stage.passes_on].also):
            return found
    return stage.output
