"""TRL's side of bench/dpo.py: DPOTrainer.train, a step for each line that comes in.

    python trl_dpo.py trl|trl-precomputed FOLDER --rounds 10 --threads 2

FOLDER has `model`, `pairs.jsonl` and `order.json`, the order in which the pairs are read.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch.utils.data import SequentialSampler
from trl import DPOConfig, DPOTrainer
from turns import Turns

BATCH_PAIRS, LEARNING_RATE = 8, 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["trl", "trl-precomputed"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train_trl(arguments.folder, arguments.rounds + 2, Turns(), precompute=arguments.side == "trl-precomputed")


def train_trl(folder: Path, num_steps: int, turns: Turns, *, precompute: bool) -> None:
    """DPOTrainer.train on the same pairs, in our order."""

    class Pause(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            turns.end_step(float(losses[-1]))

    class Trainer(DPOTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *arguments: Any) -> Any:
            return SequentialSampler(self.train_dataset)

        def _precompute_ref_logps(self, *arguments: Any, **settings: Any) -> Any:
            with turns.reference():
                return super()._precompute_ref_logps(*arguments, **settings)

        def compute_loss(self, *arguments: Any, **settings: Any) -> Any:
            loss = super().compute_loss(*arguments, **settings)
            losses.append(loss.item() if isinstance(loss, torch.Tensor) else loss[0].item())
            return loss

    losses: list[float] = []
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    ordered = [
        {name: [{"role": role, "content": rows[i][name]}] for name, role in roles.items()}
        for i in json.loads((folder / "order.json").read_text())
    ]
    config = DPOConfig(
        output_dir=str(folder / f"trl-{precompute}"), per_device_train_batch_size=BATCH_PAIRS, max_steps=num_steps, bf16=True, use_cpu=True,
        activation_checkpointing=False, learning_rate=LEARNING_RATE, report_to="none", save_strategy="no", disable_tqdm=True,
        precompute_ref_log_probs=precompute, dataloader_pin_memory=False, beta=0.1,
    )  # fmt: skip
    trainer = Trainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        args=config,
        train_dataset=datasets.Dataset.from_list(ordered),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder / "model"),
    )
    trainer.add_callback(Pause)
    trainer.train()


if __name__ == "__main__":
    main()
