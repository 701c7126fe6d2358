"""The page among hostile neighbours: other instances, other sites in the operator's browser, guessers, and half-sent requests."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from edge.status import Board, StatusServer, pool, rate
from edge.status.pool import is_whole

TOKEN = "a-token-of-24-characters"
OPERATOR = "127.0.9.9"  # Linux answers for all of 127/8: each address is another client


def ask(server: StatusServer, path: str, client: str = OPERATOR, method: str = "GET", **headers: str) -> tuple[int, str]:
    """(status, headers) of one request; 0 for a connection that is closed unheard."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20, source_address=(client, 0)) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")
    except OSError:
        return 0, ""
    return (int(answer.split()[1]), answer.partition("\r\n\r\n")[0]) if answer else (0, "")


@pytest.fixture
def guarded() -> Iterator[StatusServer]:
    with StatusServer(Board(), port=0, token=TOKEN) as server:
        yield server


@pytest.mark.requirement("S-14")
def test_two_instances_on_one_box_keep_their_own_cookies() -> None:
    with StatusServer(Board(), port=0, token=TOKEN) as first, StatusServer(Board(), port=0, token=TOKEN[::-1]) as second:
        jar = {}
        for server, token in ((first, TOKEN), (second, TOKEN[::-1])):
            status, headers = ask(server, f"/?token={token}")
            cookie = next(line for line in headers.splitlines() if line.lower().startswith("set-cookie"))
            name, _, value = cookie.partition(": ")[2].partition(";")[0].partition("=")
            jar[name] = value
            assert status == 303
        assert len(jar) == 2  # a browser sends both to both
        sent = "; ".join(f"{name}={value}" for name, value in jar.items())
        for server in (first, second):
            assert [ask(server, "/metrics", Cookie=sent)[0] for _ in range(30)] == [200] * 30


CROSS = [
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
    {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"},  # another port of this host
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"},  # a window that it opens
    {"Referer": "http://evil.example/"},
    {"Origin": "http://evil.example"},
]


@pytest.mark.requirement("S-14")
@pytest.mark.parametrize("headers", CROSS)
def test_a_page_of_another_site_locks_nobody_out(guarded: StatusServer, headers: dict[str, str]) -> None:
    for path in ("/?token=x", "/?%74oken=x", "/?a=b&tok%65n=x"):
        assert {ask(guarded, path, **headers)[0] for _ in range(15)} == {403}
    assert ask(guarded, f"/?token={TOKEN}")[0] == 303
    assert ask(guarded, "/healthz", Authorization=f"Bearer {TOKEN}")[0] in (200, 503)


@pytest.mark.requirement("S-14")
def test_a_page_of_another_site_does_not_starve_the_default_page() -> None:
    with StatusServer(Board(), port=0) as server:
        flood = [ask(server, "/live.jpg", **CROSS[0])[0] for _ in range(round(rate.REQUESTS.burst) + 60)]
        assert set(flood) == {403} and ask(server, "/metrics")[0] == 200


def test_a_link_on_another_page_may_be_followed(guarded: StatusServer) -> None:
    assert ask(guarded, "/", **CROSS[3])[0] == 401  # the page that asks for the token
    for headers in ({}, {"Sec_Fetch_Site": "none", "Sec_Fetch_Dest": "document"}, {"Sec_Fetch_Site": "same-origin"}):
        assert ask(guarded, f"/?token={TOKEN}", **headers)[0] == 303


@pytest.mark.requirement("S-14")
def test_a_guesser_of_many_addresses_is_refused_and_who_is_known_is_not(guarded: StatusServer) -> None:
    assert ask(guarded, f"/?token={TOKEN}")[0] == 303  # the operator, this shift
    answers = [
        ask(guarded, f"/?token=wrong-{n}", client=f"127.1.{n // 200}.{n % 200 + 1}")[0] for n in range(300)
    ]
    allowed = answers.count(401)
    assert allowed < rate.ALL_WRONG_TOKENS.burst + 30 and answers.count(429) == 300 - allowed
    assert ask(guarded, f"/?token={TOKEN}", client="127.3.3.3")[0] == 429  # a right guess says nothing either
    assert ask(guarded, f"/?token={TOKEN}")[0] == 303
    assert ask(guarded, "/healthz", Authorization=f"Bearer {TOKEN}")[0] in (200, 503)


@pytest.mark.requirement("S-14")
@pytest.mark.parametrize(
    "half",
    [
        b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"POST /new-exam HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
        b"GET /\r\n", b"POST /new-exam HTTP/1.1\r\nContent-Length:\r\n 4000\r\n\r\n",
        b"POST /new-exam HTTP/1.1\r\nContent-Length: \x0b4000\r\n\r\n", b"POST / HTTP/1.1\r\nX: a\rContent-Length: 4000\r\n\r\n",
    ],  # fmt: skip
)
def test_half_sent_requests_stop_nothing(half: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two addresses, as many connections as each may have: more than there are threads."""
    monkeypatch.setattr(pool, "REQUEST_S", 30.0)  # they stay
    with StatusServer(Board(), port=0) as server:
        held = []
        for client in ("127.1.1.1", "127.1.1.2"):
            for _ in range(pool.CLIENT_MAX):
                held.append(socket.create_connection(("127.0.0.1", server.port), source_address=(client, 0)))
                held[-1].sendall(half)
        assert len(held) > pool.WORKERS
        started = time.monotonic()
        assert ask(server, "/metrics")[0] == 200
        assert time.monotonic() - started < 5
        for connection in held:
            connection.close()


@pytest.mark.requirement("S-14")
def test_a_half_sent_request_is_closed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "REQUEST_S", 0.3)
    with StatusServer(Board(), port=0) as server, socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert slow.recv(1) == b""


@pytest.mark.requirement("S-14")
def test_strangers_leave_room_for_who_is_known(guarded: StatusServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "REQUEST_S", 30.0)
    assert ask(guarded, f"/?token={TOKEN}")[0] == 303
    held = [
        socket.create_connection(("127.0.0.1", guarded.port), source_address=(f"127.1.1.{n // 10 + 1}", 0))
        for n in range(pool.OPEN_MAX)
    ]
    until = time.monotonic() + 20
    while len(guarded._server._open) < pool.OPEN_MAX and time.monotonic() < until:
        time.sleep(0.01)
    assert ask(guarded, "/healthz", client="127.3.3.3", Authorization=f"Bearer {TOKEN}")[0] == 0  # closed unheard
    assert ask(guarded, "/healthz", Authorization=f"Bearer {TOKEN}")[0] in (200, 503)
    for connection in held:
        connection.close()


@pytest.mark.parametrize(
    ("seen", "whole"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\n\n", True),
        (b"GET /\r\n", True),  # HTTP/0.9
        (b"GET / HTTP/1.1\r\nHost: x\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n{}", False),
        (b"POST / HTTP/1.1\r\ncontent-length:2\r\n\r\n{}", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n", True),  # refused without being read
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", True),
        (b"A" * pool.REQUEST_MAX, True),
        (b"", False),
    ],
)
def test_a_request_is_whole_when_nothing_more_is_waited_for(seen: bytes, whole: bool) -> None:
    assert is_whole(seen) is whole
