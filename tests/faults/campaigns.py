"""What is done to the daemon, and what is counted. Each campaign is a function of how often, used by the tests (a few
times) and by `make torture` (often). It raises AssertionError when a promise is broken that holds at any speed of the machine,
and returns its figures.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from daemon import clip, flag_for_ever, make_soak, pictures

from edge.capture.feed import EveryFrame
from edge.capture.recorded import FramesSource
from edge.events import EventStore
from edge.records import Verdict

HERE = Path(__file__).parent
PATIENCE_S = 120.0  # seconds before a campaign gives up waiting: no promise, only an end


def wait_for(what: str, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> tuple[Any, float]:
    """(what `condition` gave, seconds until it was true)."""
    start = time.monotonic()
    while True:
        found = condition()
        if found:
            return found, time.monotonic() - start
        assert time.monotonic() - start < patience_s, f"waited {patience_s:.0f} s for: {what}"
        time.sleep(0.01)


class Camera:
    """camera.py, to be killed, stopped and started again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "camera.py"), str(self.path)], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == b"listening\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Daemon:
    """daemon.py, with what it acknowledged, and what it told systemd (which is us)."""

    def __init__(self, folder: Path, camera: Path, prefix: tuple[str, ...] = (), **options: Any) -> None:
        self.events = Path(options.pop("events", folder / "events"))
        self.acknowledged: list[dict[str, Any]] = []
        self.petted: list[float] = []
        self.url, self.hangs = "", False
        self.said: deque[bytes] = deque(maxlen=100)  # the last lines of its standard error
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = folder / f"notify{time.monotonic_ns()}"
        self._notify.bind(str(address))
        options |= {"events": str(self.events), "camera": str(camera)}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(HERE / "daemon.py"), json.dumps(options)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "NOTIFY_SOCKET": str(address)},
        )  # fmt: skip
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._read, self._hear)]
        for thread in self._threads:
            thread.start()
        wait_for("the page", lambda: self.url or self.process.poll() is not None)
        assert self.url, self.last_words()

    def last_words(self) -> str:
        return b"".join(self.said).decode("utf-8", "replace")

    def _read(self) -> None:
        """Standard error as it comes: a pipe that nobody empties would stop the daemon when it is full."""
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            if "url" in told:
                self.url = told["url"]
            elif "hangs" in told:
                self.hangs = True
            else:
                self.acknowledged.append(told)

    def _hear(self) -> None:
        try:
            while data := self._notify.recv(4096):
                if b"WATCHDOG=1" in data:
                    self.petted.append(time.monotonic())
        except OSError:
            return

    def snapshot(self) -> dict[str, Any]:
        time.sleep(0.02)  # more often, and the page would take it for a flood
        with urllib.request.urlopen(self.url + "snapshot.json", timeout=PATIENCE_S) as answer:
            return dict(json.load(answer))

    def problems(self) -> str:
        return "; ".join(self.snapshot()["health"]["problems"])

    def sees(self) -> bool:
        """A frame has come lately and nothing is wrong with the source."""
        snapshot = self.snapshot()
        age = snapshot["health"]["frame_age_s"]
        return age is not None and age < 0.3 and "source away" not in "; ".join(snapshot["health"]["problems"])

    def end(self, number: int = signal.SIGTERM) -> int:
        """The exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        for thread in self._threads[:2]:
            thread.join(PATIENCE_S)
        for stream in (self.process.stdout, self.process.stderr, self._notify):
            assert stream is not None
            stream.close()
        return status


def check_store(events: Path, acknowledged: list[dict[str, Any]]) -> int:
    """Rows of a store, sound, each with its image, none of `acknowledged` missing."""
    with sqlite3.connect(events / "events.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = dict(database.execute("SELECT id, image_sha256 FROM events"))
        paths = database.execute("SELECT image_path, image_sha256 FROM events").fetchall()
    database.close()
    for path, sha256 in paths:
        assert hashlib.sha256((events / path).read_bytes()).hexdigest() == sha256, f"{path} is not what was committed"
    for ack in acknowledged:
        assert rows.get(ack["event"]) == ack["sha256"], f"event {ack['event']} was acknowledged and is lost"
    return len(rows)


def kills(folder: Path, times: int) -> dict[str, Any]:
    """kill -9 at a random moment of flagging, again and again on the same store; some fifty times each."""
    rng, total_rows, total_acks = random.Random(6), 0, 0
    stores = max(times // 50, 1)
    for s in range(stores):
        events, acknowledged = folder / f"events{s}", []
        for _ in range(s, times, stores):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.dup2(writing, 1)
                    flag_for_ever(str(events))
                finally:
                    os._exit(1)
            os.close(writing)
            with os.fdopen(reading, "rb") as told:
                wanted, lines, since = rng.randrange(4), [], time.monotonic()
                while len(lines) < wanted and (line := told.readline()):
                    lines.append(line)
                # To the middle of whatever comes next; how long that takes here is what the last flags took.
                each_s = (time.monotonic() - since) / wanted if wanted else 0.02
                time.sleep(rng.random() * min(each_s, 1.0))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                lines += told.readlines()  # acknowledged in the very last moment
            acknowledged += [json.loads(line) for line in lines if line.endswith(b"\n")]
        total_rows += check_store(events, acknowledged)
        with EventStore(events) as store:  # and it still takes events
            assert store.next_exam_id() > 0
        total_acks += len(acknowledged)
    return {"kills": times, "acknowledged": total_acks, "rows": total_rows, "lost": 0, "corrupt": 0, "without image": 0}


def outages(folder: Path, times: int) -> dict[str, Any]:
    """The camera's process is killed, or stopped, and comes back."""
    camera = Camera(folder / "camera")
    daemon = Daemon(folder, camera.path)
    reported, returned = [], []
    try:
        wait_for("the first picture", daemon.sees)
        for i in range(times):
            hang = i % 2 == 1
            if hang:
                camera.process.send_signal(signal.SIGSTOP)
            else:
                camera.kill()

            def told() -> bool:
                snapshot = daemon.snapshot()
                gone = "source away" in "; ".join(snapshot["health"]["problems"])
                return gone or snapshot["state"] == "no-signal"

            reported.append(wait_for("the loss of the source on the page", told)[1])
            if hang:
                camera.process.send_signal(signal.SIGCONT)
            else:
                camera.start()
            returned.append(wait_for("pictures again", daemon.sees)[1])
        wait_for("a flag", lambda: daemon.acknowledged)
        assert daemon.end() == 0
    finally:
        daemon.process.kill()
        camera.process.send_signal(signal.SIGCONT)
        camera.kill()
    check_store(daemon.events, daemon.acknowledged)
    latencies = [ack["latency_ms"] for ack in daemon.acknowledged]
    return {"outages": times, "reported_s": reported, "returned_s": returned, "latency_ms": latencies}


