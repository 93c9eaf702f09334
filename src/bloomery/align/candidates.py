"""Several answers of a model to each prompt, and what they are worth: what pairs, rankings and best-of-n are made of.

Prompts are asked in chunks, each a file under the work folder, and so are their scores: a run that is killed asks and scores
only what is missing. All of it is kept in samples.parquet, a row an answer.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: a row of JSON

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from bloomery.align.best_of_n import Samples, best_of_curve
from bloomery.align.reward_source import Answer, Row, prompt_messages
from bloomery.align.rewards import RewardSpec, RewardSum, Scores, make_rewards
from bloomery.align.seeds import draw_seed
from bloomery.core.config import Config
from bloomery.core.conversation import read_conversations
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, read_jsonl, write_atomically, write_json, write_jsonl, write_text
from bloomery.core.plots import draw_curves
from bloomery.core.stage import Runtime
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model
from bloomery.tokens.renderer import WholeRenderer, load_prompt_renderer
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer

CHUNK_PROMPTS = 100


class CandidatesConfig(Config):
    """How many prompts are asked, how often, and what the answers are worth."""

    num_prompts: PositiveInt = 1000
    exclude_skills: list[str] = Field(default=["documentation"])
    """Skills whose gold is one wording among many: an answer that differs is not wrong enough to be rejected."""
    num_samples: PositiveInt = 8
    temperature: PositiveFloat = 1.0
    max_tokens: PositiveInt = 32
    rewards: list[RewardSpec] = Field(default=[RewardSpec(source="verifier")], min_length=1)
    """By what answers are told from each other, see docs/rewards.md."""
    gold: list[RewardSpec] = Field(default=[])
    """What the answers are really worth, measured beside the rewards and never chosen by; [] = not measured."""
    seed: NonNegativeInt = 0

    @property
    def params(self) -> SamplingParams:
        """How answers are drawn."""
        return SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature)


class Inputs(NamedTuple):
    """What rewards are made from, beside their specs: the slots of a stage."""

    reward_models: Sequence[Path] = ()
    functions: Sequence[Path] = ()
    judge: Path | None = None


class Candidates(NamedTuple):
    """One prompt's answers; reward[i] and gold[i] belong to answers[i]. A reward of None leaves the answer out."""

    row: Row
    answers: list[Answer]
    num_tokens: list[int]
    reward: list[float | None]
    reward_parts: dict[str, list[float | None]]
    gold: list[float | None]
    gold_parts: dict[str, list[float | None]]

    @property
    def scored(self) -> tuple[list[Answer], list[float]]:
        """The answers that have a reward, and their rewards."""
        kept = [(answer, value) for answer, value in zip(self.answers, self.reward, strict=True) if value is not None]
        return [answer for answer, _ in kept], [value for _, value in kept]


def collect_candidates(
    config: CandidatesConfig, *, model: Path, prompts: Sequence[Path], inputs: Inputs, out: Path, runtime: Runtime
) -> list[Candidates]:
    """Asks and scores what is not in `out`'s scratch yet, and writes samples.parquet and best_of_n.json there."""
    rows = choose_prompts(config, prompts)
    chunks = [rows[i : i + CHUNK_PROMPTS] for i in range(0, len(rows), CHUNK_PROMPTS)]
    sampled = [out / ".scratch" / f"chunk-{i:05d}.jsonl.gz" for i in range(len(chunks))]
    scored = [out / ".scratch" / f"scores-{i:05d}.json" for i in range(len(chunks))]
    # One after the other: the model's memory is free before reward models come.
    if not all(path.exists() for path in sampled):
        _sample_chunks(config, model, chunks, sampled, runtime)
    if not all(path.exists() for path in scored):
        _score_chunks(config, inputs, chunks, sampled, scored, runtime)
    candidates = [one for chunk, *paths in zip(chunks, sampled, scored, strict=True) for one in _read_chunk(chunk, *paths)]
    _write_samples(out / "samples.parquet", candidates)
    _write_curve(config, candidates, out)
    return candidates


