"""The stage mixture_law: runs that follow a law give its best mixture back; what is not of one experiment is refused with the reason."""

import json
from pathlib import Path

import numpy as np
import pytest

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import write_json
from bloomery.core.stage import Runtime
from bloomery.scaling.mixture_plan import plan_mixtures
from bloomery.stages.mixture_law import MixtureLawConfig, mixture_law, mixture_toml

NAMES = ["stories", "books", "code"]  # in an order of the recipe's, not of the alphabet
SIZES = [500_000, 200_000, 100_000]
PLAN = plan_mixtures(SIZES, num_fitted=12, num_held_out=6, caps=np.ones(3), seed=0)
EFFECTS = np.array([[-2.0, 0.1, -0.3], [0.2, -2.5, 0.0], [-0.2, 0.3, -3.0]])
rng = np.random.default_rng(0)


def make_runs(folder: Path, shares, *, offset: float = 0.0, noise: float = 0.003, **changes) -> list[Path]:
    """Records of checkpoints whose losses follow a planted law, `offset` above it."""
    paths = []
    for i, share in enumerate(shares):
        loss = 1 + np.exp(EFFECTS @ share) + offset + noise * rng.standard_normal(3)
        tokens = [round(1_000_000 * part) for part in share]
        sources = {name: {"tokens": t, "source_tokens": size} for name, t, size in zip(NAMES, tokens, SIZES, strict=True)}
        losses = {f"validation_bits_per_byte/{name}": value for name, value in zip(NAMES, loss.tolist(), strict=True)}
        path = folder / f"{i:02d}"
        path.mkdir(parents=True)
        metrics = {"params": 40_000, "steps": 244, "tokens": 990_000 + 500 * i, **losses, **changes.get("metrics", {})}
        record = {"fingerprint": "0", "kind": "checkpoint", "stage": changes.get("stage", "pretrain"), "config": {"names": NAMES}}
        write_json(path / "artifact.json", {**record, "metrics": metrics})
        write_json(path / "training.json", {"sources": sources})
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "models": make_runs(folder / "models", PLAN.fitted),
        "held_out": make_runs(folder / "held_out", PLAN.held_out),
        "repeats": make_runs(folder / "repeats", [PLAN.fitted[0], PLAN.fitted[0], PLAN.fitted[1]]),
    }


def run(out: Path, inputs, **config):
    out.mkdir(exist_ok=True)
    settings = MixtureLawConfig(num_simulated=5000, num_best=20, num_resamples=20, **config)
    metrics = mixture_law(settings, **inputs, out=out, runtime=Runtime.local(out))
    return metrics, json.loads((out / "mixture_law.json").read_text())


def test_the_best_mixture_of_a_planted_law_is_suggested_and_the_error_is_about_the_noise(runs, tmp_path):
    metrics, report = run(tmp_path / "out", runs)
    assert metrics["verdict"] == "suggested" and report["names"] == NAMES
    mixture = np.array([report["mixture"][name] for name in NAMES])
    found, natural = ((1 + np.exp(EFFECTS @ share)).mean() for share in (mixture, PLAN.fitted[0]))
    assert metrics["gain"] == pytest.approx(natural - found, abs=0.005) and metrics["gain"] > 0.01
    assert metrics["held_out_rmse"] < 0.006 and metrics["noise"] == report["noise"]["target"]["value"] < 0.006
    assert report["noise"]["target"]["degrees"] == 3
    assert len([row for row in report["runs"] if row["group"] == "held out"]) == 6
    html, text = ((tmp_path / "out" / f"mixture_law.{end}").read_text() for end in ("html", "md"))
    for words in (mixture_toml({name: report["mixture"][name] for name in NAMES}), "on 6 held-out mixtures", report["verdict"]["text"]):
        assert words in text and words in html
    assert html.count("<svg") == 2


def test_the_order_of_the_held_out_runs_and_of_the_fitted_ones_does_not_change_what_is_suggested(runs, tmp_path):
    first, _ = run(tmp_path / "a", runs)
    second, _ = run(tmp_path / "b", {**runs, "held_out": runs["held_out"][::-1]})
    assert {k: v for k, v in first.items() if k.startswith("mixture/")} == {k: v for k, v in second.items() if k.startswith("mixture/")}
    assert second["held_out_rmse"] == pytest.approx(first["held_out_rmse"])


def test_a_target_of_one_source_moves_the_mixture_to_it(runs, tmp_path):
    metrics, report = run(tmp_path / "out", runs, target={"code": 2.0})
    assert report["target"] == {"stories": 0.0, "books": 0.0, "code": 1.0}
    assert metrics["mixture/code"] > 0.8 * max(share[2] for share in PLAN.fitted)


