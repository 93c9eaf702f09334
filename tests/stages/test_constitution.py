"""Drafts are criticised and revised, pairs are judged: against a service on this machine whose manners are known."""

import gzip
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bloomery.align.rewards import RewardSpec
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_jsonl
from bloomery.core.stage import Endpoint, Launch, Runtime
from bloomery.stages.constitution import ConstitutionConfig, constitution
from bloomery.stages.judge_pairs import JudgePairsConfig, check_judge, judge_pairs

ROWS = [
    {"messages": [{"role": "user", "content": f"{i} + 1?"}], "skill": "addition", "answer": str(i + 1), "format": "[0-9]+"}
    for i in range(12)
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "prompts" / "train.jsonl.gz", ROWS)
    write_jsonl(tmp_path / "prompts" / "test.jsonl.gz", [{"messages": [{"role": "user", "content": "unseen"}]}])
    return tmp_path / "prompts"


def runtime(service: Any) -> Runtime:
    endpoint = Endpoint(url=service.url, first_wait_seconds=0.01, attempts=2, in_flight=1)
    return Runtime(quiet=True, device="cpu", launch=Launch(endpoint=endpoint))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


class Pupil:
    """Says "maybe N!", finds every fault, and mends what it is asked to mend."""

    def __init__(self, service: Any) -> None:
        self.service = service
        service.write = self.write

    def write(self, prompt: str) -> str:
        if prompt.startswith("Is it"):
            return "No."
        if prompt.startswith(("Make it", "Say it")):
            said = self.service.asked[-1]["messages"][1]["content"]
            return {"Make it calm.": said.replace("!", ""), "Make it sure.": said.replace("maybe ", "")}.get(prompt, said)
        return f"maybe {int(prompt.split()[0]) + 1}!"


CONFIG = ConstitutionConfig(model="echo", constitution="manners", num_prompts=12, rounds=5, max_tokens=16)


def test_answers_are_revised_by_every_principle_and_the_rules_say_how_much_better_they_are(chat_service, prompts, tmp_path) -> None:
    Pupil(chat_service)
    metrics = constitution(CONFIG, prompts=[prompts], out=tmp_path / "out", runtime=runtime(chat_service))
    made = rows(tmp_path / "out" / "train.jsonl.gz")
    assert sorted(row["messages"][-1]["content"] for row in made) == sorted(row["answer"] for row in ROWS)
    assert all(row["answer"] == row["messages"][-1]["content"] and row["format"] == "[0-9]+" for row in made)
    assert metrics["violating/draft"] == 1.0 and metrics["violating/revision"] == 0.0 and metrics["changed_fraction"] == 1.0
    assert metrics["turns/revised"] == 24 and metrics["turns/unchanged"] == 36
    rounds = read_json(tmp_path / "out" / "constitution.json")["rounds"]
    assert [one["round"] for one in rounds] == [0, 1, 2, 3, 4, 5]
    assert rounds[0]["violations"] == {"right": 0.0, "bare": 0.0, "sure": 1.0, "calm": 1.0, "once": 0.0}
    assert all(a["violating"] >= b["violating"] for a, b in itertools.pairwise(rounds))
    step = rows(tmp_path / "out" / "steps.jsonl.gz")[0]
    assert len({turn["principle"] for turn in step["turns"]}) == 5 and step["draft"]["text"].startswith("maybe")
    asked = [body["messages"] for body in chat_service.asked if len(body["messages"]) == 5]
    assert [message["role"] for message in asked[0]] == ["user", "assistant", "user", "assistant", "user"]


