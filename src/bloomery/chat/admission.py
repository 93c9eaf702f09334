"""Who may ask the server, how often and how much: checked before a body is read."""

import hmac
import ipaddress
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from bloomery.chat.refusal import Refusal
from bloomery.core.config import Config
from bloomery.core.errors import ConfigError

MAX_CLIENTS = 10_000
"""Whose rate is remembered."""


class ServerLimits(Config):
    """What the server takes on. Each limit has its own HTTP status, and the server lives on."""

    max_body_bytes: PositiveInt = 4 << 20
    """413 above."""
    max_answer_tokens: PositiveInt = 4096
    """422 for a request that asks for more; also the most that an answer gets which asks for no number."""
    max_open_answers: PositiveInt = 256
    """Answers that are being made or wait; 503 with Retry-After above."""
    requests_per_minute: NonNegativeInt = 0
    """Of each client (by its address); 429 with Retry-After above. 0 = no limit."""
    body_seconds: PositiveFloat = 30.0
    """For a body to arrive; 408 after."""
    answer_seconds: PositiveFloat = 600.0
    """For an answer to be made and taken; 504 after, or an error at the end of a stream."""
    heartbeat_seconds: PositiveFloat = Field(default=10.0, ge=0.01)
    """A stream that has nothing to say sends a comment this often, so that proxies keep it open."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def open_socket(host: str, port: int, *, token: str) -> socket.socket:
    """A listening socket. Raises ConfigError for an address that cannot be had, or that others reach without a token."""
    if not token and not is_loopback(host):
        raise ConfigError(f"--host {host} can be reached from other machines: give a token (--token, or BLOOMERY_TOKEN), or use 127.0.0.1")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)  # from now on clients wait instead of being refused, whatever is still to be loaded
    except OSError as error:
        raise ConfigError(f"cannot listen at {host}:{port}: {error}") from error
    return listener


class Gate:
    """Checks token, Host and Origin, and counts requests of clients."""

    def __init__(self, *, token: str, limits: ServerLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token.encode()
        self._limits = limits
        self._clock = clock
        # client -> (requests it may still make, when that was counted)
        self._allowances: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, headers: Mapping[str, str], *, client: str) -> None:
        """Raises Refusal: 401 for a token, 403 for where a request comes from, 429 for too many."""
        host = headers.get("host", "")
        # Without a token, loopback is the protection, and a page in a browser must not get around it: neither by a name of its own
        # that leads to 127.0.0.1 (DNS rebinding), nor by a form that is sent here.
        if not self._token and not is_loopback(_host_name(host)):
            raise Refusal(403, f"Host {host!r:.100}: without a token this server answers to localhost and 127.0.0.1 only")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refusal(403, f"Origin {origin!r:.100}: pages of other sites may not ask this server")
        if self._token:
            given = headers.get("authorization", "")
            scheme, _, value = given.partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(value.strip().encode("utf-8", "replace"), self._token):
                message = "wrong token" if given else "this server asks for a token: Authorization: Bearer TOKEN"
                raise Refusal(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        self._count(client)

    def _count(self, client: str) -> None:
        rate = self._limits.requests_per_minute
        if not rate:
            return
        now = self._clock()
        left, counted = self._allowances.pop(client, (float(rate), now))
        left = min(float(rate), left + (now - counted) * rate / 60)
        self._allowances[client] = (max(left - 1, 0.0) if left >= 1 else left, now)
        while len(self._allowances) > MAX_CLIENTS:
            self._allowances.popitem(last=False)
        if left < 1:
            wait = str(max(1, round((1 - left) * 60 / rate)))
            message = f"more than {rate} requests a minute: wait {wait} s"
            raise Refusal(429, message, code="rate_limit_exceeded", headers={"Retry-After": wait})


def _host_name(host: str) -> str:
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
