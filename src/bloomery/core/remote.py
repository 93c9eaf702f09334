"""Files that lie elsewhere: `https://`, `s3://`, `gs://`, `hf://` and whatever else fsspec knows, one shard at a time.

A remote file goes through the pipeline as a Path like any other (`as_path`), although Path writes `s3://b/k` as `s3:/b/k`;
`remote_url` gives the address back, and nothing else in bloomery looks at it. Whoever opens a file does so inside
`local_copy`: a local file is itself; a remote one is downloaded whole, checked, and deleted afterwards. So every reader
sees an ordinary file, and the disk holds one shard for each worker.

http and https need nothing but the standard library. A download continues where it was cut off, waits longer after every
failure and as long as the server asks, and is whole or an error. Redirects lead to no other scheme and into no private network.
"""

import base64
import contextlib
import email.utils
import fcntl
import hashlib
import http.client
import ipaddress
import os
import re
import shutil
import socket
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.message import Message
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NamedTuple  # Any: fsspec is not typed
from urllib.parse import unquote, urljoin, urlsplit

import fsspec

from bloomery.core.errors import DataError

HTTP_SCHEMES = ("http", "https")
FSSPEC_SCHEMES = ("s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "memory")

RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))
"""HTTP statuses that may be other ones a moment later."""

MAX_REDIRECTS = 5
BLOCK_BYTES = 1 << 18

# Path.absolute() puts the working folder before it.
_COLLAPSED = re.compile(rf"(?:/(?:[^/]+/)*?)?({'|'.join((*HTTP_SCHEMES, *FSSPEC_SCHEMES))}):/+([^/].*)", re.DOTALL)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_GRACE_SECONDS = 30.0
_MIN_FREE_BYTES = 64 << 20


class Manners(NamedTuple):
    """How a server is asked: how often, how long to wait after a failure, and who is asking."""

    attempts: int = 7
    first_wait_seconds: float = 1.0
    """Wait after the first failure; doubled after each further one."""
    max_wait_seconds: float = 120.0
    """The longest wait, also when the server asks for more (Retry-After)."""
    pause_seconds: float = 0.0
    """Between two requests that both went well."""
    timeout_seconds: float = 60.0
    """For a connection, and for each read of it."""
    min_bytes_per_second: int = 1024
    """A body that comes more slowly for 30 s counts as a failure."""
    user_agent: str = ""
    """How we introduce ourselves; "" for bloomery and its version."""


class RemoteFile(NamedTuple):
    """One remote file: its address, its size, and what its server calls its state (ETag, checksum, time of change)."""

    url: str
    num_bytes: int
    token: str