def test_a_run_that_failed_half_way_asks_only_for_what_is_missing(chat_service, prompts, tmp_path) -> None:
    Pupil(chat_service)
    whole = constitution(CONFIG, prompts=[prompts], out=tmp_path / "whole", runtime=runtime(chat_service))
    num_asked = len(chat_service.asked)
    assert num_asked == 12 * 11
    chat_service.asked.clear()
    chat_service.faults = [("none",)] * 40 + [("status", 401, {})]
    with pytest.raises(DataError, match="401"):
        constitution(CONFIG, prompts=[prompts], out=tmp_path / "cut", runtime=runtime(chat_service))
    assert len(chat_service.asked) == 41
    assert constitution(CONFIG, prompts=[prompts], out=tmp_path / "cut", runtime=runtime(chat_service)) == whole
    assert len(chat_service.asked) == num_asked + 1
    for name in ("train.jsonl.gz", "steps.jsonl.gz", "constitution.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_revision_of_no_use_leaves_the_answer_as_it_was(chat_service, prompts, tmp_path) -> None:
    chat_service.write = lambda prompt: "" if prompt.startswith(("Make", "Say")) else "words"
    metrics = constitution(
        CONFIG.model_copy(update={"rounds": 1, "critique": "skipped"}),
        prompts=[prompts],
        out=tmp_path / "out",
        runtime=runtime(chat_service),
    )
    assert metrics["turns/empty"] == 12 and metrics["changed_fraction"] == 0.0
    assert {len(body["messages"]) for body in chat_service.asked} == {1, 3}
    chat_service.write = lambda prompt: ""
    with pytest.raises(DataError, match="none of 12 prompts has a draft"):
        constitution(CONFIG, prompts=[prompts], out=tmp_path / "none", runtime=runtime(chat_service))


JUDGED = JudgePairsConfig(model="echo", constitution="manners", num_prompts=12, principles_per_pair=5, max_tokens=16, votes=2)


def draw(service: Any) -> None:
    """Answers that depend on the seed: the first sample of a prompt is calm, the second is not."""
    seen: dict[str, int] = {}

    def write(prompt: str) -> str:
        if not prompt[0].isdigit():
            return "?"
        seen[prompt] = seen.get(prompt, 0) + 1
        return f"{int(prompt.split()[0]) + 1}" + ("!" if seen[prompt] % 2 == 0 else "")

    service.write = write


def fair(prompt: str) -> list[tuple[str, float]]:
    """Likes the answer without the exclamation mark, and A a little."""
    first = prompt.split("\nA: ")[1].split("\n")[0]
    a = 0.55 if "!" in first else 0.85
    return [("A", math.log(a)), ("B", math.log(1 - a))]


def test_pairs_have_soft_labels_of_both_orders_and_the_judge_is_measured(chat_service, prompts, tmp_path) -> None:
    draw(chat_service)
    chat_service.tops = fair
    metrics = judge_pairs(JUDGED, prompts=[prompts], out=tmp_path / "out", runtime=runtime(chat_service))
    made = rows(tmp_path / "out" / "train.jsonl.gz")
    assert len(made) == metrics["pairs"] == 12
    for row in made:
        assert "!" in row["rejected"][0]["content"] and "!" not in row["chosen"][0]["content"]
        assert row["probability"] == pytest.approx((0.85 + 0.45) / 2) and len(row["principles"]) == 5
    assert metrics["judge_agreement"] == 1.0 and metrics["judge_known"] == 12 and not metrics["judge_near_chance"]
    assert metrics["mean_chance_of_a"] == pytest.approx(0.7) and metrics["consistent_fraction"] == 0.0
    report = read_json(tmp_path / "out" / "judge.json")
    assert report["measured_by"] == "rules" and report["by_principle"]["calm"]["value"] == 1.0 and report["by_principle"]["right"] is None
    assert len(pq.read_table(tmp_path / "out" / "judgements.parquet")) == 60
    # A second run has all it needs.
    asked = len(chat_service.asked)
    assert judge_pairs(JUDGED, prompts=[prompts], out=tmp_path / "out", runtime=runtime(chat_service)) == metrics
    assert len(chat_service.asked) == asked


def test_a_judge_that_knows_nothing_is_said_to_be_near_chance_and_one_that_nobody_can_measure_unknown(
    chat_service, prompts, tmp_path, caplog
) -> None:
    draw(chat_service)
    letters = iter("AABBBAABABBABAAB" * 99)

    def guess(prompt: str) -> list[tuple[str, float]]:
        a = 0.6 if next(letters) == "A" else 0.3
        return [("A", math.log(a)), ("B", math.log(1 - a))]

    chat_service.tops = guess
    gold = {"gold": [RewardSpec(source="verifier")], "principles_per_pair": 1}
    metrics = judge_pairs(JUDGED.model_copy(update=gold), prompts=[prompts], out=tmp_path / "out", runtime=runtime(chat_service))
    assert metrics["judge_near_chance"] and "near chance" in caplog.text
    assert read_json(tmp_path / "out" / "judge.json")["measured_by"] == "gold"
    caplog.clear()
    write_jsonl(tmp_path / "bare.jsonl", [{"messages": row["messages"]} for row in ROWS])
    chat_service.tops = fair_of_default
    draw(chat_service)
    metrics = judge_pairs(
        JUDGED.model_copy(update={"constitution": "default"}),
        prompts=[tmp_path / "bare.jsonl"],
        out=tmp_path / "two",
        runtime=runtime(chat_service),
    )
    assert metrics["judge_known"] == 0 and "judge_agreement" not in metrics and "unknown" in caplog.text


def fair_of_default(prompt: str) -> list[tuple[str, float]]:
    a = 0.3 if "!" in prompt.split("Answer A:\n")[1].split("\n")[0] else 0.8
    return [("A", math.log(a)), ("B", math.log(1 - a))]


def test_without_a_model_or_with_two_the_error_says_what_to_give(prompts, tmp_path, chat_service) -> None:
    plain = Runtime(quiet=True)
    with pytest.raises(ConfigError, match=r"give the input `model`.*found neither"):
        constitution(CONFIG.model_copy(update={"model": ""}), prompts=[prompts], out=tmp_path / "out", runtime=plain)
    with pytest.raises(ConfigError, match="found both"):
        constitution(CONFIG, model=tmp_path, prompts=[prompts], out=tmp_path / "out", runtime=runtime(chat_service))
    assert "a name at an endpoint" in check_judge(JUDGED.model_copy(update={"judge_model": "x"}), Launch(), {})[0]
    assert "not both" in check_judge(JUDGED.model_copy(update={"judge_model": "x"}), runtime(chat_service).launch, {"judge": tmp_path})[0]


def test_a_judge_without_a_preference_gives_no_pairs(chat_service, prompts, tmp_path) -> None:
    draw(chat_service)
    chat_service.tops = lambda prompt: [("A", math.log(0.5)), ("B", math.log(0.5))]
    with pytest.raises(DataError, match="12 have two different answers, and the judge prefers none"):
        judge_pairs(JUDGED, prompts=[prompts], out=tmp_path / "out", runtime=runtime(chat_service))
    chat_service.write = lambda prompt: "the same"
    with pytest.raises(DataError, match="no two different answers to any of 12 prompts"):
        judge_pairs(JUDGED, prompts=[prompts], out=tmp_path / "same", runtime=runtime(chat_service))
