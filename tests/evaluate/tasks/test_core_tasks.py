"""CORE beside the public definition: DCLM's table (its lines of the 22 tasks, eval_meta_data.csv) and nanochat's arithmetic."""

import random
from typing import Any

import pytest
import torch

from bloomery.evaluate.benchmark import Choice, Completion, Located, Schema
from bloomery.evaluate.rows import Rows
from bloomery.evaluate.run import run_benchmark
from bloomery.evaluate.tasks.catalog import catalog, choose
from bloomery.evaluate.tasks.core_tasks import CORE_TASKS, CoreTask, core_score
from bloomery.generate.engine import Engine

DCLM_TABLE = """
hellaswag_zeroshot,multiple choice,0,10042,25 | jeopardy,language modeling,10,2117,0 | bigbench_qa_wikidata,language modeling,10,20321,0
arc_easy,multiple choice,10,2376,25 | arc_challenge,multiple choice,10,2376,25 | copa,multiple choice,0,100,50
commonsense_qa,multiple choice,10,1221,40.3 | piqa,multiple choice,10,1838,50 | openbook_qa,multiple choice,0,500,25
lambada_openai,language modeling,0,5153,0 | hellaswag,multiple choice,10,10042,25 | winograd,schema,0,273,50
winogrande,schema,0,1267,50 | bigbench_dyck_languages,language modeling,10,1000,0 | agi_eval_lsat_ar,multiple choice,3,230,25
bigbench_cs_algorithms,language modeling,10,1320,0 | bigbench_operators,language modeling,10,210,0
bigbench_repeat_copy_logic,language modeling,10,32,0 | squad,language modeling,10,10570,0 | coqa,language modeling,0,7983,0
boolq,multiple choice,10,3270,62 | bigbench_language_identification,multiple choice,10,10000,25
"""
KINDS = {"multiple choice": "choice", "language modeling": "completion", "schema": "schema"}


def test_the_22_tasks_are_those_of_dclms_table() -> None:
    ours = {fields[0]: CoreTask(*fields) for fields in CORE_TASKS}
    lines = [line.strip().split(",") for line in DCLM_TABLE.replace("\n", "|").split("|") if line.strip()]
    assert [line[0] for line in lines] == list(ours)
    for name, kind, shots, rows, chance in lines:
        assert (ours[name].kind, ours[name].num_shots, ours[name].chance) == (KINDS[kind], int(shots), float(chance))
        # The table repeats arc_easy's count for arc_challenge, whose test set has 1,172 rows.
        assert ours[name].num_rows == (1172 if name == "arc_challenge" else int(rows))


def records(value: float = 0.5, **changes: Any) -> dict[str, Any]:
    found = {}
    for task in (CoreTask(*fields) for fields in CORE_TASKS):
        score = {"value": value, "count": task.num_rows}
        names = ("accuracy", "accuracy_after_common", "accuracy_per_token")
        found[task.name] = {"num_shots": task.num_shots, "metrics": dict.fromkeys(names, score)}
    return found | changes


def test_core_is_the_mean_of_centred_accuracies_over_all_22() -> None:
    chances = [0.25, 0, 0, 0.25, 0.25, 0.5, 0.403, 0.5, 0.25, 0, 0.25, 0.5, 0.5, 0, 0.25, 0, 0, 0, 0, 0, 0.62, 0.25]
    expected = sum((0.5 - chance) / (1 - chance) for chance in chances) / 22
    assert core_score(records(), baselines="v2", metric="nanochat")["value"] == pytest.approx(expected)
    older = core_score(records(), baselines="v1", metric="nanochat")
    changed = {6: 0.2, 14: 0.2, 21: 0.091}
    chances = [changed.get(i, chance) for i, chance in enumerate(chances)]
    assert older["value"] == pytest.approx(sum((0.5 - chance) / (1 - chance) for chance in chances) / 22)
    assert (older["baselines"], older["missing"], older["incomplete"]) == ("v1", [], {})


def test_a_missing_task_or_one_asked_otherwise_gives_no_core() -> None:
    without = {name: record for name, record in records().items() if name != "coqa"}
    assert (core_score(without, baselines="v2", metric="dclm")["value"], core_score(without, baselines="v2", metric="dclm")["missing"]) == (
        None,
        ["coqa"],
    )
    other = records(boolq={"num_shots": 0, "metrics": {}})
    assert core_score(other, baselines="v2", metric="nanochat")["missing"] == ["boolq"]