class FetchError(DataError):
    """What could not be fetched, after every attempt; `status` is the last HTTP status, None where there was no answer."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def remote_url(path: Path | str) -> str | None:
    """The address that `path` stands for, or None for a file on this machine.

    >>> remote_url(Path("https://host/a.jsonl.gz")), remote_url("s3:/bucket/key"), remote_url("data/a.jsonl")
    ('https://host/a.jsonl.gz', 's3://bucket/key', None)
    """
    match = _COLLAPSED.fullmatch(str(path))
    return f"{match[1]}://{match[2]}" if match else None


def as_path(url: str) -> Path:
    """The Path that stands for an address in bloomery; `remote_url` gives the address back."""
    return Path(url)


def list_remote(pattern: str, *, suffixes: Sequence[str] = ()) -> list[RemoteFile]:
    """The files that an address names, sorted: a file, a glob, or a folder searched for names ending in `suffixes`.

    No file is read. http and https have neither globs nor folders. Raises DataError if nothing is there.
    """
    url = remote_url(pattern) or pattern
    if url.startswith(tuple(f"{scheme}://" for scheme in HTTP_SCHEMES)):
        if "*" in url:
            raise DataError(f"{url}: a web server cannot list its files, so an address cannot be a pattern. Name each file.")
        return [_describe_http(url, Manners(attempts=4))]
    filesystem, root = _open_filesystem(url)
    with _driver_errors(url):
        filesystem.invalidate_cache()  # a run looks again at its end whether its inputs are the same
        is_folder = not any(mark in root for mark in "*?[") and filesystem.isdir(root)
        if is_folder:
            found = filesystem.find(root, detail=True)
        else:
            found = filesystem.glob(root, detail=True) if any(mark in root for mark in "*?[") else {root: filesystem.info(root)}
    if is_folder:
        found = {name: found[name] for name in found if "/." not in name.removeprefix(root) and name.endswith(tuple(suffixes) or "")}
    files = [
        RemoteFile(remote_url(filesystem.unstrip_protocol(name)) or name, int(info["size"] or 0), _token(info))
        for name, info in found.items()
        if info["type"] == "file"
    ]
    if not files:
        wanted = f"; expected names ending in {', '.join(suffixes)}" if suffixes else ""
        raise DataError(f"{url}: found no file there{wanted}")
    return sorted(files)


def file_bytes(path: Path) -> int:
    """The size of a file, wherever it is."""
    url = remote_url(path)
    return path.stat().st_size if url is None else list_remote(url)[0].num_bytes


@contextlib.contextmanager
def local_copy(path: Path, *, manners: Manners | None = None) -> Iterator[Path]:
    """A file on this machine with the bytes and the name of `path`: `path` itself, or a copy that is deleted afterwards.

    The copy lies in the folder for temporary files (TMPDIR). Raises DataError if the file cannot be had whole.
    """
    url = remote_url(path)
    if url is None:
        yield path
        return
    with _temporary_folder() as folder:
        copy = folder / unquote(path.name)
        if urlsplit(url).scheme in HTTP_SCHEMES:
            download(url, copy, manners=manners or Manners())
        else:
            _copy_with_driver(url, copy, manners or Manners())
        yield copy


def download(url: str, part: Path, *, manners: Manners, check: Callable[[Path], str] | None = None) -> None:
    """Downloads a web address to `part`, continuing what an earlier call left there.

    Its length, and its checksum where the server gives one, are checked; then `check`, which says what is wrong with the
    file or "". A file that fails is fetched again from its start. Raises FetchError after the last attempt; what has been
    fetched stays in `part` for the next call, and beside it, in `<part>.validator`, which state of the file it is of.
    """
    validator = part.with_name(f"{part.name}.validator")
    problem: _Failure | None = None
    for attempt in range(manners.attempts):
        if problem is not None:
            time.sleep(wait_seconds(url, attempt, problem.retry_after, manners))
        try:
            _download_once(url, part, validator, manners)
            if wrong := check(part) if check else "":
                part.unlink()
                raise _Failure(wrong)
            return
        except _Failure as failure:
            problem = failure
            if failure.is_final:
                break
    assert problem is not None, "there is at least one attempt"
    raise FetchError(
        f"{url}: {problem} (tried {attempt + 1} times). What was fetched is kept: run the same command again.", status=problem.status
    )


def fetch(
    url: str, *, manners: Manners, max_bytes: int, first_byte: int = 0, num_bytes: int = 0, check: Callable[[bytes], str] | None = None
) -> bytes:
    """The body of a web address, or `num_bytes` of it from `first_byte` on; `check` says what is wrong with it, or "".

    Raises FetchError after the last attempt, and for a body of more than `max_bytes`.
    """
    problem: _Failure | None = None
    for attempt in range(manners.attempts):
        if problem is not None:
            time.sleep(wait_seconds(url, attempt, problem.retry_after, manners))
        try:
            body = _fetch_once(url, manners, max_bytes, first_byte, num_bytes)
            if wrong := check(body) if check else "":
                raise _Failure(wrong)
            return body
        except _Failure as failure:
            problem = failure
            if failure.is_final:
                break
    assert problem is not None, "there is at least one attempt"
    raise FetchError(f"{url}: {problem} (tried {attempt + 1} times)", status=problem.status)


def wait_seconds(url: str, attempt: int, retry_after: float, manners: Manners) -> float:
    """How long to wait before attempt number `attempt` (from 1): doubled each time, by 25 % less or more, or as asked for.

    The part that varies comes from the address, not from chance: it parts the workers, and a run can be repeated.
    """
    draw = int.from_bytes(hashlib.blake2b(f"{url} {attempt}".encode("utf-8", "replace"), digest_size=4).digest()) / 2**32
    wait = manners.first_wait_seconds * 2.0 ** (attempt - 1) * (0.75 + draw / 2)
    return min(max(wait, retry_after), manners.max_wait_seconds)


class _Failure(Exception):
    """One attempt that failed. `is_final`: a further one would fail, too."""

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float = 0.0, is_final: bool = False, content_range: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after, self.is_final, self.content_range = status, retry_after, is_final, content_range


class _CarefulRedirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """See HTTPRedirectHandler: the request that follows a redirect, if we are to follow it."""
        target, source = urlsplit(urljoin(req.full_url, newurl)), urlsplit(req.full_url)
        if target.scheme not in HTTP_SCHEMES or (source.scheme == "https" and target.scheme == "http"):
            raise _Failure(
                f"redirected to {newurl}: refused, only http and https are followed, and never from https to http", is_final=True
            )
        if target.hostname != source.hostname and not is_public(target.hostname or ""):
            raise _Failure(f"redirected to {newurl}: refused, this is an address of a private network", is_final=True)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def is_public(host: str) -> bool:
    """Whether every address of a host is one of the public internet."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        # Behind a proxy, names may be known to the proxy alone, and it decides.
        return bool(urllib.request.getproxies())
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_global for entry in found)


