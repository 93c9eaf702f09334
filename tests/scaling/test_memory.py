"""The memory of a step: against the record of every allocation of real steps, against a GPU's measured peaks, and by reason."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from bloomery.model.device import has_fast_bfloat16
from bloomery.scaling.memory import Setup, estimate_memory, estimate_tensors
from bloomery.scaling.shape import PUBLISHED, Shape, count_params

BENCH = runpy.run_path(str(Path(__file__).resolve().parents[2] / "bench" / "budget_memory.py"))
SMALL = {"dim": 128, "num_layers": 3}
TINY = {
    "bf16, Muon, rows short enough for plain products": (SMALL, 1024, 8, 128, 1, "bf16", "muon", "none"),
    "fp32, AdamW, several micro-batches": (SMALL, 1024, 8, 256, 2, "fp32", "adamw", "none"),
    "layers computed again": ({"dim": 128, "num_layers": 8}, 512, 8, 512, 1, "bf16", "adamw", "full"),
    "a large vocabulary": ({"dim": 64, "num_layers": 2}, 8192, 4, 512, 1, "bf16", "adamw", "none"),
}


@pytest.mark.parametrize("name", TINY)
def test_the_tensors_of_a_real_training_need_what_is_computed_within_a_tenth(name: str) -> None:
    setting = BENCH["Setting"](*TINY[name])
    measured, computed = BENCH["tensor_bytes"](setting), BENCH["estimate_tensors"](*BENCH["computed_setup"](setting))
    assert computed.total == pytest.approx(measured, rel=0.10), {"measured": measured, "computed": computed}


@pytest.mark.parametrize("name", ["small", "quickstart"])
def test_a_whole_pretrain_stage_needs_what_is_computed_within_a_tenth(name: str, tmp_path: Path) -> None:
    setting = BENCH["SETTINGS"][name]
    if name == "quickstart" and not has_fast_bfloat16(torch.device("cpu")):
        pytest.skip("this CPU has no bfloat16: emulated, six steps of 4 M parameters take over ten minutes")
    BENCH["write_data"](setting, tmp_path)
    measured, computed = BENCH["ask"](name, str(tmp_path)), estimate_memory(*BENCH["computed_setup"](setting))
    assert computed.total == pytest.approx(measured, rel=0.10), {"measured": measured, "computed": computed}


# docs/benchmarks.md, Training speed on a GPU: shape, tokens of a micro-batch, GB at 1,024 and 2,048 tokens a row on an H200.
GPU = [
    (Shape(50304, 768, 12, 6, 6, 128, 2048, True, True), 65_536, 38.0),
    (Shape(50304, 1024, 24, 8, 8, 128, 2816, True, True), 32_768, 42.0),
    (Shape(50304, 2048, 18, 16, 16, 128, 5632, True, True), 32_768, 67.0),
]


@pytest.mark.parametrize(("shape", "tokens", "gigabytes"), GPU, ids=["124M", "360M", "1028M"])
def test_the_measured_peaks_of_a_gpu_are_met_within_a_twentieth(shape: Shape, tokens: int, gigabytes: float) -> None:
    assert estimate_tensors(shape, Setup(tokens, 1024)).total / 1e9 == pytest.approx(gigabytes, rel=0.05)


def test_adamw_in_float32_keeps_sixteen_bytes_a_parameter_and_muon_twelve_of_its_matrices() -> None:
    shape = PUBLISHED["llama-3.1-8b"]
    counts = count_params(shape)
    adamw, muon = (estimate_tensors(shape, Setup(8192, 8192, optimizer=name)) for name in ("adamw", "muon"))
    assert adamw.weights + adamw.gradients + adamw.optimizer == 16 * counts.total
    assert muon.weights + muon.gradients + muon.optimizer == 12 * counts.matrices + 16 * (counts.total - counts.matrices)


def memory_with(**settings: Any) -> float:
    return estimate_tensors(PUBLISHED["llama-3.1-8b"], Setup(8192, 4096, optimizer="adamw")._replace(**settings)).total


def test_everything_that_is_said_to_save_memory_saves_some() -> None:
    whole = memory_with()
    for setting in ({"checkpointing": "selective"}, {"checkpointing": "full"}, {"shards": 8}, {"tensor": 4}, {"pipeline": 4}):
        assert memory_with(**setting) < whole, setting
    assert memory_with(checkpointing="full") < memory_with(checkpointing="selective")
    assert memory_with(shards=64) < memory_with(shards=8)
    assert memory_with(micro_batch_tokens=16_384) > whole


def test_an_eighth_of_weights_gradients_and_moments_is_on_each_of_eight_that_share_them() -> None:
    shape = PUBLISHED["llama-3.1-8b"]
    alone, shared = (estimate_tensors(shape, Setup(8192, 4096, optimizer="adamw", shards=n)) for n in (1, 8))
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(shared, part) == pytest.approx(getattr(alone, part) / 8, rel=1e-6)
    assert shared.activations == alone.activations and shared.workspace > alone.workspace


def test_a_process_needs_more_than_its_tensors() -> None:
    shape, setup = PUBLISHED["gpt2"], Setup(1024, 1024)
    assert estimate_memory(shape, setup).total > estimate_tensors(shape, setup).total + 5e8
