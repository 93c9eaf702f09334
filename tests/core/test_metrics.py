"""metrics.jsonl is a log that survives kills; progress without a terminal is plain lines."""

import time
from types import SimpleNamespace

import pytest

from bloomery.core.metrics import MetricsLog, progress, read_metrics


def test_rows_are_appended_with_their_time_and_a_torn_line_is_passed_over(tmp_path):
    log = MetricsLog(tmp_path / "logs" / "metrics.jsonl")
    log.write({"step": 1, "train/loss": 2.5})
    with (tmp_path / "logs" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "tr')
    rows = read_metrics(tmp_path / "logs" / "metrics.jsonl")
    assert [(row["step"], row["train/loss"]) for row in rows] == [(1, 2.5)]
    assert rows[0]["time"] > 1e9
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_log_without_a_path_writes_nothing(tmp_path):
    MetricsLog(None).write({"step": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("bloomery.core.metrics.time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time))
    return clock


def test_progress_without_a_terminal_says_a_line_after_a_while(caplog, clock):
    with caplog.at_level("INFO"), progress("filtered", total=4, unit="shards") as bar:
        bar.advance(note="2 dropped")
        assert caplog.text == ""
        clock.now += 20
        bar.advance(note="5 dropped")
    assert caplog.messages == ["filtered: 2/4 shards, 5 dropped, about 40 s left"]
    caplog.clear()
    with caplog.at_level("INFO"), progress("filtered", total=4, unit="shards", quiet=True) as bar:
        clock.now += 20
        bar.advance(2)
    assert caplog.text == ""


def test_the_time_that_is_left_is_not_that_of_what_an_earlier_run_did(caplog, clock):
    with caplog.at_level("INFO"), progress("base", total=1000, unit="steps") as bar:
        clock.now += 12
        bar.advance(900)  # found done
        for _ in range(12):
            clock.now += 1
            bar.advance(1)
    assert caplog.messages[0] == "base: 900/1000 steps"
    assert caplog.messages[1] == "base: 911/1000 steps, about 89 s left"