def stops(folder: Path, times: int, stopped_s: float = 1.5) -> dict[str, Any]:
    """SIGSTOP and SIGCONT of the daemon: what it saw before decides nothing after."""
    camera = Camera(folder / "camera")
    daemon = Daemon(folder, camera.path)
    late = 0
    try:
        for _ in range(times):
            wait_for("pictures", daemon.sees)
            before = len(daemon.acknowledged)
            wait_for("a flag", lambda: len(daemon.acknowledged) > before)  # noqa: B023
            daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(stopped_s)
            daemon.process.send_signal(signal.SIGCONT)
        wait_for("pictures", daemon.sees)
        late = daemon.snapshot()["errors"].get("late", 0)
        assert daemon.end() == 0
    finally:
        daemon.process.kill()
        camera.kill()
    check_store(daemon.events, daemon.acknowledged)
    return {"stops": times, "late frames": late, "latency_ms": [ack["latency_ms"] for ack in daemon.acknowledged]}


def hang(folder: Path, **where: int) -> dict[str, Any]:
    """An engine or a disk that never returns: the watchdog starves, the page says so, and after systemd's kill all acknowledged
    flags are there."""
    camera = Camera(folder / "camera")
    daemon = Daemon(folder, camera.path, **where)
    try:
        wait_for("the watchdog fed", lambda: daemon.petted)
        wait_for("it to hang", lambda: daemon.hangs)
        wait_for("the page to say so", lambda: daemon.snapshot()["state"] == "stopped")
        fed = len(daemon.petted)
        time.sleep(1.0)
        assert len(daemon.petted) == fed, "the watchdog is fed by something else than a finished loop"
        assert daemon.end(signal.SIGABRT) == -signal.SIGABRT
        again = Daemon(folder, camera.path)
        wait_for("a flag after the restart", lambda: again.acknowledged)
        assert again.end() == 0
    finally:
        daemon.process.kill()
        camera.kill()
    acknowledged = daemon.acknowledged + again.acknowledged
    return {"acknowledged": len(acknowledged), "rows": check_store(daemon.events, acknowledged), "lost": 0}


def can_mount() -> bool:
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True)
    return os.geteuid() == 0 and done.returncode == 0


@contextmanager
def own_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def bad_disk(folder: Path, kind: str) -> dict[str, Any]:
    """`full`, or `read-only` from the start: the watching goes on, flags wait, and none is lost once the disk is well again."""
    camera = Camera(folder / "camera")
    with own_disk(folder, "3m") as place:
        ballast = place / "ballast"
        if kind == "read-only":
            remount(place, "ro")
        daemon = Daemon(folder, camera.path, events=str(place / "events"))
        try:
            if kind == "full":
                wait_for("a flag", lambda: daemon.acknowledged)
                fill(ballast)
            _, said_s = wait_for("the page to say so", lambda: "wait to be written" in daemon.problems())
            assert daemon.sees()
            written = len(daemon.acknowledged)
            if kind == "full":
                ballast.unlink()
            else:
                remount(place, "rw")
            wait_for("the flags to be written", lambda: len(daemon.acknowledged) > written)
            assert daemon.end() == 0
            rows = check_store(daemon.events, daemon.acknowledged)
        finally:
            daemon.process.kill()
            daemon.process.wait()
            camera.kill()
    assert rows == len(daemon.acknowledged)
    return {"disk": kind, "said_s": said_s, "rows": rows, "lost": 0}


