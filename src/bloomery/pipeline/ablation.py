"""An experiment on data as a recipe: the same model and budget on several arms, which differ only in what they are made of.

A recipe with a table more, which `bloomery ablate` reads:

    [ablation]
    question = "Is filtered web text better than raw?"
    model    = "base"                                     # the `pretrain` that every arm and seed makes
    seeds    = [0, 1, 2, 3, 4]
    baseline = "raw"
    held_out = { clean = "held" }                         # name = an id or "file:...": measured on, kept out of every arm
    tasks    = ["hellaswag"]                              # benchmarks, with `data` and `limit` as in `evaluate`
    data     = ["file:eval"]
    [ablation.arms.raw]                                   # as the recipe has it
    [ablation.arms.filtered]
    set = { "corpus.inputs.documents" = "filtered" }      # as --set says it
    [ablation.predictions]                                # written before the run
    "bits_per_byte/clean" = { wins = "filtered", because = "..." }

Stages that an arm changes, and all that are made of them, are repeated as ID_ARM; all others are shared. What the arms train
on, and the tokenizer, passes `decontaminate` first, against all held-out texts at once.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: the values of a TOML document

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from bloomery.core.config import Config, check_config, suggest
from bloomery.core.errors import ConfigError
from bloomery.pipeline.derive import Table, evaluate_table, keep_upstream, read_tables, toml_value
from bloomery.pipeline.recipe import CLUSTER, SEEDS, apply_override, load_recipe, parse_value
from bloomery.pipeline.recipe import EXPERIMENT as TABLE
from bloomery.pipeline.repeat import seed_id
from bloomery.pipeline.sources import PREFIX

SCORES, REPORT, KEPT = "scores", "ablation", "kept"
"""Ids of the stages that are added: what was measured, what came of it, and KEPT_ID for what passes of a stage."""
DATA_SETTINGS = ("names", "mixture", "max_epochs")
"""Of `pretrain`, what says which data is read; all else must be the same in every arm."""
READERS = ("tokenize", "train_tokenizer")


class Arm(Config):
    """One way to make the data."""

    set: dict[str, Any] = Field(default={})
    """Settings as --set says them, "ID.key" = value; none: as the recipe has it."""


class Prediction(Config):
    """Which arm wins on an outcome, and why; written before the run."""

    wins: str
    because: str = ""


class Experiment(Config):
    """The table [ablation] of a recipe."""

    question: str
    model: str
    seeds: list[NonNegativeInt] = Field(default=[0, 1, 2], min_length=1)
    baseline: str
    arms: dict[str, Arm] = Field(min_length=2)
    held_out: str | dict[str, str | list[str]]
    """What is measured on and never trained on: an id or "file:...", or several by the names they shall have."""
    shared_words: PositiveInt = 40
    """A document that has so many words in a row with a held-out one is dropped from all arms (50 BPE tokens, as in
    arXiv:2107.06499, are about 40 words)."""
    held_out_tokens: NonNegativeInt = 200_000
    """Of the held-out texts so many are measured on, an equal part of each name; 0 = all."""
    held_out_document_tokens: NonNegativeInt = 0
    """Of a longer one only the beginning; 0 = all of it."""
    tasks: list[str] = Field(default=[])
    data: list[str] = Field(default=[])
    limit: NonNegativeInt = 0
    num_shots: int = Field(default=-1, ge=-1)
    predictions: dict[str, Prediction] = Field(default={})

    @model_validator(mode="after")
    def _check_names(self) -> "Experiment":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds} has a seed twice")
        if self.baseline not in self.arms:
            raise ValueError(f'baseline = "{self.baseline}" is not an arm; {suggest(self.baseline, self.arms)}')
        for name in self.arms:
            if not name.isascii() or not name.replace("_", "").isalnum() or name != name.lower():
                raise ValueError(f'arms: "{name}" must be small letters, digits and _: ids are made of it')
        for outcome, prediction in self.predictions.items():
            if prediction.wins not in self.arms:
                raise ValueError(f'predictions."{outcome}".wins = "{prediction.wins}" is no arm; {suggest(prediction.wins, self.arms)}')
            if outcome not in (known := list(self.outcomes())):
                raise ValueError(f'predictions: "{outcome}" is nothing that is measured; {suggest(outcome, known)}')
        return self

    @property
    def held(self) -> dict[str, list[str]]:
        """The sources of held-out texts by name."""
        named = self.held_out if isinstance(self.held_out, dict) else {"held out": self.held_out}
        return {name: [source] if isinstance(source, str) else list(source) for name, source in named.items()}

    def outcomes(self) -> Iterator[str]:
        """What a prediction can be about: bits per byte of all held-out texts and by name, benchmarks and their right answers."""
        yield "bits_per_byte"
        if len(self.held) > 1:
            yield from (f"bits_per_byte/{name}" for name in self.held)
        for task in self.tasks:
            yield from (task, f"{task}/right_answer")


class Derived(NamedTuple):
    """The stages of an experiment, and the ids of each arm's trainings."""

    stages: dict[str, Table]
    seeds: list[int]
    models: dict[str, list[str]]


