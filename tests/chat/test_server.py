"""`bloomery serve`, asked by OpenAI's own client and by hand."""

import asyncio
import http.client
import json
import logging
import socket

import openai
import pytest

from bloomery.chat.admission import Gate, ServerLimits, open_socket
from bloomery.chat.refusal import Refusal
from bloomery.chat.server import Served
from bloomery.chat.voice import Voice
from bloomery.chat.worker import Failure, Worker
from bloomery.core.errors import ConfigError
from bloomery.generate.batcher import Batcher
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.tokens.chat import render

HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def served(tokenizer):
    config = ModelConfig(
        vocab_size=264, dim=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=32, max_positions=512
    )  # fmt: skip
    voice = Voice(tokenizer, None)
    limits = ServerLimits(max_answer_tokens=400, max_open_answers=100, max_body_bytes=100_000, body_seconds=0.5)
    return Served(name="tiny", engine=Engine(Transformer(config, seed=1), voice), voice=voice, limits=limits, max_rows=16)


@pytest.fixture(scope="module")
def server(run_server, served):
    with run_server(served) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def post(server, body, path="/v1/chat/completions", headers=None):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, raw, {"Content-Type": "application/json", **(headers or {})})
    response = connection.getresponse()
    answer = response.status, json.loads(response.read() or b"null"), dict(response.headers)
    connection.close()
    return answer


def engine_text(served, messages, *, seed, **settings):
    prompt = render(served.voice.tokenizer, messages, add_generation_prompt=True).ids
    sample = served.engine.generate([prompt], SamplingParams(**settings), seeds=[seed])[0]
    return served.voice.tokenizer.decode(sample.tokens), sample


def test_a_chat_completion_is_what_the_engine_draws_with_this_seed(client, served):
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=20, temperature=0.7, top_p=0.9, seed=5)
    text, sample = engine_text(served, HELLO, seed=5, max_tokens=20, temperature=0.7, top_p=0.9)
    assert answer.choices[0].message.content == text
    assert answer.object == "chat.completion" and answer.model == "tiny"
    assert answer.choices[0].finish_reason == ("stop" if sample.finish == "end" else "length")
    assert answer.usage.completion_tokens == len(sample.tokens)
    assert answer.usage.prompt_tokens == len(render(served.voice.tokenizer, HELLO, add_generation_prompt=True).ids)


def test_a_stream_says_the_same_and_ends_with_usage_if_asked(client):
    settings = {"model": "tiny", "messages": HELLO, "max_tokens": 30, "seed": 3, "n": 2}
    whole = client.chat.completions.create(**settings)
    texts, finishes, usage = ["", ""], [None, None], None
    for chunk in client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert finishes == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert texts[0] != texts[1]


def test_the_clients_own_stream_helper_puts_the_chunks_together(client):
    whole = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=12, seed=3)
    stop = (whole.choices[0].message.content or "?")[-1]  # the helper wants an answer that ends by itself
    with client.chat.completions.stream(model="tiny", messages=HELLO, max_tokens=12, seed=3, stop=stop) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content.partition(stop)[0]


def test_log_probabilities_are_the_engines(client, served):
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )  # fmt: skip
    _, sample = engine_text(served, HELLO, seed=0, max_tokens=6, temperature=0.0, top_logps=3)
    rows = answer.choices[0].logprobs.content
    assert [row.logprob for row in rows] == pytest.approx(sample.logps)
    assert [top.logprob for top in rows[0].top_logprobs] == pytest.approx([logp for _, logp in sample.tops[0]])
    assert b"".join(bytes(row.bytes) for row in rows).decode("utf-8", "replace") == answer.choices[0].message.content
    streamed = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=6, temperature=0, logprobs=True, stream=True
    )  # fmt: skip
    parts = [row.logprob for chunk in streamed for choice in chunk.choices if choice.logprobs for row in choice.logprobs.content or ()]
    assert parts == pytest.approx(sample.logps)


