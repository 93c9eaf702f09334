"""The whole line as a user runs it: the smoke recipe from the command line, then everything that can be done with its run."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.huggingface import load_model
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import load_tokenizer

NUM_PROMPTS = 20


def bloomery(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("bloomery"), *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == expect, f"{arguments} ended with {done.returncode}:\n{done.stderr[-3000:]}"
    return done


@pytest.fixture
def store(smoke_store) -> Path:
    return smoke_store


class Links(HTMLParser):
    """Collects whatever a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "srcset", "action", "data")]
        self.found += [f"{tag} {value}" for name, value in attrs if name == "href" and not str(value).startswith("#")]


def test_the_report_is_one_file_that_shows_every_part_of_the_run(store):
    page = (store / "smoke" / "report.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert links.found == ["a scores/evaluation.html"]  # the page of its own that a stage wrote, beside the report
    assert (store / "smoke" / "scores" / "evaluation.html").is_file()
    assert not re.search(r"@import|url\((?!#)", page)
    for part in ("scores", "samples", "funnel", "dropped", "tokens", "training", "stages", "recipe"):
        assert f'id="{part}"' in page, part
    assert page.count("<svg") >= 8
    text = (store / "smoke" / "report.md").read_text(encoding="utf-8")
    assert "| exact match |" in text and "too_few_words" in text


def test_the_funnel_adds_up_at_every_step(store):
    status = json.loads(bloomery("status", store / "smoke", "--json").stdout)
    folders = [store / "smoke" / node["id"] for node in status["nodes"]]
    records = [json.loads((folder / "artifact.json").read_text()) for folder in folders]
    stages = ("crawl", "extract", "filter", "dedup", "decontaminate", "mix")
    counts = {record["stage"]: record["metrics"] for record in records if record["stage"] in stages}
    assert tuple(counts) == stages
    for stage, numbers in counts.items():
        dropped = sum(count for name, count in numbers.items() if name.startswith("dropped/"))
        assert numbers["documents_in"] == numbers["documents_out"] + dropped, stage
    for above, below in itertools.pairwise(stages):
        assert counts[above]["documents_out"] == counts[below]["documents_in"], (above, below)


def test_a_second_run_finds_all_done_and_makes_nothing(store):
    before = sorted((path, path.stat().st_mtime_ns) for path in (store / "artifacts").rglob("*"))
    told = json.loads(bloomery("run", "smoke", "--store", store, "--json").stdout)
    assert told["made"] == []
    assert sorted((path, path.stat().st_mtime_ns) for path in (store / "artifacts").rglob("*")) == before


def test_one_changed_threshold_runs_the_stages_below_it_again_and_no_other(store):
    options = ("run", "smoke", "--store", store, "--set", "filtered.thresholds.too_few_words=60", "--dry-run", "--json")
    nodes = {node["id"]: node for node in json.loads(bloomery(*options).stdout)["nodes"]}
    assert {node_id for node_id, node in nodes.items() if node["state"] == "done"} == {"pages", "extracted", "skills"}
    assert nodes["filtered"]["reason"] == "config changed: thresholds.too_few_words (default) -> 60.0"


def test_a_question_gets_one_answer_on_stdout(store):
    answer = bloomery("chat", store / "smoke", "--prompt", "What is 2 + 3?", "--json")
    assert isinstance(json.loads(answer.stdout), dict)


def test_the_exported_folder_is_what_transformers_loads_with_equal_logits_and_equal_greedy_text(store, tmp_path):
    transformers = pytest.importorskip("transformers")
    bloomery("export", store / "smoke", "--format", "hf", "--out", tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer, model = load_tokenizer(tmp_path / "model"), load_model(tmp_path / "model").eval()
    ids = torch.tensor([tokenizer.encode("Return the sum of a list of numbers, or a list of words.")])
    with torch.no_grad():
        assert torch.allclose(model(ids), theirs(ids).logits, atol=1e-5, rtol=0)
    prompts = [[{"role": "user", "content": f"Sort these numbers: {i} {97 - i} {3 * i}"}] for i in range(NUM_PROMPTS)]
    rendered = [render(tokenizer, messages, add_generation_prompt=True).ids for messages in prompts]
    ours = Engine(model, tokenizer).generate(rendered, SamplingParams(max_tokens=12, temperature=0.0), seeds=[0] * NUM_PROMPTS)
    for messages, prompt, sample in zip(prompts, rendered, ours, strict=True):
        encoded = their_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        assert encoded["input_ids"][0].tolist() == prompt
        generated = theirs.generate(**encoded, max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
        assert generated == sample.tokens


def test_documents_and_scores_are_read_by_plain_parquet_and_json(store):
    table = pq.read_table(store / "smoke" / "corpus" / "train")
    assert {"id", "text", "url", "language"} <= set(table.column_names) and len(table) > 5
    scores = json.loads((store / "smoke" / "scores" / "scores.json").read_text())
    assert scores["models"] == ["base", "sft", "dpo"]
    for metric in ("exact_match", "format_valid", "stopped", "bits_per_byte"):
        cell = scores["metrics"]["sft"][metric]
        assert cell["low"] <= cell["value"] <= cell["high"]


def test_a_deleted_artifact_is_named_and_made_again(store, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(store, copy, symlinks=True)
    shutil.rmtree((copy / "smoke" / "chat").resolve())
    told = json.loads(bloomery("run", "smoke", "--store", copy, "--json").stdout)
    assert told["made"] == ["chat"]
