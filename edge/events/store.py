"""The event store: one SQLite row per flag, and one image that was durable before its row.

A row that is there has its image; an image without a row is what a power cut left, and is swept later. WAL with
synchronous=FULL: a commit that returned is on the disk. One writer (the daemon's loop); `hygroma events` may read and
review beside it.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path, PurePosixPath

from edge.clock import UNKNOWN
from edge.errors import NoSuchEvent, StoreError
from edge.events.disk import Disk, why_unwritable
from edge.events.schema import REMOVABLE, prepare
from edge.records import REVIEWER, REVIEWER_MAX, REVIEWS, Event
from edge.redaction import printable

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 1.0  # seconds to wait for another process's write; more would hold up the daemon's loop
CLOCK_FLOOR = "2025-06"  # ISO month; an event dated earlier was flagged before anybody set the clock
CLOCK_SLACK_S = (
    60.0  # seconds that the wall clock may gain on the monotonic one while the store is open; more is a jump
)
ORPHAN_AGE_S = 3600.0  # seconds; an image without a row that is younger may belong to a commit under way
FORGOTTEN_AT_ONCE = 100  # events that one `retain` removes at most: the daemon's loop waits for it
NEWEST_KEPT = 20  # open events, the newest, that no lack of room removes: what the page shows
RESERVE, RESERVE_BYTES = "reserve", 2**20  # a file that gives way when SQLite needs room to remove events from a full disk
FORGOTTEN_WITH_RESERVE = 10  # events that one `retain` then removes: of many the log alone could be larger than the reserve
SWEPT_AT_ONCE = 500  # files that one `retain` looks at for orphans, for the same reason

FILES_MIN = 100  # files that the disk must still take: an exam's picture and clip, with SQLite's own, need five
NO_FILES = "the disk has room and takes no more files (no inodes left); remove small files that nobody needs"
IMAGE_BYTES = 50_000  # of an event's evidence image, about
EVIDENCE = "evidence"  # the folder of all pictures and clips
_COLUMNS = ", ".join(item.name for item in fields(Event))


@dataclass(frozen=True)
class NewEvent:
    """A flag on its way into the store. `image` is PNG; `t_mono_ns` the capture stamp of the newest frame behind it. By `key`
    the store knows one that it was given before."""

    exam_id: int
    source: str  # credentials removed
    frame_id: int
    t_mono_ns: int
    t_wall: str  # ISO 8601, UTC
    hygroma: float
    evidence: float
    bundle: str
    image: bytes
    boundary: str = ""  # as in Verdict
    overrides: str = ""  # as in Event
    clock: str = UNKNOWN  # how t_wall was known: see edge/clock.py
    boot: str = ""
    key: str = field(default_factory=lambda: uuid.uuid4().hex[:8])


@dataclass(frozen=True)
class Review:
    """What a person decided, who it was, and when: ISO 8601, UTC."""

    review: str
    reviewed_by: str
    reviewed_at: str


@dataclass(frozen=True)
class Retention:
    """Confirmed and pinned events are kept for ever; see `EventStore.retain`."""

    days: float = 365
    max_bytes: int = 2048 * 2**20
    min_free_bytes: int = 512 * 2**20


class EventStore:
    """Opens on first use, so that a daemon whose disk is full still starts and watches. Used from one thread."""

    def __init__(
        self,
        root: str | Path,
        retention: Retention | None = None,
        disk: Disk | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        create: bool = True,
        wall: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        """`create=False` (reading commands): a store that is not there is an error, not made."""
        self.root = Path(root)
        self._retention, self._disk = retention or Retention(), disk or Disk()
        self._clock_ns, self._create = clock_ns, create
        self._wall, self._opened = wall, (wall(), clock_ns())
        self._connection: sqlite3.Connection | None = None
        self._copy: tempfile.TemporaryDirectory[str] | None = None  # of a store that this user may only read
        self._unswept: Iterator[Path] = iter(())

    def __enter__(self) -> EventStore:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        """StoreError: not writable, not a store, or damaged. Opening twice does nothing."""
        with self._telling("opened"):
            self._db()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def commit(self, new: NewEvent) -> Event:
        """The flag, durable when this returns: first its image, then its row. StoreError: nothing was acknowledged; given once
        more, the same flag takes the same place, however far it had come."""
        name = f"{self._day(new.t_wall)}/exam{new.exam_id}-frame{new.frame_id}-{new.key}.png"
        digest = hashlib.sha256(new.image).hexdigest()
        with self._telling("written"):
            database = self._db()
            # A name never costs a flag: what of it no database takes is written out.
            source, bundle, boundary = (printable(text) for text in (new.source, new.bundle, new.boundary))
            row = (new.exam_id, source, new.frame_id, new.t_wall, self._age_ms(new), new.hygroma, new.evidence,
                   bundle, name, digest, len(new.image), boundary, new.overrides, new.clock, new.boot,
                   new.t_mono_ns)  # fmt: skip
            if database.execute("SELECT 1 FROM events WHERE image_path = ?", (name,)).fetchone() is None:
                self._write(name, new.image)
                with database:
                    database.execute(
                        "INSERT INTO events (exam_id, source, frame_id, t_wall, latency_ms, hygroma, evidence, bundle,"
                        " image_path, image_sha256, image_bytes, boundary, overrides, clock, boot, t_mono_ns)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        row,
                    )
            latency_ms = self._age_ms(new)  # known only now that the row is durable
            with database:
                database.execute("UPDATE events SET latency_ms = ? WHERE image_path = ?", (latency_ms, name))
            (event_id,) = database.execute("SELECT id FROM events WHERE image_path = ?", (name,)).fetchone()
            return self._one(event_id)

    def attach_clip(self, event_id: int, clip: bytes) -> Event:
        """The seconds around a flag that was committed: first the file, then its name in the row. StoreError: there is no
        such event (retention may have taken it), or the disk refused; the event itself stays as it was."""
        event = self.show(event_id)
        name = str(Path(event.image_path).with_suffix(".webp"))
        with self._telling("written"):
            self._write(name, clip)
            database = self._db()
            with database:
                database.execute(
                    "UPDATE events SET clip_path = ?, clip_sha256 = ?, clip_bytes = ? WHERE id = ?",
                    (name, hashlib.sha256(clip).hexdigest(), len(clip), event_id),
                )
            return self._one(event_id)

    def replace_image(self, event_id: int, image: bytes) -> Event:
        """The picture of an event whose own was withheld when it was committed. StoreError as `attach_clip`."""
        event = self.show(event_id)
        name = event.image_path.removesuffix(".png") + "-shown.png"
        with self._telling("written"):
            self._write(name, image)
            database = self._db()
            with database:
                database.execute(
                    "UPDATE events SET image_path = ?, image_sha256 = ?, image_bytes = ? WHERE id = ?",
                    (name, hashlib.sha256(image).hexdigest(), len(image), event_id),
                )
            self._disk.remove(self._place(event.image_path))
            return self._one(event_id)

    def _write(self, name: str, data: bytes) -> None:
        path = self._place(name)
        if not path.parent.exists():  # a new day's folder must itself be durable before anything in it is
            self._disk.make_folder(self.root / EVIDENCE)
            self._disk.make_folder(path.parent)
            self._disk.sync_directory(path.parent.parent)
            self._disk.sync_directory(self.root)
        self._disk.write_durable(path, data)

    def _day(self, t_wall: str) -> str:
        """The folder of a day; another of the same day where this user may not write it (another user's daemon made it)."""
        day = f"{EVIDENCE}/{t_wall[:10]}"
        folder = self.root / day
        return f"{day}-{os.geteuid()}" if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK) else day

    def _place(self, name: str) -> Path:
        """Where a row's file lies. StoreError for a name that leads out of the store: rows are another program's, too."""
        path = self.root / name
        parts = PurePosixPath(name).parts
        if parts[:1] != (EVIDENCE,) or ".." in parts or not path.parent.resolve().is_relative_to(self.root.resolve() / EVIDENCE):
            raise StoreError(f"{self.root / 'events.db'}: a row names {name[:80]!r}, outside its evidence; it is left alone")
        return path

    def events(self, review: str | None = None, limit: int = 1000) -> list[Event]:
        """Newest first. `review`: only events in that state."""
        where, values = ("WHERE review = ?", (_checked_review(review),)) if review else ("", ())
        with self._telling("read"):
            query = f"SELECT {_COLUMNS} FROM events {where} ORDER BY id DESC LIMIT ?"
            return [_event(row) for row in self._db().execute(query, (*values, limit))]

    def show(self, event_id: int) -> Event:
        """StoreError when there is no such event."""
        with self._telling("read"):
            return self._one(event_id)

    def image(self, event: Event) -> bytes:
        """The evidence image, checked against its hash. StoreError when it is missing or was altered."""
        return self._read(event.id, event.image_path, event.image_sha256, "image")

    def clip(self, event: Event) -> bytes | None:
        """The clip as WebP, None for an event without one. StoreError as `image`."""
        return self._read(event.id, event.clip_path, event.clip_sha256, "clip") if event.clip_path else None

    def _read(self, event_id: int, name: str, digest: str, what: str) -> bytes:
        with self._telling("read"):
            data = self._place(name).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(f"{self.root / name}: not the {what} that was committed with event {event_id}")
        return data

    def review(self, event_id: int, review: str, by: str) -> Event:
        """Record that a person (`by`) confirmed or dismissed the event, or opened it again. StoreError: no such event, or no
        name."""
        _checked_review(review)
        _check_reviewer(by)
        with self._telling("written"):
            database = self._db()
            with database:
                database.execute(
                    "UPDATE events SET review = ?, reviewed_by = ?, reviewed_at = ? WHERE id = ?",
                    (review, by, _utc_now().isoformat(timespec="seconds"), event_id),
                )
            return self._one(event_id)

    def reviews(self, event_id: int) -> list[Review]:
        """Every decision on an event, the oldest first; `review` adds to them and takes none away."""
        with self._telling("read"):
            query = "SELECT review, reviewed_by, reviewed_at FROM reviews WHERE event = ? ORDER BY rowid"
            return [Review(*row) for row in self._db().execute(query, (event_id,))]

    def identity(self) -> str:
        """16 hex digits that no other store has."""
        with self._telling("read"):
            return str(self._db().execute("SELECT id FROM store").fetchone()[0])

    def pin(self, event_id: int, pinned: bool = True) -> Event:
        """A pinned event is never removed by retention. StoreError: no such event."""
        with self._telling("written"):
            database = self._db()
            with database:
                database.execute("UPDATE events SET pinned = ? WHERE id = ?", (int(pinned), event_id))
            return self._one(event_id)

    def next_exam_id(self) -> int:
        """One more than any exam that was ever flagged here; exams without a flag leave no trace."""
        with self._telling("read"):
            return self._db().execute("SELECT last_exam FROM totals").fetchone()[0] + 1

    def retain(self) -> int:
        """Remove what is too old or too much; returns how many events went. Call it now and then from the writer, and again
        soon when FORGOTTEN_AT_ONCE went: there may be more.

        By age (if the clock can be believed: `_oldest_kept`) and by bytes any event goes that is neither confirmed nor
        pinned, dismissed ones first, then the oldest; but of those that nobody has looked at the NEWEST_KEPT stay, however
        much the confirmed and pinned ones take. For free space only dismissed ones go: a disk that something else filled
        must not cost a flag that nobody has looked at.
        """
        with self._telling("cleaned up"):
            try:
                removed = self._forget_all(FORGOTTEN_AT_ONCE)
            except sqlite3.OperationalError:  # on a disk without a byte left SQLite cannot even write down what goes
                if not (self.root / RESERVE).exists():
                    raise
                self._disk.remove(self.root / RESERVE)
                removed = self._forget_all(FORGOTTEN_WITH_RESERVE)
            self._keep_reserve()
            if removed:
                log.info("%s: %d events were too old or too much, and were removed", self.root, removed)
            elif (excess := self._bytes_kept() - self._retention.max_bytes) > 0:
                log.warning(
                    "%s: %d MB more than events.max_mb, all confirmed, pinned or new; export some and unpin them, or raise it",
                    self.root,
                    -(-excess // 2**20),
                )
            self._sweep_orphans()
            return removed

    def _forget_all(self, most: int) -> int:
        removed = self._forget_aged(most)
        for review in ("dismissed", "open"):
            excess = self._bytes_kept() - self._retention.max_bytes
            removed += self._forget_bytes(review, excess, most - removed)
        removed += self._forget_bytes("dismissed", self._shortage(), most - removed)
        return removed + self._forget_bytes("dismissed", self._file_shortage(), most - removed)

    def _keep_reserve(self) -> None:
        if not self.is_short_of_space() and not (self.root / RESERVE).exists():
            with suppress(OSError):
                self._disk.write_durable(self.root / RESERVE, bytes(RESERVE_BYTES))

    def is_short_of_space(self) -> bool:
        """Whether the disk has less room than is to be left free, so that `retain` may help a flag that finds none."""
        try:
            return self._shortage() > 0 or self._file_shortage() > 0
        except OSError:  # a disk that tells nothing
            return False

    def _shortage(self) -> int:
        reserve = 0 if (self.root / RESERVE).exists() else RESERVE_BYTES  # one that gave way is to be made again
        return self._retention.min_free_bytes + reserve - self._disk.free_bytes(self.root)

    def _file_shortage(self) -> int:
        """Bytes of events to remove where the disk takes few more files, whatever room it has: about as many as go at once."""
        short = self._disk.free_files(self.root) < FILES_MIN
        return FORGOTTEN_AT_ONCE * IMAGE_BYTES if short else 0

    def _forget_aged(self, most: int) -> int:
        aged = self._db().execute(
            f"SELECT id, image_path, clip_path FROM events WHERE {REMOVABLE} AND t_wall > ? AND t_wall < ?"
            " ORDER BY t_wall LIMIT ?",
            (CLOCK_FLOOR, self._oldest_kept(), most),
        )
        return self._forget(aged.fetchall())

    def _oldest_kept(self) -> str:
        """ISO time; what is dated before it is too old. "" (nothing is) when the clock has jumped while this store was open.
        Age is counted from the newest flag at most: a box that starts with a clock a year ahead must not take all for old."""
        wall, (opened, opened_ns) = self._wall(), self._opened
        gained_s = (wall - opened).total_seconds() - (self._clock_ns() - opened_ns) / 1e9
        if abs(gained_s) > CLOCK_SLACK_S:
            log.warning("the clock jumped by %.0f s: no event is removed for its age until the next start", gained_s)
            return ""
        (newest,) = self._db().execute("SELECT max(t_wall) FROM events").fetchone()
        days = timedelta(days=self._retention.days)
        try:
            return (min(wall, datetime.fromisoformat(newest).astimezone(timezone.utc)) - days).isoformat()
        except (TypeError, ValueError, OverflowError):  # no event, or a time that is none
            return ""

    def _forget_bytes(self, review: str, wanted: int, most: int) -> int:
        """Removes the oldest of one review state until `wanted` bytes are gone; nothing for 0 and below."""
        doomed: list[tuple[int, str, str]] = []
        if wanted > 0:
            found = self._db().execute(
                f"SELECT id, image_path, clip_path, image_bytes + clip_bytes FROM events WHERE {REMOVABLE} AND review = ?"
                " AND id < ? ORDER BY id LIMIT ?",
                (review, self._first_kept() if review == "open" else 2**63 - 1, most),
            )
            for *row, size in found.fetchall():
                if wanted <= 0:
                    break
                doomed.append((row[0], row[1], row[2]))
                wanted -= size
        return self._forget(doomed)

    def _first_kept(self) -> int:
        """The number of the oldest of the NEWEST_KEPT open events; 0 when there are fewer."""
        query = f"SELECT id FROM events WHERE {REMOVABLE} AND review = 'open' ORDER BY id DESC LIMIT 1 OFFSET ?"
        found = self._db().execute(query, (NEWEST_KEPT - 1,)).fetchone()
        return found[0] if found else 0

    def _forget(self, rows: list[tuple[int, str, str]]) -> int:
        """Rows first: a row without its image would be a broken promise, an image without a row is only an orphan."""
        if rows:
            database = self._db()
            with database:
                database.executemany("DELETE FROM events WHERE id = ?", [(row[0],) for row in rows])
        for _, *paths in rows:
            for path in filter(None, paths):
                try:
                    self._disk.remove(self._place(path))
                except StoreError as error:
                    log.error("%s", error)
        return len(rows)

    def _bytes_kept(self) -> int:
        return self._db().execute("SELECT bytes FROM totals").fetchone()[0]

    def _sweep_orphans(self) -> None:
        """Looks at the next SWEPT_AT_ONCE files, and begins again after the last: all are seen in the end."""
        some = list(islice(self._unswept, SWEPT_AT_ONCE))
        if len(some) < SWEPT_AT_ONCE:
            self._unswept = self._files()
            some += islice(self._unswept, SWEPT_AT_ONCE - len(some))
        for path in some:
            name = path.relative_to(self.root).as_posix()
            known = self._db().execute(
                "SELECT 1 FROM events WHERE image_path = ?1"
                " UNION ALL SELECT 1 FROM events WHERE clip_path = ?1 AND clip_path != ''",
                (name,),
            )
            if known.fetchone() is None:
                with suppress(FileNotFoundError):  # listed, and removed since
                    if time.time() - path.lstat().st_mtime > ORPHAN_AGE_S:
                        self._disk.remove(path)

    def _files(self) -> Iterator[Path]:
        """Every file of evidence. A day is a folder, listed whole when its turn comes: none stays open from call to call."""
        for day in _listed(self.root / EVIDENCE, os.DirEntry.is_dir):
            yield from _listed(day, os.DirEntry.is_file)

    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._create:
                if problem := why_unwritable(self.root):
                    raise StoreError(
                        f"{self.root}: cannot be opened for writing ({problem}); name a folder that this user may write"
                        " with --events or events.dir"
                    )
                self._disk.make_folder(self.root)
            elif not (self.root / "events.db").is_file():
                raise StoreError(f"{self.root}: holds no event store; give the directory that events.dir names")
            path = self.root / "events.db"
            if not self._create and not _writable(path):
                path = self._copied(path)
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)
            try:
                prepare(connection, path)
                self._disk.hand_over(path)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _copied(self, path: Path) -> Path:
        """A copy of a store that this user may only read, while it is open: SQLite reads none without writing beside it."""
        self._copy = tempfile.TemporaryDirectory(prefix="hygroma-store-")
        for part in (path, path.with_name(f"{path.name}-wal")):
            if part.is_file():
                shutil.copyfile(part, Path(self._copy.name) / part.name)
        return Path(self._copy.name) / path.name

    def _one(self, event_id: int) -> Event:
        row = self._db().execute(f"SELECT {_COLUMNS} FROM events WHERE id = ?", (event_id,)).fetchone()
        if row is None:
            raise NoSuchEvent(f"{self.root}: there is no event {event_id}; `hygroma events list` shows those there are")
        return _event(row)

    def _age_ms(self, new: NewEvent) -> float:
        return (self._clock_ns() - new.t_mono_ns) / 1e6

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Turns what the disk and SQLite say into a StoreError that names the store and what could not be done."""
        try:
            if what != "read" and self._copy is not None:
                raise StoreError(f"{self.root}: cannot be {what}: this user may only read it; use the one that it belongs to")
            yield
        except sqlite3.DatabaseError as error:
            self.close()  # opened afresh next time: the cause may be gone by then
            raise StoreError(f"{self.root / 'events.db'}: cannot be {what} ({error}); {self._advice(str(error))}") from error
        except (OverflowError, UnicodeEncodeError) as error:
            raise StoreError(
                f"{self.root / 'events.db'}: cannot be {what} ({error}); give a number under 2**63 and plain text"
            ) from error
        except OSError as error:
            said = NO_FILES if error.errno == errno.ENOSPC and self._takes_no_file() else "check space and permissions"
            raise StoreError(
                f"{error.filename or self.root}: cannot be {what} ({error.strerror or error}); {said}"
            ) from error

    def _advice(self, said: str) -> str:
        """What to do about an error of SQLite's."""
        if "locked" in said:
            return "another program is writing there; try again"
        if "readonly" in said or "unable to open" in said:
            return "check whose files these are: the service's user must be able to write all of them"
        if "full" in said and self._takes_no_file():
            return NO_FILES
        return (
            "check the disk's space and health. If the file is damaged, move it aside and keep it: a new store is made"
        )

    def _takes_no_file(self) -> bool:
        try:
            return self._disk.free_files(self.root) == 0
        except OSError:
            return False


