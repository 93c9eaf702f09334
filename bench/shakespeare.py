"""Tiny shakespeare by character, in nanoGPT's setting for a small CPU: ours beside nanoGPT's model, tokens and parameters equal.

4 layers, 4 heads, 128 wide, 64 characters of context, 12 rows a step, 2,000 steps, no dropout; nanoGPT's README names a
validation loss of 1.88. Both sides see the same windows of the text in the same order, and are measured on all of the last
tenth of it, in windows of 64. nanoGPT trains as its config/train_shakespeare_char.py says (AdamW, cosine).

    python bench/shakespeare.py --text input.txt --nanogpt DIR --seeds 3

DIR holds nanoGPT's model.py; without it GPT2LMHeadModel of transformers stands in, which is the same architecture.
"""

import argparse
import gzip
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bloomery.model.config import ModelConfig, count_params
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import next_token
from bloomery.objectives.terms import LossTerms
from bloomery.train.fit import TrainingConfig, make_state
from bloomery.train.optimizer import set_learning_rate
from bloomery.train.schedule import learning_rate_factor
from bloomery.train.step import train_step

CONTEXT, BATCH, LAYERS, HEADS, DIM = 64, 12, 4, 4, 128
MLP = 340
"""8/3 of the width, as SwiGLU has three matrices where GPT-2 has two; rounded down, so that ours is not the larger model."""


@dataclass
class Rows:
    """Windows of the text and what comes next in them."""

    token_BT: Tensor
    target_BT: Tensor

    @property
    def document_BT(self) -> Tensor:
        """All of one document."""
        return torch.ones_like(self.token_BT)


@dataclass
class Result:
    """Of one training."""

    loss: float
    params: int
    seconds: float


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    ids, vocab_size = read_text(options.text)
    split = int(0.9 * len(ids))
    train, held_out = ids[:split], ids[split:]
    sides: dict[str, Callable[..., Result]] = {"bloomery": train_ours, "nanoGPT": train_peer}
    results: dict[str, list[Result]] = {name: [] for name in sides}
    for seed in range(options.seeds):
        for name, run in sides.items():  # interleaved: whatever else the machine does falls on both
            result = run(train, held_out, vocab_size=vocab_size, seed=seed, options=options)
            results[name].append(result)
            words = f"validation loss {result.loss:.4f}, {result.params:,} parameters, {result.seconds:.0f} s of processor time"
            print(f"{name} seed {seed}: {words}", flush=True)
    means = {name: statistics.fmean(r.loss for r in found) for name, found in results.items()}
    for name, found in results.items():
        spread = statistics.stdev(r.loss for r in found) if len(found) > 1 else 0.0
        setting = f"{len(found)} seeds, {options.steps} steps of {BATCH} x {CONTEXT}"
        print(f"{name}: {means[name]:.4f} +- {spread:.4f} nats a character ({setting})")
    print(f"difference {means['bloomery'] - means['nanoGPT']:+.4f}; published 1.88")


