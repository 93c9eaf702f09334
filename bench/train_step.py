"""Speed of one training step of the quickstart's model on this machine: the table of docs/benchmarks.md.

    GOMP_SPINCOUNT=2000 python bench/train_step.py      # as the command line sets it; leave it out for the library's default

8,192 tokens a step, two documents in each row of 256, bf16 where the machine has it; random tokens, as speed does not
depend on them. Prints the median tokens/s of each micro-batch size.
"""

import statistics
import time

import torch

from bloomery.model.config import ModelShape, make_model_config
from bloomery.model.device import keep_freed_memory, resolve_dtype
from bloomery.model.transformer import Transformer
from bloomery.stages.pretrain import next_token_objective
from bloomery.tokens.loader import Batch
from bloomery.train.optimizer import make_optimizers
from bloomery.train.state import TrainState
from bloomery.train.step import train_step

ROWS, TOKENS, STEPS = 32, 256, 8


def main() -> None:
    keep_freed_memory()
    model = Transformer(make_model_config(ModelShape(depth=4), vocab_size=4096, max_positions=TOKENS))
    model.compute_dtype = resolve_dtype("auto", torch.device("cpu"))
    optimizers = make_optimizers(model, name="muon", learning_rate=0.01, embedding_learning_rate=0.01, weight_decay=0.1)
    state, batch = TrainState(model, optimizers), random_batch()
    for parts in (1, 2, 4):
        seconds = []
        for _ in range(STEPS):
            started = time.perf_counter()
            train_step(state, batch.split(parts), lambda m, b: next_token_objective(m, b, z_loss=0.0), max_gradient_norm=1.0)
            seconds.append(time.perf_counter() - started)
        print(f"micro-batch {ROWS * TOKENS // parts:5d}: {ROWS * TOKENS / statistics.median(seconds):8,.0f} tokens/s")


def random_batch() -> Batch:
    """Rows of two documents, of 100 and 156 tokens."""
    ids = torch.randint(0, 4096, (ROWS, TOKENS + 1), generator=torch.Generator().manual_seed(0))
    document = torch.ones(ROWS, TOKENS, dtype=torch.long)
    document[:, 100:] = 2
    position = torch.cat([torch.arange(100), torch.arange(156)]).expand(ROWS, TOKENS)
    return Batch(ids[:, :-1], ids[:, 1:], torch.ones(ROWS, TOKENS), document, position)


if __name__ == "__main__":
    main()
