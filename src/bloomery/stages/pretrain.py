"""pretrain: a language model from tokens, or, with `init`, the further training of one that exists.

Documents are packed into rows and stay apart in them (no attention across). Midtraining and continued pretraining are
this stage with another mixture, an `init` and another schedule. Writes a Hugging Face folder and training.json.
"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any  # Any: metrics are plain JSON values

import numpy as np
from pydantic import BeforeValidator, NonNegativeFloat, NonNegativeInt, PositiveInt

from bloomery.core import dist
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.model.config import ModelShape, count_params, make_model_config
from bloomery.model.device import resolve_device, resolve_dtype
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import linear_next_token
from bloomery.objectives.terms import LossTerms
from bloomery.tokens.loader import Batch, TokenRows, make_batch, row_order, rows_of_step, token_rows
from bloomery.tokens.shards import Split, open_tokens
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.checkpoint import Snapshots
from bloomery.train.fit import Run, TrainingConfig, final_loss, fit, make_state
from bloomery.train.step import micro_batch_rows, own_share, sum_losses

UNITS = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_count(value: object) -> object:
    """A number of tokens as people write it.

    >>> parse_count("2M"), parse_count("1.5B"), parse_count(300)
    (2000000, 1500000000, 300)
    """
    if not isinstance(value, str):
        return value
    number, unit = (value[:-1], UNITS[value[-1]]) if value[-1:] in UNITS else (value, 1)
    try:
        return round(float(number) * unit)
    except (ValueError, OverflowError) as error:
        raise ValueError('expected a number of tokens such as 2000000, "500k", "2M" or "1.5B"') from error


class PretrainConfig(TrainingConfig):
    """Next-token prediction on packed documents."""

    model: ModelShape = ModelShape()
    """Its shape; with an `init` the checkpoint's shape is kept and this is not read."""
    tokens: Annotated[PositiveInt, BeforeValidator(parse_count)] = 2_000_000
    """How many tokens to train on, all epochs together: 2000000, "2M", "1.5B"."""
    sequence_tokens: PositiveInt = 256
    """Places in a row: as far as attention reaches."""
    batch_tokens: PositiveInt = 8192
    """Places in a step, all processes together."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared log-normaliser, against drifting logits (1e-4 in PaLM)."""
    num_validations: PositiveInt = 10
    validation_tokens: NonNegativeInt = 65_536
    """Places of held-out text that each validation reads, the same each time; 0 = all there are."""


