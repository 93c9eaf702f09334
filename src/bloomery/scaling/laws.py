"""How low the loss comes with so many parameters and tokens, and how to split a budget between them.

The law is Hoffmann's parametric one (arXiv:2203.15556, sec. 3.3): L(N, D) = E + A / N^alpha + B / D^beta, in nats a token,
N and D as plain counts. Training costs C = 6 N D floating-point operations. Three sets of constants are here, and any
other can be read from a JSON file. They hold for the data, the tokenizer and the sizes that they were fitted on; of
other runs they tell the slope, not the height.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple  # Any: values of a JSON object

FLOPS_PER_PARAM_TOKEN = 6
"""Of a forward and a backward pass, attention left out (Kaplan et al., arXiv:2001.08361, sec. 2.1)."""
INFERENCE_FLOPS_PER_PARAM_TOKEN = 2
LAW_KEYS = ("E", "A", "B", "alpha", "beta")


class Law(NamedTuple):
    """The constants of one fit. `smallest_params` and `largest_params` are those of the runs it was fitted on; 0 = not known."""

    name: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str = ""
    smallest_params: float = 0.0
    largest_params: float = 0.0

    @property
    def exponent(self) -> float:
        """a in N = G (C / 6)^a: how fast the best size grows with the budget."""
        return self.beta / (self.alpha + self.beta)

    @property
    def scale(self) -> float:
        """G in N = G (C / 6)^a (arXiv:2203.15556, eq. 4)."""
        return float((self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta)))


FITTED = (4.4e7, 1.6e10)
"""Parameters of the smallest and the largest of Hoffmann's models, whose losses all three were fitted to."""
BESIROGLU = Law("besiroglu", 1.8172, 482.01, 2085.43, 0.3478, 0.3658, "Besiroglu et al. 2024, arXiv:2404.10102: fitted again", *FITTED)
HOFFMANN = Law("hoffmann", 1.69, 406.4, 410.7, 0.34, 0.28, "Hoffmann et al. 2022, arXiv:2203.15556, eq. 10, as printed", *FITTED)
HOFFMANN_UNROUNDED = Law("hoffmann-unrounded", 1.6934, 406.4, 410.7, 0.3392, 0.2849, "the same, digits of the TeX source", *FITTED)
LAWS = {law.name: law for law in (BESIROGLU, HOFFMANN, HOFFMANN_UNROUNDED)}
"""The first is the default: it gives the 20 tokens a parameter that Chinchilla was trained with, and the printed one does not."""


class Split(NamedTuple):
    """A size and a number of tokens to train it on."""

    params: float
    tokens: float

    @property
    def flops(self) -> float:
        """C = 6 N D."""
        return FLOPS_PER_PARAM_TOKEN * self.params * self.tokens


def predict_loss(law: Law, split: Split) -> float:
    """L(N, D) in nats a token.

    >>> round(predict_loss(BESIROGLU, Split(70e9, 1.4e12)), 3), round(predict_loss(HOFFMANN, Split(70e9, 1.4e12)), 3)
    (1.974, 1.937)
    """
    return float(law.E + law.A / split.params**law.alpha + law.B / split.tokens**law.beta)


def split_flops(law: Law, flops: float) -> Split:
    """The size and tokens of the lowest loss that so many FLOP buy.

    >>> best = split_flops(BESIROGLU, 5.76e23)
    >>> f"{best.params / 1e9:.1f} B parameters, {best.tokens / 1e12:.2f} T tokens, {best.tokens / best.params:.1f} a parameter"
    '72.2 B parameters, 1.33 T tokens, 18.4 a parameter'
    """
    product = flops / FLOPS_PER_PARAM_TOKEN
    params = law.scale * product**law.exponent
    return Split(params, product / params)


def split_params(law: Law, params: float) -> Split:
    """So many parameters with the tokens for which they are the best size."""
    product: float = (params / law.scale) ** (1 / law.exponent)
    return Split(params, product / params)


def split_tokens(law: Law, tokens: float) -> Split:
    """So many tokens with the size that makes the most of them at its budget."""
    product: float = (tokens * law.scale) ** (1 / (1 - law.exponent))
    return Split(product / tokens, tokens)


def tokens_for_loss(law: Law, params: float, loss: float) -> float:
    """How many tokens a model of this size needs to come to a loss; infinite if it never does."""
    left = loss - law.E - law.A / params**law.alpha
    return float((law.B / left) ** (1 / law.beta)) if left > 0 else math.inf


def overtrain(law: Law, loss: float, *, inference_tokens: float) -> Split:
    """The smaller model, trained for longer, that costs the least over its life at a given loss (LLaMA's choice, arXiv:2302.13971, sec. 1).

    Minimised are 6 N D of training + 2 N of each token that is ever read or written (arXiv:2401.00448, eq. 2). Without
    inference this is the compute-optimal split.

    >>> best = split_flops(BESIROGLU, 5.76e23)
    >>> life = overtrain(BESIROGLU, predict_loss(BESIROGLU, best), inference_tokens=1e13)
    >>> f"{life.params / 1e9:.1f} B parameters, {life.tokens / life.params:.0f} tokens a parameter"
    '34.1 B parameters, 109 tokens a parameter'
    """

    def cost(log_params: float) -> float:
        params = math.exp(log_params)
        tokens = tokens_for_loss(law, params, loss)
        return params * (FLOPS_PER_PARAM_TOKEN * tokens + INFERENCE_FLOPS_PER_PARAM_TOKEN * inference_tokens)

    # A model smaller than `least` never comes to the loss; the best one without inference is the largest that can be the best.
    least = math.log((law.A / (loss - law.E)) ** (1 / law.alpha))
    params = math.exp(_minimise(cost, least, math.log(_frontier_params(law, loss))))
    return Split(params, tokens_for_loss(law, params, loss))


def read_law(name: str) -> Law:
    """A law by its name, or one of your own from a JSON object with E, A, B, alpha, beta (and name, source if you like).

    Raises ValueError saying what was found and what is expected.
    """
    if name in LAWS:
        return LAWS[name]
    if not name.endswith(".json"):
        raise ValueError(f'"{name}" is no law: expected {", ".join(LAWS)}, or a JSON file with {", ".join(LAW_KEYS)}')
    try:
        found = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: cannot be read as JSON ({error})") from error
    values: dict[str, Any] = found if isinstance(found, dict) else {}
    least = {key: 0.0 if key == "E" else 1e-12 for key in LAW_KEYS}
    wrong = [key for key in LAW_KEYS if not _is_number(values.get(key)) or values[key] < least[key]]
    if wrong:
        said = ", ".join(f"{key} = {values.get(key)!r}" for key in wrong)
        raise ValueError(f"{name}: expected an object with the numbers {', '.join(LAW_KEYS)}, all above 0 (E at least 0); found {said}")
    E, A, B, alpha, beta = (float(values[key]) for key in LAW_KEYS)
    smallest, largest = (float(values[key]) if _is_number(values.get(key)) else 0.0 for key in ("smallest_params", "largest_params"))
    return Law(str(values.get("name", Path(name).stem)), E, A, B, alpha, beta, str(values.get("source", name)), smallest, largest)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _frontier_params(law: Law, loss: float) -> float:
    """The size that comes to a loss with the fewest FLOP: there, alpha A / N^alpha = beta B / D^beta."""
    return float((law.A * (1 + law.alpha / law.beta) / (loss - law.E)) ** (1 / law.alpha))


def _minimise(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley between two places is lowest (golden section)."""
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(200):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if function(left) <= function(right):
            high = right
        else:
            low = left
    return (low + high) / 2