def test_fewer_rows_than_published_are_said() -> None:
    few = records(copa={"num_shots": 0, "metrics": {"accuracy_after_common": {"value": 0.5, "count": 60}}})
    score = core_score(few, baselines="v2", metric="nanochat")
    assert score["incomplete"] == {"copa": {"rows": 60, "published_rows": 100}}
    assert score["value"] is not None


def test_core_is_one_word_for_all_of_them() -> None:
    assert [benchmark.name for benchmark in choose(["core"])] == [fields[0] for fields in CORE_TASKS]


@torch.no_grad()
def nanochat_says(engine: Engine, prompts: list[str], kind: str, gold: int) -> bool:
    """nanochat/core_eval.py evaluate_example: the lowest mean loss after what the choices have in common, or a greedy match."""
    tokens = [[*engine.tokenizer.begin, *engine.tokenizer.encode(prompt)] for prompt in prompts]
    shortest = min(map(len, tokens))
    same = [len({one[i] for one in tokens}) == 1 for i in (range(shortest) if kind == "choice" else range(-1, -shortest - 1, -1))]
    common = same.index(False) if False in same else shortest
    if kind == "completion":
        start = len(tokens[0])  # the prompt without its continuation comes first
        logits = engine.model(torch.tensor([tokens[1]]))[0]
        return logits[start - 1 : -1].argmax(-1).tolist() == tokens[1][start:]
    losses = []
    for one in tokens:
        logp = engine.model(torch.tensor([one]))[0].log_softmax(-1)
        start = common if kind == "choice" else len(one) - common
        losses.append(-sum(float(logp[i - 1, one[i]]) for i in range(start, len(one))) / (len(one) - start))
    return losses.index(min(losses)) == gold


def sentence(rng: random.Random) -> str:
    words = ("the", "cat", "sat", "on", "a", "mat", "12", "dogs", "ran", "to", "7", "red", "houses", "sea")
    return " ".join(rng.choice(words) for _ in range(rng.randrange(2, 7)))


@pytest.mark.parametrize("name", ["arc_easy", "copa", "winogrande", "lambada_openai"])
def test_every_row_is_judged_as_nanochat_judges_it(engine: Engine, name: str) -> None:
    rng = random.Random(7)
    benchmark, rows = catalog()[name], []
    for i in range(24):
        if benchmark.kind == "choice":  # choices of which some begin alike
            start = sentence(rng) + " " if i % 2 else ""
            rows.append(Choice(f"Question: {sentence(rng)}?", tuple(start + sentence(rng) for _ in range(3)), i % 3))
        elif benchmark.kind == "schema":
            rows.append(Schema((sentence(rng) + " Ann", sentence(rng) + " Bob"), sentence(rng), i % 2))
        else:
            rows.append(Completion(sentence(rng), rng.choice(["the", "cat", "sea"])))
    located = [Located(example, "file", i) for i, example in enumerate(rows, start=1)]
    record = run_benchmark(engine, engine.tokenizer, benchmark, Rows(located, located, {}), num_shots=2 if name == "arc_easy" else 0)
    data = rows[:]
    random.Random(1337).shuffle(data)
    for idx, sample in enumerate(record["samples"]):
        item = data[idx]
        if isinstance(item, Choice):
            shots = random.Random(1234 + idx).sample([i for i in range(24) if i != idx], 2) if name == "arc_easy" else []
            before = "".join(f"{data[i].query}{benchmark.delimiter}{data[i].choices[data[i].gold]}\n\n" for i in shots)
            prompts = [f"{before}{item.query}{benchmark.delimiter}{choice}" for choice in item.choices]
        elif isinstance(item, Schema):
            prompts = [f"{context} {item.continuation}" for context in item.contexts]
        else:
            prompts = [item.context.strip(), f"{item.context.strip()} {item.continuation}"]
        gold = 0 if isinstance(item, Completion) else item.gold
        assert bool(sample["values"][benchmark.metric]) == nanochat_says(engine, prompts, benchmark.kind, gold), idx