def fill(ballast: Path) -> None:
    with open(ballast, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True, capture_output=True)


def clock(folder: Path, days: int) -> dict[str, Any]:
    """A wall clock that jumps by `days` to and fro with every reading: flags go on, none is removed."""
    camera = Camera(folder / "camera")
    daemon = Daemon(folder, camera.path, jump_days=days)
    try:
        wait_for("flags", lambda: len(daemon.acknowledged) >= 6)
        assert daemon.end() == 0
    finally:
        daemon.process.kill()
        camera.kill()
    return {"days": days, "rows": check_store(daemon.events, daemon.acknowledged), "lost": 0}


def limited(folder: Path, limits: str, limited_s: float = 1.0, needs_mb: int = 0) -> dict[str, Any]:
    """Out of file descriptors, or out of memory, for so long, while somebody reloads the page and the camera goes and comes back:
    it watches on with what it has, or it ends; no flag is lost either way. Without the limit it goes on. `needs_mb`: what each
    frame takes for a moment, which is then not there."""
    camera = Camera(folder / "camera")
    daemon = Daemon(folder, camera.path, needs_mb=needs_mb)
    kind, left, usual = resource.RLIMIT_NOFILE, 3, resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        wait_for("a flag", lambda: daemon.acknowledged)
        if limits == "memory":
            words = Path(f"/proc/{daemon.process.pid}/statm").read_text().split()
            kind, left, usual = resource.RLIMIT_AS, int(words[0]) * resource.getpagesize(), (-1, -1)
        resource.prlimit(daemon.process.pid, kind, (left, usual[1]))  # nothing can be opened, or mapped, any more
        until, trouble = time.monotonic() + limited_s, iter([camera.kill, camera.start])
        while time.monotonic() < until and daemon.process.poll() is None:
            with suppress(OSError, http.client.HTTPException):
                urllib.request.urlopen(daemon.url + "live.jpg", timeout=limited_s / 4).read()
            next(trouble, lambda: None)()
            time.sleep(limited_s / 20)
        ended = daemon.process.poll() is not None
        if not ended:
            resource.prlimit(daemon.process.pid, kind, usual)
            before = len(daemon.acknowledged)
            wait_for("flags again", lambda: len(daemon.acknowledged) > before or daemon.process.poll() is not None)
            ended = daemon.process.poll() is not None
        if not ended:
            wait_for("pictures again", daemon.sees)
        daemon.end()
        again = Daemon(folder, camera.path)
        wait_for("a flag after the restart", lambda: again.acknowledged)
        assert again.end() == 0
    finally:
        daemon.process.kill()
        camera.kill()
    acknowledged = daemon.acknowledged + again.acknowledged
    return {"limit": limits, "ended": ended, "rows": check_store(daemon.events, acknowledged), "lost": 0}


def soak(folder: Path, frames: int, screen: bool) -> dict[str, Any]:
    """Full speed in a process of its own: real feed, loop, decision, evidence and store, a new exam every 500 frames, resources
    sampled 200 times; then a replay of the first tenth. `screen`: the shipped clip's pictures through the real screen reader,
    else small ones that need none. The model is a fake whose answer depends on every pixel."""
    whole = in_child(lambda: _soak(folder / "whole", frames, frames // 10, screen))
    again = in_child(lambda: _soak(folder / "again", frames // 10, frames // 10, screen))
    assert whole["prefix"] == again["prefix"], "a replay decided something else"
    return whole | {"replayed": frames // 10}


def _soak(folder: Path, frames: int, replayed: int, screen: bool) -> dict[str, Any]:
    digest, prefix, samples, seen, start_ns = hashlib.sha256(), "", [], 0, 0
    every = max(frames // 200, 1)

    def note(verdict: Verdict) -> None:
        nonlocal seen, prefix, start_ns
        start_ns = start_ns or verdict.t_mono_ns  # a recording's stamps begin when it is opened
        seen += 1
        digest.update(repr(replace(verdict, t_mono_ns=verdict.t_mono_ns - start_ns)).encode())
        prefix = digest.hexdigest() if seen == replayed else prefix
        if seen % every == 0:
            words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            threads, descriptors = int(words["Threads"]), len(os.listdir("/proc/self/fd"))
            samples.append((seen, int(words["VmRSS"].split()[0]), threads, descriptors))

    images = clip() if screen else pictures()
    with EveryFrame(FramesSource("clip", islice(images, frames), 30, fast=True)) as feed:
        summary = make_soak(feed, str(folder), note, screen).run()
    assert summary.frames == seen == frames and summary.lost_events == 0
    events = len(summary.events)
    return {"frames": frames, "events": events, "samples": samples, "prefix": prefix, "seconds": summary.seconds}


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`work` in a forked process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.write(writing, json.dumps(work()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        data = told.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return dict(json.loads(data))
