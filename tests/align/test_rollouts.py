"""Rollouts: who is asked, how answers are judged, and that they lie on the disk until they are no longer needed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bloomery.align.episodes import Episode, make_episodes
from bloomery.align.reward_source import Answer
from bloomery.align.rewards import RewardSpec, RewardSum
from bloomery.align.rollouts import (
    Rollout,
    RolloutConfig,
    RolloutStore,
    judge,
    minibatch,
    prompts_of_rollout,
    read_prompts,
    warn_of_narrow_sampling,
)
from bloomery.core.errors import DataError
from bloomery.core.files import write_json, write_jsonl
from bloomery.tokens.renderer import load_renderer
from bloomery.tokens.tokenizer import load_tokenizer


def make_rollout(number: int) -> Rollout:
    found = make_episodes([Episode([1, 2], [3, 4], [True, False], [-0.5, 0.0], True), Episode([1], [5], [True], [-1.0 - number], False)])
    values = {"reward": torch.tensor([1.0, math.nan], dtype=torch.float64)}
    with_tokens = found.with_tokens(advantage=torch.ones(2, 2))
    return Rollout(
        episodes=with_tokens, values=values, trained_N=torch.tensor([True, False]), group_size=2, carried={"baseline": 0.1},
        numbers={"reward": 1.0},
    )  # fmt: skip


def test_a_rollout_read_from_disk_is_the_one_that_was_written(tmp_path) -> None:
    RolloutStore(tmp_path, settings="a", updates=2).get(4, lambda: make_rollout(4))
    read = RolloutStore(tmp_path, settings="a", updates=2).get(4, lambda: pytest.fail("it is on the disk"))
    expected = make_rollout(4)
    assert torch.equal(read.episodes.sampled_logp_NT, expected.episodes.sampled_logp_NT)
    assert torch.equal(read.episodes.of_token["advantage"], torch.ones(2, 2)) and torch.equal(read.trained_N, expected.trained_N)
    assert read.values["reward"].isnan().tolist() == [False, True]
    assert (read.group_size, read.carried, read.numbers) == (2, {"baseline": 0.1}, {"reward": 1.0})


def test_a_rollout_of_other_settings_is_not_taken(tmp_path) -> None:
    RolloutStore(tmp_path, settings="a", updates=2).get(0, lambda: make_rollout(0))
    made = RolloutStore(tmp_path, settings="b", updates=2).get(0, lambda: make_rollout(7))
    assert made.episodes.sampled_logp_NT[1, 0] == -8.0


def test_rollouts_stay_until_no_snapshot_lies_within_their_steps(tmp_path) -> None:
    store = RolloutStore(tmp_path, settings="a", updates=3)
    for number in range(4):
        store.get(number, lambda number=number: make_rollout(number))
    kept = lambda: sorted(int(path.stem) for path in store.folder.glob("*.safetensors"))
    assert kept() == [0, 1, 2, 3], "without a snapshot a killed run begins anew"
    write_json(tmp_path / "step-000007" / "state.json", {"data_step": 7})  # in the middle of rollout 2
    write_json(tmp_path / "step-000012" / "state.json", {"data_step": 12})
    store.get(4, lambda: make_rollout(4))
    assert kept() == [2, 3, 4]


def test_an_epoch_of_minibatches_has_every_trained_answer_once_in_another_order_each_epoch() -> None:
    config = RolloutConfig(minibatches=3, epochs=2)
    trained = torch.ones(20, dtype=torch.bool)
    trained[5] = False
    epochs = [[minibatch(0, 3 * epoch + part, trained, config).tolist() for part in range(3)] for epoch in range(2)]
    for parts in epochs:
        assert sorted(i for part in parts for i in part) == [i for i in range(20) if i != 5]
    assert epochs[0] != epochs[1]
    assert minibatch(0, 0, trained, RolloutConfig()).tolist() == [i for i in range(20) if i != 5]


def test_prompts_come_in_turn_and_other_attempts_ask_others() -> None:
    config = RolloutConfig(batch_prompts=4)
    asked = np.concatenate([prompts_of_rollout(number, 0, num_prompts=8, config=config) for number in range(4)])
    assert sorted(asked[:8]) == sorted(asked[8:]) == list(range(8)) and asked[:8].tolist() != asked[8:].tolist()
    assert (
        prompts_of_rollout(0, 1, num_prompts=1000, config=config).tolist()
        != prompts_of_rollout(0, 0, num_prompts=1000, config=config).tolist()
    )


def test_prompts_are_split_by_their_text_and_those_without_room_are_counted(policy_checkpoint: Path, tmp_path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"say {i % 30}"}, {"role": "assistant", "content": "x"}], "answer": "x", "format": ""}
        for i in range(60)
    ]
    rows.append({"messages": [{"role": "user", "content": "word " * 300}], "answer": "x", "format": ""})
    write_jsonl(tmp_path / "p.jsonl", rows)
    tokenizer = load_tokenizer(policy_checkpoint)
    render, config = load_renderer(policy_checkpoint, tokenizer), RolloutConfig(held_out_fraction=0.3)
    found = read_prompts([tmp_path / "p.jsonl"], render, config, context_tokens=64)
    train, held_out = ({prompt.row["messages"][0]["content"] for prompt in part} for part in (found.train, found.held_out))
    assert not train & held_out and len(train | held_out) == 30 and 3 <= len(held_out) <= 16
    assert found.num_too_long == 1 and len(found.train) + len(found.held_out) == 60
    assert all(prompt.ids[-1] == tokenizer.special_ids["<|assistant|>"] for prompt in found.train)
    with pytest.raises(DataError, match="found no prompt to train on"):
        read_prompts([tmp_path / "p.jsonl"], render, config, context_tokens=5)
    write_jsonl(tmp_path / "q.jsonl", [{"messages": rows[0]["messages"], "answer": "x"}])
    with pytest.raises(DataError, match="1 have a skill that is excluded or are without a column that rewards need: answer, format"):
        read_prompts([tmp_path / "q.jsonl"], render, config, context_tokens=64)


def test_a_reward_of_none_is_not_a_number_and_parts_stand_beside_the_total() -> None:
    def length(rows, answers):
        return [float(len(answer.text)) for answer in answers]

    def sometimes(rows, answers):
        return [None if row["n"] == 1 else 1.0 for row in rows]

    specs = [RewardSpec(source="verifier", name="length", weight=0.5), RewardSpec(source="verifier", name="sometimes")]
    rows, answers = [{"n": 0}, {"n": 1}], [Answer("ab", True), Answer("abcd", False)]
    both = judge(RewardSum(specs, [length, sometimes]), rows, answers, name="gold", together=False)
    assert list(both) == ["gold", "gold/length", "gold/sometimes"]
    assert both["gold"].tolist() == [2.0, 2.0] and both["gold/length"].tolist() == [2.0, 4.0]
    only = judge(RewardSum(specs[1:], [sometimes]), rows, answers, name="reward", together=True)
    assert only["reward"].isnan().tolist() == [False, True]
    assert judge(None, rows, answers, name="gold", together=False) == {}


def test_sampling_from_fewer_tokens_than_are_trained_is_told(caplog) -> None:
    assert not warn_of_narrow_sampling(RolloutConfig())
    assert warn_of_narrow_sampling(RolloutConfig(top_k=50))
    assert "top_k = 50, top_p = 1: answers are drawn from fewer tokens" in caplog.text
    assert json.loads(RolloutConfig(top_p=0.9).model_dump_json())["top_p"] == 0.9
