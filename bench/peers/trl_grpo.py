"""TRL's side of bench/grpo.py: GRPOTrainer.train, a step for each line that comes in.

    python trl_grpo.py trl|trl-bf16 FOLDER --rounds 10 --threads 2 --prompts 8 --samples 8 --max-tokens 64

FOLDER has `model`, `prompts.jsonl` and `reward.py`. "trl" keeps weights in float32 and computes in bf16 by autocast, as its
documentation has it; "trl-bf16" has weights in bf16, which answers faster and trains in less than full precision.
"""

import argparse
import json
import runpy
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from trl import GRPOConfig, GRPOTrainer
from turns import Turns

LEARNING_RATE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["trl", "trl-bf16"])
    parser.add_argument("folder", type=Path)
    for name in ("rounds", "threads", "prompts", "samples", "max-tokens"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train_trl(arguments, Turns())


def train_trl(arguments: argparse.Namespace, turns: Turns) -> None:
    """GRPOTrainer.train on the same prompts."""

    class Pause(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            turns.facts |= {"tokens": float(lengths.pop()), "cpu_seconds": time.process_time()}
            turns.end_step(float(losses[-1]))

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **settings: Any) -> Any:
            lengths.append(int(inputs["completion_mask"].sum()))
            loss = super().compute_loss(model, inputs, *rest, **settings)
            losses.append(loss.item() if isinstance(loss, torch.Tensor) else loss[0].item())
            return loss

    losses: list[float] = []
    lengths: list[int] = []
    folder = arguments.folder
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    config = GRPOConfig(
        output_dir=str(folder / arguments.side), per_device_train_batch_size=arguments.prompts * arguments.samples,
        num_generations=arguments.samples, max_completion_length=arguments.max_tokens, temperature=1.0, max_steps=arguments.rounds + 2,
        beta=0.0, loss_type="grpo", bf16=True, use_cpu=True, activation_checkpointing=False, learning_rate=LEARNING_RATE, report_to="none",
        save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, logging_steps=1,
    )  # fmt: skip
    dtype = torch.bfloat16 if arguments.side == "trl-bf16" else torch.float32
    trainer = Trainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype),
        reward_funcs=runpy.run_path(str(folder / "reward.py"))["reward"],
        args=config,
        train_dataset=datasets.Dataset.from_list([{"prompt": row["messages"]} for row in rows]),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder / "model"),
    )
    trainer.add_callback(Pause)
    trainer.train()


if __name__ == "__main__":
    main()
