"""Trainings with nothing wrong have no finding, of whatever seed, optimizer and schedule; test_faults_of_tuning has four more."""

import pytest
from planted_runs import SHAPE, train

HEALTHY = {
    "seed 0": {"seed": 0, "tokens": 512 * 90},
    "adamw": {"optimizer": "adamw", "seed": 1},
    "cosine, z-loss, no clipping": {"decay": "cosine", "z_loss": 1e-4, "max_gradient_norm": 0.0, "seed": 2},
    "constant": {"decay": "constant", "seed": 3, "num_validations": 12},
    "linear, without QK-norm": {"decay": "linear", "warmup_fraction": 0.2, "model": SHAPE.model_copy(update={"qk_norm": False}), "seed": 4},
    "a large rate": {"learning_rate": 0.1, "embedding_learning_rate": 0.1, "seed": 5},
    "a curriculum": {"curriculum": [{"tokens": 512 * 50}, {"tokens": 256 * 80, "batch_tokens": 256, "schedule": {"decay": "linear"}}]},
}


@pytest.mark.parametrize("settings", HEALTHY.values(), ids=HEALTHY.keys())
def test_a_healthy_training_has_no_findings(tmp_path, corpus, language, settings, caplog):
    run = train(tmp_path / "out", corpus, language, **settings)
    assert run.findings() == []
    assert not [record for record in caplog.records if record.name == "bloomery.train.watch"]
