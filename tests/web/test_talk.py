"""The chat page's answers: streams that are the engine's, stops, prompts as the model sees them, refusals by name."""

import contextlib
import http.client
import json
import math
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.huggingface import load_model
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import load_tokenizer

HELLO = [{"role": "user", "content": "What is 3 + 4?"}]
GREEDY = {"temperature": 0.0, "max_tokens": 16}


@pytest.fixture(scope="module")
def models(web) -> dict[str, str]:
    status, told = web.ask("/api/chat/models")
    assert status == 200
    return {model["name"]: model["id"] for model in told["models"]}


@contextlib.contextmanager
def open_stream(web, body) -> Iterator[tuple[int, http.client.HTTPResponse]]:
    connection = http.client.HTTPConnection(urlsplit(web.url).netloc, timeout=60)
    headers = {"Authorization": f"Bearer {web.token}", "Content-Type": "application/json"}
    connection.request("POST", "/api/chat/answer", json.dumps(body).encode(), headers)
    try:
        answer = connection.getresponse()
        yield answer.status, answer
    finally:
        connection.close()


def read_events(answer) -> Iterator[tuple[str, dict]]:
    name = ""
    for line in answer:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def ask(web, body) -> tuple[str, list[dict], dict[str, dict]]:
    """Text, tokens and the other events of a whole answer."""
    with open_stream(web, body) as (status, answer):
        assert status == 200, answer.read()
        text, tokens, others = "", [], {}
        for name, data in read_events(answer):
            if name == "piece":
                text, tokens = text + data["text"], [*tokens, *data["tokens"]]
            else:
                others[name] = data
    return text, tokens, others


@pytest.fixture(scope="module")
def engine(web) -> Engine:
    folder = next(web.store.glob("artifacts/sft-*"))
    return Engine(load_model(folder), load_tokenizer(folder))


def test_a_streamed_answer_is_what_the_engine_draws_with_this_seed(web, models, engine):
    sampling = {"temperature": 0.9, "top_p": 0.9, "top_k": 50, "max_tokens": 24, "repetition_penalty": 1.1}
    text, tokens, told = ask(web, {"model": models["smoke/sft"], "messages": HELLO, "sampling": sampling, "seed": 11, "top": 4})
    prompt = render(engine.tokenizer, HELLO, add_generation_prompt=True).ids
    (sample,) = engine.generate([prompt], SamplingParams(**sampling, top_logps=4), seeds=[11])
    assert [token["id"] for token in tokens] == sample.tokens
    assert text == engine.tokenizer.decode(sample.tokens)
    assert [token["logprob"] for token in tokens] == pytest.approx(sample.logps, abs=1e-5)
    assert [[other["id"] for other in token["top"]] for token in tokens] == [[i for i, _ in top] for top in sample.tops]
    assert told["start"] == {"seed": 11, "prompt_tokens": len(prompt), "forgotten": 0}
    end = told["end"]
    assert (end["prompt_tokens"], end["answer_tokens"]) == (len(prompt), len(sample.tokens))
    assert end["logprob"] == pytest.approx(sum(sample.logps), abs=1e-3)
    assert 0 < end["first_token_seconds"] <= end["seconds"] and end["tokens_per_second"] > 0


def test_a_base_model_continues_a_text(web, models, engine):
    text, tokens, told = ask(web, {"model": models["smoke/base"], "text": "def add(a, b):\n", "sampling": GREEDY})
    folder = next(web.store.glob("artifacts/pretrain-*"))
    base = Engine(load_model(folder), engine.tokenizer)
    prompt = [*engine.tokenizer.begin, *engine.tokenizer.encode("def add(a, b):\n")]
    (sample,) = base.generate([prompt], SamplingParams(**GREEDY), seeds=[0])
    assert [token["id"] for token in tokens] == sample.tokens and text == engine.tokenizer.decode(sample.tokens)
    assert "top" not in tokens[0] and told["start"]["prompt_tokens"] == len(prompt)


def test_an_answer_can_begin_with_tokens_that_are_chosen(web, models):
    body = {"model": models["smoke/sft"], "messages": HELLO, "sampling": GREEDY, "top": 3}
    _, tokens, _ = ask(web, body)
    other = tokens[2]["top"][1]["id"]
    forced = [*(token["id"] for token in tokens[:2]), other]
    text, again, told = ask(web, {**body, "forced": forced})
    assert [token["id"] for token in again[:3]] == forced and all(token["forced"] for token in again[:3])
    assert told["end"]["answer_tokens"] == len(again) - 3
    # Greedy from there on: forcing what it said itself says the same again.
    same, repeated, _ = ask(web, {**body, "forced": [token["id"] for token in again[:5]]})
    assert [token["id"] for token in repeated[: len(again)]] == [token["id"] for token in again]
    assert same.startswith(text)


def test_characters_of_several_tokens_come_whole_also_across_what_is_forced(web, models, engine):
    ids = engine.tokenizer.encode("你好")
    assert len(ids) > 2
    text, tokens, _ = ask(web, {"model": models["smoke/base"], "text": "a", "sampling": {"max_tokens": 2}, "forced": ids})
    assert text.startswith("你好") and any("hex" in token for token in tokens[: len(ids)])


