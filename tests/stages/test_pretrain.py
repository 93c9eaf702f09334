"""pretrain: it learns, it resumes to the same bytes, and it refuses what does not fit."""

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from bloomery.core.config import check_config
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.metrics import MetricsLog, read_metrics
from bloomery.core.stage import Launch, Runtime
from bloomery.model.config import ModelShape
from bloomery.model.huggingface import load_model
from bloomery.objectives.next_token import token_logps
from bloomery.stages.pretrain import PretrainConfig, measure, measure_sources, parse_count, pretrain
from bloomery.tokens.loader import token_rows
from bloomery.tokens.shards import open_tokens, write_manifest, write_shard
from bloomery.tokens.tokenizer import load_tokenizer

TINY = PretrainConfig(
    model=ModelShape(depth=2, dim=32, head_dim=16, mlp_dim=64), tokens=5120, sequence_tokens=32, batch_tokens=256, num_validations=4, seed=1
)


class Interrupted(Exception):
    """Stands for a SIGKILL at a chosen row of the log."""


class BreakingLog(MetricsLog):
    def __init__(self, path: Path, rows: int) -> None:
        super().__init__(path)
        self.rows = rows

    def write(self, values: Mapping[str, float | int | str]) -> None:
        super().write(values)
        self.rows -= 1
        if self.rows == 0:
            raise Interrupted


def visible_files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_it_learns_and_writes_a_checkpoint_with_its_curve(tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path) -> None:
    runtime = Runtime(metrics=MetricsLog(tmp_path / "metrics.jsonl"), quiet=True)
    metrics = pretrain(TINY, tokens=tiny_tokens, tokenizer=tiny_tokenizer, out=tmp_path / "out", runtime=runtime)
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert metrics["steps"] == 20 and [row[0] for row in training["curve"]] == [0, 5, 10, 15, 20]
    bits = [row[2] for row in training["curve"]]
    assert bits == sorted(bits, reverse=True) and bits[-1] < 0.8 * bits[0]
    assert metrics["validation_bits_per_byte"] == bits[-1]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in rows if "train/loss" in r] == list(range(1, 21))
    named = {"learning_rate", "gradient_norm", "tokens_per_second", "mfu", "memory_bytes", "data_fraction"}
    assert {"tokens", *(f"train/{name}" for name in named)} <= set(rows[1])
    assert load_model(tmp_path / "out").config.max_positions == 32
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tiny_tokenizer / "tokenizer.json").read_bytes()


def test_the_model_writes_the_same_beginnings_on_at_each_validation(tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path) -> None:
    config = TINY.model_copy(update={"num_samples": 2, "sample_tokens": 5})
    pretrain(config, tokens=tiny_tokens, tokenizer=tiny_tokenizer, out=tmp_path / "out", runtime=Runtime(quiet=True))
    samples = json.loads((tmp_path / "out" / "training.json").read_text())["samples"]
    assert [sample["step"] for sample in samples] == [0, 0, 5, 5, 10, 10, 15, 15, 20, 20]
    assert len({sample["prompt"] for sample in samples}) == 2 and all(sample["prompt"] for sample in samples)
    texts = [sample["text"] for sample in samples[::2]]
    assert len(set(texts)) > 1 and all(isinstance(text, str) for text in texts)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_run_that_is_interrupted_twice_ends_with_the_same_bytes(
    tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path, optimizer: str
) -> None:
    each_step = Launch(keep_every_steps=1)  # by the clock, a busy machine's writer might not be done in time
    config = TINY.model_copy(update={"optimizer": optimizer})
    inputs = {"tokens": tiny_tokens, "tokenizer": tiny_tokenizer}
    expected = pretrain(config, **inputs, out=tmp_path / "whole", runtime=Runtime(quiet=True))
    for rows in (7, 9):
        with pytest.raises(Interrupted):
            runtime = Runtime(metrics=BreakingLog(tmp_path / "log", rows), quiet=True, launch=each_step)
            pretrain(config, **inputs, out=tmp_path / "cut", runtime=runtime)
    assert max(int(p.name[-6:]) for p in (tmp_path / "cut" / ".scratch").glob("step-*")) > 5
    found = pretrain(config, **inputs, out=tmp_path / "cut", runtime=Runtime(quiet=True))
    assert found == expected
    assert visible_files(tmp_path / "cut") == visible_files(tmp_path / "whole")


