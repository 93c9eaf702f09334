"""How a run is spread over processes and micro-batches changes nothing but rounding."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from bloomery.core import dist
from bloomery.core.files import write_jsonl
from bloomery.core.stage import Launch, Runtime
from bloomery.model.config import ModelConfig, ModelShape
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.grpo import GrpoConfig, grpo
from bloomery.stages.ppo import PpoConfig, ppo
from bloomery.stages.preference import PreferenceConfig, preference
from bloomery.stages.pretrain import PretrainConfig, pretrain
from bloomery.stages.reward_model import RewardModelConfig, reward_model
from bloomery.stages.sft import SftConfig, sft
from bloomery.tokens.shards import write_manifest, write_shard
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

# AdamW and no clipping at work: Muon's bfloat16 rounds would blow a difference in the last bit up to one in the third.
TRAINING = {"optimizer": "adamw", "learning_rate": 0.001, "embedding_learning_rate": 0.001, "precision": "fp32", "seed": 4}
PRETRAIN = PretrainConfig(
    model=ModelShape(depth=1, dim=16, head_dim=8, mlp_dim=24), tokens=1024, sequence_tokens=32, batch_tokens=256,
    num_validations=2, **TRAINING,
)  # fmt: skip
TWO = {
    "base": Launch(devices=2),
    "sft": Launch(devices=2, tensor=2),
    "dpo": Launch(devices=2, strategy="fsdp"),
    "kto": Launch(devices=2),
    "kto-fsdp": Launch(devices=2, strategy="fsdp"),
    "reward": Launch(devices=2, strategy="fsdp"),
    "grpo": Launch(devices=2),
    "ppo": Launch(devices=2),
}
"""How two processes share each stage; every way for pretraining is in test_parallel.py."""
SFT = SftConfig(steps=3, sequence_tokens=32, batch_tokens=128, held_out_fraction=0.2, num_validations=1, **TRAINING)
PREFERENCE = PreferenceConfig(steps=3, batch_pairs=7, held_out_fraction=0.0, **TRAINING)
KTO = PREFERENCE.model_copy(update={"loss": "kto", "desirable_per_undesirable": 0.5})
# Not normalised: of so few references the deviation is small, and would blow rounding up.
REWARD_MODEL = RewardModelConfig(steps=3, batch_prompts=7, held_out_fraction=0.0, normalise="none", **TRAINING)

ROLLOUTS = {
    "rollouts": 2, "batch_prompts": 5, "minibatches": 2, "max_tokens": 6, "rewards": [{"source": "function"}], "held_out_fraction": 0.2,
    "num_validations": 1, "num_samples": 0, **TRAINING,
}  # fmt: skip
GRPO = GrpoConfig(algorithm="dapo", mask_truncated=False, group_size=3, kl_weight=0.1, resample_attempts=0, **ROLLOUTS)
PPO = PpoConfig(
    epochs=2, kl_target=0.1, whiten_rewards=True, critic_learning_rate=0.001, pretraining_weight=0.5, pretraining_rows=3,
    pretraining_sequence_tokens=32, **ROLLOUTS,
)  # fmt: skip
REWARD = "def reward(prompts, completions, **columns):\n    return [len(one[0]['content']) % 5 / 4 for one in completions]\n"


def write_inputs(folder: Path) -> None:
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "ran"]
    write_tokenizer(folder / "tokenizer", train_bpe([" ".join(words)], vocab_size=270, pattern="llama3"), pattern="llama3")
    tokenizer = load_tokenizer(folder / "tokenizer")
    texts = [" ".join(words[(i * 3 + k) % 8] for k in range(4 + i % 30)) for i in range(40)]
    ids = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.end_id] for text in texts]
    for split in ("train", "validation"):
        (folder / "tokens" / split).mkdir(parents=True)
        write_shard(folder / "tokens" / split / "00000", ids, vocab_size=tokenizer.vocab_size)
    write_manifest(
        folder / "tokens", tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, text_bytes={"train": [1], "validation": [1]}
    )
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 24, "max_positions": 64}
    save_model(Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **sizes)), folder / "init", tokenizer=folder / "tokenizer")
    turns = [[{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": "the cat " * (1 + i % 4)}] for i in range(20)]
    write_jsonl(folder / "conversations.jsonl", [{"messages": messages} for messages in turns])
    (folder / "reward.py").write_text(REWARD)
    write_jsonl(folder / "pairs.jsonl", [{"prompt": f"say {i}", "chosen": "a cat", "rejected": "mat " * (i % 5)} for i in range(20)])


def train_all(folder: Path, name: str, launches: Mapping[str, Launch]) -> None:
    torch.set_num_threads(1)
    runtimes = {stage: Runtime(device="cpu", quiet=True, launch=launch) for stage, launch in launches.items()}
    out = folder / name
    pretrain(PRETRAIN, tokens=folder / "tokens", tokenizer=folder / "tokenizer", out=out / "base", runtime=runtimes["base"])
    sft(SFT, init=folder / "init", conversations=[folder / "conversations.jsonl"], out=out / "sft", runtime=runtimes["sft"])
    for stage, config in (("dpo", PREFERENCE), ("kto", KTO), ("kto-fsdp", KTO)):
        preference(config, init=folder / "init", pairs=folder / "pairs.jsonl", out=out / stage, runtime=runtimes[stage])
    reward_model(REWARD_MODEL, init=folder / "init", pairs=[folder / "pairs.jsonl"], out=out / "reward", runtime=runtimes["reward"])
    asked = {"init": folder / "init", "prompts": [folder / "conversations.jsonl"], "functions": [folder / "reward.py"]}
    grpo(GRPO, **asked, out=out / "grpo", runtime=runtimes["grpo"])
    ppo(PPO, **asked, pretraining=folder / "tokens", out=out / "ppo", runtime=runtimes["ppo"])


def start_rank(rank: int, port: int, folder: Path) -> subprocess.Popen[bytes]:
    """This file as one of two processes, with the environment that torchrun gives them."""
    group = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group["BLOOMERY_REFERENCE_CACHE"] = str(folder / "cache of two")  # they are to compute the reference, not to find it
    return subprocess.Popen([sys.executable, __file__, str(folder)], env={**os.environ, **group})


def assert_same_model(one: Path, other: Path) -> None:
    head = "scalar" if one.name == "reward" else "tokens"
    for (name, a), (_, b) in zip(*(load_model(folder, head=head).named_parameters() for folder in (one, other)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_one_process_two_processes_and_other_micro_batches_train_the_same_model(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [start_rank(rank, port, tmp_path) for rank in range(2)]
    train_all(tmp_path, "one", dict.fromkeys(TWO, Launch()))
    train_all(tmp_path, "micro", dict.fromkeys(TWO, Launch(micro_batch_tokens=64)))
    for process in ranks:
        assert process.wait(timeout=300) == 0
    for stage in TWO:
        assert_same_model(tmp_path / "one" / stage, tmp_path / "two" / stage)
        assert_same_model(tmp_path / "one" / stage, tmp_path / "micro" / stage)
    untrained = load_model(tmp_path / "init").head_weight()
    assert not torch.allclose(load_model(tmp_path / "one" / "dpo").head_weight(), untrained, atol=1e-4)


if __name__ == "__main__":
    with dist.process_group():
        assert dist.world_size() == 2
        train_all(Path(sys.argv[1]), "two", TWO)
