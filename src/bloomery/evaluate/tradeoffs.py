"""The table of what each stage of a model's life gains and costs: base, fine-tuned, aligned, side by side and measured.

Helpfulness is the share of held-out prompts answered exactly right, by the gold; instruction following that of prompts all
of whose instructions a program finds followed; entropy and distinct-2 are of answers sampled at temperature 1; the cost is
the training that made this checkpoint of the one before it, and an answer's length.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: JSON records

from bloomery.core.artifact import RECORD, read_artifact

Record = dict[str, Any]

INSTRUCTION_TASKS = ("ifeval", "instructions")
FLOPS_PER_PARAMETER_AND_TOKEN = 6
"""Of training: two for the forward pass, four for the backward pass (arXiv:2001.08361, sec. 2.1)."""


def training_cost(model: Path, num_params: int) -> Record:
    """Parameters; and of a checkpoint artifact, the tokens that its own stage trained on and their FLOPs."""
    cost: Record = {"parameters": num_params}
    if (model / RECORD).is_file():
        record = read_artifact(model).record
        tokens = record["metrics"].get("tokens")
        cost["stage"] = record["stage"]
        if isinstance(tokens, int | float):
            cost |= {"training_tokens": int(tokens), "training_flops": FLOPS_PER_PARAMETER_AND_TOKEN * num_params * int(tokens)}
    return cost


def make_table(models: Sequence[str], scores: Mapping[str, Any], costs: Mapping[str, Record]) -> list[Record]:
    """One row a model; what was not measured is null."""
    return [_row(model, scores, costs.get(model, {})) for model in models]


def _row(model: str, scores: Mapping[str, Any], cost: Record) -> Record:
    metrics = scores.get("metrics", {}).get(model, {})
    tasks = scores.get("tasks", {}).get(model, {})
    asked = [tasks[name]["metrics"]["prompt_strict"] for name in INSTRUCTION_TASKS if "metrics" in tasks.get(name, {})]
    return {
        "model": model,
        "helpfulness": metrics.get("exact_match"),
        "win_rate": metrics.get("win_rate"),
        "instruction_following": asked[0] if asked else None,
        "entropy_nats": metrics.get("entropy_nats"),
        "distinct_2": metrics.get("distinct_2"),
        "answer_tokens": metrics.get("answer_tokens"),
        "cost": cost,
    }
