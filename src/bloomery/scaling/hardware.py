"""What accelerators can do and cost: dense peak rates by dtype, memory, bandwidth, wires, and a price to begin with.

Rates, memory and bandwidth are the makers' data sheets; bfloat16 rates are also as nanochat's and torchtitan's tables
have them. Model FLOP utilisation (PaLM, arXiv:2204.02311, appendix B) divides by these. Two mistakes are common in such
tables: the figure with 2:4 sparsity, which is twice as large, and that of the SXM card for a PCIe card of the same name.

Prices are what one of them rents for by the hour on demand, rounded, where it was found; they differ threefold between
providers at one time (arithmetic with them is good to that factor) and a budget takes your own in their place.
"""

from typing import Literal, NamedTuple

TERA = 1e12
GIB = 2**30

Dtype = Literal["bf16", "fp8", "fp32"]

MARKET_2026 = "middle of specialised providers' on-demand offers, May 2026 (mercatus-ai.com)"
GOOGLE_2025 = "Google's list price of 2025, as remembered"
REMEMBERED = "order of magnitude, not looked up"


class Device(NamedTuple):
    """One kind of accelerator. Rates are in TFLOP/s, dense; 0 = it has none (fp8), or not known.

    `words` are those that its driver's name holds.
    """

    key: str
    words: str
    bf16_tflops: float
    fp8_tflops: float
    fp32_tflops: float
    memory_gib: float
    memory_tb_per_second: float
    wire_gb_per_second: float
    """Between the devices of a machine, both directions together."""
    per_node: int
    dollars_per_hour: float
    price_note: str
    mfu: float = 0.40
    """What training reaches of the bf16 rate, where nothing was measured; see docs/budget.md."""

    @property
    def memory_bytes(self) -> float:
        """Of one device."""
        return self.memory_gib * GIB

    def peak_flops(self, dtype: Dtype = "bf16") -> float:
        """FLOP/s of dense matrix products. Raises ValueError for a dtype it does not have."""
        tflops = {"bf16": self.bf16_tflops, "fp8": self.fp8_tflops, "fp32": self.fp32_tflops}[dtype]
        if not tflops:
            raise ValueError(f"{self.key} has no {dtype} rate in the table")
        return tflops * TERA


