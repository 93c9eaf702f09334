"""Stage collect_pairs: pairs, rankings or labelled answers from what a model itself answers, told apart by any source of rewards.

Asks the model every chosen prompt several times, scores the answers (by the programmatic gold, a reward model, a judge, sums of
them), and writes `train.jsonl.gz` with TRL's columns, samples.parquet with every answer and its scores, and best_of_n.json: what the
best of n would have been worth, for every n. A chunk of prompts is the unit of resume.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal  # Any: a row of JSON

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from bloomery.align.candidates import Candidates, CandidatesConfig, Inputs, collect_candidates
from bloomery.align.pairs import (
    Labelled,
    Pair,
    PromptPairs,
    all_pairs,
    balance,
    best_and_worst,
    is_flipped,
    label_answers,
    label_row,
    make_pairs,
    mean_rewards,
    pair_row,
    rank_answers,
    ranking_row,
)
from bloomery.align.reward_source import prompt_messages
from bloomery.align.rewards import REWARD_SLOTS, RIGHT
from bloomery.core.errors import DataError
from bloomery.core.files import write_jsonl
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.generate.verify import verify


class CollectPairsConfig(CandidatesConfig):
    """How many prompts are asked, how often, what the answers are worth, and what is written of them."""

    write: Literal["pairs", "rankings", "labels"] = "pairs"
    """Rows of `prompt, chosen, rejected`; of `prompt, completions, ranks` (1 is the best); or of `prompt, completion, label`."""
    pairing: Literal["mistakes", "best_worst", "all"] = "mistakes"
    """Of pairs: the best answers against those sampled most often; the best against the worst; or any two, as people are shown them."""
    max_pairs_per_prompt: PositiveInt = 2
    min_chosen_reward: float = RIGHT
    """Of `pairing = "mistakes"` and of labels: only answers of this reward are chosen. By default right ones: a well-formed wrong
    one is better than none, but not to be learnt."""
    min_margin: NonNegativeFloat = 0.5
    """Rewards that lie less apart make no pair; of labels, how far below `min_chosen_reward` an answer is undesirable."""
    with_margin: bool = False
    """Whether a pair carries the difference of its rewards as `margin`, for losses that read it."""
    gold_as_chosen: bool = False
    """Of `pairing = "mistakes"`: where no sample is right, choose the gold answer itself: more pairs, but off-policy ones."""
    max_ranked: PositiveInt = Field(default=4, ge=2)
    """Of rankings: answers in one."""
    tie_margin: NonNegativeFloat = 0.0
    """Of rankings: answers whose rewards lie at most so far apart are a tie."""
    desirable_per_undesirable: NonNegativeFloat = 0.0
    """Of labels: the ratio that is kept (0.1: one to ten), by leaving out at random; 0 = as they come."""
    max_rows: NonNegativeInt = 0
    """The first so many rows, in the random order of the prompts: 100 are a part of 1,000. 0 = all."""
    label_noise: float = Field(default=0.0, ge=0, le=0.5)
    """Share of pairs or labels that are turned round, to study what errors of annotators cost."""

    @model_validator(mode="after")
    def _check_writing(self) -> "CollectPairsConfig":
        if self.write == "rankings" and self.label_noise:
            raise ValueError('label_noise is of pairs and labels; found write = "rankings"')
        if self.write != "labels" and self.desirable_per_undesirable:
            raise ValueError(f'desirable_per_undesirable is of labels; found write = "{self.write}"')
        if self.gold_as_chosen and (self.write, self.pairing) != ("pairs", "mistakes"):
            raise ValueError('gold_as_chosen is of write = "pairs" with pairing = "mistakes"')
        return self


def collect_pairs(
    config: CollectPairsConfig,
    *,
    model: Path,
    prompts: Sequence[Path],
    reward_models: Sequence[Path] = (),
    functions: Sequence[Path] = (),
    judge: Path | None = None,
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Writes train.jsonl.gz, samples.parquet and best_of_n.json. Raises DataError if no row comes out."""
    inputs = Inputs(reward_models, functions, judge)
    candidates = collect_candidates(config, model=model, prompts=prompts, inputs=inputs, out=out, runtime=runtime)
    rows, counts = WRITERS[config.write](config, candidates)
    if not rows:
        found = ", ".join(f"{name.rpartition('/')[2].replace('_', ' ')}: {count}" for name, count in counts.items())
        raise DataError(
            f"collect_pairs: none of {len(candidates)} prompts gave a {config.write.removesuffix('s')} ({found}). "
            "Train the model longer, raise num_samples or temperature, or lower min_margin or min_chosen_reward"
            + (", or set gold_as_chosen = true." if config.write == "pairs" else ".")
        )
    write_jsonl(out / "train.jsonl.gz", rows)
    by_skill = {f"{config.write}/{skill}": count for skill, count in sorted(Counter(row["skill"] for row in rows).items())}
    return {config.write: len(rows), "prompts": len(candidates), **measure(candidates), **counts, **by_skill}


