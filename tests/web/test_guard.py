"""The web server's guard: who may ask, from where, how much, and what every answer carries."""

import asyncio
import re

import own_loop
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from bloomery.web.guard import Access, Guard, WebLimits

TOKEN = "correct-horse"
CHANGING = ("POST", "PUT", "PATCH", "DELETE")
OURS = {"origin": "http://127.0.0.1", "content-type": "application/json"}


def make_client(token: str = TOKEN, *, hosts=(), clock=None, **limits) -> TestClient:
    async def echo(request):
        return JSONResponse({"method": request.method, "bytes": len(await request.body())})

    methods = ["GET", "HEAD", *CHANGING]
    app = Starlette(routes=[Route("/", echo, methods=methods), Route("/api/echo", echo, methods=methods), Route("/static/app.js", echo)])
    access = Access(token=token, hosts=hosts, limits=WebLimits(**limits))
    guard = Guard(app, access, clock=clock) if clock else Guard(app, access)
    return TestClient(guard, base_url="http://127.0.0.1", follow_redirects=False)


@pytest.fixture
def client() -> TestClient:
    """A browser that has opened the launch URL."""
    client = make_client()
    assert client.get(f"/?token={TOKEN}").status_code == 303
    return client


def test_the_launch_address_becomes_a_cookie_that_scripts_and_other_sites_cannot_use():
    answer = make_client().get(f"/runs?token={TOKEN}&run=a")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs?run=a")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie


def test_a_redirect_cannot_leave_this_server():
    answer = make_client().get(f"http://127.0.0.1//evil.example/?token={TOKEN}")
    assert answer.headers["location"] == "/evil.example/"


def test_without_the_token_nothing_but_the_code_of_the_pages_is_given(client):
    stranger = make_client()
    assert stranger.get("/api/echo").status_code == 401
    assert stranger.get("/").status_code == 401
    assert stranger.get("/static/app.js").status_code == 200
    assert client.get("/api/echo").status_code == 200


@pytest.mark.parametrize(
    "cookie", ["", "bloomery-x=1", "abc", "{name}=abc", "{name}=abc.def", "{name}=.", "{name}=" + "a" * 5000, '{name}="\\"', "{name}=é.é"]
)
def test_a_made_up_cookie_opens_nothing(client, cookie):
    (name,) = client.cookies.keys()
    assert make_client().get("/api/echo", headers={"cookie": cookie.format(name=name).encode("latin-1")}).status_code == 401


def test_a_cookie_of_another_token_opens_nothing(client):
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    assert make_client("another-token").get("/api/echo", headers={"cookie": cookies}).status_code == 401