def test_a_text_completion_takes_texts_and_tokens_and_gives_tokens_back(client, served):
    tokenizer = served.voice.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode("once")]
    by_text = client.completions.create(model="tiny", prompt="once", max_tokens=9, seed=4, logprobs=2)
    by_ids = client.completions.create(
        model="tiny", prompt=[ids, ids], max_tokens=9, seed=4, extra_body={"return_token_ids": True}
    )  # fmt: skip
    sample = served.engine.generate([ids], SamplingParams(max_tokens=9), seeds=[4])[0]
    assert by_text.choices[0].text == by_ids.choices[0].text == by_ids.choices[1].text == tokenizer.decode(sample.tokens)
    assert by_ids.choices[0].token_ids == sample.tokens
    assert by_text.choices[0].logprobs.token_logprobs == pytest.approx(sample.logps)
    assert by_text.object == "text_completion"
    streamed = client.completions.create(model="tiny", prompt="once", max_tokens=9, seed=4, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == by_text.choices[0].text
    assert len(client.completions.create(model="tiny", prompt="once").choices[0].text) <= 4 * 16


def test_an_answer_ends_before_its_stop_string_also_in_a_stream(client):
    whole = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=60, seed=9).choices[0].message.content
    stop = whole[5:8]
    expected = whole[: whole.index(stop)]
    cut = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=60, seed=9, stop=[stop, "never said"])
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (expected, "stop")
    stream = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=60, seed=9, stop=stop, stream=True)
    assert "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices) == expected


def test_models_are_listed_and_an_unknown_one_is_not_there(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").max_model_len == 512
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError, match="only 'tiny'"):
        client.chat.completions.create(model="gpt-4", messages=HELLO)


def test_embeddings_are_refused_with_the_reason(client):
    with pytest.raises(openai.BadRequestError, match="no embeddings"):
        client.embeddings.create(model="tiny", input="hello")


HOSTILE = {
    "negative temperature": ({"temperature": -1}, 400, "temperature"),
    "temperature NaN": (b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}', 400, "NaN"),
    "temperature that overflows": (b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "temperature": 1e999}', 400, "temp"),
    "max_tokens of a billion": ({"max_tokens": 10**9}, 422, "at most 400"),
    "max_tokens of zero": ({"max_tokens": 0}, 400, "max_tokens"),
    "a prompt that fills the context": ({"messages": [{"role": "user", "content": "x" * 50_000}]}, 422, "512"),
    "a body of a megabyte": ({"messages": [{"role": "user", "content": "x" * 1_000_000}]}, 413, "100,000"),
    "no messages": ({"messages": []}, 400, "messages"),
    "a role that is none": ({"messages": [{"role": "wizard", "content": "a"}]}, 400, "wizard"),
    "a system message in the middle": ({"messages": [*HELLO, {"role": "system", "content": "a"}]}, 400, "system"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "image_url"),
    "content that is null": ({"messages": [{"role": "user", "content": None}]}, 400, "content"),
    "too many choices": ({"n": 1000}, 400, "n"),
    "an empty stop string": ({"stop": ["a", ""]}, 400, "stop"),
    "too many top_logprobs": ({"logprobs": True, "top_logprobs": 99}, 400, "top_logprobs"),
    "a schema that would be ignored": ({"response_format": {"type": "json_object"}}, 400, "response_format"),
    "a penalty that would be ignored": ({"frequency_penalty": 1.5}, 400, "frequency_penalty"),
    "a call of nothing": ({"tool_choice": "required"}, 400, "tools"),
    "a name that is no name": ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, "a b"),
    "no JSON": (b"{", 400, "JSON"),
    "JSON that is no object": (b"[]", 400, "object"),
    "JSON of endless depth": (b"[" * 90_000, 400, "JSON"),
    "bytes that are no text": (b'{"model": "\xff"}', 400, "JSON"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_right_is_refused_and_the_server_lives(server, case):
    body, status, said = HOSTILE[case]
    found, answer, _ = post(server, body if isinstance(body, bytes) else {"model": "tiny", "messages": HELLO, **body})
    assert found == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert said in answer["error"]["message"]
    assert post(server, {"model": "tiny", "messages": HELLO, "max_tokens": 2})[0] == 200


def test_token_prompts_outside_of_the_vocabulary_are_refused(server):
    for prompt in ([264], [-1], [], [[]]):
        status, answer, _ = post(server, {"model": "tiny", "prompt": prompt}, "/v1/completions")
        assert (status, answer["error"]["param"]) == (400, "prompt"), prompt


def test_other_paths_and_methods_have_errors_of_the_same_shape(server):
    assert post(server, {}, "/v1/nothing")[:2][0] == 404
    status, answer, _ = post(server, {}, "/v1/models")
    assert (status, answer["error"]["type"]) == (405, "invalid_request_error")
    status, answer, _ = post(server, {"model": "tiny", "messages": HELLO}, headers={"Content-Type": "text/plain"})
    assert (status, answer["error"]["code"]) == (415, "invalid_content_type")


def test_pages_of_other_sites_cannot_reach_a_server_on_loopback(server):
    ask = {"model": "tiny", "messages": HELLO, "max_tokens": 1}
    assert post(server, ask, headers={"Host": "evil.example"})[0] == 403
    assert post(server, ask, headers={"Origin": "https://evil.example"})[0] == 403
    assert post(server, ask, headers={"Origin": f"http://127.0.0.1:{server.port}"})[0] == 200
    assert post(server, ask, headers={"Host": f"localhost:{server.port}"})[0] == 200


def test_a_body_that_does_not_arrive_is_given_up(server):
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        connection.sendall(head.encode())
        assert b"408" in connection.recv(1000).partition(b"\r\n")[0]


def test_sixty_four_streams_at_once_all_complete_and_say_what_they_say_alone(server, served, wait_until):
    async def ask_all():
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60) as client:

            async def ask(i: int) -> str:
                messages = [{"role": "user", "content": f"hello {i}"}]
                stream = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=8 + i % 5, seed=i, stream=True)
                return "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])

            return await asyncio.gather(*(ask(i) for i in range(64)))

    texts = asyncio.run(ask_all())
    alone = [engine_text(served, [{"role": "user", "content": f"hello {i}"}], seed=i, max_tokens=8 + i % 5)[0] for i in range(64)]
    assert texts == alone
    wait_until(lambda: server.service.worker.num_open == 0)


