"""Stage mixture_law: which proportions of sources to train on, from small runs on many mixtures, and whether that can be trusted.

A law of each source's bits per byte is fitted to `models`, predicts `held_out`, which it has not seen, and is minimised. `repeats` are
runs of fitted mixtures with other seeds: the noise that no law can beat. `checks` are runs of the suggested mixture, to compare with.
Writes mixture_law.json, mixture_law.html and mixture_law.md; `bloomery mix` makes the recipe.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: JSON records

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.config import Config, suggest
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_json
from bloomery.core.pages import write_page
from bloomery.core.plots import draw_agreement, draw_intervals
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.scaling.fitting import Range
from bloomery.scaling.mixture_law import (
    FORMS,
    MixtureFit,
    Noise,
    Suggestion,
    Trial,
    compare_means,
    fit_mixtures,
    judge,
    pool_noise,
    suggest_mixture,
    try_out,
)
from bloomery.scaling.mixture_plan import natural_mixture, share_caps

Record = dict[str, Any]
LOSS = "validation_bits_per_byte/"
SAME_SHARES = 0.01
"""Two runs whose shares differ by no more are of one mixture."""
SAME_TOKENS = 0.05
"""Runs of as many steps differ by the padding of their sources' rows, which is less."""


class MixtureLawConfig(Config):
    """What is minimised, and within which limits."""

    target: dict[str, NonNegativeFloat] = Field(default={})
    """Weights of the sources in the loss that is minimised, by name; a source that is not named counts nothing. Empty: all the same."""
    tokens: NonNegativeInt = 0
    """Of the run that the mixture is for; 0 = so few that no source is read too often."""
    max_epochs: NonNegativeFloat = 0.0
    """How often that run reads a source at most; 0 = as often as is asked for."""
    num_simulated: PositiveInt = 100_000
    """Mixtures that the law is asked about."""
    num_best: PositiveInt = 100
    """The best of them, whose mean is suggested."""
    num_resamples: PositiveInt = 200
    """Fits of the bootstrap that the intervals come from."""
    seed: NonNegativeInt = 0


class _Run(NamedTuple):
    """A finished run: its shares and its bits per byte, [S] each."""

    share_S: np.ndarray
    loss_S: np.ndarray


class _Runs(NamedTuple):
    """All runs, and what they have in common."""

    names: list[str]
    sizes: list[float]
    params: int
    tokens: int
    fitted: list[_Run]
    held_out: list[_Run]
    repeats: list[_Run]
    checks: list[_Run]

    @property
    def natural_S(self) -> np.ndarray:
        """Each source by its size."""
        return natural_mixture(self.sizes)