def test_wrong_tokens_are_slowed_down_and_never_repeated_back():
    stranger = make_client(logins_per_minute=5)
    answers = [stranger.get("/api/echo", headers={"authorization": f"Bearer guess-{i}"}) for i in range(8)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 3
    assert not any("guess" in answer.text for answer in answers)


def test_a_person_without_the_token_can_type_it_in():
    stranger = make_client()
    page = stranger.get("/", headers={"accept": "text/html"})
    assert page.status_code == 401 and '<form method="post" action="/login">' in page.text
    form = {"content-type": "application/x-www-form-urlencoded", "origin": "http://127.0.0.1"}
    assert stranger.post("/login", content="token=wrong", headers=form).status_code == 401
    assert stranger.post("/login", content=f"token={TOKEN}", headers=form).status_code == 303
    assert stranger.get("/api/echo").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.com", "127.0.0.1.evil.com", "localhost.evil.com", "evil.com:80", "", "[::1].evil.com", "2130706433", "10.0.0.7"]
)
def test_a_foreign_host_name_gets_nothing_though_it_leads_here(host):
    assert make_client(token="").get("/api/echo", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8080", "[::1]:8080", "lab.example.org", "LAB.example.org:80"])
def test_names_of_this_server_are_answered(host):
    assert make_client(token="", hosts=["lab.example.org"]).get("/api/echo", headers={"host": host}).status_code == 200


def test_with_a_token_an_address_may_be_the_host_but_an_unknown_name_may_not(client):
    assert client.get("/api/echo", headers={"host": "10.0.0.7:8080"}).status_code in (200, 401)  # the cookie may be another host's
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert make_client().get("/api/echo", headers={"host": "10.0.0.7:8080", **bearer}).status_code == 200
    assert make_client().get("/api/echo", headers={"host": "evil.com", **bearer}).status_code == 403


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.com"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
        {"origin": "file://127.0.0.1"},
        {},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_what_changes_something_must_come_from_our_own_pages(client, method, headers):
    sent = {"content-type": "application/json", **headers}
    assert client.request(method, "/api/echo", headers=sent).status_code == 403


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"])
def test_what_changes_something_must_be_json(client, method, kind):
    headers = {"origin": "http://127.0.0.1", "content-type": kind}
    assert client.request(method, "/api/echo", headers=headers, content=b"{}").status_code == 415


@pytest.mark.parametrize("method", CHANGING)
def test_our_own_pages_may_change_things(client, method):
    answer = client.request(method, "/api/echo", headers=OURS, content=b"{}")
    assert (answer.status_code, answer.json()) == (200, {"method": method, "bytes": 2})


def test_pages_of_other_sites_cannot_read_either(client):
    assert client.get("/api/echo", headers={"origin": "http://evil.com"}).status_code == 403
    assert client.get("/api/echo", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    answer = client.get("/api/echo")
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_every_answer_carries_a_policy_without_inline_script_or_other_hosts(client):
    for answer in (client.get("/"), make_client().get("/"), client.get("/none"), client.post("/api/echo")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy
        assert not re.search(r"unsafe|https?:|\*", policy)
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "same-origin"


def test_a_body_beyond_the_limit_is_refused_with_and_without_a_stated_length(client):
    small = make_client(max_body_bytes=1000)
    small.get(f"/?token={TOKEN}")
    assert small.post("/api/echo", headers=OURS, content=b"x" * 1000).status_code == 200
    assert small.post("/api/echo", headers=OURS, content=b"x" * 1001).status_code == 413
    assert small.post("/api/echo", headers=OURS, content=iter([b"x" * 600, b"x" * 600])).status_code == 413
    assert small.post("/api/echo", headers={**OURS, "content-length": "-1"}, content=b"x").status_code == 413


def test_too_many_requests_a_minute_are_told_when_to_come_back():
    now = [0.0]
    client = make_client(requests_per_minute=60, clock=lambda: now[0])
    client.get(f"/?token={TOKEN}")
    assert [client.get("/api/echo").status_code for _ in range(61)] == [200] * 60 + [429]
    assert client.get("/api/echo").headers["retry-after"] == "1"
    now[0] += 2
    assert client.get("/api/echo").status_code == 200


def test_requests_that_stay_open_have_a_limit_and_free_their_place():
    release = asyncio.Event()

    async def wait(scope, receive, send):
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(guard) -> int:
        statuses = []

        async def send(message):
            statuses.append(message.get("status"))

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        headers = [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {TOKEN}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/api/x", "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1)}
        await guard(scope, receive, send)
        return statuses[0]

    async def run():
        guard = Guard(wait, Access(token=TOKEN, limits=WebLimits(max_open_requests=3)))
        waiting = [asyncio.create_task(ask(guard)) for _ in range(3)]
        await asyncio.sleep(0)
        assert await ask(guard) == 503
        release.set()
        assert await asyncio.gather(*waiting) == [200] * 3
        assert await ask(guard) == 200

    own_loop.run(run())


def test_a_body_that_never_ends_is_given_up():
    async def run():
        guard = Guard(None, Access(token="", limits=WebLimits(body_seconds=0.05)))
        statuses = []

        async def send(message):
            statuses.append(message.get("status"))

        async def receive():
            await asyncio.sleep(10)

        headers = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/api/x", "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1)}
        await guard(scope, receive, send)
        assert statuses[0] == 408

    own_loop.run(run())
