"""The stage scaling_law: runs whose losses follow a law give that law back, and a held-out run shows by how much it misses."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.core.artifact import read_artifact
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import write_json
from bloomery.core.stage import Runtime
from bloomery.evaluate.benchmarking import summarise_all
from bloomery.scaling.laws import BESIROGLU, Split, predict_loss, read_law
from bloomery.stages.scaling_law import ScalingLawConfig, scaling_law

SPLITS = [Split(size, size * ratio) for size in (1e5, 2e5, 4e5) for ratio in (5, 20, 80)]
LARGE = Split(2e6, 8e7)


def make_models(folder: Path, splits=(*SPLITS, LARGE), *, factor: float = 1.0, stage: str = "pretrain") -> list[Path]:
    """Records of checkpoints; `factor` spoils the loss of the last."""
    paths = []
    for i, split in enumerate(splits):
        loss = predict_loss(BESIROGLU, split) * (factor if i == len(splits) - 1 else 1.0)
        metrics = {"params": int(split.params), "tokens": int(split.tokens), "validation_loss": loss}
        path = folder / f"model-{i}"
        path.mkdir(parents=True)
        write_json(path / "artifact.json", {"fingerprint": f"{i:064x}", "kind": "checkpoint", "stage": stage, "metrics": metrics})
        paths.append(path)
    return paths


def run(models, out: Path, *, scores: Path | None = None, **config):
    out.mkdir(exist_ok=True)
    runtime = Runtime.local(out)
    return scaling_law(ScalingLawConfig(num_resamples=5, **config), models=models, scores=scores, out=out, runtime=runtime)


def test_the_law_comes_back_and_is_read_by_the_budget_command(tmp_path):
    metrics = run(make_models(tmp_path / "m"), tmp_path / "out")
    law = read_law(str(tmp_path / "out" / "law.json"))
    assert (law.E, law.alpha, law.beta) == pytest.approx((BESIROGLU.E, BESIROGLU.alpha, BESIROGLU.beta), rel=1e-3)
    assert (law.smallest_params, law.largest_params) == (1e5, 4e5)
    assert abs(metrics["held_out_error"]) < 1e-4


def test_the_run_of_most_flops_is_not_fitted_and_its_miss_is_told(tmp_path):
    models = make_models(tmp_path / "m", factor=1.05)
    metrics = run(models[::-1], tmp_path / "out")
    assert metrics["held_out_error"] == pytest.approx(1 / 1.05 - 1, rel=0.01)
    (row,) = json.loads((tmp_path / "out" / "ladder.json").read_text())["held_out"]
    assert row["params"] == LARGE.params
    assert "-4.76" in (tmp_path / "out" / "ladder.md").read_text()
    assert "<svg" in (tmp_path / "out" / "ladder.html").read_text()


def make_scores(folder: Path, models: list[Path], tasks: dict[str, list[list[dict[str, float]]]], *, names: list[str]) -> Path:
    """What `evaluate` leaves of `tasks`: for each model the values of each row."""
    records = {
        name: {
            task: {
                "title": task.capitalize(),
                "kind": "choice",
                "metric": "accuracy",
                "chance": 0.25,
                "samples": [{"file": "rows", "line": i, "group": "", "values": values} for i, values in enumerate(of_models[m], start=1)],
            }
            for task, of_models in tasks.items()
        }
        for m, name in enumerate(names)
    }
    folder.mkdir()
    fingerprints = [read_artifact(path).fingerprint for path in models]
    write_json(folder / "artifact.json", {"fingerprint": "e", "kind": "scores", "stage": "evaluate", "inputs": {"models": fingerprints}})
    write_json(folder / "scores.json", {"models": names, **summarise_all(records, seed=0, baselines="v2")})
    rows = [
        {"model": name, "task": task, "file": "rows", "line": sample["line"], "values": json.dumps(sample["values"])}
        for name, of_model in records.items()
        for task, record in of_model.items()
        for sample in record["samples"]
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "task_samples.parquet")
    return folder


def plant(num_models: int) -> dict[str, list[list[dict[str, float]]]]:
    """`hard`: right only below 2 bits, which a smooth gain reaches at last; `random`: guesses at four choices."""
    rng = np.random.default_rng(0)
    hard, random = [], []
    for m in range(num_models):
        bits = 4.0 - 2.5 * m / (num_models - 1) + 0.2 * rng.standard_normal(200)
        guess = rng.random((2, 200)) < 0.25
        hard.append(
            [{"accuracy": float(b < 2 or g), "gold_bits_per_byte": b, "gold_nats": b / 2} for b, g in zip(bits, guess[0], strict=True)]
        )
        random.append([{"accuracy": float(g), "gold_bits_per_byte": b} for g, b in zip(guess[1], rng.normal(4, 1, 200), strict=True)])
    return {"hard": hard, "random": random}


def test_benchmarks_are_followed_by_falling_loss_and_a_threshold_is_told_from_chance(tmp_path):
    models = make_models(tmp_path / "m")
    by_loss = sorted(range(len(models)), key=lambda i: -predict_loss(BESIROGLU, (*SPLITS, LARGE)[i]))
    names = [f"rung{i}" for i in range(len(models))]
    planted = plant(len(models))
    tasks = {task: [rows[by_loss.index(i)] for i in range(len(models))] for task, rows in planted.items()}
    scores = make_scores(tmp_path / "scores", models, tasks, names=names)
    run(models[::-1], tmp_path / "out", scores=scores)
    hard, random = json.loads((tmp_path / "out" / "ladder.json").read_text())["tasks"]
    assert [point["model"] for point in hard["points"]] == [names[i] for i in by_loss]
    assert [point["model"] for point in hard["points"] if point["held_out"]] == [names[-1]]
    assert hard["rank_correlation"]["bits"]["low"] > 0.9 and "what looks like emergence is the metric" in hard["sentence"]
    assert "does not follow the loss" in random["sentence"] and random["rank_correlation"]["nats"] is None
    page = (tmp_path / "out" / "ladder.html").read_text()
    assert page.count("<svg") == 4 and "Benchmarks along the ladder" in (tmp_path / "out" / "ladder.md").read_text()


def test_scores_of_other_models_are_refused(tmp_path):
    models = make_models(tmp_path / "m")
    few = make_scores(tmp_path / "few", models[1:], plant(len(models) - 1), names=[f"rung{i}" for i in range(1, len(models))])
    with pytest.raises(DataError, match="model-0 of the ladder was not evaluated; evaluated were rung1, rung2"):
        run(models, tmp_path / "out", scores=few)
    (few / "artifact.json").unlink()
    with pytest.raises(DataError, match="expected scores as the stage `evaluate` makes them"):
        run(models, tmp_path / "out", scores=few)


def test_too_few_runs_and_other_checkpoints_are_refused_with_the_reason(tmp_path):
    with pytest.raises(ConfigError, match="6 models, 1 of them held out: a law has five constants: give 6 runs or more, found 5"):
        run(make_models(tmp_path / "few", SPLITS[:6]), tmp_path / "out")
    with pytest.raises(DataError, match="this one is of stage sft"):
        run(make_models(tmp_path / "sft", stage="sft"), tmp_path / "out")
