import pytest

from bloomery.core.errors import DataError
from bloomery.evaluate.encoding import encode_text
from bloomery.tokens.tokenizer import Tokenizer


def scored(tokenizer: Tokenizer, context: str, continuation: str) -> str:
    text = encode_text(tokenizer, context, continuation)
    return tokenizer.decode(text.tokens[text.start :])


def test_a_blank_at_the_contexts_end_is_scored_with_the_continuation(tokenizer: Tokenizer) -> None:
    assert encode_text(tokenizer, "the cat ", "sat") == encode_text(tokenizer, "the cat", " sat")
    assert scored(tokenizer, "the cat ", "sat") == " sat"


def test_both_are_encoded_together(tokenizer: Tokenizer) -> None:
    text = encode_text(tokenizer, "the cat sat", " on a mat")
    assert text.tokens == [*tokenizer.begin, *tokenizer.encode("the cat sat on a mat")]


def test_a_token_that_joins_both_is_scored(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode(" houses")) == 1  # so what the context has of it is part of the continuation's first token
    assert scored(tokenizer, "red hou", "ses") == " houses"
    assert scored(tokenizer, "red", " houses") == " houses"


def test_without_a_context_the_first_token_is_predicted_from_the_mark_of_a_beginning(tokenizer: Tokenizer) -> None:
    text = encode_text(tokenizer, "", "the cat")
    assert (text.start, text.tokens[0]) == (1, tokenizer.bos_id)
    assert scored(tokenizer, "", "the cat") == "the cat"


def test_an_empty_continuation_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"'the cat' is empty"):
        encode_text(tokenizer, "the cat", " ")
