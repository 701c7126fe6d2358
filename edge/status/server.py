"""The local HTTP server: reads snapshots from the board, puts requests on it, and touches nothing else of the loop."""

from __future__ import annotations

import hmac
import http.client
import io
import ipaddress
import json
import logging
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

from edge.errors import ConfigError, InputError, SourceError
from edge.schema import Decoder
from edge.status.board import Board, NewExamRequest, Request, ReviewRequest, SameExamRequest
from edge.status.openapi import describe
from edge.status.pool import REQUEST_MAX, PooledServer
from edge.status.rate import ALL_WRONG_TOKENS, REQUESTS, WRONG_TOKENS, Known, Rate, client_of
from edge.status.render import to_health, to_jpeg, to_json, to_prometheus
from edge.status.routes import COOKIE, CSS, HTML, JPEG, JS, JSON, METRICS, PNG, TEXT, WEBP, Route, find

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")
TOKEN_MIN = 16  # characters; shorter could be tried out over a network
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # what fits into a header, a cookie and a link (RFC 6750)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")
BODY_MAX = 4096  # bytes; the longest request is a name and a word
HEALTH_MAX = 2**16  # bytes that are read of another's health
LENGTH_DIGITS = 12  # of Content-Length; more is no length
CLIENT_TIMEOUT_S = 5.0  # seconds a client may take to say what it wants before its thread is freed
LINGER_S, LINGER_BYTES = 1.0, 2**18  # what is still heard of a request that was refused before its end

# The page loads nothing from elsewhere, and a scanner's words on it are never markup.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'self';"
    " script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",  # no other page shows our pictures
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

# A picture for one event: (event id) -> PNG, or WebP of its clip, or None. Called on the server's threads.
Evidence = Callable[[int], bytes | None]


def read_token(path: str) -> str:
    """The token in a file, or "" for no file. ConfigError when it cannot be read or is too short; never shows it."""
    if not path:
        return ""
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"status.token_file: {path}: cannot be read as text ({error})") from error
    if len(token) < TOKEN_MIN:
        raise ConfigError(f"status.token_file: {path}: holds {len(token)} characters, must be at least {TOKEN_MIN}")
    if not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"status.token_file: {path}: holds a character that a token cannot have; use letters, digits and -._~+/, for"
            " example of `openssl rand -base64 24`"
        )
    return token


def check_host(host: str, token: str) -> bool:
    """Whether an address is this machine's alone. ConfigError: not an address, or beyond loopback without a token."""
    try:
        loopback = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback
    except ValueError as error:
        raise ConfigError(f"status.host: found {host!r}, must be an IP address such as 127.0.0.1") from error
    if not loopback and len(token) < TOKEN_MIN:
        raise ConfigError(
            f"status.host: {host} can be reached from other machines and wants a token of at least {TOKEN_MIN}"
            " characters; name its file in status.token_file, or bind to 127.0.0.1"
        )
    return loopback


