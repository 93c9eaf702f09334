"""Settings for every test."""

import atexit
import contextlib
import http.server
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

# As the command line sets it, and before any test loads torch: threads that spin while they wait starve the tests beside them.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# What one run of the tests computed with its code must not be found by the next, whose code may be another.
os.environ["BLOOMERY_REFERENCE_CACHE"] = tempfile.mkdtemp(prefix="bloomery-reference-")
atexit.register(shutil.rmtree, os.environ["BLOOMERY_REFERENCE_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def logs_as_they_were():
    """A command that was invoked in a test leaves its log handler, whose stream is closed; a later test's log would go there."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def smoke_store(tmp_path_factory) -> Path:
    """The store of the smoke recipe, run as a user runs it, once for all tests. Whoever changes something works on a copy.

    BLOOMERY_SMOKE_STORE names one that is there already (for those who run a few tests often).
    """
    ready = os.environ.get("BLOOMERY_SMOKE_STORE")
    folder = Path(ready) if ready else tmp_path_factory.mktemp("smoke") / "runs"
    if not ready:
        command = [Path(sys.executable).with_name("bloomery"), "run", "smoke", "--store", folder]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stderr[-3000:]}"
    return folder


class WebServer:
    """A web server on this machine: what it serves, how it misbehaves next, and what it was asked.

    `faults[path]` are used up one a request: ("status", code, headers), ("cut", n) sends n bytes and hangs up,
    ("flip", n) changes byte n, ("claim", n) says that the body has n bytes more, ("whole",) ignores Range,
    ("redirect", address), ("none",) behaves.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.faults: dict[str, list[tuple]] = {}
        self.requests: list[tuple[str, str, str]] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                web._answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request):
        path = request.path if request.path in self.files else urlsplit(request.path).path
        self.requests.append((request.command, request.path, request.headers.get("Range", "")))
        fault = self.faults[path].pop(0) if self.faults.get(path) else ("none",)
        if fault[0] == "status" or path not in self.files:
            code, headers = fault[1:] if fault[0] == "status" else (404, {})
            return self._send(request, code, b"", {"Content-Length": "0", **headers})
        if fault[0] == "redirect":
            return self._send(request, 302, b"", {"Content-Length": "0", "Location": fault[1]})
        body = self.files[path]
        headers = {"ETag": f'"{zlib.crc32(body):08x}"', **self.headers.get(path, {})}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        code = 200
        if wanted and fault[0] != "whole" and request.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
            first, last = int(wanted[1]), min(int(wanted[2] or len(body) - 1), len(body) - 1)
            if first >= len(body):
                return self._send(request, 416, b"", {"Content-Length": "0", "Content-Range": f"bytes */{len(body)}"})
            code, headers = 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(body)}"}
            body = body[first : last + 1]
        headers["Content-Length"] = str(len(body) + (fault[1] if fault[0] == "claim" else 0))
        if fault[0] == "flip":
            body = body[: fault[1]] + bytes([body[fault[1]] ^ 255]) + body[fault[1] + 1 :]
        return self._send(request, code, body[: fault[1]] if fault[0] == "cut" else body, headers)

    def _send(self, request, code, body, headers):
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
        request.close_connection = True


@pytest.fixture
def web_server():
    server = WebServer()
    yield server
    server.close()


@dataclass
class RunningModel:
    """A `bloomery serve` of this process, and a way to ask it."""

    service: Any
    host: str
    port: int
    clients: list[Any] = field(default_factory=list)

    @property
    def url(self):
        return f"http://{self.host}:{self.port}/v1"

    def client(self, key="none", **options):
        import openai

        client = openai.OpenAI(base_url=self.url, api_key=key, **{"max_retries": 0, "timeout": 60, **options})
        self.clients.append(client)
        return client


@pytest.fixture(scope="session")
def run_server():
    """`with run_server(served) as server`: a model served in a thread, at a free port."""
    from bloomery.chat.admission import open_socket
    from bloomery.chat.server import Service, make_server

    @contextlib.contextmanager
    def run(served):
        service = Service(served)
        server = make_server(service)
        listener = open_socket("127.0.0.1", 0, token=served.token)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        running = RunningModel(service, *listener.getsockname())
        yield running
        for client in running.clients:
            client.close()
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()

    return run


@pytest.fixture(scope="session")
def wait_until():
    """Waits until a condition holds, and fails if it never does."""
    return wait_for


def wait_for(condition, *, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


class ChatService:
    """A service with OpenAI's chat API that answers what `write` makes of a prompt; `faults` are used up, one a request."""

    def __init__(self):
        self.write = lambda prompt: f"you said {prompt}"
        self.tops = None
        """Of a prompt the likeliest first tokens and their log-probabilities, for a service that gives any."""
        self.faults: list[tuple] = []
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.open = self.most_open = 0
        self.lock = threading.Lock()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with service.lock:
                    service.open += 1
                    service.most_open = max(service.most_open, service.open)
                    service.asked.append(body)
                    service.keys.append(self.headers.get("Authorization"))
                    service.times.append(time.monotonic())
                    fault = service.faults.pop(0) if service.faults else ("none",)
                service.reply(self, body, fault)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def reply(self, handler, body, fault):
        said = self.write(body["messages"][-1]["content"]) if "messages" in body else ""
        good = {
            "choices": [{"message": {"content": said}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3},
        }
        if self.tops is not None and body.get("logprobs"):
            tops = [{"token": token, "logprob": logp} for token, logp in self.tops(body["messages"][-1]["content"])]
            good["choices"][0]["logprobs"] = {"content": [{"token": tops[0]["token"], "logprob": 0.0, "top_logprobs": tops}]}
        status, headers, raw = 200, {}, json.dumps(good).encode()
        if fault[0] == "status":
            status, headers, raw = fault[1], fault[2], json.dumps({"error": {"message": "not now"}}).encode()
        elif fault[0] == "body":
            raw = fault[1]
        elif fault[0] == "sleep":
            time.sleep(fault[1])
        with self.lock:
            self.open -= 1
        if fault[0] == "hang up":
            handler.close_connection = True
            return
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(raw[: len(raw) // 2] if fault[0] == "cut" else raw)
        handler.close_connection = True


@pytest.fixture
def chat_service():
    service = ChatService()
    yield service
    service.server.shutdown()
    service.server.server_close()