def read_file(path: Path, *, overrides: Sequence[str] = ()) -> tuple[Table, Experiment]:
    """The tables of a recipe that is an experiment, with what `--set` says ("ID.key=value", "ablation.key=value"), and the experiment.

    Raises ConfigError with the mistakes in either.
    """
    own = [option for option in overrides if option.startswith(f"{TABLE}.")]
    others = [option for option in overrides if option not in own]
    raw = read_tables(path, overrides=others)
    for option in own:
        name, equals, value = option.partition("=")
        keys = name.strip().split(".")
        table: Any = raw
        for key in keys[:-1]:
            table = table.get(key) if isinstance(table, dict) else None
        if not equals or not isinstance(table, dict):
            raise ConfigError(f"--set {option}: expected {TABLE}.key=value, of a table that the recipe has")
        table[keys[-1]] = parse_value(value.strip())
    experiment = read_experiment(raw, str(path))
    load_recipe(path, overrides=others, is_experiment=True)
    return raw, experiment


def read_experiment(raw: Mapping[str, Any], where: str) -> Experiment:
    """The table [ablation] of a recipe's tables, checked. Raises ConfigError with every mistake in it."""
    if not isinstance(raw.get(TABLE), dict):
        raise ConfigError(f"{where}: has no [{TABLE}] table, so it is no experiment; `bloomery run` runs it")
    experiment, mistakes = check_config(Experiment, raw[TABLE])
    if experiment is None:
        raise ConfigError("\n  ".join([f"{where}: {len(mistakes)} mistake(s)", *(f"{TABLE}.{mistake}" for mistake in mistakes)]))
    stages = raw.get("stages", {})
    if experiment.model not in stages or stages[experiment.model].get("stage") != "pretrain":
        known = [name for name, table in stages.items() if table.get("stage") == "pretrain"]
        raise ConfigError(
            f'{where}: {TABLE}.model = "{experiment.model}" is no `pretrain` of the recipe; {suggest(experiment.model, known)}'
        )
    for source in (source for sources in experiment.held.values() for source in sources):
        if not source.startswith(PREFIX) and source not in stages:
            raise ConfigError(f'{where}: {TABLE}.held_out: there is no stage with the id "{source}"; {suggest(source, stages)}')
    return experiment


def derive_experiment(raw: Mapping[str, Any], experiment: Experiment) -> Derived:
    """The stages that carry out an experiment. Raises ConfigError where the arms differ in more than their data, or not at all."""
    stages: dict[str, Table] = dict(raw["stages"])
    base = experiment.model
    known: dict[str, str] = {}
    wholes: dict[str, str] = {}
    made: dict[str, dict[str, Table]] = {}
    for arm, changes in experiment.arms.items():
        changed = _apply(stages, arm, changes)
        _check_only_data_differs(stages, changed, base, arm)
        whole = _describe(changed, base)
        if (twin := wholes.setdefault(whole, arm)) != arm:
            raise ConfigError(f"{TABLE}.arms.{arm}: trains on the same data as {twin}; an arm must differ from all others")
        made[arm] = _rename(stages, changed, base, arm, known)
    merged = {name: table for tables in made.values() for name, table in tables.items()}
    held = [source for sources in experiment.held.values() for source in sources]
    for source in (source for source in held if source in stages):
        if source in merged and stages[source].get("stage") == "mix":
            raise ConfigError(
                f"{TABLE}.held_out: {source} is a `mix` that arms train on; give the held-out texts one of their own, of the same "
                'documents: [stages.held] with stage = "mix", of which the validation side is taken'
            )
    for source in (source for source in held if source in stages):
        merged = {**keep_upstream(raw, source), source: stages[source]} | merged
    ours = {*known.values(), *(f"{base}_{arm}" for arm in experiment.arms)} & stages.keys()
    taken = [name for name in merged if name in (SCORES, REPORT) or name.startswith(f"{KEPT}_") or name in ours]
    if taken:
        raise ConfigError(f"{TABLE}: the id {taken[0]} is one that the experiment gives to a stage of its own: rename yours")
    merged = _hold_out(merged, held, experiment.shared_words, trained=[f"{base}_{arm}" for arm in experiment.arms])
    for arm in experiment.arms:
        merged[f"{base}_{arm}"]["per_seed"] = True
    models = {arm: [seed_id(f"{base}_{arm}", seed) for seed in experiment.seeds] for arm in experiment.arms}
    merged |= _measuring(experiment, merged)
    return Derived(_in_order(merged), list(experiment.seeds), models)


