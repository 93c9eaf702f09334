"""A ladder: a family of small models whose losses tell what a larger one will come to.

Each rung is a width with its depth (64 dimensions a layer, or the same number of layers for all), everything else by the dial. Two
ladders: fixed ratios of tokens to parameters, or IsoFLOP, where each budget is spent on every width (Hoffmann et al., arXiv:2203.15556,
sec. 3).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple  # Any: settings of a recipe

from bloomery.scaling.dial import dial_of_shape, recipe_config
from bloomery.scaling.laws import FLOPS_PER_PARAM_TOKEN
from bloomery.scaling.shape import Shape, count_params, shape_of_width

DIMENSIONS_PER_LAYER = 64
MIN_STEPS = 20
"""A run of fewer says nothing."""


class Rung(NamedTuple):
    """One run of a ladder. `config` are settings of `pretrain`."""

    name: str
    params: int
    tokens: int
    config: dict[str, Any]

    @property
    def flops(self) -> float:
        """C = 6 N D."""
        return float(FLOPS_PER_PARAM_TOKEN * self.params * self.tokens)


def plan_rungs(
    widths: Sequence[int],
    *,
    vocab_size: int,
    ratios: Sequence[float] = (),
    budgets: Sequence[float] = (),
    num_layers: int = 0,
    sequence_tokens: int = 0,
    batch_tokens: int = 0,
) -> list[Rung]:
    """Every width with every ratio (tokens a parameter) and every budget (FLOP), cheapest first; what would take too few steps is left out.

    `num_layers` is that of every rung; 0 = one for 64 dimensions. Raises ValueError for a width that is no multiple of 16, or if
    there is neither ratio nor budget.
    """
    if not ratios and not budgets:
        raise ValueError("a ladder needs ratios of tokens to parameters, or budgets in FLOP")
    rungs = []
    for width in sorted(set(widths)):
        shape = _shape(width, vocab_size, num_layers)
        for name, tokens in _lengths(width, count_params(shape).total, ratios, budgets):
            rung, num_steps = _rung(name, shape, tokens, sequence_tokens, batch_tokens)
            if num_steps >= MIN_STEPS:
                rungs.append(rung)
    return sorted(rungs, key=lambda rung: (rung.flops, rung.name))


def plan_rung(width: int, tokens: int, *, vocab_size: int, sequence_tokens: int = 0, batch_tokens: int = 0) -> Rung:
    """One run of a width and a length. Raises ValueError for a width that is no multiple of 16, or for too few steps."""
    rung, num_steps = _rung(f"w{width}", _shape(width, vocab_size), tokens, sequence_tokens, batch_tokens)
    if num_steps < MIN_STEPS:
        raise ValueError(
            f"{tokens:,} tokens are {num_steps} steps of {rung.config['batch_tokens']:,}; a run of under {MIN_STEPS} says nothing"
        )
    return rung


def _rung(name: str, shape: Shape, tokens: int, sequence_tokens: int, batch_tokens: int) -> tuple[Rung, int]:
    dial = dial_of_shape(shape, shape.num_layers, tokens=tokens, sequence_tokens=sequence_tokens, batch_tokens=batch_tokens)
    return Rung(name, count_params(shape).total, tokens, recipe_config(dial)), dial.num_steps


def _lengths(width: int, params: int, ratios: Sequence[float], budgets: Sequence[float]) -> Iterator[tuple[str, int]]:
    for ratio in ratios:
        yield f"w{width}_r{ratio:g}".replace(".", "p"), round(ratio * params)
    for flops in budgets:
        yield f"w{width}_c{flops:.2g}".replace(".", "p").replace("+", ""), round(flops / (FLOPS_PER_PARAM_TOKEN * params))


def _shape(width: int, vocab_size: int, num_layers: int = 0) -> Shape:
    """Heads fill the width, so that rungs differ in size alone: as many as there is of 64 in it, or the nearest number that divides it."""
    if width < 16 or width % 16:
        raise ValueError(f"widths must be multiples of 16, from 16 on; found {width}")
    shape = shape_of_width(width, num_layers or max(1, round(width / DIMENSIONS_PER_LAYER)), vocab_size=vocab_size, tied=True)
    fitting = [heads for heads in range(1, width // 16 + 1) if width % (2 * heads) == 0]
    num_heads = min(fitting, key=lambda heads: (abs(heads - width / shape.head_dim), -heads))
    num_kv_heads = shape.num_kv_heads if num_heads == shape.num_heads else num_heads // 2 if num_heads % 2 == 0 else num_heads
    return shape._replace(head_dim=width // num_heads, num_heads=num_heads, num_kv_heads=num_kv_heads)
