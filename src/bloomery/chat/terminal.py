"""A conversation in the terminal: reads lines, streams answers. Text goes out through a writer, so that any screen will do."""

from collections.abc import Callable

from bloomery.chat.session import Session
from bloomery.core.errors import DataError

HELP = """/reset   start over
/help    this list
/quit    leave (or Ctrl-D)
Ctrl-C   stop an answer
"""


def chat_in_terminal(session: Session, *, read: Callable[[str], str], write: Callable[[str], None]) -> None:
    """Talks until /quit or the end of input. `read` shows a prompt and returns a line, as `input` does; `write` adds no newline.

    Ctrl-C (KeyboardInterrupt) stops an answer, whose beginning stays in the conversation; at the prompt it does nothing.
    """
    while True:
        try:
            line = read("you> ").strip()
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            write("\n(/quit or Ctrl-D to leave)\n")
            continue
        if not line:
            continue
        if line == "/quit":
            return
        if line == "/reset":
            session.reset()
            write("(a new conversation)\n")
        elif line.startswith("/"):
            write(HELP if line == "/help" else f"unknown command {line.split()[0]}\n{HELP}")
        else:
            _answer_line(session, line, write)


def answer_once(session: Session, prompt: str, *, write: Callable[[str], None]) -> str:
    """Streams the answer to one prompt through `write`, ends it with a newline, and returns it.

    Raises DataError if the prompt is too long for the model.
    """
    pieces = []
    for piece in session.answer(prompt):
        pieces.append(piece)
        write(piece)
    write("\n")
    return "".join(pieces)


def _answer_line(session: Session, line: str, write: Callable[[str], None]) -> None:
    forgotten = session.num_forgotten
    try:
        answer_once(session, line, write=write)
    except KeyboardInterrupt:
        write(" (stopped)\n")
    except DataError as error:
        write(f"({error})\n")
    else:
        if session.reached_limit:
            write(f"(the answer was cut at {session.params.max_tokens} tokens)\n")
    if session.num_forgotten > forgotten:
        write(f"(the conversation is longer than the model's context: it no longer sees the first {session.num_forgotten} messages)\n")
