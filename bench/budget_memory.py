"""The memory that `scaling/memory.py` computes for a training, beside what real trainings on this machine's CPU need.

    python bench/budget_memory.py                  # all settings, about 6 minutes
    python bench/budget_memory.py --only quickstart wide

Tensors: each setting trains for two steps (forward, loss, backward, clipping, optimizer; two documents a row), the second under torch's
profiler; the most bytes that lived at one time by its record of every allocation. Process: a whole `pretrain` stage of six steps in
a process of its own, with validation, samples, snapshots and the checkpoint at the end, on documents of random tokens; the most memory
by the system (VmHWM). Each beside what is computed.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from bloomery.core.memory import peak_memory_bytes
from bloomery.core.stage import Launch, Runtime
from bloomery.model.config import ModelShape, count_params, make_model_config
from bloomery.model.transformer import Transformer
from bloomery.scaling.memory import Setup, estimate_memory, estimate_tensors
from bloomery.scaling.shape import Shape
from bloomery.stages.pretrain import PretrainConfig, next_token_objective, pretrain
from bloomery.tokens.loader import Batch
from bloomery.tokens.shards import write_manifest, write_shard
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer
from bloomery.train.compute import prepare_model
from bloomery.train.optimizer import make_optimizers
from bloomery.train.state import TrainState
from bloomery.train.step import train_step


class Setting(NamedTuple):
    """A model and a step."""

    shape: dict[str, Any]
    vocab_size: int
    rows: int
    row_tokens: int
    parts: int = 1
    precision: str = "bf16"
    optimizer: str = "muon"
    checkpointing: str = "none"


BASE = {"dim": 384, "num_layers": 6, "num_kv_heads": 6, "mlp_dim": 1024, "qk_norm": False}
SETTINGS = {
    "quickstart": Setting({"depth": 4}, 4096, 32, 256),
    "small": Setting({"depth": 2}, 4096, 32, 256),
    "14m": Setting(BASE, 8192, 8, 512, optimizer="adamw"),
    "14m-muon": Setting(BASE, 8192, 8, 512),
    "14m-parts": Setting(BASE, 8192, 8, 512, parts=2, optimizer="adamw"),
    "14m-fp32": Setting(BASE, 8192, 8, 512, precision="fp32", optimizer="adamw"),
    "14m-full": Setting(BASE, 8192, 8, 512, optimizer="adamw", checkpointing="full"),
    "vocabulary": Setting({"dim": 256, "num_layers": 2}, 32_768, 4, 512, optimizer="adamw"),
    "wide": Setting({"dim": 1024, "num_layers": 3}, 4096, 2, 256),
    "deep": Setting({"dim": 256, "num_layers": 16}, 4096, 8, 512, checkpointing="full"),
}


STEPS = 6
"""Of a stage: with twelve its peak is the same to 2 %."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        name, folder = arguments.serve
        print(json.dumps(process_bytes(SETTINGS[name], Path(folder)) if folder else tensor_bytes(SETTINGS[name])))
        return
    print("| setting | parameters | tensors, MB | computed | off by | process, MB | computed | off by |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.only:
        setting = SETTINGS[name]
        with tempfile.TemporaryDirectory() as folder:
            write_data(setting, Path(folder))
            found = [ask(name, ""), ask(name, folder)]
        computed = [estimate(*computed_setup(setting)).total for estimate in (estimate_tensors, estimate_memory)]
        params = count_params(model_of(setting).config)
        cells = [f"{x / 1e6:,.0f} | {y / 1e6:,.0f} | {y / x - 1:+.1%}" for x, y in zip(found, computed, strict=True)]
        print(f"| {name} | {params / 1e6:.1f} M | {cells[0]} | {cells[1]} |", flush=True)


def ask(name: str, folder: str) -> int:
    """One measurement, in a process of its own: of the stage that reads the data of a folder, or of the tensors of a step."""
    command = [sys.executable, __file__, "--serve", name, folder]
    return int(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout.splitlines()[-1])


def computed_setup(setting: Setting) -> tuple[Shape, Setup]:
    """What scaling/memory.py is asked."""
    config = make_model_config(ModelShape(**setting.shape), vocab_size=setting.vocab_size, max_positions=setting.row_tokens)
    sizes = (config.dim, config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim, config.mlp_dim)
    setup = Setup(
        micro_batch_tokens=setting.rows * setting.row_tokens // setting.parts,
        sequence_tokens=setting.row_tokens,
        accumulates=setting.parts > 1,
        optimizer=setting.optimizer,
        checkpointing=setting.checkpointing,
        element_bytes=4 if setting.precision == "fp32" else 2,
        is_compiled=False,
    )
    return Shape(config.vocab_size, *sizes, config.tied_embeddings, config.qk_norm), setup


def tensor_bytes(setting: Setting) -> int:
    """The most bytes of tensors that live at one time in a step."""
    state, step = make_step(setting)
    step(0)
    for parameter in state.model.parameters():
        parameter.grad = None
    lasting = [*state.model.parameters(), *(t for o in state.optimizers for found in o.state.values() for t in found.values())]
    now = top = sum(t.numel() * t.element_size() for t in lasting if isinstance(t, torch.Tensor))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step(1)
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top


def write_data(setting: Setting, folder: Path) -> None:
    """A tokenizer and documents of random tokens, about two to a row."""
    draw, tokenizer = random.Random(0), folder / "tokenizer"
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(2 * setting.vocab_size)]
    tokenizer.mkdir()
    write_tokenizer(tokenizer, train_bpe([" ".join(words)], vocab_size=setting.vocab_size, pattern="llama3"), pattern="llama3")
    known, bytes_of_split = load_tokenizer(tokenizer), {}
    assert known.vocab_size == setting.vocab_size
    num_train = 2 * STEPS * setting.rows + 50
    for seed, (split, count) in enumerate((("train", num_train), ("validation", 60))):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(20, setting.row_tokens, count)
        documents = [[known.bos_id, *rng.integers(300, known.vocab_size, n).tolist(), known.end_id] for n in lengths]
        (folder / "tokens" / split).mkdir(parents=True)
        write_shard(folder / "tokens" / split / "00000", documents, vocab_size=known.vocab_size)
        bytes_of_split[split] = [4 * int(lengths.sum())]
    write_manifest(folder / "tokens", tokenizer_sha256=known.sha256, vocab_size=known.vocab_size, text_bytes=bytes_of_split)


