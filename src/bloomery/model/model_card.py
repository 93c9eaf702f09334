"""The model card: README.md of an exported model, written from the artifacts that it was made of.

A finished artifact knows its settings, its counts and the fingerprints of its inputs, so the whole line from pages to
model can be walked back, as far as its folders are still beside one another. What no artifact knows is said to be unknown.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: the values of JSON documents

from bloomery.core.artifact import RECORD, Artifact, read_artifact
from bloomery.core.files import read_json
from bloomery.model.architectures import name_architecture, read_config
from bloomery.model.config import LoraConfig, ModelConfig, count_params, flops_per_token

CARD = "README.md"
UNKNOWN = "unknown"
_STATED = re.compile(r"""^(license|license_name): *["']?([^\s"'#\[\]]+)""", re.MULTILINE)
SHOWN_ROWS = 12
SHOWN_SCORES = 60


class Lineage(NamedTuple):
    """What a model was made of: artifacts, each after its inputs, the model's own last; and how many inputs were not found.

    `licence`: what the card of the imported checkpoint that it began as states; "" without one. `is_trained`: since then, or here.
    """

    artifacts: list[Artifact]
    num_missing: int
    licence: str = ""
    is_trained: bool = False


def find_lineage(model: Path) -> Lineage:
    """Walks back from the artifact in folder `model`. No artifacts for a folder that is none."""
    if not (model / RECORD).is_file():
        return Lineage([], 0, stated_licence(model))
    store, found, missing = model.resolve().parent, dict[str, Artifact](), set[str]()

    def visit(artifact: Artifact) -> None:
        for prints in artifact.record["inputs"].values():
            for fingerprint in prints:
                paths = [path.parent for path in store.glob(f"*-{fingerprint[:16]}/{RECORD}")]
                if not paths:
                    missing.add(fingerprint)
                elif fingerprint not in found:
                    visit(read_artifact(paths[0]))
        found[artifact.fingerprint] = artifact

    visit(read_artifact(model.resolve()))
    licences = (stated_licence(artifact.path) for artifact in found.values() if artifact.record["stage"] == "export")
    is_trained = any(artifact.record["stage"] != "export" for artifact in found.values())
    return Lineage(list(found.values()), len(missing), next(filter(None, licences), ""), is_trained)


def stated_licence(folder: Path) -> str:
    """The licence that the card (README.md) of a model's folder names in its header; "" if there is none, or it is unknown.

    A licence of Hugging Face's kind "other" is called by its own name.
    """
    path = folder / CARD
    parts = re.split(r"^---\s*$", path.read_text("utf-8", "replace"), maxsplit=2, flags=re.MULTILINE) if path.is_file() else []
    stated = dict(_STATED.findall(parts[1])) if len(parts) == 3 and not parts[0].strip("\ufeff\n ") else {}
    found: str = stated.get("license", "")
    return stated.get("license_name", found) if found == "other" else "" if found == UNKNOWN else found


def same_model(artifact: Artifact) -> set[str]:
    """The fingerprints of a checkpoint under which it may have been evaluated: its own, and of an export what was exported."""
    exported = artifact.record["inputs"].get("model", []) if artifact.record["stage"] == "export" else []
    return {artifact.fingerprint, *exported}


def model_card(
    export: Mapping[str, Any],
    config: ModelConfig,
    lineage: Lineage,
    *,
    scores: Sequence[Path],
    written: Mapping[str, Any],
    licence_files: Sequence[str] = (),
) -> str:
    """The card as Markdown with Hugging Face's YAML header. `export` has the settings of the export, `written` what was made.

    `licence_files` are those that came with the model and lie beside the card.
    """
    parts = [
        _header(export, config, lineage),
        f"# {export['name']}",
        _summary(export, config, written),
        _usage(export, config, written),
        _training(lineage),
        _funnel(lineage),
        _mixture(lineage),
        _scores(lineage, scores),
        _licence(export, lineage, licence_files),
        _limits(export, config, lineage, has_scores=bool(scores)),
        _origin(lineage),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(export: Mapping[str, Any], config: ModelConfig, lineage: Lineage) -> str:
    card = _data_card(lineage)
    languages = [name for name in (card or {"by": {"language": {}}})["by"]["language"] if name.isascii() and name.isalpha()]
    values: dict[str, Any] = {
        "license": export["licence"] or ("" if lineage.is_trained else lineage.licence) or UNKNOWN,
        "library_name": "transformers" if export["format"] == "hf" else "llama.cpp",
        "pipeline_tag": "text-generation" if config.head == "tokens" else "text-classification",
        "tags": ["bloomery", *(["gguf"] if export["format"] == "gguf" else []), *(["reward-model"] if config.head == "scalar" else [])],
        **({"language": languages[:SHOWN_ROWS]} if languages else {}),
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()), "---"])


