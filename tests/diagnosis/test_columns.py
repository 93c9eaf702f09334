"""Rows of a log as columns."""

import re
from pathlib import Path

import numpy as np

from bloomery.diagnosis.columns import columns_of, curve_of, noise_of, smooth
from bloomery.diagnosis.diagnose import diagnose
from bloomery.diagnosis.finding import Facts


def test_of_two_rows_with_one_step_the_later_is_true_and_words_are_left_out():
    rows = [{"step": 2, "a": 1.0}, {"step": 1, "a": 5.0, "spike/reason": "high"}, {"step": 2, "a": 3.0}, {"time": 4.0}]
    curve = curve_of(columns_of(rows), "a")
    assert curve.steps.tolist() == [1, 2] and curve.values.tolist() == [5.0, 3.0]
    assert "spike/reason" not in columns_of(rows) and len(curve_of(columns_of(rows), "b")) == 0


def test_one_odd_value_does_not_show_in_a_smoothed_curve_and_noise_is_that_around_the_trend():
    rng = np.random.default_rng(0)
    values = np.linspace(8, 2, 500) + rng.normal(0, 0.05, 500)
    values[100] = 90.0
    assert smooth(values).max() < 8.3
    assert 0.04 < noise_of(values) < 0.06


def test_a_log_without_rows_and_a_stage_nobody_knows_have_no_findings():
    assert diagnose([], Facts(stage="pretrain")) == []
    assert diagnose([{"step": 1, "train/loss": 3.0}], Facts()) == []


def test_the_docs_name_every_finding_and_no_other():
    root = Path(__file__).resolve().parents[2]
    codes = {
        code for path in (root / "src/bloomery/diagnosis").glob("*.py") for code in re.findall(r'code="(\w+)"', path.read_text("utf-8"))
    }
    documented = set(re.findall(r"^\| `(\w+)`", (root / "docs/doctor.md").read_text("utf-8"), flags=re.MULTILINE))
    assert codes == documented and len(codes) == 29
