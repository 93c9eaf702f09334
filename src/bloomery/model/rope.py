"""How fast each pair of dimensions turns with the position (RoPE), and how that is stretched for longer texts.

Each way gives the numbers that `transformers` gives, to the last bit: at position 100,000 a rounding of the frequency
would be an angle that shows.

Legend: P pairs of dimensions, half of a head's.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bloomery.model.config import ModelConfig, RopeScaling


class Rotation(NamedTuple):
    """Radians that each pair turns by from one position to the next, float32 [P], and a factor of both its coordinates."""

    frequency_P: Tensor
    scale: float


def rotation(config: ModelConfig, device: torch.device | str = "cpu") -> Rotation:
    """The rotation of a model's queries and keys (arXiv:2104.09864, eq. 15), stretched as its config says."""
    scaling, K = config.rope_scaling, config.head_dim
    wave_P = config.rope_base ** (torch.arange(0, K, 2, dtype=torch.float32) / K)
    if scaling.kind == "llama3":
        frequency_P = _llama3(1.0 / wave_P, scaling)
    elif scaling.kind == "yarn":
        return Rotation(_yarn(wave_P, scaling, base=config.rope_base, head_dim=K).to(device), _yarn_attention_factor(scaling))
    else:
        frequency_P = 1.0 / wave_P / scaling.factor
    return Rotation(frequency_P.to(device), 1.0)


def _llama3(frequency_P: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1's way: short waves stay, long ones are stretched, and between two bounds one becomes the other
    (meta-llama/llama-models, models/llama3/model.py)."""
    low, high, positions = scaling.low_frequency_factor, scaling.high_frequency_factor, scaling.original_positions
    wavelength_P = 2 * math.pi / frequency_P
    is_long_P, is_short_P = wavelength_P > positions / low, wavelength_P < positions / high
    kept_fraction_P = (positions / wavelength_P - low) / (high - low)
    between_P = (1 - kept_fraction_P) * frequency_P / scaling.factor + kept_fraction_P * frequency_P
    return torch.where(is_long_P, frequency_P / scaling.factor, torch.where(is_short_P, frequency_P, between_P))


def _yarn(wave_P: Tensor, scaling: RopeScaling, *, base: float, head_dim: int) -> Tensor:
    """YaRN (arXiv:2309.00071, sec. 3.2): pairs that turn often stay, pairs that hardly turn are stretched, a ramp between."""

    def pair_with_turns(turns: float) -> float:
        return head_dim * math.log(scaling.original_positions / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair_with_turns(scaling.beta_fast), pair_with_turns(scaling.beta_slow)
    if scaling.whole_dimensions:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    if first == last:
        last += 0.001  # as the authors': a ramp without length cannot be divided by
    kept_P = 1 - ((torch.arange(head_dim // 2, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
    return 1.0 / (scaling.factor * wave_P) * (1 - kept_P) + 1.0 / wave_P * kept_P


def _yarn_attention_factor(scaling: RopeScaling) -> float:
    """The square root of 1/t in YaRN's eq. 21 and 22, on queries and on keys."""
    if scaling.attention_factor:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
