"""Do small models use what stands before? Two measures of it for every `pretrain` of a run, such as a ladder.

    python bench/copying.py runs/ladder-ladder

late - early: the loss at places 200 to 255 of rows of held-out documents, less that at 40 to 60; below zero where more text before
helps (in-context learning in the sense of Olsson et al., arXiv:2209.11895, sec. 3). second - first: 100 random tokens twice in
a row; below zero where the second half is read off the first, which nothing but copying does. Both in nats a token.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.model.huggingface import load_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.shards import open_tokens

ROW_TOKENS, NUM_ROWS, BATCH_ROWS = 256, 400, 50
EARLY, LATE = slice(40, 60), slice(200, 255)
HALF_TOKENS, NUM_PAIRS, FIRST_TOKEN = 100, 64, 300
"""Random tokens begin behind the bytes and the special tokens; the first twenty of each half are left out of the means."""


def main() -> None:
    """Prints a row for each model, by FLOP."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run")
    folders = {path: read_artifact(path).record for path in sorted(parser.parse_args().run.iterdir()) if (path / RECORD).is_file()}
    tokens = next(path for path, record in folders.items() if record["stage"] == "tokenize")
    row_NT = held_out_rows(tokens)
    models = {path: record["metrics"] for path, record in folders.items() if record["stage"] == "pretrain"}
    print("| model | parameters | tokens | layers | loss | late - early | second - first |\n|---|---|---|---|---|---|---|")
    for path, metrics in sorted(models.items(), key=lambda pair: pair[1]["params"] * pair[1]["tokens"]):
        model = load_model(path).eval()
        losses_T = read_losses(model, row_NT).mean(dim=0)
        gain = float(losses_T[LATE].mean() - losses_T[EARLY].mean())
        size = f"{metrics['params'] / 1e6:.3g} M | {metrics['tokens'] / 1e6:.3g} M | {model.config.num_layers}"
        print(f"| {path.name} | {size} | {metrics['validation_loss']:.3f} | {gain:+.3f} | {copying_gain(model):+.2f} |", flush=True)


def held_out_rows(tokens: Path) -> Tensor:
    """Rows of held-out documents (N x T), spread evenly over all that there are."""
    found = open_tokens(tokens, split="validation")
    documents = [found.document(i).astype(np.int64) for i in range(found.num_documents)]
    rows = [ids[start : start + ROW_TOKENS] for ids in documents for start in range(0, len(ids) - ROW_TOKENS + 1, ROW_TOKENS)]
    return torch.from_numpy(np.stack([rows[i * len(rows) // NUM_ROWS] for i in range(NUM_ROWS)]))


def copying_gain(model: Transformer) -> float:
    """Loss on the second of two equal halves of random tokens, less that on the first."""
    draw = torch.Generator().manual_seed(0)
    half_NT = torch.randint(FIRST_TOKEN, model.config.vocab_size, (NUM_PAIRS, HALF_TOKENS), generator=draw)
    losses_T = read_losses(model, torch.cat([half_NT, half_NT], dim=1)).mean(dim=0)
    return float(losses_T[HALF_TOKENS + 20 :].mean() - losses_T[20 : HALF_TOKENS - 1].mean())


@torch.no_grad()
def read_losses(model: Transformer, row_NT: Tensor) -> Tensor:
    """The loss of every token but the first, at the place of the token before (N x T - 1)."""
    parts = []
    for batch_BT in row_NT.split(BATCH_ROWS):
        logits_BTV = model(batch_BT[:, :-1])
        parts.append(F.cross_entropy(logits_BTV.transpose(1, 2), batch_BT[:, 1:], reduction="none"))
    return torch.cat(parts)


if __name__ == "__main__":
    main()
