"""synthesize_documents: documents that a model writes, about given topics or after given documents (phi, Cosmopedia).

seeds x styles x audiences -> one request each -> answers, kept on disk as they come -> rules, and nothing that repeats a
seed document or another answer (curate/synthesize.py) -> documents with their provenance, a ledger, a report of how diverse they are.

The model is a checkpoint (input `model`), or one behind an OpenAI-compatible endpoint (`launch.endpoint`, and its name in the
config). A run that is killed asks again only for what was in flight.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: a row of JSON

import pyarrow as pa
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from bloomery.chat.voice import load_voice
from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.config import Config, suggest
from bloomery.core.documents import list_document_files, read_document_batches, shard_name, write_documents
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import sha256_file, write_json, write_text
from bloomery.core.stage import Launch, Runtime, Slot, Stage
from bloomery.curate.diversity import Coverage, Sample, describe, measure_texts, mentions_subject, nearest_similarities
from bloomery.curate.flow import text_bytes
from bloomery.curate.ledger import FOLDER, ledger_row, ledger_table, write_ledger
from bloomery.curate.rules import RULE_SETS, Rule, choose_rules
from bloomery.curate.synthesize import (
    STAGE_NAME,
    Assignment,
    Judge,
    Seed,
    Written,
    assign,
    extract_seed,
    generated_rules,
    synthetic_id,
    topic_seed,
    written_table,
)
from bloomery.curate.synthetic_prompts import AUDIENCES, STYLES
from bloomery.curate.synthetic_report import draw_report
from bloomery.generate.answer_store import AnswerStore, request_key
from bloomery.generate.answers import Answer, Answerer, LocalAnswerer, keep_answers
from bloomery.generate.engine import Engine
from bloomery.generate.remote_engine import RemoteEngine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.huggingface import load_model
from bloomery.tokens.tokenizer import load_tokenizer

log = logging.getLogger(__name__)

SHARD_REQUESTS = 4096
"""Requests whose answers are asked for, judged and written together."""


class SynthesizeDocumentsConfig(Config):
    """What is asked for, how, and what is good enough."""

    model: str = ""
    """The model's name at the endpoint of `launch`; leave it empty for the input `model`."""
    topics: list[str] = Field(default=[])
    """Subjects to write about, beside the documents of the input `seeds`."""
    styles: list[str] = Field(default=list(STYLES), min_length=1)
    audiences: list[str] = Field(default=list(AUDIENCES), min_length=1)
    extra_styles: dict[str, str] = Field(default={})
    """Styles of your own, by name, which `styles` may then list: { sermon = "Write a sermon about {subject}." }."""
    extra_audiences: dict[str, str] = Field(default={})
    num_documents: PositiveInt = 1000
    """Requests. Seeds take turns; beyond seeds x styles x audiences each is asked for again and drawn anew."""
    extract_characters: PositiveInt = 1000
    """As much of a seed document as the model is shown."""
    temperature: float = Field(default=0.8, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: PositiveInt = 1024
    cut: str = Field(default="trim", pattern="^(trim|keep|drop)$")
    """An answer that reached max_tokens: ends with its last whole sentence, stays as it is, or goes."""
    rules: list[str] = Field(default=["gopher"])
    """Rule sets of `filter` (docs/rules.md), beside those of this stage; [] for none."""
    thresholds: dict[str, float] = Field(default={})
    """Other thresholds for single rules, by their names."""
    languages: list[str] = Field(default=["en"])
    """For the rule set "language"."""
    max_copied_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of an answer's runs of 8 words that may stand in its prompt."""
    max_similarity: float = Field(default=0.5, gt=0, le=1)
    """Estimated Jaccard similarity of 5-grams above which an answer repeats a seed document, or an answer before it."""
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _names_are_known(self) -> "SynthesizeDocumentsConfig":
        for names, known in ((self.styles, self.all_styles), (self.audiences, self.all_audiences)):
            for name in names:
                if name not in known:
                    raise ValueError(f'nothing is named "{name}"; {suggest(name, known)}')
        for name, text in self.extra_styles.items():
            if "{subject}" not in text:
                raise ValueError(f"extra_styles.{name}: it needs {{subject}} where the topic goes")
        try:
            self.chosen_rules  # noqa: B018  (raises for a threshold without its rule)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @field_validator("rules")
    @classmethod
    def _sets_are_known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in RULE_SETS:
                raise ValueError(f'no rule set is named "{name}"; {suggest(name, RULE_SETS)}')
        return names

    @property
    def all_styles(self) -> dict[str, str]:
        """Ready styles and the config's own."""
        return {**STYLES, **self.extra_styles}

    @property
    def all_audiences(self) -> dict[str, str]:
        """Ready audiences and the config's own."""
        return {**AUDIENCES, **self.extra_audiences}

    @property
    def chosen_rules(self) -> list[Rule]:
        """All rules in the order in which they are tried."""
        own = generated_rules(max_copied_fraction=self.max_copied_fraction, drop_cut=self.cut == "drop")
        ready = [rule for name in self.rules for rule in RULE_SETS[name]]
        return choose_rules([], thresholds=self.thresholds, extra=[*own, *dict.fromkeys(ready)])

    @property
    def params(self) -> SamplingParams:
        """How answers are drawn."""
        return SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p)


