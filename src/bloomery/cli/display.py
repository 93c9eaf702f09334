"""How the command line speaks: results on stdout (text, or one JSON object), logs and errors on stderr, exit codes.

0 is success, 1 a run that failed, 2 a command line or recipe that cannot be right, 130 Ctrl-C, 143 SIGTERM in training. A
mistake of the user's is told in one message; its traceback only with --debug.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any  # Any: whatever a command has to show

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; logs go to stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and debug logs.")]


@contextlib.contextmanager
def session(*, as_json: bool, debug: bool, on_interrupt: str = "Stopped.") -> Iterator[None]:
    """Sets up logs and turns errors into messages and exit codes."""
    from bloomery.core.errors import BloomeryError, ConfigError, Stopped

    configure_logs(debug=debug)
    try:
        yield
    except Stopped as error:
        fail(f"{error} {on_interrupt}", as_json=as_json, kind="Stopped")
        raise typer.Exit(143) from error  # 128 + 15, what a shell says of a process that SIGTERM ended
    except BloomeryError as error:
        if debug:
            logging.getLogger(__name__).exception("traceback of the error below:")
        fail(str(error), as_json=as_json, kind=type(error).__name__)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error
    except KeyboardInterrupt as error:
        fail(on_interrupt, as_json=as_json, kind="Interrupted")
        raise typer.Exit(130) from error
    except BrokenPipeError as error:  # `bloomery ... | head` closed our stdout: nothing is wrong
        sys.stderr.close()
        raise typer.Exit(0) from error


def configure_logs(*, debug: bool) -> None:
    """Logs go to stderr: coloured on a terminal, plain lines elsewhere. The only place that configures logging."""
    handler: logging.Handler
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False, log_time_format="%H:%M:%S")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # other people's libraries
    logging.getLogger("bloomery").setLevel(logging.DEBUG if debug else logging.INFO)


def fail(message: str, *, as_json: bool, kind: str) -> None:
    """Says what went wrong on stderr, and with --json as an object on stdout too."""
    if as_json:
        print_json({"error": message, "kind": kind})
    label = "\033[1;31merror:\033[0m" if sys.stderr.isatty() else "error:"
    sys.stderr.write(f"{label} {message}\n")


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_text(text: str) -> None:
    """One line or paragraph on stdout."""
    sys.stdout.write(text + "\n")


def write_now(text: str) -> None:
    """A piece of an answer on stdout, at once and without a newline."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """A table on stdout; numbers align right. Without a terminal nothing is cut to a width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for i, name in enumerate(columns):
        numeric = all(row[i][:1].isdigit() or row[i] in ("", "-") for row in rows)
        table.add_column(name, justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)


def format_seconds(seconds: float) -> str:
    """`3 min 05 s`, or `4.2 s` below a minute."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def format_bytes(count: float) -> str:
    """`12.3 MB`; thousands of thousands, as disks are sold."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def print_scores(scores: Mapping[str, Any]) -> None:
    """The table of an evaluation: a row for each model, values with their 95 % intervals."""
    names = list(scores["models"])
    metrics = [name for name in SCORE_COLUMNS if any(name in scores["metrics"].get(model, {}) for model in names)]
    rows = [[model, *(_interval(scores["metrics"].get(model, {}).get(name), name) for name in metrics)] for model in names]
    title = f"Scores on {scores['num_prompts']} held-out prompts, with 95 % intervals (win rate against {scores['baseline']})"
    print_table(["model", *(SCORE_COLUMNS[name] for name in metrics)], rows, title=title)


SCORE_COLUMNS = {
    "exact_match": "exact match",
    "format_valid": "format valid",
    "stopped": "stops by itself",
    "win_rate": "win rate",
    "bits_per_byte": "bits per byte",
}


def _interval(score: Mapping[str, Any] | None, metric: str) -> str:
    if score is None or score.get("value") is None:
        return "-"
    if metric == "bits_per_byte":
        return f"{score['value']:.3f} ({score['low']:.3f}..{score['high']:.3f})"
    return f"{100 * score['value']:.1f} % ({100 * score['low']:.1f}..{100 * score['high']:.1f})"
