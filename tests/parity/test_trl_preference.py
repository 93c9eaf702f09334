"""Every preference loss beside TRL 1.16's trainers: the same model folder, the same rows, their `compute_loss` on the batch they make.

Losses agree to 1e-5, relative to their size; so do KTO's reference point and DPO's rewards.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
pytest.importorskip("trl", reason="TRL is not installed: pip install 'bloomery[parity]'")

import datasets
import transformers
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from bloomery.align.answers import answer_logps, pack_answers
from bloomery.align.preference_data import RenderedLabel, RenderedPair, render_labels, render_pairs
from bloomery.align.preference_formats import LabelledRow, PairRow
from bloomery.align.preference_loss import (
    label_objective,
    make_label_batch,
    make_pair_batch,
    pair_objective,
    swap_answer,
    with_reference_point,
)
from bloomery.align.reference import reference_logps
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.objectives.kto import Weights
from bloomery.tokens.chat import Rendered
from bloomery.tokens.renderer import load_renderer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer
from bloomery.train.sharding import Parallel

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "to", "red", "house", "by", "sea"]
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 8, "bf16": False, "activation_checkpointing": False, "report_to": "none", "use_cpu": True,
    "dataloader_pin_memory": False, "disable_tqdm": True,
}  # fmt: skip


def sentence(i: int, count: int) -> str:
    return " ".join(WORDS[(i * 5 + k * 3) % len(WORDS)] for k in range(count))


PAIRS = [
    PairRow(
        [{"role": "user", "content": sentence(i, 2 + i % 3)}],
        [{"role": "assistant", "content": sentence(i + 1, 1 + i % 4)}],
        [{"role": "assistant", "content": sentence(i + 2, 5 - i % 4)}],
    )
    for i in range(8)
]
LABELS = [LabelledRow(row.prompt, row.chosen if i % 3 else row.rejected, bool(i % 3)) for i, row in enumerate(PAIRS)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A policy and a reference with the same tokenizer."""
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(tokenizer, train_bpe([" ".join(WORDS)] * 3, vocab_size=280, pattern="llama3"), pattern="llama3")
    sizes = {"dim": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_dim": 48, "max_positions": 64}
    config = ModelConfig(vocab_size=load_tokenizer(tokenizer).vocab_size, **sizes)
    found = []
    for seed in (1, 2):
        model = Transformer(config, seed=seed)
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(20)  # so that answers are far from equally likely
        found.append(tmp_path_factory.mktemp(f"model-{seed}"))
        save_model(model, found[-1], tokenizer=tokenizer)
    return found[0], found[1]


def theirs(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make_trainer(trainer: Any, config: Any, folders: tuple[Path, Path], out: Path, rows: list[dict[str, Any]], **settings: Any) -> Any:
    arguments: dict[str, Any] = {} if trainer in (CPOTrainer, ORPOTrainer) else {"ref_model": theirs(folders[1])}
    made = trainer(
        model=theirs(folders[0]),
        args=config(output_dir=str(out), **COMMON, **settings),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(folders[0]),
        **arguments,
    )
    made.model.train()  # what it measures is then filed as training's; there is no dropout
    return made


def batch_of(trainer: Any) -> Any:
    return next(iter(trainer.get_train_dataloader()))


def pair_columns(row: PairRow) -> dict[str, Any]:
    return {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected}


def our_pairs(folders: tuple[Path, Path]) -> list[RenderedPair]:
    return render_pairs(PAIRS, load_renderer(folders[0], load_tokenizer(folders[0])), max_tokens=64, held_out_fraction=0.0).train


def our_loss(folders: tuple[Path, Path], **settings: Any) -> tuple[float, dict[str, float]]:
    pairs = our_pairs(folders)
    reference_N2 = reference_logps(load_model(folders[1]), [answer for pair in pairs for answer in pair.answers]).reshape(-1, 2)
    arguments: dict[str, Any] = {"gamma": 0.0, "label_smoothing": 0.0, "nll_weight": 0.0, **settings}
    terms = pair_objective(load_model(folders[0]), make_pair_batch(pairs, reference_N2, "cpu"), **arguments)
    return (terms.loss_sum / terms.weight).item(), {name: (value / terms.weight).item() for name, value in terms.metrics.items()}


def test_the_two_tokenizers_render_the_same_ids(folders: tuple[Path, Path], tmp_path: Path) -> None:
    trainer = make_trainer(DPOTrainer, DPOConfig, folders, tmp_path, [pair_columns(row) for row in PAIRS])
    found = {tuple(row["prompt_ids"] + row["chosen_ids"]) for row in trainer.train_dataset}
    assert found == {tuple(pair.chosen.ids) for pair in our_pairs(folders)}


@pytest.mark.parametrize(("loss", "smoothing"), [("sigmoid", 0.0), ("ipo", 0.0), ("hinge", 0.0), ("robust", 0.2), ("sigmoid_norm", 0.0)])
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo_and_its_kin(folders: tuple[Path, Path], tmp_path: Path, loss: str, smoothing: float, beta: float) -> None:
    settings = {"loss_type": [loss], "beta": beta, "label_smoothing": smoothing}
    trainer = make_trainer(DPOTrainer, DPOConfig, folders, tmp_path, [pair_columns(row) for row in PAIRS], **settings)
    expected = trainer.compute_loss(trainer.model, batch_of(trainer)).item()
    found, metrics = our_loss(folders, loss=loss, beta=beta, label_smoothing=smoothing)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    reported = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    assert metrics["accuracy"] == pytest.approx(reported["rewards/accuracies"])
    if loss not in ("ipo", "sigmoid_norm"):  # theirs are of sums there, ours of the means that the loss compares
        assert metrics["chosen_reward"] == pytest.approx(reported["rewards/chosen"], rel=1e-5, abs=1e-5)
        assert metrics["margin"] == pytest.approx(reported["rewards/margins"], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("label", "is_above_zero"), [("as they are", True), ("as they are", False), ("desirable only", True)])
def test_kto_with_its_reference_point(folders: tuple[Path, Path], tmp_path: Path, label: str, is_above_zero: bool) -> None:
    folders = folders[::-1] if is_above_zero else folders
    rows = [row._replace(label=True) if label != "as they are" else row for row in LABELS]
    settings = {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.7}
    columns = [{"prompt": row.prompt, "completion": row.completion, "label": row.label} for row in rows]
    trainer = make_trainer(KTOTrainer, KTOConfig, folders, tmp_path, columns, **settings)
    expected = trainer.compute_loss(trainer.model, batch_of(trainer)).item()
    labels: list[RenderedLabel] = render_labels(
        rows, load_renderer(folders[0], load_tokenizer(folders[0])), max_tokens=64, held_out_fraction=0.0
    ).train
    mismatched = [swap_answer(example, labels[i - 1]) for i, example in enumerate(labels)]  # as they do it: the answer before
    policy, reference = (load_model(folder) for folder in folders)
    figures = (reference_logps(reference, answers) for answers in ([example.answer for example in labels], mismatched))
    batch = make_label_batch(labels, next(figures), mismatched, next(figures), "cpu")
    (batch,) = with_reference_point(policy, [batch], parallel=Parallel())
    terms = label_objective(policy, batch, beta=0.3, weights=Weights(1.3, 0.7))
    assert (terms.loss_sum / terms.weight).item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert batch.z0 is not None and batch.z0.item() == pytest.approx(trainer._metrics["train"]["kl"][-1], rel=1e-5, abs=1e-5)
    assert (batch.z0.item() > 0) == is_above_zero  # each side of max(0, .) is met


def test_simpo(folders: tuple[Path, Path], tmp_path: Path) -> None:
    settings = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.7, "max_length": 64}
    trainer = make_trainer(CPOTrainer, CPOConfig, folders, tmp_path, string_columns(folders), **settings)
    expected, _ = trainer.get_batch_loss_metrics(trainer.model, batch_of(trainer))
    found, _ = our_loss(folders, loss="simpo", beta=2.0, gamma=0.7)
    assert found == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)


def test_orpo(folders: tuple[Path, Path], tmp_path: Path) -> None:
    trainer = make_trainer(ORPOTrainer, ORPOConfig, folders, tmp_path, string_columns(folders), beta=0.3, max_length=64)
    expected, metrics = trainer.get_batch_loss_metrics(trainer.model, batch_of(trainer))
    found, ours = our_loss(folders, loss="orpo", beta=0.3)
    assert found - ours["chosen_nll"] == pytest.approx(expected.item() - metrics["nll_loss"], rel=1e-5, abs=1e-5)
    # Their NLL is of prompts, too, and of all tokens of the batch alike; the paper's, and ours, of answers.
    whole = [Rendered(pair.chosen.ids, [False, *[True] * (len(pair.chosen.ids) - 1)]) for pair in our_pairs(folders)]
    logp_N, length_N = answer_logps(load_model(folders[0]), pack_answers(whole, "cpu"))
    assert (-logp_N.sum() / length_N.sum()).item() == pytest.approx(metrics["nll_loss"], rel=1e-5, abs=1e-5)


def string_columns(folders: tuple[Path, Path]) -> list[dict[str, Any]]:
    return [pair_columns(row) for row in PAIRS]
