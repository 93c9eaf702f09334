"""How likely a chat model answers "A" rather than "B": what judges of pairs are asked.

The chance that is given is P(A) / (P(A) + P(B)) for the first token of the answer, read off the model and not drawn. Behind an endpoint
it comes from the log-probabilities of the likeliest tokens, and where a service gives none, from votes.

Shapes: B conversations, T tokens, V vocabulary, D model.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from bloomery.core.conversation import Message
from bloomery.core.errors import DataError
from bloomery.generate.remote_engine import RemoteEngine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import Tokenizer

ROUND_UP_TOKENS = 16
BATCH_TOKENS = 16_384
"""Places that go through the model at once."""
VOTE_TOKENS = 8
UNDECIDED = 0.5
"""Of a model that names neither letter."""

_LETTER = re.compile(r"\b([AB])\b")


class Chooser(Protocol):
    """What says how likely the answer to a conversation begins with "A" rather than "B"."""

    def choose(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """P(A) / (P(A) + P(B)) for each."""
        ...


class LocalChooser:
    """A model here. `render` makes a prompt of a conversation in its chat format.

    Raises DataError if its tokenizer begins both letters alike.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer, render: Callable[[Sequence[Message]], list[int]]) -> None:
        self.model, self.render = model, render
        first = [tokenizer.encode(letter)[:1] for letter in "AB"]
        if first[0] == first[1] or not all(first):
            raise DataError("the judge's tokenizer begins A and B with the same token, so its answer cannot be read off one token")
        self.letter_ids = [ids[0] for ids in first]

    @torch.inference_mode()
    def choose(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """See Chooser. Raises DataError for a conversation that fills the model's context."""
        prompts = [self.render(conversation) for conversation in conversations]
        longest = max(map(len, prompts), default=0)
        if longest >= self.model.config.max_positions:
            limit = self.model.config.max_positions
            raise DataError(f"a question to the judge has {longest} tokens, but its context has {limit}: give shorter answers or wording")
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found = [UNDECIDED] * len(prompts)
        while order:
            width = -(-len(prompts[order[-1]]) // ROUND_UP_TOKENS) * ROUND_UP_TOKENS
            count = max(1, BATCH_TOKENS // width)
            order, batch = order[:-count], order[-count:]
            for i, chance in zip(batch, self._choose([prompts[i] for i in batch], width), strict=True):
                found[i] = chance
        return found

    def _choose(self, prompts: Sequence[Sequence[int]], width: int) -> list[float]:
        device = self.model.device
        token_BT = torch.zeros(len(prompts), width, dtype=torch.int64)
        document_BT = torch.zeros_like(token_BT)
        for b, ids in enumerate(prompts):
            token_BT[b, : len(ids)], document_BT[b, : len(ids)] = torch.tensor(ids), 1
        hidden_BTD = self.model.hidden_states(token_BT.to(device), document_BT=document_BT.to(device))
        last_B = torch.tensor([len(ids) - 1 for ids in prompts], device=device)
        logits_BV = self.model.logits(hidden_BTD[torch.arange(len(prompts), device=device), last_B])
        # Of two tokens of one softmax the shares need no more than the difference of their logits.
        difference_B = logits_BV[:, self.letter_ids[0]] - logits_BV[:, self.letter_ids[1]]
        chances: list[float] = torch.sigmoid(difference_B.double()).tolist()
        return chances


class RemoteChooser:
    """A model behind an endpoint. Where the service gives no log-probabilities, `votes` answers are drawn instead."""

    def __init__(self, engine: RemoteEngine, *, votes: int = 8) -> None:
        self.engine, self.votes = engine, votes

    def choose(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """See Chooser. Raises DataError for a request that fails for good."""
        found = [UNDECIDED] * len(conversations)
        silent = []
        for i, tops in self.engine.first_tokens(conversations):
            if tops is None:
                silent.append(i)
            else:
                found[i] = chance_of_a(tops)
        asked = [i for i in silent for _ in range(self.votes)]
        params = SamplingParams(max_tokens=VOTE_TOKENS, temperature=1.0)
        said: dict[int, list[str]] = {i: [] for i in silent}
        for answered in self.engine.answer([conversations[i] for i in asked], params, seeds=[k % self.votes for k in range(len(asked))]):
            letter = _LETTER.search(answered.answer.text)
            said[asked[answered.number]] += [letter[1]] if letter else []
        for i, letters in said.items():
            found[i] = letters.count("A") / len(letters) if letters else UNDECIDED
        return found


def chance_of_a(tops: Sequence[tuple[str, float]]) -> float:
    """P(A) / (P(A) + P(B)) of the likeliest tokens and their log-probabilities; what stands around a letter does not count.

    >>> round(chance_of_a([("A", -0.1), (" A", -3.0), ("B", -2.5)]), 3)
    0.922
    """
    chance = {"A": 0.0, "B": 0.0}
    for text, logp in tops:
        letter = text.strip(" \n\t().:*\"'")
        if letter in chance:
            chance[letter] += math.exp(logp)
    both = chance["A"] + chance["B"]
    return chance["A"] / both if both > 0 else UNDECIDED
