"""The page's endpoints, and who may have them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.capture import FeedStats
from edge.errors import ConfigError, SourceError
from edge.metrics import LatencySummary
from edge.records import Event, Signal, Verdict
from edge.screen.view import View
from edge.status import Board, ExamRow, Snapshot, StatusServer, read_token
from edge.status.board import REQUESTS_MAX, NewExamRequest, ReviewRequest
from edge.status.openapi import describe
from edge.status.render import STATES, to_prometheus, to_state
from edge.status.routes import ROUTES
from edge.status.server import _ANSWERS, SECURITY_HEADERS

TOKEN = "correct-horse-battery"
VERDICT = Verdict(7, 0, 2, Signal.OK, True, (), 0.9, 0.8, 0.1, 3.0, 6.0, False, False)
EVENT = Event(1, 1, "file:x", 3, "2026-11-23T10:00:00Z", 40.0, 0.9, 6.5, "student 0.1.0", "evidence/x.png", "00")


def snapshot(**changes: object) -> Snapshot:
    now = time.monotonic_ns()
    shown = Snapshot(
        t_mono_ns=now,
        source="file:x",
        bundle="student 0.1.0",
        engine="fake",
        ready=True,
        verdict=VERDICT,
        frame_t_mono_ns=now,
        degraded=(),
        frames_by_signal={"OK": 8},
        duplicates=1,
        errors={"store": 2},
        feed=FeedStats(read=9, dropped=1),
        latencies={"infer": LatencySummary(8, 5.0, 6.0, 7.0, 8.0, 40.0)},
        exams=(ExamRow(2, "2026-11-23T10:00:00Z", 5, False, 0.8),),
        events=(EVENT,),
        history=((1.0, 3.0, 0.8),),
        view=View(np.full((16, 16), 90, np.uint8), ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))),
        nuchal_map=np.zeros((2, 2), np.float32),
    )
    return replace(shown, **changes)  # type: ignore[arg-type]


@pytest.fixture
def board() -> Board:
    board = Board()
    board.publish(snapshot())
    return board


@pytest.fixture
def page(board: Board) -> Iterator[StatusServer]:
    with StatusServer(board, port=0, evidence=lambda event_id: b"png" if event_id == 1 else None) as server:
        yield server


def ask(
    server: StatusServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    request = urllib.request.Request(server.url.rstrip("/") + path, body, headers, method=method)
    opener = urllib.request.build_opener(NoRedirect)
    try:
        with opener.open(request, timeout=5) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


def test_the_page_loads_nothing_from_elsewhere(page: StatusServer) -> None:
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, body, headers = ask(page, path)
        assert status == 200 and len(body) > 1000 and headers["Content-Type"].startswith(kind)
        found = set(re.findall(rb"(?:https?:)?//[a-z0-9]+\.[a-z.]+[^\"]*", body))
        assert found <= {b"http://www.w3.org/2000/svg"}, "the page names another machine"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["Content-Security-Policy"]


def test_snapshot_json(page: StatusServer) -> None:
    shown = json.loads(ask(page, "/snapshot.json")[1])
    assert (shown["state"], shown["words"]) == ("assessing", "ASSESSING")
    assert shown["verdict"]["signal"] == "OK" and shown["verdict"]["evidence"] == 3.0
    assert shown["events"][0]["id"] == 1 and shown["exams"][0]["exam_id"] == 2
    assert shown["outline"] == [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    assert shown["feed"]["dropped"] == 1 and shown["latency_ms"]["infer"]["p95"] == 6.0


def test_pictures(page: StatusServer, board: Board) -> None:
    status, body, headers = ask(page, "/live.jpg")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None and picture.mean() == pytest.approx(90, abs=1)
    assert ask(page, "/events/1.png")[:2] == (200, b"png")
    assert ask(page, "/events/2.png")[0] == ask(page, "/events/../1.png")[0] == 404
    board.publish(snapshot(view=None))
    assert ask(page, "/live.jpg")[0] == 404


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "assessing"),
        ({"verdict": None}, "waiting"),
        ({"verdict": replace(VERDICT, signal=Signal.NO_SIGNAL, assessable=False)}, "no-signal"),
        ({"verdict": replace(VERDICT, assessable=False, reasons=("menu",))}, "not-assessing"),
        ({"verdict": replace(VERDICT, flagged=True, assessable=False)}, "flagged"),
        ({"t_mono_ns": 0}, "stopped"),
    ],
)
def test_states(changes: dict, state: str) -> None:
    assert to_state(snapshot(**changes), time.monotonic_ns())[0] == state in STATES


def test_the_description_is_of_what_is_answered(page: StatusServer) -> None:
    assert json.loads(ask(page, "/openapi.json")[1]) == describe(False, f"hygroma_token_{page.port}")
    assert {route.name for route in ROUTES} == set(_ANSWERS) and len(ROUTES) == len(_ANSWERS)
    assert "401" in describe(True, "c")["paths"]["/"]["get"]["responses"]
    named = {answer.schema for route in ROUTES for answer in route.answers} - {""}
    assert named <= set(describe(True, "c")["components"]["schemas"])


def test_health(page: StatusServer, board: Board) -> None:
    status, body, _ = ask(page, "/healthz")
    health = json.loads(body)
    assert (status, health["live"], health["ready"], health["degraded"]) == (200, True, True, False)
    assert 0 <= health["frame_age_s"] < 5
    board.publish(snapshot(degraded=("the disk is full",)))
    status, body, _ = ask(page, "/healthz")
    assert status == 200 and json.loads(body)["problems"] == ["the disk is full"]
    board.publish(snapshot(t_mono_ns=0))
    status, body, _ = ask(page, "/healthz")
    assert status == 503 and not json.loads(body)["live"]


def test_before_the_first_snapshot() -> None:
    with StatusServer(Board(), port=0) as page:
        assert ask(page, "/healthz")[0] == 503
        assert json.loads(ask(page, "/snapshot.json")[1])["state"] == "stopped"
        assert b"hygroma_up 0" in ask(page, "/metrics")[1]
        assert ask(page, "/live.jpg")[0] == 404


def test_metrics_are_what_they_should_be(page: StatusServer) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    text = ask(page, "/metrics")[1].decode()
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    assert all(name.startswith("hygroma_") and family.documentation for name, family in families.items())
    samples = {(s.name, *sorted(s.labels.items())): s.value for family in families.values() for s in family.samples}
    assert samples["hygroma_errors_total", ("stage", "store")] == 2
    assert samples["hygroma_frames_total", ("signal", "OK")] == 8
    assert to_prometheus(None, 0, Path("/nowhere")).count("# TYPE") == 2


def test_a_jetson_tells_its_temperatures_and_power_mode(jetson: Path) -> None:
    text = to_prometheus(None, 0, jetson)
    assert 'hygroma_temperature_celsius{zone="tj-thermal"} 61.5' in text
    assert 'hygroma_temperature_celsius{zone="odd_zone_"} 40' in text  # a name that would end the label
    assert "hygroma_power_mode 2" in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (apt install prometheus)")
def test_promtool_finds_nothing_to_say(page: StatusServer, jetson: Path) -> None:
    for text in (ask(page, "/metrics")[1], to_prometheus(None, 0).encode(), to_prometheus(None, 0, jetson).encode()):
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_buttons_become_requests(page: StatusServer, board: Board) -> None:
    assert ask(page, "/new-exam", "POST")[0] == 202
    assert ask(page, "/ack/1", "POST")[0] == 202
    assert ask(page, "/ack/2", "POST", b'{"review": "dismissed", "by": "nurse A"}')[0] == 202
    assert ask(page, "/ack/2", "POST", b'{"review": "open"}')[0] == 202
    assert board.requests() == [
        NewExamRequest(),
        ReviewRequest(1, "confirmed", "operator"),
        ReviewRequest(2, "dismissed", "nurse A"),
        ReviewRequest(2, "open", "operator"),
    ]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/ack/x", b"", 404),
        ("/ack/" + "9" * 30, b"", 404),
        ("/elsewhere", b"", 404),
        ("/ack/1", b"[1]", 400),
        ("/ack/1", b"{", 400),
        ("/ack/1", b" " * 5000, 413),
        ("/ack/1", b" " * 2**20, 413),
        ("/ack/1", b'{"review": "maybe"}', 400),
        ("/ack/1", b'{"by": "a\\nb"}', 400),
        ("/ack/1", b'{"by": 3}', 400),
        ("/ack/1", b'{"by": ""}', 400),
        ("/ack/1", b'{"by": "\\ud800"}', 400),
        ("/ack/1", b'{"reveiw": "dismissed"}', 400),  # else it would count as confirmed
        ("/ack/1", b'{"review": "dismissed", "review": "confirmed"}', 400),
        ("/ack/1", b"\xff", 400),
        ("/ack/1", b"[" * 4000, 400),
        ("/new-exam", b'{"patient": "x"}', 400),
    ],
)
@pytest.mark.requirement("S-05")
def test_wrong_requests_are_refused(page: StatusServer, board: Board, path: str, body: bytes, status: int) -> None:
    assert ask(page, path, "POST", body)[0] == status
    assert board.requests() == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "body: not valid JSON"),
        (b"\xff", "send one JSON object, or nothing"),
        (b"[1]", "body: all that was sent: found [1]; expected an object"),
        (b'{"review": "maybe"}', "body: review: found 'maybe'; expected one of: open, confirmed, dismissed"),
        (b'{"by": 3}', "body: by: found 3; expected a string"),
        (b'{"reveiw": 1}', "body: reveiw: found 1; unknown field; known here: review, by"),
        (b'{"by": "a", "by": "b"}', "body: by: found 'b'; the key is given twice"),
    ],
)
@pytest.mark.requirement("S-08")
def test_a_wrong_body_is_told_what_is_wrong_with_it(page: StatusServer, body: bytes, words: str) -> None:
    """It was told that the file is damaged, and to fetch the bundle again."""
    status, said, _ = ask(page, "/ack/1", "POST", body)
    error = json.loads(said)["error"]
    assert status == 400 and words in error and "bundle" not in error and "file" not in error


def test_a_loop_that_has_ended_takes_no_requests(page: StatusServer, board: Board) -> None:
    """`hygroma demo --serve` after its clip: a review was accepted, and never written."""
    board.publish(snapshot(t_mono_ns=time.monotonic_ns() - 10**10))
    assert ask(page, "/ack/1", "POST")[0] == 503 and ask(page, "/new-exam", "POST")[0] == 503
    assert board.requests() == []


def test_a_daemon_that_takes_no_requests_says_so(page: StatusServer) -> None:
    assert [ask(page, "/new-exam", "POST")[0] for _ in range(REQUESTS_MAX + 1)] == [202] * REQUESTS_MAX + [503]


@pytest.mark.requirement("S-05")
def test_other_pages_cannot_press_buttons_or_read(page: StatusServer, board: Board) -> None:
    assert ask(page, "/new-exam", "POST", Origin="http://evil.example")[0] == 403
    assert ask(page, "/snapshot.json", Host="evil.example")[0] == 403
    assert board.requests() == []
    assert ask(page, "/new-exam", "POST", Origin=page.url.rstrip("/"))[0] == 202
    assert ask(page, "/new-exam", "POST", b"{}", Content_Type="text/plain")[0] == 415  # what a form may send unasked
    assert ask(page, "/live.jpg")[2]["Cross-Origin-Resource-Policy"] == "same-origin"


def say(server: StatusServer, request: bytes) -> bytes:
    """What comes back for these very bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


