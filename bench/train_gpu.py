"""Training speed of models of about 125 M, 350 M and 1 B parameters on one GPU: tokens/s and MFU.

    python bench/train_gpu.py                                            # all sizes at 1,024, 2,048 and 4,096 tokens, bf16
    python bench/train_gpu.py --runs 1b:2048:bf16 1b:2048:fp8 --documents 600
    python bench/train_gpu.py --runs 125m:1024:bf16 --peer               # transformers' Llama beside it, compiled, autocast

Whole training steps as `pretrain` takes them (forward, chunked cross-entropy, backward, clipping, Muon and AdamW) on random
tokens, as speed does not depend on them. With --documents rows hold documents of about so many tokens that do not see each
other; without, one document a row. MFU: 6 FLOP a parameter of a matrix product and 12 * layers * width * sequence for
attention (PaLM's definition: the causal half is not taken off) over the dense bf16 peak of the data sheet; "of probe" is over a
large matrix product measured in the same run. float8 is put over the bf16 peak, too.
"""

import argparse
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bloomery.core.stage import Launch
from bloomery.model.config import ModelShape, count_params, flops_per_token, make_model_config
from bloomery.model.transformer import Transformer
from bloomery.stages.pretrain import next_token_objective
from bloomery.tokens.loader import Batch
from bloomery.train.compute import prepare_model
from bloomery.train.optimizer import make_optimizers
from bloomery.train.state import TrainState
from bloomery.train.step import train_step

VOCAB = 50304
SHAPES = {
    "125m": ModelShape(dim=768, num_layers=12, head_dim=128, num_heads=6, num_kv_heads=6, mlp_dim=2048),
    "350m": ModelShape(dim=1024, num_layers=24, head_dim=128, num_heads=8, num_kv_heads=8, mlp_dim=2816),
    "1b": ModelShape(dim=2048, num_layers=18, head_dim=128, num_heads=16, num_kv_heads=16, mlp_dim=5632),
}
MICRO_BATCH_TOKENS = {"125m": 65536, "350m": 32768, "1b": 32768}
PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312, "B200": 2250}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [f"{size}:{tokens}:bf16" for size in SHAPES for tokens in (1024, 2048, 4096)]
    parser.add_argument("--runs", nargs="*", default=default, help="SIZE:SEQUENCE:PRECISION[:MICRO_BATCH_TOKENS]")
    parser.add_argument("--documents", type=int, default=0, help="mean tokens of a document; 0 = one a row")
    parser.add_argument("--batch-tokens", type=int, default=524_288)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peer", action="store_true", help="transformers' Llama of the same sizes, too")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name()
    peak = next((value for key, value in PEAK_TFLOPS.items() if key in name), float("nan"))
    probe = matmul_tflops()
    print(f"{name}, torch {torch.__version__}; bf16 matrix product {probe:.0f} TFLOP/s, data sheet {peak}", flush=True)
    print("| model | parameters | sequence | micro-batch | batch | precision | tokens/s | TFLOP/s | MFU | of probe | GB |", flush=True)
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for run in arguments.runs:
        size, tokens, precision, *micro = run.split(":")
        micro_tokens = int(micro[0]) if micro else MICRO_BATCH_TOKENS[size]
        config = make_model_config(SHAPES[size], vocab_size=VOCAB, max_positions=int(tokens))
        batch = random_batch(arguments.batch_tokens // int(tokens), int(tokens), mean_document=arguments.documents)
        for side in ("bloomery", "transformers") if arguments.peer else ("bloomery",):
            torch._dynamo.reset()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            measure = measure_bloomery if side == "bloomery" else measure_transformers
            seconds = measure(config, batch, micro_rows=micro_tokens // int(tokens), precision=precision, steps=arguments.steps)
            speed = arguments.batch_tokens / seconds
            tflops = speed * flops_per_token(config, int(tokens)) / 1e12
            memory = torch.cuda.max_memory_allocated() / 1e9
            row = [f"{size} {side}", f"{count_params(config) / 1e6:.0f} M", tokens, micro_tokens, arguments.batch_tokens, precision]
            row += [f"{speed:,.0f}", f"{tflops:.0f}", f"{tflops / peak:.1%}", f"{tflops / probe:.1%}", f"{memory:.0f}"]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


def measure_bloomery(config, batch: Batch, *, micro_rows: int, precision: str, steps: int) -> float:
    """Median seconds of a step, the first two left out."""
    device = torch.device("cuda")
    model = Transformer(config).to(device)
    prepare_model(model, precision=precision, launch=Launch(), device=device)
    optimizers = make_optimizers(model, name="muon", learning_rate=0.01, embedding_learning_rate=0.01, weight_decay=0.1)
    state = TrainState(model, optimizers)
    seconds = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        parts = [part.to(device) for part in batch.split(batch.num_rows // micro_rows)]
        train_step(state, parts, lambda m, b: next_token_objective(m, b, z_loss=0.0), max_gradient_norm=1.0)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def measure_transformers(config, batch: Batch, *, micro_rows: int, precision: str, steps: int) -> float:
    """The same for LlamaForCausalLM with SDPA, autocast, compiled, fused AdamW, documents not kept apart."""
    llama = LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.dim, intermediate_size=config.mlp_dim, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads, head_dim=config.head_dim,
        max_position_embeddings=config.max_positions, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(llama).cuda()
    model.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    seconds = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        for part in batch.split(batch.num_rows // micro_rows):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model(input_ids=part.token_BT.cuda(), labels=part.token_BT.cuda()).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def random_batch(rows: int, tokens: int, *, mean_document: int) -> Batch:
    """Rows of random tokens; documents have lengths between half and one and a half of the mean, cut at the row's end."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCAB, (rows, tokens + 1), generator=draw)
    document, position = torch.ones(rows, tokens, dtype=torch.long), torch.arange(tokens).repeat(rows, 1)
    for row in range(rows if mean_document else 0):
        at, number = 0, 1
        while at < tokens:
            length = min(int(torch.randint(mean_document // 2, mean_document * 3 // 2 + 1, (), generator=draw)), tokens - at)
            document[row, at : at + length] = number
            position[row, at : at + length] = torch.arange(length)
            at, number = at + length, number + 1
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, tokens), document, position)


def matmul_tflops(size: int = 8192, repeats: int = 20) -> float:
    """bf16 TFLOP/s of one large matrix product of random numbers."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - started) / 1e12


if __name__ == "__main__":
    main()
