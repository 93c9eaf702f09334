"""Several models on the same prompts, side by side: greedy answers for the scores, sampled ones for diversity.

`answer_task` asks one model; what it returns is plain JSON, so that a stopped evaluation continues with the next model.
`compare` makes scores.json of all of them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any  # Any: JSON records

from bloomery.core.config import Config
from bloomery.core.errors import DataError
from bloomery.evaluate.elo import elo_ratings
from bloomery.evaluate.metrics import Interval, bootstrap_mean, bootstrap_ratio, distinct_ngrams, wilson, win_rate
from bloomery.evaluate.ratings import battles_of_ranks, rate, win_rates
from bloomery.evaluate.task import Outcome, PromptFormat, Task
from bloomery.generate.engine import Engine, Sample
from bloomery.generate.sampling import SamplingParams
from bloomery.tokens.tokenizer import Tokenizer

Record = dict[str, Any]

NUM_RESAMPLES = 300
"""Of the ratings' intervals."""


class AskConfig(Config):
    """How models are asked. The greedy answer is scored; `num_samples` more at temperature 1 show the distribution."""

    formats: list[PromptFormat]
    max_tokens: int
    num_samples: int
    seed: int


def answer_task(engine: Engine, tokenizer: Tokenizer, task: Task, config: AskConfig) -> Record:
    """One model's answers: rows of outcomes in its better prompt format, the samples' figures, and both formats' shares.

    The better format is the one with more right answers, then with more well-formed ones; of equal ones the first.
    """
    greedy = SamplingParams(max_tokens=config.max_tokens, temperature=0.0)
    rows: dict[PromptFormat, list[Record]] = {}
    for prompt_format in config.formats:
        prompts = [task.prompt(example, tokenizer, prompt_format) for example in task.examples]
        samples = engine.generate(prompts, greedy, seeds=[0] * len(prompts))
        rows[prompt_format] = [
            _row(task, example, sample, tokenizer, prompt_format) for example, sample in zip(task.examples, samples, strict=True)
        ]
    best = max(config.formats, key=lambda name: (_count(rows[name], "correct"), _count(rows[name], "well_formed")))
    shares = {name: {"exact_match": _share(rows[name], "correct"), "format_valid": _share(rows[name], "well_formed")} for name in rows}
    return {
        "prompt_format": best,
        "formats": shares,
        "rows": rows[best],
        "sampled": _sample(engine, tokenizer, task, config, best) if config.num_samples else [],
    }


def compare(answers: Mapping[str, Record], *, baseline: str, seed: int) -> Record:
    """The body of scores.json: every metric of every model with its interval, over all prompts and by skill."""
    first = next(iter(answers.values()))
    skills = sorted({row["skill"] for row in first["rows"]})
    metrics = {name: _measure(answers, name, baseline, seed, skill=None) for name in answers}
    return {
        **({"ratings": rate_answers(answers, seed=seed)} if len(answers) > 1 else {}),
        "models": list(answers),
        "baseline": baseline,
        "num_prompts": len(first["rows"]),
        "prompt_format": {name: answer["prompt_format"] for name, answer in answers.items()},
        "formats": {name: answer["formats"] for name, answer in answers.items()},
        "metrics": metrics,
        "by_skill": {name: {skill: _measure(answers, name, baseline, seed, skill=skill) for skill in skills} for name in answers},
    }


def rate_answers(answers: Mapping[str, Record], *, seed: int) -> Record:
    """Ratings of the models among each other, the gold as judge: by their greedy answers, and by the sampled ones if there are any.

    Where a model never takes a point no finite rating explains that; its `problem` is then in place of the ratings.
    """
    kinds = {"greedy": {name: [[row["rank"]] for row in answer["rows"]] for name, answer in answers.items()}}
    if all(answer["sampled"] for answer in answers.values()):
        kinds["sampled"] = {name: [row["rank"] for row in answer["sampled"]] for name, answer in answers.items()}
    found: Record = {}
    for kind, ranks in kinds.items():
        battles = battles_of_ranks(ranks)
        rates = {a: {b: rate.record() for b, rate in of_a.items()} for a, of_a in win_rates(battles, seed=seed).items()}
        elo = [one.record() for one in elo_ratings(battles, seed=seed)]
        found[kind] = {"elo": elo, "win_rates": rates}
        try:
            found[kind]["bradley_terry"] = rate(battles, seed=seed, num_resamples=NUM_RESAMPLES).record()["standings"]
        except DataError as error:
            found[kind]["problem"] = str(error)
    return found


