"""Weights on disk: safetensors, in one file or in several with an index, read and written tensor by tensor.

A file is eight bytes of length, a JSON header that names each tensor with its dtype, shape and place, and the numbers.
Writing "as" another folder keeps its files, their headers byte for byte, and fills in the numbers: what was not
trained has the bytes it had, whoever wrote it, in whatever order and dtype.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple  # Any: the values of a JSON document

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_atomically

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class Stored(NamedTuple):
    """A tensor of a file: its name and, from the header, dtype, shape and the range of its bytes after the header."""

    name: str
    dtype: torch.dtype
    shape: list[int]
    start: int
    stop: int


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of a Hugging Face folder. Raises DataError if there are none, or not all."""
    if _is_sharded(folder):
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise DataError(f"{folder / INDEX}: has no weight_map; is the download complete?")
        files = [folder / name for name in sorted(set(weight_map.values()))]
    else:
        files = [folder / SINGLE]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        other = "; its pytorch_model.bin is a pickle, which is not read" if list(folder.glob("pytorch_model*.bin")) else ""
        raise DataError(f"{folder}: has no {', '.join(missing)}{other}. Expected {SINGLE}, or {INDEX} and the files it names")
    return files


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a folder with its name, in its stored dtype. Raises DataError for what is no weights file."""
    for path in weight_files(folder):
        yield from read_file(path)


def read_file(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a file with its name, in its stored dtype. Raises DataError for what is no weights file."""
    _, tensors = _read_header(path)  # refuses by name a dtype that is not trained on; the library would give it
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            for stored in tensors:
                yield stored.name, file.get_tensor(stored.name)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"{path}: not a readable weights file: {error}") from error


def stored_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """The dtype of each tensor of a folder, from the headers alone."""
    return {stored.name: stored.dtype for path in weight_files(folder) for stored in _read_header(path)[1]}


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes weights as one file; equal weights give equal bytes."""
    with write_atomically(folder / SINGLE) as temporary:
        save_file({name: weight.contiguous() for name, weight in weights.items()}, temporary, metadata={"format": "pt"})


def write_weights_as(like: Path, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes weights in the files, order and dtypes of the folder `like`; a tensor that is not among `weights` is copied.

    The last file is the last to appear: a folder that has it is whole.
    """
    if _is_sharded(like):
        with write_atomically(folder / INDEX) as temporary:
            shutil.copyfile(like / INDEX, temporary)
    for path in weight_files(like):
        header, tensors = _read_header(path)
        with write_atomically(folder / path.name) as temporary, path.open("rb") as source, temporary.open("wb") as file:
            file.write(header)
            for stored in sorted(tensors, key=lambda stored: stored.start):
                if stored.name in weights:
                    file.write(_bytes(weights[stored.name], stored))
                else:
                    source.seek(len(header) + stored.start)
                    file.write(source.read(stored.stop - stored.start))


def _is_sharded(folder: Path) -> bool:
    # Where both lie in a folder, transformers reads the single file: so do we.
    return (folder / INDEX).is_file() and not (folder / SINGLE).is_file()


def _bytes(weight: Tensor, stored: Stored) -> bytes:
    assert list(weight.shape) == stored.shape, stored.name
    return weight.detach().to(device="cpu", dtype=stored.dtype).contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _read_header(path: Path) -> tuple[bytes, list[Stored]]:
    """The bytes before the numbers, and the tensors in the header's order."""
    try:
        with path.open("rb") as file:
            length = file.read(8)
            header = length + file.read(int.from_bytes(length, "little"))
        tables: dict[str, Any] = json.loads(header[8:])
        tables.pop("__metadata__", None)
        found = [(name, table["dtype"], table["shape"], *table["data_offsets"]) for name, table in tables.items()]
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise DataError(f"{path}: not a readable weights file: {error}") from error
    for name, dtype, *_ in found:
        if dtype not in DTYPES:
            raise DataError(f"{path}: {name} is {dtype}; expected {', '.join(DTYPES)}. Quantised weights cannot be trained on")
    return header, [Stored(name, DTYPES[dtype], shape, start, stop) for name, dtype, shape, start, stop in found]
