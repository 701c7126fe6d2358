"""The local HTTP server: reads snapshots from the board, puts requests on it, and touches nothing else of the loop."""

from __future__ import annotations

import hmac
import http.client
import ipaddress
import json
import logging
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edge.errors import ConfigError, SourceError
from edge.records import REVIEWS
from edge.status.board import Board, NewExamRequest, Request, ReviewRequest
from edge.status.pool import PooledServer
from edge.status.rate import REQUESTS, WRONG_TOKENS, Rate
from edge.status.render import to_health, to_jpeg, to_json, to_prometheus

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")
FILES = {  # what of it a browser may ask for
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
TOKEN_MIN = 16  # characters; shorter could be tried out over a network
BODY_MAX = 4096  # bytes; the longest request is a name and a word
CLIENT_TIMEOUT_S = 5.0  # seconds a client may take to say what it wants before its thread is freed
NAME_MAX = 100  # characters of a reviewer's name
COOKIE = "hygroma_token"

# The page loads nothing from elsewhere, and a scanner's words on it are never markup.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'self';"
    " script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
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
            "files": {path: (kind, (PAGE / name).read_bytes()) for path, (name, kind) in FILES.items()},
        })  # fmt: skip
        try:
            self._server = PooledServer((host, port), handler)
        except OSError as error:
            raise SourceError(
                f"status: cannot listen on {host} port {port} ({error.strerror}); set status.port to a free one, or 0"
            ) from error
        self.port: int = self._server.server_address[1]
        self.url = f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    def __enter__(self) -> StatusServer:
        self._server.start()
        log.info("status page on %s", self.url)
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.stop()


class _Handler(BaseHTTPRequestHandler):
    board: Board
    token: str
    loopback: bool
    evidence: Evidence
    clip: Evidence
    clock_ns: Callable[[], int]
    files: dict[str, tuple[str, bytes]]
    requests: Rate
    wrong_tokens: Rate

    timeout = CLIENT_TIMEOUT_S
    server_version = "hygroma"
    sys_version = ""

    def do_GET(self) -> None:
        path = self._admitted()
        if path is None:
            return
        snapshot, now_ns = self.board.latest(), self.clock_ns()
        if path in self.files:
            self._answer(200, *self.files[path])
        elif path == "/snapshot.json":
            self._json(200, to_json(snapshot, now_ns))
        elif path == "/metrics":
            self._answer(200, "text/plain; version=0.0.4; charset=utf-8", to_prometheus(snapshot, now_ns).encode())
        elif path == "/healthz":
            health = to_health(snapshot, now_ns)
            self._json(200 if health["ready"] else 503, health)
        elif path == "/live.jpg":
            self._picture("image/jpeg", to_jpeg(snapshot))
        elif (event_id := _number_after(path, "/events/", ".png")) is not None:
            self._picture("image/png", self.evidence(event_id))
        elif (event_id := _number_after(path, "/events/", ".webp")) is not None:
            self._picture("image/webp", self.clip(event_id))
        else:
            self._json(404, {"error": f"there is no {path}"})

    def do_POST(self) -> None:
        path = self._admitted()
        if path is None:
            return
        # A browser says from which page a POST comes: only from this one is it the operator's.
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != self.headers.get("Host"):
            self._json(403, {"error": "requests from other pages are refused"})
            return
        request = self._request(path)
        if request is None:
            return
        if self.board.ask(request):
            self._json(202, {"accepted": True})
        else:
            self._json(503, {"error": "the daemon is not taking requests; look at /healthz"})

    def _request(self, path: str) -> Request | None:
        """The request that a POST means; answers by itself, and gives None, when it means none."""
        body = self._body()
        if body is None:
            return None
        if path == "/new-exam":
            return NewExamRequest()
        event_id = _number_after(path, "/ack/")
        if event_id is None:
            self._json(404, {"error": f"there is no {path}"})
            return None
        review, by = body.get("review", "confirmed"), body.get("by", "operator")
        if review not in REVIEWS:
            self._json(400, {"error": f"review must be one of {', '.join(REVIEWS)}"})
        elif not isinstance(by, str) or not by.isprintable() or not 0 < len(by) <= NAME_MAX:
            self._json(400, {"error": f"by must be a name of at most {NAME_MAX} characters"})
        else:
            return ReviewRequest(event_id, review, by)
        return None

    def _body(self) -> dict[str, Any] | None:
        """The JSON object sent along, {} when nothing was; answers by itself, and gives None, when it is something
        else."""
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 <= length <= BODY_MAX:
                raise ValueError
            body = json.loads(self.rfile.read(length) or b"{}")
            if not isinstance(body, dict):
                raise ValueError
        except (ValueError, RecursionError):
            self._json(400, {"error": f"the body must be a JSON object of at most {BODY_MAX} bytes"})
            return None
        return body

    def _admitted(self) -> str | None:
        """The path, when this client may have an answer; otherwise answers by itself and gives None."""
        try:
            url = urlsplit(self.path)
        except ValueError:  # such as //[
            self._json(400, {"error": "the path is no URL"})
            return None
        client = self.client_address[0]
        if not self.requests.allows(client) or (self.token and not self.wrong_tokens.allows(client, 0)):
            self._json(429, {"error": "too many requests; wait a little"})
            return None
        if self.loopback and not _is_local(self.headers.get("Host", "")):
            # A page elsewhere whose name was made to point here (DNS rebinding) still sends its own name.
            self._json(403, {"error": "this page is served on loopback only; use http://127.0.0.1"})
            return None
        if self.token:
            given = parse_qs(url.query).get("token", [""])[0]
            if given and self._is_token(given) and self.command == "GET":
                cookie = f"{COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/"
                self._answer(303, "text/plain", b"", {"Location": url.path, "Set-Cookie": cookie})
                return None
            if not self._is_token(self._sent_token()):
                if given or self._sent_token():
                    self.wrong_tokens.allows(client)
                self._json(401, {"error": "a token is needed: open /?token=TOKEN, or send Authorization: Bearer TOKEN"})
                return None
        return url.path

    def _sent_token(self) -> str:
        scheme, _, bearer = self.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer":
            return bearer
        for part in self.headers.get("Cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE:
                return value
        return ""

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _picture(self, kind: str, data: bytes | None) -> None:
        if data is None:
            self._json(404, {"error": "there is no such picture"})
        else:
            self._answer(200, kind, data)

    def _json(self, code: int, content: dict[str, Any]) -> None:
        self._answer(code, "application/json", (json.dumps(content) + "\n").encode())

    def _answer(self, code: int, kind: str, body: bytes, extra: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {**SECURITY_HEADERS, **(extra or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: request lines can hold a token, and a page refreshes twice a second."""


def _is_local(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _number_after(path: str, prefix: str, suffix: str = "") -> int | None:
    """ "/ack/12" -> 12; None for anything else, numbers beyond SQLite's included."""
    digits = path.removeprefix(prefix).removesuffix(suffix)
    exact = path == prefix + digits + suffix and digits.isascii() and digits.isdigit() and len(digits) <= 18
    return int(digits) if exact else None
