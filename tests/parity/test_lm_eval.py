"""Our tasks beside lm-eval 0.4.13: same rows in files, its own way of writing tasks, its Hugging Face backend on the checkpoint.

Every log-likelihood agrees to 1e-4 and every accuracy exactly; our adapter inside lm-eval gives what its backend gives.
"""
# ruff: noqa: E501  # a row of the tables of rows and of YAML stays on one line

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'bloomery[parity]'")

from bloomery.core.files import write_jsonl
from bloomery.evaluate.rows import read_rows
from bloomery.evaluate.run import run_benchmark
from bloomery.evaluate.scores import measure
from bloomery.evaluate.tasks.catalog import catalog
from bloomery.generate.engine import Engine
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

NOUNS = ("the cat", "a red house", "the sea", "an old man", "12 dogs", "Zoë's café", "the moon", "this river")
VERBS = ("sat on", "ran to", "saw", "looks like", "is not", "doesn't need", "came from")


def sentence(i: int) -> str:
    return f"{NOUNS[i % 8]} {VERBS[i % 7]} {NOUNS[(i * 3 + 1) % 8]} {VERBS[(i + 2) % 7]} {NOUNS[(i * 5 + 2) % 8]}"


def choices(i: int, count: int) -> list[str]:
    return [f"{sentence(i * 7 + k)}{'.' if k % 2 else ' and more'}" for k in range(count)]


COUNT = 12
MC = "output_type: multiple_choice\nmetric_list:\n  - {metric: acc}\n  - {metric: acc_norm}\n"
LETTERS = '["A", "B", "C", "D"]'
QUERY = 'doc_to_text: "{{query}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{gold}}"\n'

ROWS: dict[str, list[dict[str, Any]]] = {
    "arc_easy": [{"question": sentence(i) + "?", "choices": {"text": choices(i, 4), "label": ["A", "B", "C", "D"]}, "answerKey": "ABCD"[i % 4]} for i in range(COUNT)],
    "arc_challenge": [{"question": sentence(i + 3) + "?", "choices": {"text": choices(i, 4), "label": ["1", "2", "3", "4"]}, "answerKey": "1234"[i % 4]} for i in range(COUNT)],
    "openbook_qa": [{"question_stem": sentence(i), "choices": {"text": choices(i + 1, 4), "label": ["A", "B", "C", "D"]}, "answerKey": "ABCD"[i % 3]} for i in range(COUNT)],
    "hellaswag": [{"query": f"Roof: {sentence(i)}. He", "choices": choices(i + 2, 4), "gold": i % 4} for i in range(COUNT)],
    "copa": [{"query": f"{sentence(i)}, because", "choices": choices(i, 2), "gold": i % 2} for i in range(COUNT)],
    "piqa": [{"goal": sentence(i), "sol1": choices(i, 2)[0], "sol2": choices(i, 2)[1], "label": i % 2} for i in range(COUNT)],
    "boolq": [{"passage": " ".join(sentence(i + k) for k in range(4)), "question": sentence(i), "answer": i % 2 == 0} for i in range(COUNT)],
    "winogrande": [{"context_options": [f"{sentence(i)} so {name}" for name in ("Ann", "Bob")], "continuation": sentence(i + 1), "gold": i % 2} for i in range(COUNT)],
    "lambada_openai": [{"text": f"{sentence(i)}. {sentence(i + 1)} house"} for i in range(COUNT)],
    "mmlu": [{"subject": "abstract_algebra", "question": f" {sentence(i)}? ", "choices": choices(i, 4), "answer": i % 4} for i in range(COUNT)],
    "bigbench_qa_wikidata": [{"context": sentence(i), "continuation": NOUNS[i % 8]} for i in range(COUNT)],
}  # fmt: skip

