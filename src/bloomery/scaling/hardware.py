"""How fast accelerators are by their makers' data sheets: dense bfloat16 matrix products, without structured sparsity.

Model FLOP utilisation (PaLM, arXiv:2204.02311, appendix B) divides by these. Two mistakes are common in such tables: the
figure with 2:4 sparsity, which is twice as large, and that of the SXM card for a PCIe card of the same name.
"""

TERA = 1e12

PEAK_BF16_TFLOPS = (
    # The first entry whose words all stand in a device's name is the one: the special before the general.
    ("gb200", 2500.0),
    ("b200", 2250.0),
    ("b100", 1800.0),
    ("h200 nvl", 836.0),
    ("h200 pcie", 836.0),
    ("h200", 989.0),
    ("h100 nvl", 835.0),
    ("h100 pcie", 756.0),
    ("h100", 989.0),
    ("h800 pcie", 756.0),
    ("h800", 989.0),
    ("a100", 312.0),
    ("a800", 312.0),
    ("a40", 149.7),
    ("a30", 165.0),
    ("l40s", 362.0),
    ("l4", 121.0),
    ("mi355x", 2500.0),
    ("mi325x", 1307.4),
    ("mi300x", 1307.4),
    ("mi300a", 980.6),
    ("mi250x", 383.0),
    ("5090", 209.5),
    ("4090", 165.2),
    ("3090", 71.0),
)
"""In TFLOP/s; float16 with float32 sums has the same rate on all of them. As nanochat's and torchtitan's tables have them."""


def peak_bf16_flops(device_name: str) -> float | None:
    """FLOP/s of dense bfloat16 products of a device, by the name that its driver gives; None if it is not in the table.

    >>> peak_bf16_flops("NVIDIA H100 80GB HBM3"), peak_bf16_flops("NVIDIA H100 PCIe"), peak_bf16_flops("Tesla T4")
    (989000000000000.0, 756000000000000.0, None)
    """
    words = device_name.lower().replace("-", " ").split()
    for name, tflops in PEAK_BF16_TFLOPS:
        if all(word in words for word in name.split()):
            return tflops * TERA
    return None
