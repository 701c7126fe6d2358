"""What the page's server does when its clients are slow or many, and when there is no memory."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request

import pytest

from edge.events.clip import Clips
from edge.status import pool
from edge.status.board import Board
from edge.status.server import StatusServer


def answers(server: StatusServer) -> bool:
    with urllib.request.urlopen(server.url + "metrics", timeout=20) as answer:
        return bool(answer.status == 200)


@pytest.mark.requirement("T-10")
def test_no_thread_is_started_once_the_watching_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory `Thread.start` waits for ever for a thread that could not begin: neither loop nor page may call it."""
    import numpy as np

    clips = Clips(encode=lambda images, ms: b"webp")
    with StatusServer(Board(), port=0) as server:
        monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("a thread was started"))
        assert answers(server)
        clips.see(np.zeros((8, 8), np.uint8), 0, 1)
        clips.flag((1, 0), 0)
        clips.finish()
        assert [future.result() for _, future in clips.ready()] == [b"webp"]


@pytest.mark.requirement("T-10")
def test_the_page_is_back_when_there_is_memory_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failing, failed = threading.Event(), threading.Event()

    def fail(*_: object) -> None:
        if failing.is_set():
            failed.set()
            raise MemoryError

    with StatusServer(Board(), port=0) as server:
        monkeypatch.setattr(pool.PooledServer, "service_actions", fail)  # in the thread that listens
        failing.set()
        assert failed.wait(20)
        failing.clear()
        assert answers(server)
        real = pool.PooledServer.finish_request
        tries = iter([True] * 3)

        def work(self: pool.PooledServer, *item: object) -> None:
            if next(tries, False):
                raise MemoryError
            real(self, *item)  # type: ignore[arg-type]

        monkeypatch.setattr(pool.PooledServer, "finish_request", work)  # in those that answer
        for _ in range(3):
            with pytest.raises(OSError):
                answers(server)
        assert answers(server)


def answers_soon(server: StatusServer) -> bool:
    deadline = time.monotonic() + 20
    while True:
        try:
            return answers(server)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.mark.requirement("S-04")
def test_slow_clients_are_ended_and_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as one address may have, each a byte now and then: the page answers, and none outlives its time."""
    monkeypatch.setattr(pool, "CONNECTION_S", 1.0)
    with StatusServer(Board(), port=0) as server:
        address = "127.0.0.1", server.port
        slow = [socket.create_connection(address) for _ in range(pool.CLIENT_MAX)]
        refused = socket.create_connection(address)
        refused.settimeout(20)
        with pytest.raises(OSError):  # beyond its share it is closed unheard
            refused.sendall(b"GET / HTTP/1.0\r\n\r\n")
            if refused.recv(1) == b"":
                raise ConnectionResetError
        refused.close()
        started = time.monotonic()
        ended: set[socket.socket] = set()
        while len(ended) < len(slow):
            assert time.monotonic() - started < 60, "a client that dribbles is never ended"
            for client in set(slow) - ended:
                client.settimeout(0.05)
                try:
                    client.sendall(b"G")
                    if client.recv(64) == b"":
                        ended.add(client)
                except TimeoutError:
                    continue
                except OSError:
                    ended.add(client)
        for client in slow:
            client.close()
        assert answers_soon(server)  # their places are free once the server has seen that they are gone
        assert sum(thread.name.startswith("status") for thread in threading.enumerate()) == pool.WORKERS + 1
