"""How the event store's database is laid out, and how one of another version is taken over.

**Migrations only add.** A column that comes has a default, a table or a trigger that comes serves an older program's writes too.
So software can be taken back: an older version reads and writes what it knows in a newer store, and a newer one finds all of
it again. Before a store is changed, a copy of its database is laid beside it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from edge import __version__
from edge.errors import StoreError

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2  # of a store that this program makes
BEFORE = ".before-"  # events.db.before-0.2.0: the copy, as it was before that version of hygroma changed it

SCHEMA = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again, so that an exported number stays one event's
    exam_id INTEGER NOT NULL, source TEXT NOT NULL, frame_id INTEGER NOT NULL, t_wall TEXT NOT NULL,
    latency_ms REAL NOT NULL, hygroma REAL NOT NULL, evidence REAL NOT NULL, bundle TEXT NOT NULL,
    image_path TEXT NOT NULL UNIQUE, image_sha256 TEXT NOT NULL, review TEXT NOT NULL DEFAULT 'open',
    reviewed_by TEXT NOT NULL DEFAULT '', reviewed_at TEXT NOT NULL DEFAULT '',
    image_bytes INTEGER NOT NULL, pinned INTEGER NOT NULL DEFAULT 0,
    clip_path TEXT NOT NULL DEFAULT '', clip_sha256 TEXT NOT NULL DEFAULT '', clip_bytes INTEGER NOT NULL DEFAULT 0
);
"""
# Columns that came since version 2, as declared. Each has a default, so that an older program writes rows without it.
ADDED = {
    "boundary": "TEXT NOT NULL DEFAULT ''",
    "overrides": "TEXT NOT NULL DEFAULT ''",
    "clock": "TEXT NOT NULL DEFAULT ''",
    "boot": "TEXT NOT NULL DEFAULT ''",
    "t_mono_ns": "INTEGER NOT NULL DEFAULT 0",
}
_FROM_1 = (  # a store of version 1 had no clips
    "ALTER TABLE events ADD COLUMN clip_path TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE events ADD COLUMN clip_sha256 TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE events ADD COLUMN clip_bytes INTEGER NOT NULL DEFAULT 0",
)
REMOVABLE = "review != 'confirmed' AND pinned = 0"
# What keeps every call's cost the same however many events there are. The version stays: triggers and indices serve an older
# program's writes too, so going back to one loses nothing.
INDICES = (
    "CREATE TABLE IF NOT EXISTS totals (bytes INTEGER NOT NULL, last_exam INTEGER NOT NULL)",  # one row, of all ever flagged
    "INSERT INTO totals SELECT (SELECT coalesce(sum(image_bytes + clip_bytes), 0) FROM events),"
    " (SELECT coalesce(max(exam_id), 0) FROM events) WHERE NOT EXISTS (SELECT 1 FROM totals)",
    "CREATE TRIGGER IF NOT EXISTS event_added AFTER INSERT ON events BEGIN UPDATE totals SET"
    " bytes = bytes + new.image_bytes + new.clip_bytes, last_exam = max(last_exam, new.exam_id); END",
    "CREATE TRIGGER IF NOT EXISTS event_resized AFTER UPDATE OF image_bytes, clip_bytes ON events BEGIN UPDATE totals SET"
    " bytes = bytes + new.image_bytes + new.clip_bytes - old.image_bytes - old.clip_bytes; END",
    "CREATE TRIGGER IF NOT EXISTS event_removed AFTER DELETE ON events BEGIN UPDATE totals SET"
    " bytes = bytes - old.image_bytes - old.clip_bytes; END",
    "CREATE INDEX IF NOT EXISTS events_time ON events (t_wall)",
    f"CREATE INDEX IF NOT EXISTS events_removable_time ON events (t_wall) WHERE {REMOVABLE}",
    f"CREATE INDEX IF NOT EXISTS events_removable_review ON events (review, id) WHERE {REMOVABLE}",
    "CREATE INDEX IF NOT EXISTS events_clip ON events (clip_path) WHERE clip_path != ''",
    "CREATE INDEX IF NOT EXISTS events_review ON events (review, id)",
    "CREATE TABLE IF NOT EXISTS store (id TEXT NOT NULL)",  # one row: two stores' exports are told apart by it
    "INSERT INTO store SELECT lower(hex(randomblob(8))) WHERE NOT EXISTS (SELECT 1 FROM store)",
    # What people decided, all of it: the event itself keeps the last decision alone.
    "CREATE TABLE IF NOT EXISTS reviews (event INTEGER NOT NULL, review TEXT NOT NULL, reviewed_by TEXT NOT NULL,"
    " reviewed_at TEXT NOT NULL)",
    "INSERT INTO reviews SELECT id, review, reviewed_by, reviewed_at FROM events WHERE reviewed_by != ''"
    " AND NOT EXISTS (SELECT 1 FROM reviews WHERE event = events.id)",
    "CREATE INDEX IF NOT EXISTS reviews_event ON reviews (event)",
    "CREATE TRIGGER IF NOT EXISTS review_forgotten AFTER DELETE ON events BEGIN DELETE FROM reviews WHERE event = old.id; END",
    "CREATE TRIGGER IF NOT EXISTS review_kept AFTER UPDATE OF review ON events BEGIN INSERT INTO reviews"
    " VALUES (new.id, new.review, new.reviewed_by, new.reviewed_at); END",
)
_NEWEST = "review_kept"  # a store that has it has them all


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the tables of a new store, and adds to an older one's what is missing. StoreError: a newer store without something
    that this program reads."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = _version(connection)
    if version > SCHEMA_VERSION:
        if lacking := _missing(connection):
            raise StoreError(
                f"{path}: schema version {version} without {', '.join(lacking)}, which this hygroma ({SCHEMA_VERSION}) reads;"
                " update hygroma, or set events.dir to another directory"
            )
        log.warning("%s: a newer hygroma made it (schema %d); what is new in it is kept, and not shown", path, version)
        return
    if version == SCHEMA_VERSION and _is_indexed(connection) and not _missing(connection):
        return
    if version:
        _copy_beside(connection, path)
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # two programs may open a new or older store at once
        version = _version(connection)
        for statement in {0: (SCHEMA,), 1: _FROM_1}.get(version, ()):
            connection.execute(statement)
        for column in _missing(connection):
            connection.execute(f"ALTER TABLE events ADD COLUMN {column} {ADDED[column]}")
        for statement in () if _is_indexed(connection) else INDICES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _copy_beside(connection: sqlite3.Connection, path: Path) -> None:
    """One copy, of the store as it was before this version; a copy that an earlier version left goes. Without room for it the
    step is taken all the same: it adds, and no flag may wait for it."""
    copy = path.with_name(f"{path.name}{BEFORE}{__version__}")
    if copy.exists():
        return
    unfinished = copy.with_name(copy.name + ".tmp")
    try:
        unfinished.unlink(missing_ok=True)
        connection.execute("VACUUM INTO ?", (str(unfinished),))
        os.replace(unfinished, copy)
    except (sqlite3.Error, OSError) as error:
        log.warning("%s: no copy could be laid beside it before it was changed (%s)", path, error)
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        return
    log.warning("%s: changed for hygroma %s; as it was before: %s", path, __version__, copy.name)
    for older in path.parent.glob(f"{path.name}{BEFORE}*"):
        if older != copy:
            with suppress(OSError):
                older.unlink()


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _missing(connection: sqlite3.Connection) -> list[str]:
    there = {row[1] for row in connection.execute("PRAGMA table_info(events)")}
    return [column for column in ADDED if column not in there]


def _is_indexed(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_NEWEST,))
    return found.fetchone() is not None
