"""A node of a plan: one stage with its settings, and what feeds it."""

from collections.abc import Mapping
from dataclasses import dataclass

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