def _apply(stages: Mapping[str, Table], arm: str, changes: Arm) -> dict[str, Table]:
    raw = {"stages": copy.deepcopy(dict(stages))}
    for key, value in changes.set.items():
        if key in (SEEDS, CLUSTER) or key.startswith(f"{CLUSTER}."):
            raise ConfigError(f"{TABLE}.arms.{arm}.set: {key} says nothing of the data; expected the settings of a stage, ID.key")
        try:
            apply_override(raw, f"{key}={toml_value(value)}")
        except ConfigError as error:
            raise ConfigError(f"{TABLE}.arms.{arm}.set: {str(error).removeprefix('--set ')}") from error
    return raw["stages"]


def _check_only_data_differs(stages: Mapping[str, Table], changed: Mapping[str, Table], base: str, arm: str) -> None:
    before, after = _apart_from_data(stages[base]), _apart_from_data(changed[base])
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            raise ConfigError(
                f"{TABLE}.arms.{arm}: changes {key} of {base}. The arms differ only in what they are made of: of the model's own entry an "
                f"arm can set inputs.tokens, {', '.join(DATA_SETTINGS)}; what all arms shall have stands in [stages.{base}]"
            )
    common = _describe(stages, stages[base]["inputs"]["tokenizer"])
    readers = [name for name in (*keep_upstream({"stages": changed}, base), base) if "tokenizer" in changed[name].get("inputs", {})]
    for name in readers:
        if _describe(changed, changed[name]["inputs"]["tokenizer"]) != common:
            raise ConfigError(
                f"{TABLE}.arms.{arm}: {name} would read another tokenizer than {base} of the recipe does, so a token would not be the same "
                "in all arms. Train the tokenizer on documents that no arm changes: an input of its own, as a `mix` of what all begin with"
            )


def _apart_from_data(table: Table) -> dict[str, Any]:
    inputs = {f"inputs.{key}": value for key, value in table.get("inputs", {}).items() if key != "tokens"}
    config = {key: value for key, value in table.get("config", {}).items() if key not in DATA_SETTINGS}
    return {**inputs, **config, **{key: value for key, value in table.items() if key not in ("inputs", "config")}}


def _describe(stages: Mapping[str, Table], source: str) -> str:
    """A stage with all that it is made of, as one text: equal texts make equal artifacts."""

    def whole(source: str, above: tuple[str, ...]) -> Any:
        if source in above:
            raise ConfigError(f"a circle of inputs: {' <- '.join([*above, source])}")
        if source not in stages:
            return source
        table = stages[source]
        inputs = {slot: [whole(one, (*above, source)) for one in _listed(sources)] for slot, sources in table.get("inputs", {}).items()}
        return {**{key: value for key, value in table.items() if key != "launch"}, "inputs": inputs}

    return json.dumps(whole(source, ()), sort_keys=True)


def _rename(stages: Mapping[str, Table], changed: Mapping[str, Table], base: str, arm: str, known: dict[str, str]) -> dict[str, Table]:
    """An arm's entries: those that it changes under names of its own (or of an earlier arm that has the same), the model's always."""
    names: dict[str, str] = {}
    tables = {**keep_upstream({"stages": changed}, base), base: changed[base]}
    for name in tables:
        whole = _describe(changed, name)
        same = name in stages and whole == _describe(stages, name)
        names[name] = f"{name}_{arm}" if name == base else name if same else known.setdefault(whole, f"{name}_{arm}")
    return {
        names[name]: {**copy.deepcopy(table), "inputs": _map_inputs(table, lambda source: names.get(source, source))}
        for name, table in tables.items()
    }


