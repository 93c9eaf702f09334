"""Text to token ids and back: a BPE tokenizer read from a standard `tokenizer.json`.

The file is the one that `transformers`, vLLM and llama.cpp read; the merges of our own run in tiktoken, which is the
fastest reader of the three and gives the same ids (see foreign.py for the tokenizers of others). Text is data: a
document that spells out `<|end|>` is encoded as those seven characters, and only this code's callers put special ids
into a sequence.
"""

import codecs
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiktoken

from bloomery.core.errors import DataError
from bloomery.core.files import read_json, sha256_file
from bloomery.tokens.foreign import LibraryEncoding, Roles, bytes_of_token, find_misfit, read_roles

CHAT_TOKENS = ("<|bos|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
"""What makes a tokenizer one of ours. `<|end|>` ends documents and turns (eos); padding has an id of its own, so that a mask
of padding can never hide the end from training."""

TOOL_TOKENS = ("<|tool_call|>", "<|tool_result|>")
"""Before a call that the assistant makes, and before what came of it. The first tokenizers of ours had neither."""

SPECIAL_TOKENS = (*CHAT_TOKENS, *TOOL_TOKENS)
"""In the order of their ids."""

MAX_WHITESPACE_RUN = 500_000
"""The regex engine of tiktoken and rustbpe overflows its stack on a million blanks in a row (seen with 0.14.0 and 0.1.0);
real pages have such runs. Longer ones are encoded in parts of this many characters."""

_LONG_WHITESPACE = re.compile(rf"(?<!\s)\s{{{MAX_WHITESPACE_RUN},}}")
"""Sought from the start of a run only: from every blank on, a page of 300,000 blanks would take minutes."""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A loaded tokenizer; make one with `load_tokenizer`. `sha256` is that of its tokenizer.json."""

    vocab_size: int
    bos_id: int | None
    """None: nothing begins a text, as in Qwen's."""
    end_id: int
    pad_id: int
    special_ids: dict[str, int]
    sha256: str
    _encoding: tiktoken.Encoding | LibraryEncoding
    _bytes_of_id: list[bytes]

    @property
    def begin(self) -> list[int]:
        """What comes before the ids of a text: the id that begins one, or nothing."""
        return [] if self.bos_id is None else [self.bos_id]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. What looks like a special token in it is plain text; a lone surrogate becomes U+FFFD."""
        if len(text) < MAX_WHITESPACE_RUN:
            return self._encoding.encode_ordinary(text)
        return [i for part in split_long_whitespace(text) for i in self._encoding.encode_ordinary(part)]

    def encode_to_array(self, text: str) -> np.ndarray:
        """`encode` as uint32 [tokens]: of a long document a small part of the memory that a list of numbers takes."""
        if isinstance(self._encoding, LibraryEncoding):
            return np.array(self.encode(text), dtype=np.uint32)
        parts = split_long_whitespace(text)
        try:
            return np.concatenate([self._encoding.encode_to_numpy(part, disallowed_special=()) for part in parts])
        except UnicodeEncodeError:  # a lone surrogate, which this function of tiktoken's does not replace
            return np.array(self.encode(text), dtype=np.uint32)

    def encode_with_places(self, text: str) -> list[tuple[int, int, int]]:
        """The ids of `text`, each with the characters first .. end that it stands for (those of a whole character it is a part of)."""
        if isinstance(self._encoding, LibraryEncoding):
            return self._encoding.encode_with_places(text)
        ids = self.encode(text)
        first_byte = np.cumsum([0, *(len(character.encode("utf-8", "surrogatepass")) for character in text)])
        ends = np.cumsum([0, *(len(self._bytes_of_id[i]) for i in ids)])
        firsts = np.searchsorted(first_byte, ends[:-1], side="right") - 1
        return list(zip(ids, firsts.tolist(), np.searchsorted(first_byte, ends[1:], side="left").tolist(), strict=True))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on one thread: the pool's workers are the parallelism."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD. Raises ValueError for an id outside the vocabulary."""
        return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = True) -> bytes:
        """The bytes of `ids`, exactly. Raises ValueError for an id outside the vocabulary."""
        special = set(self.special_ids.values()) if skip_special else set()
        parts = []
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"token id {i} is outside the vocabulary of {self.vocab_size}")
            if i not in special:
                parts.append(self._bytes_of_id[i])
        return b"".join(parts)

    def decode_stream(self, ids: Iterable[int], *, skip_special: bool = True) -> Iterator[str]:
        """The text of `ids` as they arrive; a character is yielded when its last byte is there, never in halves."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            text = decoder.decode(self.decode_bytes([i], skip_special=skip_special))
            if text:
                yield text
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    def token_bytes(self) -> np.ndarray:
        """Bytes of text that each id stands for, int64 [vocab_size]; 0 for specials. Bits per byte divide by these."""
        sizes = np.array([len(b) for b in self._bytes_of_id], dtype=np.int64)
        sizes[list(self.special_ids.values())] = 0
        return sizes


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in `folder` (a tokenizer artifact or a checkpoint, anybody's).

    Raises DataError if there is no tokenizer.json, if it is no BPE that can spell every text, or if nothing says which
    token ends one.
    """
    path = folder / "tokenizer.json"
    data, sha256 = read_json(path), sha256_file(path)
    if misfit := find_misfit(data):
        raise DataError(f"{path}: {misfit}")
    try:
        added: dict[str, int] = {token["content"]: token["id"] for token in data["added_tokens"]}
        vocab: dict[str, int] = {token: i for token, i in data["model"]["vocab"].items() if token not in added}
        bytes_of = bytes_of_token(data, vocab, {character: byte for byte, character in enumerate(byte_characters())})
        encoding: tiktoken.Encoding | LibraryEncoding
        if all(token in added for token in CHAT_TOKENS):
            roles = Roles(*(added[token] for token in CHAT_TOKENS[:3]))
            pattern: str = next(p["pattern"]["Regex"] for p in data["pre_tokenizer"]["pretokenizers"] if p["type"] == "Split")
            ranks = {bytes_of[token]: i for token, i in vocab.items()}
            # Nothing is ever encoded as one, but without any tiktoken looks for the empty word at every byte, which doubles the time.
            specials = {token: added[token] for token in CHAT_TOKENS}
            encoding = tiktoken.Encoding(sha256, pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)
        else:
            roles, encoding = read_roles(folder, data, added), LibraryEncoding(data)
    except (KeyError, TypeError, StopIteration) as error:
        raise DataError(f"{path}: expected a BPE tokenizer as `tokenizers` writes it, but {error!r} is missing in it") from error
    vocab_size = len(vocab) + len(added)
    bytes_of_id = [b""] * vocab_size
    for token, i in [*((bytes_of[token], i) for token, i in vocab.items()), *((token.encode(), i) for token, i in added.items())]:
        if not 0 <= i < vocab_size or bytes_of_id[i]:
            raise DataError(f"{path}: id {i} of {token!r} is used twice or lies outside 0..{vocab_size - 1}; expected ids without gaps")
        bytes_of_id[i] = token
    return Tokenizer(
        vocab_size=vocab_size,
        bos_id=roles.bos_id,
        end_id=roles.end_id,
        pad_id=roles.pad_id,
        special_ids=added,
        sha256=sha256,
        _encoding=encoding,
        _bytes_of_id=bytes_of_id,
    )


def byte_characters() -> list[str]:
    """The printable character that stands for each byte 0..255 in a tokenizer.json (GPT-2's table, openai/gpt-2 encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in printable}
    for shift, byte in enumerate(b for b in range(256) if b not in table):
        table[byte] = chr(256 + shift)
    return [table[byte] for byte in range(256)]


def split_long_whitespace(text: str) -> list[str]:
    """`text` in parts without a run of blanks that the regex engine cannot take; almost always one part."""
    if len(text) < MAX_WHITESPACE_RUN:
        return [text]
    runs = [match.span() for match in _LONG_WHITESPACE.finditer(text)]
    inside = (cut for start, end in runs for cut in range(start + MAX_WHITESPACE_RUN, end + 1, MAX_WHITESPACE_RUN))
    return [text[start:end] for start, end in itertools.pairwise([0, *inside, len(text)]) if end > start]