def test_a_client_that_vanishes_frees_its_rows(server, wait_until, monkeypatch):
    worker, cancelled = server.service.worker, []
    cancel = worker.cancel
    monkeypatch.setattr(worker, "cancel", lambda job: (cancelled.append(job), cancel(job)))
    for stream in (True, False):
        cancelled.clear()
        body = json.dumps({"model": "tiny", "messages": HELLO, "max_tokens": 400, "n": 32, "stream": stream})
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
        with socket.create_connection((server.host, server.port), timeout=10) as connection:
            connection.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            wait_until(lambda: worker.num_active == 16)
        wait_until(lambda: worker.num_open == 0 and worker.num_active == 0 and len(cancelled) >= 32)
        assert len(set(cancelled)) == 32, "all are called off, and none runs to its end"


def test_more_than_it_can_take_on_is_put_off_with_503(server):
    ask = {"model": "tiny", "messages": HELLO, "max_tokens": 1, "n": 32}
    status, answer, headers = post(server, {"model": "tiny", "prompt": ["a"] * 4, "n": 32}, "/v1/completions")
    assert (status, answer["error"]["type"], headers["retry-after"]) == (503, "overloaded_error", "1")
    assert post(server, ask)[0] == 200


def test_an_answer_that_takes_too_long_ends_in_an_error(run_server, served, wait_until):
    limits = ServerLimits(answer_seconds=0.05, max_answer_tokens=500)
    with run_server(Served(name="slow", engine=served.engine, voice=served.voice, limits=limits)) as server:
        ask = {"model": "slow", "messages": HELLO, "max_tokens": 480, "n": 32}
        status, answer, _ = post(server, ask)
        assert (status, answer["error"]["code"]) == (504, "timeout")
        with pytest.raises(openai.APIError, match="longer than"):
            list(server.client().chat.completions.create(**ask, stream=True))
        wait_until(lambda: server.service.worker.num_open == 0)


def test_a_step_that_fails_costs_its_answers_and_not_the_server(run_server, served, monkeypatch, caplog):
    with run_server(served) as server:
        batcher = server.service.worker._batcher

        def fail():
            raise RuntimeError("no memory")

        monkeypatch.setattr(batcher, "step", fail)
        status, answer, _ = post(server, {"model": "tiny", "messages": HELLO, "max_tokens": 3})
        assert (status, answer["error"]["type"]) == (500, "server_error")
        assert post(server, {"model": "tiny", "messages": HELLO, "max_tokens": 3})[0] == 200
    assert "no memory" in caplog.text


