"""What the report reads of a training: curves where a step may come twice, places of events, first and last samples."""

from bloomery.core.files import write_json
from bloomery.pipeline.report_view import NodeView, last_samples

ROWS = [
    {"step": 1, "tokens": 10, "train/loss": 3.0},
    {"step": 2, "tokens": 20, "train/loss": 9.0},
    {"step": 2, "tokens": 20, "spike/data_step": 1, "spike/reason": "loss"},
    {"step": 1, "tokens": 10, "rollback/to_step": 1},
    {"step": 2, "tokens": 21, "train/loss": 2.5},
]


def test_of_a_step_that_came_twice_the_later_counts_and_events_keep_their_places(tmp_path):
    node = NodeView(id="base", stage="pretrain", path=tmp_path, record={}, timing={}, rows=ROWS)
    assert node.series("train/loss") == [(10, 3.0), (21, 2.5)]
    assert node.places("spike/data_step") == [20] and node.places("rollback/to_step") == [10]


def test_samples_are_shown_as_they_were_first_and_last(tmp_path):
    assert last_samples(tmp_path) == []
    samples = [{"step": step, "prompt": prompt, "text": f"{prompt}{step}"} for step in (0, 5, 10) for prompt in ("a", "b")]
    write_json(tmp_path / "training.json", {"samples": samples})
    assert [(s["prompt"], s["first"]["text"], s["last"]["text"]) for s in last_samples(tmp_path)] == [
        ("a", "a0", "a10"),
        ("b", "b0", "b10"),
    ]
