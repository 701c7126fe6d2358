"""A camera in a process of its own: pictures at 50 a second to whoever connects to a Unix socket. `python camera.py SOCKET`."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import time

H, W, FPS = 48, 64, 50.0


def main(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("listening", flush=True)
    noise = os.urandom(H * W)
    while True:
        client, _ = listener.accept()
        with contextlib.suppress(OSError):
            while True:
                noise = noise[1:] + noise[:1]
                client.sendall(struct.pack("<q", time.monotonic_ns()) + noise)
                time.sleep(1 / FPS)


if __name__ == "__main__":
    main(sys.argv[1])
