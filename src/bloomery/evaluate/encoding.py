"""A prompt and what follows it as token ids, cut where the first ends.

Both are encoded together, because a tokenizer may join the end of one with the beginning of the other; scored is every
token that is not wholly the prompt's. White space at a prompt's end goes to what follows, as tokenizers have it. Where
nothing is joined these are lm-eval's tokens; where something is, lm-eval leaves the joined token out of the score.
"""

from bloomery.core.errors import DataError
from bloomery.evaluate.packed import Text, common_length
from bloomery.tokens.tokenizer import Tokenizer


def encode_text(tokenizer: Tokenizer, context: str, continuation: str) -> Text:
    """`context` and `continuation` as one text of which the second is scored. Raises DataError for an empty continuation."""
    blanks = len(context) - len(context.rstrip())
    head, tail = context[: len(context) - blanks], context[len(context) - blanks :] + continuation
    if not continuation.strip():
        raise DataError(f"the continuation of {context[-60:]!r} is empty: there is nothing to score")
    # A model without a token that begins texts still needs something to predict the first one from.
    begin = tokenizer.begin or ([] if head else [tokenizer.end_id])
    whole, before = tokenizer.encode(head + tail), tokenizer.encode(head)
    start = len(begin) + common_length([whole, before]) if before else len(begin)
    if start == 0:  # the prompt is part of the first token
        begin, start = [tokenizer.end_id], 1
    return Text([*begin, *whole], start)
