"""Why a token: the merges that made it, followed step by step in the merge list of a tokenizer.json.

A BPE cuts a text into pieces first (its pre-tokenizer), spells each piece in single symbols, and then joins the two
neighbours whose pair stands highest in the merge list, again and again. The `tokenizers` library normalises and cuts here;
the joining is done over, so that each step can be told.
"""

import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple  # Any: the values of a tokenizer.json

import tokenizers

from bloomery.core.errors import DataError


class Step(NamedTuple):
    """One merge: two neighbours became one token. `rank` is the pair's place in the merge list, the first is 0."""

    rank: int
    left: str
    right: str


@dataclass(eq=False)
class Joined:
    """A token of a piece, in the vocabulary's spelling, and the merges that made it, in their order."""

    token: str
    steps: list[tuple[int, Step]]
    """Each with its number among all merges of the piece."""


class Why(NamedTuple):
    """What became of the piece that a token lies in."""

    tokens: list[str]
    """All tokens of the piece."""
    place: int
    """Which of them is asked about."""
    first: int
    """The number of the piece's first token in the text."""
    is_whole: bool
    """The piece is an entry of the vocabulary and was taken as it is, without merging (`ignore_merges`)."""
    steps: list[Step]
    """The merges that made it; of a whole piece those that would have, empty if there are none."""


class MergeTable:
    """The merges of a tokenizer. Raises DataError for one that does not merge by a list alone."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        model = data["model"]
        for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
            if model.get(name):
                raise DataError(f"this tokenizer has {name} = {model[name]!r}: its merges cannot be followed here")
        pairs = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
        self._rank: dict[tuple[str, ...], int] = {pair: rank for rank, pair in enumerate(pairs)}
        self._vocab: Mapping[str, int] = model["vocab"]
        self._falls_back, self._takes_whole = bool(model.get("byte_fallback")), bool(model.get("ignore_merges"))
        self._unknown: list[str] = [model["unk_token"]] if model.get("unk_token") else []
        plain = {**data, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        self._library = tokenizers.Tokenizer.from_str(json.dumps(plain))
        self.num_merges = len(pairs)

    def id_of(self, token: str) -> int:
        """The id of a token in the vocabulary's spelling."""
        return self._vocab[token]

    def explain(self, text: str, place: int) -> Why:
        """Why token number `place` of the encoded text is what it is. Raises IndexError if there are not so many."""
        words = self._library.encode(text, add_special_tokens=False).word_ids
        word = words[place]
        assert word is not None  # only special tokens that the library adds belong to no piece, and it adds none here
        first = words.index(word)
        tokens = self.join(self.cut(text)[word])
        piece = "".join(joined.token for joined in tokens)
        if self._takes_whole and piece in self._vocab:
            steps = [step for _, step in tokens[0].steps] if len(tokens) == 1 else []
            return Why([piece], 0, first, True, steps)
        joined = tokens[place - first]
        return Why([one.token for one in tokens], place - first, first, False, [step for _, step in joined.steps])

    def encode(self, text: str) -> list[int]:
        """The ids of a text, found by the merges alone: what the library's `encode` must give, too."""
        ids = []
        for piece in self.cut(text):
            if self._takes_whole and piece in self._vocab:
                ids.append(self._vocab[piece])
            else:
                ids += [self._vocab[joined.token] for joined in self.join(piece)]
        return ids

    def cut(self, text: str) -> list[str]:
        """The pieces that are merged each for itself, in the vocabulary's spelling."""
        normalizer, splitter = self._library.normalizer, self._library.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer is not None else text
        return [piece for piece, _ in splitter.pre_tokenize_str(text)] if splitter is not None else [text] if text else []

    def join(self, piece: str) -> list[Joined]:
        """The tokens of a piece: of all neighbours the pair of the lowest rank is joined, the leftmost first, until none is listed."""
        parts: list[Joined | None] = [Joined(symbol, []) for symbol in self._spell(piece)]
        before, after = list(range(-1, len(parts) - 1)), list(range(1, len(parts) + 1))
        waiting = [(rank, i) for i in range(len(parts) - 1) if (rank := self._rank_of(parts, i, i + 1)) is not None]
        heapq.heapify(waiting)
        count = 0
        while waiting:
            rank, i = heapq.heappop(waiting)
            j = after[i]
            left, right = parts[i], parts[j] if j < len(parts) else None
            # A rank names one pair: if another stands here by now, this entry is an old one.
            if left is None or right is None or self._rank.get((left.token, right.token)) != rank:
                continue
            steps = sorted([*left.steps, *right.steps, (count, Step(rank, left.token, right.token))])
            count += 1
            parts[i], parts[j] = Joined(left.token + right.token, steps), None
            after[i] = after[j]
            if after[i] < len(parts):
                before[after[i]] = i
            for one in (before[i], i):
                if one >= 0 and (rank_here := self._rank_of(parts, one, after[one])) is not None:
                    heapq.heappush(waiting, (rank_here, one))
        return [joined for joined in parts if joined is not None]

    def _rank_of(self, parts: Sequence[Joined | None], i: int, j: int) -> int | None:
        left, right = parts[i], parts[j] if j < len(parts) else None
        return self._rank.get((left.token, right.token)) if left is not None and right is not None else None

    def _spell(self, piece: str) -> list[str]:
        symbols: list[str] = []
        for character in piece:
            if character in self._vocab:
                symbols.append(character)
                continue
            single = [f"<0x{byte:02X}>" for byte in character.encode("utf-8", "replace")]
            symbols += single if self._falls_back and all(byte in self._vocab for byte in single) else self._unknown
        return symbols
