"""What `bloomery doctor --deep` measures of a training: its data where they are tokens, its model where it is finished."""

from collections.abc import Sequence
from pathlib import Path

from bloomery.evaluate.memorisation import measure_memory
from bloomery.generate.engine import Engine
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model
from bloomery.pipeline.checkup import Training
from bloomery.tokens.data_facts import measure_tokens, open_unverified
from bloomery.tokens.loader import TokenRows, make_batch, token_rows
from bloomery.tokens.shards import token_set
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.weight_facts import measure_weights

LOOKED_AT_ROWS = 8
"""Rows of text that a model's units and logits are looked at on."""


def measure(training: Training) -> dict[str, float]:
    """Numbers by the names that a diagnosis knows; of several inputs the worst. What is not there yet is left out."""
    folders = [path for path in training.inputs.get("tokens", []) if (path / "manifest.json").is_file()]
    sha256 = _tokenizer_sha256([*training.inputs.get("tokenizer", []), *training.inputs.get("init", [])])
    found: dict[str, float] = {}
    for folder in folders:
        for name, value in measure_tokens(folder, tokenizer_sha256=sha256).items():
            found[name] = max(value, found.get(name, 0.0))
    if training.facts.finished and training.facts.stage != "reward_model":
        found |= _measure_model(training, folders)
    return found


def _measure_model(training: Training, folders: Sequence[Path]) -> dict[str, float]:
    model, tokenizer = load_model(training.artifact).to(resolve_device("auto")), load_tokenizer(training.artifact)
    rows = _rows(training, folders, tokenizer, row_tokens=min(256, model.config.max_positions))
    found: dict[str, float] = {}
    if rows is not None and rows.packed.num_rows:
        batch = make_batch(rows, range(min(LOOKED_AT_ROWS, rows.packed.num_rows)))
        if int(batch.token_BT.max()) < model.config.vocab_size:  # of others' tokens `find_foreign_tokens` tells
            found |= measure_weights(model, batch.to(model.device))
    if folders:
        train, held_out = open_unverified(folders[0], "train"), open_unverified(folders[0], "validation")
        found |= measure_memory(Engine(model, tokenizer), train, held_out, context_tokens=model.config.max_positions)
    return found


def _rows(training: Training, folders: Sequence[Path], tokenizer: Tokenizer, *, row_tokens: int) -> TokenRows | None:
    """Rows of held-out text, of training text if there is none, or of what the model wrote at its validations."""
    for folder in folders:
        for split in (open_unverified(folder, "validation"), open_unverified(folder, "train")):
            if split.num_tokens:
                return token_rows(split, row_tokens=row_tokens)
    written = [tokenizer.encode(f"{sample['prompt']}{sample['text']}") for sample in training.facts.record.get("samples", ())]
    written = [ids for ids in written if ids]
    return token_rows(token_set(written), row_tokens=row_tokens) if written else None


def _tokenizer_sha256(folders: Sequence[Path]) -> str:
    folder = next((path for path in folders if (path / "tokenizer.json").is_file()), None)
    return load_tokenizer(folder).sha256 if folder is not None else ""
