"""Text to token ids and back: a byte-level BPE tokenizer read from a standard `tokenizer.json`.

The file is the one that `transformers`, vLLM and llama.cpp read; here its merges run in tiktoken, which is the fastest
reader of the three and gives the same ids. Text is data: a document that spells out `<|end|>` is encoded as those
seven characters, and only this code's callers put special ids into a sequence.
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

SPECIAL_TOKENS = ("<|bos|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
"""In the order of their ids. `<|end|>` ends documents and turns (eos); padding has an id of its own, so that a mask of
padding can never hide the end from training."""

MAX_WHITESPACE_RUN = 500_000
"""The regex engine of tiktoken and rustbpe overflows its stack on a million blanks in a row (seen with 0.14.0 and 0.1.0);
real pages have such runs. Longer ones are encoded in parts of this many characters."""

_LONG_WHITESPACE = re.compile(rf"\s{{{MAX_WHITESPACE_RUN}}}")


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A loaded tokenizer; make one with `load_tokenizer`. `sha256` is that of its tokenizer.json."""

    vocab_size: int
    bos_id: int
    end_id: int
    pad_id: int
    special_ids: dict[str, int]
    sha256: str
    _encoding: tiktoken.Encoding
    _bytes_of_id: list[bytes]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. What looks like a special token in it is plain text; a lone surrogate becomes U+FFFD."""
        if len(text) < MAX_WHITESPACE_RUN:
            return self._encoding.encode_ordinary(text)
        return [i for part in split_long_whitespace(text) for i in self._encoding.encode_ordinary(part)]

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
    """The tokenizer in `folder` (a tokenizer artifact or a checkpoint).

    Raises DataError if there is no tokenizer.json, if it is not a byte-level BPE with a Split pattern (as Llama-3's,
    Qwen's and ours are), or if it lacks one of SPECIAL_TOKENS.
    """
    path = folder / "tokenizer.json"
    data = read_json(path)
    try:
        vocab: dict[str, int] = data["model"]["vocab"]
        pattern: str = next(p["pattern"]["Regex"] for p in data["pre_tokenizer"]["pretokenizers"] if p["type"] == "Split")
        added: dict[str, int] = {token["content"]: token["id"] for token in data["added_tokens"]}
        byte_of = {character: byte for byte, character in enumerate(byte_characters())}
        ranks = {bytes(byte_of[c] for c in token): i for token, i in vocab.items() if token not in added}
    except (KeyError, TypeError, StopIteration) as error:
        raise DataError(f"{path}: expected a byte-level BPE tokenizer with a Split pattern, but {error!r} is missing in it") from error
    missing = [token for token in SPECIAL_TOKENS if token not in added]
    if missing:
        raise DataError(f"{path}: lacks the special tokens {', '.join(missing)}. Make one with the stage train_tokenizer.")
    vocab_size = len(ranks) + len(added)
    bytes_of_id = [b""] * vocab_size
    for token, i in [*ranks.items(), *((token.encode(), i) for token, i in added.items())]:
        if not 0 <= i < vocab_size or bytes_of_id[i]:
            raise DataError(f"{path}: id {i} of {token!r} is used twice or lies outside 0..{vocab_size - 1}; expected ids without gaps")
        bytes_of_id[i] = token
    sha256 = sha256_file(path)
    return Tokenizer(
        vocab_size=vocab_size,
        bos_id=added["<|bos|>"],
        end_id=added["<|end|>"],
        pad_id=added["<|pad|>"],
        special_ids=added,
        sha256=sha256,
        _encoding=tiktoken.Encoding(sha256, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}),
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
    cuts = [0, *(match.end() for match in _LONG_WHITESPACE.finditer(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(cuts) if end > start]
