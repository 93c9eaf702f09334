"""Stage evaluate: models on benchmarks, and side by side on held-out prompts and documents, with 95 % intervals.

Two halves, either or both. `tasks` asks benchmarks (evaluate/tasks/catalog.py) of the rows under the input `data`;
`prompts` compares the models' answers to held-out prompts with each other. Writes `scores.json`, `evaluation.html` (the same
as a page), and what each model answered: `samples.parquet` of prompts, `task_samples.parquet` of benchmarks. A model is the
unit of resume of the second half, a benchmark of a model that of the first.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal  # Any: JSON records

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from bloomery.core.config import Config, suggest
from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json, write_atomically, write_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.evaluate import benchmarking, corpus
from bloomery.evaluate.contamination import find_shared_rows
from bloomery.evaluate.metrics import Interval
from bloomery.evaluate.page import write_evaluation_page
from bloomery.evaluate.scoring import DocumentBits, document_bits
from bloomery.evaluate.suite import AskConfig, Record, answer_task, compare
from bloomery.evaluate.task import PromptFormat, Task
from bloomery.evaluate.tasks.catalog import choose
from bloomery.evaluate.tasks.skills import skills_task
from bloomery.evaluate.toxicity import make_toxicity
from bloomery.evaluate.tradeoffs import make_table, training_cost
from bloomery.generate.engine import Engine
from bloomery.model.architectures import read_config
from bloomery.model.config import count_params
from bloomery.model.huggingface import load_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.shards import open_tokens
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger(__name__)

SAMPLE_COLUMNS = pa.schema(
    [
        ("model", pa.string()),
        ("skill", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("completion", pa.string()),
        ("correct", pa.bool_()),
        ("well_formed", pa.bool_()),
        ("stopped", pa.bool_()),
    ]
)

TASK_SAMPLE_COLUMNS = pa.schema(
    [
        ("model", pa.string()),
        ("task", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("group", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),
        ("prediction", pa.string()),
        ("completions", pa.list_(pa.string())),
        ("logps", pa.list_(pa.float64())),
        ("values", pa.string()),
        ("contaminated", pa.bool_()),
    ]
)
"""`values` is JSON: what the example adds to each of the task's figures; `logps` are those of the choices."""


class EvaluateConfig(Config):
    """Which models are compared, on how much."""

    names: list[str] = Field(default=[])
    """One for each model, in the order of the inputs; empty: model-1, model-2, ..."""
    baseline: str = "sft"
    """The model that win rates are against; of no meaning for a single model."""
    num_prompts: NonNegativeInt = 400
    """0 = every held-out prompt."""
    max_tokens: PositiveInt = 32
    num_samples: NonNegativeInt = 2
    """Answers at temperature 1 for each prompt, for entropy, distinct-2 and sampled win rates; 0 = none of these."""
    formats: list[PromptFormat] = Field(default=["chat", "plain"], min_length=1)
    """Every model is asked in each and measured in its better one: a base model knows no chat template."""
    max_validation_tokens: NonNegativeInt = 200_000
    """Held-out documents, spread evenly, with at most so many tokens; 0 = all."""
    corpus_names: list[str] = Field(default=[])
    """One for each input of `corpus`: the source that its documents count as, with an equal part of the tokens. Empty: each document
    says its own source."""
    max_document_tokens: NonNegativeInt = 0
    """Of a longer document of `corpus` only the beginning is scored, so that some books do not stand for all; 0 = all of it."""
    context_tokens: PositiveInt = 512
    """Longer documents are scored in pieces of this length, or of the model's own context if that is shorter."""
    tasks: list[str] = Field(default=[])
    """Benchmarks and collections of them (core, all, ...); `bloomery evaluate --list` shows them."""
    limit: NonNegativeInt = 0
    """Rows of each benchmark, the same random ones for every model; 0 = all."""
    num_shots: int = Field(default=-1, ge=-1)
    """Examples shown before each row; -1 = each benchmark's own number."""
    chat: bool = False
    """Ask benchmarks through the chat template where they have such a version."""
    core_baselines: Literal["v2", "v1"] = "v2"
    """Which of DCLM's two tables of chance levels centres CORE."""
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _check_names(self) -> "EvaluateConfig":
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names = {self.names} has a name twice")
        if len(self.names) > 1 and self.baseline not in self.names:
            raise ValueError(f'baseline = "{self.baseline}" is not among the names; {suggest(self.baseline, self.names)}')
        try:
            choose([name for name in self.tasks if name != corpus.NAME])
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self


