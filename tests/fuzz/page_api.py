"""The page's server to be tried out: everything filled in, and no limit to how much may be asked."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

sys.path[:0] = [str(Path(__file__).parents[2])]

import numpy as np

from edge.capture.feed import FeedStats
from edge.metrics import LatencySummary
from edge.records import Event, Signal, Verdict
from edge.screen.view import View
from edge.status import server
from edge.status.board import Board, BundleState, ExamRow, Snapshot
from edge.status.rate import Limit

TOKEN = "correct-horse-battery"
FREE = Limit(1e9, 1e9)


def snapshot() -> Snapshot:
    now = time.monotonic_ns()
    return Snapshot(
        t_mono_ns=now, source="file:x", bundle="student 0.1.0", engine="fake", ready=True,
        verdict=Verdict(7, 0, 2, Signal.OK, False, ("menu",), None, 0.8, 0.1, 3.0, 6.0, False, False),
        frame_t_mono_ns=now, degraded=("the disk is full",), frames_by_signal={"OK": 8}, duplicates=1, errors={"store": 2},
        feed=FeedStats(read=9, dropped=1), latencies={"infer": LatencySummary(8, 5.0, 6.0, 7.0, 8.0, 40.0)},
        exams=(ExamRow(2, "2026-11-23T10:00:00Z", 5, False, None),),
        events=(Event(1, 1, "x", 3, "2026-11-23T10:00:00Z", 40.0, 0.9, 6.5, "b", "evidence/x.png", "00"),),
        history=((1.0, 3.0, 0.8), (0.5, 3.0, None)),
        view=View(np.full((16, 16), 90, np.uint8), ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))),
        bundle_state=BundleState("m", "1.0.0", "00", "hygroma", False, "shipped", True, 0, ("it is new",)),
    )  # fmt: skip


@contextmanager
def serving() -> Iterator[server.StatusServer]:
    """A page with a token, whose loop turns: it publishes, and takes what is asked of it."""
    board, stopping = Board(), threading.Event()

    def turn() -> None:
        while not stopping.wait(0.02):
            board.publish(snapshot())
            board.requests()

    board.publish(snapshot())
    loop = threading.Thread(target=turn)
    free = patch.multiple(server, REQUESTS=FREE, WRONG_TOKENS=FREE)
    with free, server.StatusServer(board, port=0, token=TOKEN, evidence=picture, clip=picture) as page:
        loop.start()
        try:
            yield page
        finally:
            stopping.set()
            loop.join()


def picture(event_id: int) -> bytes | None:
    return b"picture" if event_id < 1000 else None
