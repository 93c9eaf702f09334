"""The remote engine: against our own server, and against one that misbehaves in every way a service does."""

import email.utils
import json
import os
import signal
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.stage import Endpoint
from bloomery.generate.answer_store import AnswerStore, request_key
from bloomery.generate.answers import Answer, Answered, LocalAnswerer, keep_answers
from bloomery.generate.engine import Engine, Sample
from bloomery.generate.remote_engine import RemoteEngine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

PARAMS = SamplingParams(max_tokens=8)


def ask(text):
    return [{"role": "user", "content": text}]


def engine_of(service, *, store=None, **changes):
    waits = {"first_wait_seconds": 0.02, "max_wait_seconds": 5.0, "timeout_seconds": 5.0, "attempts": 4}
    return RemoteEngine(Endpoint(url=service.url, **{**waits, **changes}), "echo", store=store)


def answers(engine, texts, params=PARAMS):
    found = dict(engine.answer([ask(text) for text in texts], params, seeds=range(len(texts))))
    return [found[i].text for i in range(len(texts))]


def test_answers_come_with_their_counts_and_their_cost(chat_service):
    engine = engine_of(chat_service, price_per_million_prompt_tokens=2.0, price_per_million_answer_tokens=10.0)
    (answered,) = engine.answer([ask("hi")], SamplingParams(max_tokens=8, temperature=0.5, stop=("x",)), seeds=[7])
    assert answered == Answered(0, Answer("you said hi", "end", 10, 3))
    assert chat_service.asked == [{"model": "echo", "messages": ask("hi"), "max_tokens": 8, "temperature": 0.5, "stop": ["x"], "seed": 7}]
    assert (engine.spent.requests, engine.spent.prompt_tokens, engine.spent.answer_tokens) == (1, 10, 3)
    assert engine.spent.cost == pytest.approx(10 * 2e-6 + 3 * 10e-6)


@pytest.mark.parametrize(
    "fault",
    [
        ("status", 500, {}),
        ("status", 503, {}),
        ("status", 429, {}),
        ("hang up",),
        ("cut",),
        ("body", b"<html>bad gateway</html>"),
        ("body", b'{"choices": []}'),
        ("body", b'{"choices": [{"message": {"content": 5}}]}'),
        ("body", b"[]"),
        ("body", b"[" * 100_000),
    ],
    ids=lambda fault: repr(fault)[:40],
)
def test_what_may_pass_is_tried_again(chat_service, fault):
    chat_service.faults = [fault, fault]
    engine = engine_of(chat_service)
    assert answers(engine, ["a"]) == ["you said a"]
    assert (len(chat_service.asked), engine.spent.retries) == (3, 2)


def test_an_answer_that_takes_too_long_is_asked_for_again(chat_service):
    chat_service.faults = [("sleep", 1.0)]
    assert answers(engine_of(chat_service, timeout_seconds=0.2), ["a"]) == ["you said a"]
    assert len(chat_service.asked) == 2


@pytest.mark.parametrize("value", ["1", "date"])
def test_a_server_that_says_when_to_come_back_is_obeyed_by_everybody(chat_service, value):
    chat_service.faults = [("status", 429, {"Retry-After": "1" if value == "1" else email.utils.formatdate(time.time() + 2, usegmt=True)})]
    engine = engine_of(chat_service, in_flight=1)
    assert answers(engine, ["a", "b"]) == ["you said a", "you said b"]
    assert chat_service.times[1] - chat_service.times[0] > 0.9


def test_waits_double_and_never_exceed_their_limit(chat_service):
    chat_service.faults = [("status", 500, {})] * 3
    answers(engine_of(chat_service, first_wait_seconds=0.1, max_wait_seconds=0.15), ["a"])
    gaps = [later - earlier for earlier, later in zip(chat_service.times, chat_service.times[1:], strict=False)]
    assert gaps[0] >= 0.05 and gaps[1] >= 0.1 and gaps[2] >= 0.15
    assert max(gaps) < 1.0


def test_what_will_not_pass_is_said_at_once_with_the_servers_words(chat_service):
    chat_service.faults = [("status", 400, {})]
    with pytest.raises(DataError, match="HTTP 400: not now"):
        answers(engine_of(chat_service), ["a"])
    assert len(chat_service.asked) == 1
    chat_service.faults = [("status", 500, {})] * 9
    with pytest.raises(DataError, match="HTTP 500: not now after 4 attempts"):
        answers(engine_of(chat_service), ["a"])


def test_no_redirect_is_followed_because_it_would_carry_the_key_away(chat_service, monkeypatch):
    monkeypatch.setenv("ECHO_KEY", "s3cret")
    chat_service.faults = [("status", 307, {"Location": "http://127.0.0.1:9/v1"})]
    with pytest.raises(DataError, match="HTTP 307") as caught:
        answers(engine_of(chat_service, key_variable="ECHO_KEY"), ["a"])
    assert chat_service.keys == ["Bearer s3cret"]
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        engine_of(chat_service, key_variable="NO_SUCH_KEY")


