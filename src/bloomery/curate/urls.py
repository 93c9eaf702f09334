"""Addresses of pages: one spelling for each, and one key for all addresses that lead to the same page.

The canonical form can still be fetched: RFC 3986 §6.2.2 (case, percent-encoding, dot segments), IDNA, no default port,
no fragment, no user name, and without the parameters that only say where a visitor came from. Parameters stay in their
order and `www.` stays, because a server may tell them apart.

The key goes further, for comparing only: no scheme, no `www.`, no slash at the end, parameters sorted by name. Servers
that answer these differently with different pages are rare; the near-duplicate stages do not need this to be complete.
"""

import ipaddress
import re
import socket
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

import idna

HIERARCHICAL_SCHEMES = {"http": "80", "https": "443", "ftp": "21"}
"""Schemes whose addresses name a host, with their default ports. Others (file:, urn:) are taken as they are."""

VISITOR_PARAMETERS = (
    r"utm_.*|hsa_.*|pk_.*|mtm_.*|piwik_.*|matomo_.*|_hs.*|__hs.*|at_(?:medium|campaign|custom\d*)|ns_(?:campaign|fee|linkname|mchannel|source)|"
    r"fbclid|fb_(?:action_ids|action_types|source|ref)|gclid|gclsrc|dclid|gbraid|wbraid|msclkid|yclid|twclid|ttclid|li_fat_id|igshid|igsh|"
    r"mc_[ce]id|mkt_tok|_ga|_gl|_openstat|oly_(?:anon|enc)_id|vero_(?:conv|id)|wickedid|rb_clickid|s_cid|srsltid|epik|zanpid|wt_mc|"
    r"ml_subscriber(?:_hash)?|hsctatracking|__twitter_impression|guccounter|guce_referrer(?:_sig)?|"
    r"phpsessid|jsessionid|aspsessionid.*"
)
"""Query parameters, in lower case, that say where a visitor came from or who it is, and never which page is meant."""

