"""A small RTSP server on loopback (RFC 2326, RTP interleaved over TCP): ffmpeg packs a clip, this hands it out.

It plays the clip once in real time, to one client at a time. `stall`, `stop` and `start` are what goes wrong with a real one.
"""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path


class RtspServer:
    def __init__(self, clip: Path, port: int = 0) -> None:
        self.clip, self.stalled = clip, False
        self.clock = 1.0  # seconds of the camera's clock in one of ours
        self._first: int | None = None  # RTP time of the first packet of a session
        self.requests: list[str] = []
        self.password = ""  # with one, a client that does not send it is refused
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/live"

    def __enter__(self) -> RtspServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        self._listener.settimeout(0.1)
        while not self._stopping.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            with client:
                try:
                    self._talk(client)
                except (OSError, ValueError):
                    continue

    def _talk(self, client: socket.socket) -> None:
        client.settimeout(0.1)
        pending = b""
        while not self._stopping.is_set():
            try:
                data = client.recv(4096)
            except TimeoutError:
                continue
            if not data:
                return
            pending += data
            while b"\r\n\r\n" in pending:
                request, _, pending = pending.partition(b"\r\n\r\n")
                if self._answer(client, request.decode()):
                    self._first = None
                    self._play(client)
                    return

    def _answer(self, client: socket.socket, request: str) -> bool:
        """Whether the client wants to play now."""
        method = request.split(" ", 1)[0]
        self.requests.append(method)
        number = re.search(r"CSeq: *(\d+)", request, re.IGNORECASE)
        headers, body, code = "", "", "200 OK"
        if self.password and "Authorization: Basic" not in request and method != "OPTIONS":
            code, headers = "401 Unauthorized", 'WWW-Authenticate: Basic realm="x"\r\n'
        elif method == "OPTIONS":
            headers = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = self._sdp()
            headers = f"Content-Base: {self.url}/\r\nContent-Type: application/sdp\r\n"
        elif method == "SETUP":
            headers = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        elif method == "PLAY":
            headers = "Session: 1\r\nRange: npt=0.000-\r\n"
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        client.sendall(f"RTSP/1.0 {code}\r\nCSeq: {number[1] if number else 0}\r\n{headers}{length}\r\n{body}".encode())
        return method == "PLAY" and code.startswith("200")

    def _pack(self, port: int, sdp: str = "") -> list[str]:
        command = ["ffmpeg", "-v", "error", "-re", "-i", str(self.clip), "-an", "-c", "copy"]
        command += ["-f", "rtp"]
        return command + (["-sdp_file", sdp, "-t", "0.01"] if sdp else []) + [f"rtp://127.0.0.1:{port}?pkt_size=1400"]

    def _sdp(self) -> str:
        file = self.clip.with_suffix(".sdp")
        subprocess.run(self._pack(9, str(file)), check=True, timeout=30)
        lines = file.read_text().splitlines()
        media = next(i for i, line in enumerate(lines) if line.startswith("m="))
        lines[media] = re.sub(r"^m=video \d+", "m=video 0", lines[media])
        return "\r\n".join([*lines, "a=control:track0", ""])

    def _stamped(self, packet: bytes) -> bytes:
        """An RTP packet with its time on the camera's own clock, which wraps at 32 bits."""
        (rtp,) = struct.unpack(">I", packet[4:8])
        self._first = rtp if self._first is None else self._first
        since = (rtp - self._first) & 0xFFFFFFFF
        return packet[:4] + struct.pack(">I", (self._first + round(since * self.clock)) & 0xFFFFFFFF) + packet[8:]

    def _play(self, client: socket.socket) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
            packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            packets.bind(("127.0.0.1", 0))
            packets.settimeout(0.1)
            packer = subprocess.Popen(self._pack(packets.getsockname()[1]), stdout=subprocess.DEVNULL)
            try:
                while not self._stopping.is_set():
                    try:
                        packet = packets.recv(2048)
                    except TimeoutError:
                        continue
                    while self.stalled and not self._stopping.is_set():
                        time.sleep(0.01)
                    packet = self._stamped(packet)
                    client.settimeout(2)
                    client.sendall(b"$\x00" + struct.pack(">H", len(packet)) + packet)
            finally:
                packer.kill()
                packer.wait()