def test_a_second_call_on_a_finished_folder_changes_nothing(tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path) -> None:
    arguments = {"tokens": tiny_tokens, "tokenizer": tiny_tokenizer, "out": tmp_path / "out", "runtime": Runtime(quiet=True)}
    short = TINY.model_copy(update={"tokens": 512})
    first = pretrain(short, **arguments)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    assert pretrain(short, **arguments) == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == times


def test_a_snapshot_of_other_settings_is_refused(tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path) -> None:
    arguments = {"tokens": tiny_tokens, "tokenizer": tiny_tokenizer, "out": tmp_path / "out", "runtime": Runtime(quiet=True)}
    pretrain(TINY.model_copy(update={"tokens": 512}), **arguments)
    (tmp_path / "out" / "training.json").unlink()
    with pytest.raises(DataError, match="other settings"):
        pretrain(TINY, **arguments)


def test_training_goes_on_from_an_init(tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path, tiny_checkpoint: Path) -> None:
    config = TINY.model_copy(update={"tokens": 512})
    arguments = {"tokens": tiny_tokens, "tokenizer": tiny_tokenizer, "init": tiny_checkpoint, "runtime": Runtime(quiet=True)}
    pretrain(config, **arguments, out=tmp_path / "out")
    assert load_model(tmp_path / "out").config == load_model(tiny_checkpoint).config
    with pytest.raises(ConfigError, match="sequence_tokens = 64 is more than the 48 positions"):
        pretrain(config.model_copy(update={"sequence_tokens": 64}), **arguments, out=tmp_path / "other")


def test_bits_per_byte_counts_every_held_out_token_once(tiny_tokens: Path, tiny_tokenizer: Path, tiny_checkpoint: Path) -> None:
    tokenizer, model = load_tokenizer(tiny_tokenizer), load_model(tiny_checkpoint)
    tokens = open_tokens(tiny_tokens, split="validation")
    config = TINY.model_copy(update={"sequence_tokens": 48, "validation_tokens": 0})
    found = measure(model, source=token_rows(tokens, row_tokens=48), token_bytes=tokenizer.token_bytes(), config=config)
    nats, num_bytes, num_targets = 0.0, 0, 0
    for i in range(tokens.num_documents):
        ids = tokens.document(i).astype(np.int64).tolist()
        logps = token_logps(model(torch.tensor([ids[:-1]])), torch.tensor([ids[1:]]))
        nats, num_targets = nats - logps.sum().item(), num_targets + len(ids) - 1
        num_bytes += len(tokenizer.decode(ids).encode())
    assert max(tokens.lengths) <= 48
    assert found["loss"] == pytest.approx(nats / num_targets, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_tokens_of_another_tokenizer_are_refused(tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path) -> None:
    changed = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    changed["version"] = "other"
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(DataError, match="made by tokenizer"):
        pretrain(TINY, tokens=tiny_tokens, tokenizer=tmp_path, out=tmp_path / "out", runtime=Runtime(quiet=True))


def test_a_tokenizer_that_pads_with_its_end_is_refused_before_the_first_step(
    tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tiny_tokenizer / "tokenizer.json").read_bytes())
    names = json.loads((tiny_tokenizer / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**names, "pad_token": "<|end|>"}))
    with pytest.raises(ConfigError, match="padding and end of answer are the same token"):
        pretrain(TINY, tokens=tiny_tokens, tokenizer=tmp_path, out=tmp_path / "out", runtime=Runtime(quiet=True))
    assert not (tmp_path / "out" / "training.json").exists()


@pytest.mark.parametrize(("damage", "found"), [("cut", "bytes long, but manifest.json says"), ("flip", "its sha256"), ("gone", "missing")])
def test_a_damaged_shard_is_found_before_the_first_step(
    tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path, damage: str, found: str
) -> None:
    shutil.copytree(tiny_tokens, tmp_path / "tokens")
    path = tmp_path / "tokens" / "train" / "00000.bin"
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-2] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    runtime = Runtime(metrics=MetricsLog(tmp_path / "metrics.jsonl"), quiet=True)
    with pytest.raises(DataError, match=rf"train/00000\.bin.*{found}"):
        pretrain(TINY, tokens=tmp_path / "tokens", tokenizer=tiny_tokenizer, out=tmp_path / "out", runtime=runtime)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_step_smaller_than_a_row_is_a_config_error(tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path) -> None:
    config = TINY.model_copy(update={"batch_tokens": 16})
    with pytest.raises(ConfigError, match=r"batch_tokens = 16 holds 0 rows of sequence_tokens = 32"):
        pretrain(config, tokens=tiny_tokens, tokenizer=tiny_tokenizer, out=tmp_path / "out", runtime=Runtime(quiet=True))


