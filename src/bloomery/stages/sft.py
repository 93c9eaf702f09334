"""sft: a chat model from a language model, by imitation of conversations (supervised fine-tuning).

Conversations are rendered with the checkpoint's own tokenizer and packed into rows in which none sees another. Loss is
on what the assistant says and on the `<|end|>` after it, and on nothing else. Writes a Hugging Face folder and
training.json.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: metrics are plain JSON values

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from bloomery.core import dist
from bloomery.core.conversation import read_conversations
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_json
from bloomery.core.stage import Launch, Runtime, Slot, Stage
from bloomery.generate.samples import conversation_prompts, write_samples
from bloomery.model.architectures import read_config
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import linear_next_token
from bloomery.objectives.terms import LossTerms
from bloomery.tokens.chat import Rendered, render
from bloomery.tokens.loader import Batch, ConversationRows, conversation_rows, make_batch, rows_of_step
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.checkpoint import Snapshots
from bloomery.train.compute import prepare_model
from bloomery.train.fit import Run, TrainingConfig, final_loss, fit, make_state
from bloomery.train.layout import find_misfits
from bloomery.train.schedule import Decay
from bloomery.train.sharding import arrange, distribute, gather_model
from bloomery.train.spikes import spike_summary
from bloomery.train.step import micro_batch_rows, num_micro_batches, own_share, sum_losses


class SftConfig(TrainingConfig):
    """Fine-tuning on conversations."""

    learning_rate: PositiveFloat = 0.003
    embedding_learning_rate: PositiveFloat = 0.003
    decay: Decay = "linear"
    epochs: PositiveFloat = 2.0
    """Passes over the conversations; not read when `steps` is given."""
    steps: NonNegativeInt = 0
    """How many steps to train; 0 = as many as `epochs` takes."""
    sequence_tokens: PositiveInt = 256
    """Places in a row; a longer conversation is cut."""
    batch_tokens: PositiveInt = 8192
    """Places in a step, all processes together."""
    held_out_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Share of the conversations, by a hash of their prompt, that is kept for validation."""
    num_validations: PositiveInt = 5


class Conversations(NamedTuple):
    """Rendered conversations, and how many were passed over because no assistant turn is in them."""

    train: list[Rendered]
    held_out: list[Rendered]
    num_unanswered: int


def sft(config: SftConfig, *, init: Path, conversations: Sequence[Path], out: Path, runtime: Runtime) -> Mapping[str, Any]:
    """Writes a checkpoint folder; of a conversations artifact only train.jsonl.gz is read.

    Raises ConfigError for sizes that do not fit each other, DataError for conversations with nothing to learn in them.
    """
    if (out / "training.json").is_file():  # written last: nothing is left to do
        return _metrics(read_json(out / "training.json"))
    device, launch = resolve_device(runtime.device), runtime.launch
    parallel = arrange(launch, device)
    model = load_model(init)
    add_adapters(model, config.lora, seed=config.seed)
    launch = prepare_model(model, precision=config.precision, launch=launch, device=device)
    model = distribute(model, parallel, launch, device)
    batch_rows = _batch_rows(config, model, init, parallel.layout.data)
    files = [path / "train.jsonl.gz" if (path / "train.jsonl.gz").is_file() else path for path in conversations]
    tokenizer = load_tokenizer(init)
    rendered = render_all(read_conversations(files), tokenizer, held_out_fraction=config.held_out_fraction)
    if not rendered.train:
        raise DataError(f"{', '.join(map(str, files))}: found no conversation with an assistant's turn to learn")
    source = conversation_rows(rendered.train, row_tokens=config.sequence_tokens)
    held_out = conversation_rows(rendered.held_out, row_tokens=config.sequence_tokens)

    prompts = conversation_prompts(rendered.held_out, count=config.num_samples)
    rows_of = functools.partial(rows_of_step, num_rows=source.packed.num_rows, batch_rows=batch_rows, seed=config.seed)

    def batches_of_step(step: int) -> list[Batch]:
        rows = own_share(rows_of(step), launch)
        parts = make_batch(source, rows).split(num_micro_batches(len(rows), config.sequence_tokens, device, launch))
        return [part.to(device) for part in parts]

    run = Run(
        num_steps=config.steps or max(1, round(config.epochs * source.packed.num_rows / batch_rows)),
        objective=response_objective,
        batches_of_step=batches_of_step,
        validate=functools.partial(measure, source=held_out),
        num_validations=config.num_validations if rendered.held_out else 0,
        window_of_step=lambda step: {"rows": rows_of(step).tolist()},
        sample=functools.partial(write_samples, tokenizer=tokenizer, prompts=prompts, num_tokens=config.sample_tokens),
    )
    state = make_state(model, config, parallel)
    keep = {"keep_last": launch.keep_snapshots, "keep_every_steps": launch.keep_every_steps}
    snapshots = Snapshots(out / ".scratch", settings=config.model_dump_json(), **keep)
    fit(state, run, config, snapshots=snapshots, runtime=runtime)
    training = {
        "steps": state.step,
        "tokens": state.tokens,
        "conversations": len(rendered.train),
        "held_out_conversations": len(rendered.held_out),
        "unanswered_conversations": rendered.num_unanswered,
        "cut_conversations": source.num_cut,
        "epochs": round(state.step * batch_rows / source.packed.num_rows, 4),
        "padding_fraction": round(source.packed.padding_fraction, 6),
        "train_loss": final_loss(state),
        "skipped_steps": state.skipped,
        **spike_summary(state),
        "samples": state.samples,
        "curve": [[row["step"], row["tokens"], row["loss"]] for row in state.curve],
        "validation": state.curve,
    }
    if (whole := gather_model(model)) is not None:
        save_model(whole, out, tokenizer=init, like=init)
        write_json(out / "training.json", training)
    dist.barrier()
    return _metrics(training)


