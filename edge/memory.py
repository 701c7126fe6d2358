"""Keep a process of many threads that runs for months from hoarding memory that it has freed."""

from __future__ import annotations

import ctypes

M_ARENA_MAX = -8  # of glibc's malloc.h
ARENAS = 2  # one for the loop and one for the others, which allocate little at a time


def few_arenas() -> bool:
    """At most ARENAS heaps for all of this process' threads from now on; False where the C library is not glibc.

    glibc gives each of up to eight threads a core a heap of its own, and none gives back what lies between two pictures: in
    four minutes of a clip that new threads decode again every minute, 85 MB in use took 184, with two heaps 122 (2 cores).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has one heap anyway
        return False
    return bool(mallopt(M_ARENA_MAX, ARENAS))
