"""Samples of a model in training: of the beginnings that were asked for, the same each time."""

import pytest

from bloomery.generate.samples import conversation_prompts, write_samples
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, train_bpe(["the cat sat"], vocab_size=270, pattern="llama3"), pattern="llama3")
    return load_tokenizer(folder)


def test_a_sample_is_its_prompt_and_what_comes_after_it(make_model, tokenizer):
    model = make_model(vocab_size=tokenizer.vocab_size)
    prompt = [tokenizer.bos_id, *tokenizer.encode("the cat")]
    first, again = (write_samples(model, tokenizer, [prompt, prompt], num_tokens=6) for _ in range(2))
    assert first == again and [sample["prompt"] for sample in first] == ["the cat", "the cat"]
    too_long = [tokenizer.bos_id] * model.config.max_positions
    assert write_samples(model, tokenizer, [prompt, too_long, []], num_tokens=6) == first[:1]


def test_the_prompt_of_a_conversation_ends_where_the_first_answer_begins(tokenizer):
    messages = [{"role": "user", "content": "say a"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    silent = [{"role": "user", "content": "hello"}]
    found = conversation_prompts([render(tokenizer, silent), render(tokenizer, messages)], count=2)
    assert found == [render(tokenizer, messages[:1], add_generation_prompt=True).ids]
