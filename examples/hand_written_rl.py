"""Learning from rewards with the loop in your own hands: generate, judge, compare, step.

    python examples/hand_written_rl.py runs/smoke/sft runs/hand_written

The policy is taught to answer shortly. `bloomery stage grpo` does the same with KL, validation, snapshots and logs around it.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from bloomery.align.episodes import Episode, EpisodeBatch, make_batches, make_episodes, said_logps
from bloomery.core.stage import Launch
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.objectives.advantages import group_relative
from bloomery.objectives.policy_gradient import clipped_policy_loss
from bloomery.objectives.terms import LossTerms
from bloomery.tokens.renderer import load_renderer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.train.optimizer import make_optimizers
from bloomery.train.state import TrainState
from bloomery.train.step import train_step

QUESTIONS = ["What is iron?", "Say something.", "What is 2 + 3?", "Name a color."]
GROUP_SIZE, STEPS, RATE = 8, 5, 3e-4


def main(folder: Path, out: Path) -> None:
    """Some steps on four questions, each of which is answered eight times."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    render, engine = load_renderer(folder, tokenizer), Engine(model, tokenizer)
    asked = [render([{"role": "user", "content": text}], add_generation_prompt=True).ids for text in QUESTIONS]
    prompts = [prompt for prompt in asked for _ in range(GROUP_SIZE)]
    rates = {"learning_rate": RATE, "embedding_learning_rate": RATE, "weight_decay": 0.0}
    state = TrainState(model, make_optimizers(model, name="adamw", **rates))

    def objective(policy: Transformer, batch: EpisodeBatch) -> LossTerms:
        logp = said_logps(policy, batch, temperature=1.0, vocab_size=tokenizer.vocab_size).logp_NT
        return clipped_policy_loss(logp, logp.detach(), batch.of_token["advantage"], batch.mask_NT, clip_low=0.2, clip_high=0.2)

    for step in range(STEPS):
        samples = engine.generate(prompts, SamplingParams(max_tokens=32), seeds=[1000 * step + i for i in range(len(prompts))])
        reward = torch.tensor([-float(len(sample.tokens)) for sample in samples])  # any judgement of the samples
        said = [Episode(p, s.tokens, [True] * len(s.tokens), s.logps, s.finish == "end") for p, s in zip(prompts, samples, strict=True)]
        episodes = make_episodes(said)
        advantage = group_relative(reward, group_size=GROUP_SIZE, scale="std")
        episodes = episodes.with_tokens(advantage=advantage[:, None] * episodes.said_NT)
        batches = make_batches(episodes, np.arange(episodes.count), model.device, Launch())
        report = train_step(state, batches, objective, max_gradient_norm=1.0)
        print(f"step {step + 1}: mean length {-reward.mean():.1f} tokens, gradient norm {report.gradient_norm:.3f}")
    save_model(model, out, tokenizer=folder, like=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
