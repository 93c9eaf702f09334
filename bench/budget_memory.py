"""The memory that `scaling/memory.py` computes for a training step, beside what real steps on this machine's CPU need.

    python bench/budget_memory.py                  # all settings, about 4 minutes
    python bench/budget_memory.py --only quickstart wide

Each setting trains for a few steps in a process of its own (forward, loss, backward, clipping, optimizer; two documents a
row), and for one more under torch's profiler. Printed: the most bytes of tensors that lived at one time by the profiler's
record of every allocation, and the most memory of the process by the system (VmHWM), each beside what is computed.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from bloomery.core.stage import Launch
from bloomery.model.config import ModelShape, count_params, make_model_config
from bloomery.model.device import keep_freed_memory
from bloomery.model.transformer import Transformer
from bloomery.scaling.memory import Memory, Setup, estimate_tensors, with_process
from bloomery.scaling.shape import Shape
from bloomery.stages.pretrain import next_token_objective
from bloomery.tokens.loader import Batch
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
    "14m": Setting(BASE, 8192, 8, 512, optimizer="adamw"),
    "14m-muon": Setting(BASE, 8192, 8, 512),
    "14m-parts": Setting(BASE, 8192, 8, 512, parts=2, optimizer="adamw"),
    "14m-fp32": Setting(BASE, 8192, 8, 512, precision="fp32", optimizer="adamw"),
    "14m-full": Setting(BASE, 8192, 8, 512, optimizer="adamw", checkpointing="full"),
    "vocabulary": Setting({"dim": 256, "num_layers": 2}, 32_768, 4, 512, optimizer="adamw"),
    "wide": Setting({"dim": 1024, "num_layers": 3}, 4096, 2, 256),
    "deep": Setting({"dim": 256, "num_layers": 16}, 4096, 8, 512, checkpointing="full"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        name, what = arguments.serve.split(":")
        measure = tensor_bytes if what == "tensors" else process_bytes
        print(json.dumps(measure(SETTINGS[name])))
        return
    print("| setting | parameters | tensors, MB | computed | off by | process, MB | computed | off by |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.only:
        found = [ask(name, what) for what in ("tensors", "process")]
        tensors = computed_tensors(SETTINGS[name])
        computed = [tensors.total, with_process(tensors, is_compiled=False).total]
        params = count_params(model_of(SETTINGS[name]).config)
        cells = [f"{x / 1e6:,.0f} | {y / 1e6:,.0f} | {y / x - 1:+.1%}" for x, y in zip(found, computed, strict=True)]
        print(f"| {name} | {params / 1e6:.1f} M | {cells[0]} | {cells[1]} |", flush=True)


def ask(name: str, what: str) -> int:
    """One measurement, in a process of its own."""
    command = [sys.executable, __file__, "--serve", f"{name}:{what}"]
    return int(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout.splitlines()[-1])


def computed_tensors(setting: Setting) -> Memory:
    """What scaling/memory.py says of it."""
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
    return estimate_tensors(Shape(config.vocab_size, *sizes, config.tied_embeddings, config.qk_norm), setup)


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


def process_bytes(setting: Setting, *, steps: int = 4) -> int:
    """The most memory of this process."""
    keep_freed_memory()
    _, step = make_step(setting)
    for number in range(steps):
        step(number)
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


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
