"""How a token is told to a page: its text, or its bytes where they are no whole characters."""

from typing import Any  # Any: JSON

from bloomery.tokens.tokenizer import Tokenizer


def describe_token(tokenizer: Tokenizer, token: int, *, special: frozenset[int]) -> dict[str, Any]:
    """{id, text} of a token, `hex` instead of `text` for a part of a character, `special` for one that stands for no text."""
    content = tokenizer.decode_bytes([token], skip_special=False)
    try:
        told: dict[str, Any] = {"id": token, "text": content.decode("utf-8")}
    except UnicodeDecodeError:
        told = {"id": token, "hex": content.hex(" ")}
    return told | ({"special": True} if token in special else {})


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of its special tokens."""
    return frozenset(tokenizer.special_ids.values())