def write_pairs(config: CollectPairsConfig, candidates: Sequence[Candidates]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of pairs, and how many prompts came out how."""
    rows: list[dict[str, Any]] = []
    cases: Counter[str] = Counter({"paired": 0, "all_good": 0, "none_good": 0, "gold_chosen": 0})
    flipped = 0
    for one in candidates:
        made = _pairs_of(config, one)
        cases[made.case] += 1
        reward_of = dict(mean_rewards(*one.scored))
        for pair in made.pairs:
            if pair.chosen in reward_of and pair.rejected in reward_of:
                pair = pair._replace(margin=reward_of[pair.chosen] - reward_of[pair.rejected])
            if is_flipped(_name(config, one, pair.chosen, pair.rejected), config.label_noise):
                pair, flipped = Pair(pair.rejected, pair.chosen, pair.margin), flipped + 1
            rows.append(pair_row(one.row, pair, with_margin=config.with_margin))
    counts = {f"prompts/{case}": count for case, count in cases.items()}
    return rows[: config.max_rows or None], counts | ({"flipped": flipped} if config.label_noise else {})


def write_rankings(config: CollectPairsConfig, candidates: Sequence[Candidates]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of rankings, and how many prompts had answers of one rank only."""
    ranked = [
        (one, rank_answers(mean_rewards(*one.scored), max_answers=config.max_ranked, tie_margin=config.tie_margin)) for one in candidates
    ]
    rows = [ranking_row(one.row, ranking) for one, ranking in ranked if ranking is not None]
    ties = sum(len(set(row["ranks"])) < len(row["ranks"]) for row in rows)
    return rows[: config.max_rows or None], {"prompts/all_equal": len(ranked) - len(rows), "with_ties": ties}


def write_labels(config: CollectPairsConfig, candidates: Sequence[Candidates]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of answers with labels, each different answer once, and how many are desirable."""
    found: list[tuple[Candidates, Labelled, str]] = []
    for one in candidates:
        labelled = label_answers(mean_rewards(*one.scored), min_chosen_reward=config.min_chosen_reward, min_margin=config.min_margin)
        found += [(one, answer, _name(config, one, answer.text)) for answer in labelled]
    kept = balance(
        [name for *_, name in found],
        [answer.label for _, answer, _ in found],
        desirable_per_undesirable=config.desirable_per_undesirable,
        max_rows=config.max_rows,
    )
    rows, flipped = [], 0
    for one, answer, name in (found[i] for i in kept):
        if is_flipped(name, config.label_noise):
            answer, flipped = answer._replace(label=not answer.label), flipped + 1
        rows.append(label_row(one.row, answer))
    desirable = sum(row["label"] for row in rows)
    counts = {"desirable": desirable, "undesirable": len(rows) - desirable}
    return rows, counts | ({"flipped": flipped} if config.label_noise else {})


WRITERS = {"pairs": write_pairs, "rankings": write_rankings, "labels": write_labels}


def measure(candidates: Sequence[Candidates]) -> dict[str, Any]:
    """Shares and means over all samples: what they are worth, and, where rows have a gold answer, how many are right."""
    samples = [(one, answer) for one in candidates for answer in one.answers]
    rewards = [value for one in candidates for value in one.scored[1]]
    golds = [value for one in candidates for value in one.gold if value is not None]
    measured = {"samples": len(samples), "sampled_reward": sum(rewards) / len(rewards)}
    if golds:
        measured["sampled_gold"] = sum(golds) / len(golds)
    if all(isinstance(one.row.get("answer"), str) for one in candidates):
        verdicts = [verify(one.row, answer.text) if answer.stopped else None for one, answer in samples]
        measured["sampled_exact_match"] = sum(verdict is not None and verdict.correct for verdict in verdicts) / len(samples)
        measured["sampled_format_valid"] = sum(verdict is not None and verdict.well_formed for verdict in verdicts) / len(samples)
    measured["sampled_stopped"] = sum(answer.stopped for _, answer in samples) / len(samples)
    return measured


def _pairs_of(config: CollectPairsConfig, one: Candidates) -> PromptPairs:
    answers, rewards = one.scored
    if config.pairing == "mistakes":
        return make_pairs(
            answers,
            rewards,
            min_chosen_reward=config.min_chosen_reward,
            min_margin=config.min_margin,
            max_pairs=config.max_pairs_per_prompt,
            gold=str(one.row["answer"]) if config.gold_as_chosen else None,
        )
    scored = mean_rewards(answers, rewards)
    if config.pairing == "best_worst":
        pairs = best_and_worst(scored, min_margin=config.min_margin)
    else:
        key = f"{config.seed}/{prompt_messages(one.row)[-1]['content']}"
        pairs = all_pairs(scored, min_margin=config.min_margin, max_pairs=config.max_pairs_per_prompt, key=key)
    return PromptPairs(pairs, "paired" if pairs else "all_good")


def _name(config: CollectPairsConfig, one: Candidates, *texts: str) -> str:
    return "\x00".join([str(config.seed), prompt_messages(one.row)[-1]["content"], *texts])


STAGE = Stage(
    name="collect_pairs",
    config_type=CollectPairsConfig,
    run=collect_pairs,
    inputs={
        "model": Slot("checkpoint"),
        "prompts": Slot("conversations", many=True),
        **REWARD_SLOTS,
    },
    output="pairs",
    version=2,
)
