"""Tokenizers of other people's checkpoints: any BPE in a `tokenizer.json`, with special tokens of its own.

Its merges run in the `tokenizers` library, so ids are those of `AutoTokenizer` whatever normaliser and pattern the file
asks for, but for added tokens: none of them comes of text, marked special or not. What differs from our own: there may
be no token that begins a text, the end is called something else, and padding often has no id of its own.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple  # Any: the values of a tokenizer.json

import tokenizers

from bloomery.core.errors import DataError
from bloomery.core.files import read_json

WORD_START = "▁"
"""What stands for a blank in the vocabularies of SentencePiece."""


class Roles(NamedTuple):
    """Ids that begin a text (None: nothing does), end it, and fill up."""

    bos_id: int | None
    end_id: int
    pad_id: int


class LibraryEncoding:
    """The merges of a tokenizer.json in the `tokenizers` library; special tokens in a text are plain text."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        plain = {**data, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(plain))

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of a text; a lone surrogate becomes U+FFFD."""
        return list(self._tokenizer.encode(_without_surrogates(text), add_special_tokens=False).ids)

    def encode_with_places(self, text: str) -> list[tuple[int, int, int]]:
        """See Tokenizer.encode_with_places."""
        found = self._tokenizer.encode(_without_surrogates(text), add_special_tokens=False)
        return [(token, first, end) for token, (first, end) in zip(found.ids, found.offsets, strict=True)]


def read_roles(folder: Path, data: Mapping[str, Any], added: Mapping[str, int]) -> Roles:
    """Which ids begin and end a text and fill up, as the files of a checkpoint say. Raises DataError if nothing ends a text.

    The end is the eos token of tokenizer_config.json, else of config.json. A text begins with what the file's own
    post-processor puts before it: a bos token that it names but never adds is none.
    """
    names = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    by_name: dict[str, int] = {**data["model"]["vocab"], **added}
    end_id = by_name.get(_content(names.get("eos_token")))
    if end_id is None and (folder / "config.json").is_file():
        found = read_json(folder / "config.json").get("eos_token_id")
        end_id = found[0] if isinstance(found, list) and found else found
    if not isinstance(end_id, int) or end_id not in by_name.values():
        raise DataError(
            f"{folder}: nothing says which token ends a text: tokenizer_config.json has no eos_token that the vocabulary knows, "
            f"and eos_token_id in config.json is {end_id}"
        )
    pad_id = by_name.get(_content(names.get("pad_token")), end_id)
    return Roles(by_name.get(_first_of_template(data.get("post_processor"))), end_id, pad_id)


def bytes_of_token(data: Mapping[str, Any], tokens: Iterable[str], byte_of: Mapping[str, int]) -> dict[str, bytes]:
    """What each of these entries of the vocabulary stands for. Raises KeyError for a character that stands for no byte.

    Byte-level vocabularies spell bytes in GPT-2's characters; SentencePiece's spell text, and `<0xE2>` for single bytes.
    """
    if _is_byte_level(data):
        return {token: bytes(byte_of[character] for character in token) for token in tokens}
    return {token: _sentencepiece_bytes(token) for token in tokens}


def find_misfit(data: Mapping[str, Any]) -> str:
    """Why a tokenizer.json cannot be used; empty if it can."""
    model = data.get("model") or {}
    if model.get("type", "BPE") != "BPE":
        return f"its model is {model.get('type')}; expected BPE"
    if not _is_byte_level(data) and not model.get("byte_fallback"):
        return "it has neither a ByteLevel pre-tokenizer nor byte_fallback, so there are texts it cannot spell"
    return ""


def _is_byte_level(data: Mapping[str, Any]) -> bool:
    splitter = data.get("pre_tokenizer") or {}
    return "ByteLevel" in [part.get("type") for part in (splitter, *(splitter.get("pretokenizers") or []))]


def _sentencepiece_bytes(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace(WORD_START, " ").encode()


def _without_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token or "")


def _first_of_template(processor: Any) -> str:
    """The special token that a post-processor puts before a text, if it puts one there."""
    for part in [processor, *((processor or {}).get("processors") or [])]:
        if part and part.get("type") == "TemplateProcessing" and part["single"]:
            return str(part["single"][0].get("SpecialToken", {}).get("id", ""))
    return ""
