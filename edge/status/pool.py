"""A TCP server whose threads are all there before its first client: out of memory, CPython's `Thread.start` may wait for ever
for a thread that died as it began, and no client can make more of them than there are."""

from __future__ import annotations

import logging
import queue
import re
import select
import selectors
import socket
import socketserver
import threading
import time
from contextlib import suppress
from typing import Any

from edge.status.rate import Known, client_of

log = logging.getLogger(__name__)

WORKERS = 16  # threads; they sleep nearly always
CLIENT_MAX = 12  # connections of one address at a time: two browsers', and fewer than there are threads
OPEN_MAX = 64  # connections of all together; beyond, they are closed unheard
REQUEST_S = 2.0  # seconds from accept until the whole request is here: it is one packet, or two
REQUEST_MAX = 2**17  # bytes that are looked at while waiting: longer headers and bodies are refused
CONNECTION_S = 10.0  # seconds for the answer, whatever a client does: a clip over a bad network takes two
POLL_S = 0.1  # seconds between looks at the clock
EXIT_S = 1.0  # seconds for an answer under way when the server stops


_HEADERS_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r?\n", re.IGNORECASE)
_NO_VERSION = re.compile(rb"[^\r\n ]*( [^\r\n ]*)?\r?\n")  # HTTP/0.9: one line of at most two words


def is_whole(seen: bytes) -> bool:
    """Whether a request that begins so can be read to its end, or refused, without waiting for more of it."""
    if len(seen) >= REQUEST_MAX or _NO_VERSION.match(seen):
        return True
    end = _HEADERS_END.search(seen)
    if end is None:
        return False
    length = _LENGTH.search(seen, 0, end.end())
    return length is None or int(length[1]) >= REQUEST_MAX or len(seen) >= end.end() + int(length[1])


class PooledServer(socketserver.TCPServer):
    """`start` and `stop` once each. A request is handled by one of WORKERS threads, once all of it is here: who sends half of one
    keeps no thread. `known`: addresses for which there is room when strangers have taken all of theirs."""

    allow_reuse_address = True
    request_queue_size = CLIENT_MAX

    def __init__(
        self, address: tuple[str, int], handler: type[socketserver.BaseRequestHandler], known: Known | None = None
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)
        self._waiting: queue.SimpleQueue[tuple[Any, Any] | None] = queue.SimpleQueue()
        self._open: dict[Any, tuple[str, float]] = {}  # connection: client, and when its time is up
        self._quiet: dict[Any, Any] = {}  # connections whose request is not here yet: their address
        self._begun: set[Any] = set()  # of these, the ones that have sent a part of it
        self._selector: selectors.BaseSelector | None = None
        self._known = known or Known()
        self._lock = threading.Lock()
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, name=f"status-{i}", daemon=True) for i in range(WORKERS)]
        self._threads.append(threading.Thread(target=self._listen, name="status", daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._threads[-1].join(EXIT_S)
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
            strangers = sum(not self._known.knows(other) for other, _ in self._open.values())
            admitted = theirs < CLIENT_MAX and (strangers < OPEN_MAX or self._known.knows(client))
            if admitted:
                self._open[request] = client, time.monotonic() + REQUEST_S
        if admitted:
            self._quiet[request] = client_address
            if self._selector is not None:
                self._selector.register(request, selectors.EVENT_READ)
        else:
            self.shutdown_request(request)

    def service_actions(self) -> None:
        """Ends connections whose time is up; called at least every POLL_S."""
        now = time.monotonic()
        with self._lock:
            late = [request for request, (_, until) in self._open.items() if now > until]
        for request in late:
            if request in self._quiet:
                self._forget(request)
            else:  # a thread has it, and sees its end
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def _look(self, request: Any) -> None:
        """Hands a request over once all of it is here, or its client has sent all that it will."""
        try:
            seen = request.recv(REQUEST_MAX, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._begun.add(request)  # looked at again soon
            return
        except OSError:
            self._forget(request)
            return
        if not seen:
            self._forget(request)
        elif is_whole(seen) or _has_ended(request):
            address = self._quiet.pop(request)
            self._begun.discard(request)
            with self._lock:
                self._open[request] = self._open[request][0], time.monotonic() + CONNECTION_S
            self._waiting.put((request, address))
        else:
            self._begun.add(request)

    def _forget(self, request: Any) -> None:
        self._quiet.pop(request, None)
        self._begun.discard(request)
        if self._selector is not None:
            with suppress(KeyError, ValueError):
                self._selector.unregister(request)
        with self._lock:
            self._open.pop(request, None)
        self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client of the status page went away", exc_info=True)  # a browser that closes is no news

    def _listen(self) -> None:
        while not self._stopping:
            try:
                self._accept()
            except Exception as error:  # out of memory: the page is back when there is some again
                with suppress(Exception):
                    log.error("status page: %s", repr(error))
                time.sleep(POLL_S)

    def _accept(self) -> None:
        with selectors.DefaultSelector() as self._selector:
            self._selector.register(self.socket, selectors.EVENT_READ)
            self._begun.update(self._quiet)  # of a loop that an error ended
            while not self._stopping:
                for key, _ in self._selector.select(POLL_S):
                    if key.fileobj is self.socket:
                        self._handle_request_noblock()  # type: ignore[attr-defined]
                    else:
                        self._selector.unregister(key.fileobj)
                        self._look(key.fileobj)
                for request in list(self._begun):
                    self._look(request)
                self.service_actions()

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


def _has_ended(request: Any) -> bool:
    """Whether a client has closed its side: no more of its request will come."""
    poll = select.poll()
    poll.register(request, select.POLLRDHUP)
    return bool(poll.poll(0))
