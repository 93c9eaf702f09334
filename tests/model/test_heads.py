"""Scalar heads are Hugging Face's sequence classification with one label."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bloomery.core.errors import DataError
from bloomery.model.config import ModelConfig, count_params
from bloomery.model.heads import document_rewards, replace_head, token_values
from bloomery.model.huggingface import load_model, save_model, save_model_as
from bloomery.model.transformer import Transformer

SIZES = {"vocab_size": 97, "dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 48, "max_positions": 64}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Qwen3", {}),
        ("Llama", {"qk_norm": False, "tied_embeddings": False}),
        ("Qwen2", {"qk_norm": False, "attention_bias": "qkv"}),
        ("Mistral", {"qk_norm": False, "sliding_window": 5}),
        ("SmolLM3", {"qk_norm": False, "nope_layers": (1,)}),
    ],
)
def test_transformers_gives_our_rewards_at_the_end_of_each_row(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    from transformers import AutoModelForSequenceClassification

    body = Transformer(ModelConfig(**SIZES, **settings), seed=1)
    model = replace_head(body, seed=2)
    save_model(model, tmp_path / "in", tokenizer=None)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "in", dtype=torch.float32, pad_token_id=0)
    assert type(theirs).__name__ == f"{name}ForSequenceClassification" and theirs.config.num_labels == 1
    assert theirs.num_parameters() == count_params(model.config)
    token_BT = torch.randint(1, 97, (3, 20), generator=torch.Generator().manual_seed(0))
    length_B1 = torch.tensor([[20], [7], [13]])
    document_BT = (torch.arange(20) < length_B1).long()
    token_BT = token_BT * document_BT  # 0 is padding
    with torch.no_grad():
        expected_B = theirs(token_BT, attention_mask=document_BT).logits[:, 0]
        ours_B = document_rewards(token_values(model, token_BT, document_BT=document_BT), document_BT)
    torch.testing.assert_close(ours_B, expected_B, atol=1e-5, rtol=1e-5)
    assert ours_B.std() > 0.01
    again = load_model(tmp_path / "in", head="scalar")
    save_model_as(again, tmp_path / "out", like=tmp_path / "in")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "in" / "model.safetensors").read_bytes()


def test_packed_documents_have_the_rewards_they_have_alone() -> None:
    model = replace_head(Transformer(ModelConfig(**SIZES), seed=1), seed=2)
    token_BT = torch.randint(1, 97, (1, 12), generator=torch.Generator().manual_seed(0))
    document_BT = torch.tensor([[1] * 4 + [2] * 6 + [0] * 2])
    position_BT = torch.tensor([[*range(4), *range(6), 0, 0]])
    packed_N = document_rewards(token_values(model, token_BT, position_BT=position_BT, document_BT=document_BT), document_BT)
    alone_N = [token_values(model, token_BT[:, start:stop])[0, -1] for start, stop in ((0, 4), (4, 10))]
    torch.testing.assert_close(packed_N, torch.stack(alone_N), atol=1e-5, rtol=0)


def test_a_head_of_the_other_kind_is_refused_and_a_new_one_keeps_the_checkpoints_fields(tmp_path: Path) -> None:
    body = Transformer(ModelConfig(**SIZES), seed=1)
    save_model(body, tmp_path / "base", tokenizer=None)
    save_model(replace_head(body, seed=2), tmp_path / "reward", tokenizer=None, like=tmp_path / "base")
    with pytest.raises(DataError, match="holds a model with a scalar head"):
        load_model(tmp_path / "reward")
    with pytest.raises(DataError, match="holds a language model; expected a model with a scalar head"):
        load_model(tmp_path / "base", head="scalar")
    assert load_model(tmp_path / "reward", head="scalar").config == body.config.model_copy(update={"head": "scalar"})
