"""metrics.jsonl is a log that survives kills; progress without a terminal is plain lines."""

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


def test_progress_without_a_terminal_says_a_line_after_a_while(caplog, monkeypatch):
    monkeypatch.setattr("bloomery.core.metrics.PLAIN_LINE_SECONDS", -1.0)
    with caplog.at_level("INFO"), progress("filtered", total=4, unit="shards") as bar:
        bar.advance(2, note="5 dropped")
    assert "filtered: 2/4 shards, 5 dropped, about " in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"), progress("filtered", total=4, unit="shards", quiet=True) as bar:
        bar.advance(2)
    assert caplog.text == ""
