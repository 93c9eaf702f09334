"""Training speed and memory on this machine's CPU beside transformers' Llama and, when given, nanoGPT's model.

    GOMP_SPINCOUNT=2000 python bench/train_step.py                            # 13.8 M and 30 M parameters, about 12 minutes
    python bench/train_step.py --sizes 14m --nanogpt path/to/nanoGPT/model.py --rounds 8

Every side is a process of its own and takes whole training steps (forward, loss, backward, clipping, fused AdamW; ours once
more with Muon) on the same random tokens, two threads, compiled, bf16 (ours over float32 weights, theirs by autocast). The
sides and a bf16 matrix product of 2,048 x 2,048 take turns, step by step, so that whatever else the machine does meets all of them.
Printed: median and best tokens/s, the share of the matrix product's rate (6 FLOP a parameter of a matrix product and 12 *
layers * width * sequence for attention, the causal half not taken off) and the peak memory of the process.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bloomery.core.stage import Launch
from bloomery.model.config import ModelConfig, ModelShape, count_params, flops_per_token, make_model_config
from bloomery.model.device import keep_freed_memory
from bloomery.model.transformer import Transformer
from bloomery.stages.pretrain import next_token_objective
from bloomery.tokens.loader import Batch
from bloomery.train.compute import prepare_model
from bloomery.train.optimizer import make_optimizers
from bloomery.train.state import TrainState
from bloomery.train.step import num_micro_batches, train_step

VOCAB = 8192
SIZES = {  # shape, rows, tokens of a row
    "4m": (ModelShape(dim=256, num_layers=4, num_kv_heads=4, qk_norm=False), 16, 256),
    "14m": (ModelShape(dim=384, num_layers=6, num_kv_heads=6, mlp_dim=1024, qk_norm=False), 8, 512),
    "30m": (ModelShape(dim=512, num_layers=8, num_kv_heads=8, mlp_dim=1408, qk_norm=False), 4, 1024),
}
PROBE_SIZE = 2048
Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["14m", "30m"], choices=SIZES)
    parser.add_argument("--sides", nargs="*", default=["ours", "ours-muon", "ours-eager", "transformers"])
    parser.add_argument("--nanogpt", type=Path, help="nanoGPT's model.py; leave out to leave it out")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--selective", action="store_true", help="ours with activation_checkpointing = selective")
    parser.add_argument("--micro-batch-tokens", type=int, default=0, help="of ours, as in launch; 0 = what pretrain takes")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        launch = Launch(
            compile="off" if arguments.serve == "ours-eager" else "on",
            activation_checkpointing="selective" if arguments.selective and arguments.serve != "ours-eager" else "none",
            micro_batch_tokens=arguments.micro_batch_tokens,
        )
        return serve(arguments.serve, arguments.sizes[0], arguments.nanogpt, launch)
    sides = [*arguments.sides, *(["nanogpt"] if arguments.nanogpt else [])]
    for size in arguments.sizes:
        compare(size, sides, arguments)
    return None


def compare(size: str, sides: list[str], arguments: argparse.Namespace) -> None:
    """Starts every side, has them take turns, prints the table."""
    config, rows, tokens = model_config(size)
    nanogpt = ["--nanogpt", str(arguments.nanogpt)] if arguments.nanogpt else []
    servers = {}
    for side in ("probe", *sides):  # one after another: they compile when they start
        ours = ["--micro-batch-tokens", str(arguments.micro_batch_tokens), *(["--selective"] if arguments.selective else [])]
        command = [sys.executable, __file__, "--serve", side, "--sizes", size, *nanogpt, *ours]
        servers[side] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ask(servers[side])
        ask(servers[side])
    answers: dict[str, list[dict[str, float]]] = {side: [] for side in servers}
    for _ in range(arguments.rounds):
        for side, server in servers.items():
            answers[side].append(ask(server))
    for server in servers.values():
        server.stdin.close()
        server.wait()
    seconds = {side: [answer["seconds"] for answer in found] for side, found in answers.items()}
    probe = 2 * PROBE_SIZE**3 / statistics.median(seconds.pop("probe")) / 1e9
    print(f"\n{size}: {count_params(config) / 1e6:.1f} M parameters, {rows} x {tokens} tokens; matrix product {probe:.0f} GFLOP/s (median)")
    print("| side | tokens/s, median | best | of the matrix product | peak memory, GB | ours is x times |")
    print("|---|---|---|---|---|---|")
    median_ours = statistics.median(seconds["ours"]) if "ours" in seconds else float("nan")
    for side, found in seconds.items():
        speed = rows * tokens / statistics.median(found)
        share = speed * flops_per_token(config, tokens) / 1e9 / probe
        memory = answers[side][-1]["peak_bytes"] / 1e9
        row = [side, f"{speed:,.0f}", f"{rows * tokens / min(found):,.0f}", f"{share:.1%}", f"{memory:.2f}"]
        print("| " + " | ".join([*row, f"{statistics.median(found) / median_ours:.2f}"]) + " |")


def ask(server: "subprocess.Popen[str]") -> dict[str, float]:
    """One turn of a side."""
    server.stdin.write("step\n")
    server.stdin.flush()
    answer: dict[str, float] = json.loads(server.stdout.readline())
    return answer


def serve(side: str, size: str, nanogpt: Path | None, launch: Launch) -> None:
    """Answers each line with the time of one step and the memory the process has needed."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    config, rows, tokens = model_config(size)
    ids = torch.randint(0, VOCAB, (rows, tokens + 1), generator=torch.Generator().manual_seed(0))
    if side == "probe":
        a, b = (torch.randn(PROBE_SIZE, PROBE_SIZE).bfloat16() for _ in range(2))
        step: Step = lambda: a @ b  # three kinds of step, one name
    elif side.startswith("ours"):
        step = our_step(config, ids, optimizer="muon" if side == "ours-muon" else "adamw", launch=launch)
    else:
        model = transformers_model(config) if side == "transformers" else nanogpt_model(config, nanogpt)
        step = their_step(model, ids, side)
    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}), flush=True)