def test_token_counts_are_read_as_people_write_them_and_mean_the_same() -> None:
    assert [parse_count(text) for text in ("500k", "2M", "1.5B", "3T", "12")] == [500_000, 2_000_000, 1_500_000_000, 3 * 10**12, 12]
    assert PretrainConfig(tokens="2M") == PretrainConfig(tokens=2_000_000)  # type: ignore[arg-type]
    _, mistakes = check_config(PretrainConfig, {"tokens": "many", "learning_rat": 1, "model": {"dept": 3}})
    assert len(mistakes) == 3 and any('"2M"' in m for m in mistakes) and any('"learning_rate"' in m for m in mistakes)


@pytest.fixture(scope="session")
def other_tokens(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """A second source: fewer, longer documents of few words."""
    folder, tokenizer = tmp_path_factory.mktemp("other"), load_tokenizer(tiny_tokenizer)
    ids = [[tokenizer.bos_id, *tokenizer.encode("the sea and the cat " * (3 + i)), tokenizer.end_id] for i in range(12)]
    for split, part in (("train", ids[:9]), ("validation", ids[9:])):
        write_shard(folder / split / "00000", part, vocab_size=tokenizer.vocab_size)
    write_manifest(folder, tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, text_bytes={"train": [1], "validation": [1]})
    return folder


HALVED = {"learning_rate_factor": 0.5, "decay": "linear", "final_fraction": 0}
STAGES = [
    {"tokens": 1536},
    {"tokens": 1024, "mixture": {"sea": 1}, "sequence_tokens": 64, "batch_tokens": 128},
    {"tokens": 512, "mixture": {"cats": 1, "sea": 1}, "schedule": HALVED},
]
MIXED = {"names": ["cats", "sea"], "mixture": {"cats": 3, "sea": 1}, "num_validations": 2, "curriculum": STAGES}
CURRICULUM = PretrainConfig(**{**TINY.model_dump(), **MIXED})


def test_a_curriculum_trains_by_stages_and_says_what_it_read(
    tmp_path: Path, tiny_tokens: Path, other_tokens: Path, tiny_tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    runtime = Runtime(metrics=MetricsLog(tmp_path / "metrics.jsonl"), quiet=True)
    metrics = pretrain(CURRICULUM, tokens=[tiny_tokens, other_tokens], tokenizer=tiny_tokenizer, out=tmp_path / "out", runtime=runtime)
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert metrics["steps"] == 6 + 8 + 2
    # 3/4 of six steps of 8 rows of 32, none, half of two steps of 8 rows of 32; and the rest.
    assert metrics["tokens/cats"] == training["sources"]["cats"]["tokens"] == 36 * 32 + 8 * 32
    assert metrics["tokens/sea"] == 12 * 32 + 8 * 2 * 64 + 8 * 32
    assert training["padding_fraction"] <= 0.004  # of sources of a few rows, whose last rows are filled
    for source in training["sources"].values():
        assert source["epochs"] == pytest.approx(source["tokens"] / source["source_tokens"], rel=0.004)
    assert training["sources"]["sea"]["epochs"] > 1 and "the source sea repeats; its epoch 2 begins" in caplog.text
    assert load_model(tmp_path / "out").config.max_positions == 64
    rows = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "train/loss" in r]
    assert rows[-1]["train/tokens/cats"] == metrics["tokens/cats"]
    assert "train/loss/cats" not in rows[8] and rows[8]["train/weight/sea"] == 1.0
    both = [r for r in rows if "train/loss/cats" in r and "train/loss/sea" in r]
    for r in both:
        mean = sum(r[f"train/loss/{name}"] * r[f"train/weight/{name}"] for name in ("cats", "sea"))
        assert mean == pytest.approx(r["train/loss"], rel=1e-5)
    assert len(both) == 8
    # The last stage has a schedule of its own, the others the run's (warmup over 5 % of 16 steps, decay over 40 %).
    rates = [r["train/learning_rate"] / CURRICULUM.learning_rate for r in rows]
    assert rates[:9] == [1.0] * 9 and rates[14:] == pytest.approx([0.5, 0.25])


def test_validation_speaks_of_each_source(
    tmp_path: Path, tiny_tokens: Path, other_tokens: Path, tiny_tokenizer: Path, tiny_checkpoint: Path
) -> None:
    model, sizes = load_model(tiny_checkpoint), load_tokenizer(tiny_tokenizer).token_bytes()
    held_out = {
        name: token_rows(open_tokens(folder, split="validation"), row_tokens=32)
        for name, folder in (("cats", tiny_tokens), ("sea", other_tokens))
    }
    config = TINY.model_copy(update={"validation_tokens": 0})
    found = measure_sources(model, sources=held_out, token_bytes=sizes, config=config)
    alone = {name: measure(model, source=rows, token_bytes=sizes, config=config) for name, rows in held_out.items()}
    for name, numbers in alone.items():
        assert {key: found[f"{key}/{name}"] for key in numbers} == numbers
    assert min(n["loss"] for n in alone.values()) < found["loss"] < max(n["loss"] for n in alone.values())
    only = {"cats": held_out["cats"]}
    assert measure_sources(model, sources=only, token_bytes=sizes, config=config) == alone["cats"]


def test_of_many_sources_the_last_are_logged_together(
    tmp_path: Path, tiny_tokens: Path, other_tokens: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bloomery.tokens.sources.MAX_LOGGED_SOURCES", 2)
    runtime = Runtime(metrics=MetricsLog(tmp_path / "metrics.jsonl"), quiet=True)
    config = TINY.model_copy(update={"tokens": 1024, "names": ["a", "b", "c"], "mixture": {"a": 1, "b": 1, "c": 2}})
    folders = [tiny_tokens, other_tokens, tiny_tokens]
    pretrain(config, tokens=folders, tokenizer=tiny_tokenizer, out=tmp_path / "out", runtime=runtime)
    row = read_metrics(tmp_path / "metrics.jsonl")[-2]
    assert {name for name in row if name.startswith("train/tokens/")} == {"train/tokens/a", "train/tokens/others"}
    assert (row["train/tokens/a"], row["train/tokens/others"]) == (256, 768)
    assert row["train/weight/a"] + row["train/weight/others"] == pytest.approx(1)


def test_a_snapshot_of_other_tokens_is_refused(tmp_path: Path, tiny_tokens: Path, other_tokens: Path, tiny_tokenizer: Path) -> None:
    arguments = {"tokenizer": tiny_tokenizer, "out": tmp_path / "out", "runtime": Runtime(quiet=True)}
    short = TINY.model_copy(update={"tokens": 512})
    pretrain(short, tokens=[tiny_tokens], **arguments)
    (tmp_path / "out" / "training.json").unlink()
    with pytest.raises(DataError, match="other settings or inputs"):
        pretrain(short, tokens=[other_tokens], **arguments)


def test_names_that_do_not_fit_the_inputs_or_the_mixture_are_config_errors(tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path) -> None:
    arguments = {"tokenizer": tiny_tokenizer, "out": tmp_path / "out", "runtime": Runtime(quiet=True)}
    with pytest.raises(ConfigError, match=r"names = \['a', 'b'\] names 2 sources, but 1 are connected"):
        pretrain(TINY.model_copy(update={"names": ["a", "b"]}), tokens=[tiny_tokens], **arguments)
    for table, match in (
        ({"mixture": {"web": 1}}, "give `names`"),
        ({"names": ["web", "code"], "mixture": {"cod": 1}}, 'mixture: "cod" is not among the names; did you mean "code"'),
        ({"names": ["web"], "curriculum": [{"tokens": "1M", "mixture": {"wb": 1}}]}, r'curriculum.0.mixture: "wb"'),
        ({"names": ["web", "web"]}, "has a name twice"),
        ({"names": ["web"], "mixture": {"web": 0}}, "all weights are zero"),
    ):
        _, mistakes = check_config(PretrainConfig, table)
        assert len(mistakes) == 1 and re.search(match, mistakes[0]), mistakes


def test_a_source_without_training_tokens_is_named(tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    write_manifest(tmp_path, tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, text_bytes={"train": [], "validation": []})
    config = TINY.model_copy(update={"names": ["a", "empty"], "mixture": {"a": 1, "empty": 1}})
    with pytest.raises(DataError, match=r"no tokens to train on \(source empty\)"):
        pretrain(config, tokens=[tiny_tokens, tmp_path], tokenizer=tiny_tokenizer, out=tmp_path / "out", runtime=Runtime(quiet=True))
