"""Software is taken back and forth over a store with events: what an older version does in a newer store, and the other way."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from edge import __version__
from edge.events import EventStore, NewEvent, schema

# What hygroma 0.1.0 (commit 8222f26) wrote and read, word for word: its columns, its version, its refusal of a newer one.
OLD_INSERT = (
    "INSERT INTO events (exam_id, source, frame_id, t_wall, latency_ms, hygroma, evidence, bundle, image_path,"
    " image_sha256, image_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
OLD_COLUMNS = (
    "id, exam_id, source, frame_id, t_wall, latency_ms, hygroma, evidence, bundle, image_path, image_sha256, review, reviewed_by,"
    " clip_path, clip_sha256, pinned"
)
OLD_VERSION = 2
TODAY = "2026-11-23T10:00:00+00:00"


def flag(exam_id: int) -> NewEvent:
    return NewEvent(exam_id, "file:x", 7, time.monotonic_ns(), TODAY, 0.9, 6.5, "student 0.1.0", b"picture", clock="set by hand")


def old_program_flags(root: Path, exam_id: int) -> list[tuple]:
    """Opens the store as the old program did, commits a flag, reviews it, and returns what it lists."""
    database = sqlite3.connect(root / "events.db")
    with database:
        assert database.execute("PRAGMA user_version").fetchone()[0] <= OLD_VERSION
        name = f"evidence/2026-11-23/old-{exam_id}.png"
        database.execute(OLD_INSERT, (exam_id, "s", 1, TODAY, 40.0, 0.9, 6.0, "b", name, "00", 5))
        database.execute("UPDATE events SET review = 'confirmed', reviewed_by = 'A' WHERE exam_id = ?", (exam_id,))
        rows = database.execute(f"SELECT {OLD_COLUMNS} FROM events ORDER BY id").fetchall()
    database.close()
    return rows


@pytest.mark.requirement("U-08")
def test_software_that_is_taken_back_reads_and_writes_the_store_of_the_newer_one(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.commit(flag(1))
    rows = old_program_flags(tmp_path, 2)
    assert [row[1] for row in rows] == [1, 2]  # the newer one's flag is listed too
    with EventStore(tmp_path) as store:  # and forth again
        assert [review.reviewed_by for review in store.reviews(2)] == ["A"]  # the older program's decision is kept too
        new, old = store.events()[1], store.events()[0]
        assert (new.exam_id, new.clock) == (1, "set by hand") and new.t_mono_ns > 0
        assert (old.exam_id, old.review, old.clock, old.boot, old.t_mono_ns) == (2, "confirmed", "", "", 0)
        assert store.next_exam_id() == 3 and store.commit(flag(3)).id == 3


def old_store(root: Path) -> None:
    """As the old program made it, with one flag."""
    database = sqlite3.connect(root / "events.db")
    with database:
        database.execute(schema.SCHEMA)
        for statement in schema.INDICES:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {OLD_VERSION}")
    database.close()
    old_program_flags(root, 1)


@pytest.mark.requirement("U-08")
def test_a_step_is_taken_with_a_copy_beside_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old_store(tmp_path)
    (tmp_path / f"events.db{schema.BEFORE}0.0.9").write_bytes(b"of the step before this one")
    with EventStore(tmp_path) as store:
        assert store.commit(flag(2)).exam_id == 2
        assert [review.reviewed_by for review in store.reviews(1)] == ["A"]  # what was decided before there was a history
    (copy,) = tmp_path.glob(f"events.db{schema.BEFORE}*")
    assert copy.name.endswith(__version__) and copy.name in caplog.text
    with sqlite3.connect(copy) as database:
        assert [row[1] for row in database.execute(f"SELECT {OLD_COLUMNS} FROM events")] == [1]
        assert "clock" not in {row[1] for row in database.execute("PRAGMA table_info(events)")}
    database.close()
    caplog.clear()
    EventStore(tmp_path).open()
    assert not caplog.text  # taken once


@pytest.mark.requirement("U-08")
def test_no_room_for_the_copy_costs_no_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old_store(tmp_path)

    def full(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge.events.schema.os.replace", full)
    with EventStore(tmp_path) as store:
        assert [event.exam_id for event in store.events()] == [1]
    assert "no copy could be laid beside it" in caplog.text and not list(tmp_path.glob(f"*{schema.BEFORE}*"))


@pytest.mark.requirement("U-08")
def test_a_store_of_a_later_version_is_read_and_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EventStore(tmp_path).open()
    with sqlite3.connect(tmp_path / "events.db") as database:  # as a version to come may change it: it adds, and says so
        database.execute("ALTER TABLE events ADD COLUMN gestation TEXT NOT NULL DEFAULT 'unknown'")
        database.execute("CREATE TABLE calls (event INTEGER NOT NULL)")
        database.execute("CREATE TRIGGER called AFTER INSERT ON events BEGIN INSERT INTO calls VALUES (new.id); END")
        database.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 5}")
    database.close()
    with EventStore(tmp_path) as store:
        event = store.commit(flag(1))
        assert store.review(event.id, "dismissed", "B").review == "dismissed"
    assert "a newer hygroma made it" in caplog.text
    with sqlite3.connect(tmp_path / "events.db") as database:
        assert database.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA_VERSION + 5,)
        assert database.execute("SELECT gestation, review FROM events").fetchall() == [("unknown", "dismissed")]
        assert database.execute("SELECT event FROM calls").fetchall() == [(event.id,)]
    database.close()
