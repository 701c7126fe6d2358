"""A TCP server whose threads are all there before its first client: out of memory, CPython's `Thread.start` may wait for ever
for a thread that died as it began, and no client can make more of them than there are."""

from __future__ import annotations

import logging
import queue
import socket
import socketserver
import threading
import time
from contextlib import suppress
from typing import Any

from edge.status.rate import client_of

log = logging.getLogger(__name__)

WORKERS = 16  # threads; they sleep nearly always
CLIENT_MAX = 12  # connections of one address at a time: two browsers', and fewer than there are threads
OPEN_MAX = 64  # connections of all together; beyond, they are closed unheard
CONNECTION_S = 10.0  # seconds from accept to close, whatever a client does: a clip over a bad network takes two
POLL_S = 0.1  # seconds between looks at the clock
EXIT_S = 1.0  # seconds for an answer under way when the server stops


class PooledServer(socketserver.TCPServer):
    """`start` and `stop` once each. A request is handled by one of WORKERS threads and has CONNECTION_S in all."""

    allow_reuse_address = True
    request_queue_size = CLIENT_MAX

    def __init__(self, address: tuple[str, int], handler: type[socketserver.BaseRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)
        self._waiting: queue.SimpleQueue[tuple[Any, Any] | None] = queue.SimpleQueue()
        self._open: dict[Any, tuple[str, float]] = {}  # connection: client, and when its time is up
        self._lock = threading.Lock()
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, name=f"status-{i}", daemon=True) for i in range(WORKERS)]
        self._threads.append(threading.Thread(target=self._listen, name="status", daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping = True
        self.shutdown()
        self.server_close()
        for _ in range(WORKERS):
            self._waiting.put(None)
        until = time.monotonic() + EXIT_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def process_request(self, request: Any, client_address: Any) -> None:
        client = client_of(client_address[0])
        with self._lock:
            theirs = sum(client == other for other, _ in self._open.values())
            admitted = theirs < CLIENT_MAX and len(self._open) < OPEN_MAX
            if admitted:
                self._open[request] = client, time.monotonic() + CONNECTION_S
        if admitted:
            self._waiting.put((request, client_address))
        else:
            self.shutdown_request(request)

    def service_actions(self) -> None:
        """Ends connections whose time is up; called at least every POLL_S."""
        now = time.monotonic()
        with self._lock:
            for request, (_, until) in self._open.items():
                if now > until:
                    with suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client of the status page went away", exc_info=True)  # a browser that closes is no news

    def _listen(self) -> None:
        while not self._stopping:
            try:
                self.serve_forever(POLL_S)
            except Exception as error:  # out of memory: the page is back when there is some again
                with suppress(Exception):
                    log.error("status page: %s", repr(error))
                time.sleep(POLL_S)

    def _work(self) -> None:
        while True:
            with suppress(Exception):  # of memory that is not there: the thread stays for when it is again
                item = self._waiting.get()
                if item is None:
                    return
                try:
                    self.finish_request(*item)
                except Exception:
                    self.handle_error(*item)
                finally:
                    with self._lock:
                        self._open.pop(item[0], None)
                    self.shutdown_request(item[0])