class Sources(NamedTuple):
    """What is written about, and the documents that may not be repeated: in the judge, and as a sample to compare with."""

    seeds: list[Seed]
    judge: Judge
    sample: Sample


def synthesize_documents(
    config: SynthesizeDocumentsConfig, *, model: Path | None = None, seeds: Sequence[Path] = (), out: Path, runtime: Runtime
) -> Mapping[str, Any]:
    """Fills `out` with documents, a ledger, report.json and report.svg. `seeds` are documents to write after.

    The model is the checkpoint `model`, or `config.model` at the endpoint of `launch`. Raises ConfigError for both or
    neither, and DataError if it refuses every request.
    """
    endpoint = runtime.launch.endpoint
    if (model is None) == (endpoint is None):
        found = "neither" if model is None else "both"
        raise ConfigError(f"{STAGE_NAME}: give the input `model` (a checkpoint) or launch.endpoint (an address); found {found}")
    name = config.model if model is None else name_checkpoint(model)
    sources = read_sources(config, seeds)
    numbers = range(config.num_documents)
    parts = [numbers[i : i + SHARD_REQUESTS] for i in range(0, len(numbers), SHARD_REQUESTS)]
    with AnswerStore(out / ".scratch" / "answers.jsonl") as store:
        ask_all(
            config, parts, sources.seeds, name=name, open_model=lambda: _open_answerer(name, model, runtime), store=store, runtime=runtime
        )
        return write_all(config, parts, sources, name=name, store=store, out=out)


def read_sources(config: SynthesizeDocumentsConfig, seeds: Sequence[Path]) -> Sources:
    """Topics, then extracts of so many documents as there are requests, the first by a hash of their ids."""
    judge = Judge(config.chosen_rules, languages=config.languages, max_similarity=config.max_similarity)
    sample = Sample()
    chosen: list[tuple[bytes, Seed]] = []
    for batch in (batch for path in _training_files(seeds) for batch in read_document_batches(path)):
        judge.add_seeds(batch)
        ids, texts = batch.column("id").to_pylist(), [text or "" for text in batch.column("text").to_pylist()]
        sample.add(ids, texts)
        for row in batch.select(["id", "text", "source"]).to_pylist():
            if (row["text"] or "").strip():
                rank = hashlib.blake2b(f"{config.seed}/{row['id']}".encode(), digest_size=16).digest()
                chosen.append((rank, extract_seed(row, characters=config.extract_characters)))
        chosen = sorted(chosen)[: config.num_documents]
    found = [*map(topic_seed, config.topics), *(seed for _, seed in chosen)]
    if not found:
        raise ConfigError(f"{STAGE_NAME}: nothing to write about: give `topics`, or documents with text as the input `seeds`")
    return Sources(found, judge, sample)


