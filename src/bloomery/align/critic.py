"""The critic of a policy: a second model that says how much reward is still to come at each token.

It is a model of its own, trained by the same steps: it hangs on the policy as the part named `critic`, so that snapshots,
gradients and processes take it along, and is taken off before the policy is saved.
"""

from pathlib import Path

import torch

from bloomery.core.errors import ConfigError
from bloomery.model.heads import replace_head
from bloomery.model.huggingface import load_model
from bloomery.model.transformer import Transformer
from bloomery.train.optimizer import make_optimizers
from bloomery.train.state import TrainState

PART = "critic"


def make_critic(policy: Transformer, *, init: Path, reward_model: Path | None, seed: int) -> Transformer:
    """A critic on the policy's device and in its precision.

    It starts as the reward model, head and all (InstructGPT, arXiv:2203.02155, app. C.4), or else as the policy under a head of
    zeros, which expects nothing at first. Raises ConfigError for a reward model of another vocabulary.
    """
    if reward_model is not None:
        critic = load_model(reward_model, head="scalar")
        if critic.config.vocab_size != policy.config.vocab_size:
            raise ConfigError(
                f"{reward_model}: knows {critic.config.vocab_size} tokens and the policy {policy.config.vocab_size}; a critic reads the "
                'policy\'s tokens. Set critic_from = "policy"'
            )
    else:
        critic = replace_head(load_model(init), seed=seed)
        torch.nn.init.zeros_(critic.head_weight())
    critic.compute_dtype = policy.compute_dtype
    critic.recompute_layers = policy.recompute_layers
    return critic.to(policy.device)


def attach_critic(state: TrainState, critic: Transformer, *, learning_rate: float) -> None:
    """Has a run train the critic with AdamW beside its model."""
    rates = {"learning_rate": learning_rate, "embedding_learning_rate": learning_rate, "weight_decay": 0.0}
    state.optimizers += make_optimizers(critic, name="adamw", **rates, parallel=state.parallel)
    state.model.add_module(PART, critic)


def critic_of(model: Transformer) -> Transformer:
    """The critic of a policy that has one."""
    critic = model.get_submodule(PART)
    assert isinstance(critic, Transformer)
    return critic


def detach_critic(model: Transformer) -> None:
    """Takes the critic off."""
    delattr(model, PART)
