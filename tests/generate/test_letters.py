"""How likely A is before B: read off a model, off an endpoint, or by votes."""

import math

import pytest
import torch

from bloomery.core.errors import DataError
from bloomery.core.stage import Endpoint
from bloomery.generate.letters import LocalChooser, RemoteChooser, chance_of_a
from bloomery.generate.remote_engine import RemoteEngine
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

ASKED = [[{"role": "user", "content": text}] for text in ("A or B?", "Which of the two is shorter, and why is it?", "B", "Hm")]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    write_tokenizer(folder / "tokenizer", train_bpe(["Which of these"], vocab_size=272, pattern="llama3"), pattern="llama3")
    tokenizer = load_tokenizer(folder / "tokenizer")
    shape = {
        "tied_embeddings": False,
        "dim": 32,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 16,
        "mlp_dim": 32,
        "max_positions": 96,
    }
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **shape), seed=2)
    with torch.no_grad():
        # So that the letters are among the likeliest tokens, and it has a view.
        rows = [torch.tensor([render(tokenizer, messages, add_generation_prompt=True).ids]) for messages in ASKED]
        direction_D = torch.stack([model.hidden_states(row)[0, -1] for row in rows]).mean(0)
        for letter, size in (("A", 7.0), ("B", 6.0)):
            weight_VD = model.head_weight()
            weight_VD[tokenizer.encode(letter)[0]] += size * direction_D / direction_D.square().sum()
    save_model(model, folder / "model", tokenizer=folder / "tokenizer")
    return folder / "model", model.eval(), load_tokenizer(folder / "model")


def chooser(judge):
    _, model, tokenizer = judge
    return LocalChooser(model, tokenizer, lambda messages: render(tokenizer, messages, add_generation_prompt=True).ids)


def test_the_chance_is_the_share_of_the_two_letters_as_transformers_computes_it(judge):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _, _ = judge
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for messages, ours in zip(ASKED, chooser(judge).choose(ASKED), strict=True):
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.no_grad():
            probability = theirs(ids).logits[0, -1].softmax(-1)
        a, b = (probability[tokenizer.encode(letter, add_special_tokens=False)[0]].item() for letter in "AB")
        assert ours == pytest.approx(a / (a + b), abs=1e-5)
        assert abs(ours - 0.5) > 1e-3


def test_a_conversation_is_judged_the_same_in_any_company(judge):
    together = chooser(judge).choose(ASKED)
    for messages, chance in zip(ASKED, together, strict=True):
        assert chooser(judge).choose([messages])[0] == pytest.approx(chance, abs=1e-6)
    assert chooser(judge).choose([]) == []
    with pytest.raises(DataError, match=r"has \d+ tokens, but its context has 96"):
        chooser(judge).choose([[{"role": "user", "content": "word " * 90}]])


def test_our_own_server_gives_the_chances_that_the_model_has_here(judge, run_server):
    from bloomery.chat.server import Served
    from bloomery.chat.voice import load_voice
    from bloomery.generate.engine import Engine

    folder, model, tokenizer = judge
    voice = load_voice(folder, tokenizer)
    with run_server(Served(name="judge", engine=Engine(model, voice), voice=voice)) as server:
        there = RemoteChooser(RemoteEngine(Endpoint(url=server.url), "judge")).choose(ASKED)
    assert there == pytest.approx(chooser(judge).choose(ASKED), abs=1e-5)
    assert len({round(chance, 3) for chance in there}) > 1


def test_votes_stand_in_where_a_service_gives_no_log_probabilities(chat_service):
    engine = RemoteEngine(Endpoint(url=chat_service.url, first_wait_seconds=0.02), "echo")
    said = iter(["A", "Answer: B.", "I cannot say", "A"])
    chat_service.write = lambda prompt: "?" if len(chat_service.asked) == 1 else next(said)
    assert RemoteChooser(engine, votes=4).choose(ASKED[:1]) == [pytest.approx(2 / 3)]
    assert [body.get("temperature") for body in chat_service.asked] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert len({body["seed"] for body in chat_service.asked[1:]}) == 4
    chat_service.write = lambda prompt: "no idea"
    assert RemoteChooser(engine, votes=2).choose(ASKED[1:2]) == [0.5]


def test_log_probabilities_of_an_endpoint_are_used_where_there_are_any(chat_service):
    chat_service.tops = lambda prompt: [("A", math.log(0.6)), (" B", math.log(0.2)), ("The", math.log(0.1))]
    engine = RemoteEngine(Endpoint(url=chat_service.url), "echo")
    assert RemoteChooser(engine).choose(ASKED) == [pytest.approx(0.75)] * 4
    assert len(chat_service.asked) == 4 and all(body["top_logprobs"] == 20 and body["max_tokens"] == 1 for body in chat_service.asked)
    assert chance_of_a([("The", -0.1)]) == 0.5
    assert chance_of_a([("(A)", -0.1)]) == 1.0
