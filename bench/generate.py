"""Generation on this machine's CPU beside transformers' `generate`, on the same folder, in turns.

    python bench/generate.py                                  # both sizes, float32, about 6 minutes
    python bench/generate.py --sizes 14m --dtypes float32 bfloat16 --rounds 5

Three measurements, each with the same prompts, dtype and threads on both sides, which take turns in one process:
- batch: 16 prompts of `--prompt-tokens` tokens (padded to one length, as transformers wants them), 128 new tokens each;
- samples: 8 samples of one prompt of 512 tokens (`num_return_sequences=8` there), 128 new tokens each;
- ragged: 48 prompts whose answers end after 16 to 128 tokens: theirs in batches of 16 sorted by length of answer would
  know the future, so in the order given; ours all at once.
Printed: seconds of each round's sides, median, and how many times as fast ours is. Weights are random, so no answer ends by itself
(in `ragged` the limit ends them). Greedy answers of `batch` are compared; in float32 they are the same.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from bloomery.generate.batcher import Batcher
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.config import ModelConfig, ModelShape, count_params, make_model_config
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer

NEW_TOKENS = 128
SIZES = {
    "14m": (ModelShape(dim=384, num_layers=6, num_kv_heads=6, mlp_dim=1024, qk_norm=False), 8192),
    "125m": (ModelShape(dim=768, num_layers=12, num_kv_heads=12, mlp_dim=2048, qk_norm=False), 32000),
    "134m-gqa": (ModelShape(dim=576, num_layers=30, num_heads=9, num_kv_heads=3, mlp_dim=1536, qk_norm=False), 49152),  # SmolLM2-135M's
}


class NoEnd:
    """A tokenizer without an end: every answer has all its tokens."""

    end_id, pad_id = -1, 0

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def decode_bytes(self, ids: object) -> bytes:
        return b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["14m", "125m"], choices=SIZES)
    parser.add_argument("--dtypes", nargs="*", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--what", nargs="*", default=["batch", "samples", "ragged"], choices=["batch", "samples", "ragged"])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print("| model | dtype | what | transformers, s | ours, s | ours, tokens/s | ours is x times as fast | same greedy tokens |")
    print("|---|---|---|---|---|---|---|---|")
    for size in arguments.sizes:
        for dtype in arguments.dtypes:
            compare(size, getattr(torch, dtype), arguments)


def compare(size: str, dtype: torch.dtype, arguments: argparse.Namespace) -> None:
    """The measurements of one model, as rows of the table."""
    shape, vocab_size = SIZES[size]
    config = make_model_config(shape, vocab_size=vocab_size, max_positions=1024)
    ours, theirs = load_both(config, dtype)
    name = f"{size} ({count_params(config) / 1e6:.1f} M)"
    for what in arguments.what:
        sides = {"batch": batch_sides, "samples": samples_sides, "ragged": ragged_sides}[what](ours, theirs, arguments)
        answers = {side: run() for side, run in sides.items()}  # once to warm up
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for i in range(arguments.rounds):
            for side in list(sides) if i % 2 else list(sides)[::-1]:
                begun = time.perf_counter()
                answers[side] = sides[side]()
                seconds[side].append(time.perf_counter() - begun)
        same = "-" if what == "samples" else f"{sum(a == b for a, b in zip(*answers.values(), strict=True))} of {len(answers['ours'])}"
        median = {side: statistics.median(found) for side, found in seconds.items()}
        speed = sum(map(len, answers["ours"])) / median["ours"]
        ratio = median["theirs"] / median["ours"]
        spread = {side: f"{median[side]:.2f} ({min(found):.2f}..{max(found):.2f})" for side, found in seconds.items()}
        row = [name, str(dtype)[6:], what, spread["theirs"], spread["ours"], f"{speed:,.0f}", f"{ratio:.2f}", same]
        print("| " + " | ".join(row) + " |", flush=True)


def load_both(config: ModelConfig, dtype: torch.dtype) -> tuple[Engine, Any]:
    """The same random weights in our engine and in transformers' model, both read from one folder."""
    with tempfile.TemporaryDirectory() as folder:
        model = Transformer(config, seed=0)
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(10)  # so that it is sure of something, and greedy answers have no ties
        save_model(model, Path(folder), tokenizer=None)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        model = load_model(Path(folder))
    model.compute_dtype = dtype
    return Engine(model, NoEnd(config.vocab_size)), theirs


def prompts_of(count: int, num_tokens: int, vocab_size: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, vocab_size, (count, num_tokens), generator=generator).tolist()


def theirs_generate(theirs: Any, prompts: list[list[int]], num_tokens: int, **how: Any) -> list[list[int]]:
    ids = torch.tensor(prompts, device=theirs.device)
    with torch.inference_mode():
        out = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, min_new_tokens=num_tokens, eos_token_id=None,
            pad_token_id=0, **how,
        )  # fmt: skip
    return out[:, ids.shape[1] :].tolist()


def batch_sides(ours: Engine, theirs: Any, arguments: argparse.Namespace) -> dict[str, Callable[[], list[list[int]]]]:
    prompts = prompts_of(16, arguments.prompt_tokens, ours.model.config.vocab_size)
    greedy = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0)
    return {
        "theirs": lambda: theirs_generate(theirs, prompts, NEW_TOKENS, do_sample=False),
        "ours": lambda: [sample.tokens for sample in ours.generate(prompts, greedy, seeds=[0] * 16)],
    }


def samples_sides(ours: Engine, theirs: Any, arguments: argparse.Namespace) -> dict[str, Callable[[], list[list[int]]]]:
    prompt = prompts_of(1, 512, ours.model.config.vocab_size)
    drawn = SamplingParams(max_tokens=NEW_TOKENS, temperature=1.0)
    return {
        "theirs": lambda: theirs_generate(theirs, prompt, NEW_TOKENS, do_sample=True, top_k=0, num_return_sequences=8),
        "ours": lambda: [sample.tokens for sample in ours.generate(prompt * 8, drawn, seeds=range(8))],
    }


def ragged_sides(ours: Engine, theirs: Any, arguments: argparse.Namespace) -> dict[str, Callable[[], list[list[int]]]]:
    prompts = prompts_of(48, arguments.prompt_tokens, ours.model.config.vocab_size)
    limits = [16 + 16 * (5 * i % 8) for i in range(48)]

    def answer_ours() -> list[list[int]]:
        batcher = Batcher(ours, max_rows=16)
        ids = [
            batcher.add(prompt, SamplingParams(max_tokens=limit, temperature=0.0), seed=0)
            for prompt, limit in zip(prompts, limits, strict=True)
        ]
        found: dict[int, list[int]] = {i: [] for i in ids}
        while batcher.num_active or batcher.num_waiting:
            for event in batcher.step():
                found[event.request_id].append(event.token)
        return [found[i] for i in ids]

    def answer_theirs() -> Iterator[list[int]]:
        for start in range(0, 48, 16):
            part, of_part = prompts[start : start + 16], limits[start : start + 16]
            for answer, limit in zip(theirs_generate(theirs, part, max(of_part), do_sample=False), of_part, strict=True):
                yield answer[:limit]

    return {"theirs": lambda: list(answer_theirs()), "ours": answer_ours}


if __name__ == "__main__":
    main()