TASKS = {
    "arc_easy": MC + 'doc_to_text: "Question: {{question}}\\nAnswer:"\ndoc_to_choice: "{{choices.text}}"\ndoc_to_target: "{{choices.label.index(answerKey)}}"\n',
    "arc_challenge": MC + 'doc_to_text: "Question: {{question}}\\nAnswer:"\ndoc_to_choice: "{{choices.text}}"\ndoc_to_target: "{{choices.label.index(answerKey)}}"\n',
    "openbook_qa": MC + 'doc_to_text: question_stem\ndoc_to_choice: "{{choices.text}}"\ndoc_to_target: "{{choices.label.index(answerKey)}}"\n',
    "hellaswag": MC + QUERY,
    "copa": MC + QUERY,
    "piqa": MC + 'doc_to_text: "Question: {{goal}}\\nAnswer:"\ndoc_to_choice: "{{[sol1, sol2]}}"\ndoc_to_target: label\n',
    "boolq": MC + 'doc_to_text: "Passage: {{passage}}\\nQuestion: {{question}}?\\nAnswer:"\ndoc_to_choice: ["no", "yes"]\ndoc_to_target: "{{1 if answer else 0}}"\n',
    "winogrande": "output_type: multiple_choice\nmetric_list:\n  - {metric: acc}\n" + 'doc_to_text: "{{gold}}"\ndoc_to_choice: "{{context_options}}"\ndoc_to_target: "{{continuation}}"\n',
    "lambada_openai": 'output_type: loglikelihood\nmetric_list:\n  - {metric: perplexity}\n  - {metric: acc}\ndoc_to_text: "{{text.split(\' \')[:-1]|join(\' \')}}"\ndoc_to_target: "{{\' \'+text.split(\' \')[-1]}}"\n',
    "mmlu": MC + f'doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{choices[0]}}}}\\nB. {{{{choices[1]}}}}\\nC. {{{{choices[2]}}}}\\nD. {{{{choices[3]}}}}\\nAnswer:"\ndoc_to_choice: {LETTERS}\ndoc_to_target: answer\n'
    + "fewshot_split: dev\nfewshot_config: {sampler: first_n}\n"
    + 'description: "The following are multiple choice questions (with answers) about abstract algebra.\\n\\n"\n',
    "bigbench_qa_wikidata": 'output_type: loglikelihood\nmetric_list:\n  - {metric: perplexity}\n  - {metric: acc}\ndoc_to_text: "{{context}}"\ndoc_to_target: "{{\' \'+continuation}}"\n',
}  # fmt: skip
SHOTS = {"mmlu": 5}