def evidence_reader(root: str | Path, clip: bool = False) -> Callable[[int], bytes | None]:
    """A function from an event's id to its PNG, or its clip, for other threads than the store's: it opens the store for
    each call. None when there is no such picture, or not the one that was committed."""

    def read(event_id: int) -> bytes | None:
        try:
            with EventStore(root, create=False) as store:
                event = store.show(event_id)
                return store.clip(event) if clip else store.image(event)
        except StoreError:
            return None

    return read


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)


def _listed(folder: Path, wanted: Callable[..., bool]) -> list[Path]:
    """What there is of one kind, links left out; nothing of a folder that is not there (any more)."""
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if wanted(entry, follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _event(row: tuple) -> Event:
    event = Event(*row)
    return replace(event, pinned=bool(event.pinned))  # SQLite has no booleans


def _checked_review(review: str) -> str:
    if review not in REVIEWS:
        raise StoreError(f"review: found {review!r}, must be one of {', '.join(REVIEWS)}")
    return review


def _check_reviewer(by: str) -> None:
    if not by.strip() or len(by) > REVIEWER_MAX or not re.fullmatch(REVIEWER, by):
        raise StoreError(f"review: found {by[:REVIEWER_MAX]!r}, must be who decided: one line of 1 to {REVIEWER_MAX} letters")


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)
