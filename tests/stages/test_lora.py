"""LoRA as a setting of a training stage: it learns, resumes to the same bytes, and leaves the rest as it was."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.filesystem import FileSystemReader

from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json, write_jsonl
from bloomery.core.metrics import MetricsLog, read_metrics
from bloomery.core.stage import Runtime
from bloomery.model.architectures import read_config
from bloomery.model.config import LoraConfig, flops_per_token
from bloomery.stages.export import ExportConfig, export
from bloomery.stages.preference import PreferenceConfig, preference
from bloomery.stages.pretrain import PretrainConfig, pretrain
from bloomery.stages.sft import SftConfig, sft
from bloomery.train import checkpoint

TINY = PretrainConfig(
    tokens=5120, sequence_tokens=32, batch_tokens=256, num_validations=2, optimizer="adamw", learning_rate=0.02,
    lora=LoraConfig(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "up_proj")),
)  # fmt: skip


class Interrupted(Exception):
    """Stands for a kill at the tenth row of the log."""


class BreakingLog(MetricsLog):
    rows = 0

    def write(self, values: object) -> None:
        self.rows += 1
        if self.rows == 10:
            raise Interrupted


def test_adapters_learn_and_the_run_goes_on_from_a_snapshot_that_holds_nothing_else(
    tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FIRST_COST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SAVE_FRACTION", 1e9)
    inputs = {"tokens": tiny_tokens, "tokenizer": tiny_tokenizer, "init": tiny_checkpoint}
    log = MetricsLog(tmp_path / "whole.jsonl")
    metrics = pretrain(TINY, **inputs, out=tmp_path / "whole", runtime=Runtime(metrics=log, quiet=True))
    model = read_config(tiny_checkpoint)
    flops = {row["train/flops_per_token"] for row in read_metrics(tmp_path / "whole.jsonl") if "train/flops_per_token" in row}
    assert flops == {flops_per_token(model, TINY.sequence_tokens, lora=TINY.lora)} != {flops_per_token(model, TINY.sequence_tokens)}
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, tmp_path / "whole"))
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed == {name for name in before if name.endswith(("q_proj.weight", "v_proj.weight", "up_proj.weight"))}
    with pytest.raises(Interrupted):
        pretrain(TINY, **inputs, out=tmp_path / "cut", runtime=Runtime(metrics=BreakingLog(tmp_path / "log"), quiet=True))
    snapshot = sorted((tmp_path / "cut" / ".scratch").glob("step-*"))[-1]
    stored = FileSystemReader(snapshot / "tensors").read_metadata().state_dict_metadata
    held = {name.removeprefix("model/") for name in stored if name.startswith("model/")}
    assert held == {
        name.removeprefix("base_model.model.") for name in load_file(tmp_path / "whole" / "adapter" / "adapter_model.safetensors")
    }
    assert pretrain(TINY, **inputs, out=tmp_path / "cut", runtime=Runtime(quiet=True)) == metrics
    for path in (p for p in (tmp_path / "whole").rglob("*") if p.is_file() and ".scratch" not in p.parts):
        assert path.read_bytes() == (tmp_path / "cut" / path.relative_to(tmp_path / "whole")).read_bytes(), path.name
    losses = [row["loss"] for row in read_json(tmp_path / "whole" / "training.json")["validation"]]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.15


def changed_weights(before: Path, after: Path) -> set[str]:
    """The ends of the names of the weights that differ between two checkpoints."""
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    return {name.split(".")[-2] for name, weight in old.items() if not torch.equal(weight, new[name])}


def test_fine_tuning_and_preferences_train_adapters_alone(tmp_path: Path, tiny_checkpoint: Path) -> None:
    question, answers = [{"role": "user", "content": "where"}], {"chosen": "the house", "rejected": "dog"}
    talk = [*question, {"role": "assistant", "content": "the house"}]
    pair = {"prompt": question, **{name: [{"role": "assistant", "content": text}] for name, text in answers.items()}}
    write_jsonl(tmp_path / "talks.jsonl", [{"messages": talk}] * 20)
    write_jsonl(tmp_path / "pairs.jsonl", [pair] * 20)
    shared = {"lora": LoraConfig(rank=2, targets=("o_proj",)), "steps": 6, "optimizer": "adamw", "held_out_fraction": 0.0}
    arguments = {"init": tiny_checkpoint, "runtime": Runtime(quiet=True)}
    tuned = SftConfig(**shared, sequence_tokens=48, batch_tokens=192)
    metrics = sft(tuned, **arguments, conversations=[tmp_path / "talks.jsonl"], out=tmp_path / "sft")
    assert changed_weights(tiny_checkpoint, tmp_path / "sft") == {"o_proj"} and metrics["train_loss"] < math.log(280)
    preferred = PreferenceConfig(**shared, batch_pairs=16)
    metrics = preference(preferred, **arguments, pairs=tmp_path / "pairs.jsonl", out=tmp_path / "preference")
    assert changed_weights(tiny_checkpoint, tmp_path / "preference") == {"o_proj"} and metrics["train_loss"] < math.log(2)
    for name in ("sft", "preference"):
        assert (tmp_path / name / "adapter" / "adapter_model.safetensors").is_file()


def test_an_export_adds_an_adapter_to_its_weights(tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path, tiny_checkpoint: Path) -> None:
    short = TINY.model_copy(update={"tokens": 512})
    pretrain(short, tokens=tiny_tokens, tokenizer=tiny_tokenizer, init=tiny_checkpoint, out=tmp_path / "out", runtime=Runtime(quiet=True))
    arguments = {"model": tiny_checkpoint, "adapter": tmp_path / "out" / "adapter", "runtime": Runtime(quiet=True)}
    export(ExportConfig(), **arguments, out=tmp_path / "merged")
    merged, trained = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "out"))
    assert all(torch.equal(weight, trained[name]) for name, weight in merged.items())
    export(ExportConfig(dtype="bf16"), **arguments, out=tmp_path / "half")
    assert all(torch.equal(w, trained[n].bfloat16()) for n, w in load_file(tmp_path / "half" / "model.safetensors").items())
    assert not (tmp_path / "merged" / "adapter").exists()


def test_adapters_to_a_model_that_does_not_exist_yet_are_refused(tmp_path: Path, tiny_tokens: Path, tiny_tokenizer: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.rank = 4: there is no `init`"):
        pretrain(TINY, tokens=tiny_tokens, tokenizer=tiny_tokenizer, out=tmp_path / "out", runtime=Runtime(quiet=True))
