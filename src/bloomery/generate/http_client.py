"""JSON to a server and back, by the standard library: one exchange, and every way in which it can go wrong.

An exchange has a deadline for all of it. No redirect is followed, because it would carry the key to another place.
"""

import email.utils
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import IO, Any  # Any: JSON

MAX_REPLY_BYTES = 64 << 20
RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
"""HTTP statuses that may be other ones a moment later."""


class ExchangeError(Exception):
    """An exchange that gave no JSON. `status` is HTTP's, None without an answer; `code` is the service's name for what is wrong;
    `wait_seconds` is what it asked for."""

    def __init__(self, message: str, *, status: int | None = None, code: str = "", wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.wait_seconds = status, code, wait_seconds

    @property
    def may_pass(self) -> bool:
        """Whether another try may go better."""
        return self.status is None or self.status in RETRIED


def exchange(url: str, body: Mapping[str, Any] | None, *, key: str, timeout_seconds: float) -> dict[str, Any]:
    """The JSON object that `url` answers: POST of `body`, or GET where there is none. Raises ExchangeError."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Accept": "application/json", **({"Content-Type": "application/json"} if data else {})}
    request = urllib.request.Request(url, data=data, headers=headers | ({"Authorization": f"Bearer {key}"} if key else {}))
    end = time.monotonic() + timeout_seconds
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_seconds) as reply:
            raw = _read(reply, end)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error) from None  # its traceback would hold the request, and so the key
    except (OSError, http.client.HTTPException) as error:
        raise ExchangeError(f"no answer ({type(error).__name__}: {error})") from None
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ExchangeError(f"the answer is not JSON ({error}): {raw[:100]!r}") from error
    if not isinstance(value, dict):
        raise ExchangeError(f"the answer is a JSON {type(value).__name__}, expected an object")
    return value


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str) -> None:
        return None


def _read(reply: http.client.HTTPResponse, end: float) -> bytes:
    parts, size = [], 0
    while part := reply.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > MAX_REPLY_BYTES:
            raise ExchangeError(f"the answer has more than {MAX_REPLY_BYTES:,} bytes", status=413)
        if time.monotonic() > end:
            raise TimeoutError("the answer took too long to arrive")
    return b"".join(parts)


def _refusal(error: urllib.error.HTTPError) -> ExchangeError:
    code = ""
    try:
        raw = error.read(1 << 16)
        said = json.loads(raw)["error"]
        message = said["message"] if isinstance(said, dict) else str(said)
        code = str(said.get("code") or "") if isinstance(said, dict) else ""
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        message = error.reason
    wait = _retry_after(error.headers.get("Retry-After"))
    return ExchangeError(f"HTTP {error.code}: {str(message)[:500]}", status=error.code, code=code, wait_seconds=wait)


def _retry_after(value: str | None) -> float | None:
    # RFC 9110, section 10.2.3: seconds, or a date.
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
