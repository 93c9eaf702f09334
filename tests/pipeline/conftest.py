"""Three toy stages, real in everything but what they compute, and a recipe of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bloomery.core.artifact import Store
from bloomery.core.config import Config, suggest
from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json, write_json, write_text
from bloomery.core.stage import Slot, Stage
from bloomery.pipeline.plan import Plan, make_plan
from bloomery.pipeline.recipe import Recipe, load_recipe


class Limits(Config):
    """A table within a config."""

    low: int = 0
    high: int = 100


class NumbersConfig(Config):
    """Which numbers to write."""

    count: int = 5
    seed: int = 0
    limits: Limits = Limits()


class AddConfig(Config):
    """What to add to each number."""

    amount: int = 1


CALLS: list[str] = []
"""The stages that ran, so that a test can tell made from found."""


def numbers(config, *, files, out, runtime):
    CALLS.append("numbers")
    extra = [int(path.read_text()) for path in files]
    write_json(out / "numbers.json", [*range(config.seed, config.seed + config.count), *extra])
    runtime.metrics.write({"step": 1, "tokens": config.count})
    return {"count": config.count + len(extra)}


def add(config, *, documents, out, runtime):
    CALLS.append("add")
    values = [value + config.amount for folder in documents for value in read_json(folder / "numbers.json")]
    write_json(out / "numbers.json", values)
    return {"count": len(values)}


def judge(config, *, documents, out, runtime):
    CALLS.append("judge")
    write_text(out / "sum.txt", str(sum(read_json(documents / "numbers.json"))))
    return {}


TOYS = {
    "numbers": Stage(
        name="numbers",
        config_type=NumbersConfig,
        run=numbers,
        inputs={"files": Slot("pages", many=True, optional=True)},
        output="documents",
        version=1,
        spmd=True,
    ),
    "add": Stage(
        name="add", config_type=AddConfig, run=add, inputs={"documents": Slot("documents", many=True)}, output="documents", version=1
    ),
    "judge": Stage(name="judge", config_type=AddConfig, run=judge, inputs={"documents": Slot("documents")}, output="scores", version=1),
}

RECIPE = """\
name = "toy"
seed = 3

[stages.small]
stage  = "numbers"
config = { count = 2 }

[stages.more]
stage  = "add"
inputs = { documents = "small" }

[stages.verdict]
stage  = "judge"
inputs = { documents = "more" }
"""


@dataclass
class Toys:
    """Loads and plans recipes made of toy stages; `stages` may be changed by a test."""

    folder: Path
    stages: dict[str, Stage]
    calls: list[str]

    def load(self, text: str = RECIPE, *overrides: str, seed: int | None = None) -> Recipe:
        path = self.folder / "toy.toml"
        path.write_text(text)
        return load_recipe(path, overrides=overrides, seed=seed, find_stage=self.find)

    def plan(self, store: Store, *overrides: str, text: str = RECIPE, only: str | None = None, rebuild: tuple[str, ...] = ()) -> Plan:
        return make_plan(self.load(text, *overrides), store, only=only, rebuild=rebuild)

    def find(self, name: str) -> Stage:
        if name not in self.stages:
            raise ConfigError(f'there is no stage "{name}"; {suggest(name, self.stages)}')
        return self.stages[name]


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    CALLS.clear()
    return Toys(tmp_path, dict(TOYS), CALLS)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def states() -> Callable[[Plan], dict[str, str]]:
    return lambda plan: {step.node.id: step.state for step in plan.steps}
