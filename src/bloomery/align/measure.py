"""What training gained a policy, and how far it went for it: rewards of held-out prompts beside KL, length and stop share.

The KL is that of whole answers, KL(pi || reference) = E over answers of pi of the sum, token by token, of the KL between the
two distributions of the next token. With the inner sums exact over the vocabulary, only the answers are drawn at random: no
answer's share is negative, and far fewer are needed than for the mean of log pi - log reference (Rao-Blackwell).

Shapes: B answers, T tokens, V vocabulary, N answers in all, P prompts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple  # Any: a row of JSON

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bloomery.align.reward_source import Answer, prompt_messages
from bloomery.align.rewards import RewardSum
from bloomery.align.seeds import draw_seed
from bloomery.core.errors import DataError
from bloomery.generate.engine import Engine, Sample
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.text import answer_text
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import Tokenizer

BATCH_ANSWERS = 64

Row = Mapping[str, Any]


class Policy(NamedTuple):
    """Figures of one policy on P prompts, each float64 [P]; those of sampled answers are means over a prompt's samples."""

    greedy: np.ndarray
    """The reward of the likeliest answer."""
    sampled: np.ndarray
    kl: np.ndarray
    """KL(pi || reference) of whole answers, in nats."""
    answer_tokens: np.ndarray
    """Of sampled answers, their end counted."""
    stopped: np.ndarray
    """Whether they ended by themselves."""


def measure_policy(
    model: Transformer,
    reference: Transformer,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    prompts: Sequence[Sequence[int]],
    rewards: RewardSum,
    *,
    params: SamplingParams,
    num_samples: int,
    seed: int,
) -> Policy:
    """Asks every prompt once greedily and `num_samples` times with `params`, whose temperature is above 0.

    Raises DataError for an answer that `rewards` cannot judge.
    """
    engine = Engine(model, tokenizer)
    greedy = engine.generate(prompts, params.model_copy(update={"temperature": 0.0}), seeds=[0] * len(prompts))
    repeated = [prompt for prompt in prompts for _ in range(num_samples)]
    samples = engine.generate(repeated, params, seeds=sample_seeds(seed, len(repeated)))
    each = [row for row in rows for _ in range(num_samples)]
    distances = answer_kl(model, reference, repeated, samples, temperature=params.temperature)

    def per_prompt(values: Sequence[float]) -> np.ndarray:
        found: np.ndarray = np.asarray(values, dtype=np.float64).reshape(len(rows), num_samples).mean(1)
        return found

    return Policy(
        greedy=np.asarray(reward_of(rewards, rows, greedy, tokenizer)),
        sampled=per_prompt(reward_of(rewards, each, samples, tokenizer)),
        kl=per_prompt(distances),
        answer_tokens=per_prompt([float(len(sample.tokens)) for sample in samples]),
        stopped=per_prompt([float(sample.finish != "length") for sample in samples]),
    )


def reward_of(rewards: RewardSum, rows: Sequence[Row], samples: Sequence[Sample], tokenizer: Tokenizer) -> list[float]:
    """The total reward of each sample. Raises DataError for one to which no source gives a number: a mean without it would say too much."""
    answers = [Answer(answer_text(tokenizer, sample.tokens), sample.finish != "length") for sample in samples]
    found = []
    for row, answer, value in zip(rows, answers, rewards(rows, answers).total, strict=True):
        if value is None:
            raise DataError(f"{', '.join(rewards.names)}: no number for the answer {answer.text!r:.80} to {prompt_messages(row)!r:.120}")
        found.append(value)
    return found


def sample_seeds(seed: int, count: int) -> list[int]:
    """Seeds of `count` answers, different ones for every `seed`."""
    return [draw_seed("measure", seed, i) for i in range(count)]


@torch.no_grad()
def answer_kl(
    model: Transformer, reference: Transformer, prompts: Sequence[Sequence[int]], samples: Sequence[Sample], *, temperature: float = 1.0
) -> list[float]:
    """For each answer of `model`, the sum over its tokens of KL(model || reference) of the next token's distribution, in nats."""
    found = [0.0] * len(samples)
    order = sorted(range(len(samples)), key=lambda i: len(prompts[i]) + len(samples[i].tokens))
    for start in range(0, len(order), BATCH_ANSWERS):
        part = order[start : start + BATCH_ANSWERS]
        texts = [[*prompts[i], *samples[i].tokens] for i in part]
        width = max(map(len, texts)) - 1
        token_BT, said_BT = (torch.zeros(len(part), width, dtype=torch.int64) for _ in range(2))
        for row, (i, ids) in enumerate(zip(part, texts, strict=True)):
            token_BT[row, : len(ids) - 1] = torch.tensor(ids[:-1])
            said_BT[row, len(prompts[i]) - 1 : len(ids) - 1] = 1
        b, t = said_BT.to(model.device).nonzero(as_tuple=True)
        kl = _next_token_kl(*(_logps(one, token_BT, b, t, temperature) for one in (model, reference)))
        sums_B = torch.zeros(len(part), dtype=torch.float64).index_add_(0, b.cpu(), kl.cpu().double())
        for i, value in zip(part, sums_B.tolist(), strict=True):
            found[i] = value
    return found


def _logps(model: Transformer, token_BT: Tensor, b: Tensor, t: Tensor, temperature: float) -> Tensor:
    # Padding is on the right, where no earlier token can see it.
    hidden_BTD = model.hidden_states(token_BT.to(model.device))
    return F.log_softmax(model.logits(hidden_BTD[b, t]).float() / temperature, dim=-1)


def _next_token_kl(policy_logp: Tensor, reference_logp: Tensor) -> Tensor:
    return (policy_logp.exp() * (policy_logp - reference_logp)).sum(-1)
