"""Benchmarks along a ladder: does an ability appear at some size, or is it only seen there by a metric that is hard to satisfy?

Accuracy counts a row when the right answer wins; the log-likelihood of the right answer says how far it has come. Where the second
improves steadily and the first jumps, the jump is the metric's (Schaeffer et al. 2023, arXiv:2304.15004). With choices there is a third
figure, the right answer against the others: a better model of the language makes wrong answers likelier, too.

The log-likelihood can jump itself: then most of its gain lies between two models whose losses are not that far apart.

Order and steadiness are Spearman's rank correlation with the validation loss, its interval a bootstrap over rows, the same rows for all
models. Shapes: M models, R rows of a benchmark, S resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple  # Any: JSON records

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from bloomery.scaling.fitting import Range

NUM_RESAMPLES = 1000
STEADY = 0.5
"""A rank correlation whose interval lies above this is called steady."""
EARLY_FRACTION = 0.25
"""Of its whole gain, what a log-likelihood has to have made before accuracy leaves chance for the jump to be called the metric's."""
JUMP_FRACTION = 0.5
"""A step between neighbours that makes more of a log-likelihood's whole gain, and twice its share of the fall of the loss, is a jump."""

Vector = npt.NDArray[np.float64]


class Figures(NamedTuple):
    """What each row gave under each model. `bits_MR`: of the right answer, a byte; `nats_MR`: minus its log-probability among the choices.

    `accuracy_MR` is any score in 0..1 that is better when larger; the others are better when smaller, None where there is none.
    """

    accuracy_MR: Vector
    bits_MR: Vector | None
    nats_MR: Vector | None


class Jump(NamedTuple):
    """One step of falling loss that makes most of a log-likelihood's gain: `share` of it, over `loss_share` of the loss's whole fall."""

    at: int
    """The place of the model behind the step."""
    share: Range
    loss_share: float


class Trend(NamedTuple):
    """How a benchmark goes with the loss: rank correlations (1 = better wherever the loss is lower), and what follows, in words."""

    accuracy: Range
    bits: Range | None
    nats: Range | None
    leaves_chance_at: int | None
    """The place, by falling loss, from which on every model's accuracy is above chance; None if the best one's is not."""
    jump: Jump | None
    sentence: str

    def record(self) -> dict[str, Any]:
        """The trend as ladder.json holds it."""
        ranges = {name: getattr(self, name) for name in ("accuracy", "bits", "nats")}
        told = {name: one and one._asdict() for name, one in ranges.items()}
        jump = self.jump and {**self.jump._asdict(), "share": self.jump.share._asdict()}
        return {"rank_correlation": told, "leaves_chance_at": self.leaves_chance_at, "jump": jump, "sentence": self.sentence}


def find_trend(
    figures: Figures, losses: Sequence[float], *, lows: Sequence[float], chance: float, names: Sequence[str], seed: int
) -> Trend:
    """What a benchmark says of models in the order of falling loss; `lows` are the lower ends of their accuracies' intervals.

    Raises ValueError for fewer than three models: two have no trend.
    """
    if len(losses) < 3:
        raise ValueError(f"a trend needs three models or more, found {len(losses)}")
    if list(losses) != sorted(losses, reverse=True):
        raise ValueError("models must come in the order of falling loss")
    accuracy = correlate(figures.accuracy_MR, losses, seed=seed)
    bits, nats = (None if one is None else correlate(-one, losses, seed=seed) for one in (figures.bits_MR, figures.nats_MR))
    above = [low > chance for low in lows]
    at = next((place for place in range(len(above)) if all(above[place:])), None)
    jump = None if figures.bits_MR is None else find_jump(figures.bits_MR, losses, seed=seed)
    return Trend(accuracy, bits, nats, at, jump, _sentence(figures, accuracy, bits, nats, at, jump, names))


def correlate(better_MR: Vector, losses: Sequence[float], *, seed: int) -> Range:
    """Spearman's correlation of the models' means over rows with minus their loss, and its interval over rows.

    Equal means share a rank; where all are equal it is 0.
    """
    rank_SM = rankdata(np.round(_resample_means(better_MR, seed), 12), axis=1)
    rank_SM -= rank_SM.mean(axis=1, keepdims=True)
    goal_M = rankdata(-np.asarray(losses))
    goal_M -= goal_M.mean()
    length_S = np.sqrt((rank_SM**2).sum(axis=1) * (goal_M**2).sum())
    value_S = np.divide(rank_SM @ goal_M, length_S, out=np.zeros(len(length_S)), where=length_S > 0)
    return _range(value_S)


