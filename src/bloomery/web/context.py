"""What all pages share while a server lives."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from bloomery.core.artifact import Store
from bloomery.web.directory import Directory
from bloomery.web.models import ModelHost


@dataclass(frozen=True, kw_only=True)
class WebContext:
    """The store that is looked at, and what must be closed when the server stops (last opened first)."""

    store: Store
    directory: Directory
    models: ModelHost
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def close(self) -> None:
        """Closes what the pages opened."""
        for close in reversed(self.closing):
            await close()


def make_context(root: Path) -> WebContext:
    """A context for the store in folder `root`, which need not exist yet."""
    store = Store(root)
    directory = Directory(store)
    models = ModelHost(directory)
    return WebContext(store=store, directory=directory, models=models, closing=[models.close])
