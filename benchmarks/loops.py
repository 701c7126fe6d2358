"""Three ways of timing the same call: one after another, at the camera's rate, and several systems in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Work = Callable[[], object]
Tick = Callable[[int, int], None]  # calls done, calls to do

WARM_UP = 5  # untimed calls: allocation, lazy initialisation, caches
LIMIT_CALLS_MIN = 10  # calls that are made even when the time is up: fewer have no median worth the name


def closed_loop(
    work: Work,
    calls: int,
    limit_s: float = float("inf"),
    warm_up: int = WARM_UP,
    tick: Tick = lambda done, total: None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> np.ndarray:
    """Milliseconds [n] of calls made one after another; n is `calls`, or fewer (at least 10) when `limit_s` ends first."""
    for _ in range(warm_up):
        work()
    taken, started_ns = np.empty(calls), clock_ns()
    for i in range(calls):
        start_ns = clock_ns()
        work()
        end_ns = clock_ns()
        taken[i] = (end_ns - start_ns) / 1e6
        tick(i + 1, calls)
        if end_ns - started_ns > limit_s * 1e9 and i + 1 >= LIMIT_CALLS_MIN:
            return taken[: i + 1]
    return taken


@dataclass(frozen=True)
class OpenLoop:
    """Milliseconds [n] each: `latency` from a call's scheduled arrival to its end, `service` of the call alone."""

    latency: np.ndarray
    service: np.ndarray
    rate_hz: float

    @property
    def utilisation(self) -> float:
        """Share of the time between arrivals that the calls take; at 1 and above the queue grows without end."""
        return float(self.service.mean()) * self.rate_hz / 1000

    @property
    def queued(self) -> float:
        """Share of calls that could not start within 1 ms of their arrival because the one before was still running."""
        waited = self.latency[1:] - self.service[1:]
        busy = self.latency[:-1] > 1000 / self.rate_hz
        return float(np.mean(busy & (waited > 1))) if len(waited) else 0.0


def open_loop(
    work: Work,
    rate_hz: float,
    calls: int,
    warm_up: int = WARM_UP,
    tick: Tick = lambda done, total: None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    sleep_s: Callable[[float], None] = time.sleep,
) -> OpenLoop:
    """`calls` arrivals at `rate_hz`, whatever the calls take, served in order by one server.

    A call that takes long delays those behind it, and their latency counts from when they should have begun: leaving that out
    is the "coordinated omission" of a loop that only sends when the last answer is there.
    """
    for _ in range(warm_up):
        work()
    latency, service = np.empty(calls), np.empty(calls)
    first_ns = clock_ns()
    for i in range(calls):
        due_ns = first_ns + round(i * 1e9 / rate_hz)
        wait_ns = due_ns - clock_ns()
        if wait_ns > 0:
            sleep_s(wait_ns / 1e9)
        start_ns = clock_ns()
        work()
        end_ns = clock_ns()
        latency[i], service[i] = (end_ns - due_ns) / 1e6, (end_ns - start_ns) / 1e6
        tick(i + 1, calls)
    return OpenLoop(latency, service, rate_hz)


def interleaved(
    works: Mapping[str, Work],
    rounds: int,
    calls: int | Mapping[str, int],
    limit_s: float = float("inf"),
    seed: int = 0,
    tick: Tick = lambda done, total: None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, np.ndarray]:
    """Milliseconds [R,C] a system: each round makes `calls` timed calls (of all, or by name; after one untimed) of every system,
    in random order.

    What the machine does meanwhile thus hits all of them. R is `rounds`, or fewer (at least 3) when `limit_s` ends first.
    """
    rng = np.random.default_rng(seed)
    names = list(works)
    taken: dict[str, list[list[float]]] = {name: [] for name in names}
    started_ns = clock_ns()
    for done in range(rounds):
        for index in rng.permutation(len(names)):
            work, row = works[names[index]], []
            work()  # brings its own weights back into the cache
            for _ in range(calls if isinstance(calls, int) else calls[names[index]]):
                start_ns = clock_ns()
                work()
                row.append((clock_ns() - start_ns) / 1e6)
            taken[names[index]].append(row)
        tick(done + 1, rounds)
        if clock_ns() - started_ns > limit_s * 1e9 and done >= 2:
            break
    return {name: np.array(rows) for name, rows in taken.items()}
