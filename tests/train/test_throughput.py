"""How much of the machine is used: the table against its makers' figures, and a peak that is measured once."""

import doctest

import pytest
import torch

from bloomery.scaling import hardware
from bloomery.scaling.hardware import peak_bf16_flops
from bloomery.train import throughput
from bloomery.train.throughput import memory_in_use, peak_flops


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 836),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A40", 149.7),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_the_peak_of_a_device_is_found_by_the_name_its_driver_gives(name: str, tflops: float) -> None:
    assert peak_bf16_flops(name) == pytest.approx(tflops * 1e12)


def test_a_device_that_is_not_in_the_table_has_no_peak() -> None:
    assert peak_bf16_flops("Tesla T4") is None and peak_bf16_flops("NVIDIA A4000") is None


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(hardware).failed == 0


def test_a_cpu_is_measured_once_and_the_result_is_a_rate_that_its_products_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(throughput.PROBE_SIZE, "cpu", 256)
    throughput._measure.cache_clear()
    cpu = torch.device("cpu")
    found = peak_flops(cpu, torch.float32)
    assert 1e8 < found < 1e14 and peak_flops(cpu, torch.float32) == found
    throughput._measure.cache_clear()


def test_memory_is_counted_in_bytes() -> None:
    assert 50e6 < memory_in_use(torch.device("cpu")) < 1e12