def test_who_is_cancelled_after_a_failed_step_takes_nobody_else_along(served):
    """Numbers of requests begin again with the new Batcher: a late cancel of an old one must not meet a new one's."""

    async def meet():
        worker = Worker(lambda: Batcher(served.engine))
        worker.start()
        old = worker.submit([1, 2], SamplingParams(max_tokens=400), seed=1)
        await old.events.get()
        worker._batcher.step = lambda: (_ for _ in ()).throw(RuntimeError("no memory"))
        while not isinstance(await old.events.get(), Failure):
            pass
        new = worker.submit([1, 2], SamplingParams(max_tokens=20), seed=1)
        first = await new.events.get()
        worker.cancel(old)
        assert new.request_id == old.request_id == first.request_id
        events = [first]
        while events[-1].finish is None:
            events.append(await asyncio.wait_for(new.events.get(), 5))
        worker.close()
        return [event.token for event in events]

    expected = served.engine.generate([[1, 2]], SamplingParams(max_tokens=20), seeds=[1])[0].tokens
    assert asyncio.run(meet()) == expected


def test_a_stream_that_waits_for_a_row_says_that_it_is_still_there(run_server, served):
    limits = ServerLimits(heartbeat_seconds=0.01, max_answer_tokens=400)
    with run_server(Served(name="tiny", engine=served.engine, voice=served.voice, limits=limits, max_rows=1)) as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
        body = json.dumps({"model": "tiny", "messages": HELLO, "max_tokens": 60, "n": 4, "stream": True})
        for seed in range(8):  # those are before it, whatever the length of one of their answers
            server.service.worker.submit([1, 2], SamplingParams(max_tokens=400), seed=seed)
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        said = connection.getresponse().read()
        connection.close()
    assert said.endswith(b"data: [DONE]\n\n")
    lines = [line for line in said.decode().split("\n") if line]
    assert all(line.startswith(("data: ", ": still here")) for line in lines)
    assert any(line.startswith(": still here") for line in lines)


def test_too_many_requests_of_one_client_are_put_off_with_429(run_server, served):
    limits = ServerLimits(requests_per_minute=2)
    with run_server(Served(name="tiny", engine=served.engine, voice=served.voice, limits=limits)) as server:
        client = server.client()
        client.models.list()
        client.models.list()
        with pytest.raises(openai.RateLimitError, match="more than 2 requests a minute") as caught:
            client.chat.completions.create(model="tiny", messages=HELLO)
        assert 25 <= int(caught.value.response.headers["retry-after"]) <= 30


def test_a_body_without_a_length_has_the_same_limit_and_half_a_character_is_no_fault(server):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    parts = (b"x" * 20_000 for _ in range(10))
    connection.request("POST", "/v1/completions", parts, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    raw = b'{"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "\\ud83d and <|assistant|>"}]}'
    assert post(server, raw)[0] == 200


def test_a_token_is_asked_for_and_never_logged(run_server, served, caplog, capfd):
    for name in ("bloomery", "uvicorn", "starlette"):
        caplog.set_level(logging.DEBUG, logger=name)
    with run_server(Served(name="tiny", engine=served.engine, voice=served.voice, token="s3cret-of-the-server")) as server:
        with pytest.raises(openai.AuthenticationError, match="wrong token"):
            server.client("wr0ng-token-of-a-client").chat.completions.create(model="tiny", messages=HELLO)
        with pytest.raises(openai.AuthenticationError):
            server.client("wr0ng").models.list()
        assert post(server, {"model": "tiny", "messages": HELLO})[0] == 401
        answer = server.client("s3cret-of-the-server").chat.completions.create(model="tiny", messages=HELLO, max_tokens=2)
        assert answer.choices[0].finish_reason
        assert "s3cret" not in repr(server.service.served)
    own = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(("bloomery", "uvicorn")))
    assert "/v1/chat/completions: 2 tokens" in own
    printed = capfd.readouterr()
    for secret in ("s3cret", "wr0ng", "hello there"):
        assert secret not in own + printed.out + printed.err


def test_a_host_that_others_reach_needs_a_token():
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0.*token"):
        open_socket("0.0.0.0", 0, token="")
    open_socket("0.0.0.0", 0, token="x").close()
    listener = open_socket("localhost", 0, token="")
    listener.listen()
    with pytest.raises(ConfigError, match="cannot listen"):
        open_socket("127.0.0.1", listener.getsockname()[1], token="")
    listener.close()


def test_a_client_may_ask_so_often_a_minute_and_no_more():
    now = [0.0]
    gate = Gate(token="", limits=ServerLimits(requests_per_minute=2), clock=lambda: now[0])
    headers = {"host": "localhost"}
    gate.check(headers, client="a")
    gate.check(headers, client="a")
    with pytest.raises(Refusal, match="wait 30 s") as caught:
        gate.check(headers, client="a")
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "30"})
    gate.check(headers, client="b")
    now[0] = 31.0
    gate.check(headers, client="a")