@contextlib.contextmanager
def _request(url: str, headers: Mapping[str, str], manners: Manners, *, method: str = "GET") -> Iterator[http.client.HTTPResponse]:
    if urlsplit(url).scheme not in HTTP_SCHEMES:
        raise _Failure("not a web address: expected http:// or https://", is_final=True)
    opener = urllib.request.OpenerDirector()
    handlers = (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(), _CarefulRedirects())
    for handler in (*handlers, urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()):
        opener.add_handler(handler)
    agent = manners.user_agent or f"bloomery/{version('bloomery')}"
    try:
        request = urllib.request.Request(url, headers={"User-Agent": agent, "Accept-Encoding": "identity", **headers}, method=method)
        with opener.open(request, timeout=manners.timeout_seconds) as response:
            yield response
    except urllib.error.HTTPError as error:
        with error:
            raise _Failure(
                f"HTTP status {error.code} {error.reason}",
                status=error.code,
                retry_after=_retry_after(error.headers),
                is_final=error.code not in RETRIED,
                content_range=error.headers.get("Content-Range", ""),
            ) from error
    except urllib.error.URLError as error:
        unknown = isinstance(error.reason, socket.gaierror) and error.reason.errno == socket.EAI_NONAME
        is_final = unknown or isinstance(error.reason, ssl.SSLCertVerificationError)
        raise _Failure(f"no answer: {error.reason}", is_final=is_final) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise _Failure(f"not a web address: {error}", is_final=True) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Failure(f"the connection broke: {str(error) or type(error).__name__}") from error


def _describe_http(url: str, manners: Manners) -> RemoteFile:
    problem: _Failure | None = None
    for attempt in range(manners.attempts):
        if problem is not None:
            time.sleep(wait_seconds(url, attempt, problem.retry_after, manners))
        try:
            try:
                with _request(url, {}, manners, method="HEAD") as response:
                    return _described(url, response)
            except _Failure as failure:
                if failure.status is None or failure.status in RETRIED or failure.status == 404:
                    raise
            # Some servers, and addresses signed for GET only, refuse HEAD.
            with _request(url, {"Range": "bytes=0-0"}, manners) as response:
                return _described(url, response)
        except _Failure as failure:
            problem = failure
            if failure.is_final:
                break
    raise FetchError(f"{url}: {problem}", status=problem.status if problem else None)


