"""Where votes are kept unless somebody says otherwise."""

from pathlib import Path


def default_labels(root: Path) -> str:
    """The URL of a file in the store, for votes on its models."""
    return f"sqlite:///{root.absolute()}/labels.sqlite"