LOCAL = b"Host: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: [\r\n\r\n", 403),
        (b"GET /healthz HTTP/1.1\r\nHost: [::1\r\n\r\n", 403),
        (b"GET /healthz HTTP/1.1\r\nHost: evil@127.0.0.1\r\n\r\n", 403),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n", 403),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 403),
        (b"GET /healthz HTTP/1.1\r\n" + LOCAL + b"Host: evil.example\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: [::1]:8600\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nHost: LocalHost:1\r\n\r\n", 200),
        (b"GET //[ HTTP/1.1\r\n" + LOCAL + b"\r\n", None),
        (b"POST /new-exam HTTP/1.1\r\n" + LOCAL + b"Origin: http://[\r\n\r\n", 403),
        (b"POST /new-exam HTTP/1.1\r\n" + LOCAL + b"Origin: null\r\n\r\n", 403),
        (b"POST /new-exam HTTP/1.1\r\n" + LOCAL + b"Origin: http://127.0.0.1:1\r\n\r\n", 403),
        (b"POST /ack/1 HTTP/1.1\r\n" + LOCAL + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /ack/1 HTTP/1.1\r\n" + LOCAL + b"Content-Length: +2\r\n\r\n{}", 400),
        (b"POST /ack/1 HTTP/1.1\r\n" + LOCAL + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}", 400),
        (b"POST /ack/1 HTTP/1.1\r\n" + LOCAL + b"Content-Length: 99\r\n\r\n{}", 400),
        (b"BREW / HTTP/1.1\r\n" + LOCAL + b"\r\n", 405),
        (b"GET / HTTP/3.0\r\n" + LOCAL + b"\r\n", 505),
        (b"GET /\r\n" + LOCAL + b"\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),  # a browser that wants TLS
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: 1\r\n" % i for i in range(200)) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    ],
)  # fmt: skip
@pytest.mark.requirement("S-05", "S-08")
def test_every_answer_is_ours(page: StatusServer, board: Board, request_: bytes, code: int | None) -> None:
    head, _, body = say(page, request_).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 " + (str(code).encode() if code else b"4")), head
    for name, value in SECURITY_HEADERS.items():
        assert f"\r\n{name}: {value}".encode() in head
    assert b"\r\nContent-Type: application/json" in head and json.loads(body)
    assert board.requests() == []


@pytest.mark.requirement("S-05")
def test_a_method_that_a_path_does_not_have_is_told_which_it_has(page: StatusServer, board: Board) -> None:
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "POST"):
        assert (ask(page, "/healthz", method)[0], ask(page, "/healthz", method)[2]["Allow"]) == (405, "GET, HEAD")
        assert ask(page, "/elsewhere", method)[0] == 404
    for method in ("GET", "HEAD", "DELETE"):
        for path in ("/new-exam", "/ack/1"):
            assert (ask(page, path, method)[0], ask(page, path, method)[2]["Allow"]) == (405, "POST")
    assert board.requests() == []