def train_ours(train: np.ndarray, held_out: np.ndarray, *, vocab_size: int, seed: int, options: argparse.Namespace) -> Result:
    """Our model and our training step, with the settings of `pretrain` but for the ones named."""
    sizes = {"dim": DIM, "num_layers": LAYERS, "num_heads": HEADS, "num_kv_heads": HEADS, "head_dim": DIM // HEADS, "mlp_dim": MLP}
    model = Transformer(ModelConfig(vocab_size=vocab_size, max_positions=CONTEXT, **sizes), seed=seed)
    rates = {"learning_rate": options.learning_rate, "embedding_learning_rate": options.learning_rate}
    config = TrainingConfig(precision="fp32", optimizer=options.optimizer, **rates)
    state = make_state(model, config)
    started = time.process_time()
    for step, rows in enumerate(batches(train, steps=options.steps, seed=seed)):
        names = ("warmup_fraction", "decay", "decay_fraction", "final_fraction")
        factor = learning_rate_factor(step, num_steps=options.steps, **{name: getattr(config, name) for name in names})
        set_learning_rate(state.optimizers, factor)
        train_step(state, [rows], objective, max_gradient_norm=config.max_gradient_norm, spike_sigmas=config.spike_sigmas)
    seconds = time.process_time() - started
    return Result(measure(model, held_out), count_params(model.config), seconds)


def objective(model: Transformer, rows: Rows) -> LossTerms:
    """Next-character loss of whole windows."""
    return next_token(model(rows.token_BT), rows.target_BT, torch.ones(rows.token_BT.shape))


def train_peer(train: np.ndarray, held_out: np.ndarray, *, vocab_size: int, seed: int, options: argparse.Namespace) -> Result:
    """nanoGPT as its README says for a small CPU: AdamW at 1e-3 to 1e-4 by a cosine, 100 steps of warmup, beta2 0.99, clipped at 1."""
    torch.manual_seed(1337 + seed)
    model, optimizer = load_nanogpt(Path(options.nanogpt), vocab_size) if options.nanogpt else make_gpt2(vocab_size)
    started = time.process_time()
    for step, rows in enumerate(batches(train, steps=options.steps, seed=seed)):
        share = max(0.0, (step - 100) / max(1, options.steps - 100))
        rate = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + 0.5 * (1 + math.cos(math.pi * share)) * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = rate
        F.cross_entropy(model(rows.token_BT).flatten(0, 1), rows.target_BT.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.process_time() - started
    return Result(measure(model, held_out), sum(p.numel() for p in model.parameters()), seconds)


class Logits(nn.Module):
    """Any of the peers' models as a function from tokens to logits."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, token_BT: Tensor) -> Tensor:
        """Logits at every place."""
        return self.call(self.model, token_BT)


def load_nanogpt(folder: Path, vocab_size: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The GPT of nanoGPT's model.py, and the optimizer that it configures for itself."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    sizes = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": DIM, "block_size": CONTEXT}
    model = module.GPT(module.GPTConfig(vocab_size=vocab_size, bias=False, dropout=0.0, **sizes))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    return Logits(model, lambda gpt, token_BT: gpt(token_BT, token_BT)[0]), optimizer  # targets, so that all logits come


def make_gpt2(vocab_size: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """GPT-2 of transformers at the same sizes, matrices decayed as nanoGPT does."""
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415  (only where it is asked for)

    sizes = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": DIM, "n_positions": CONTEXT}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **sizes, **dropout))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return Logits(model, lambda gpt, token_BT: gpt(token_BT).logits), torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))


def batches(ids: np.ndarray, *, steps: int, seed: int) -> Iterator[Rows]:
    """The windows of each step, drawn as nanoGPT draws them, the same for both sides."""
    draw = np.random.default_rng([seed, 1])
    for _ in range(steps):
        yield windows(ids, draw.integers(0, len(ids) - CONTEXT, BATCH))


def windows(ids: np.ndarray, starts: np.ndarray) -> Rows:
    """CONTEXT characters from each start on."""
    pieces = torch.from_numpy(np.stack([ids[start : start + CONTEXT + 1] for start in starts]))
    return Rows(pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous())


@torch.no_grad()
def measure(model: Callable[[Tensor], Tensor], ids: np.ndarray) -> float:
    """Nats a character on all of the text, in windows one after another."""
    starts = np.arange(0, len(ids) - CONTEXT - 1, CONTEXT)
    total = 0.0
    for i in range(0, len(starts), 256):
        rows = windows(ids, starts[i : i + 256])
        total += float(F.cross_entropy(model(rows.token_BT).float().flatten(0, 1), rows.target_BT.flatten(), reduction="sum"))
    return total / (len(starts) * CONTEXT)


def read_text(path: Path) -> tuple[np.ndarray, int]:
    """The text's characters as numbers, and how many different ones there are."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    characters = {character: i for i, character in enumerate(sorted(set(text)))}
    return np.array([characters[character] for character in text], dtype=np.int64), len(characters)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="tiny shakespeare's input.txt, plain or .gz")
    parser.add_argument("--nanogpt", default="", help="a folder with nanoGPT's model.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