DEVICES = (
    # The first entry whose words all stand in a device's name is the one: the special before the general. The fp32 rate of
    # NVIDIA's and AMD's data center cards is that of TF32 products, where they have them.
    Device("gb200", "gb200", 2500.0, 5000.0, 1250.0, 186, 8.0, 1800, 4, 6.00, REMEMBERED),
    Device("b200", "b200", 2250.0, 4500.0, 1125.0, 180, 8.0, 1800, 8, 5.00, REMEMBERED),
    Device("b100", "b100", 1800.0, 3500.0, 900.0, 180, 8.0, 1800, 8, 4.50, REMEMBERED),
    Device("h200-nvl", "h200 nvl", 836.0, 1671.0, 418.0, 141, 4.8, 900, 4, 3.50, REMEMBERED),
    Device("h200-pcie", "h200 pcie", 836.0, 1671.0, 418.0, 141, 4.8, 128, 8, 3.50, REMEMBERED),
    Device("h200", "h200", 989.0, 1979.0, 494.0, 141, 4.8, 900, 8, 4.00, MARKET_2026),
    Device("h100-nvl", "h100 nvl", 835.0, 1671.0, 418.0, 94, 3.9, 600, 2, 2.50, REMEMBERED),
    Device("h100-pcie", "h100 pcie", 756.0, 1513.0, 378.0, 80, 2.0, 128, 8, 2.25, REMEMBERED),
    Device("h100", "h100", 989.0, 1979.0, 494.0, 80, 3.35, 900, 8, 3.00, "nanochat's README, 2026: 8 for about $24 an hour"),
    Device("h800-pcie", "h800 pcie", 756.0, 1513.0, 378.0, 80, 2.0, 128, 8, 2.25, REMEMBERED),
    Device("h800", "h800", 989.0, 1979.0, 494.0, 80, 3.35, 400, 8, 2.50, REMEMBERED),
    Device("a100-40gb", "a100 40gb", 312.0, 0.0, 156.0, 40, 1.55, 600, 8, 1.10, REMEMBERED),
    Device("a100", "a100", 312.0, 0.0, 156.0, 80, 2.0, 600, 8, 1.30, MARKET_2026),
    Device("a800", "a800", 312.0, 0.0, 156.0, 80, 2.0, 400, 8, 1.30, REMEMBERED),
    Device("a40", "a40", 149.7, 0.0, 74.8, 48, 0.696, 112, 8, 0.45, REMEMBERED),
    Device("a30", "a30", 165.0, 0.0, 82.0, 24, 0.933, 200, 4, 0.35, REMEMBERED),
    Device("l40s", "l40s", 362.0, 733.0, 183.0, 48, 0.864, 64, 8, 0.90, REMEMBERED, 0.35),
    Device("l4", "l4", 121.0, 242.5, 60.0, 24, 0.3, 64, 8, 0.60, REMEMBERED, 0.35),
    Device("mi355x", "mi355x", 2500.0, 5000.0, 157.3, 288, 8.0, 1075, 8, 5.00, REMEMBERED, 0.30),
    Device("mi325x", "mi325x", 1307.4, 2614.9, 653.7, 256, 6.0, 896, 8, 2.50, REMEMBERED, 0.30),
    Device("mi300x", "mi300x", 1307.4, 2614.9, 653.7, 192, 5.3, 896, 8, 2.00, REMEMBERED, 0.30),
    Device("mi300a", "mi300a", 980.6, 1961.2, 490.3, 128, 5.3, 768, 4, 2.00, REMEMBERED, 0.30),
    Device("mi250x", "mi250x", 383.0, 0.0, 95.7, 128, 3.2, 800, 4, 1.00, REMEMBERED, 0.30),
    Device("rtx5090", "5090", 209.5, 419.0, 104.8, 32, 1.792, 128, 8, 0.70, REMEMBERED, 0.35),
    Device("rtx4090", "4090", 165.2, 330.3, 82.6, 24, 1.008, 64, 8, 0.40, REMEMBERED, 0.35),
    Device("rtx3090", "3090", 71.0, 0.0, 35.6, 24, 0.936, 112, 8, 0.20, REMEMBERED, 0.35),
    Device("tpu-v4", "tpu v4", 275.0, 0.0, 0.0, 32, 1.2, 300, 4, 3.22, GOOGLE_2025),
    Device("tpu-v5e", "tpu v5e", 197.0, 0.0, 0.0, 16, 0.82, 200, 8, 1.20, GOOGLE_2025),
    Device("tpu-v5p", "tpu v5p", 459.0, 0.0, 0.0, 95, 2.765, 600, 4, 4.20, GOOGLE_2025),
    Device("tpu-v6e", "tpu v6e", 918.0, 0.0, 0.0, 32, 1.64, 448, 8, 2.70, GOOGLE_2025),
    Device("cpu", "cpu", 0.45, 0.0, 0.1, 8, 0.03, 0, 64, 0.05, "a virtual core of a cloud machine with 8 GB, rounded", 0.60),
)
"""One CPU is one core with AVX512_BF16 of the machine that docs/benchmarks.md was made on: 450 GFLOP/s in large products."""


def find_device(key: str) -> Device:
    """A device by its key. Raises ValueError with all keys.

    >>> find_device("H100").memory_gib, find_device("h100").peak_flops("fp8") / TERA
    (80, 1979.0)
    """
    for device in DEVICES:
        if device.key == key.lower():
            return device
    raise ValueError(f'"{key}" is not in the table; known are {", ".join(sorted(device.key for device in DEVICES))}')


def peak_bf16_flops(device_name: str) -> float | None:
    """FLOP/s of dense bfloat16 products of a device, by the name that its driver gives; None if it is not in the table.

    >>> peak_bf16_flops("NVIDIA H100 80GB HBM3"), peak_bf16_flops("NVIDIA H100 PCIe"), peak_bf16_flops("Tesla T4")
    (989000000000000.0, 756000000000000.0, None)
    """
    words = device_name.lower().replace("-", " ").split()
    for device in DEVICES:
        if all(word in words for word in device.words.split()):
            return device.peak_flops()
    return None


def utilisation(tokens_per_second: float, flops_per_token: float, peak_flops: float) -> float:
    """MFU: the FLOP that a model's tokens need, over what the devices that read them could do in that time.

    >>> f"{utilisation(5762, 5.79e10, 989e12):.1%}"
    '33.7%'
    """
    return tokens_per_second * flops_per_token / peak_flops
