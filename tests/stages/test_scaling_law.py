"""The stage scaling_law: runs whose losses follow a law give that law back, and a held-out run shows by how much it misses."""

import json
from pathlib import Path

import pytest

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import write_json
from bloomery.core.stage import Runtime
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


def run(models, out: Path, **config):
    out.mkdir(exist_ok=True)
    runtime = Runtime.local(out)
    return scaling_law(ScalingLawConfig(num_resamples=5, **config), models=models, out=out, runtime=runtime)


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


def test_too_few_runs_and_other_checkpoints_are_refused_with_the_reason(tmp_path):
    with pytest.raises(ConfigError, match="6 models, 1 of them held out: a law has five constants: give 6 runs or more, found 5"):
        run(make_models(tmp_path / "few", SPLITS[:6]), tmp_path / "out")
    with pytest.raises(DataError, match="this one is of stage sft"):
        run(make_models(tmp_path / "sft", stage="sft"), tmp_path / "out")
