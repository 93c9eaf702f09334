"""Do small models copy? Two measures for every `pretrain` of a run, such as a ladder.

    python bench/copying.py runs/ladder-ladder

Gain from the text before: evaluate/context_gain.py, as on the page of a ladder. Copying: 100 random tokens twice in a row, the loss on
the first half less that on the second; above zero where the second is read off the first. Both in nats a token.
"""

import argparse
from pathlib import Path

import torch

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.evaluate.context_gain import context_gains, draw_rows
from bloomery.model.huggingface import load_model
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import token_logps
from bloomery.tokens.shards import open_tokens

ROW_TOKENS = 256
HALF_TOKENS, NUM_PAIRS, FIRST_TOKEN = 100, 64, 300
"""Random tokens begin behind the bytes and the special tokens; the first twenty of each half are left out of the means."""


def main() -> None:
    """Prints a row for each model, by FLOP."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run")
    records = {path: read_artifact(path).record for path in sorted(parser.parse_args().run.iterdir()) if (path / RECORD).is_file()}
    tokens = [open_tokens(path, split="validation") for path, record in records.items() if record["stage"] == "tokenize"]
    if (row_NT := draw_rows(tokens, row_tokens=ROW_TOKENS)) is None:
        raise SystemExit("too few long held-out documents")
    models = {path: record["metrics"] for path, record in records.items() if record["stage"] == "pretrain"}
    print("| model | parameters | tokens | layers | loss | gain from the text before | copying |\n|---|---|---|---|---|---|---|")
    for path, metrics in sorted(models.items(), key=lambda pair: pair[1]["params"] * pair[1]["tokens"]):
        model = load_model(path).eval()
        size = f"{metrics['params'] / 1e6:.3g} M | {metrics['tokens'] / 1e6:.3g} M | {model.config.num_layers}"
        gain = float(context_gains(model, row_NT).mean())
        print(f"| {path.name} | {size} | {metrics['validation_loss']:.3f} | {gain:+.3f} | {copying(model):+.2f} |", flush=True)


@torch.inference_mode()
def copying(model: Transformer) -> float:
    """Loss on the first of two equal halves of random tokens, less that on the second."""
    draw = torch.Generator().manual_seed(0)
    half_NT = torch.randint(FIRST_TOKEN, model.config.vocab_size, (NUM_PAIRS, HALF_TOKENS), generator=draw)
    row_NT = torch.cat([half_NT, half_NT], dim=1)
    logp_T = token_logps(model(row_NT[:, :-1]), row_NT[:, 1:]).mean(dim=0)
    return float(logp_T[HALF_TOKENS + 20 :].mean() - logp_T[20 : HALF_TOKENS - 1].mean())


if __name__ == "__main__":
    main()
