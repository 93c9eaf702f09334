"""A few short texts of a model in training, of the same beginnings each time: what numbers do not show."""

from collections.abc import Sequence

from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.transformer import Transformer
from bloomery.tokens.chat import Rendered
from bloomery.tokens.tokenizer import Tokenizer

TEMPERATURE = 0.8
"""Greedy texts of small models repeat themselves."""
PROMPT_TOKENS = 16
"""Of a document; a conversation is given up to its first answer."""


def write_samples(model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], *, num_tokens: int) -> list[dict[str, str]]:
    """For each prompt its text and what the model writes after it, drawn with the prompt's number as its seed.

    Prompts that leave no room in the model's context are passed over.
    """
    prompts = [prompt for prompt in prompts if 0 < len(prompt) < model.config.max_positions]
    params = SamplingParams(max_tokens=num_tokens, temperature=TEMPERATURE)
    samples = Engine(model, tokenizer).generate(prompts, params, seeds=range(len(prompts)))
    texts = zip(prompts, samples, strict=True)
    return [{"prompt": tokenizer.decode(prompt), "text": tokenizer.decode(sample.tokens)} for prompt, sample in texts]


def conversation_prompts(conversations: Sequence[Rendered], *, count: int) -> list[list[int]]:
    """The first conversations up to where their first answer begins."""
    answered = [rendered for rendered in conversations if any(rendered.loss_mask)][:count]
    return [rendered.ids[: rendered.loss_mask.index(True)] for rendered in answered]
