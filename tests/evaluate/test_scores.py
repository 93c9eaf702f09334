import math

import pytest

from bloomery.evaluate.metrics import wilson
from bloomery.evaluate.scores import measure, summarise


def sample(group: str = "", contaminated: bool | None = None, **values: float) -> dict:
    marked = {} if contaminated is None else {"contaminated": contaminated}
    return {"group": group, "values": values, **marked}


def test_shares_have_wilsons_interval_and_other_means_a_bootstrap() -> None:
    found = measure([sample(accuracy=1.0, f1=0.5), sample(accuracy=0.0, f1=0.25)], seed=0)
    assert found["accuracy"] == wilson(1, 2).record()
    assert (found["f1"]["value"], found["f1"]["low"], found["f1"]["high"]) == (0.375, 0.25, 0.5)


def test_the_perplexity_of_continuations_is_that_of_whole_ones() -> None:
    found = measure([sample(accuracy=0.0, logp=-2.0, num_tokens=1.0), sample(accuracy=0.0, logp=-4.0, num_tokens=2.0)], seed=0)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(3.0))
    assert found["nats_per_token"]["value"] == pytest.approx(2.0)


def test_rows_that_training_documents_share_are_counted_and_left_out_of_the_clean_score() -> None:
    samples = [sample(contaminated=True, accuracy=1.0), sample(contaminated=False, accuracy=0.0), sample(contaminated=False, accuracy=1.0)]
    out = summarise({"metric": "accuracy", "samples": samples}, seed=0)
    assert out["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert (out["contamination"]["rows"], out["contamination"]["clean"]["value"]) == (1, 0.5)
    dirty = summarise({"metric": "accuracy", "samples": samples[:1]}, seed=0)
    assert dirty["contamination"]["clean"] is None


def test_groups_have_scores_of_their_own() -> None:
    out = summarise({"metric": "accuracy", "samples": [sample("law", accuracy=1.0), sample("art", accuracy=0.0)]}, seed=0)
    assert {name: score["value"] for name, score in out["by_group"].items()} == {"art": 0.0, "law": 1.0}
