"""A session remembers what was said, forgets the oldest turns when the context is full, and repeats itself given its seed."""

import pytest
import torch

from bloomery.chat.session import Session
from bloomery.core.errors import DataError
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.transformer import Transformer
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import Tokenizer


def test_an_answer_is_what_the_engine_makes_of_the_rendered_conversation(session: Session, engine: Engine, tokenizer: Tokenizer) -> None:
    session.params = SamplingParams(max_tokens=8, temperature=0.0)
    first = "".join(session.answer("hi"))
    prompt = render(tokenizer, session.messages[:1], add_generation_prompt=True).ids
    sample = engine.generate([prompt], session.params, seeds=[0])[0]
    assert first == tokenizer.decode(sample.tokens)
    second = "".join(session.answer("more"))
    prompt = render(tokenizer, session.messages[:3], add_generation_prompt=True).ids
    assert second == tokenizer.decode(engine.generate([prompt], session.params, seeds=[0])[0].tokens)
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
    assert session.messages[1]["content"] == first


def test_one_seed_gives_one_conversation(engine: Engine, tokenizer: Tokenizer) -> None:
    said = []
    for seed in (1, 1, 2):
        session = Session(engine, tokenizer, params=SamplingParams(max_tokens=8), seed=seed)
        said.append(["".join(session.answer(text)) for text in ("hi", "hi")])
    assert said[0] == said[1] != said[2]
    assert said[0][0] != said[0][1]  # each turn has draws of its own


def test_the_oldest_turns_are_left_out_when_the_context_is_full(session: Session, tokenizer: Tokenizer) -> None:
    session.system = "sys"
    session.messages = [{"role": role, "content": "x" * 12} for role in ("user", "assistant") * 3]
    list(session.answer("y" * 12))
    # bos and system 6, each message 14, <|assistant|> 1: of 64 - 8 places three messages fit, and turns go in pairs.
    assert session.num_forgotten == 4
    assert len(session.messages) == 8


def test_the_limit_on_answers_keeps_at_most_half_of_the_context_free(session: Session) -> None:
    session.params = SamplingParams(max_tokens=1000)
    list(session.answer("x" * 28))
    assert len(session.messages) == 2
    with pytest.raises(DataError, match="prompt of 33 tokens, but the model can read 32"):
        list(session.answer("x" * 29))


def test_a_message_that_is_too_long_leaves_the_conversation_as_it_was(session: Session) -> None:
    list(session.answer("hi"))
    before = list(session.messages)
    with pytest.raises(DataError, match="say it shorter"):
        list(session.answer("x" * 200))
    assert session.messages == before


def test_a_listener_who_leaves_early_has_what_was_said_kept(session: Session) -> None:
    answer = session.answer("hi")
    first = next(answer)
    answer.close()
    assert session.messages[-1] == {"role": "assistant", "content": first}


def test_reset_forgets_the_conversation(session: Session) -> None:
    list(session.answer("hi"))
    session.reset()
    assert session.messages == []


def test_an_answer_that_ends_by_itself_is_not_said_to_be_cut(session: Session, engine: Engine, tokenizer: Tokenizer) -> None:
    list(session.answer("hi"))
    assert session.reached_limit
    silent = Transformer(engine.model.config, seed=None)
    with torch.no_grad():
        for weight in silent.parameters():
            weight.zero_()
        silent.model.embed_tokens.weight[:, 0] = 1.0  # every token looks alike ...
        silent.model.embed_tokens.weight[tokenizer.end_id, 0] = 9.0  # ... and the end is the likeliest to follow
        silent.model.norm.weight.fill_(1.0)
    quiet = Session(Engine(silent, tokenizer), tokenizer, params=SamplingParams(max_tokens=8, temperature=0.0))
    assert list(quiet.answer("hi")) == []
    assert not quiet.reached_limit
    assert quiet.messages[-1]["content"] == ""
