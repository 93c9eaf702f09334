"""The terminal answers lines, knows its commands, and survives Ctrl-C."""

from collections.abc import Callable

import pytest

from bloomery.chat.session import Session
from bloomery.chat.terminal import answer_once, chat_in_terminal
from bloomery.core.errors import DataError


def keyboard(*lines: str | type[BaseException]) -> Callable[[str], str]:
    """A `read` that types these lines, raises these exceptions, and then ends as Ctrl-D does."""
    waiting = list(lines)

    def read(prompt: str) -> str:
        line = waiting.pop(0) if waiting else EOFError
        if isinstance(line, str):
            return line
        raise line

    return read


def talk(session: Session, *lines: str | type[BaseException]) -> str:
    written: list[str] = []
    chat_in_terminal(session, read=keyboard(*lines), write=written.append)
    return "".join(written)


def test_a_line_is_answered_and_the_end_of_input_leaves(session: Session) -> None:
    screen = talk(session, "hi", "")
    assert len(session.messages) == 2
    assert screen.startswith(session.messages[1]["content"] + "\n")


def test_an_answer_that_was_cut_says_so(session: Session) -> None:
    assert "(the answer was cut at 8 tokens)" in talk(session, "hi")


def test_quit_leaves_and_reset_starts_over(session: Session) -> None:
    talk(session, "hi", "/reset", "/quit", "never read")
    assert session.messages == []


def test_an_unknown_command_shows_the_known_ones_and_is_not_sent(session: Session) -> None:
    screen = talk(session, "/exit now", "/help")
    assert screen.count("/reset   start over") == 2
    assert "unknown command /exit" in screen
    assert session.messages == []


def test_ctrl_c_at_the_prompt_does_not_leave(session: Session) -> None:
    talk(session, KeyboardInterrupt, "hi")
    assert len(session.messages) == 2


def test_ctrl_c_stops_an_answer_and_keeps_its_beginning(session: Session) -> None:
    written: list[str] = []

    def write(text: str) -> None:
        written.append(text)
        if len(written) == 2:
            raise KeyboardInterrupt

    chat_in_terminal(session, read=keyboard("hi"), write=write)
    assert session.messages[1]["content"] == "".join(written[:2])
    assert written[2] == " (stopped)\n"


def test_a_message_too_long_is_explained_and_the_conversation_goes_on(session: Session) -> None:
    screen = talk(session, "x" * 300, "hi")
    assert "say it shorter" in screen
    assert len(session.messages) == 2


def test_forgetting_is_said(session: Session) -> None:
    assert "no longer sees the first" in talk(session, *["x" * 20] * 3)


def test_one_answer_is_streamed_and_returned(session: Session) -> None:
    written: list[str] = []
    answer = answer_once(session, "hi", write=written.append)
    assert "".join(written) == answer + "\n"
    assert len(written) > 2
    with pytest.raises(DataError):
        answer_once(session, "x" * 300, write=written.append)
