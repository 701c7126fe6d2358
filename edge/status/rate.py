"""How much one client may ask of the page: a browser's ten requests a second pass, a guesser of tokens and a flood do not."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

CLIENTS_MAX = 256  # addresses remembered; the one that was silent longest is forgotten first


@dataclass(frozen=True)
class Limit:
    """`burst` at once, and `per_s` a second from then on."""

    burst: float
    per_s: float


REQUESTS = Limit(200, 50)  # a page asks ten times a second, with its pictures; five browsers behind one address fit
WRONG_TOKENS = Limit(10, 0.1)  # 16 characters would take longer than the universe is old
ALL_WRONG_TOKENS = Limit(60, 0.2)  # of all addresses together that have not been let in lately: a guesser may have thousands
KNOWN_MAX = 64  # addresses that have been let in, remembered
KNOWN_S = 12 * 3600.0  # seconds: a shift


def client_of(address: str) -> str:
    """Whom an address stands for: with IPv6, all of its network of 64 bits, within which one machine may take any."""
    given = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(given, ipaddress.IPv4Address):
        return address
    if given.ipv4_mapped:
        return str(given.ipv4_mapped)
    return str(ipaddress.ip_network((given, 64), strict=False))


class Known:
    """Addresses that have shown the right token lately: what strangers do together does not shut them out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def see(self, client: str) -> None:
        with self._lock:
            self._seen.pop(client, None)
            self._seen[client] = self._clock()
            if len(self._seen) > KNOWN_MAX:
                self._seen.popitem(last=False)

    def knows(self, client: str) -> bool:
        with self._lock:
            return self._clock() - self._seen.get(client, -KNOWN_S) < KNOWN_S


class Rate:
    """A token bucket for each client. Used from the server's threads."""

    def __init__(self, limit: Limit, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was so
        self._lock = threading.Lock()

    def allows(self, client: str, cost: float = 1.0) -> bool:
        """Whether `client` has `cost` left, which is then taken. A cost of 0 asks only."""
        now = self._clock()
        with self._lock:
            left, since = self._left.pop(client, (self._limit.burst, now))
            left = min(self._limit.burst, left + (now - since) * self._limit.per_s)
            enough = left >= max(cost, 1.0)
            self._left[client] = (left - cost if enough else left, now)
            if len(self._left) > CLIENTS_MAX:
                self._left.popitem(last=False)
            return enough
