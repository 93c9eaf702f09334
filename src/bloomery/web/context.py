"""What all pages share while a server lives."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from bloomery.core.artifact import Store
from bloomery.web.directory import Directory
from bloomery.web.labels.location import default_labels
from bloomery.web.models import ModelHost
from bloomery.web.sampling import ModelLimits


@dataclass(frozen=True, kw_only=True)
class WebContext:
    """The store that is looked at, and what must be closed when the server stops (last opened first)."""

    store: Store
    directory: Directory
    models: ModelHost
    labels_url: str
    """The database of votes: "sqlite:///FILE" or "postgresql://USER@HOST/NAME"."""
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def close(self) -> None:
        """Closes what the pages opened."""
        for close in reversed(self.closing):
            await close()


def make_context(root: Path, *, labels: str = "", limits: ModelLimits | None = None) -> WebContext:
    """A context for the store in folder `root`, which need not exist yet.

    `labels`: where votes are kept, "" is a file in it; `limits`: of the models that answer.
    """
    store = Store(root)
    directory = Directory(store)
    models = ModelHost(directory, limits=limits)
    return WebContext(store=store, directory=directory, models=models, labels_url=labels or default_labels(root), closing=[models.close])
