"""Checkpoints of others: spoken to in their own chat template, or not at all."""

import json

import openai
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from bloomery.chat.server import Served
from bloomery.chat.voice import load_voice
from bloomery.core.errors import DataError
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import load_tokenizer

CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer as Qwen's: an end of turns and an end of texts, and tags of tool calls that are tokens but not special."""
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("chatml")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(["the user says the assistant hears"] * 3, trainer)
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    auto = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    auto.chat_template = CHATML
    auto.save_pretrained(path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    return path


@pytest.fixture(scope="module")
def served(folder):
    voice = load_voice(folder, load_tokenizer(folder))
    config = ModelConfig(
        vocab_size=voice.vocab_size, dim=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=32, max_positions=128
    )  # fmt: skip
    return Served(name="theirs", engine=Engine(Transformer(config, seed=1), voice), voice=voice)


def test_a_checkpoint_of_others_is_asked_in_its_own_format_and_ends_where_it_says(run_server, served, folder):
    from transformers import AutoTokenizer

    messages = [{"role": "user", "content": "the assistant says <|im_end|>"}]
    assert served.voice.stop_tokens == (0,) and served.voice.end_id == 2
    with run_server(served) as server:
        answer = server.client().chat.completions.create(model="theirs", messages=messages, max_tokens=20, seed=7)
    shown = [{"role": "user", "content": "the assistant says ~~"}]
    prompt = AutoTokenizer.from_pretrained(folder).apply_chat_template(shown, add_generation_prompt=True, tokenize=False)
    ids = served.voice.render(messages)
    assert served.voice.tokenizer.decode(ids, skip_special=False) == prompt.replace("~~", "<|im_end|>")
    assert ids.count(2) == 1
    sample = served.engine.generate([ids], SamplingParams(max_tokens=20, stop_tokens=(0,)), seeds=[7])[0]
    assert answer.choices[0].message.content == served.voice.decode_bytes(sample.tokens).decode("utf-8", "replace")


def test_tags_of_tool_calls_are_text_and_special_tokens_are_not(served):
    ids = served.voice.tokenizer.special_ids
    assert served.voice.decode_bytes([ids["<tool_call>"], ids["<|im_end|>"]]) == b"<tool_call>"


def test_a_base_model_without_a_template_completes_and_does_not_converse(run_server, served, folder, tmp_path):
    for path in folder.iterdir():
        if path.name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    voice = load_voice(tmp_path, load_tokenizer(tmp_path))
    assert not voice.can_converse
    with pytest.raises(DataError, match="/v1/completions"):
        voice.render([{"role": "user", "content": "hi"}])
    with run_server(Served(name="base", engine=Engine(served.engine.model, voice), voice=voice)) as server:
        with pytest.raises(openai.BadRequestError, match="was not taught to converse"):
            server.client().chat.completions.create(model="base", messages=[{"role": "user", "content": "hi"}])
        assert server.client().completions.create(model="base", prompt="the user", max_tokens=3).choices