def render_all(rows: Iterable[Mapping[str, Any]], tokenizer: Tokenizer, *, held_out_fraction: float) -> Conversations:
    """Conversations as ids, split by a hash of what comes before the last turn: one prompt is never on both sides."""
    train: list[Rendered] = []
    held_out: list[Rendered] = []
    num_unanswered = 0
    for row in rows:
        rendered = render(tokenizer, row["messages"])
        if not any(rendered.loss_mask):
            num_unanswered += 1
            continue
        prompt = "\x00".join(message["content"] for message in row["messages"][:-1])
        digest = hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=8).digest()
        chosen = held_out if int.from_bytes(digest, "big") < held_out_fraction * 2**64 else train
        chosen.append(rendered)
    return Conversations(train, held_out, num_unanswered)


def response_objective(model: Transformer, batch: Batch) -> LossTerms:
    """Next-token loss of the tokens that are the assistant's; logits are computed for these only."""
    hidden_BTD = model.hidden_states(batch.token_BT, position_BT=batch.position_BT, document_BT=batch.document_BT, max_runs=batch.max_runs)
    flat = (hidden_BTD.flatten(0, 1), model.head_weight(), batch.target_BT.flatten(), batch.weight_BT.flatten())
    return linear_next_token(*flat, compiled=model.compiled)


def measure(model: Transformer, *, source: ConversationRows) -> dict[str, float]:
    """Loss in nats a response token on all held-out conversations."""
    device = model.device
    size = micro_batch_rows(source.packed.row_tokens, device)
    rows = range(source.packed.num_rows)
    terms = sum_losses(model, (make_batch(source, rows[i : i + size]).to(device) for i in rows[::size]), response_objective)
    return {"loss": float(terms.loss_sum / terms.weight)}


def _batch_rows(config: SftConfig, model: Transformer, init: Path, num_parts: int) -> int:
    if model.config.max_positions < config.sequence_tokens:
        raise ConfigError(f"sequence_tokens = {config.sequence_tokens} is more than the {model.config.max_positions} positions of {init}")
    batch_rows = config.batch_tokens // config.sequence_tokens
    if batch_rows < num_parts:
        raise ConfigError(
            f"batch_tokens = {config.batch_tokens} holds {batch_rows} rows of sequence_tokens = {config.sequence_tokens}; "
            f"{num_parts} processes need at least a row each"
        )
    return batch_rows


def check_launch(config: SftConfig, launch: Launch, inputs: Mapping[str, Any]) -> list[str]:
    """What of a launch does not fit the model, where it is made already, and the batch."""
    refused = [f"launch: pipeline = {launch.pipeline} is for pretrain only; sft takes data and tensor"] if launch.pipeline > 1 else []
    init = inputs.get("init")
    model = read_config(init) if init and (init / "config.json").is_file() else None
    rows, adapters = config.batch_tokens // config.sequence_tokens, config.lora.rank > 0
    return refused + find_misfits(launch, model, batch_rows=rows, row_tokens=config.sequence_tokens, lora=adapters)


def _metrics(training: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in training.items() if isinstance(value, int | float)}
    return {**plain, **({"validation_loss": training["validation"][-1]["loss"]} if training["validation"] else {})}


STAGE = Stage(
    name="sft",
    config_type=SftConfig,
    run=sft,
    inputs={"init": Slot("checkpoint"), "conversations": Slot("conversations", many=True)},
    output="checkpoint",
    version=2,
    spmd=True,
    check_launch=check_launch,
)