def mixture_law(
    config: MixtureLawConfig,
    *,
    models: Sequence[Path],
    held_out: Sequence[Path],
    repeats: Sequence[Path] = (),
    checks: Sequence[Path] = (),
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Writes the law, its test and the suggested mixture; returns the suggested shares and what the test came to.

    All inputs are checkpoints of `pretrain` on the same sources, of one size and length. Raises DataError for others, ConfigError for too
    few of them, for a target that is no source, or for a run that its sources are too small for.
    """
    runs = _read_runs(models, held_out, repeats, checks)
    weights = _weights(config.target, runs.names)
    try:
        caps = share_caps(runs.sizes, tokens=config.tokens, max_epochs=config.max_epochs)
        share_RS, loss_RS = np.stack([run.share_S for run in runs.fitted]), np.stack([run.loss_S for run in runs.fitted])
        fit = fit_mixtures(share_RS, loss_RS, weights, seed=config.seed, num_resamples=config.num_resamples)
        tried_RS, measured_RS = np.stack([run.share_S for run in runs.held_out]), np.stack([run.loss_S for run in runs.held_out])
        trials = _try_each(fit, tried_RS, measured_RS, runs.names, seed=config.seed)
    except ValueError as error:
        raise ConfigError(f"mixture_law: {error}") from error
    simulated = {"num_simulated": max(config.num_simulated, config.num_best), "num_best": config.num_best}
    suggestion = suggest_mixture(fit, runs.natural_S, caps=caps, seed=config.seed, **simulated)
    noises = _noise(runs, fit.weights)
    check = _check(runs, fit, noises.get("target"), suggestion)
    measured = Range(**check["gain"]) if check and check["gain"] else None
    verdict = judge(trials["target"], suggestion.gain, noises.get("target"), measured=measured)
    report: Record = {
        "names": runs.names,
        "target": dict(zip(runs.names, fit.weights.tolist(), strict=True)),
        "proxies": {"params": runs.params, "tokens": runs.tokens, "num_fitted": len(runs.fitted), "num_held_out": len(runs.held_out)},
        "run": {"tokens": config.tokens, "max_epochs": config.max_epochs},
        "verdict": verdict._asdict(),
        "mixture": dict(zip(runs.names, suggestion.share_S.tolist(), strict=True)),
        "sources": [_source_record(i, runs, suggestion, caps, config.tokens) for i in range(len(runs.names))],
        "laws": [_law_record(name, fit, i, trials.get(name), noises.get(name)) for i, name in enumerate(runs.names)],
        "trial": _trial_record(trials["target"]),
        "noise": {name: _noise_record(noise) for name, noise in noises.items()},
        "suggestion": {key: getattr(suggestion, key)._asdict() for key in ("predicted", "natural", "gain")},
        "runs": [
            *(_run_record("fitted", run, fit, runs.names) for run in runs.fitted),
            *(_run_record("held out", run, fit, runs.names) for run in runs.held_out),
        ],
        "check": check,
    }
    write_json(out / "mixture_law.json", report)
    for name in ("mixture_law.md", "mixture_law.html"):
        write_page(out / name, package="bloomery.stages", template=f"{name}.j2", view=page_view(report))
    return _metrics(report)


def _read_runs(models: Sequence[Path], held_out: Sequence[Path], repeats: Sequence[Path], checks: Sequence[Path]) -> _Runs:
    first = _record(models[0])
    names = list(first["sources"])
    if len(names) < 2:
        raise DataError(f"{models[0]}: was trained on one source; a mixture has two or more")

    def read(path: Path) -> _Run:
        found = _record(path)
        same_size = all(found[key] == first[key] for key in ("params", "steps"))
        if list(found["sources"]) != names or not same_size or abs(found["tokens"] / first["tokens"] - 1) > SAME_TOKENS:
            raise DataError(
                f"{path}: is not of the sources ({', '.join(names)}), size ({first['params']:,} parameters) and length "
                f"({first['steps']:,} steps, {first['tokens']:,} tokens) of {models[0]}: only the mixture may differ"
            )
        tokens_S = np.array([found["sources"][name]["tokens"] for name in names], dtype=np.float64)
        return _Run(tokens_S / tokens_S.sum(), np.array([found["losses"][name] for name in names]))

    groups = [[read(path) for path in paths] for paths in (models, held_out, repeats, checks)]
    sizes = [float(first["sources"][name]["source_tokens"]) for name in names]
    return _Runs(names, sizes, first["params"], first["tokens"], *groups)


def _record(path: Path) -> Record:
    record = read_artifact(path).record if (path / RECORD).is_file() else {}
    metrics: Mapping[str, Any] = record.get("metrics", {})
    if record.get("stage") != "pretrain" or not (path / "training.json").is_file():
        raise DataError(f"{path}: is of stage {record.get('stage')}; a law of mixtures is made of checkpoints of `pretrain`")
    sources = read_json(path / "training.json")["sources"]
    missing = [name for name in sources if len(sources) > 1 and LOSS + name not in metrics]
    if missing:
        raise DataError(f"{path}: the source {missing[0]} has no held-out text, so no loss: give its `tokenize` a validation_fraction")
    # Sources are a JSON object, which is written sorted: the order of the recipe is in the config.
    names = [name for name in record["config"]["names"] if name in sources] or list(sources)
    return {
        "sources": {name: sources[name] for name in names},
        "losses": {name: metrics.get(LOSS + name) for name in names},
        "params": metrics["params"],
        "steps": metrics["steps"],
        "tokens": metrics["tokens"],
    }


def _weights(target: Mapping[str, float], names: Sequence[str]) -> list[float]:
    for name in target:
        if name not in names:
            raise ConfigError(f'mixture_law: target: "{name}" is not among the sources; {suggest(name, names)}')
    if target and not any(target.values()):
        raise ConfigError("mixture_law: target: all weights are zero")
    return [target.get(name, 0.0) if target else 1.0 for name in names]


def _try_each(fit: MixtureFit, share_RS: np.ndarray, loss_RS: np.ndarray, names: Sequence[str], *, seed: int) -> dict[str, Trial]:
    """The trial of the target, and of each source."""
    mean_S, predicted_RS = fit.loss_RS.mean(axis=0), fit.predict(share_RS)
    each = {name: try_out(loss_RS[:, i], predicted_RS[:, i], baseline=mean_S[i], seed=seed) for i, name in enumerate(names)}
    target = try_out(loss_RS @ fit.weights, predicted_RS @ fit.weights, baseline=float(mean_S @ fit.weights), seed=seed)
    return {**each, "target": target}


def _noise(runs: _Runs, weights: np.ndarray) -> dict[str, Noise]:
    """Of the target and of each source; empty without repeats."""
    groups = [[run.loss_S] for run in runs.fitted]
    for run in runs.repeats:
        groups[_same_mixture(run, runs.fitted)].append(run.loss_S)
    if runs.checks:
        groups.append([run.loss_S for run in runs.checks])
    found = {name: pool_noise([[float(loss_S[i]) for loss_S in group] for group in groups]) for i, name in enumerate(runs.names)}
    found["target"] = pool_noise([[float(loss_S @ weights) for loss_S in group] for group in groups])
    return {name: noise for name, noise in found.items() if noise is not None}


def _same_mixture(run: _Run, fitted: Sequence[_Run]) -> int:
    distances = [float(np.abs(run.share_S - other.share_S).max()) for other in fitted]
    nearest = int(np.argmin(distances))
    if distances[nearest] > SAME_SHARES:
        raise DataError(f"mixture_law: a run of `repeats` with the shares {run.share_S.round(3).tolist()} repeats none of the `models`")
    return nearest


def _check(runs: _Runs, fit: MixtureFit, noise: Noise | None, suggestion: Suggestion) -> Record | None:
    """The suggested mixture as it was run, beside the natural one; None if it was not run, or if no natural mixture was."""
    if not runs.checks:
        return None
    natural = [run for run in [*runs.fitted, *runs.repeats] if np.abs(run.share_S - runs.natural_S).max() <= SAME_SHARES]
    off = max(float(np.abs(run.share_S - suggestion.share_S).max()) for run in runs.checks)
    if off > SAME_SHARES:
        raise DataError(f"mixture_law: a run of `checks` is {off:.3f} off the suggested mixture: make the recipe again with `bloomery mix`")
    measured = [float(run.loss_S @ fit.weights) for run in runs.checks]
    beside = [float(run.loss_S @ fit.weights) for run in natural]
    if not natural or noise is None:
        return {"suggested": measured, "natural": beside, "gain": None}
    return {"suggested": measured, "natural": beside, "gain": compare_means(beside, measured, noise)._asdict()}


def _source_record(i: int, runs: _Runs, suggestion: Suggestion, caps: np.ndarray, tokens: int) -> Record:
    share = float(suggestion.share_S[i])
    tried = [float(run.share_S[i]) for run in runs.fitted]
    return {
        "name": runs.names[i],
        "source_tokens": runs.sizes[i],
        "natural": float(runs.natural_S[i]),
        "suggested": {"value": share, "low": float(suggestion.low_S[i]), "high": float(suggestion.high_S[i])},
        "cap": float(caps[i]),
        "uncapped": float(suggestion.uncapped_S[i]),
        "is_capped": bool(suggestion.uncapped_S[i] > caps[i]),
        "tried": [min(tried), max(tried)],
        "epochs": share * tokens / runs.sizes[i] if tokens else None,
        "proxy_epochs": max(tried) * runs.tokens / runs.sizes[i],
    }


def _law_record(name: str, fit: MixtureFit, i: int, trial: Trial | None, noise: Noise | None) -> Record:
    law = fit.laws[i]
    return {
        "name": name,
        "form": law.form,
        "constants": law.constants.tolist(),
        "leave_one_out_rmse": dict(law.errors),
        "trial": _trial_record(trial) if trial else None,
        "noise": noise.deviation.value if noise else None,
    }


def _trial_record(trial: Trial) -> Record:
    ranges = {key: getattr(trial, key)._asdict() for key in ("rmse", "skill", "spearman")}
    return {**ranges, "p_value": trial.p_value, "num_runs": trial.num_runs}


def _noise_record(noise: Noise) -> Record:
    return {**noise.deviation._asdict(), "degrees": noise.degrees, "between_two_runs": noise.between_two_runs}


def _run_record(group: str, run: _Run, fit: MixtureFit, names: Sequence[str]) -> Record:
    return {
        "group": group,
        "shares": dict(zip(names, run.share_S.tolist(), strict=True)),
        "losses": dict(zip(names, run.loss_S.tolist(), strict=True)),
        "measured": float(run.loss_S @ fit.weights),
        "predicted": float(fit.predict_target(run.share_S[None])[0]),
    }


def _metrics(report: Record) -> Record:
    return {
        "verdict": report["verdict"]["key"],
        **{f"mixture/{name}": share for name, share in report["mixture"].items()},
        **{f"held_out_{key}": report["trial"][key]["value"] for key in ("rmse", "skill", "spearman")},
        "gain": report["suggestion"]["gain"]["value"],
        **({"noise": report["noise"]["target"]["value"]} if report["noise"] else {}),
        **({"measured_gain": report["check"]["gain"]["value"]} if report["check"] and report["check"]["gain"] else {}),
    }


def page_view(report: Record) -> Record:
    """What the pages say, as plain values that they only have to lay out."""
    names, noise = report["names"], report["noise"].get("target")
    equal = len(set(report["target"].values())) == 1
    return {
        "verdict": report["verdict"],
        "target": "the mean of all sources" if equal else ", ".join(f"{n} {w:.2f}" for n, w in report["target"].items() if w),
        "names": names,
        "proxies": {
            **report["proxies"],
            "params": f"{report['proxies']['params'] / 1e6:.2f}",
            "tokens": _count(report["proxies"]["tokens"]),
        },
        "run_tokens": _count(report["run"]["tokens"]) if report["run"]["tokens"] else "",
        "max_epochs": f"{report['run']['max_epochs']:g}" if report["run"]["max_epochs"] else "",
        "toml": mixture_toml(report["mixture"]),
        "sources": [_source_row(row) for row in report["sources"]],
        "forms": list(FORMS),
        "laws": [_law_row(row) for row in report["laws"]],
        "trial": {
            **{key: _interval(report["trial"][key]) for key in ("rmse", "skill", "spearman")},
            "p_value": f"{report['trial']['p_value']:.3f}",
            "num_runs": report["trial"]["num_runs"],
        },
        "noise": {"deviation": _interval(noise), "two": f"{noise['between_two_runs']:.4f}", "degrees": noise["degrees"]} if noise else None,
        "suggestion": {key: _interval(value) for key, value in report["suggestion"].items()},
        "check": _check_view(report),
        "runs": [_run_row(row, names) for row in sorted(report["runs"], key=lambda row: row["measured"])],
        "plots": [
            {"title": "The target, measured and predicted: a dot is a mixture", "svg": plot_runs(report)},
            {"title": "Proportions, by size and as suggested", "svg": plot_shares(report)},
        ],
    }


def mixture_toml(mixture: Mapping[str, float]) -> str:
    """The line for the `config` of a `pretrain`.

    >>> mixture_toml({"books": 0.25, "web": 0.75})
    'mixture = { books = 0.25, web = 0.75 }'
    """
    parts = [
        f"{name if name.replace('_', '').isalnum() and name.isascii() else json.dumps(name)} = {share:g}" for name, share in mixture.items()
    ]
    return f"mixture = {{ {', '.join(parts)} }}"


def plot_runs(report: Record) -> str:
    """Measured against predicted, fitted and held-out runs apart, with the band that two of three runs differ by chance."""
    points = {
        group: [(row["measured"], row["predicted"]) for row in report["runs"] if row["group"] == group] for group in ("fitted", "held out")
    }
    if report["check"]:
        points["suggested, as run"] = [(value, report["suggestion"]["predicted"]["value"]) for value in report["check"]["suggested"]]
    noise = report["noise"].get("target")
    return draw_agreement(
        points,
        band=1.96 * noise["value"] if noise else 0.0,
        band_label="noise between seeds, 95 %",
        x_label="measured, bits per byte",
        y_label="predicted, bits per byte",
    )


def plot_shares(report: Record) -> str:
    """Natural and suggested shares, these with intervals; the limits of the real run as marks."""
    rows = report["sources"]
    shares = {
        "by size": [(row["natural"],) * 3 for row in rows],
        "suggested": [(row["suggested"]["value"], row["suggested"]["low"], row["suggested"]["high"]) for row in rows],
    }
    marks = [row["cap"] if row["cap"] < 1 else None for row in rows]
    return draw_intervals(
        [row["name"] for row in rows], list(shares), shares, x_label="share of the tokens", marks=marks, mark_label="limit by max_epochs"
    )


def _source_row(row: Record) -> Record:
    low, high = row["tried"]
    notes = []
    if row["is_capped"]:
        notes.append(f"limited: {100 * row['uncapped']:.1f} % without max_epochs")
    elif row["suggested"]["value"] > high - 0.02:
        notes.append("at the most that was tried")
    return {
        "name": row["name"],
        "tokens": _count(row["source_tokens"]),
        "natural": f"{100 * row['natural']:.1f}",
        "suggested": _interval({key: 100 * value for key, value in row["suggested"].items()}, digits=1),
        "tried": f"{100 * low:.0f}..{100 * high:.0f}",
        "cap": f"{100 * row['cap']:.1f}" if row["cap"] < 1 else "none",
        "epochs": f"{row['epochs']:.2f}" if row["epochs"] is not None else "",
        "proxy_epochs": f"{row['proxy_epochs']:.2f}",
        "note": "; ".join(notes),
    }


def _law_row(row: Record) -> Record:
    return {
        "name": row["name"],
        "form": row["form"],
        "errors": [f"{row['leave_one_out_rmse'][form]:.4f}" for form in FORMS],
        "held_out": f"{row['trial']['rmse']['value']:.4f}" if row["trial"] else "",
        "skill": f"{row['trial']['skill']['value']:.2f}" if row["trial"] else "",
        "noise": f"{row['noise']:.4f}" if row["noise"] is not None else "",
    }


def _check_view(report: Record) -> Record | None:
    check = report["check"]
    if not check:
        return None
    mean = {key: f"{np.mean(check[key]):.4f}" if check[key] else "" for key in ("suggested", "natural")}
    return {**mean, "num_seeds": len(check["suggested"]), "gain": _interval(check["gain"]) if check["gain"] else ""}


def _run_row(row: Record, names: Sequence[str]) -> Record:
    return {
        "group": row["group"],
        "shares": [f"{100 * row['shares'][name]:.0f}" for name in names],
        "measured": f"{row['measured']:.4f}",
        "predicted": f"{row['predicted']:.4f}",
        "error": f"{row['predicted'] - row['measured']:+.4f}",
    }


def _interval(found: Mapping[str, float], *, digits: int = 4) -> str:
    one = Range(found["value"], found["low"], found["high"])
    return f"{one.value:.{digits}f} [{one.low:.{digits}f}, {one.high:.{digits}f}]"


def _count(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


STAGE = Stage(
    name="mixture_law",
    config_type=MixtureLawConfig,
    run=mixture_law,
    inputs={
        "models": Slot("checkpoint", many=True),
        "held_out": Slot("checkpoint", many=True),
        "repeats": Slot("checkpoint", many=True, optional=True),
        "checks": Slot("checkpoint", many=True, optional=True),
    },
    output="mixture_law",
    version=1,
)