class Peers:
    """A checkpoint, its rows, and lm-eval over both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        text = " ".join(sentence(i) for i in range(60)) + " Question: Answer: Passage: The following are multiple choice questions about"
        write_tokenizer(folder / "tokenizer", train_bpe([text] * 3, vocab_size=380, pattern="llama3"), pattern="llama3")
        vocab_size = load_tokenizer(folder / "tokenizer").vocab_size
        shape = {"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 48}
        model = Transformer(ModelConfig(vocab_size=vocab_size, max_positions=1024, **shape), seed=3)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(3.0 if weight.ndim > 1 else 1.0)  # random weights as they are drawn find all texts alike
        self.model = folder / "model"
        save_model(model, self.model, tokenizer=folder / "tokenizer")
        tokenizer = load_tokenizer(self.model)
        self.engine = Engine(load_model(self.model).eval(), tokenizer)
        for name, rows in ROWS.items():
            write_jsonl(folder / f"{name}.jsonl", rows)
        write_jsonl(folder / "mmlu_dev.jsonl", ROWS["mmlu"][::-1][:6])
        for name, body in TASKS.items():
            dev = f", dev: {folder}/mmlu_dev.jsonl" if name == "mmlu" else ""
            head = f"task: our_{name}\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {folder}/{name}.jsonl{dev}}}\ntest_split: test\n"
            (folder / f"{name}.yaml").write_text(head + body + f"num_fewshot: {SHOTS.get(name, 0)}\n")
        rolling = "output_type: loglikelihood_rolling\nmetric_list:\n  - {metric: bits_per_byte}\n"
        write_jsonl(folder / "texts.jsonl", [{"text": " ".join(sentence(i + k) for k in range(90 if i == 0 else 3))} for i in range(4)])
        head = f"task: our_texts\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {folder}/texts.jsonl}}\ntest_split: test\n"
        (folder / "texts.yaml").write_text(head + rolling + 'doc_to_text: ""\ndoc_to_target: "{{text}}"\n')
        until = 'output_type: generate_until\ngeneration_kwargs: {until: ["."], max_gen_toks: 12, do_sample: false}\n'
        head = head.replace("our_texts", "our_said").replace("texts.jsonl", "copa.jsonl")
        (folder / "said.yaml").write_text(
            head + until + 'doc_to_text: "{{query}}"\ndoc_to_target: "x"\nmetric_list:\n  - {metric: exact_match}\n'
        )

    def lm_eval(self, lm: Any, names: list[str]) -> dict[str, Any]:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(self.folder), include_defaults=False)
        return simple_evaluate(lm, tasks=[f"our_{name}" for name in names], task_manager=manager, bootstrap_iters=0, log_samples=True)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    torch.set_num_threads(1)
    return Peers(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module")
def theirs(peers: Peers) -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=str(peers.model), device="cpu", dtype="float32", batch_size=8, add_bos_token=True)
    return peers.lm_eval(lm, [*TASKS, "said"])


def logps_of(results: dict[str, Any], name: str) -> list[list[float]]:
    samples = sorted(results["samples"][f"our_{name}"], key=lambda sample: sample["doc_id"])
    return [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]


@pytest.mark.parametrize("name", TASKS)
def test_log_likelihoods_and_accuracies_are_those_of_lm_eval(peers: Peers, theirs: dict[str, Any], name: str) -> None:
    benchmark = catalog()[name]
    record = run_benchmark(
        peers.engine, peers.engine.tokenizer, benchmark, read_rows(benchmark, [peers.folder]), num_shots=SHOTS.get(name, 0)
    )
    samples = sorted(record["samples"], key=lambda sample: sample["line"])
    ours = [sample.get("logps") or [sample["values"]["logp"]] for sample in samples]
    for mine, yours in zip(ours, logps_of(theirs, name), strict=True):
        assert mine == pytest.approx(yours, abs=1e-4)
    scores, results = measure(samples, seed=0), theirs["results"][f"our_{name}"]
    assert scores["accuracy"]["value"] == pytest.approx(results["acc,none"], abs=1e-12)
    if "acc_norm,none" in results:
        assert scores["accuracy_per_character"]["value"] == pytest.approx(results["acc_norm,none"], abs=1e-12)
    if "perplexity,none" in results:
        assert scores["perplexity"]["value"] == pytest.approx(results["perplexity,none"], rel=1e-4)


def test_our_model_inside_lm_eval_gives_what_its_own_backend_gives(peers: Peers, theirs: dict[str, Any]) -> None:
    from bloomery.evaluate.lm_eval_adapter import BloomeryLM

    found = peers.lm_eval(BloomeryLM(str(peers.model), device="cpu"), [*TASKS, "said"])
    for name in TASKS:
        assert found["results"][f"our_{name}"]["acc,none"] == theirs["results"][f"our_{name}"]["acc,none"]
        for mine, yours in zip(logps_of(found, name), logps_of(theirs, name), strict=True):
            assert mine == pytest.approx(yours, abs=1e-4)
    said = [[sample["filtered_resps"][0] for sample in results["samples"]["our_said"]] for results in (found, theirs)]
    assert said[0] == said[1]
    assert len(set(said[0])) > 1


def test_whole_texts_cost_the_bits_that_lm_eval_says(peers: Peers) -> None:
    from lm_eval.models.huggingface import HFLM

    from bloomery.evaluate.lm_eval_adapter import BloomeryLM

    texts = [json.loads(line)["text"] for line in (peers.folder / "texts.jsonl").read_text().splitlines()]
    ours = peers.lm_eval(BloomeryLM(str(peers.model), device="cpu"), ["texts"])["results"]["our_texts"]["bits_per_byte,none"]
    # add_bos_token would make the backend predict the token that begins a text from itself; it has that as context anyway.
    lm = HFLM(pretrained=str(peers.model), device="cpu", dtype="float32", batch_size=1, add_bos_token=False)
    assert ours == pytest.approx(peers.lm_eval(lm, ["texts"])["results"]["our_texts"]["bits_per_byte,none"], rel=1e-5)
    assert math.isfinite(ours) and sum(map(len, texts)) > 1000


def test_lm_evals_command_line_takes_our_model(peers: Peers, capsys: pytest.CaptureFixture[str]) -> None:
    from bloomery.evaluate.lm_eval_adapter import run_command_line

    run_command_line(peers.model, ["--include_path", str(peers.folder), "--tasks", "our_copa", "--limit", "3"])
    assert "our_copa" in capsys.readouterr().out
