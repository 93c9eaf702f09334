"""Benchmarks' rows from the Hugging Face hub, or a mirror of it, into a folder where `read_rows` finds them.

Plain https (core/remote.py): a download continues where it broke off, is checked against the length and checksum that the
server gives, and is whole or absent. HF_ENDPOINT names a mirror; with HF_HUB_OFFLINE nothing is fetched.
"""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from urllib.parse import quote

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.remote import FetchError, Manners, download
from bloomery.core.rows import ROW_SUFFIXES
from bloomery.evaluate.benchmark import Benchmark, HubFile, Source
from bloomery.evaluate.rows import find_files

HUB = "https://huggingface.co"


def fetch_rows(
    benchmarks: Sequence[Benchmark],
    folders: Sequence[Path],
    cache: Path,
    *,
    required: Collection[str],
    manners: Manners | None = None,
    note: Callable[[str], None],
) -> list[Path]:
    """Fetches the files of those benchmarks that no folder has and the hub has; returns `cache` if it holds any then.

    Raises ConfigError under HF_HUB_OFFLINE, DataError for what cannot be had and is `required` by name; of the rest it is noted.
    """
    wanted = {
        source.files[0]: (benchmark.name, source)
        for benchmark in benchmarks
        for source in (benchmark.source, benchmark.shots)
        if source is not None and source.hub and not find_files(source, [*folders, cache])
    }
    if wanted and os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise ConfigError(f"--download: HF_HUB_OFFLINE is set, but {', '.join(wanted)} would have to be fetched")
    for name, source in wanted.values():
        note(f"fetching {source.hub[0].repo}: {source.hub[0].path}")
        try:
            fetch_source(source, cache, manners=manners or Manners())
        except DataError as error:
            if name in required:
                raise
            note(f"{name}: {error}")
    return [cache] if cache.is_dir() else []


def fetch_source(source: Source, cache: Path, *, manners: Manners) -> Path:
    """Fetches the first file of a source; its name in `cache` is the first that is looked for."""
    file = source.hub[0]
    suffix = next((suffix for suffix in ROW_SUFFIXES if file.path.endswith(suffix)), None)
    if suffix is None:
        raise DataError(f"{file.repo}: {file.path} is no file of rows; expected {', '.join(ROW_SUFFIXES)}")
    target = cache / f"{source.files[0]}{suffix}"
    part = target.with_name(f".{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    url = hub_address(file)
    try:
        download(url, part, manners=manners)
    except FetchError as error:
        if error.status in (401, 403, 404):
            raise DataError(
                f"{url}: the hub answers with status {error.status}: the data set is gone, has moved, or must be asked for there. "
                f"Put a file of its rows at DIR/{source.files[0]}{suffix} and give --data DIR."
            ) from error
        raise
    part.replace(target)
    part.with_name(f"{part.name}.validator").unlink(missing_ok=True)
    return target


def hub_address(file: HubFile) -> str:
    """The web address of a data set's file.

    >>> hub_address(HubFile(repo="ybisk/piqa", path="a/0.parquet", revision="refs/convert/parquet"))
    'https://huggingface.co/datasets/ybisk/piqa/resolve/refs%2Fconvert%2Fparquet/a/0.parquet'
    """
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    return f"{endpoint}/datasets/{file.repo}/resolve/{quote(file.revision, safe='')}/{quote(file.path)}"