def choose_prompts(config: CandidatesConfig, prompts: Sequence[Path]) -> list[Row]:
    """The prompts to ask: the same random `num_prompts` of all that carry what the rewards need, each text once.

    Of an artifact's folder only train.jsonl.gz is read: what is in its test.jsonl.gz must stay unseen.
    """
    files = [path / "train.jsonl.gz" if (path / "train.jsonl.gz").is_file() else path for path in prompts]
    columns = dict.fromkeys(column for spec in (*config.rewards, *config.gold) for column in spec.needed_columns)
    usable = {
        _key(row, config.seed): row for row in read_conversations(files, calculator="remove") if all(column in row for column in columns)
    }
    wanted = [key for key in sorted(usable) if usable[key].get("skill") not in config.exclude_skills]
    if not wanted:
        needed = f" with {_enumerate(columns)} to rank samples by" if columns else " of other skills than exclude_skills"
        raise DataError(f"{', '.join(map(str, files))}: no prompt{needed}")
    return [usable[key] for key in wanted[: config.num_prompts]]


def sample_seed(purpose: str, seed: int, row: Row, sample: int) -> int:
    """The seed of one sample: 63 bits that follow from the prompt's text and the sample's number."""
    text = "\x00".join(message["content"] for message in prompt_messages(row))
    return draw_seed(purpose, seed, sample, text)


def _sample_chunks(config: CandidatesConfig, model: Path, chunks: Sequence[Sequence[Row]], files: Sequence[Path], runtime: Runtime) -> None:
    tokenizer = load_tokenizer(model)
    render = load_prompt_renderer(model, tokenizer)
    engine = Engine(load_model(model, device=resolve_device(runtime.device)).eval(), tokenizer)
    with runtime.progress(sum(map(len, chunks)), "prompts") as bar:
        for i, (chunk, path) in enumerate(zip(chunks, files, strict=True)):
            if not path.exists():
                started = time.perf_counter()
                records = _sample_chunk(config, engine, tokenizer, render, chunk)
                write_jsonl(path, records)
                tokens = sum(sum(record["tokens"]) for record in records)
                speed = tokens / (time.perf_counter() - started)
                runtime.metrics.write({"step": i, "tokens": tokens, "sample/tokens_per_second": speed})
            bar.advance(len(chunk))


def _sample_chunk(
    config: CandidatesConfig, engine: Engine, tokenizer: Tokenizer, render: WholeRenderer, chunk: Sequence[Row]
) -> list[dict[str, Any]]:
    ids = [render(prompt_messages(row), tools=row.get("tools") or ()) for row in chunk]
    repeated = [prompt for prompt in ids for _ in range(config.num_samples)]
    seeds = [sample_seed("collect_pairs", config.seed, row, i) for row in chunk for i in range(config.num_samples)]
    samples = engine.generate(repeated, config.params, seeds=seeds)
    records = []
    for i in range(len(chunk)):
        mine = samples[i * config.num_samples : (i + 1) * config.num_samples]
        answers = [Answer(tokenizer.decode(sample.tokens), sample.finish == "end", len(sample.tokens))._asdict() for sample in mine]
        records.append({"answers": answers, "tokens": [len(sample.tokens) for sample in mine]})
    return records


def _score_chunks(
    config: CandidatesConfig,
    inputs: Inputs,
    chunks: Sequence[Sequence[Row]],
    sampled: Sequence[Path],
    files: Sequence[Path],
    runtime: Runtime,
) -> None:
    def make(specs: Sequence[RewardSpec]) -> RewardSum:
        device, endpoint = resolve_device(runtime.device), runtime.launch.endpoint
        return make_rewards(specs, **inputs._asdict(), device=device, endpoint=endpoint)

    reward, gold = make(config.rewards), make(config.gold) if config.gold else None
    for chunk, path, file in zip(chunks, sampled, files, strict=True):
        if file.exists():
            continue
        records = list(read_jsonl(path))
        answers = [Answer(**answer) for record in records for answer in record["answers"]]
        rows = [row for row, record in zip(chunk, records, strict=True) for _ in record["answers"]]
        golds = gold(rows, answers) if gold is not None else Scores([None] * len(answers), {})
        write_json(file, {"reward": reward(rows, answers)._asdict(), "gold": golds._asdict()})


