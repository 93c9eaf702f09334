"""Text comes out whole characters at a time, and never a piece of what stops it."""

import pytest

from bloomery.generate.text import TextStream, answer_text


class Bytes:
    """Token i is the byte i, but 0 has none."""

    vocab_size, end_id, pad_id = 256, 0, 0

    def decode_bytes(self, ids):
        return bytes(i for i in ids if i)


def pieces_of(text: str, stop: list[str]) -> tuple[list[str], TextStream]:
    stream = TextStream(Bytes(), stop)
    return [piece for byte in text.encode() if (piece := stream.push(byte))] + [stream.finish()], stream


@pytest.mark.parametrize(
    ("text", "stop", "expected", "stopped"),
    [
        ("abc", [], "abc", False),
        ("abcSTOPdef", ["STOP"], "abc", True),
        ("STOP", ["STOP"], "", True),
        ("abcSTO", ["STOP"], "abcSTO", False),
        ("abSTSTOP!", ["STOP"], "abST", True),
        ("one\n\ntwo", ["\n\n"], "one", True),
        ("x###y", ["##", "x##"], "", True),  # both end at once: the one that begins first cuts
        ("naïve", ["ï"], "na", True),
        ("aab", ["ab"], "a", True),
    ],
)
def test_text_ends_before_the_first_stop_string(text: str, stop: list[str], expected: str, stopped: bool) -> None:
    pieces, stream = pieces_of(text, stop)
    assert ("".join(pieces), stream.stopped) == (expected, stopped)
    assert answer_text(Bytes(), text.encode(), stop=stop) == expected


def test_what_may_become_a_stop_string_is_held_back_and_the_rest_is_not() -> None:
    stream = TextStream(Bytes(), ["\n\nQ"])
    assert [stream.push(byte) for byte in b"hi\n\nA"] == ["h", "i", "", "", "\n\nA"]


def test_a_character_comes_when_its_last_byte_is_there_and_half_of_one_at_the_end_is_replaced() -> None:
    stream = TextStream(Bytes())
    assert [stream.push(byte) for byte in "é".encode()] == ["", "é"]
    assert (stream.push("é".encode()[0]), stream.finish()) == ("", "\ufffd")


def test_tokens_without_bytes_say_nothing() -> None:
    assert answer_text(Bytes(), [97, 0, 98, 0]) == "ab"
