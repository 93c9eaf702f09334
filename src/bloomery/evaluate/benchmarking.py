"""All benchmarks that were asked for, of one model after another, each kept as soon as it is done."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: JSON records

from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json, write_json
from bloomery.evaluate import contamination, corpus
from bloomery.evaluate.asking import arrange
from bloomery.evaluate.benchmark import Benchmark
from bloomery.evaluate.packed import TooLong
from bloomery.evaluate.rows import MissingRows, Rows, read_rows
from bloomery.evaluate.run import run_benchmark
from bloomery.evaluate.scores import summarise
from bloomery.evaluate.tasks.catalog import catalog, choose
from bloomery.evaluate.tasks.core_tasks import CORE_TASKS, Baselines, core_score
from bloomery.evaluate.tasks.probes import TOXICITY, Toxicity, with_toxicity
from bloomery.generate.engine import Engine
from bloomery.tokens.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Record = dict[str, Any]
MARKS = ("<|user|>", "<|assistant|>")


class Prepared(NamedTuple):
    """What will be asked: benchmarks with their rows, documents to score, and why others are left out."""

    benchmarks: dict[str, tuple[Benchmark, Rows]]
    documents: list[corpus.Chosen]
    skipped: dict[str, str]


def prepare(
    names: Sequence[str], folders: Sequence[Path], *, documents: Sequence[corpus.Chosen], toxicity: Toxicity | None, chat: bool
) -> Prepared:
    """Reads all rows before any model is loaded. With `chat` a benchmark is taken in its chat version where it has one.

    A benchmark that was asked for by its own name must have its file; of a collection those without are left out.
    Raises ConfigError for an unknown name, DataError for a row that is malformed.
    """
    known = catalog()
    found: dict[str, tuple[Benchmark, Rows]] = {}
    skipped: dict[str, str] = {}
    for benchmark in choose([name for name in names if name != corpus.NAME]):
        chosen = known.get(f"{benchmark.name}_chat", benchmark) if chat else benchmark
        if chosen.name == TOXICITY:
            if toxicity is None:
                skipped[chosen.name] = "neither a list of words nor a classifier was given: --lists FILE, --scorer FOLDER"
                continue
            chosen = dataclasses.replace(chosen, generation=with_toxicity(chosen, toxicity))
        try:
            found[chosen.name] = chosen, read_rows(chosen, folders)
            if chosen.generation is not None and chosen.generation.check is not None:
                chosen.generation.check()
        except (MissingRows, ConfigError) as error:
            found.pop(chosen.name, None)
            if benchmark.name in names:
                raise
            skipped[chosen.name] = str(error).removeprefix(f"{chosen.name}: ")
    if corpus.NAME in names and not documents:
        raise ConfigError(f"{corpus.NAME}: there are no documents to score; name some with --corpus PATH")
    return Prepared(found, list(documents), skipped)


def count_examples(prepared: Prepared, *, limit: int) -> int:
    """How many examples a model is asked, documents among them."""
    sizes = [len(rows.examples) for _, rows in prepared.benchmarks.values()]
    return sum(min(size, limit) if limit else size for size in sizes) + len(prepared.documents)


def ask_model(
    prepared: Prepared,
    load: Callable[[], tuple[Engine, Tokenizer]],
    scratch: Path,
    *,
    limit: int,
    num_shots: int | None,
    context_tokens: int,
    seed: int,
    advance: Callable[[int, str], None],
) -> dict[str, Record]:
    """The record of each benchmark, of one model; those whose file lies in `scratch` are not asked again.

    The model is loaded when the first is asked. What it cannot be asked stands as {"skipped": why}.
    """
    loaded: list[tuple[Engine, Tokenizer]] = []

    def model() -> tuple[Engine, Tokenizer]:
        if not loaded:
            loaded.append(load())
        return loaded[0]

    records: dict[str, Record] = {}
    for name, (benchmark, rows) in prepared.benchmarks.items():
        size = min(len(rows.examples), limit) if limit else len(rows.examples)
        path = scratch / f"{name}.json"
        if path.exists():
            advance(size, name)
        else:
            engine, tokenizer = model()
            if benchmark.chat and any(mark not in tokenizer.special_ids for mark in MARKS):
                write_json(path, {"skipped": f"the tokenizer has no {MARKS[0]}: this model knows no conversations"})
                advance(size, name)
            else:
                shots = None if benchmark.chat else num_shots
                step = _stepper(advance, name)
                try:
                    record = run_benchmark(engine, tokenizer, benchmark, rows, limit=limit, num_shots=shots, seed=seed, advance=step)
                except TooLong as error:
                    record = {"skipped": str(error)}
                write_json(path, record)
        records[name] = read_json(path)
    if prepared.documents:
        path = scratch / f"{corpus.NAME}.json"
        if path.exists():
            advance(len(prepared.documents), corpus.NAME)
        else:
            step = _stepper(advance, corpus.NAME)
            write_json(path, corpus.score_corpus(*model(), prepared.documents, context_tokens=context_tokens, advance=step))
        records[corpus.NAME] = read_json(path)
    return records


def mark_contaminated(
    records: Mapping[str, Mapping[str, Record]], prepared: Prepared, shared: Mapping[str, set[contamination.Place]]
) -> None:
    """Marks the samples of all models whose rows training documents share."""
    for of_model in records.values():
        for name, record in of_model.items():
            if name in prepared.benchmarks and "samples" in record:
                contamination.mark(record["samples"], shared[name])


def asked_rows(prepared: Prepared, *, limit: int) -> dict[str, list[Any]]:
    """The rows of each benchmark that are asked."""
    return {
        name: [one.located for one in arrange(benchmark, rows, limit=limit, num_shots=0)]
        for name, (benchmark, rows) in prepared.benchmarks.items()
    }


def summarise_all(records: Mapping[str, Mapping[str, Record]], *, seed: int, baselines: Baselines) -> Record:
    """For scores.json: the scores of each model by benchmark, and CORE where one of its tasks was asked."""
    tasks: dict[str, dict[str, Record]] = {}
    for model, of_model in records.items():
        tasks[model] = {}
        for name, record in of_model.items():
            if "skipped" in record:
                tasks[model][name] = record
            else:
                tasks[model][name] = (
                    corpus.measure_corpus(record, seed=seed) if record["kind"] == "corpus" else summarise(record, seed=seed)
                )
    out: Record = {"tasks": tasks}
    core_names = {fields[0] for fields in CORE_TASKS}
    if any(name in core_names for of_model in tasks.values() for name in of_model):
        out["core"] = {
            model: {
                "nanochat": core_score(scores, baselines=baselines, metric="nanochat"),
                "dclm": core_score(scores, baselines=baselines, metric="dclm"),
            }
            for model, scores in tasks.items()
        }
    return out


def _stepper(advance: Callable[[int, str], None], name: str) -> Callable[[int], None]:
    def step(count: int) -> None:
        advance(count, name)

    return step
