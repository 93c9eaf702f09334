"""The tokenizers of a store: listed by opaque id, read when they are looked at, a few of them kept."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import Any  # Any: the values of a tokenizer.json

import tokenizers

from bloomery.chat.refusal import Refusal
from bloomery.core.files import read_json, sha256_file
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.web.directory import ArtifactEntry, Directory
from bloomery.web.tokenizer.merges import MergeTable
from bloomery.web.tokenizer.pieces import special_ids

FILE = "tokenizer.json"
KINDS = ("tokenizer", "checkpoint", "reward_model")
MAX_LOADED = 4


class LoadedTokenizer:
    """A tokenizer and what its page asks of it, each part made when it is first wanted."""

    def __init__(self, entry: ArtifactEntry) -> None:
        self.entry = entry
        self.tokenizer: Tokenizer = load_tokenizer(entry.path)
        self.special = special_ids(self.tokenizer)

    @cached_property
    def vocabulary(self) -> list[bytes]:
        """The bytes of each id; of a special one those of its name."""
        return [self.tokenizer.decode_bytes([i], skip_special=False) for i in range(self.tokenizer.vocab_size)]

    @cached_property
    def merges(self) -> MergeTable:
        """Its merges. Raises DataError for a tokenizer whose merges cannot be followed."""
        return MergeTable(self._data)

    @cached_property
    def library(self) -> tokenizers.Tokenizer:
        """The same file in the `tokenizers` library, which finds special tokens in a text as `transformers` does."""
        library = tokenizers.Tokenizer.from_file(str(self.entry.path / FILE))
        library.no_truncation()
        library.no_padding()
        return library

    @property
    def _data(self) -> Mapping[str, Any]:
        data: Mapping[str, Any] = read_json(self.entry.path / FILE)
        return data


class TokenizerShelf:
    """May be asked from several threads."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, tuple[str, LoadedTokenizer]] = OrderedDict()

    def entries(self) -> list[ArtifactEntry]:
        """Every finished artifact that has a tokenizer: those made by training one first, then the models'."""
        found = [entry for entry in self.directory.artifacts() if entry.kind in KINDS and (entry.path / FILE).is_file()]
        return sorted(found, key=lambda entry: KINDS.index(entry.kind))

    def get(self, tokenizer_id: str) -> LoadedTokenizer:
        """The tokenizer with this id. Raises Refusal (404), DataError for one that cannot be read."""
        entry = next((entry for entry in self.entries() if entry.id == tokenizer_id), None)
        if entry is None:
            raise Refusal(404, "there is no such tokenizer in this store: it may have been removed", code="not_found", param="tokenizer")
        looks = sha256_file(entry.path / FILE)
        with self._lock:
            known = self._loaded.pop(tokenizer_id, None)
            if known is not None and known[0] == looks:
                self._loaded[tokenizer_id] = known
                return known[1]
        loaded = LoadedTokenizer(entry)
        with self._lock:
            self._loaded[tokenizer_id] = (looks, loaded)
            while len(self._loaded) > MAX_LOADED:
                self._loaded.popitem(last=False)
        return loaded
