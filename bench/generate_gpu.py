"""Generation on one CUDA GPU: tokens/s at batch 1, 16 and 256 of a 1 B model, as a share of what reading its memory allows.

    python bench/generate_gpu.py                          # bf16, 1.0 B parameters, about 3 minutes
    python bench/generate_gpu.py --transformers           # beside transformers' generate (the same weights), in turns

A decoding step must read every weight once, and each row's keys and values: the limit is memory bandwidth over these bytes.
Bandwidth is measured here, by copying 4 GB on the device, not taken from a data sheet. Prompts have 128 tokens, answers
256; the time of reading the prompts is measured apart (answers of 1 token) and taken off.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.config import ModelConfig, ModelShape, count_params, make_model_config
from generate import NoEnd, load_both, prompts_of, theirs_generate

PROMPT_TOKENS, NEW_TOKENS = 128, 256
SHAPE = ModelShape(dim=2048, num_layers=16, num_heads=32, num_kv_heads=8, head_dim=64, mlp_dim=8192, qk_norm=False)
VOCAB = 32_000
"""With them Llama 3.2 1B's layers and 1.04 B parameters."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transformers", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here")
    config = make_model_config(SHAPE, vocab_size=VOCAB, max_positions=1024)
    engine, theirs = load_both(config, torch.bfloat16)
    engine = Engine(engine.model.to("cuda", torch.bfloat16), NoEnd(VOCAB))
    theirs = theirs.cuda() if arguments.transformers else None
    bandwidth = measure_bandwidth()
    size = f"{count_params(config) / 1e9:.2f} B parameters"
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {size}, bf16; copies {bandwidth / 1e9:,.0f} GB/s")
    print("| batch | side | tokens/s | ms a step | of the bandwidth's limit |")
    print("|---|---|---|---|---|")
    for batch in arguments.batches:
        prompts = prompts_of(batch, PROMPT_TOKENS, VOCAB)
        sides: dict[str, Callable[[int], Any]] = {"ours": functools.partial(answer, engine, prompts)}
        if theirs is not None:
            sides["transformers"] = functools.partial(theirs_generate, theirs, prompts, do_sample=False)
        seconds = measure(sides, rounds=arguments.rounds)
        for side, found in seconds.items():
            step = found / (NEW_TOKENS - 1)
            limit = step_bytes(config, batch) / bandwidth
            print(f"| {batch} | {side} | {batch / step:,.0f} | {1000 * step:.2f} | {limit / step:.0%} |", flush=True)


def answer(engine: Engine, prompts: list[list[int]], num_tokens: int) -> None:
    """Different prompts, greedy."""
    engine.generate(prompts, SamplingParams(max_tokens=num_tokens, temperature=0.0), seeds=[0] * len(prompts))


def measure(sides: dict[str, Callable[[int], Any]], *, rounds: int) -> dict[str, float]:
    """Median seconds of all steps but the first, which reads the prompts; the sides take turns."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    for i in range(rounds + 1):
        for side, run in sides.items():
            times = []
            for count in (1, NEW_TOKENS):
                torch.cuda.synchronize()
                begun = time.perf_counter()
                run(count)
                torch.cuda.synchronize()
                times.append(time.perf_counter() - begun)
            if i:  # the first round warms up
                found[side].append(times[1] - times[0])
    return {side: statistics.median(seconds) for side, seconds in found.items()}


def step_bytes(config: ModelConfig, batch: int) -> float:
    """Bytes that a step reads at least: weights (of the embeddings only the output matrix), and half-grown keys and values."""
    weights = count_params(config) - (0 if config.tied_embeddings else config.vocab_size * config.dim)
    slots = batch * (PROMPT_TOKENS + NEW_TOKENS / 2)
    return 2 * (weights + 2 * config.num_layers * config.num_kv_heads * config.head_dim * slots)


def measure_bandwidth() -> float:
    """Bytes a second that a copy on the device reads and writes."""
    source, target = (torch.empty(1 << 30, dtype=torch.int16, device="cuda") for _ in range(2))
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * source.nbytes / best


if __name__ == "__main__":
    main()