def ask_all(
    config: SynthesizeDocumentsConfig,
    parts: Sequence[range],
    seeds: Sequence[Seed],
    *,
    name: str,
    open_model: Callable[[], Answerer],
    store: AnswerStore,
    runtime: Runtime,
) -> None:
    """Asks for every answer that the store has not got; the model is opened only if there is one."""
    answerer: Answerer | None = None
    with runtime.progress(sum(map(len, parts)), "answers") as bar:
        for part in parts:
            asked = list(_assign(config, part, seeds))
            keys = [_key(config, name, assignment) for assignment in asked]
            missing = [i for i, key in enumerate(keys) if store.get(key) is None]
            bar.advance(len(part) - len(missing))
            if not missing:
                continue
            answerer = answerer or open_model()
            for _ in keep_answers(
                answerer,
                [[{"role": "user", "content": asked[i].prompt}] for i in missing],
                config.params,
                seeds=[asked[i].draw for i in missing],
                store=store,
                keys=[keys[i] for i in missing],
            ):
                bar.advance()
    if isinstance(answerer, RemoteEngine):
        spent = answerer.spent
        runtime.metrics.write({"synthesize/requests": spent.requests, "synthesize/retries": spent.retries, "synthesize/cost": spent.cost})
        log.info("%d requests, %d of them again; cost %.2f", spent.requests, spent.retries, spent.cost)


def write_all(
    config: SynthesizeDocumentsConfig, parts: Sequence[range], sources: Sources, *, name: str, store: AnswerStore, out: Path
) -> Mapping[str, Any]:
    """Judges all answers in the order of their numbers, and writes documents, ledger and report."""
    coverage, sample, dropped = Coverage(), Sample(), Counter[str]()
    totals = Counter(documents_in=0, documents_out=0, bytes_in=0, bytes_out=0, prompt_tokens=0, answer_tokens=0)
    on_topic = [0, 0]
    for index, part in enumerate(parts):
        asked = list(_assign(config, part, sources.seeds))
        answers = [_read_answer(store, _key(config, name, assignment)) for assignment in asked]
        written = [_written(assignment, answer) for assignment, answer in zip(asked, answers, strict=True)]
        table, ledger = judge_part(config, written, sources.judge, name=name)
        write_ledger(out / FOLDER / shard_name(index), ledger)
        write_documents(out / shard_name(index), table)
        stays = set(table.column("id").to_pylist())
        kept_texts = dict(zip(table.column("id").to_pylist(), table.column("text").to_pylist(), strict=True))
        for item in asked:
            id_ = synthetic_id(name, item)
            coverage.add(seed=item.seed.id, style=item.style, audience=item.audience, kept=id_ in stays)
            if id_ in stays and item.seed.topic is not None:
                on_topic[0] += mentions_subject(kept_texts[id_], item.seed.topic)
                on_topic[1] += 1
        sample.add(list(kept_texts), list(kept_texts.values()))
        dropped.update(ledger.column("rule").to_pylist())
        totals.update(documents_in=len(asked), documents_out=len(table), bytes_out=text_bytes(table))
        totals.update(bytes_in=sum(len(answer.text.encode("utf-8", "replace")) for answer in answers))
        totals.update(prompt_tokens=sum(a.prompt_tokens for a in answers), answer_tokens=sum(a.answer_tokens for a in answers))
    if dropped["prompt_refused"] == totals["documents_in"]:
        raise DataError(f"{STAGE_NAME}: every request was refused, the first because: {answers[0].text}")
    has_seeds = sources.sample.num_documents > 0
    report = {
        "model": name,
        "asked": totals["documents_in"],
        "kept": totals["documents_out"],
        "dropped": dict(sorted(dropped.items())),
        "coverage": coverage.report(),
        "on_topic_fraction": round(on_topic[0] / on_topic[1], 4) if on_topic[1] else None,
        "documents": measure_texts(sample),
        "seeds": measure_texts(sources.sample) if has_seeds else None,
        "to_seeds": describe(nearest_similarities(sample.texts(), sources.sample.texts()) if has_seeds else []),
    }
    write_json(out / "report.json", report)
    write_text(out / "report.svg", draw_report(report))
    return {**totals, **{f"dropped/{rule}": dropped[rule] for rule in sorted(dropped)}}


