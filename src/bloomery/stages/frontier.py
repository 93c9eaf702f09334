"""Stage frontier: every method of alignment on one page, by what it gained and by how far it went from the model it began with.

Each model answers the same held-out prompts greedily and sampled; gold judges, the KL to the reference is measured, length and
stop share stand beside. Best of n of the reference, by the gold and by each reward model, is the line to beat at equal KL.
Writes frontier.json, frontier.html and frontier.md. A model is the unit of resume.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: JSON records

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from bloomery.align.best_of_n import BestOf, Samples, best_of_curve
from bloomery.align.frontier import best_of_record, difference, find_losses, method_record, thin_history, turning_point
from bloomery.align.frontier_page import write_pages
from bloomery.align.measure import Policy, measure_policy, reward_of, sample_seeds
from bloomery.align.reward_source import prompt_messages
from bloomery.align.rewards import RewardSpec, make_rewards
from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.config import Config, suggest
from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json, write_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.evaluate.tasks.skills import skills_task
from bloomery.evaluate.tradeoffs import training_cost
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.architectures import read_config
from bloomery.model.config import count_params
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model
from bloomery.tokens.renderer import load_prompt_renderer
from bloomery.tokens.tokenizer import load_tokenizer

START, GOLD = "start", "gold"
"""What the page calls the reference among the methods, and the gold among the judges of best of n."""

Record = dict[str, Any]
Row = Mapping[str, Any]


class FrontierConfig(Config):
    """Which methods are compared, and on how much."""

    names: list[str] = Field(min_length=1)
    """Of the methods. Models come in this order, every method with the same number of them, one a seed."""
    baselines: list[str] = Field(default=[])
    """Names of plain methods that the others are expected to beat; the page says where one does not."""
    reward_names: list[str] = Field(default=[])
    """Of the reward models, likewise with the same number each."""
    gold: list[RewardSpec] = Field(default=[RewardSpec(source="exact")], min_length=1)
    """What answers are really worth."""
    num_prompts: PositiveInt = 500
    num_samples: PositiveInt = 4
    """Sampled answers of each prompt."""
    max_tokens: PositiveInt = 32
    temperature: PositiveFloat = 1.0
    best_of: list[PositiveInt] = Field(default=[1, 2, 4, 8, 16, 32, 64], min_length=1)
    """The sizes n of best of n."""
    best_of_prompts: PositiveInt = 200
    """Prompts, the first of them, on which best of n is measured."""
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _check_names(self) -> "FrontierConfig":
        for field in ("names", "reward_names"):
            if len(set(getattr(self, field))) < len(getattr(self, field)):
                raise ValueError(f"{field} = {getattr(self, field)} has a name twice")
        for field, taken in (("names", START), ("reward_names", GOLD)):
            if taken in getattr(self, field):
                raise ValueError(f'{field}: "{taken}" is what the page calls something else; take another name')
        for name in self.baselines:
            if name not in self.names:
                raise ValueError(f'baselines: "{name}" is not among the names; {suggest(name, self.names)}')
        return self


def frontier(
    config: FrontierConfig,
    *,
    reference: Path,
    models: Sequence[Path],
    prompts: Sequence[Path],
    reward_models: Sequence[Path] = (),
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Writes frontier.json, frontier.html and frontier.md; returns each method's figures as `<method>/<figure>`.

    `reference` is what the methods began with. Raises ConfigError if names and models do not fit each other, DataError for an
    answer that gold or a reward model cannot judge.
    """
    folders = _grouped(config.names, models, "models")
    reward_folders = _grouped(config.reward_names, reward_models, "reward_models") if reward_models or config.reward_names else {}
    task = skills_task(prompts, num_prompts=config.num_prompts, seed=config.seed)
    asker = _Asker(config, reference, list(task.examples), resolve_device(runtime.device))
    everyone = [(START, 0, reference), *((name, i, path) for name, paths in folders.items() for i, path in enumerate(paths))]
    measured: dict[str, list[Policy]] = {}
    with runtime.progress(len(everyone), "models") as bar:
        for number, (name, i, path) in enumerate(everyone):
            scratch = out / ".scratch" / f"model-{number:03d}.json"
            if not scratch.exists():
                write_json(scratch, {key: value.tolist() for key, value in asker.measure(path, seed=i)._asdict().items()})
            measured.setdefault(name, []).append(Policy(**{key: np.asarray(value) for key, value in read_json(scratch).items()}))
            bar.advance(note=name)
    start = measured.pop(START)
    curves = asker.best_of(reward_folders)
    report = {"num_prompts": len(task.examples), **_report(config, start, measured, curves, folders)}
    write_json(out / "frontier.json", report)
    write_pages(out)
    flat = {f"{name}/{figure}": cell["value"] for name, cells in report["methods"].items() for figure, cell in cells["figures"].items()}
    return {"num_prompts": len(task.examples), "methods_that_lost_somewhere": len(report["losses"]), **flat}


