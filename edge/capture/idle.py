"""How long a thread had nothing to do. A reader that waits for a camera has no queue before it; one that is always busy may."""

from __future__ import annotations

import time

SCHEDSTAT = "/proc/thread-self/schedstat"  # nanoseconds on a core, nanoseconds waiting for one, times it ran (Linux 2.6.23)


class Idle:
    """Time that passed on a thread, less what it computed, less what it waited for a core that others had."""

    def __init__(self) -> None:
        self._began_ns = self._busy_ns = 0

    def begin(self) -> None:
        """From here on. On the thread that `ns` is called on."""
        self._began_ns, self._busy_ns = time.monotonic_ns(), _busy_ns()

    def ns(self) -> int:
        """Nanoseconds without anything to do since `begin`."""
        return max(0, time.monotonic_ns() - self._began_ns - (_busy_ns() - self._busy_ns))


def _busy_ns() -> int:
    try:
        with open(SCHEDSTAT, "rb", buffering=0) as file:
            ran, waited, _ = file.read().split()
        return int(ran) + int(waited)
    except (OSError, ValueError):  # not Linux, or a kernel without: what others took of the cores is then not known
        return time.thread_time_ns()
