"""How an answer is drawn, and what the host of the models takes on: plain values, without torch."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints

from bloomery.core.config import Config
from bloomery.web.http import Body

BYTES_PER_PARAMETER = 8
"""In float32, once as they were read and once as the decoder lays them out."""


MAX_ANSWER_TOKENS = 4096


class ModelLimits(Config):
    """What the host keeps and takes on."""

    device: str = "auto"
    """Where models answer: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    max_models: PositiveInt = 4
    """Loaded at once."""
    max_bytes: PositiveInt = 16 << 30
    """Of the weights of all loaded models, at BYTES_PER_PARAMETER."""
    max_open_answers: PositiveInt = 64
    """Being made or waiting, of all models; 503 with Retry-After above."""
    max_rows: PositiveInt = 16
    """Answers of one model that are made together."""
    answer_seconds: PositiveFloat = 600.0
    """For one answer; it ends with an error after."""


class Sampling(Body):
    """How an answer is drawn; the words are those of `SamplingParams`."""

    max_tokens: int = Field(default=256, ge=1, le=MAX_ANSWER_TOKENS)
    temperature: float = Field(default=0.8, ge=0.0, le=5.0)
    top_k: int = Field(default=0, ge=0, le=1_000_000)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, le=10.0)
    stop: list[Annotated[str, StringConstraints(min_length=1, max_length=200)]] = Field(default=[], max_length=8)
