"""The daemon's own loop around a benchmark's source: what `edge.watching` puts together, without page and configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.case import Bench
from edge.capture.feed import EveryFrame, Feed, LatestFrame
from edge.capture.source import Source
from edge.decision.exam import Exam
from edge.decision.params import DecisionParams
from edge.engines.choice import choose
from edge.engines.scorer import Scorer
from edge.errors import EngineError
from edge.events.store import EventStore, Retention
from edge.loop import Identity, Summary, Watch
from edge.records import Verdict
from edge.screen.reader import ScreenReader
from edge.status.board import Board


@dataclass(frozen=True)
class Daemon:
    watch: Watch
    board: Board
    scorer: Scorer

    def run(self) -> Summary:
        """KeyboardInterrupt when a signal ended it: the loop takes SIGINT for itself. EngineError when a stage failed: a loop
        that leaves its work undone is a fast one."""
        summary = self.watch.run()
        if summary.stopped:
            raise KeyboardInterrupt
        if broken := {what: n for what, n in summary.errors.items() if what != "late"}:
            raise EngineError(
                f"the loop counted errors ({broken}): its times are no measurement; see `hygroma -v bench`"
            )
        return summary


@contextmanager
def open_daemon(
    bench: Bench,
    source: Source,
    on_verdict: Callable[[Verdict], None] | None = None,
    params: DecisionParams | None = None,
) -> Iterator[Daemon]:
    """A Watch on the bundle's own runner, its store in the bench's folder. params: instead of the bundle's decision."""
    with ExitStack() as stack:
        scorer = stack.enter_context(open_scorer(bench))
        store = stack.enter_context(EventStore(bench.folder / "events", Retention(min_free_bytes=0)))
        feed: Feed = EveryFrame(source) if source.media_time else LatestFrame(source)
        stack.enter_context(feed)
        board = Board()
        watch = Watch(
            feed=feed,
            reader=ScreenReader(scorer.manifest.preprocessing),
            scorer=scorer,
            exam=Exam(params or DecisionParams.from_manifest(scorer.manifest), 1),
            store=store,
            board=board,
            identity=Identity(source.name, scorer.label, scorer.runner_name),
            on_verdict=on_verdict,
        )
        yield Daemon(watch, board, scorer)


def open_scorer(bench: Bench) -> Scorer:
    """The bundle on the runtime that the daemon would pick; not entered."""
    choice = choose(bench.bundle, "auto", bench.threads)
    return Scorer(bench.bundle, choice.runner, choice.fallback)


def memory_mb(pid: int | str = "self") -> dict[str, float]:
    """Memory of a process, MB (2^20 bytes), from Linux' /proc: resident (shared libraries counted whole) now and at its highest,
    what of it no file stands behind, and its proportional share. OSError when the process is gone."""
    text = Path(f"/proc/{pid}/status").read_text() + Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    names = {"rss_mb": "VmRSS", "peak_mb": "VmHWM", "anonymous_mb": "RssAnon", "pss_mb": "Pss"}
    return {name: int(fields[key].split()[0]) / 1024 for name, key in names.items() if key in fields}


def descriptors(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