def test_the_prompt_is_shown_as_the_model_sees_it(web, models, engine):
    messages = [{"role": "system", "content": "Say <|end|> as text."}, *HELLO]
    status, told = web.ask("/api/chat/prompt", method="POST", body={"model": models["smoke/sft"], "messages": messages})
    assert status == 200
    assert [token["id"] for token in told["tokens"]] == render(engine.tokenizer, messages, add_generation_prompt=True).ids
    special = [token["text"] for token in told["tokens"] if token.get("special")]
    assert special == ["<|bos|>", "<|system|>", "<|end|>", "<|user|>", "<|end|>", "<|assistant|>"]
    assert (told["num_tokens"], told["context_tokens"], told["forgotten"], told["left_out"]) == (len(told["tokens"]), 256, 0, 0)


def test_a_reader_who_leaves_stops_the_model(web, models):
    body = {"model": models["smoke/sft"], "messages": HELLO, "sampling": {"max_tokens": 200, "temperature": 2.0}}
    with open_stream(web, body) as (_, answer):
        assert "piece" in (name for name, _ in read_events(answer))
    deadline = time.monotonic() + 1
    while web.ask("/api/chat/models")[1]["open"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert web.ask("/api/chat/models")[1]["open"] == 0


def test_several_models_answer_at_once(web, models):
    found: dict[str, str] = {}

    def run(name: str) -> None:
        found[name] = ask(web, {"model": models[name], "messages": HELLO, "sampling": GREEDY, "seed": 3})[0]

    threads = [threading.Thread(target=run, args=(name,)) for name in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == set(models)
    assert found["smoke/dpo"] == found["smoke/chat"]  # an export has the weights of its model


@pytest.mark.parametrize(
    ("change", "status", "named"),
    [
        ({"model": "0" * 16}, 404, "no such model"),
        ({"model": "../sft"}, 400, "model"),
        ({"sampling": {"temperature": -1.0}}, 400, "sampling.temperature"),
        ({"sampling": {"temperature": math.nan}}, 400, "sampling.temperature"),
        ({"sampling": {"temperature": math.inf}}, 400, "sampling.temperature"),
        ({"sampling": {"top_p": 0.0}}, 400, "sampling.top_p"),
        ({"sampling": {"max_tokens": 0}}, 400, "sampling.max_tokens"),
        ({"sampling": {"max_tokens": 10**9}}, 400, "sampling.max_tokens"),
        ({"sampling": {"stop": [""]}}, 400, "sampling.stop.0"),
        ({"sampling": {"beams": 4}}, 400, "sampling.beams"),
        ({"seed": -1}, 400, "seed"),
        ({"seed": 2**64}, 400, "seed"),
        ({"seed": True}, 400, "seed"),
        ({"top": 11}, 400, "top"),
        ({"forced": [5_000_000]}, 400, "forced"),
        ({"forced": [-1]}, 400, "forced"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "root", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages.0.content"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "7"}]}, 400, "messages: the last"),
        ({"messages": [*HELLO, {"role": "system", "content": "7"}, *HELLO]}, 400, "messages: message 1 is a system message"),
        ({"messages": HELLO * 401}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 200_001}]}, 400, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, 422, "messages: the last message makes a prompt of"),
        ({"messages": None}, 400, "give `messages`"),
        ({"text": "both"}, 400, "give `messages`"),
        ({"messages": None, "text": "word " * 20_000}, 422, "text:"),
    ],
)
def test_a_wrong_request_is_refused_with_the_name_of_the_field(web, models, change, status, named):
    body = {"model": models["smoke/sft"], "messages": HELLO, **change}
    found, told = web.ask("/api/chat/answer", method="POST", body=body)
    assert found == status and named in told["error"]["message"], told


def test_a_prompt_of_a_megabyte_is_refused_and_holds_up_nobody(web, models):
    big = {"model": models["smoke/sft"], "messages": [{"role": "user", "content": "x y" * 60_000}] * 2}
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(web.ask("/api/chat/answer", method="POST", body=big)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    waits = []
    while any(thread.is_alive() for thread in threads):
        started = time.monotonic()
        assert web.ask("/health")[0] == 200
        waits.append(time.monotonic() - started)
    assert statuses == [422] * 4 and max(waits) < 1


def test_an_old_conversation_is_answered_without_its_first_turns(web, models):
    messages = [*HELLO, {"role": "assistant", "content": "7"}] * 30 + HELLO
    _, _, told = ask(web, {"model": models["smoke/sft"], "messages": messages, "sampling": GREEDY})
    assert told["start"]["forgotten"] > 0 and told["start"]["forgotten"] % 2 == 0
    status, shown = web.ask(
        "/api/chat/prompt", method="POST", body={"model": models["smoke/sft"], "messages": messages, "sampling": GREEDY}
    )
    assert status == 200 and shown["forgotten"] == told["start"]["forgotten"]
