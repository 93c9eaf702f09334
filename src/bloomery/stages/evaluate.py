"""Stage evaluate: several models side by side on held-out skill prompts and held-out documents, with 95 % intervals.

Writes `scores.json` (every metric of every model, over all prompts and by skill, win rates against a baseline) and
`samples.parquet` (what each model answered to each prompt). One model is the unit of resume.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: JSON records

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from bloomery.core.config import Config, suggest
from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json, write_atomically, write_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.evaluate.metrics import Interval
from bloomery.evaluate.scoring import DocumentBits, document_bits
from bloomery.evaluate.suite import AskConfig, Record, answer_task, compare
from bloomery.evaluate.task import PromptFormat, Task
from bloomery.evaluate.tasks.skills import skills_task
from bloomery.generate.engine import Engine
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
    context_tokens: PositiveInt = 512
    """Longer documents are scored in pieces of this length, or of the model's own context if that is shorter."""
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _check_names(self) -> "EvaluateConfig":
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names = {self.names} has a name twice")
        if len(self.names) > 1 and self.baseline not in self.names:
            raise ValueError(f'baseline = "{self.baseline}" is not among the names; {suggest(self.baseline, self.names)}')
        return self


def evaluate(
    config: EvaluateConfig, *, models: Sequence[Path], tokens: Path | None = None, prompts: Sequence[Path], out: Path, runtime: Runtime
) -> Mapping[str, Any]:
    """Writes scores.json and samples.parquet, and returns the values of the main metrics as `<model>/<metric>`."""
    names = _model_names(config, len(models))
    task = skills_task(prompts, num_prompts=config.num_prompts, seed=config.seed)
    answers: dict[str, Record] = {}
    with runtime.progress(len(models), "models") as bar:
        for i, (name, path) in enumerate(zip(names, models, strict=True)):
            scratch = out / ".scratch" / f"model-{i:03d}.json"
            if not scratch.exists():
                write_json(scratch, _evaluate_model(config, path, task, tokens, device=_device(runtime)))
            answers[name] = read_json(scratch)
            bar.advance(note=name)
    scores = compare(answers, baseline=config.baseline, seed=config.seed)
    for name, answer in answers.items():
        if answer["bits"]:
            scores["metrics"][name]["bits_per_byte"] = _bits_per_byte(answer, config.seed).record()
    _write_samples(out / "samples.parquet", answers)
    write_json(out / "scores.json", scores)
    values = {f"{name}/{metric}": score["value"] for name, measured in scores["metrics"].items() for metric, score in measured.items()}
    return {"num_prompts": scores["num_prompts"], **values}


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
        "prompts": Slot("conversations", many=True),
    },
    output="scores",
    version=1,
)