_VISITOR = re.compile(VISITOR_PARAMETERS)
_PARTS = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.\-]*):)?([^?#]*)(?:\?([^#]*))?", re.DOTALL)
_AUTHORITY = re.compile(r"([^/]*)(.*)", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_PATH_TO_MEND = re.compile(r"%[0-9A-Fa-f]{2}|[^A-Za-z0-9\-._~!$&'()*+,;=:@/]")
_QUERY_TO_MEND = re.compile(r"%[0-9A-Fa-f]{2}|[^A-Za-z0-9\-._~!$&'()*+,;=:@/?]")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SESSION_IN_PATH = re.compile(r";jsessionid=[^/;]*", re.IGNORECASE)
_TAB_OR_NEWLINE = re.compile(r"[\t\r\n]")
_CONTROLS_AND_SPACE = "".join(map(chr, range(33)))


class Url(NamedTuple):
    """An address in its canonical parts. `host` is lower-case ASCII, "" where the scheme has none; `port` "" is the default."""

    scheme: str
    host: str
    port: str
    path: str
    query: str

    @property
    def text(self) -> str:
        """The canonical form."""
        query = f"?{self.query}" if self.query else ""
        if self.scheme not in HIERARCHICAL_SCHEMES:
            return f"{self.scheme}:{self.path}{query}"
        return f"{self.scheme}://{self.host}{':' if self.port else ''}{self.port}{self.path}{query}"

    @property
    def page(self) -> str:
        """Host and path as they are compared: no scheme, no `www.`, no slash at the end."""
        if self.scheme not in HIERARCHICAL_SCHEMES:
            return f"{self.scheme}:{self.path}"
        return f"{bare_host(self.host)}{':' if self.port else ''}{self.port}{self.path.rstrip('/')}"

    @property
    def key(self) -> str:
        """Equal for addresses of one page, whatever their scheme, `www.`, last slash and order of parameters."""
        if not self.query:
            return self.page
        # By name alone, and stably: a=1&a=2 and a=2&a=1 may be two pages.
        return f"{self.page}?{'&'.join(sorted(self.query.split('&'), key=lambda pair: pair.partition('=')[0]))}"


def canonical_url(text: str) -> str | None:
    """The canonical form of an address, or None if it is none.

    >>> canonical_url("HTTP://www.Example.com:80/%7Euser/a/../b%2fc?utm_source=x&q=caf\\u00e9#top")
    'http://www.example.com/~user/b%2Fc?q=caf%C3%A9'
    """
    url = parse_url(text)
    return None if url is None else url.text


def parse_url(text: str, *, ignored_parameters: frozenset[str] = frozenset()) -> Url | None:
    """The parts of an address in canonical form; None if it names no host that could exist.

    As browsers do, it forgives white space around it, backslashes and a wrong number of slashes. Without a scheme,
    "host.tld/path" is read as http. `ignored_parameters` (lower case) are dropped beside those in VISITOR_PARAMETERS.
    """
    text = text.strip(_CONTROLS_AND_SPACE)
    if not text.isprintable():
        text = _TAB_OR_NEWLINE.sub("", text)
    parts = _PARTS.match(text)
    assert parts is not None, "every group may be empty"
    scheme, rest, query = (parts[1] or "").lower(), parts[2], parts[3] or ""
    if not scheme or "." in scheme:  # "example.com:8080/x" has no scheme
        scheme, rest = "", text[: parts.end(2)]
    elif scheme not in HIERARCHICAL_SCHEMES:
        return Url(scheme, "", "", _mend(rest, _PATH_TO_MEND), _mend(query, _QUERY_TO_MEND)) if rest else None
    if "\\" in rest:
        rest = rest.replace("\\", "/")
    authority = _AUTHORITY.match(rest.lstrip("/"))
    assert authority is not None, "every group may be empty"
    place = _HOST_AND_PORT.fullmatch(authority[1].rpartition("@")[2])
    host = _canonical_host(place[1]) if place else None
    if place is None or host is None or (not scheme and "." not in host):
        return None
    scheme = scheme or "http"
    port = (place[2] or "").lstrip("0")
    if port and int(port[:6]) > 65535:
        return None
    return Url(
        scheme,
        host,
        "" if port == HIERARCHICAL_SCHEMES[scheme] else port,
        _canonical_path(authority[2]),
        _canonical_query(query, ignored_parameters) if query else "",
    )


def bare_host(host: str) -> str:
    """A host without `www.`, where something is left of it.

    >>> bare_host("www.example.com"), bare_host("www.com")
    ('example.com', 'www.com')
    """
    return host[4:] if host.startswith("www.") and "." in host[4:] else host


@lru_cache(maxsize=65536)
def _canonical_host(host: str) -> str | None:
    if "%" in host:
        host = _ENCODED.sub(lambda match: chr(int(match[1], 16)), host)
    if not host.isascii():
        try:
            # As browsers: UTS 46 without the transitional mapping of IDNA 2003, which makes one domain of two.
            host = idna.encode(host, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return None
    host = host.lower().removesuffix(".")
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            return None
    if len(host) > 253 or not _NAME.fullmatch(host):
        return None
    last = host.rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):
        try:
            return socket.inet_ntoa(socket.inet_aton(host))  # 0x7f.1 and 2130706433 are 127.0.0.1 to a browser
        except OSError:
            return None
    return host


def _canonical_path(path: str) -> str:
    path = _mend(path, _PATH_TO_MEND)
    if ";" in path:
        path = _SESSION_IN_PATH.sub("", path)
    return _remove_dot_segments(path) if "/." in path else path or "/"


def _remove_dot_segments(path: str) -> str:
    # RFC 3986 §5.2.4, for paths that start with a slash.
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _canonical_query(query: str, ignored: frozenset[str]) -> str:
    kept = []
    for pair in query.split("&"):
        name = pair.partition("=")[0].lower()
        if pair and name not in ignored and not _VISITOR.fullmatch(name):
            kept.append(pair)
    return _mend("&".join(kept), _QUERY_TO_MEND)


def _mend(text: str, to_mend: re.Pattern[str]) -> str:
    return to_mend.sub(_mend_one, text)


def _mend_one(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) == 1:
        return quote(found, safe="", errors="replace")
    character = chr(int(found[1:], 16))
    return character if character in _UNRESERVED else found.upper()
