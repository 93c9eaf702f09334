"""Losses beside TRL 1.16's GRPOTrainer and RLOOTrainer, computed by them from the same tensors and the same weights."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'bloomery[parity]'")

from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from bloomery.align.episodes import Episode, make_batches, make_episodes, said_logps  # noqa: E402
from bloomery.core.stage import Launch  # noqa: E402
from bloomery.model.config import ModelConfig  # noqa: E402
from bloomery.model.huggingface import load_model, save_model  # noqa: E402
from bloomery.model.transformer import Transformer  # noqa: E402
from bloomery.objectives.policy_gradient import kl_loss  # noqa: E402
from bloomery.stages.grpo import GrpoConfig, ratio_loss  # noqa: E402
from bloomery.tokens.tokenizer import load_tokenizer  # noqa: E402
from bloomery.tokens.train import train_bpe, write_tokenizer  # noqa: E402

T, TEMPERATURE, BETA = 6, 0.7, 0.04
PROMPTS = [[5, 9, 30], [7, 8], [90, 91, 92, 93], [11, 12]]
LENGTHS = [6, 3, 5, 1]
CASES = {"grpo": ("grpo", {}), "bnpo": ("dapo", {"clip_high": 0.28}), "dr_grpo": ("dr_grpo", {}), "dapo": ("dapo", {"clip_high": 0.28})}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    os.environ.setdefault("WANDB_DISABLED", "true")
    folder = tmp_path_factory.mktemp("trl")
    write_tokenizer(folder / "tokenizer", train_bpe(["the cat sat on a mat"] * 3, vocab_size=280, pattern="llama3"), pattern="llama3")
    config = ModelConfig(
        vocab_size=load_tokenizer(folder / "tokenizer").vocab_size,
        dim=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=48, max_positions=64,
    )  # fmt: skip
    model = Transformer(config, seed=5)
    with torch.no_grad():
        model.head_weight().mul_(15.0)
    save_model(model, folder / "model", tokenizer=folder / "tokenizer")
    return folder / "model"


def draw(seed: int, scale: float) -> torch.Tensor:
    return scale * torch.randn(4, T, generator=torch.Generator().manual_seed(seed))


def ours(folder: Path, config: GrpoConfig, old_from: torch.Tensor, reference_from: torch.Tensor, advantage_N: torch.Tensor) -> tuple:
    """Loss, gradient of the output matrix, the tokens, and old and reference log-probabilities, a little off the model's own."""
    model, vocab_size = load_model(folder), load_tokenizer(folder).vocab_size
    token_NT = torch.randint(3, 250, (4, T), generator=torch.Generator().manual_seed(0))
    found = make_episodes(
        [
            Episode(prompt, token_NT[i, :n].tolist(), [True] * n, [0.0] * n, True)
            for i, (prompt, n) in enumerate(zip(PROMPTS, LENGTHS, strict=True))
        ]
    )
    import numpy as np

    (batch,) = make_batches(found, np.arange(4), torch.device("cpu"), Launch())
    order = torch.from_numpy(np.argsort(batch.indices))
    logp_NT = said_logps(model, batch, temperature=config.temperature, vocab_size=vocab_size).logp_NT[order]
    mask_NT = batch.mask_NT[order]
    old_NT, reference_NT = (logp_NT.detach() + x for x in (old_from, reference_from))
    terms = ratio_loss(logp_NT, old_NT, advantage_N[:, None] * mask_NT, mask_NT, config=config)
    loss = terms.loss_sum
    if config.ratio_of == "token":
        how: dict[str, Any] = {"aggregate": config.aggregate, "constant_tokens": config.max_tokens}
        how["old_logp_NT"] = old_NT if config.kl_corrected else None
        loss = loss + config.kl_weight * kl_loss(logp_NT, reference_NT, mask_NT, estimator="k3", **how).loss_sum
    mean = loss / terms.weight
    mean.backward()
    return mean.item(), model.head_weight().grad, token_NT, old_NT, reference_NT, mask_NT


def inputs_of(token_NT: torch.Tensor, mask_NT: torch.Tensor) -> dict[str, torch.Tensor]:
    longest = max(map(len, PROMPTS))
    prompt = torch.tensor([[0] * (longest - len(p)) + p for p in PROMPTS])  # TRL pads prompts on the left
    prompt_mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in PROMPTS])
    return {"prompt_ids": prompt, "prompt_mask": prompt_mask, "completion_ids": token_NT, "completion_mask": mask_NT.long()}


def trainer_of(kind: str, folder: Path, out: Path, **settings: Any) -> Any:
    config_type, trainer_type = getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")
    arguments = config_type(
        output_dir=str(out), per_device_train_batch_size=4, num_generations=4, max_completion_length=T, temperature=TEMPERATURE, bf16=False,
        report_to=[], use_cpu=True, activation_checkpointing=False, **settings,
    )  # fmt: skip
    return trainer_type(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=lambda completions, **columns: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "the cat"}] * 4),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("loss_type", CASES)
def test_the_loss_and_its_gradient_are_those_of_trls_grpo_trainer(tmp_path, checkpoint, loss_type, corrected) -> None:
    algorithm, more = CASES[loss_type]
    config = GrpoConfig(
        algorithm=algorithm,
        temperature=TEMPERATURE,
        kl_weight=BETA,
        max_tokens=T,
        clip_high=more.get("clip_high", 0.2),
        kl_corrected=corrected,
    )
    advantage_N = torch.tensor([1.2, -0.7, 0.3, -0.9])
    loss, gradient, token_NT, old_NT, reference_NT, mask_NT = ours(checkpoint, config, draw(1, 0.3), draw(2, 0.3), advantage_N)
    trainer = trainer_of(
        "GRPO",
        checkpoint,
        tmp_path,
        beta=BETA,
        epsilon=0.2,
        epsilon_high=config.clip_high,
        loss_type=loss_type,
        use_bias_correction_kl=corrected,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    given = inputs_of(token_NT, mask_NT) | {
        "advantages": advantage_N, "old_per_token_logps": old_NT, "ref_per_token_logps": reference_NT, "num_items_in_batch": mask_NT.sum(),
    }  # fmt: skip
    theirs = trainer._compute_loss(trainer.model, given)
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), abs=2.7e-5)
    head = trainer.model.get_output_embeddings().weight.grad
    torch.testing.assert_close(gradient, head, atol=1e-4, rtol=1e-3)


def test_the_loss_and_its_gradient_are_those_of_trls_rloo_trainer(tmp_path, checkpoint) -> None:
    config = GrpoConfig(algorithm="rloo", temperature=TEMPERATURE, max_tokens=T)
    advantage_N = torch.tensor([1.2, -0.7, 0.3, -0.9])
    loss, gradient, token_NT, old_NT, _, mask_NT = ours(checkpoint, config, draw(1, 0.05), draw(2, 0.3), advantage_N)
    trainer = trainer_of("RLOO", checkpoint, tmp_path, beta=0.0, epsilon=0.2)
    trainer.model.train()
    given = inputs_of(token_NT, mask_NT) | {"advantages": advantage_N, "old_logps": (old_NT * mask_NT).sum(1)}
    theirs = trainer._compute_loss(trainer.model, given)
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), abs=1e-5)
    torch.testing.assert_close(gradient, trainer.model.get_output_embeddings().weight.grad, atol=1e-4, rtol=1e-3)
