"""Putting a daemon together: from a configuration and a source to a Watch with everything it needs, opened and closed."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.bundle import load_bundle
from edge.bundle.trust import SHIPPED_BUNDLE as SHIPPED_BUNDLE
from edge.capture.build import feed_for
from edge.capture.source import Source
from edge.clock import WallClock
from edge.config import Config
from edge.decision.exam import Exam
from edge.decision.params import DecisionParams
from edge.engines.choice import choose
from edge.engines.scorer import Scorer
from edge.errors import StoreError
from edge.events.disk import Disk, why_unwritable
from edge.events.store import EventStore, Retention, evidence_reader
from edge.home import home
from edge.lock import open_lock, take
from edge.loop import Identity, Watch
from edge.memory import few_arenas
from edge.records import Verdict
from edge.redaction import redact
from edge.screen.reader import ScreenReader
from edge.status.board import Board
from edge.status.server import StatusServer, read_token
from edge.update.startup import open_start

log = logging.getLogger(__name__)

STOPPING_S = 5.0  # seconds that a daemon which is being replaced has for its end
SHIPPED = Path(__file__).with_name("data")


@dataclass(frozen=True)
class Watching:
    """A Watch that is ready to run, its scorer (for the label), its store, its board, and where its page is ("" without one)."""

    watch: Watch
    scorer: Scorer
    store: EventStore
    board: Board
    url: str


def open_scorer(bundle: str | Path, config: Config) -> Scorer:
    """The scorer of a bundle that the configuration trusts, not yet entered, on the runtime that `choose` picks."""
    loaded = load_bundle(bundle, config.bundle.trust())
    engine = config.engine
    choice = choose(loaded, engine.runtime, engine.threads, engine.cache)
    return Scorer(loaded, choice.runner, choice.fallback)


def keep_at_home(config: Config) -> Config:
    """For who named no store: where this user may not write the default one, events go into his own state folder."""
    if not (problem := why_unwritable(Path(config.events.dir))):
        return config
    state = os.environ.get("XDG_STATE_HOME", "")  # relative ones are to be ignored, says its specification
    folder = (Path(state) if os.path.isabs(state) else home("--events") / ".local" / "state") / "hygroma"
    log.warning("events go to %s (%s); --events names another place", folder, problem)
    return config.but(events={"dir": str(folder)})


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Held while a daemon watches with a store: two would give one exam number to two patients. StoreError when another has it. A
    folder that cannot be written holds nobody's lock, and stops nobody from watching."""
    disk = Disk()
    try:
        disk.make_folder(root)
        lock = open_lock(root / "watching.lock")
    except OSError:  # said with the store's own problem
        yield
        return
    try:
        disk.hand_over(root / "watching.lock")
        take(lock, STOPPING_S)
    except BlockingIOError:
        os.close(lock)
        raise StoreError(
            f"{root}: another hygroma watches with this store; give each instance a folder of its own (--events, events.dir)"
        ) from None
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def open_watching(
    config: Config, source: Source, on_verdict: Callable[[Verdict], None] | None = None
) -> Iterator[Watching]:
    """Opens scorer (with its self-test), store, page and feed, in that order; closes them in the other."""
    few_arenas()  # before any thread is started: a heap that a thread has stays
    with ExitStack() as stack:
        start = stack.enter_context(open_start(config, open_scorer))
        scorer = start.scorer
        fitted = DecisionParams.from_manifest(scorer.manifest)
        params, overrides = config.decision.apply(fitted), config.decision.overrides(fitted)
        for lacking in scorer.manifest.heads.lacking:
            log.warning("%s", lacking)
        for override in overrides:
            log.warning("the configuration overrides the bundle's decision: %s", override)
        e = config.events
        store = EventStore(e.dir, Retention(e.retention_days, e.max_mb * 2**20, e.min_free_mb * 2**20))
        stack.callback(store.close)
        stack.enter_context(_only_one(store.root))
        board, url = Board(), ""
        if config.status.enabled:
            token = read_token(config.status.token_file) if config.status.token_file else ""
            pictures = evidence_reader(e.dir), evidence_reader(e.dir, clip=True)
            server = StatusServer(board, config.status.host, config.status.port, token, *pictures)
            url = stack.enter_context(server).url
        feed = stack.enter_context(feed_for(source, config.capture))
        watch = Watch(
            feed=feed,
            reader=ScreenReader(scorer.manifest.preprocessing),
            scorer=scorer,
            exam=Exam(params, _first_exam_id(store)),
            store=store,
            board=board,
            identity=Identity(
                redact(config.source.name or source.name), scorer.label, scorer.runner_name, start.bundle, scorer.fallback,
                overrides, scorer.manifest.heads.lacking,
            ),
            stall_s=config.capture.stall_s,
            wall=WallClock(store.root),
            notifier=start.notifier,
            on_verdict=on_verdict,
        )
        gc.collect()
        gc.freeze()  # what is loaded by now stays: looking through it for garbage held up the loop for 14 ms, now and then
        stack.callback(gc.unfreeze)
        yield Watching(watch, scorer, store, board, url)


def _first_exam_id(store: EventStore) -> int:
    """Exams are numbered on from the last flagged one. A store that cannot be read must not keep the daemon from watching: the
    loop says so on the page and tries again."""
    try:
        return store.next_exam_id()
    except StoreError as error:
        log.error("flags cannot be written, they wait in memory: %s", error)
        return 1
