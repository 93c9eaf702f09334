"""Stage best_of_n: conversations of every prompt with the best of n sampled answers, by any source of rewards (rejection sampling).

Fine-tuning on them (`sft`) is the simplest way to learn from a reward: Llama 2's "rejection sampling" (arXiv:2307.09288, sec. 3.2.3),
expert iteration, STaR. Writes `train.jsonl.gz`, samples.parquet with every answer and its scores, and best_of_n.json: reward and gold of
the best of n for every n, beside the KL to the model. A chunk of prompts is the unit of resume.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: a row of JSON

from pydantic import Field, PositiveInt

from bloomery.align.candidates import Candidates, CandidatesConfig, Inputs, collect_candidates
from bloomery.align.pairs import mean_rewards
from bloomery.align.reward_source import prompt_messages
from bloomery.align.rewards import REWARD_SLOTS
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_jsonl
from bloomery.core.stage import Runtime, Slot, Stage

KEPT_COLUMNS = ("skill", "answer", "format")
"""What of a prompt's row goes with the conversation, so that it can be verified again."""


class BestOfNConfig(CandidatesConfig):
    """How many prompts are asked, how often, what the answers are worth, and which are kept."""

    max_answers_per_prompt: PositiveInt = 1
    """The best so many different answers of each prompt are kept."""
    min_reward: float = Field(default=-1e9)
    """Answers worth less are not kept, though they be their prompt's best. Of the verifier 1.0 keeps right ones only."""


def best_of_n(
    config: BestOfNConfig,
    *,
    model: Path,
    prompts: Sequence[Path],
    reward_models: Sequence[Path] = (),
    functions: Sequence[Path] = (),
    judge: Path | None = None,
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Writes train.jsonl.gz, samples.parquet and best_of_n.json. Raises DataError if no answer is kept."""
    inputs = Inputs(reward_models, functions, judge)
    candidates = collect_candidates(config, model=model, prompts=prompts, inputs=inputs, out=out, runtime=runtime)
    rows = [row for one in candidates for row in kept_rows(config, one)]
    if not rows:
        raise DataError(
            f"best_of_n: none of {len(candidates)} prompts has an answer worth min_reward = {config.min_reward:g}. "
            "Lower it, raise num_samples or temperature, or train the model longer."
        )
    write_jsonl(out / "train.jsonl.gz", rows)
    by_skill = {f"conversations/{skill}": count for skill, count in sorted(Counter(row.get("skill", "") for row in rows).items())}
    prompts_kept = len({prompt_messages(row)[-1]["content"] for row in rows})
    counts = {"conversations": len(rows), "prompts": len(candidates), "prompts/kept": prompts_kept}
    return {**counts, "samples": sum(len(one.answers) for one in candidates), **_ends_of_curve(out), **by_skill}


def kept_rows(config: BestOfNConfig, one: Candidates) -> list[dict[str, Any]]:
    """A prompt's best different answers as conversations; of equal ones those sampled first."""
    scored = [(text, reward) for text, reward in mean_rewards(*one.scored) if reward >= config.min_reward]
    best = sorted(scored, key=lambda item: -item[1])[: config.max_answers_per_prompt]
    kept = {column: one.row[column] for column in KEPT_COLUMNS if column in one.row}
    prompt = prompt_messages(one.row)
    return [{"messages": [*prompt, {"role": "assistant", "content": text}], **kept, "reward": reward} for text, reward in best]


def _ends_of_curve(out: Path) -> dict[str, float]:
    """Reward and gold of a single sample and of the best of all."""
    curve = read_json(out / "best_of_n.json")["curve"]
    found = {}
    for point in (curve[0], curve[-1]):
        found[f"best_of_{point['n']}/reward"] = point["reward"]["value"]
        if point["gold"] is not None:
            found[f"best_of_{point['n']}/gold"] = point["gold"]["value"]
    return found


STAGE = Stage(
    name="best_of_n",
    config_type=BestOfNConfig,
    run=best_of_n,
    inputs={
        "model": Slot("checkpoint"),
        "prompts": Slot("conversations", many=True),
        **REWARD_SLOTS,
    },
    output="conversations",
    version=1,
)