def find_jump(bits_MR: Vector, losses: Sequence[float], *, seed: int) -> Jump | None:
    """The step between neighbours that makes most of the gain of the models' means, if the lower end of its share (over rows) says so."""
    mean_SM = _resample_means(bits_MR, seed)
    whole_S = mean_SM[:, 0] - mean_SM[:, -1]
    if (whole_S <= 0).any() or losses[0] == losses[-1]:
        return None
    share_SM = (mean_SM[:, :-1] - mean_SM[:, 1:]) / whole_S[:, None]
    step = int(share_SM[0].argmax())
    share = _range(share_SM[:, step])
    loss_share = (losses[step] - losses[step + 1]) / (losses[0] - losses[-1])
    return Jump(step + 1, share, loss_share) if share.low > max(JUMP_FRACTION, 2 * loss_share) else None


def _resample_means(value_MR: Vector, seed: int) -> Vector:
    """The models' means over rows, and below them those of rows drawn with replacement: (1 + S, M)."""
    num_rows = value_MR.shape[1]
    rng = np.random.default_rng([seed, num_rows])
    count_SR = rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=NUM_RESAMPLES)
    return np.concatenate([value_MR.mean(axis=1)[None], count_SR @ value_MR.T / num_rows])


def _range(value_S: Vector) -> Range:
    """The first value, with the middle 95 % of the others."""
    low, high = np.quantile(value_S[1:], [0.025, 0.975])
    return Range(float(value_S[0]), float(low), float(high))


def early_fraction(bits_MR: Vector, place: int) -> float:
    """Of what the log-likelihood gains from the first model to the last, the share that it has at the model before `place`."""
    mean_M = bits_MR.mean(axis=1)
    whole = mean_M[0] - mean_M[-1]
    return float((mean_M[0] - mean_M[place - 1]) / whole) if whole > 0 and place > 0 else 0.0


def _sentence(
    figures: Figures, accuracy: Range, bits: Range | None, nats: Range | None, at: int | None, jump: Jump | None, names: Sequence[str]
) -> str:
    if bits is None or figures.bits_MR is None:
        where = "at chance" if at is None else f"above chance from {names[at]} on"
        return f"Accuracy is {where} ({_told(accuracy)}). Answers are generated: there is no log-likelihood to compare with."
    if bits.low <= STEADY:
        if at is None:
            return f"Nothing moves yet: accuracy is at chance, and the log-likelihood does not follow the loss ({_told(bits)})."
        return f"Accuracy is above chance from {names[at]} on, but the log-likelihood does not follow the loss ({_told(bits)})."
    if jump is not None:
        share, low, high = (f"{100 * value:.0f}" for value in jump.share)
        return (
            f"Accuracy is {'at chance for the best model' if at is None else f'above chance from {names[at]} on'}; the log-likelihood of "
            f"the right answer follows the loss ({_told(bits)}), but jumps: {share} [{low}, {high}] % of its gain lies between "
            f"{names[jump.at - 1]} and {names[jump.at]}, as {100 * jump.loss_share:.0f} % of the fall of the loss. "
            f"So it is not the metric that makes the jump. {_what_is_under_way(nats) if nats else ''}"
        ).strip()
    steady = f"the log-likelihood of the right answer improves steadily ({_told(bits)})"
    if at is None:
        return f"Accuracy is at chance for the best model, while {steady}. {_what_is_under_way(nats)}"
    if at == len(names) - 1:
        return (
            f"Only {names[at]}'s accuracy is above chance, as one model's in forty is by luck, while {steady}. {_what_is_under_way(nats)}"
        )
    if at == 0:
        return f"Accuracy is above chance for every model ({_told(accuracy)}), and {steady}: nothing emerges."
    early = early_fraction(figures.bits_MR, at)
    verdict = "what looks like emergence is the metric" if early >= EARLY_FRACTION else "both move at about the same place"
    return (
        f"Accuracy leaves chance at {names[at]}, while {steady}: {100 * early:.0f} % of its gain was made before. So {verdict}. "
        f"{_what_is_under_way(nats)}"
    ).strip()


def _what_is_under_way(nats: Range | None) -> str:
    if nats is None:
        return "A jump of accuracy at a larger size would be the metric's."
    if nats.low > 0:
        return f"It also gains on the wrong answers ({_told(nats)})."
    return f"But it does not gain on the wrong answers ({_told(nats)}): the models learn how answers sound, not yet which is right."


def _told(one: Range) -> str:
    return f"rank correlation with the loss {one.value:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"


def stack_rows(rows: Mapping[str, Mapping[Any, Mapping[str, float]]], names: Sequence[str], *, metric: str) -> Figures:
    """Rows of one benchmark, {model: {place of the row: its values}}, as arrays in the order of `names`.

    Only rows that every model was asked count.
    """
    places = [place for place in rows[names[0]] if all(place in rows[name] for name in names)]

    def stack(key: str) -> Vector | None:
        if not all(key in rows[name][place] for name in names for place in places):
            return None
        return np.array([[rows[name][place][key] for place in places] for name in names], dtype=np.float64)

    accuracy_MR = stack(metric)
    if accuracy_MR is None or not places:
        raise ValueError(f"no rows with {metric} that all of {', '.join(names)} were asked")
    return Figures(accuracy_MR, stack("gold_bits_per_byte"), stack("gold_nats"))