def _described(url: str, response: http.client.HTTPResponse) -> RemoteFile:
    headers = response.headers
    total = _total_bytes(response)
    return RemoteFile(url, total or 0, headers.get("ETag") or headers.get("Last-Modified") or "")


def _total_bytes(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length")
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        text = match[3] if match else None
    return int(text) if text and text.isdecimal() else None


def _download_once(url: str, part: Path, validator: Path, manners: Manners) -> None:
    done = part.stat().st_size if part.exists() and validator.exists() else 0
    headers = {"Range": f"bytes={done}-", "If-Range": validator.read_text()} if done else {}
    try:
        with _request(url, headers, manners) as response:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            continues = response.status == 206 and match is not None and match[1] == str(done)
            if response.status == 206 and not continues:
                part.unlink(missing_ok=True)
                raise _Failure(f"asked for bytes from {done} on, got {response.headers.get('Content-Range')!r}")
            if not continues:
                part.unlink(missing_ok=True)  # first: what is left of another file must never get this one's validator
                _remember_validator(response.headers, validator)
            total = _total_bytes(response)
            _check_space(part.parent, (total or 0) - done)
            with part.open("ab" if continues else "wb") as sink:
                _copy_body(response, sink, manners)
            digests = dict(_digests(response.headers, whole=not continues))
    except _Failure as failure:
        if failure.status == 416:
            if failure.content_range == f"bytes */{done}":
                return  # nothing is missing, and by If-Range it is still the same file
            part.unlink(missing_ok=True)
            raise _Failure("the file on the server has changed") from failure
        raise
    size = part.stat().st_size
    if total is not None and size != total:
        if size > total:
            part.unlink()
        raise _Failure(f"{size} of {total} bytes came")
    for name, expected in digests.items():
        with part.open("rb") as file:
            if hashlib.file_digest(file, name).digest() != expected:
                part.unlink()
                raise _Failure(f"its {name} is not the one that the server gave")


def _fetch_once(url: str, manners: Manners, max_bytes: int, first_byte: int, num_bytes: int) -> bytes:
    headers = {"Range": f"bytes={first_byte}-{first_byte + num_bytes - 1}"} if num_bytes else {}
    with _request(url, headers, manners) as response:
        if num_bytes and response.status != 206:
            raise _Failure("the server does not give ranges of files", status=response.status, is_final=True)
        length = response.headers.get("Content-Length", "")
        expected = num_bytes or (int(length) if length.isdecimal() else None)
        if (expected or 0) > max_bytes:
            raise _Failure(f"{expected} bytes are more than {max_bytes}", is_final=True)
        sink = _Bounded(num_bytes or max_bytes)
        _copy_body(response, sink, manners)
    if expected is not None and len(sink.data) != expected:
        raise _Failure(f"{len(sink.data)} of {expected} bytes came")
    return bytes(sink.data)


class _Bounded:
    def __init__(self, limit: int) -> None:
        self.data, self._limit = bytearray(), limit

    def write(self, block: bytes) -> None:
        self.data += block
        if len(self.data) > self._limit:
            raise _Failure(f"more than the {self._limit} bytes that were expected", is_final=False)


def _copy_body(response: http.client.HTTPResponse, sink: "IO[bytes] | _Bounded", manners: Manners) -> None:
    started, count = time.monotonic(), 0
    # read1 gives what is there: read would wait for a whole block from a server that sends a byte now and then.
    while block := response.read1(BLOCK_BYTES):
        sink.write(block)
        count += len(block)
        seconds = time.monotonic() - started
        if seconds > _GRACE_SECONDS and count < seconds * manners.min_bytes_per_second:
            raise _Failure(f"too slow: {count} bytes in {seconds:.0f} s")


def _remember_validator(headers: Message, validator: Path) -> None:
    etag = headers.get("ETag", "")
    strong = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    if strong:
        validator.write_text(strong)
    else:
        validator.unlink(missing_ok=True)  # without it, nobody can say that the rest belongs to this beginning


def _digests(headers: Message, *, whole: bool) -> Iterator[tuple[str, bytes]]:
    # RFC 9530's Repr-Digest and RFC 3230's Digest are of the whole file; Content-MD5 is of what was sent.
    found = re.search(r"sha-256=:?([A-Za-z0-9+/]{43}=)", headers.get("Repr-Digest") or headers.get("Digest") or "", re.IGNORECASE)
    if found:
        yield "sha256", base64.b64decode(found[1])
    sent = headers.get("Content-MD5", "")
    if whole and re.fullmatch(r"[A-Za-z0-9+/]{22}==", sent):
        yield "md5", base64.b64decode(sent)


def _retry_after(headers: Message) -> float:
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text[:6])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, IndexError):
        return 0.0