def process_bytes(setting: Setting, folder: Path) -> int:
    """The most memory of this process, which carries out the stage."""
    torch.set_num_threads(1)
    batch_tokens = setting.rows * setting.row_tokens
    config = PretrainConfig(
        model=ModelShape(**setting.shape),
        tokens=STEPS * batch_tokens,
        sequence_tokens=setting.row_tokens,
        batch_tokens=batch_tokens,
        optimizer=setting.optimizer,
        precision=setting.precision,
        num_validations=2,
    )
    launch = Launch(activation_checkpointing=setting.checkpointing, micro_batch_tokens=batch_tokens // setting.parts)
    runtime = Runtime(device="cpu", launch=launch, quiet=True)
    pretrain(config, tokens=folder / "tokens", tokenizer=folder / "tokenizer", out=folder / "out", runtime=runtime)
    return peak_memory_bytes()


def model_of(setting: Setting) -> Transformer:
    """The model, its weights not drawn."""
    config = make_model_config(ModelShape(**setting.shape), vocab_size=setting.vocab_size, max_positions=setting.row_tokens)
    with torch.device("meta"):
        return Transformer(config, seed=None)


def make_step(setting: Setting) -> tuple[TrainState, Callable[[int], object]]:
    """A training as `pretrain` begins it, and its steps by number."""
    torch.set_num_threads(1)
    device, tokens = torch.device("cpu"), setting.row_tokens
    model = Transformer(model_of(setting).config)
    prepare_model(model, precision=setting.precision, launch=Launch(activation_checkpointing=setting.checkpointing), device=device)
    optimizers = make_optimizers(model, name=setting.optimizer, learning_rate=1e-3, embedding_learning_rate=1e-3, weight_decay=0.1)
    state = TrainState(model, optimizers)
    document = (torch.arange(tokens) * 2 // tokens + 1).repeat(setting.rows, 1)
    position = (torch.arange(tokens) % (tokens // 2)).repeat(setting.rows, 1)

    def step(number: int) -> object:
        ids = torch.randint(0, setting.vocab_size, (setting.rows, tokens + 1), generator=torch.Generator().manual_seed(number))
        batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(setting.rows, tokens), document, position)
        parts = [part.to(device) for part in batch.split(setting.parts)]
        return train_step(state, parts, lambda m, b: next_token_objective(m, b, z_loss=0.0), max_gradient_norm=1.0)

    return state, step


if __name__ == "__main__":
    main()
