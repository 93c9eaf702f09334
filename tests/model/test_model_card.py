"""The model card says what the artifacts say, and that it does not know what they do not."""

import json
from pathlib import Path
from typing import Any

from bloomery.core.files import write_json
from bloomery.model.config import ModelConfig, flops_per_token
from bloomery.model.huggingface import save_model
from bloomery.model.model_card import find_lineage, model_card, stated_licence
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocab_size=40, dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=24, max_positions=64)
EXPORT = {"name": "A name", "licence": "apache-2.0", "format": "hf", "dtype": "bf16", "lora": "merged"}


def put(store: Path, letter: str, stage: str, kind: str, *, inputs: dict[str, list[str]], metrics: dict[str, Any], **config: Any) -> Path:
    folder = store / f"{stage}-{letter * 16}"
    record = {"stage": stage, "kind": kind, "fingerprint": letter * 64, "config": config, "metrics": metrics, "files": {}}
    write_json(
        folder / "artifact.json", {**record, "inputs": {slot: [print_ * 64 for print_ in prints] for slot, prints in inputs.items()}}
    )
    return folder


def line(store: Path) -> Path:
    """Pages, a filter, a mixture, a model, and what was made of it."""
    counts = {"documents_in": 100, "documents_out": 60, "bytes_out": 6000, "dropped/too_few_words": 30, "dropped/bullets": 10}
    put(store, "a", "filter", "documents", inputs={"documents": ["0"]}, metrics=counts)
    mixed = put(store, "b", "mix", "documents", inputs={"documents": ["a"]}, metrics={"documents_in": 60, "documents_out": 50})
    by = {
        "source": {"web": [40, 3000, 0], "books": [10, 1000, 0]},
        "language": {"en": [50, 4000, 0]},
        "licence": {"cc0-1.0": [10, 1000, 0]},
    }
    write_json(mixed / "data_card.json", {"documents": 50, "bytes": 4000, "tokens": 0, "by": {**by, "domain": {}}})
    tokens = put(store, "c", "tokenize", "tokens", inputs={"documents": ["b"]}, metrics={})
    assert tokens.is_dir()
    trained = {"tokens": 1000, "steps": 7, "validation_loss": 2.5}
    model = put(store, "d", "pretrain", "checkpoint", inputs={"tokens": ["c"]}, metrics=trained, sequence_tokens=32)
    save_model(Transformer(CONFIG, seed=1), model, tokenizer=None)
    scores = put(store, "e", "evaluate", "scores", inputs={"models": ["9", "d"]}, metrics={}, names=["other", "mine"])
    interval = {"value": 0.5, "low": 0.25, "high": 0.75, "count": 20}
    metrics = {"mine": {"accuracy": interval}, "other": {"accuracy": {**interval, "value": 0.9}}}
    write_json(scores / "scores.json", {"models": ["other", "mine"], "metrics": metrics})
    return model


def test_the_card_has_funnel_mixture_training_scores_licence_and_limits(tmp_path: Path) -> None:
    model = line(tmp_path)
    lineage = find_lineage(model)
    assert [artifact.record["stage"] for artifact in lineage.artifacts] == ["filter", "mix", "tokenize", "pretrain"]
    card = model_card(EXPORT, CONFIG, lineage, scores=[tmp_path / f"evaluate-{'e' * 16}"], written={"bytes": 1234})
    for said in (
        "| filter | 100 | 60 | 6,000 | too_few_words 30, bullets 10 |",
        "| web | 40 | 75.0 % |",
        f"| pretrain | 1,000 | 7 | {1000 * flops_per_token(CONFIG, 32):.3g} | validation loss 2.5 |",
        "| accuracy | 0.5 | 0.25 to 0.75 | 20 |",
        "The weights: apache-2.0. Of the training documents 1 licences are known",
        "It is a base model",
        "not searched for the rows of benchmarks",
        "| pretrain | checkpoint | `dddddddddddddddd` |",
        "1 inputs are files from outside",
        "1,234 bytes as bf16",
    ):
        assert said in card, said
    assert "0.9" not in card  # another model's
    header = card.split("---\n")[1]
    assert {key: json.loads(value) for key, _, value in (row.partition(": ") for row in header.splitlines())} == {
        "license": "apache-2.0", "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["bloomery"],
        "language": ["en"],
    }  # fmt: skip
    assert card == model_card(EXPORT, CONFIG, find_lineage(model), scores=[tmp_path / f"evaluate-{'e' * 16}"], written={"bytes": 1234})


def test_the_licence_of_the_import_is_named_after_training_and_the_header_leaves_it_open(tmp_path: Path) -> None:
    start = put(tmp_path, "a", "export", "checkpoint", inputs={"model": ["0"]}, metrics={})
    (start / "README.md").write_text('---\nlicense: "llama3.1"\n---\n')
    model = put(tmp_path, "d", "sft", "checkpoint", inputs={"init": ["a"]}, metrics={})
    card = model_card({**EXPORT, "licence": ""}, CONFIG, find_lineage(model), scores=[], written={"bytes": 1})
    assert 'license: "unknown"' in card and "The model that they began as is under llama3.1, by its own card." in card
    for head in (
        "",
        "license: mit",
        "---\nlicense: unknown\n---\n",
        "---\ntags: [x]\n---\nlicense: mit\n---\n",
        "text\n---\nlicense: mit\n---",
    ):
        (start / "README.md").write_text(head)
        assert stated_licence(start) == ""


def test_a_card_of_a_folder_without_a_history_says_that_it_knows_none(tmp_path: Path) -> None:
    save_model(Transformer(CONFIG, seed=1), tmp_path / "model", tokenizer=None)
    card = model_card({**EXPORT, "licence": ""}, CONFIG, find_lineage(tmp_path / "model"), scores=[], written={"bytes": 1})
    for said in (
        "## Training\n\nUnknown",
        "## Data\n\nUnknown",
        "## Scores\n\nNone",
        "No licence was given for the weights",
        'license: "unknown"',
    ):
        assert said in card, said
    assert "base model" not in card and "nothing of this was measured here" in card