def test_a_small_source_is_limited_by_its_epochs_in_the_run_and_the_page_says_so(runs, tmp_path):
    metrics, report = run(tmp_path / "out", runs, tokens=1_000_000, max_epochs=2)
    code = report["sources"][2]
    assert code["cap"] == 0.2 and code["is_capped"] and metrics["mixture/code"] <= 0.2 < code["uncapped"]
    assert code["epochs"] == pytest.approx(metrics["mixture/code"] * 10) and code["epochs"] <= 2
    assert "limited: " in (tmp_path / "out" / "mixture_law.md").read_text()
    with pytest.raises(ConfigError, match=r"reads its sources \(800,000 tokens\) 5.0 times, but max_epochs = 4"):
        run(tmp_path / "more", runs, tokens=4_000_000, max_epochs=4)


def test_a_run_of_the_suggested_mixture_confirms_the_gain_or_takes_the_verdict_back(runs, tmp_path):
    _, first = run(tmp_path / "out", runs)
    share = np.array([first["mixture"][name] for name in NAMES])
    metrics, report = run(tmp_path / "true", {**runs, "checks": make_runs(tmp_path / "a", [share] * 3)})
    assert metrics["verdict"] == "suggested" and metrics["measured_gain"] == pytest.approx(metrics["gain"], abs=0.01)
    assert len(report["check"]["natural"]) == 3 and "the gain was" in report["verdict"]["text"]
    worse, report = run(tmp_path / "false", {**runs, "checks": make_runs(tmp_path / "b", [share] * 3, offset=0.5)})
    assert worse["verdict"] == "natural_is_as_good" and "did not come true" in report["verdict"]["text"]
    with pytest.raises(DataError, match="off the suggested mixture"):
        run(tmp_path / "other", {**runs, "checks": make_runs(tmp_path / "c", [PLAN.fitted[3]])})


def test_losses_that_are_noise_alone_are_not_trusted(tmp_path):
    def noisy(name, shares):
        paths = make_runs(tmp_path / name, shares)
        for path in paths:
            record = json.loads((path / "artifact.json").read_text())
            record["metrics"] |= {f"validation_bits_per_byte/{name}": float(2 + 0.05 * rng.standard_normal()) for name in NAMES}
            write_json(path / "artifact.json", record)
        return paths

    metrics, report = run(tmp_path / "out", {"models": noisy("m", PLAN.fitted), "held_out": noisy("h", PLAN.held_out)})
    assert metrics["verdict"] == "do_not_trust" and report["verdict"]["text"].startswith("Do not trust this")
    assert report["noise"] == {} and "noise between seeds" not in (tmp_path / "out" / "mixture_law.md").read_text().split("##")[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"params": 50_000}}, "only the mixture may differ"),
        ({"metrics": {"tokens": 2_000_000}}, "only the mixture may differ"),
        ({"metrics": {"steps": 100}}, "only the mixture may differ"),
        ({"stage": "sft"}, "is of stage sft"),
    ],
)
def test_runs_of_another_size_length_or_stage_are_refused(runs, tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        run(tmp_path / "out", {**runs, "held_out": make_runs(tmp_path / "x", PLAN.held_out, **changes)})


def test_an_unknown_target_too_few_runs_and_a_repeat_of_nothing_are_refused_with_the_reason(runs, tmp_path):
    with pytest.raises(ConfigError, match='"cod" is not among the sources; did you mean "code"'):
        run(tmp_path / "out", runs, target={"cod": 1.0})
    with pytest.raises(ConfigError, match="fit it to 7 mixtures or more, found 5"):
        run(tmp_path / "out", {**runs, "models": runs["models"][:5]})
    with pytest.raises(ConfigError, match="4 held-out mixtures or more are needed"):
        run(tmp_path / "out", {**runs, "held_out": runs["held_out"][:3]})
    with pytest.raises(DataError, match="repeats none of the `models`"):
        run(tmp_path / "out", {**runs, "repeats": runs["held_out"][:1]})


def test_a_source_without_held_out_text_is_named(runs, tmp_path):
    (path,) = make_runs(tmp_path / "x", PLAN.fitted[:1])
    record = json.loads((path / "artifact.json").read_text())
    del record["metrics"]["validation_bits_per_byte/books"]
    write_json(path / "artifact.json", record)
    with pytest.raises(DataError, match="the source books has no held-out text"):
        run(tmp_path / "out", {**runs, "models": [path, *runs["models"][1:]]})