def _summary(export: Mapping[str, Any], config: ModelConfig, written: Mapping[str, Any]) -> str:
    what = "A reward model" if config.head == "scalar" else "A language model"
    dtype = written.get("dtype", export["dtype"])
    kept = "" if dtype == "keep" else f" as {dtype}"
    heads = f"{config.num_heads} heads" + (f" over {config.num_kv_heads} of keys and values" * (config.num_kv_heads != config.num_heads))
    return (
        f"{what} of {count_params(config):,} parameters ({name_architecture(config)}: {config.num_layers} layers, {config.dim} dimensions, "
        f"{heads}, {config.vocab_size:,} tokens of vocabulary), trained for texts of up to {config.max_positions:,} tokens. "
        f"The weights are {written['bytes']:,} bytes{kept}. Made with bloomery."
    )


def _usage(export: Mapping[str, Any], config: ModelConfig, written: Mapping[str, Any]) -> str:
    if export["format"] == "gguf":
        return f"## Use\n\n```\nllama-cli -m {written['file']}\n```\n\nIts chat template and special tokens are in the file."
    kind = "AutoModelForCausalLM" if config.head == "tokens" else "AutoModelForSequenceClassification"
    lines = ["## Use", "", "```python", f"from transformers import {kind}, AutoTokenizer", ""]
    lines += [f'model = {kind}.from_pretrained("FOLDER")', 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")']
    if export["lora"] == "beside":
        lines += ["", "from peft import PeftModel", "", 'model = PeftModel.from_pretrained(model, "FOLDER/adapter")']
    note = "\n\nThe score is the logit of the one label, at the last token." if config.head == "scalar" else ""
    return "\n".join([*lines, "```"]) + note


def _training(lineage: Lineage) -> str:
    rows, total = [], 0.0
    for artifact in lineage.artifacts:
        metrics, tokens = artifact.record["metrics"], artifact.record["metrics"].get("tokens")
        if artifact.kind not in ("checkpoint", "reward_model") or tokens is None:
            continue
        shape = read_config(artifact.path)
        length = artifact.record["config"].get("sequence_tokens")
        lora = LoraConfig(**artifact.record["config"].get("lora", {}))
        flops = tokens * flops_per_token(shape, length or 1, attention=length is not None, lora=lora)
        total += flops
        held_out = {
            key: metrics[key]
            for key in ("validation_bits_per_byte", "bits_per_byte", "validation_loss", "held_out_accuracy")
            if key in metrics
        }
        said = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in held_out.items()) or "-"
        rows.append(f"| {artifact.record['stage']} | {tokens:,} | {metrics.get('steps', '-')} | {flops:.3g} | {said} |")
    if not rows:
        return "## Training\n\nUnknown: the artifacts of the training are not beside the checkpoint."
    note = (
        f"Together {total:.3g} floating-point operations: 6 for each parameter of a matrix and token, 4 where a LoRA left the matrix as it "
        "was, and attention's where the length of rows is known; generation and evaluation are not counted, nor are reference models."
    )
    return "\n".join(["## Training", "", "| stage | tokens | steps | FLOPs | held out |", "|---|---|---|---|---|", *rows, "", note])