def test_no_more_requests_than_allowed_are_in_flight(chat_service):
    chat_service.faults = [("sleep", 0.05)] * 12
    assert answers(engine_of(chat_service, in_flight=3), [str(i) for i in range(12)]) == [f"you said {i}" for i in range(12)]
    assert chat_service.most_open == 3


def test_what_was_answered_is_not_asked_again_and_other_params_are_other_requests(chat_service, tmp_path):
    with AnswerStore(tmp_path / "answers.jsonl") as store:
        first = answers(engine_of(chat_service, store=store), ["a", "b", "é\u2028"])
    with AnswerStore(tmp_path / "answers.jsonl") as store:
        engine = engine_of(chat_service, store=store)
        assert answers(engine, ["a", "b", "é\u2028", "new"]) == [*first, "you said new"]
        assert (len(chat_service.asked), engine.spent.stored, engine.spent.requests) == (4, 3, 1)
        answers(engine, ["a"], SamplingParams(max_tokens=9))
        assert len(chat_service.asked) == 5


def test_a_store_that_was_torn_by_a_kill_loses_the_torn_row_only(tmp_path):
    path = tmp_path / "answers.jsonl"
    with AnswerStore(path) as store:
        store.put("a", {"text": "one"})
        store.put("b", {"text": "two"})
        store.put("a", {"text": "three"})
    path.write_bytes(path.read_bytes() + b'{"key": "c", "row"')
    with AnswerStore(path) as store:
        assert (store.get("a"), store.get("b"), store.get("c")) == ({"text": "three"}, {"text": "two"}, None)
        store.put("c", {"text": "four"})
    with AnswerStore(path) as store:
        assert store.get("c") == {"text": "four"}
    path.write_bytes(b"no row\n")
    with pytest.raises(DataError, match=r"answers\.jsonl:1"):
        AnswerStore(path)


def test_a_key_is_of_the_content_whatever_the_order(tmp_path):
    assert request_key({"a": 1, "b": "é"}) == request_key({"b": "é", "a": 1}) != request_key({"a": 1, "b": "e"})


def test_a_run_that_is_killed_asks_again_only_for_what_was_in_flight(chat_service, tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from bloomery.core.stage import Endpoint\nfrom bloomery.generate.remote_engine import *\n"
        "from bloomery.generate.answer_store import AnswerStore\n"
        "engine = RemoteEngine(Endpoint(url=sys.argv[1], in_flight=2), 'echo', store=AnswerStore(Path(sys.argv[2])))\n"
        "asks = [[{'role': 'user', 'content': str(i)}] for i in range(20)]\n"
        "for answered in engine.answer(asks, SamplingParams(max_tokens=8), seeds=range(20)):\n    print(answered.number, flush=True)\n"
    )
    chat_service.faults = [("none",)] * 8 + [("sleep", 30.0)] * 20
    process = subprocess.Popen([sys.executable, "-c", code, chat_service.url, str(tmp_path / "answers.jsonl")], stdout=subprocess.PIPE)
    for _ in range(8):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    chat_service.faults, asked = [], len(chat_service.asked)
    with AnswerStore(tmp_path / "answers.jsonl") as store:
        assert answers(engine_of(chat_service, store=store), [str(i) for i in range(20)]) == [f"you said {i}" for i in range(20)]
    assert asked <= 8 + 2
    assert len(chat_service.asked) - asked == 12


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from bloomery.chat.server import Served
    from bloomery.chat.voice import Voice

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, train_bpe(["hello there"], vocab_size=264, pattern="llama3"), pattern="llama3")
    voice = Voice(load_tokenizer(folder), None)
    config = ModelConfig(vocab_size=264, dim=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=32, max_positions=96)
    return Served(name="tiny", engine=Engine(Transformer(config, seed=1), voice), voice=voice)


@pytest.fixture(scope="module")
def own(run_server, served):
    with run_server(served) as server:
        yield server


def test_our_own_server_draws_what_the_engine_behind_it_draws(own, served):
    remote = RemoteEngine(Endpoint(url=own.url), "tiny")
    assert remote.context_tokens == 96
    prompts = [[1, 2, 3, 4], [5, 6], list(range(60))]
    for settings in ({"temperature": 0.8, "top_k": 50}, {"top_logps": 3}, {"stop": ("a",)}, {"stop_tokens": tuple(range(0, 264, 3))}):
        params = SamplingParams(max_tokens=12, **settings)
        here, there = served.engine.generate(prompts, params, seeds=[3, 4, 5]), remote.generate(prompts, params, seeds=[3, 4, 5])
        assert [s.tokens for s in here] == [s.tokens for s in there]
        assert [s.finish for s in here] == [s.finish for s in there]
        for mine, its in zip(here, there, strict=True):
            assert its.logps == pytest.approx(mine.logps)
            assert [[token for token, _ in top] for top in its.tops] == [[token for token, _ in top] for top in mine.tops]


