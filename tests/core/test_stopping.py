"""SIGTERM is a wish the first time, and what it was before the second time."""

import os
import signal
import threading
from pathlib import Path

from bloomery.core.stopping import watch_for_sigterm


def test_the_first_sigterm_is_noticed_and_the_handler_before_is_back_for_the_second(tmp_path: Path) -> None:
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append("old"))
    try:
        with watch_for_sigterm(flag=tmp_path / "stop") as requested:
            assert not requested()
            os.kill(os.getpid(), signal.SIGTERM)
            assert requested() and received == [] and (tmp_path / "stop").exists()
            os.kill(os.getpid(), signal.SIGTERM)
            assert received == ["old"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_a_signal_the_handler_is_as_it_was_and_a_file_asks_too(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with watch_for_sigterm(flag=tmp_path / "stop") as requested:
        assert not requested()
        (tmp_path / "stop").touch()
        assert requested()
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_only_the_file_is_looked_at(tmp_path: Path) -> None:
    found = []

    def work() -> None:
        with watch_for_sigterm(flag=tmp_path / "stop") as requested:
            found.append(requested())
            (tmp_path / "stop").touch()
            found.append(requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False, True]
