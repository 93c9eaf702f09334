"""One answer as it grows, and what ends it."""

from typing import Literal

from bloomery.generate.sampling import SamplingParams
from bloomery.generate.text import TextStream, Vocabulary

Finish = Literal["end", "length", "stop"]
"""Why an answer ended: with `<|end|>`; by max_tokens or the end of the model's context; with a stop string or stop token."""


class GrowingAnswer:
    """The tokens of an answer so far; it has at most `limit`."""

    def __init__(self, tokenizer: Vocabulary, params: SamplingParams, *, limit: int) -> None:
        self.tokens: list[int] = []
        self.limit = limit
        self._stop_tokens, self._end_id = frozenset(params.stop_tokens), tokenizer.end_id
        self._text = TextStream(tokenizer, params.stop) if params.stop else None

    def push(self, token: int) -> Finish | None:
        """Takes the next token; says whether it is the last one, and why."""
        self.tokens.append(token)
        if token == self._end_id:
            return "end"
        if self._text is not None:
            self._text.push(token)
        if token in self._stop_tokens or (self._text is not None and self._text.stopped):
            return "stop"
        return "length" if len(self.tokens) == self.limit else None
