"""The stage ablation on scores written by hand: what it counts, and models that cannot be compared."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import write_json
from bloomery.core.stage import Runtime
from bloomery.stages.ablation import AblationConfig, ablation
from bloomery.stages.evaluate import TASK_SAMPLE_COLUMNS

NAMES = ["raw 0", "raw 1", "raw 2", "clean 0", "clean 1", "clean 2"]


def write_scores(folder: Path, *, better: float) -> Path:
    """Bits per byte of 30 documents of 100 bytes: `better` nats less in each for the models of `clean`."""
    rows = []
    for m, name in enumerate(NAMES):
        for i in range(30):
            nats = 150 + i - better * name.startswith("clean") + (m * 7 + i * 3) % 5 * 0.01
            values = {"nats": nats, "num_tokens": 40.0, "num_bytes": 100.0}
            rows.append({"model": name, "task": "bits_per_byte", "file": "a", "line": i, "group": "web", "values": json.dumps(values)})
    plain = [{column: row.get(column) for column in TASK_SAMPLE_COLUMNS.names} for row in rows]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(plain, schema=TASK_SAMPLE_COLUMNS), folder / "task_samples.parquet")
    task = {"kind": "corpus", "metric": "bits_per_byte", "title": "bits per byte"}
    left_out = {"skipped": "no file for it"}
    write_json(
        folder / "scores.json",
        {"models": NAMES, "tasks": {name: {"bits_per_byte": task, "mmlu": left_out} for name in NAMES}, "skipped": {}},
    )
    return folder


def write_models(folder: Path, *, steps: int = 10) -> list[Path]:
    paths = []
    for i, name in enumerate(NAMES):
        path = folder / name.replace(" ", "_")
        path.mkdir(parents=True)
        source = {"tokens": 900, "epochs": 2.5 if name.startswith("clean") else 0.5, "source_tokens": 1000}
        training = {"params": 1000, "tokens": 900, "steps": steps if i == 5 else 10, "sources": {"tokens": source}}
        write_json(path / "training.json", training)
        paths.append(path)
    return paths


def run(tmp_path: Path, *, better: float = 3.0, models=None, **config):
    (tmp_path / "out").mkdir()
    settings = {"arms": ["raw", "clean"], "seeds": [0, 1, 2], "baseline": "raw", "question": "Which?"} | config
    models = models or write_models(tmp_path / "m")
    scores = write_scores(tmp_path / "scores", better=better)
    return ablation(AblationConfig(**settings), scores=scores, models=models, out=tmp_path / "out", runtime=Runtime.local(tmp_path / "out"))


def test_a_difference_in_every_document_and_seed_is_counted_and_written(tmp_path):
    told = {"bits_per_byte": {"wins": "clean", "because": "it is."}, "mmlu": {"wins": "raw", "because": ""}}
    metrics = run(tmp_path, predictions=told)
    assert metrics == {
        "num_outcomes": 1,
        "num_tests": 1,
        "num_differences": 1,
        "predictions/right": 1,
        "predictions/wrong": 0,
        "predictions/open": 0,
    }
    page = (tmp_path / "out" / "ablation.md").read_text()
    assert "clean is better than raw, -0.0433 [" in page  # 3 nats less in 100 bytes are 0.0433 bits a byte less
    assert "mmlu: predicted raw. Outcome: not measured." in page and "Left out: mmlu (no file for it)" in page
    assert "clean 2.5 times" in page and "| clean | 0 | 0 | 0.00 M | 2.50 |" in page
    assert (tmp_path / "out" / "differences_1.svg").read_text().startswith("<svg")


def test_where_nothing_differs_nothing_is_counted(tmp_path):
    assert run(tmp_path, better=0.0)["num_differences"] == 0


def test_models_that_do_not_fit_each_other_or_the_arms_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"differ in more than their data: steps \[10, 12\]"):
        run(tmp_path, models=write_models(tmp_path / "more", steps=12))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match="2 arms of 2 seeds need 4 models; 6 models are connected and 6 in the scores"):
        run(other, seeds=[0, 1])
    third = tmp_path / "third"
    third.mkdir()
    with pytest.raises(DataError, match=r"has no training.json; an ablation compares checkpoints of `pretrain`"):
        run(third, models=[third] * 6)
    with pytest.raises(ValidationError, match='baseline: "rwa" is no arm; did you mean "raw"'):
        AblationConfig(arms=["raw", "clean"], seeds=[0], baseline="rwa")