class _Asker:
    """The reference and the prompts, held while one model after another is measured beside them."""

    def __init__(self, config: FrontierConfig, reference: Path, rows: Sequence[Row], device: Any) -> None:
        self._config, self._rows, self._device = config, rows, device
        self._tokenizer = load_tokenizer(reference)
        self._reference = load_model(reference, device=device).eval()
        render = load_prompt_renderer(reference, self._tokenizer)
        self._prompts = [render(prompt_messages(row), tools=row.get("tools") or ()) for row in rows]
        self._gold = make_rewards(config.gold, device=device)
        self._params = SamplingParams(max_tokens=config.max_tokens, temperature=config.temperature)

    def measure(self, path: Path, *, seed: int) -> Policy:
        """The figures of the model in `path`."""
        return measure_policy(
            load_model(path, device=self._device).eval(),
            self._reference,
            self._tokenizer,
            self._rows,
            self._prompts,
            self._gold,
            params=self._params,
            num_samples=self._config.num_samples,
            seed=self._config.seed + seed,
        )

    def best_of(self, reward_folders: Mapping[str, Sequence[Path]]) -> dict[str, list[list[BestOf]]]:
        """Best of n of the reference: by gold itself, and by each reward model, a curve for each of its seeds."""
        rows, prompts = self._rows[: self._config.best_of_prompts], self._prompts[: self._config.best_of_prompts]
        largest = max(self._config.best_of)
        repeated = [prompt for prompt in prompts for _ in range(largest)]
        seeds = sample_seeds(self._config.seed + 1, len(repeated))
        samples = Engine(self._reference, self._tokenizer).generate(repeated, self._params, seeds=seeds)
        each = [row for row in rows for _ in range(largest)]
        gold = np.asarray(reward_of(self._gold, each, samples, self._tokenizer)).reshape(len(rows), largest)

        def curve(proxy: np.ndarray) -> list[BestOf]:
            return best_of_curve([Samples(a.tolist(), b.tolist()) for a, b in zip(proxy, gold, strict=True)], seed=self._config.seed)

        curves = {GOLD: [curve(gold)]}
        for name, paths in reward_folders.items():
            for path in paths:
                source = make_rewards([RewardSpec(source="model")], reward_models=[path], device=self._device)
                proxy = np.asarray(reward_of(source, each, samples, self._tokenizer)).reshape(len(rows), largest)
                curves.setdefault(name, []).append(curve(proxy))
        return curves


def _report(
    config: FrontierConfig,
    start: list[Policy],
    measured: Mapping[str, list[Policy]],
    curves: Mapping[str, list[list[BestOf]]],
    folders: Mapping[str, Sequence[Path]],
) -> Record:
    best_of = {name: best_of_record(found, config.best_of) for name, found in curves.items()}
    methods = {}
    for name, policies in measured.items():
        gains = {figure: difference(policies, start, figure) for figure in ("greedy", "sampled")}
        costs = [training_cost(path, count_params(read_config(path))) for path in folders[name]]
        logs = [_training_log(path) for path in folders[name]]
        methods[name] = {"figures": method_record(policies), "gains": gains, "costs": costs, "logs": [log for log in logs if log]}
    turns = {name: point for name, rows in best_of.items() if (point := turning_point(rows)) is not None}
    return {
        "start": method_record(start),
        "methods": methods,
        "order": {"methods": config.names, "best_of": list(best_of)},
        "baselines": config.baselines,
        "best_of": best_of,
        "turning_points": {name: {"n": point["n"], "kl": point["kl"], "gold": point["gold"]["value"]} for name, point in turns.items()},
        "losses": find_losses(measured, start, config.baselines, best_of),
        "seeds": {name: len(policies) for name, policies in measured.items()},
    }


def _training_log(path: Path) -> Record:
    """What a run of reinforcement learning noted of itself: reward, gold and KL as it went; empty for other checkpoints."""
    training = read_json(path / "training.json") if (path / "training.json").is_file() else {}
    if "history" not in training:
        return {}
    target = read_artifact(path).record["config"].get("kl_target", 0.0) if (path / RECORD).is_file() else 0.0
    return {"curve": thin_history(training["history"]), "early_stop": training["early_stop"], "kl_target": target}


def _grouped(names: Sequence[str], paths: Sequence[Path], slot: str) -> dict[str, list[Path]]:
    count, rest = divmod(len(paths), len(names)) if names else (0, len(paths))
    if not count or rest:
        raise ConfigError(
            f"frontier: {len(paths)} {slot} for {len(names)} names ({', '.join(names)}); expected the same number of them for each"
        )
    return {name: list(paths[i * count : (i + 1) * count]) for i, name in enumerate(names)}


STAGE = Stage(
    name="frontier",
    config_type=FrontierConfig,
    run=frontier,
    inputs={
        "reference": Slot("checkpoint"),
        "models": Slot("checkpoint", many=True),
        "prompts": Slot("conversations", many=True),
        "reward_models": Slot("reward_model", many=True, optional=True),
    },
    output="frontier",
    version=1,
)
