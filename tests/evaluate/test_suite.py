"""What is made of answers, with answers written by hand: no model is asked here."""

from typing import Any

from bloomery.evaluate.suite import compare, sample_seed


def answers(*ranks: int, sampled: list[list[int]] | None = None) -> dict[str, Any]:
    """A model's record: one row a prompt, right (2), well-formed (1) or malformed (0); prompts alternate between two skills."""
    rows = [
        {"skill": "ab"[i % 2], "correct": rank == 2, "well_formed": rank >= 1, "stopped": True, "rank": rank, "tokens": 3}
        for i, rank in enumerate(ranks)
    ]
    shown = [
        {"nats": 2.0, "tokens": 4, "distinct_2": None if i == 0 else 0.5, "correct": [r == 2 for r in drawn], "rank": drawn}
        for i, drawn in enumerate(sampled or [])
    ]
    return {"prompt_format": "chat", "formats": {}, "rows": rows, "sampled": shown}


def test_shares_count_right_well_formed_and_stopped_answers() -> None:
    scores = compare({"sft": answers(2, 1, 0, 2)}, baseline="sft", seed=0)
    values = {name: score["value"] for name, score in scores["metrics"]["sft"].items()}
    assert values == {"exact_match": 0.5, "format_valid": 0.75, "stopped": 1.0, "answer_tokens": 3.0}


def test_win_rate_compares_ranks_prompt_by_prompt_over_all_and_by_skill() -> None:
    scores = compare({"sft": answers(2, 1, 0, 2), "dpo": answers(2, 2, 1, 1)}, baseline="sft", seed=0)
    rate = scores["metrics"]["dpo"]["win_rate"]
    assert (rate["wins"], rate["ties"], rate["losses"], rate["value"]) == (2, 1, 1, 0.625)
    by_skill = scores["by_skill"]["dpo"]
    assert (by_skill["a"]["win_rate"]["value"], by_skill["b"]["win_rate"]["value"]) == (0.75, 0.5)


def test_sampled_win_rate_compares_every_sample_with_every_sample() -> None:
    ours, theirs = answers(2, 2, sampled=[[2, 0], [1, 1]]), answers(2, 2, sampled=[[1, 1], [1, 2]])
    scores = compare({"dpo": ours, "sft": theirs}, baseline="sft", seed=0)
    # Prompt 1: 2 beats both, 0 loses to both. Prompt 2: 1 ties with 1 and loses to 2, twice.
    assert scores["metrics"]["dpo"]["sampled_win_rate"]["value"] == (0.5 + 0.25) / 2
    assert scores["metrics"]["dpo"]["sampled_exact_match"]["value"] == 0.25


def test_entropy_is_nats_per_token_and_diversity_passes_over_prompts_without_pairs_of_tokens() -> None:
    measured = compare({"sft": answers(2, 2, 2, sampled=[[2], [2], [2]])}, baseline="sft", seed=0)["metrics"]["sft"]
    assert measured["entropy_nats"] == {"value": 0.5, "low": 0.5, "high": 0.5, "count": 3}
    assert (measured["distinct_2"]["value"], measured["distinct_2"]["count"]) == (0.5, 2)


def test_each_sample_has_a_seed_of_its_own() -> None:
    seeds = {sample_seed(seed, index, sample) for seed in range(3) for index in range(20) for sample in range(4)}
    assert len(seeds) == 240
    assert all(0 <= seed < 2**63 for seed in seeds)