def model_config(size: str) -> tuple[ModelConfig, int, int]:
    """The model, and the rows and their tokens."""
    shape, rows, tokens = SIZES[size]
    return make_model_config(shape, vocab_size=VOCAB, max_positions=tokens), rows, tokens


def our_step(config: ModelConfig, ids: torch.Tensor, *, optimizer: str, launch: Launch) -> Step:
    """A step as `pretrain` takes it."""
    keep_freed_memory()
    model, device = Transformer(config), torch.device("cpu")
    launch = prepare_model(model, precision="bf16", launch=launch, device=device)
    optimizers = make_optimizers(model, name=optimizer, learning_rate=1e-3, embedding_learning_rate=1e-3, weight_decay=0.1)
    state = TrainState(model, optimizers)
    rows, tokens = ids[:, 1:].shape
    document, position = torch.ones(rows, tokens, dtype=torch.long), torch.arange(tokens).repeat(rows, 1)
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, tokens), document, position).to(device)
    parts = list(batch.split(num_micro_batches(rows, tokens, device, launch)))
    return lambda: train_step(state, parts, lambda m, b: next_token_objective(m, b, z_loss=0.0), max_gradient_norm=1.0)


def transformers_model(config: ModelConfig) -> Any:
    """LlamaForCausalLM of the same sizes."""
    transformers = importlib.import_module("transformers")  # here, so that no other side has it in its memory
    llama = transformers.LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.dim, intermediate_size=config.mlp_dim, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads, head_dim=config.head_dim,
        max_position_embeddings=config.max_positions, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(llama)


def nanogpt_model(config: ModelConfig, path: Path) -> Any:
    """nanoGPT's GPT of the same width and depth; its MLP is four times as wide and has two matrices."""
    spec = importlib.util.spec_from_file_location("nanogpt", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt"] = module
    spec.loader.exec_module(module)
    sizes = {"block_size": config.max_positions, "vocab_size": config.vocab_size, "n_layer": config.num_layers, "n_head": config.num_heads}
    with contextlib.redirect_stdout(sys.stderr):  # it says how many parameters it has, where our answers go
        return module.GPT(module.GPTConfig(**sizes, n_embd=config.dim, dropout=0.0, bias=False))


def their_step(model: Any, ids: torch.Tensor, side: str) -> Step:
    """Compiled, autocast, fused AdamW, clipped."""
    compiled = torch.compile(model, dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            # transformers shifts labels itself; the same number of places either way.
            loss = compiled(input_ids=inputs, labels=inputs).loss if side == "transformers" else compiled(inputs, targets)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    main()