def evaluate(
    config: EvaluateConfig,
    *,
    models: Sequence[Path],
    tokens: Path | None = None,
    prompts: Sequence[Path] = (),
    data: Sequence[Path] = (),
    corpus: Sequence[Path] = (),
    documents: Sequence[Path] = (),
    lists: Sequence[Path] = (),
    scorers: Sequence[Path] = (),
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Writes scores, samples and the page, and returns the values of the main metrics as `<model>/<metric>` or `<model>/<task>`.

    `data` are folders of benchmarks' rows; `corpus` documents for bits per byte by source (of a mix: its validation side);
    `documents` those that the models were trained on, for contamination; `lists` and `scorers` (files of bad words,
    classifiers) measure toxicity.
    Raises ConfigError if there is nothing to evaluate on.
    """
    names = _model_names(config, len(models))
    if not prompts and not config.tasks and not corpus:
        raise ConfigError("evaluate: nothing to evaluate on: give tasks (and data), prompts, or a corpus")
    scores: Record = {"models": names, "baseline": config.baseline, "num_prompts": 0, "metrics": {name: {} for name in names}}
    answers = _compare_models(config, dict(zip(names, models, strict=True)), tokens, prompts, out, runtime) if prompts else {}
    if answers:
        scores |= compare(answers, baseline=config.baseline, seed=config.seed)
        for name, answer in answers.items():
            if answer["bits"]:
                scores["metrics"][name]["bits_per_byte"] = _bits_per_byte(answer, config.seed).record()
        _write_samples(out / "samples.parquet", answers)
    if config.tasks or corpus:
        paths = dict(zip(names, models, strict=True))
        records, skipped = _ask_benchmarks(config, paths, data, corpus, documents, lists, scorers, out, runtime)
        scores |= benchmarking.summarise_all(records, seed=config.seed, baselines=config.core_baselines)
        scores |= {"skipped": skipped, "limit": config.limit}
        _write_task_samples(out / "task_samples.parquet", records)
    if len(models) > 1:
        costs = {name: training_cost(path, _num_params(path)) for name, path in zip(names, models, strict=True)}
        scores["tradeoffs"] = make_table(names, scores, costs)
    write_json(out / "scores.json", scores)
    write_evaluation_page(out)
    values = {f"{name}/{metric}": score["value"] for name, measured in scores["metrics"].items() for metric, score in measured.items()}
    for name, of_model in scores.get("tasks", {}).items():
        values |= {f"{name}/{task}": score["metrics"][score["metric"]]["value"] for task, score in of_model.items() if "metrics" in score}
    return {"num_prompts": scores["num_prompts"], **values}


def _compare_models(
    config: EvaluateConfig, models: Mapping[str, Path], tokens: Path | None, prompts: Sequence[Path], out: Path, runtime: Runtime
) -> dict[str, Record]:
    task = skills_task(prompts, num_prompts=config.num_prompts, seed=config.seed)
    answers: dict[str, Record] = {}
    with runtime.progress(len(models), "models") as bar:
        for i, (name, path) in enumerate(models.items()):
            scratch = out / ".scratch" / f"model-{i:03d}.json"
            if not scratch.exists():
                write_json(scratch, _evaluate_model(config, path, task, tokens, device=_device(runtime)))
            answers[name] = read_json(scratch)
            bar.advance(note=name)
    return answers


def _ask_benchmarks(
    config: EvaluateConfig,
    models: Mapping[str, Path],
    data: Sequence[Path],
    corpus_paths: Sequence[Path],
    documents: Sequence[Path],
    lists: Sequence[Path],
    scorers: Sequence[Path],
    out: Path,
    runtime: Runtime,
) -> tuple[dict[str, dict[str, Record]], dict[str, str]]:
    if config.corpus_names and len(config.corpus_names) != len(corpus_paths):
        found = f"names {len(config.corpus_names)} sources, but {len(corpus_paths)} inputs are connected to `corpus`"
        raise ConfigError(f"evaluate: corpus_names = {config.corpus_names} {found}")
    how = {"max_tokens": config.max_validation_tokens, "max_document_tokens": config.max_document_tokens}
    texts = corpus.choose_texts(corpus_paths, names=config.corpus_names, **how) if corpus_paths else []
    toxicity = make_toxicity(lists, scorers) if lists or scorers else None
    prepared = benchmarking.prepare(config.tasks, data, documents=texts, toxicity=toxicity, chat=config.chat)
    if prepared.skipped:
        log.warning("left out: %s (why: at the end, and in scores.json)", ", ".join(prepared.skipped))
    records: dict[str, dict[str, Record]] = {}
    with runtime.progress(benchmarking.count_examples(prepared, limit=config.limit) * len(models), "examples") as bar:
        for i, (name, path) in enumerate(models.items()):

            def load(path: Path = path) -> tuple[Engine, Tokenizer]:
                tokenizer = load_tokenizer(path)
                return Engine(load_model(path, device=_device(runtime)).eval(), tokenizer), tokenizer

            def advance(count: int, task: str, name: str = name) -> None:
                bar.advance(count, note=f"{name}: {task}")

            records[name] = benchmarking.ask_model(
                prepared,
                load,
                out / ".scratch" / f"tasks-{i:03d}",
                limit=config.limit,
                num_shots=None if config.num_shots < 0 else config.num_shots,
                context_tokens=config.context_tokens,
                seed=config.seed,
                advance=advance,
            )
    if documents:
        rows = benchmarking.asked_rows(prepared, limit=config.limit)
        shared = find_shared_rows(rows, documents, index_path=out / ".scratch" / "rows.npz", pool=runtime.pool())
        benchmarking.mark_contaminated(records, prepared, shared)
    return records, prepared.skipped


def _evaluate_model(config: EvaluateConfig, path: Path, task: Task, tokens: Path | None, *, device: str) -> Record:
    model = load_model(path, device=device)
    model.eval()
    tokenizer = load_tokenizer(path)
    ask = AskConfig(formats=config.formats, max_tokens=config.max_tokens, num_samples=config.num_samples, seed=config.seed)
    answer = answer_task(Engine(model, tokenizer), tokenizer, task, ask)
    scored = _score_documents(config, model, tokenizer, tokens, device=device) if tokens else DocumentBits([], [])
    return {**answer, "bits": scored.bits, "num_bytes": scored.num_bytes}


def _score_documents(config: EvaluateConfig, model: Transformer, tokenizer: Tokenizer, folder: Path, *, device: str) -> DocumentBits:
    tokens = open_tokens(folder, split="validation", tokenizer_sha256=tokenizer.sha256)
    if not tokens.num_documents:
        log.warning("%s has no validation documents: bits per byte is left out", folder)
        return DocumentBits([], [])
    context_tokens = min(config.context_tokens, model.config.max_positions)
    return document_bits(
        model, tokens, tokenizer.token_bytes(), context_tokens=context_tokens, max_tokens=config.max_validation_tokens, device=device
    )


def _model_names(config: EvaluateConfig, num_models: int) -> list[str]:
    names = config.names or [f"model-{i + 1}" for i in range(num_models)]
    if len(names) != num_models:
        raise ConfigError(f"evaluate: names = {names} names {len(names)} models, but {num_models} are connected to the input `models`")
    if num_models > 1 and config.baseline not in names:
        raise ConfigError(f'evaluate: baseline = "{config.baseline}" is not among the names; {suggest(config.baseline, names)}')
    return names


def _bits_per_byte(answer: Record, seed: int) -> Interval:
    return DocumentBits(answer["bits"], answer["num_bytes"]).interval(seed=seed)


def _device(runtime: Runtime) -> str:
    if runtime.device != "auto":
        return runtime.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _num_params(folder: Path) -> int:
    return count_params(read_config(folder))


def _write_task_samples(path: Path, records: Mapping[str, Mapping[str, Record]]) -> None:
    rows = [
        {**sample, "model": name, "task": task, "values": json.dumps(sample["values"], sort_keys=True)}
        for name, of_model in records.items()
        for task, record in of_model.items()
        for sample in record.get("samples", ())
    ]
    plain = [{column: row.get(column) for column in TASK_SAMPLE_COLUMNS.names} for row in rows]
    with write_atomically(path) as temporary:
        pq.write_table(pa.Table.from_pylist(plain, schema=TASK_SAMPLE_COLUMNS), temporary, compression="zstd")


def _write_samples(path: Path, answers: Mapping[str, Record]) -> None:
    rows = [{**row, "model": name} for name, answer in answers.items() for row in answer["rows"]]
    table = pa.Table.from_pylist([{column: row[column] for column in SAMPLE_COLUMNS.names} for row in rows], schema=SAMPLE_COLUMNS)
    with write_atomically(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


STAGE = Stage(
    name="evaluate",
    config_type=EvaluateConfig,
    run=evaluate,
    inputs={
        "models": Slot("checkpoint", many=True),
        "tokens": Slot("tokens", optional=True),
        "prompts": Slot("conversations", many=True, optional=True),
        "data": Slot("conversations", many=True, optional=True),
        "corpus": Slot("documents", many=True, optional=True),
        "documents": Slot("documents", many=True, optional=True),
        "lists": Slot("lists", many=True, optional=True),
        "scorers": Slot("scorer", many=True, optional=True),
    },
    output="scores",
    version=4,
)
