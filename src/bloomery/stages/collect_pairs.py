"""Stage collect_pairs: preference pairs from what a model itself answers, ranked by the programmatic gold.

Asks the model every chosen prompt several times at temperature 1, scores the answers with the verifier, and pairs right
ones with wrong or malformed ones. Writes `train.jsonl.gz` with TRL's columns. A chunk of prompts is the unit of resume.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: a row of JSON

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from bloomery.align.pairs import make_pairs, pair_row, prompt_messages
from bloomery.align.rewards import RIGHT, Answer, RewardSource, verifier_reward
from bloomery.core.config import Config
from bloomery.core.conversation import read_conversations
from bloomery.core.errors import DataError
from bloomery.core.files import read_jsonl, write_jsonl
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.verify import verify
from bloomery.model.huggingface import load_model
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer

CHUNK_PROMPTS = 100

Row = Mapping[str, Any]


class CollectPairsConfig(Config):
    """How many prompts are asked, how often, and which answers make a pair."""

    num_prompts: PositiveInt = 1000
    exclude_skills: list[str] = Field(default=["documentation"])
    """Skills whose gold is one wording among many: an answer that differs is not wrong enough to be rejected."""
    num_samples: PositiveInt = 8
    temperature: PositiveFloat = 1.0
    max_tokens: PositiveInt = 32
    max_pairs_per_prompt: PositiveInt = 2
    min_chosen_reward: float = RIGHT
    """By default only right answers are chosen: a well-formed wrong one is better than none, but not to be learnt."""
    min_margin: NonNegativeFloat = 0.5
    gold_as_chosen: bool = False
    """Where no sample is right, choose the gold answer itself: more pairs, but off-policy ones."""
    seed: NonNegativeInt = 0


def collect_pairs(config: CollectPairsConfig, *, model: Path, prompts: Sequence[Path], out: Path, runtime: Runtime) -> Mapping[str, Any]:
    """Writes train.jsonl.gz with columns prompt, chosen, rejected, skill. Raises DataError if no pair comes out."""
    rows = choose_prompts(config, prompts)
    chunks = [rows[i : i + CHUNK_PROMPTS] for i in range(0, len(rows), CHUNK_PROMPTS)]
    files = [out / ".scratch" / f"chunk-{i:05d}.jsonl.gz" for i in range(len(chunks))]
    if not all(path.exists() for path in files):
        _sample_chunks(config, model, chunks, files, runtime)
    sampled = [[Answer(**answer) for answer in record["answers"]] for path in files for record in read_jsonl(path)]
    return _write_pairs(config, rows, sampled, verifier_reward, out)


def choose_prompts(config: CollectPairsConfig, prompts: Sequence[Path]) -> list[Row]:
    """The prompts to ask: the same random `num_prompts` of all that carry an answer and a format, each text once.

    Of an artifact's folder only train.jsonl.gz is read: what is in its test.jsonl.gz must stay unseen.
    """
    files = [path / "train.jsonl.gz" if (path / "train.jsonl.gz").is_file() else path for path in prompts]
    rows = read_conversations(files)
    usable = {_key(row, config.seed): row for row in rows if "answer" in row and "format" in row}
    wanted = [key for key in sorted(usable) if usable[key].get("skill") not in config.exclude_skills]
    if not wanted:
        raise DataError(f"{', '.join(map(str, files))}: no prompt with an `answer` and a `format` to rank samples by")
    return [usable[key] for key in wanted[: config.num_prompts]]


def _sample_chunks(
    config: CollectPairsConfig, model: Path, chunks: Sequence[Sequence[Row]], files: Sequence[Path], runtime: Runtime
) -> None:
    device = runtime.device if runtime.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    transformer = load_model(model, device=device)
    transformer.eval()
    tokenizer = load_tokenizer(model)
    engine = Engine(transformer, tokenizer)
    with runtime.progress(sum(map(len, chunks)), "prompts") as bar:
        for i, (chunk, path) in enumerate(zip(chunks, files, strict=True)):
            if not path.exists():
                started = time.perf_counter()
                records = _sample_chunk(config, engine, tokenizer, chunk)
                write_jsonl(path, records)
                tokens = sum(record["tokens"] for record in records)
                speed = tokens / (time.perf_counter() - started)
                runtime.metrics.write({"step": i, "tokens": tokens, "sample/tokens_per_second": speed})
            bar.advance(len(chunk))


def _sample_chunk(config: CollectPairsConfig, engine: Engine, tokenizer: Tokenizer, chunk: Sequence[Row]) -> list[dict[str, Any]]:
    params = SamplingParams(max_tokens=config.max_tokens, temperature=config.temperature)
    ids = [render(tokenizer, prompt_messages(row), add_generation_prompt=True).ids for row in chunk]
    repeated = [prompt for prompt in ids for _ in range(config.num_samples)]
    seeds = [_sample_seed(config.seed, row, i) for row in chunk for i in range(config.num_samples)]
    samples = engine.generate(repeated, params, seeds=seeds)
    records = []
    for i in range(len(chunk)):
        mine = samples[i * config.num_samples : (i + 1) * config.num_samples]
        answers = [Answer(tokenizer.decode(sample.tokens), sample.finish == "end")._asdict() for sample in mine]
        records.append({"answers": answers, "tokens": sum(len(sample.tokens) for sample in mine)})
    return records


def _write_pairs(
    config: CollectPairsConfig, rows: Sequence[Row], sampled: Sequence[Sequence[Answer]], reward: RewardSource, out: Path
) -> Mapping[str, Any]:
    pairs: list[dict[str, Any]] = []
    cases: Counter[str] = Counter({"paired": 0, "all_good": 0, "none_good": 0, "gold_chosen": 0})
    right = well_formed = stopped = 0
    flat = [(row, answer) for row, answers in zip(rows, sampled, strict=True) for answer in answers]
    scores = iter(reward([row for row, _ in flat], [answer for _, answer in flat]))
    for row, answers in zip(rows, sampled, strict=True):
        judged = [(answer, value) for answer in answers if (value := next(scores)) is not None]
        answers, rewards = [answer for answer, _ in judged], [value for _, value in judged]
        made = make_pairs(
            answers,
            rewards,
            min_chosen_reward=config.min_chosen_reward,
            min_margin=config.min_margin,
            max_pairs=config.max_pairs_per_prompt,
            gold=str(row["answer"]) if config.gold_as_chosen else None,
        )
        cases[made.case] += 1
        pairs += [pair_row(row, pair) for pair in made.pairs]
        right += sum(value == RIGHT for value in rewards)
        well_formed += sum(answer.stopped and verify(row, answer.text).well_formed for answer in answers)
        stopped += sum(answer.stopped for answer in answers)
    if not pairs:
        raise DataError(
            f"collect_pairs: none of {len(rows)} prompts gave a pair ({_describe(cases)}). "
            "Train the model longer, raise num_samples or temperature, or set gold_as_chosen = true."
        )
    write_jsonl(out / "train.jsonl.gz", pairs)
    total = sum(len(answers) for answers in sampled)
    shares = {"sampled_exact_match": right / total, "sampled_format_valid": well_formed / total, "sampled_stopped": stopped / total}
    by_case = {f"prompts/{case}": count for case, count in cases.items()}
    by_skill = {f"pairs/{skill}": count for skill, count in sorted(Counter(pair["skill"] for pair in pairs).items())}
    return {"pairs": len(pairs), "prompts": len(rows), "samples": total, **shares, **by_case, **by_skill}


def _describe(cases: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in cases.items())


def _key(row: Row, seed: int) -> tuple[bytes, str]:
    text = "\x00".join(message["content"] for message in prompt_messages(row))
    return hashlib.blake2b(f"{seed}\x00{text}".encode("utf-8", "replace"), digest_size=16).digest(), text


def _sample_seed(seed: int, row: Row, sample: int) -> int:
    text = "\x00".join(message["content"] for message in prompt_messages(row))
    digest = hashlib.blake2b(f"collect_pairs/{seed}/{sample}/{text}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


STAGE = Stage(
    name="collect_pairs",
    config_type=CollectPairsConfig,
    run=collect_pairs,
    inputs={"model": Slot("checkpoint"), "prompts": Slot("conversations", many=True)},
    output="pairs",
    version=1,
)
