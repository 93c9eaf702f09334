"""Benchmarks through the stage: what is kept, what is left out, what stands beside a score."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_jsonl
from bloomery.core.stage import Runtime
from bloomery.evaluate.rows import MissingRows
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.evaluate import EvaluateConfig, evaluate
from bloomery.tokens.tokenizer import load_tokenizer

LEAKED = "A long question about how many red houses the old cat saw by the sea on the day before the dog ran away"
TASKS = ["copa", "arc_easy", "winogrande", "lambada_openai", "gsm8k", "stereotype_pairs", "refusal_harmful", "instructions", "toxicity"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    shape = {"dim": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_dim": 48}
    config = ModelConfig(vocab_size=load_tokenizer(tiny_tokenizer).vocab_size, max_positions=256, **shape)
    save_model(Transformer(config, seed=5), folder, tokenizer=tiny_tokenizer)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    arc = [{"query": f"Question: the cat and {i} dogs?", "choices": ["a mat", "the sea", f"{i}"], "gold": i % 3} for i in range(14)]
    arc[3]["query"] = f"Question: {LEAKED}?"
    write_jsonl(folder / "arc_easy.jsonl", arc)
    write_jsonl(
        folder / "copa.jsonl", [{"query": f"the cat {i} sat, so", "choices": ["it ran.", "the dog."], "gold": i % 2} for i in range(8)]
    )
    sentence = {"context_options": ["a cat", "a dog"], "continuation": "ran to the sea", "gold": 1}
    write_jsonl(folder / "winogrande.jsonl", [sentence] * 4)
    write_jsonl(folder / "lambada_openai.jsonl", [{"context": "the cat sat on a", "continuation": "mat"}] * 3)
    write_jsonl(folder / "gsm8k.jsonl", [{"question": f"{i} and 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(7)])
    write_jsonl(folder / "bad_words.jsonl", [{"lang": "en", "words": ["the", "a", "e", "t"]}])
    write_jsonl(folder / "trained_on.jsonl", [{"text": "nothing of it"}, {"text": f"It began so. {LEAKED}. And it ended."}])
    write_jsonl(folder / "texts.jsonl", [{"text": "the cat sat on a mat", "source": "s"}, {"text": "the dog ran", "source": "t"}])
    return folder


def run(out: Path, models: list[Path], data: Path, **changes: Any) -> dict[str, Any]:
    slots = {
        "data": [data],
        "lists": [data / "bad_words.jsonl"],
        "documents": [data / "trained_on.jsonl"],
        "corpus": [data / "texts.jsonl"],
    }
    config = EvaluateConfig(tasks=changes.pop("tasks", TASKS), limit=changes.pop("limit", 5), **changes.pop("config", {"num_shots": 0}))
    return dict(evaluate(config, models=models, **{**slots, **changes}, out=out, runtime=Runtime(quiet=True, device="cpu")))


@pytest.fixture(scope="module")
def evaluated(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    return out, run(out, [checkpoint], data)


def test_every_benchmark_has_its_figure_with_an_interval_rows_and_shots(evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = evaluated
    scores = read_json(out / "scores.json")
    tasks = scores["tasks"]["model-1"]
    assert set(tasks) == {*TASKS, "bits_per_byte"}
    for name, record in tasks.items():
        score = record["metrics"][record["metric"]]
        assert score["low"] <= score["value"] <= score["high"]
        assert metrics[f"model-1/{name}"] == score["value"]
    assert (tasks["arc_easy"]["rows"], tasks["arc_easy"]["rows_in_file"], tasks["arc_easy"]["num_shots"]) == (5, 14, 0)
    assert set(tasks["arc_easy"]["files"]) == {"arc_easy.jsonl"}
    assert set(tasks["bits_per_byte"]["by_group"]) == {"s", "t"}
    assert tasks["toxicity"]["metrics"]["bad_words_max"]["value"] > 0.5
    assert scores["core"]["model-1"]["nanochat"]["value"] is None


def test_the_samples_of_all_rows_are_kept(evaluated: tuple[Path, dict[str, Any]]) -> None:
    rows = pq.read_table(evaluated[0] / "task_samples.parquet").to_pylist()
    arc = [row for row in rows if row["task"] == "arc_easy"]
    assert len(arc) == 5
    for row in arc:
        assert len(row["logps"]) == 3 and row["file"] == "arc_easy.jsonl"
        assert json.loads(row["values"])["accuracy_after_common"] == float(row["gold"] == row["prediction"])
    assert all(len(row["completions"]) == 4 for row in rows if row["task"] == "toxicity")


def test_a_row_that_the_model_was_trained_on_is_counted_beside_the_score(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", [checkpoint], data, tasks=["arc_easy", "copa"], limit=0)
    tasks = read_json(tmp_path / "out" / "scores.json")["tasks"]["model-1"]
    assert tasks["arc_easy"]["contamination"]["rows"] == 1
    assert tasks["arc_easy"]["contamination"]["clean"]["count"] == 13
    assert tasks["copa"]["contamination"]["rows"] == 0
    rows = pq.read_table(tmp_path / "out" / "task_samples.parquet").to_pylist()
    assert [row["line"] for row in rows if row["contaminated"]] == [4]


def test_a_continued_evaluation_asks_only_what_is_missing_and_gives_the_same_bytes(
    evaluated: tuple[Path, dict[str, Any]], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(out, [checkpoint], data)
    kept = out / ".scratch" / "tasks-000" / "copa.json"
    before = kept.stat().st_mtime_ns
    (out / ".scratch" / "tasks-000" / "gsm8k.json").unlink()
    (out / "scores.json").unlink()
    assert run(out, [checkpoint], data) == evaluated[1]
    assert kept.stat().st_mtime_ns == before
    for name in ("scores.json", "task_samples.parquet", "evaluation.html"):
        assert (out / name).read_bytes() == (evaluated[0] / name).read_bytes()


def test_several_models_get_a_table_of_gains_and_costs(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    config = {"names": ["base", "sft"], "baseline": "base"}
    run(tmp_path / "out", [checkpoint, checkpoint], data, tasks=["instructions"], config=config)
    table = read_json(tmp_path / "out" / "scores.json")["tradeoffs"]
    assert [row["model"] for row in table] == ["base", "sft"]
    assert table[0]["instruction_following"]["count"] == 5
    assert table[0]["cost"]["parameters"] > 1000 and table[0]["helpfulness"] is None
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "What each stage gains and costs" in page and "instruction checks" in page


def test_of_a_collection_benchmarks_without_rows_are_left_out_and_named(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", [checkpoint], data, tasks=["all"], limit=2, lists=[], config={"num_shots": 1})
    scores = read_json(tmp_path / "out" / "scores.json")
    assert "Looked for core/piqa" in scores["skipped"]["piqa"]
    assert "--lists FILE" in scores["skipped"]["toxicity"]
    assert {"copa", "gsm8k", "ifeval"} & set(scores["tasks"]["model-1"]) == {"copa", "gsm8k"}


def test_a_benchmark_asked_for_by_name_must_have_its_rows(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingRows, match="piqa: no file for it"):
        run(tmp_path / "out", [checkpoint], data, tasks=["piqa"])
    with pytest.raises(DataError, match=r"arc_easy\.jsonl:2: arc_easy: gold is 7"):
        write_jsonl(tmp_path / "arc_easy.jsonl", [{"query": "q", "choices": ["a", "b"], "gold": gold} for gold in (0, 7)])
        run(tmp_path / "out2", [checkpoint], tmp_path, tasks=["arc_easy"], lists=[], documents=[], corpus=[])


def test_unknown_names_and_empty_evaluations_are_explained(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match='no task "arc_esy"; did you mean "arc_easy"'):
        EvaluateConfig(tasks=["arc_esy"])
    with pytest.raises(ConfigError, match="nothing to evaluate on"):
        run(tmp_path / "out", [checkpoint], data, tasks=[], corpus=[])


def test_chat_versions_are_asked_through_the_template(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", [checkpoint], data, tasks=["copa", "gsm8k"], limit=2, config={"chat": True})
    tasks = read_json(tmp_path / "out" / "scores.json")["tasks"]["model-1"]
    assert {"copa_chat", "gsm8k_chat"} <= set(tasks)
    prompt = tasks["copa_chat"]["example_prompt"]
    assert prompt.startswith("<|bos|><|user|>the cat") and prompt.endswith("Answer with the letter only.<|end|><|assistant|>")


def test_a_model_whose_context_is_too_short_for_a_row_leaves_the_benchmark_out_and_says_why(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    run(tmp_path / "out", [tiny_checkpoint], data, tasks=["stereotype_pairs", "copa"], limit=0)
    tasks = read_json(tmp_path / "out" / "scores.json")["tasks"]["model-1"]
    assert "but the model reads 48 at once" in tasks["stereotype_pairs"]["skipped"]
    assert "metrics" in tasks["copa"]


def test_the_log_likelihood_of_the_right_answer_is_a_figure_of_its_own(evaluated: tuple[Path, dict[str, Any]]) -> None:
    rows = pq.read_table(evaluated[0] / "task_samples.parquet").to_pylist()
    choices = {"arc_easy": 3, "copa": 2}
    for row in [row for row in rows if row["task"] in choices]:
        values, logp = json.loads(row["values"]), torch.tensor(row["logps"], dtype=torch.float64)
        texts = {"arc_easy": ["a mat", "the sea"], "copa": ["it ran.", "the dog."]}[row["task"]]
        gold = texts.index(row["gold"]) if row["gold"] in texts else 2
        assert values["gold_nats"] == pytest.approx(torch.nn.functional.cross_entropy(logp[None], torch.tensor([gold])).item())
        assert values["gold_bits_per_byte"] == pytest.approx(-logp[gold].item() / math.log(2) / len(row["gold"].encode()))
    tasks = read_json(evaluated[0] / "scores.json")["tasks"]["model-1"]
    assert tasks["winogrande"]["metrics"]["gold_nats"]["low"] > 0
    lambada = tasks["lambada_openai"]["metrics"]
    assert lambada["gold_bits_per_byte"]["value"] == pytest.approx(math.log2(lambada["perplexity"]["value"]) / len("mat"))