def pretrain(
    config: PretrainConfig, *, tokens: Path, tokenizer: Path, init: Path | None = None, out: Path, runtime: Runtime
) -> Mapping[str, Any]:
    """Writes a checkpoint folder.

    Raises ConfigError for sizes that do not fit each other, DataError for tokens of another tokenizer or none at all.
    """
    if (out / "training.json").is_file():  # written last: nothing is left to do
        return _metrics(read_json(out / "training.json"))
    device = resolve_device(runtime.device)
    vocabulary = load_tokenizer(tokenizer)
    source, held_out = _open_rows(config, tokens, vocabulary, "train"), _open_rows(config, tokens, vocabulary, "validation")
    batch_rows = _batch_rows(config)
    if source.packed.num_rows == 0:
        raise DataError(f"{tokens}: its train split has no tokens to train on")
    model = _make_model(config, vocabulary, init).to(device)
    model.compute_dtype = resolve_dtype(config.precision, device)

    def batches_of_step(step: int) -> list[Batch]:
        rows = own_share(rows_of_step(step, num_rows=source.packed.num_rows, batch_rows=batch_rows, seed=config.seed))
        return make_batch(source, rows).to(device).split(-(-len(rows) // micro_batch_rows(config.sequence_tokens, device)))

    run = Run(
        num_steps=max(1, round(config.tokens / (batch_rows * config.sequence_tokens))),
        objective=functools.partial(next_token_objective, z_loss=config.z_loss),
        batches_of_step=batches_of_step,
        validate=functools.partial(measure, source=held_out, token_bytes=vocabulary.token_bytes(), config=config),
        num_validations=config.num_validations if held_out.packed.num_rows else 0,
    )
    state = make_state(model, config)
    fit(state, run, config, snapshots=Snapshots(out / ".scratch", settings=config.model_dump_json()), runtime=runtime)
    training = {
        "steps": state.step,
        "tokens": state.tokens,
        "params": count_params(model.config),
        "epochs": round(state.step * batch_rows / source.packed.num_rows, 4),
        "padding_fraction": round(source.packed.padding_fraction, 6),
        "train_loss": final_loss(state),
        "skipped_steps": state.skipped,
        "curve": [[row["step"], row["tokens"], row["bits_per_byte"]] for row in state.curve],
        "validation": state.curve,
    }
    if dist.rank() == 0:
        save_model(model, out, tokenizer=tokenizer, like=init)
        write_json(out / "training.json", training)
    dist.barrier()
    return _metrics(training)


def next_token_objective(model: Transformer, batch: Batch, *, z_loss: float) -> LossTerms:
    """Next-token loss of a batch of packed rows, documents apart."""
    hidden_BTD = model.hidden_states(batch.token_BT, position_BT=batch.position_BT, document_BT=batch.document_BT)
    flat = (hidden_BTD.flatten(0, 1), model.head_weight(), batch.target_BT.flatten(), batch.weight_BT.flatten())
    return linear_next_token(*flat, z_loss=z_loss)


def measure(model: Transformer, *, source: TokenRows, token_bytes: np.ndarray, config: PretrainConfig) -> dict[str, float]:
    """Loss in nats a token, and bits a byte, of held-out rows: the first of a fixed shuffle, up to `validation_tokens` places.

    Bits per byte compares models whatever their tokenizer: what it costs to say the end of a document counts, and has no bytes.
    """
    device = model.head_weight().device
    wanted = config.validation_tokens // config.sequence_tokens or source.packed.num_rows
    rows = row_order(source.packed.num_rows, seed=0, epoch=0)[:wanted]
    size = micro_batch_rows(config.sequence_tokens, device)
    batches = [make_batch(source, rows[i : i + size]) for i in range(0, len(rows), size)]
    num_bytes = sum(int(token_bytes[batch.target_BT[batch.weight_BT > 0].numpy()].sum()) for batch in batches)
    terms = sum_losses(model, (batch.to(device) for batch in batches), functools.partial(next_token_objective, z_loss=0.0))
    return {"loss": float(terms.loss_sum / terms.weight), "bits_per_byte": float(terms.loss_sum) / math.log(2) / num_bytes}


def _open_rows(config: PretrainConfig, folder: Path, vocabulary: Tokenizer, split: Split) -> TokenRows:
    return token_rows(open_tokens(folder, split=split, tokenizer_sha256=vocabulary.sha256), row_tokens=config.sequence_tokens)


def _batch_rows(config: PretrainConfig) -> int:
    batch_rows = config.batch_tokens // config.sequence_tokens
    if batch_rows < dist.world_size():
        raise ConfigError(
            f"batch_tokens = {config.batch_tokens} holds {batch_rows} rows of sequence_tokens = {config.sequence_tokens}; "
            f"{dist.world_size()} processes need at least a row each"
        )
    return batch_rows


def _make_model(config: PretrainConfig, vocabulary: Tokenizer, init: Path | None) -> Transformer:
    if init is None and config.lora.rank:
        raise ConfigError(f"lora.rank = {config.lora.rank}: there is no `init` whose weights the adapters could be added to")
    if init is None:
        return Transformer(
            make_model_config(config.model, vocab_size=vocabulary.vocab_size, max_positions=config.sequence_tokens), seed=config.seed
        )
    model = load_model(init)
    if model.config.vocab_size < vocabulary.vocab_size:
        raise DataError(
            f"{init}: has {model.config.vocab_size} tokens; the tokenizer of this run has {vocabulary.vocab_size}. Use the model's own."
        )
    if model.config.max_positions < config.sequence_tokens:
        raise ConfigError(f"sequence_tokens = {config.sequence_tokens} is more than the {model.config.max_positions} positions of {init}")
    add_adapters(model, config.lora, seed=config.seed)
    return model


def _metrics(training: Mapping[str, Any]) -> dict[str, Any]:
    last = training["validation"][-1] if training["validation"] else {}
    plain = {name: value for name, value in training.items() if isinstance(value, int | float)}
    return {**plain, **{f"validation_{name}": last[name] for name in ("loss", "bits_per_byte") if name in last}}


STAGE = Stage(
    name="pretrain",
    config_type=PretrainConfig,
    run=pretrain,
    inputs={"tokens": Slot("tokens"), "tokenizer": Slot("tokenizer"), "init": Slot("checkpoint", optional=True)},
    output="checkpoint",
    version=2,
    spmd=True,
)
