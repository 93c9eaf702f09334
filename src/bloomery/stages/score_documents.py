"""score_documents: a trained checkpoint as a scorer. documents + a model -> the same documents with `signal_bits_per_byte`.

Few bits per byte: text that the model could have gone on with, which is clean where it was trained on clean text, and
also where a document only repeats itself; so drop from both ends. Nothing is dropped here: a rule on the signal does
that in `filter`, whose thresholds move without another pass of the model.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, PositiveInt

from bloomery.core.config import Config
from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.classifier import set_signal
from bloomery.curate.flow import Outcome, Shard, map_shards, number_shards, text_bytes
from bloomery.curate.ledger import ledger_table
from bloomery.evaluate.scoring import document_bits
from bloomery.model.huggingface import load_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.shards import token_set
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer


class ScoreDocumentsConfig(Config):
    """How much of each document a checkpoint reads."""

    name: str = Field(default="bits_per_byte", pattern=r"^[a-z][a-z0-9_]*$")
    """The score is `signal_<name>`: bits that the text costs, for each of its bytes; null for a document without text."""
    max_tokens: PositiveInt = 1024
    """As much of a document's beginning as is read."""
    context_tokens: PositiveInt = 512
    """Longer documents are read in pieces of this length, or of the model's own context if that is shorter."""
    batch_documents: PositiveInt = 1024
    """Documents tokenized at a time."""


def score_documents(config: ScoreDocumentsConfig, *, documents: list[Path], model: Path, out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with every document, one shard for each input file, and the score as a column."""
    shards = number_shards(list_document_files(documents))
    return map_shards(functools.partial(score_file, config, model, _device(runtime)), shards, out=out, runtime=runtime)


def score_file(config: ScoreDocumentsConfig, folder: Path, device: str, shard: Shard) -> Iterator[Outcome]:
    """The documents of one file with their scores; nothing goes to the ledger."""
    model, tokenizer = load_model(folder, device=device).eval(), load_tokenizer(folder)
    threads = torch.get_num_threads()
    # Sums over threads differ in their last bits with the number of threads, which is 1 in a pool's workers.
    torch.set_num_threads(1 if device == "cpu" else threads)
    try:
        for batch in read_document_batches(shard.source):
            parts = [batch.slice(i, config.batch_documents) for i in range(0, len(batch), config.batch_documents)]
            scores = np.concatenate([_score(config, model, tokenizer, part, device=device) for part in parts] or [np.zeros(0)])
            table = set_signal(batch, config.name, scores, known=~np.isnan(scores))
            yield Outcome(table, ledger_table([]), len(table), text_bytes(table))
    finally:
        torch.set_num_threads(threads)


def _score(config: ScoreDocumentsConfig, model: Transformer, tokenizer: Tokenizer, table: pa.Table, *, device: str) -> np.ndarray:
    texts = [text or "" for text in table.column("text").to_pylist()]
    ids = [[*tokenizer.begin, *row][: config.max_tokens] for row in tokenizer.encode_batch(texts)]
    tokens = token_set(ids)
    context_tokens = min(config.context_tokens, model.config.max_positions)
    scored = document_bits(model, tokens, tokenizer.token_bytes(), context_tokens=context_tokens, max_tokens=0, device=device)
    bits, num_bytes = np.array(scored.bits), np.array(scored.num_bytes)
    return np.asarray(np.divide(bits, num_bytes, out=np.full(len(bits), np.nan), where=num_bytes > 0))


def _device(runtime: Runtime) -> str:
    if runtime.device != "auto":
        return runtime.device
    return "cuda" if torch.cuda.is_available() else "cpu"


STAGE = Stage(
    name="score_documents",
    config_type=ScoreDocumentsConfig,
    run=score_documents,
    inputs={"documents": Slot("documents", many=True), "model": Slot("checkpoint")},
    output="documents",
    version=1,
)