def test_head_is_get_without_the_body(page: StatusServer) -> None:
    for path in ("/", "/healthz", "/live.jpg", "/events/1.png", "/events/2.png", "/elsewhere"):
        status, body, headers = ask(page, path, "HEAD")
        wanted, whole, there = ask(page, path)
        assert (status, body, headers["Content-Type"]) == (wanted, b"", there["Content-Type"])
        assert path == "/healthz" or int(headers["Content-Length"]) == len(whole)


def test_a_fault_of_ours_is_answered_and_told(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    def broken(event_id: int) -> bytes:
        raise RuntimeError("no such thing")

    with StatusServer(board, port=0, evidence=broken) as server:
        status, body, _ = ask(server, "/events/1.png")
        assert status == 500 and "log" in json.loads(body)["error"]
    assert "no such thing" in caplog.text


def test_a_token_is_asked_for_everything(board: Board) -> None:
    with StatusServer(board, port=0, token=TOKEN) as page:
        for path in ("/", "/snapshot.json", "/live.jpg", "/metrics", "/healthz"):
            assert ask(page, path)[0] == 401
        for method, kind in (("GET", "text/html"), ("HEAD", "text/html"), ("PUT", "application/json")):
            assert ask(page, "/", method)[2]["Content-Type"].startswith(kind)
        assert b"?token=TOKEN" in ask(page, "/")[1] and TOKEN.encode() not in ask(page, "/")[1]
        assert ask(page, "/new-exam", "POST")[0] == ask(page, "/new-exam?token=" + TOKEN, "POST")[0] == 401
        assert ask(page, "/healthz", Authorization="Bearer wrong")[0] == 401
        assert ask(page, "/healthz", Authorization="Bearer " + TOKEN)[0] == 200
        status, _, headers = ask(page, "/?token=" + TOKEN)
        assert (status, headers["Location"]) == (303, "/") and "HttpOnly" in headers["Set-Cookie"]
        assert ask(page, "/events/1.png?token=" + TOKEN)[2]["Location"] == "/events/1.png"
        for elsewhere in ("//evil.example", "///evil.example", "////evil.example", "/\\evil.example", "/%2f/evil.example"):
            assert ask(page, f"{elsewhere}?token={TOKEN}")[2]["Location"] == "/", elsewhere
        assert ask(page, "/", Cookie=headers["Set-Cookie"].split(";")[0])[0] == 200
        status, _, headers = ask(page, "/?token=wrong-wrong-wrong-wrong")
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")


def test_a_token_of_base64_works_in_a_link(board: Board) -> None:
    token = "ab+/cd+/ef+/gh+/=="
    with StatusServer(board, port=0, token=token) as page:
        status, _, headers = ask(page, "/?token=" + token)
        assert status == 303 and ask(page, "/healthz", Cookie=headers["Set-Cookie"].split(";")[0])[0] == 200


@pytest.mark.requirement("S-04")
def test_beyond_loopback_only_with_a_token(board: Board) -> None:
    with pytest.raises(ConfigError, match="status.host: 0.0.0.0 .*token"):
        StatusServer(board, host="0.0.0.0", port=0)
    with pytest.raises(ConfigError, match="must be an IP address"):
        StatusServer(board, host="scanner.local", port=0)
    with StatusServer(board, host="0.0.0.0", port=0, token=TOKEN) as page:
        assert ask(page, "/healthz", Authorization="Bearer " + TOKEN)[0] == 200


def test_a_taken_port_is_told(page: StatusServer, board: Board) -> None:
    with pytest.raises(SourceError, match=f"port {page.port}.*status.port"):
        StatusServer(board, port=page.port)


def test_read_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert read_token("") == ""
    path.write_text(TOKEN + "\n")
    assert read_token(str(path)) == TOKEN
    for odd in ("two words are too many", "a;b" * 9, '"quoted-and-long-enough"'):
        path.write_text(odd)
        with pytest.raises(ConfigError, match="a character that a token cannot have"):
            read_token(str(path))
    path.write_text("short")
    with pytest.raises(ConfigError, match="holds 5 characters, must be at least 16"):
        read_token(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(str(tmp_path / "none"))
