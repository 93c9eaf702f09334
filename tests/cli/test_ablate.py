"""bloomery ablate from end to end: arms of planted quality, held-out text that is in no arm, and mistakes told in one line."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from bloomery.cli.main import app
from bloomery.core.files import write_jsonl
from bloomery.curate.ledger import read_ledger

WORDS = ["smith", "carries", "ore", "to", "furnace", "before", "dark", "village", "bell", "iron"]

RECIPE = """
name = "iron"
[stages.common]
stage = "mix"
inputs = { documents = "file:texts.jsonl" }
[stages.held]
stage = "mix"
inputs = { documents = "file:texts.jsonl" }
config = { validation_fraction = 0.25 }
[stages.corpus]
stage = "mix"
inputs = { documents = "file:texts.jsonl" }
[stages.tokenizer]
stage = "train_tokenizer"
inputs = { documents = "common" }
config = { vocab_size = 300 }
[stages.tokens]
stage = "tokenize"
inputs = { documents = "corpus", tokenizer = "tokenizer" }
[stages.base]
stage = "pretrain"
inputs = { tokens = "tokens", tokenizer = "tokenizer" }
[stages.base.config]
model = { depth = 1, dim = 16, head_dim = 16 }
tokens = 12_000
sequence_tokens = 64
batch_tokens = 1024
learning_rate = 0.03
num_validations = 1
num_samples = 0
[ablation]
question = "Does noise teach?"
model = "base"
seeds = [0, 1, 2]
baseline = "texts"
held_out = "held"
tasks = ["copa"]
data = ["file:rows"]
num_shots = 0
[ablation.arms.texts]
[ablation.arms.noise]
set = { "corpus.inputs.documents" = "file:noise.jsonl" }
[ablation.arms.others]
set = { "corpus.inputs.documents" = "file:others.jsonl" }
[ablation.predictions]
bits_per_byte = { wins = "noise", because = "noise has more to learn from" }
"""


def run(*arguments: object, expect: int = 0) -> Result:
    done = CliRunner().invoke(app, ["ablate", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == expect, done.output
    return done


def texts(prefix: str, seed: int) -> list[dict[str, str]]:
    generator = random.Random(seed)
    # Each word but some follows from its place: something to learn, by which both halves are alike.
    return [
        {"id": f"{prefix}{i}", "text": " ".join(generator.choice(WORDS) if generator.random() < 0.4 else WORDS[k % 10] for k in range(50))}
        for i in range(80)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ablate")
    generator, own = random.Random(0), texts("t", 1)
    noise = ["".join(generator.choice("abcdefghijklm nopqrstuvwxyz") for _ in range(300)) for _ in range(80)]
    write_jsonl(path / "texts.jsonl", own)
    write_jsonl(
        path / "others.jsonl", [*texts("o", 2), *({"id": f"copy{row['id']}", "text": f"Copied: {row['text']} (end)"} for row in own)]
    )
    write_jsonl(path / "noise.jsonl", [{"id": f"n{i}", "text": text} for i, text in enumerate(noise)])
    write_jsonl(
        path / "rows" / "copa.jsonl", [{"query": f"the {WORDS[i % 10]}", "choices": ["bell.", "iron."], "gold": i % 2} for i in range(12)]
    )
    (path / "iron.toml").write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def finished(folder):
    patch, threads = pytest.MonkeyPatch(), torch.get_num_threads()
    patch.chdir(folder)
    torch.set_num_threads(1)
    yield run("iron.toml").stdout, folder / "runs" / "iron-arms"
    torch.set_num_threads(threads)
    patch.undo()


def test_an_arm_of_noise_loses_and_arms_of_the_same_kind_cannot_be_told_apart(finished):
    _, folder = finished
    report = json.loads((folder / "ablation" / "ablation.json").read_text())
    (outcome,) = [one for one in report["outcomes"] if one["key"] == "bits_per_byte"]
    verdicts = {(one["ours"], one["theirs"]): one["verdict"] for one in outcome["comparisons"]}
    assert verdicts[("noise", "texts")] == "worse" and verdicts[("others", "noise")] == "better"
    assert verdicts[("others", "texts")] in ("unknown", "unclear")
    assert outcome["prediction"]["result"] == "wrong"


def test_what_is_said_stands_on_the_terminal_and_on_the_pages(finished):
    told, folder = finished
    for text in (told, (folder / "ablation" / "ablation.md").read_text(), (folder / "ablation" / "ablation.html").read_text()):
        assert "held-out texts, bits per byte: noise is worse than texts, +" in text
        assert "predicted noise, because noise has more to learn from. Outcome: wrong" in text
        assert "Other sizes and budgets: all models have 0.01 M parameters" in text
    assert "Page: " in told and "<svg" in (folder / "ablation" / "ablation.html").read_text()
    assert (folder / "ablation" / "differences_1.svg").read_text().startswith("<svg")


def test_no_held_out_document_nor_a_near_copy_of_one_is_in_any_arm(finished):
    _, folder = finished
    held = set(pq.read_table(folder / "held" / "validation" / "00000.parquet").column("id").to_pylist())
    assert 10 < len(held) < 40
    dropped = {}
    for name, prefix in (("kept_corpus_0", ""), ("kept_corpus_others_0", "copy")):
        dropped[name] = {row["id"] for row in read_ledger(folder / name).to_pylist()}
        assert dropped[name] == {f"{prefix}{id}" for id in held}
    report = json.loads((folder / "ablation" / "ablation.json").read_text())
    assert {arm: one["documents_dropped"] for arm, one in report["facts"].items()} == {"texts": len(held), "noise": 0, "others": len(held)}
    for arm in ("", "_others", "_noise"):
        trained = pq.read_table(folder / f"corpus{arm}" / "train" / "00000.parquet").column("id").to_pylist()
        assert not {id.removeprefix("copy") for id in trained} & held


def test_the_same_command_finds_all_done_and_json_is_the_report(finished):
    again = json.loads(run("iron.toml", "--json").stdout)
    assert again["baseline"] == "texts" and Path(again["page"]).is_file() and again["outcomes"][0]["key"] == "bits_per_byte"


def test_a_dry_run_lists_the_stages_by_arm_and_mistakes_are_told_in_one_line(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    told = json.loads(run("iron.toml", "--dry-run", "--json", "--out", tmp_path / "arms.toml").stdout)
    arms = {one["id"]: one["arms"] for one in told["stages"]}
    assert arms["tokenizer"] == ["texts", "noise", "others"] and arms["corpus_noise"] == ["noise"] and arms["scores"] == []
    assert told["models"]["noise"] == [f"base_noise_seed{seed}" for seed in range(3)]
    wrong = run("iron.toml", "--set", "ablation.baseline=txts", "--dry-run", expect=2).output
    assert 'baseline = "txts" is not an arm; did you mean "texts"?' in wrong
    assert "changes tokens of base" in run("iron.toml", "--set", 'ablation.arms.noise.set={ "base.tokens" = 5 }', expect=2).output
    assert "`bloomery ablate` runs" in CliRunner().invoke(app, ["run", "iron.toml"]).output