def _read_chunk(chunk: Sequence[Row], sampled: Path, scored: Path) -> list[Candidates]:
    scores, found, at = read_json(scored), [], 0
    for row, record in zip(chunk, read_jsonl(sampled), strict=True):
        here = slice(at, at + len(record["answers"]))
        parts = {kind: {name: values[here] for name, values in scores[kind]["parts"].items()} for kind in ("reward", "gold")}
        answers = [Answer(**answer) for answer in record["answers"]]
        totals = scores["reward"]["total"][here], scores["gold"]["total"][here]
        found.append(Candidates(row, answers, record["tokens"], totals[0], parts["reward"], totals[1], parts["gold"]))
        at = here.stop
    return found


def _write_samples(path: Path, candidates: Sequence[Candidates]) -> None:
    first = candidates[0]
    parts = [("reward", name) for name in first.reward_parts] + [("gold", name) for name in first.gold_parts]
    rows = []
    for number, one in enumerate(candidates):
        prompt = prompt_messages(one.row)
        for i, answer in enumerate(one.answers):
            row = {
                "prompt_number": number,
                "sample": i,
                "skill": str(one.row.get("skill", "")),
                "prompt": prompt[-1]["content"],
                "answer": answer.text,
                "stopped": answer.stopped,
                "tokens": one.num_tokens[i],
                "reward": one.reward[i],
                "gold": one.gold[i],
            }
            found = {"reward": one.reward_parts, "gold": one.gold_parts}
            rows.append(row | {f"{kind}/{name}": found[kind][name][i] for kind, name in parts})
    columns = [("prompt_number", pa.int32()), ("sample", pa.int32()), ("skill", pa.string()), ("prompt", pa.string())]
    columns += [("answer", pa.string()), ("stopped", pa.bool_()), ("tokens", pa.int32()), ("reward", pa.float64()), ("gold", pa.float64())]
    columns += [(f"{kind}/{name}", pa.float64()) for kind, name in parts]
    with write_atomically(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns)), temporary, compression="zstd")


def _write_curve(config: CandidatesConfig, candidates: Sequence[Candidates], out: Path) -> None:
    samples = []
    for one in candidates:
        kept = [i for i, value in enumerate(one.reward) if value is not None]
        golds = [one.gold[i] for i in kept]
        samples.append(Samples(one.scored[1], [value for value in golds if value is not None]))
    curve = best_of_curve(samples, seed=config.seed)
    if not curve:
        raise DataError(f"none of the {len(candidates)} prompts has an answer with a reward: every source of `rewards` gave None")
    write_json(out / "best_of_n.json", {"num_samples": config.num_samples, "curve": [point.record() for point in curve]})
    lines = {"reward": [(point.kl_nats**0.5, point.reward.value) for point in curve]}
    if curve[0].gold is not None:
        lines["gold"] = [(point.kl_nats**0.5, point.gold.value) for point in curve if point.gold is not None]
    write_text(out / "best_of_n.svg", draw_curves(lines, x_label="square root of the KL to the model (best of n)", y_label="mean"))


def _key(row: Row, seed: int) -> tuple[bytes, str]:
    text = "\x00".join(message["content"] for message in prompt_messages(row))
    return hashlib.blake2b(f"{seed}\x00{text}".encode("utf-8", "replace"), digest_size=16).digest(), text


def _enumerate(columns: Mapping[str, None]) -> str:
    return " and ".join(f"{'an' if column[0] in 'aeiou' else 'a'} `{column}`" for column in columns)