def _open_filesystem(url: str) -> tuple[Any, str]:
    scheme = urlsplit(url).scheme
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url}: nothing here reads {scheme}:// ({error}). Install it: pip install 'bloomery[remote]'") from error
    return found


@contextlib.contextmanager
def _driver_errors(url: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{url}: no such file") from error
    except Exception as error:
        # Every driver raises errors of its own kind (botocore's, aiohttp's), and none of them is a bug of ours.
        raise DataError(f"{url}: cannot be read: {type(error).__name__}: {error}") from error


def _copy_with_driver(url: str, copy: Path, manners: Manners) -> None:
    filesystem, name = _open_filesystem(url)
    for attempt in range(manners.attempts):
        try:
            with _driver_errors(url):
                info = filesystem.info(name)
                _check_space(copy.parent, int(info["size"] or 0))
                filesystem.get_file(name, str(copy))
            if wrong := _check_copy(copy, info):
                raise DataError(f"{url}: {wrong}")
            return
        except DataError as error:
            copy.unlink(missing_ok=True)
            if attempt + 1 == manners.attempts or isinstance(error.__cause__, FileNotFoundError | PermissionError):
                raise
        time.sleep(wait_seconds(url, attempt + 1, 0.0, manners))


def _check_copy(copy: Path, info: Mapping[str, Any]) -> str:
    size = copy.stat().st_size
    if info["size"] is not None and size != info["size"]:
        return f"{size} of {info['size']} bytes came"
    lfs = info.get("lfs")
    sha256 = lfs.get("sha256") if isinstance(lfs, Mapping) else getattr(lfs, "sha256", None)  # huggingface_hub has had both
    if isinstance(sha256, str):
        with copy.open("rb") as file:
            return "" if hashlib.file_digest(file, "sha256").hexdigest() == sha256 else "its sha256 is not the one that the server gave"
    md5 = info.get("md5Hash")  # Google Cloud Storage; S3's ETag is an md5 for some files only, and does not say for which
    if isinstance(md5, str):
        with copy.open("rb") as file:
            return "" if base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode() == md5 else "its md5 is not the server's"
    return ""


def _token(info: Mapping[str, Any]) -> str:
    names = ("ETag", "etag", "md5Hash", "blob_id", "content_md5", "crc32c", "LastModified", "last_modified", "mtime", "updated", "created")
    return next((str(info[name]) for name in names if info.get(name)), "")


def _check_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes + _MIN_FREE_BYTES > free:
        raise DataError(f"{folder}: {num_bytes} bytes are to come, and {free} are free. Set TMPDIR to a folder with more room.")


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"bloomery-{os.getuid()}-*"):
        _remove_if_abandoned(left)
    folder = Path(tempfile.mkdtemp(prefix=f"bloomery-{os.getuid()}-"))
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)  # gone with this process, however it ends
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if time.time() - folder.stat().st_mtime < 60.0:
            return  # may have been made a moment ago, and be locked in the next
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
