"""TRL's RewardTrainer and ours give one loss, with margin and centering, on the same model and the same pairs."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("trl")

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from bloomery.align.reward_model import RankedIds, make_rank_batch, ranking_rewards
from bloomery.model.config import ModelConfig
from bloomery.model.heads import replace_head
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.objectives.reward import ranking_loss
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

SHAPE = {"dim": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_dim": 48, "max_positions": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_tokenizer(root / "tokenizer", train_bpe(["the red house by the sea"], vocab_size=280, pattern="llama3"), pattern="llama3")
    config = ModelConfig(vocab_size=load_tokenizer(root / "tokenizer").vocab_size, **SHAPE)
    save_model(replace_head(Transformer(config, seed=1), seed=2), root / "reward", tokenizer=root / "tokenizer")
    return root / "reward"


@pytest.mark.parametrize(("has_margin", "centering"), [(False, 0.0), (True, 0.0), (False, 0.01), (True, 0.3)])
def test_the_loss_of_a_batch_and_its_gradient_are_trls(folder: Path, tmp_path: Path, has_margin: bool, centering: float) -> None:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    rows = [
        {
            "prompt": [{"role": "user", "content": f"where {i}"}],
            "chosen": said("the sea " * (i + 1)),
            "rejected": said("a red house" + "!" * i),
        }
        for i in range(5)
    ]
    margins = [0.0, 0.5, 1.0, 2.0, 5.0]
    if has_margin:
        rows = [{**row, "margin": margin} for row, margin in zip(rows, margins, strict=True)]
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    settings = {"bf16": False, "gradient_checkpointing": False, "report_to": "none", "use_cpu": True, "disable_dropout": True}
    config = RewardConfig(output_dir=str(tmp_path), center_rewards_coefficient=centering or None, **settings)
    trainer = RewardTrainer(theirs, config, train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(folder))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(5)])
    expected = trainer.compute_loss(theirs, batch)
    expected.backward()

    model, tokenizer = load_model(folder, head="scalar"), load_tokenizer(folder)
    rankings = [
        RankedIds([render(tokenizer, [*row["prompt"], *row[name]]).ids for name in ("chosen", "rejected")], [1, 2], margin)
        for row, margin in zip(rows, margins, strict=True)
    ]
    ours = make_rank_batch(rankings, "cpu")
    terms = ranking_loss(ranking_rewards(model, ours), ours.rank_NK, margin_N=ours.margin_N if has_margin else None, centering=centering)
    loss = terms.loss_sum / terms.weight
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs.get_parameter(name).grad, atol=1e-5, rtol=1e-4)