def sample_seed(seed: int, index: int, sample: int) -> int:
    """The seed of one sample of prompt number `index`: 63 bits that depend on nothing else."""
    digest = hashlib.blake2b(f"evaluate/{seed}/{index}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _row(task: Task, example: Mapping[str, Any], sample: Sample, tokenizer: Tokenizer, prompt_format: PromptFormat) -> Record:
    outcome = _outcome(task, example, sample, tokenizer, prompt_format)
    return {
        "skill": str(example.get("skill", "")),
        "prompt": next((m["content"] for m in reversed(example["messages"]) if m["role"] == "user"), ""),
        "answer": str(example["answer"]),
        "completion": outcome.completion,
        "correct": outcome.correct,
        "well_formed": outcome.well_formed,
        "stopped": outcome.stopped,
        "rank": outcome.rank,
        "tokens": len(sample.tokens),
    }


def _outcome(task: Task, example: Mapping[str, Any], sample: Sample, tokenizer: Tokenizer, prompt_format: PromptFormat) -> Outcome:
    return task.score(example, tokenizer.decode(sample.tokens), sample.finish == "end", prompt_format)


def _sample(engine: Engine, tokenizer: Tokenizer, task: Task, config: AskConfig, prompt_format: PromptFormat) -> list[Record]:
    prompts = [task.prompt(example, tokenizer, prompt_format) for example in task.examples]
    repeated = [prompt for prompt in prompts for _ in range(config.num_samples)]
    seeds = [sample_seed(config.seed, i, j) for i in range(len(prompts)) for j in range(config.num_samples)]
    # Temperature 1 and the whole vocabulary: -logp is then an unbiased estimate of the model's own entropy.
    samples = engine.generate(repeated, SamplingParams(max_tokens=config.max_tokens, temperature=1.0), seeds=seeds)
    records = []
    for i, example in enumerate(task.examples):
        mine = samples[i * config.num_samples : (i + 1) * config.num_samples]
        outcomes = [_outcome(task, example, sample, tokenizer, prompt_format) for sample in mine]
        records.append(
            {
                "nats": -float(sum(sum(sample.logps) for sample in mine)),
                "tokens": sum(len(sample.tokens) for sample in mine),
                "distinct_2": distinct_ngrams([sample.tokens for sample in mine], n=2),
                "correct": [outcome.correct for outcome in outcomes],
                "rank": [outcome.rank for outcome in outcomes],
            }
        )
    return records


def _measure(answers: Mapping[str, Record], name: str, baseline: str, seed: int, *, skill: str | None) -> Record:
    chosen = [i for i, row in enumerate(answers[name]["rows"]) if skill in (None, row["skill"])]

    def pick(model: str, part: str, key: str) -> list[Any]:  # Any: numbers, flags or lists of them
        return [answers[model][part][i][key] for i in chosen if answers[model][part]]

    measured: dict[str, Interval | Any] = {
        "exact_match": wilson(sum(pick(name, "rows", "correct")), len(chosen)),
        "format_valid": wilson(sum(pick(name, "rows", "well_formed")), len(chosen)),
        "stopped": wilson(sum(pick(name, "rows", "stopped")), len(chosen)),
        "answer_tokens": bootstrap_mean(pick(name, "rows", "tokens"), seed=seed),
    }
    against = baseline in answers and name != baseline
    if against:
        measured["win_rate"] = win_rate(pick(name, "rows", "rank"), pick(baseline, "rows", "rank"), seed=seed)
    if answers[name]["sampled"] and skill is None:
        measured |= _measure_samples(pick, name, seed)
        if against:
            ours, theirs = (pick(model, "sampled", "rank") for model in (name, baseline))
            measured["sampled_win_rate"] = bootstrap_mean([_mean_points(a, b) for a, b in zip(ours, theirs, strict=True)], seed=seed)
    return {metric: interval.record() for metric, interval in measured.items()}


def _measure_samples(pick: Callable[[str, str, str], list[Any]], name: str, seed: int) -> dict[str, Interval]:
    diversity = [value for value in pick(name, "sampled", "distinct_2") if value is not None]
    measured = {
        "sampled_exact_match": bootstrap_mean([sum(flags) / len(flags) for flags in pick(name, "sampled", "correct")], seed=seed),
        "entropy_nats": bootstrap_ratio(pick(name, "sampled", "nats"), pick(name, "sampled", "tokens"), seed=seed),
    }
    return measured | ({"distinct_2": bootstrap_mean(diversity, seed=seed)} if diversity else {})


def _mean_points(ours: Sequence[int], theirs: Sequence[int]) -> float:
    points = [1.0 if a > b else 0.5 if a == b else 0.0 for a in ours for b in theirs]
    return sum(points) / len(points)


def _count(rows: Sequence[Record], key: str) -> int:
    return sum(row[key] for row in rows)


def _share(rows: Sequence[Record], key: str) -> float:
    return _count(rows, key) / len(rows)