def port_problem(host: str, port: int) -> str:
    """Why nothing can listen there just now, "" when something can."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: a port just left is free
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def is_hygroma(host: str, port: int) -> bool:
    """Whether it is a hygroma that answers there; one that wants a token says so by its refusal."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(here, port, timeout=CLIENT_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        return (connection.getresponse().getheader("Server") or "").split()[:1] == [_Handler.server_version]
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def running_problems(host: str, port: int) -> list[str]:
    """What the hygroma that watches there says is wrong; nothing when it only starts, wants a token, or cannot be understood."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(here, port, timeout=CLIENT_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        health = json.loads(connection.getresponse().read(HEALTH_MAX))
        return [str(problem) for problem in health["problems"]] if health["ready"] else []
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return []
    finally:
        connection.close()


class StatusServer:
    """Serves on enter, on threads of its own; stops on exit. `url` is where a browser finds it."""

    def __init__(
        self,
        board: Board,
        host: str = "127.0.0.1",
        port: int = 8600,
        token: str = "",
        evidence: Evidence = lambda event_id: None,
        clip: Evidence = lambda event_id: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """ConfigError as `check_host`. SourceError: the port is taken."""
        loopback = check_host(host, token)
        handler = type("Handler", (_Handler,), {
            "board": board, "token": token, "loopback": loopback, "evidence": staticmethod(evidence),
            "clip": staticmethod(clip),
            "clock_ns": staticmethod(clock_ns), "requests": Rate(REQUESTS), "wrong_tokens": Rate(WRONG_TOKENS),
            "all_wrong": Rate(ALL_WRONG_TOKENS), "known": Known(),
            "files": {name: (PAGE / name).read_bytes() for name in ("index.html", "token.html", "page.css", "page.js")},
        })  # fmt: skip
        try:
            self._server = PooledServer((host, port), handler, handler.known)  # type: ignore[attr-defined]
        except OSError as error:
            raise SourceError(
                f"status: cannot listen on {host} port {port} ({error.strerror}); set status.port to a free one, or 0"
            ) from error
        self.port: int = self._server.server_address[1]
        handler.cookie = f"{COOKIE}_{self.port}"  # type: ignore[attr-defined]
        handler.api = describe(bool(token), handler.cookie)  # type: ignore[attr-defined]
        self.url = f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    def __enter__(self) -> StatusServer:
        self._server.start()
        log.info("status page on %s", self.url)
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.stop()


@dataclass(frozen=True)
class _Reply:
    code: int
    kind: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)  # beyond SECURITY_HEADERS


class _Body(Decoder):
    whole = "all that was sent"


class _Refused(Exception):
    """Ends a request with this reply."""

    def __init__(self, reply: _Reply) -> None:
        self.reply = reply


class _Handler(BaseHTTPRequestHandler):
    board: Board
    token: str
    loopback: bool
    evidence: Evidence
    clip: Evidence
    clock_ns: Callable[[], int]
    files: dict[str, bytes]
    api: dict[str, Any]
    requests: Rate
    wrong_tokens: Rate
    all_wrong: Rate
    known: Known
    cookie: str

    timeout = CLIENT_TIMEOUT_S
    server_version = "hygroma"
    sys_version = ""
    _unheard = True  # whether the client may have sent something that was not read

    def setup(self) -> None:
        """What is here is all that is read: a request that claims more of itself must not keep a thread waiting (see pool.py)."""
        super().setup()
        with suppress(BlockingIOError):
            self.rfile = io.BytesIO(self.connection.recv(REQUEST_MAX, socket.MSG_DONTWAIT))

    def _handle(self) -> None:
        try:
            route, number, body = self._admit()
            reply = self._work(route, number, body)
        except _Refused as refused:
            reply = refused.reply
        self._send(reply)

    do_GET = do_HEAD = do_POST = _handle  # http.server looks for these; other methods end in `send_error`

    # -- who may have an answer

    def _admit(self) -> tuple[Route, int, Any]:
        """The route asked for, the number in its path, and what was sent along."""
        client = client_of(self.client_address[0])
        if self.request_version == "HTTP/0.9":
            _refuse(400, "the request names no version of HTTP; 1.0 or 1.1 is wanted")
        data = self._data()  # all of it is here already: see pool.py
        if self._is_of_another_site():  # before anything is counted: a page elsewhere must not use up the operator's share
            _refuse(403, "requests from other pages are refused")
        if not self.requests.allows(client):
            _refuse(429, "too many requests; wait a little", {"Retry-After": "1"})
        if self.token and not self.wrong_tokens.allows(client, 0):
            _refuse(429, "too many wrong tokens; wait a little", {"Retry-After": "10"})
        if self.token and not self.known.knows(client) and not self.all_wrong.allows("", 0):
            _refuse(429, "too many wrong tokens from all addresses; wait a little", {"Retry-After": "10"})
        try:
            url = urlsplit(self.path)
        except ValueError:  # such as //[
            _refuse(400, "the path is no URL")
        hosts = self.headers.get_all("Host", [])
        if len(hosts) > 1:
            _refuse(400, "Host is given more than once")
        if self.loopback and not _is_local(*hosts):
            # A page elsewhere whose name was made to point here (DNS rebinding) still sends its own name.
            _refuse(403, "this page is served on loopback only; use http://127.0.0.1")
        routes, number = find(url.path)
        route = routes.get("GET" if self.command == "HEAD" else self.command)
        if self.token:
            self._check_token(client, url.query, url.path if routes else "/", route)
        if not routes:
            _refuse(404, f"there is no {url.path}")
        if route is None:
            allowed = ", ".join(sorted({*routes, *(["HEAD"] if "GET" in routes else [])}))
            _refuse(405, f"{url.path} answers to {allowed}", {"Allow": allowed})
        return route, number, self._decoded(route, data) if route.body else None

    def _is_of_another_site(self) -> bool:
        """Whether a page of another origin sends this, by what a browser says of it. A link there that somebody follows does not
        count, unless it brings a token. What is typed, or opened from outside a browser, comes from no page."""
        followed = self.command in ("GET", "HEAD") and "?" not in self.path  # a token may be written in many ways
        site = self.headers.get("Sec-Fetch-Site")
        if site is not None:
            followed = followed and self.headers.get("Sec-Fetch-Dest") == "document"
            return site not in ("same-origin", "none") and not followed
        for name in ("Origin", "Referer"):  # of browsers from before 2023
            page = self.headers.get(name, "")
            if page and page.partition("://")[2].partition("/")[0] != self.headers.get("Host"):
                return name == "Origin" or not (followed and self.path == "/")
        return False

    def _check_token(self, client: str, query: str, path: str, route: Route | None) -> None:
        # "+" is itself here, as base64 has it: no token holds a space.
        given = parse_qs(query.replace("+", "%2B")).get("token", [""])[0]
        if given and self._is_token(given) and self.command in ("GET", "HEAD"):
            self.known.see(client)
            cookie = f"{self.cookie}={given}; HttpOnly; SameSite=Strict; Path=/"
            raise _Refused(_Reply(303, TEXT, b"", {"Location": path, "Set-Cookie": cookie}))
        sent = self._sent_token()
        if not self._is_token(sent):
            if given or sent:
                self.wrong_tokens.allows(client)
                self.all_wrong.allows("")
            asked = {"WWW-Authenticate": "Bearer"}
            if route is not None and route.for_people:
                raise _Refused(_Reply(401, HTML, self.files["token.html"], asked))
            _refuse(401, "a token is needed: open /?token=TOKEN, or send Authorization: Bearer TOKEN", asked)
        self.known.see(client)

    def _sent_token(self) -> str:
        scheme, _, bearer = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return bearer.strip()
        for part in self.headers.get("Cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.cookie:
                return value
        return ""

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _data(self) -> bytes:
        """What was sent along, whatever it is; nothing is left unread of a request that ends here."""
        if "Transfer-Encoding" in self.headers:
            _refuse(411, "the body's length must be told: send Content-Length, and no Transfer-Encoding")
        lengths = self.headers.get_all("Content-Length", ["0"])
        digits = lengths[0].strip()
        if len(lengths) > 1 or not (digits.isascii() and digits.isdigit() and len(digits) <= LENGTH_DIGITS):
            _refuse(400, "Content-Length is no length")
        if int(digits) > BODY_MAX:
            _refuse(413, f"the body must be at most {BODY_MAX} bytes")
        data = self.rfile.read(int(digits))
        if len(data) < int(digits):
            _refuse(400, "the body ends before its end")
        self._unheard = False
        return data

    def _decoded(self, route: Route, data: bytes) -> Any:
        kind = self.headers.get("Content-Type", JSON)
        if data and kind.partition(";")[0].strip().lower() != JSON:
            _refuse(415, f"the body must be {JSON}; found {kind[:80]!r} in Content-Type")
        decoder = _Body("body", InputError)
        assert route.body is not None
        try:
            return decoder.dataclass(route.body, decoder.parse(data or b"{}", "send one JSON object, or nothing"))
        except InputError as error:
            _refuse(400, str(error))

    # -- what is answered

    def _work(self, route: Route, number: int, body: Any) -> _Reply:
        try:
            return _ANSWERS[route.name](self, number, body)
        except Exception:
            log.exception("status page: %s failed", route.name)
            return _json(500, {"error": "a fault of the daemon's; its log tells more"})

    def _ask(self, request: Request) -> _Reply:
        if to_health(self.board.latest(), self.clock_ns())["live"] and self.board.ask(request):
            return _json(202, {"accepted": True})
        return _json(503, {"error": "the daemon is not taking requests; look at /healthz"})

    def _snapshot(self) -> _Reply:
        return _json(200, to_json(self.board.latest(), self.clock_ns()))

    def _health(self) -> _Reply:
        health = to_health(self.board.latest(), self.clock_ns())
        return _json(200 if health["ready"] else 503, health)

    def _metrics(self) -> _Reply:
        return _Reply(200, METRICS, to_prometheus(self.board.latest(), self.clock_ns()).encode())

    def _send(self, reply: _Reply) -> None:
        self.request_version = self.protocol_version  # to HTTP/0.9 no headers would be sent
        self.send_response(reply.code)
        for name, value in {**SECURITY_HEADERS, **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """http.server's own refusals, of what it cannot parse and of methods that it finds nothing for."""
        self.close_connection = True
        if code == 501:
            return self._handle()  # every path says itself which it has
        self._send(_json(code, {"error": message or self.responses[code][0]}))

    def finish(self) -> None:
        """Who is cut off while still sending never sees the answer, as TCP then takes it back: it is heard, for a little."""
        super().finish()
        if self._unheard:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)
                self.connection.settimeout(LINGER_S)
                left = LINGER_BYTES
                while left > 0 and (data := self.connection.recv(left)):
                    left -= len(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: request lines can hold a token, and a page refreshes twice a second."""


# By Route.name: (handler, the number in the path, the body) -> what is answered.
_ANSWERS: dict[str, Callable[[_Handler, int, Any], _Reply]] = {
    "page": lambda handler, *_: _Reply(200, HTML, handler.files["index.html"]),
    "style": lambda handler, *_: _Reply(200, CSS, handler.files["page.css"]),
    "script": lambda handler, *_: _Reply(200, JS, handler.files["page.js"]),
    "snapshot": lambda handler, *_: handler._snapshot(),
    "health": lambda handler, *_: handler._health(),
    "metrics": lambda handler, *_: handler._metrics(),
    "live": lambda handler, *_: _picture(JPEG, to_jpeg(handler.board.latest())),
    "evidence": lambda handler, number, _: _picture(PNG, handler.evidence(number)),
    "clip": lambda handler, number, _: _picture(WEBP, handler.clip(number)),
    "description": lambda handler, *_: _json(200, handler.api),
    "new_exam": lambda handler, *_: handler._ask(NewExamRequest()),
    "same_exam": lambda handler, *_: handler._ask(SameExamRequest()),
    "review": lambda handler, number, said: handler._ask(ReviewRequest(number, said.review, said.by)),
}


def _refuse(code: int, words: str, headers: dict[str, str] | None = None) -> NoReturn:
    raise _Refused(_json(code, {"error": words}, headers))


def _json(code: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> _Reply:
    return _Reply(code, JSON, (json.dumps(content, allow_nan=False) + "\n").encode(), headers or {})


def _picture(kind: str, data: bytes | None) -> _Reply:
    if data is None:
        return _json(404, {"error": "there is no such picture"})
    return _Reply(200, kind, data)


def _is_local(host: str = "") -> bool:
    match = _HOST.fullmatch(host)
    name = (match[1] or match[2]) if match else ""
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
