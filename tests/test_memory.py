from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

THREADS = """
import ctypes, sys, threading
from edge.memory import few_arenas
libc = ctypes.CDLL(None)
if not hasattr(libc, "malloc_info"): sys.exit(77)
if sys.argv[1] == "few": assert few_arenas()
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(12)
def hold():
    together.wait()
    libc.malloc(50_000)
    together.wait()
threads = [threading.Thread(target=hold) for _ in range(12)]
[t.start() for t in threads]; [t.join() for t in threads]
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = ctypes.c_int, ctypes.c_void_p
libc.fclose.argtypes = (ctypes.c_void_p,)
out = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, out); libc.fclose(out)
"""


def heaps(tmp_path: Path, how: str) -> int:
    told = tmp_path / how
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run([sys.executable, "-c", THREADS, how, str(told)], env=environment, timeout=60)
    if done.returncode == 77:
        pytest.skip("needs glibc")
    assert done.returncode == 0
    return told.read_text().count("<heap ")


def test_threads_share_two_heaps(tmp_path: Path) -> None:
    if heaps(tmp_path, "many") <= 2:
        pytest.skip("this C library gave twelve threads two heaps by itself")
    assert heaps(tmp_path, "few") <= 2
