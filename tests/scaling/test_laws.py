"""The laws against the vectors that follow from the papers' constants, and against what the papers themselves print."""

import doctest
import json
import math
from pathlib import Path

import pytest

from bloomery.scaling import laws
from bloomery.scaling.laws import (
    BESIROGLU,
    HOFFMANN,
    HOFFMANN_UNROUNDED,
    LAWS,
    Split,
    overtrain,
    predict_loss,
    read_law,
    split_flops,
    split_params,
    split_tokens,
    tokens_for_loss,
)

VECTORS = [  # FLOP; parameters, tokens, tokens a parameter: of Hoffmann's printed constants, then of Besiroglu's
    (1e18, (81e6, 2.1e9, 25.7), (81e6, 2.1e9, 25.7)),
    (1e19, (228e6, 7.3e9, 32.1), (262e6, 6.4e9, 24.2)),
    (1e20, (645e6, 25.8e9, 40.1), (853e6, 19.5e9, 22.9)),
    (1e21, (1.82e9, 91.4e9, 50.1), (2.78e9, 60.0e9, 21.6)),
    (1e22, (5.16e9, 323e9, 62.6), (9.05e9, 184e9, 20.4)),
    (5.76e23, (32.2e9, 2.98e12, 92.6), (72.2e9, 1.33e12, 18.4)),
    (1e25, (117e9, 14.3e12, 122.0), (312e9, 5.34e12, 17.1)),
]


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(laws).failed == 0


@pytest.mark.parametrize(("flops", "hoffmann", "besiroglu"), VECTORS)
def test_the_best_split_of_a_budget_has_the_printed_digits(flops: float, hoffmann: tuple, besiroglu: tuple) -> None:
    for law, (params, tokens, ratio) in ((HOFFMANN, hoffmann), (BESIROGLU, besiroglu)):
        best = split_flops(law, flops)
        assert best.params == pytest.approx(params, rel=0.006) and best.tokens == pytest.approx(tokens, rel=0.02)
        assert round(best.tokens / best.params, 1) == pytest.approx(ratio, abs=0.06 if ratio < 100 else 0.5)
        assert best.flops == pytest.approx(flops)


def test_the_chinchilla_budget_is_split_as_it_was_by_the_refit_and_not_by_the_printed_constants() -> None:
    best, printed = split_flops(BESIROGLU, 5.76e23), split_flops(HOFFMANN, 5.76e23)
    assert (f"{best.params / 1e9:.1f}", f"{best.tokens / 1e12:.2f}") == ("72.2", "1.33")  # Chinchilla: 70 B, 1.4 T
    assert (f"{printed.params / 1e9:.1f}", f"{printed.tokens / 1e12:.2f}") == ("32.2", "2.98")


@pytest.mark.parametrize(
    ("params", "tokens", "hoffmann", "besiroglu"),
    [(70e9, 1.4e12, 1.937, 1.974), (280e9, 300e9, 1.993, 2.000), (1e9, 20e9, 2.580, 2.530)],
)
def test_losses_have_the_printed_digits(params: float, tokens: float, hoffmann: float, besiroglu: float) -> None:
    assert predict_loss(HOFFMANN, Split(params, tokens)) == pytest.approx(hoffmann, abs=6e-4)
    assert predict_loss(BESIROGLU, Split(params, tokens)) == pytest.approx(besiroglu, abs=6e-4)


def test_the_exponents_are_those_of_the_papers() -> None:
    assert [round(law.exponent, 4) for law in (HOFFMANN, HOFFMANN_UNROUNDED, BESIROGLU)] == [0.4516, 0.4565, 0.5126]


TABLE_3 = [(400e6, 8.0e9), (1e9, 20.2e9), (10e9, 205.1e9), (67e9, 1.5e12), (175e9, 3.7e12)]


@pytest.mark.parametrize(("params", "tokens"), TABLE_3)
def test_the_refit_agrees_with_the_papers_first_approach_within_a_seventh(params: float, tokens: float) -> None:
    """Hoffmann et al., table 3: found without any formula for the loss."""
    best = split_flops(BESIROGLU, 6 * params * tokens)
    assert best.params == pytest.approx(params, rel=0.15) and best.tokens == pytest.approx(tokens, rel=0.15)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("flops", [1e15, 5.76e23, 1e26])
def test_a_split_is_found_again_from_its_size_and_from_its_tokens(law: laws.Law, flops: float) -> None:
    best = split_flops(law, flops)
    assert split_params(law, best.params).tokens == pytest.approx(best.tokens, rel=1e-9)
    assert split_tokens(law, best.tokens).params == pytest.approx(best.params, rel=1e-9)
    assert tokens_for_loss(law, best.params, predict_loss(law, best)) == pytest.approx(best.tokens, rel=1e-6)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_no_other_split_of_the_same_flop_has_a_lower_loss(law: laws.Law) -> None:
    best = split_flops(law, 1e21)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert predict_loss(law, Split(best.params * factor, best.tokens / factor)) > predict_loss(law, best)


def test_an_inference_load_makes_the_model_smaller_at_the_same_loss_and_its_life_cheaper_than_any_other_size() -> None:
    best = split_flops(BESIROGLU, 1e23)
    loss, served = predict_loss(BESIROGLU, best), 2e12
    found = overtrain(BESIROGLU, loss, inference_tokens=served)
    assert found.params < best.params and found.tokens > best.tokens and predict_loss(BESIROGLU, found) == pytest.approx(loss)

    def life(params: float) -> float:
        return params * (6 * tokens_for_loss(BESIROGLU, params, loss) + 2 * served)

    sizes = [best.params * 0.97**i for i in range(60)]  # a plain search in the place of the golden section
    assert life(found.params) <= min(map(life, sizes)) * (1 + 1e-9)


def test_without_inference_the_cheapest_life_is_the_compute_optimal_training() -> None:
    best = split_flops(HOFFMANN, 1e22)
    found = overtrain(HOFFMANN, predict_loss(HOFFMANN, best), inference_tokens=0.0)
    assert found.params == pytest.approx(best.params, rel=1e-3)


def test_a_size_that_never_comes_to_a_loss_needs_infinitely_many_tokens() -> None:
    assert tokens_for_loss(BESIROGLU, 1e6, 2.0) == math.inf


def test_a_fit_of_ones_own_is_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"E": 1.5, "A": 400.0, "B": 2000, "alpha": 0.3, "beta": 0.4, "name": "mine", "largest_params": 3e6}))
    law = read_law(str(path))
    assert (law.name, law.B, law.largest_params) == ("mine", 2000.0, 3e6)
    assert split_flops(law, 1e15).flops == pytest.approx(1e15)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"E": 1.5}', "A = None"),
        ("[1, 2]", "E = None"),
        ("{", "cannot be read as JSON"),
        ('{"E": 1, "A": -4, "B": 1, "alpha": 1, "beta": 1}', "A = -4"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong_in_it(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "law.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_law(str(tmp_path / "law.json"))


def test_an_unknown_law_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"kaplan.*besiroglu"):
        read_law("kaplan")
