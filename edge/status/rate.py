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


def client_of(address: str) -> str:
    """Whom an address stands for: with IPv6, all of its network of 64 bits, within which one machine may take any."""
    given = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(given, ipaddress.IPv4Address):
        return address
    if given.ipv4_mapped:
        return str(given.ipv4_mapped)
    return str(ipaddress.ip_network((given, 64), strict=False))


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