def _hold_out(merged: Mapping[str, Table], held: Sequence[str], words: int, *, trained: Sequence[str]) -> dict[str, Table]:
    """The entries with `decontaminate` before all that is tokenized, or that a tokenizer is trained on."""
    found = {name: copy.deepcopy(table) for name, table in merged.items()}
    ours = [name for model in trained for name in keep_upstream({"stages": merged}, model)]

    def guard(reader: str) -> None:
        sources = _listed(found[reader]["inputs"].get("documents", []))
        found[reader]["inputs"]["documents"] = [kept(source, f"{reader}_{i}") for i, source in enumerate(sources)]

    def kept(source: str, file_name: str) -> str:
        if source in found and found[source].get("stage") == "mix":
            if not any(one.startswith(f"{KEPT}_") for one in _listed(found[source]["inputs"]["documents"])):
                guard(source)
            return source
        name = f"{KEPT}_{source if source in found else file_name}"
        inputs = {"documents": source, "held_out": list(held)}
        found.setdefault(name, {"stage": "decontaminate", "inputs": inputs, "config": {"ngram_words": words}})
        return name

    for name in dict.fromkeys(ours):
        if found[name].get("stage") in READERS:
            guard(name)
    return found


def _measuring(experiment: Experiment, merged: Mapping[str, Table]) -> dict[str, Table]:
    base, arms = experiment.model, list(experiment.arms)
    trained = [f"{base}_{arm}" for arm in arms]
    scores = evaluate_table(trained, tasks=experiment.tasks, data=experiment.data, limit=experiment.limit)
    names = [f"{arm} {seed}" for arm in arms for seed in experiment.seeds]
    sources = [(name, source) for name, some in experiment.held.items() for source in some]
    scores["inputs"]["corpus"] = [source for _, source in sources]
    scores["config"] |= {
        "names": names,
        "baseline": f"{experiment.baseline} {experiment.seeds[0]}",
        "corpus_names": [name for name, _ in sources],
        "max_validation_tokens": experiment.held_out_tokens,
        "max_document_tokens": experiment.held_out_document_tokens,
        "num_shots": experiment.num_shots,
    }
    kept = [name for name in merged if name.startswith(f"{KEPT}_")]
    of_arm = {arm: _find_kept(merged, f"{base}_{arm}") for arm in arms}
    config = {
        "question": experiment.question,
        "arms": arms,
        "seeds": list(experiment.seeds),
        "baseline": experiment.baseline,
        "changes": {arm: [f"{key} = {toml_value(value)}" for key, value in one.set.items()] for arm, one in experiment.arms.items()},
        "kept_of": {arm: [kept.index(name) for name in names] for arm, names in of_arm.items()},
        "tokenizer": ", ".join(_tokenizer_documents(merged, trained[0])),
        "predictions": {key: one.model_dump() for key, one in experiment.predictions.items()},
    }
    report: Table = {"stage": "ablation", "inputs": {"scores": SCORES, "models": trained, "kept": kept}, "config": config}
    return {SCORES: scores, REPORT: report}


def _tokenizer_documents(merged: Mapping[str, Table], model: str) -> list[str]:
    tokenizer = merged[model]["inputs"]["tokenizer"]
    documents = _listed(merged[tokenizer]["inputs"].get("documents", [])) if tokenizer in merged else [tokenizer]
    return [name.removeprefix(f"{KEPT}_") for name in documents]


def _find_kept(merged: Mapping[str, Table], model: str) -> list[str]:
    """What passed of the documents that an arm trains on."""
    above = keep_upstream({"stages": merged}, model)
    waiting = [name for name, table in above.items() if table["stage"] == "tokenize"]
    found: dict[str, None] = {}
    while waiting:
        for source in _listed(merged[waiting.pop()]["inputs"]["documents"]):
            if source.startswith(f"{KEPT}_"):
                found[source] = None
            elif source in merged:
                waiting.append(source)
    return list(found)


def _map_inputs(table: Table, change: Callable[[str], str]) -> dict[str, Any]:
    return {
        slot: change(sources) if isinstance(sources, str) else [change(source) for source in sources]
        for slot, sources in table.get("inputs", {}).items()
    }


def _listed(sources: str | Sequence[str]) -> list[str]:
    return [sources] if isinstance(sources, str) else list(sources)


def _in_order(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Each entry after those that it is made of: so the recipe that is written reads from top to bottom."""
    ordered: dict[str, Table] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for sources in tables[name].get("inputs", {}).values():
                for source in _listed(sources):
                    if source in tables:
                        add(source)
            ordered[name] = tables[name]

    for name in tables:
        add(name)
    return ordered
