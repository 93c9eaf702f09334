"""The text of an answer as its tokens arrive, and the strings that end it.

A character is given out when its last byte is there, and text that may turn out to be the beginning of a stop string is
held back until the next tokens tell. A stop string may lie across tokens, or end in the middle of one.
"""

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol


class Vocabulary(Protocol):
    """What generation needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Its ids are 0 to vocab_size - 1."""
        ...

    @property
    def end_id(self) -> int:
        """The id of `<|end|>`."""
        ...

    @property
    def pad_id(self) -> int:
        """An id to fill up with."""
        ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for; special ids have none."""
        ...


class TextStream:
    """Text from tokens, up to the first stop string. `stopped` says that one was met; nothing comes after it."""

    def __init__(self, tokenizer: Vocabulary, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.stopped = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def push(self, token: int) -> str:
        """The text that this token makes sure of: without a stop string, and without what may become one.

        >>> class Letters:
        ...     vocab_size, end_id, pad_id = 256, 0, 0
        ...     def decode_bytes(self, ids): return bytes(ids)
        >>> stream = TextStream(Letters(), stop=["###"])
        >>> [stream.push(ord(letter)) for letter in "a##b###c"], stream.stopped
        (['a', '', '', '##b', '', '', '', ''], True)
        """
        return self._take(self._decoder.decode(self.tokenizer.decode_bytes([token])))

    def finish(self) -> str:
        """What was held back, when no more tokens come; bytes that are no whole character become U+FFFD."""
        sure = self._take(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return sure + rest

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        places = [place for stop in self.stop if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            sure, self._held = self._held[: min(places)], ""
            return sure
        length = len(self._held) - max((_overlap(self._held, stop) for stop in self.stop), default=0)
        sure, self._held = self._held[:length], self._held[length:]
        return sure


def answer_text(tokenizer: Vocabulary, tokens: Iterable[int], *, stop: Sequence[str] = ()) -> str:
    """The text of a whole answer, without the stop string that ended it."""
    stream = TextStream(tokenizer, stop)
    pieces = [stream.push(token) for token in tokens]
    return "".join([*pieces, stream.finish()])


def _overlap(text: str, stop: str) -> int:
    # The longest end of `text` that `stop` begins with.
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