def _funnel(lineage: Lineage) -> str:
    rows = []
    for artifact in lineage.artifacts:
        metrics = artifact.record["metrics"]
        if "documents_in" not in metrics or "documents_out" not in metrics:
            continue
        dropped = {key.removeprefix("dropped/"): value for key, value in metrics.items() if key.startswith("dropped/") and value}
        largest = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))[:4]
        why = ", ".join(f"{name} {count:,}" for name, count in largest) or "-"
        sizes = f"{metrics['documents_in']:,} | {metrics['documents_out']:,} | {metrics.get('bytes_out', 0):,}"
        rows.append(f"| {artifact.record['stage']} | {sizes} | {why} |")
    if not rows:
        return "## Data\n\nUnknown: no artifact of the data is beside the checkpoint."
    head = ["## Data", "", "| stage | documents in | documents out | bytes out | most often dropped |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _mixture(lineage: Lineage) -> str:
    parts = []
    if card := _data_card(lineage):
        for group in ("source", "language"):
            parts.append(f"By {group}, of {card['bytes']:,} bytes of text:")
            parts.append("\n".join([f"| {group} | documents | share |", "|---|---|---|", *_shares(card, group)]))
    for artifact in lineage.artifacts:
        if artifact.record["config"].get("mixture"):
            shares = ", ".join(f"{name} {share:g}" for name, share in artifact.record["config"]["mixture"].items())
            parts.append(f"Mixture of the stage {artifact.record['stage']}: {shares}.")
    talks = [a for a in lineage.artifacts if a.kind in ("conversations", "pairs")]
    if talks:
        counts = ("train_rows", "rows", "pairs")
        said = [", ".join(f"{a.record['metrics'][key]:,} {key}" for key in counts if key in a.record["metrics"]) for a in talks]
        lines = [f"- {a.record['stage']}: {what.replace('train_rows', 'rows') or UNKNOWN}" for a, what in zip(talks, said, strict=True)]
        parts.append("Conversations and pairs:\n\n" + "\n".join(lines))
    return "\n\n".join(["### Mixture", *parts]) if parts else ""


def _scores(lineage: Lineage, scores: Sequence[Path]) -> str:
    own = same_model(lineage.artifacts[-1]) if lineage.artifacts else set()
    rows = []
    for path in scores:
        found = read_json(path / "scores.json" if path.is_dir() else path)
        record = read_artifact(path).record if (path / RECORD).is_file() else {"inputs": {}, "config": {}}
        names = record["config"].get("names") or found.get("models") or []
        models = record["inputs"].get("models") or []
        mine = [name for name, fingerprint in zip(names, models, strict=False) if fingerprint in own] or (names if len(names) == 1 else [])
        others = set(names) - set(mine)
        rows += [row for keys, score in _intervals(found) if (row := _score_row(keys, score, mine, others, found.get("baseline")))]
    if not rows:
        return "## Scores\n\nNone: no evaluation of this model was given to the export."
    more = f"\n\nand {len(rows) - SHOWN_SCORES} more in its scores.json." if len(rows) > SHOWN_SCORES else ""
    table = ["## Scores", "", "| measure | value | 95 % interval | of |", "|---|---|---|---|", *rows[:SHOWN_SCORES]]
    return "\n".join(table) + more


def _score_row(keys: tuple[str, ...], score: Mapping[str, Any], mine: Sequence[str], others: set[str], baseline: str | None) -> str:
    if others & set(keys) or {"by_skill", "by_group", "formats"} & set(keys):
        return ""
    name = " ".join(key for key in keys if key not in mine and key not in ("metrics", "tasks", "benchmarks"))
    name += f" against {baseline}" if name.endswith("win_rate") and baseline else ""
    return f"| {name} | {score['value']:.4g} | {score['low']:.4g} to {score['high']:.4g} | {score.get('count', '-')} |"


def _intervals(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        if {"value", "low", "high"} <= set(value):
            yield keys, value
        else:
            for key, inner in value.items():
                yield from _intervals(inner, (*keys, str(key)))


def _licence(export: Mapping[str, Any], lineage: Lineage, files: Sequence[str]) -> str:
    weights = f"The weights: {export['licence']}." if export["licence"] else "No licence was given for the weights."
    if lineage.licence:
        weights += f" The model that they began as is under {lineage.licence}, by its own card."
    if files:
        weights += f" {', '.join(files)} came with that model."
    card = _data_card(lineage)
    if card is None:
        return f"## Licence\n\n{weights} The licences of the training data are unknown."
    known = [name for name in card["by"]["licence"] if not name.startswith("(")]
    note = f"Of the training documents {len(known)} licences are known" if known else "The documents of the training say no licence"
    table = ["| licence | documents | share |", "|---|---|---|", *_shares(card, "licence")]
    return "\n".join(["## Licence", "", f"{weights} {note}; a page's own terms hold whatever it says of itself.", "", *table])


def _limits(export: Mapping[str, Any], config: ModelConfig, lineage: Lineage, *, has_scores: bool) -> str:
    limits = [
        "It may be wrong, repeat personal data or prejudice of its training texts, and follow harmful requests; "
        + ("the scores above say what was measured, " if has_scores else "nothing of this was measured here, ")
        + "and what is not listed was not tested.",
    ]
    stages = {artifact.record["stage"] for artifact in lineage.artifacts}
    if lineage.artifacts and not stages & {"sft", "preference", "ppo", "grpo"} and config.head == "tokens":
        limits.append("It is a base model: it goes on with a text and was not taught to answer.")
    if lineage.artifacts and "decontaminate" not in stages:
        limits.append("Its documents were not searched for the rows of benchmarks: scores on these may be too high.")
    if lineage.artifacts and "redact" not in stages:
        limits.append("Personal data was not taken out of its documents.")
    if config.sliding_window and export["format"] == "gguf":
        limits.append(
            f"llama.cpp has no sliding window for it: its context is the {config.sliding_window:,} tokens in which there is none."
        )
    if export["dtype"] == "q8_0":
        limits.append("Its matrices are rounded to 8 bits.")
    return "\n".join(["## Limits", "", *(f"- {limit}" for limit in limits)])


def _origin(lineage: Lineage) -> str:
    if not lineage.artifacts:
        return ""
    rows = [f"| {artifact.record['stage']} | {artifact.kind} | `{artifact.fingerprint[:16]}` |" for artifact in lineage.artifacts]
    missing = f"\n\n{lineage.num_missing} inputs are files from outside, or not in the store any more." if lineage.num_missing else ""
    return "\n".join(["## Origin", "", "| stage | kind | fingerprint |", "|---|---|---|", *rows]) + missing


def _data_card(lineage: Lineage) -> Mapping[str, Any] | None:
    """The counts of the last mixture, else of the last tokens."""
    for stage in ("mix", "tokenize"):
        for artifact in reversed(lineage.artifacts):
            if artifact.record["stage"] == stage and (artifact.path / "data_card.json").is_file():
                found: Mapping[str, Any] = read_json(artifact.path / "data_card.json")
                return found
    return None


def _shares(card: Mapping[str, Any], group: str) -> list[str]:
    rows = list(card["by"].get(group, {}).items())
    lines = [f"| {name} | {documents:,} | {100 * size / max(card['bytes'], 1):.1f} % |" for name, (documents, size, _) in rows[:SHOWN_ROWS]]
    return [*lines, *([f"| and {len(rows) - SHOWN_ROWS} more | | |"] if len(rows) > SHOWN_ROWS else [])]