def test_a_local_and_a_remote_answerer_say_the_same(own, served):
    conversations = [ask(f"hello {i}") for i in range(5)]
    local = sorted(LocalAnswerer(served.engine, served.voice.render, max_rows=2).answer(conversations, PARAMS, seeds=range(5)))
    remote = sorted(RemoteEngine(Endpoint(url=own.url), "tiny").answer(conversations, PARAMS, seeds=range(5)))
    assert local == remote


def test_a_conversation_that_is_too_long_is_refused_alone_here_and_there(own, served):
    conversations = [ask("hello"), ask("x" * 200), ask("there")]
    local = sorted(LocalAnswerer(served.engine, served.voice.render).answer(conversations, PARAMS, seeds=range(3)))
    remote = sorted(RemoteEngine(Endpoint(url=own.url), "tiny").answer(conversations, PARAMS, seeds=range(3)))
    assert [local[i] for i in (0, 2)] == [remote[i] for i in (0, 2)]
    assert local[1].answer.ending == remote[1].answer.ending == "refused"
    assert "202 tokens" in local[1].answer.text or "expected 1 to 95" in local[1].answer.text
    assert "this model reads 96 at once" in remote[1].answer.text
    with pytest.raises(DataError, match="max_tokens = 500"):  # not the fault of one prompt
        list(RemoteEngine(Endpoint(url=own.url), "tiny").answer(conversations, SamplingParams(max_tokens=500), seeds=range(3)))


def test_answers_are_kept_as_they_come_and_not_asked_for_again(chat_service, tmp_path):
    with AnswerStore(tmp_path / "answers.jsonl") as store:
        engine = engine_of(chat_service)
        settings = {"params": PARAMS, "seeds": [1, 2, 3], "store": store, "keys": ["a", "b", "c"]}
        store.put("b", Answer("known", "end", 0, 0)._asdict())
        assert sorted(keep_answers(engine, [ask("a"), ask("b"), ask("c")], **settings)) == [0, 2]
        assert [Answer(**store.get(key)).text for key in "abc"] == ["you said a", "known", "you said c"]
        assert list(keep_answers(engine, [ask("a"), ask("b"), ask("c")], **settings)) == []
    assert [body["seed"] for body in sorted(chat_service.asked, key=lambda body: body["seed"])] == [1, 3]


def test_an_endpoint_that_gives_no_tokens_says_so_to_who_needs_them(chat_service):
    good = {"choices": [{"text": "a", "finish_reason": "stop", "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}}]}
    chat_service.faults = [("body", json.dumps(good).encode())]
    with pytest.raises(DataError, match="return_token_ids"):
        engine_of(chat_service).generate([[1]], PARAMS, seeds=[0])


def test_a_model_that_is_not_there_is_told_with_those_that_are(own):
    with pytest.raises(DataError, match=r"'gpt'.*tiny"):
        _ = RemoteEngine(Endpoint(url=own.url), "gpt").context_tokens
    with pytest.raises(DataError, match="HTTP 404: there is no model 'gpt'"):
        answers(RemoteEngine(Endpoint(url=own.url), "gpt"), ["a"])


def test_what_vllm_gives_becomes_a_sample(monkeypatch):
    """Its translation only, on objects shaped as vllm/outputs.py declares them: vLLM itself is not run here."""
    package = ModuleType("vllm")
    package.SamplingParams = lambda **values: values
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.delitem(sys.modules, "bloomery.generate.vllm_engine", raising=False)
    from bloomery.generate.vllm_engine import read_output, translate

    params = SamplingParams(max_tokens=50, top_logps=2)
    assert translate(params, seed=3, room=20) == {
        "max_tokens": 20, "temperature": 1.0, "top_k": -1, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0,
        "stop": None, "stop_token_ids": None, "logprobs": 2, "seed": 3,
    }  # fmt: skip
    place = {7: SimpleNamespace(logprob=-2.0), 1: SimpleNamespace(logprob=-0.5), 2: SimpleNamespace(logprob=-1.0)}
    output = SimpleNamespace(token_ids=(7,), logprobs=[place], finish_reason="stop", stop_reason=None)
    assert read_output(output, params) == Sample([7], [-2.0], "end", [[(1, -0.5), (2, -1.0)]])
    monkeypatch.delitem(sys.modules, "bloomery.generate.vllm_engine")


def test_without_vllm_the_line_to_type_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delitem(sys.modules, "bloomery.generate.vllm_engine", raising=False)
    with pytest.raises(ConfigError, match="pip install vllm"):
        import bloomery.generate.vllm_engine  # noqa: F401