def judge_part(config: SynthesizeDocumentsConfig, written: Sequence[Written], judge: Judge, *, name: str) -> tuple[pa.Table, pa.Table]:
    """The documents that stay, and the ledger of the other answers. The judge remembers what stays."""
    silent = [
        ledger_row(
            stage=STAGE_NAME, rule=item.problem, id=synthetic_id(name, item.assignment), text=item.assignment.prompt, detail=item.text
        )
        for item in written
        if item.problem
    ]
    said = [item for item in written if not item.problem]
    table = written_table(said, model=name, trim=config.cut == "trim")
    keep, dropped = judge.judge(table) if said else ([], [])
    return table.filter(pa.array(keep, pa.bool_())), ledger_table([*silent, *dropped])


def name_checkpoint(folder: Path) -> str:
    """A name of a checkpoint that is the same wherever it lies."""
    if (folder / RECORD).is_file():
        artifact = read_artifact(folder)
        return f"{artifact.record['stage']}-{artifact.fingerprint[:16]}"
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"])
    hashes = "".join(f"{path.name} {sha256_file(path)}\n" for path in files)
    return f"sha256-{hashlib.sha256(hashes.encode()).hexdigest()[:16]}"


def _open_answerer(name: str, folder: Path | None, runtime: Runtime) -> Answerer:
    if folder is None:
        assert runtime.launch.endpoint is not None
        return RemoteEngine(runtime.launch.endpoint, name)
    device = runtime.device if runtime.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    voice = load_voice(folder, load_tokenizer(folder))
    return LocalAnswerer(Engine(load_model(folder, device=device).eval(), voice), voice.render)


def _assign(config: SynthesizeDocumentsConfig, numbers: range, seeds: Sequence[Seed]) -> Iterator[Assignment]:
    styles = {name: config.all_styles[name] for name in config.styles}
    audiences = {name: config.all_audiences[name] for name in config.audiences}
    return assign(numbers, seeds, styles=styles, audiences=audiences, seed=config.seed)


def _key(config: SynthesizeDocumentsConfig, name: str, assignment: Assignment) -> str:
    return request_key({"model": name, "prompt": assignment.prompt, "seed": assignment.draw, **config.params.model_dump(mode="json")})


def _read_answer(store: AnswerStore, key: str) -> Answer:
    row = store.get(key)
    assert row is not None, "every answer was asked for"
    return Answer(**row)


def _written(assignment: Assignment, answer: Answer) -> Written:
    problem = {"refused": "prompt_refused", "filtered": "filtered_by_service"}.get(answer.ending, "")
    return Written(assignment, answer.text, answer.ending == "length", problem)


def _training_files(documents: Sequence[Path]) -> list[Path]:
    # A mixture keeps documents back for validation: a text after one of those would train on it.
    folders = [path / "train" if (path / "train").is_dir() else path for path in documents]
    return list_document_files(folders) if folders else []


def check_engine(config: SynthesizeDocumentsConfig, launch: Launch, inputs: Mapping[str, Any]) -> list[str]:
    """What of a launch does not fit the config."""
    if launch.endpoint is not None and not config.model:
        return ["launch.endpoint needs the model's name there: config.model"]
    if launch.endpoint is None and config.model:
        return [f'config.model = "{config.model}" is a name at an endpoint: give launch.endpoint, or leave it empty']
    return []


STAGE = Stage(
    name=STAGE_NAME,
    config_type=SynthesizeDocumentsConfig,
    run=synthesize_documents,
    inputs={"model": Slot("checkpoint", optional=True), "seeds": Slot("documents", many=True, optional=True)},
    output="documents",
    version=1,
    check_launch=check_engine,
)
