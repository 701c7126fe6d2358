"""What was acknowledged is there, image before row; what failed was not acknowledged; retention keeps what it must."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge.errors import StoreError
from edge.events import Disk, EventStore, NewEvent, Retention, evidence_reader, export, schema
from edge.events import store as store_module

TODAY = "2026-11-23T10:00:00.000+00:00"
LONG_AGO = "2025-07-01T10:00:00.000+00:00"


def flag(exam_id: int = 1, t_wall: str = TODAY, image: bytes = b"picture") -> NewEvent:
    return NewEvent(exam_id, "file:x", 7, time.monotonic_ns(), t_wall, 0.9, 6.5, "student 0.1.0", image)


class FakeDisk(Disk):
    """Records what was done, and fails at the step that it is told to."""

    def __init__(self, fail: str = "", free: int = 10**12) -> None:
        self.fail, self.free = fail, free
        self.done: list[str] = []

    def _step(self, name: str) -> None:
        if name == self.fail:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the disk")
        self.done.append(name)

    def write(self, path: Path, data: bytes) -> None:
        self._step("write")
        super().write(path, data)

    def rename(self, old: Path, new: Path) -> None:
        self._step("rename")
        super().rename(old, new)

    def sync_directory(self, path: Path) -> None:
        self._step("sync " + path.name)
        super().sync_directory(path)

    def free_bytes(self, path: Path) -> int:
        return self.free


def test_commit_show_and_read_again(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        event = store.commit(flag(exam_id=3))
        assert (event.exam_id, event.review, event.hygroma, event.frame_id) == (3, "open", 0.9, 7)
        assert 0 < event.latency_ms < 5000
    with EventStore(tmp_path, create=False) as store:
        assert store.events() == [event] == [store.show(event.id)]
        assert store.image(event) == b"picture"
        assert store.next_exam_id() == 4


def test_the_image_and_its_name_are_durable_before_the_row(tmp_path: Path) -> None:
    disk = FakeDisk()
    store = EventStore(tmp_path, disk=disk)
    rows_at_sync = []

    def sync_directory(path: Path) -> None:
        disk._step("sync " + path.name)
        with sqlite3.connect(tmp_path / "events.db") as other:
            rows_at_sync.append(other.execute("SELECT count(*) FROM events").fetchone()[0])

    disk.sync_directory = sync_directory  # type: ignore[method-assign]
    store.commit(flag())
    day = TODAY[:10]
    assert disk.done == ["sync evidence", f"sync {tmp_path.name}", "write", "rename", f"sync {day}"]
    assert rows_at_sync == [0, 0, 0]
    assert len(store.events()) == 1


@pytest.mark.parametrize("fail", ["write", "rename", "sync 2026-11-23"])
def test_a_failing_disk_acknowledges_nothing_and_recovers(tmp_path: Path, fail: str) -> None:
    disk = FakeDisk(fail)
    store = EventStore(tmp_path, disk=disk)
    with pytest.raises(StoreError, match="No space left"):
        store.commit(flag())
    assert store.events() == []
    disk.fail = ""
    assert store.image(store.commit(flag())) == b"picture"


def test_a_flag_that_is_tried_again_and_again_takes_one_place(tmp_path: Path) -> None:
    new = flag()
    with EventStore(tmp_path) as store, sqlite3.connect(tmp_path / "events.db") as other:
        other.execute("BEGIN IMMEDIATE")  # another program that hangs in the middle of a write
        for _ in range(2):
            with pytest.raises(StoreError, match="locked"):
                store.commit(new)
        assert len(list(tmp_path.glob("evidence/*/*"))) == 1
        other.rollback()
        other.execute(
            "CREATE TRIGGER late BEFORE UPDATE OF latency_ms ON events BEGIN SELECT RAISE(FAIL, 'the disk is full'); END"
        )
        other.commit()
        with pytest.raises(StoreError, match="the disk is full"):  # the row is there, and nobody was told
            store.commit(new)
        other.execute("DROP TRIGGER late")
        other.commit()
        event = store.commit(new)
        assert store.events() == [event] and store.image(event) == new.image and event.latency_ms > 0


def test_half_a_picture_does_not_stay_on_a_full_disk(tmp_path: Path) -> None:
    class Full(FakeDisk):
        def write(self, path: Path, data: bytes) -> None:
            path.write_bytes(data[:3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with EventStore(tmp_path, disk=Full()) as store:
        with pytest.raises(StoreError, match="No space left"):
            store.commit(flag())
        assert list(tmp_path.glob("evidence/*/*")) == []


def test_commits_survive_kill_9(tmp_path: Path) -> None:
    program = (
        "import sys, time; from edge.events import EventStore, NewEvent\n"
        "store = EventStore(sys.argv[1])\n"
        "for n in range(10**6):\n"
        "    e = store.commit(NewEvent(n, 's', n, 0, '2026-11-23', .9, 6., 'b', b'x' * 1000))\n"
        "    print(e.id, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = [int(child.stdout.readline()) for _ in range(5)]
    child.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in child.stdout.read().split("\n") if line.isdigit()]
    child.wait(10)
    child.stdout.close()
    with EventStore(tmp_path, create=False) as store:
        found = {event.id: event for event in store.events(limit=-1)}
        assert set(acknowledged) <= set(found)
        assert all(store.image(event) == b"x" * 1000 for event in found.values())


def test_review_is_recorded(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        event = store.commit(flag())
        reviewed = store.review(event.id, "confirmed", "nurse A")
        assert (reviewed.review, reviewed.reviewed_by) == ("confirmed", "nurse A")
        assert store.events(review="open") == [] and store.events(review="confirmed") == [reviewed]
        with pytest.raises(StoreError, match="one of open, confirmed, dismissed"):
            store.review(event.id, "maybe", "nurse A")
        with pytest.raises(StoreError, match="there is no event 99"):
            store.review(99, "confirmed", "nurse A")
        for nobody in ("", " ", "two\nlines", "\x1b[31mred", "\u202etxt", "n" * 101):
            with pytest.raises(StoreError, match="who decided"):
                store.review(event.id, "dismissed", nobody)
        assert store.show(event.id) == reviewed


def test_what_sqlite_cannot_hold_is_told(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        event = store.commit(flag())
        with pytest.raises(StoreError, match=r"2\*\*63"):
            store.show(2**63)
        with pytest.raises(StoreError, match="plain text"):
            store.review(event.id, "confirmed", "nurse \udcff")
        assert store.events() == [event]


def test_an_altered_image_is_told(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        event = store.commit(flag())
        (tmp_path / event.image_path).write_bytes(b"another")
        with pytest.raises(StoreError, match="not the image that was committed"):
            store.image(event)
        assert evidence_reader(tmp_path)(event.id) is None


def test_evidence_for_other_threads(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        event = store.commit(flag())
        assert evidence_reader(tmp_path)(event.id) == b"picture"
    assert evidence_reader(tmp_path)(99) is None
    assert evidence_reader(tmp_path / "none")(1) is None


def test_export(tmp_path: Path) -> None:
    with EventStore(tmp_path / "store") as store:
        first, second = store.commit(flag(1)), store.commit(flag(2, image=b"other"))
        assert export(store, tmp_path / "out").events == (second, first)
        rows = json.loads((tmp_path / "out" / "events.json").read_text())
        assert [(tmp_path / "out" / row["image_path"]).read_bytes() for row in rows] == [b"other", b"picture"]
        with open(tmp_path / "out" / "events.csv", newline="") as file:
            assert [row["exam_id"] for row in csv.DictReader(file)] == ["2", "1"]
        assert export(store, tmp_path / "one", [first.id]).events == (first,)


def test_retention_by_age_keeps_confirmed_and_pinned(tmp_path: Path) -> None:
    with EventStore(tmp_path, Retention(days=30), FakeDisk()) as store:
        old, confirmed, pinned = (store.commit(flag(n, LONG_AGO)) for n in (1, 2, 3))
        new = store.commit(flag(4, "2999-01-01"))
        store.review(confirmed.id, "confirmed", "A")
        store.pin(pinned.id)
        assert store.retain() == 1
        assert {event.id for event in store.events()} == {confirmed.id, pinned.id, new.id}
        assert not (tmp_path / old.image_path).exists() and (tmp_path / new.image_path).exists()


def test_retention_by_bytes_takes_dismissed_first_then_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "NEWEST_KEPT", 1)
    with EventStore(tmp_path, Retention(days=10**4, max_bytes=250), FakeDisk()) as store:
        events = [store.commit(flag(n, "2999-01-01", b"x" * 100)) for n in range(4)]
        store.review(events[3].id, "dismissed", "A")
        assert store.retain() == 2
        assert [event.id for event in store.events()] == [events[2].id, events[1].id]


def test_confirmed_and_pinned_events_that_take_all_the_room_cost_no_new_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_module, "NEWEST_KEPT", 2)
    with EventStore(tmp_path, Retention(days=10**4, max_bytes=250), FakeDisk()) as store:
        events = [store.commit(flag(n, "2999-01-01", b"x" * 100)) for n in range(6)]
        store.review(events[0].id, "confirmed", "A")
        for pinned in events[1:3]:
            store.pin(pinned.id)
        assert [store.retain() for _ in range(2)] == [1, 0]
        assert [event.exam_id for event in store.events()] == [5, 4, 2, 1, 0]
        assert "more than events.max_mb" in caplog.text


def test_a_full_disk_costs_no_flag_that_nobody_has_seen(tmp_path: Path) -> None:
    with EventStore(tmp_path, Retention(days=10**4, min_free_bytes=10**6), FakeDisk(free=0)) as store:
        seen, unseen = store.commit(flag(1, "2999-01-01")), store.commit(flag(2, "2999-01-01"))
        store.review(seen.id, "dismissed", "A")
        assert store.retain() == 1
        assert [event.id for event in store.events()] == [unseen.id]


def test_a_disk_without_a_byte_left_is_cleaned_all_the_same(tmp_path: Path) -> None:
    """SQLite refuses while the reserve is there, as it does when the disk has no room for its log."""
    disk = FakeDisk()
    with EventStore(tmp_path, Retention(days=10**4, min_free_bytes=10**6), disk) as store:
        event = store.commit(flag(1, "2999-01-01"))
        store.review(event.id, "dismissed", "A")
        assert store.retain() == 0 and (tmp_path / "reserve").stat().st_size == store_module.RESERVE_BYTES
        store._db().create_function("has_room", 0, lambda: int(not (tmp_path / "reserve").exists()))
        store._db().create_function("fail", 0, lambda: 1 / 0)
        store._db().execute("CREATE TEMP TRIGGER full BEFORE DELETE ON events WHEN NOT has_room() BEGIN SELECT fail(); END")
        disk.free = 0
        assert store.retain() == 1 and store.events() == []
        assert not (tmp_path / "reserve").exists()
        disk.free = 10**12
        store.retain()
        assert (tmp_path / "reserve").exists()


def test_orphans_are_swept_once_they_are_old(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        event = store.commit(flag())
        folder = (tmp_path / event.image_path).parent
        for name, age_s in (("old.png", 7200), ("old.png.tmp", 7200), ("young.png", 0)):
            (folder / name).write_bytes(b"")
            os.utime(folder / name, (time.time() - age_s,) * 2)
        store.retain()
        assert {path.name for path in folder.iterdir()} == {Path(event.image_path).name, "young.png"}


def test_a_clip_is_attached_to_its_event_checked_counted_and_removed_with_it(tmp_path: Path) -> None:
    disk = FakeDisk()
    with EventStore(tmp_path, Retention(days=10**4, max_bytes=150), disk) as store:
        event = store.commit(flag(1, "2999-01-01", b"x" * 100))
        assert event.clip_path == "" and store.clip(event) is None and evidence_reader(tmp_path, clip=True)(1) is None
        disk.fail = "write"
        with pytest.raises(StoreError, match="No space left"):
            store.attach_clip(event.id, b"moving")
        assert store.show(event.id) == event
        disk.fail = ""
        kept = store.attach_clip(event.id, b"m" * 60)
        assert store.clip(kept) == evidence_reader(tmp_path, clip=True)(1) == b"m" * 60
        with pytest.raises(StoreError, match="there is no event 99"):
            store.attach_clip(99, b"moving")
        store.review(kept.id, "dismissed", "A")
        assert store.retain() == 1  # 160 bytes are more than 150
        assert not (tmp_path / kept.clip_path).exists() and not (tmp_path / kept.image_path).exists()


def test_an_altered_clip_is_told_and_an_attached_one_is_no_orphan(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        event = store.attach_clip(store.commit(flag()).id, b"moving")
        os.utime(tmp_path / event.clip_path, (time.time() - 7200,) * 2)
        os.utime(tmp_path / event.image_path, (time.time() - 7200,) * 2)
        store.retain()
        assert store.clip(event) == b"moving"
        (tmp_path / event.clip_path).write_bytes(b"another")
        with pytest.raises(StoreError, match="not the clip that was committed"):
            store.clip(event)


def test_a_store_of_version_1_is_taken_over_with_its_events(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute(
            "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, exam_id INTEGER NOT NULL, source TEXT NOT NULL,"
            " frame_id INTEGER NOT NULL, t_wall TEXT NOT NULL, latency_ms REAL NOT NULL, hygroma REAL NOT NULL,"
            " evidence REAL NOT NULL, bundle TEXT NOT NULL, image_path TEXT NOT NULL UNIQUE, image_sha256 TEXT NOT NULL,"
            " review TEXT NOT NULL DEFAULT 'open', reviewed_by TEXT NOT NULL DEFAULT '', reviewed_at TEXT NOT NULL DEFAULT '',"
            " image_bytes INTEGER NOT NULL, pinned INTEGER NOT NULL DEFAULT 0)"
        )
        values = (1, "file:x", 7, TODAY, 40.0, 0.9, 6.5, "student", "evidence/x.png", "00", 5, 1)
        database.execute(
            "INSERT INTO events (exam_id, source, frame_id, t_wall, latency_ms, hygroma, evidence, bundle, image_path,"
            " image_sha256, image_bytes, pinned) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values
        )  # fmt: skip
        database.execute("PRAGMA user_version = 1")
    with EventStore(tmp_path) as store:
        (event,) = store.events()
        assert (event.exam_id, event.image_path, event.clip_path, event.pinned) == (1, "evidence/x.png", "", True)
        assert store.attach_clip(event.id, b"moving").clip_path == "evidence/x.webp"


def fill(root: Path, first: int, last: int, t_wall: str = TODAY, review: str = "open", size: int = 5) -> None:
    """Rows past the store's own commit, whose fsyncs would take minutes; as an older program writes them."""
    with sqlite3.connect(root / "events.db") as database:
        database.executemany(
            "INSERT INTO events (exam_id, source, frame_id, t_wall, latency_ms, hygroma, evidence, bundle, image_path,"
            " image_sha256, image_bytes, review) VALUES (?, 's', 1, ?, 40, .9, 6, 'b', ?, '00', ?, ?)",
            [(i, t_wall, f"evidence/2026-11-23/{i}.png", size, review) for i in range(first, last)],
        )
    database.close()


def steps(store: EventStore, work: Callable[[], object]) -> int:
    """How many instructions SQLite's machine executes in `work`: each row that is visited takes some."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    store.open()
    assert store._connection is not None
    store._connection.set_progress_handler(step, 1)
    try:
        work()
    finally:
        store._connection.set_progress_handler(None, 1)
    return count


def test_the_next_exam_a_list_and_a_clean_up_cost_the_same_however_many_events_there_are(tmp_path: Path) -> None:
    wanted = ("next exam", "list", "list of a review", "nothing to do", "by age", "by bytes", "by space")
    costs: dict[str, list[int]] = {what: [] for what in wanted}
    disk = FakeDisk()
    now = datetime.fromisoformat(TODAY)
    for n in (1_000, 20_000):
        root = tmp_path / str(n)
        keep = Retention(days=30, max_bytes=10 * n)
        with EventStore(root, keep, disk, wall=lambda: now) as store:
            store.open()
            for i, review in enumerate(("open", "confirmed", "dismissed")):
                kept = LONG_AGO if review == "confirmed" else TODAY
                fill(root, n * i, n * i + n // 2, kept, review)
            (root / "evidence" / "2026-11-23").mkdir(parents=True)
            for i in range(50):
                (root / "evidence" / "2026-11-23" / f"{i}.png").touch()
            costs["next exam"].append(steps(store, store.next_exam_id))
            costs["list"].append(steps(store, lambda: store.events(limit=20)))
            costs["list of a review"].append(steps(store, lambda: store.events("confirmed", limit=20)))
            costs["nothing to do"].append(steps(store, store.retain))
            fill(root, 10 * n, 10 * n + 20, LONG_AGO)
            costs["by age"].append(steps(store, store.retain))
            fill(root, 11 * n, 11 * n + 10, size=20 * n)
            costs["by bytes"].append(steps(store, store.retain))
            disk.free = 0
            costs["by space"].append(steps(store, store.retain))
            disk.free = 10**12
    assert all(small == large > 0 for small, large in costs.values()), costs
    assert costs["nothing to do"][0] < costs["by age"][0] < 10_000


def test_every_statement_of_a_long_store_goes_by_an_index(tmp_path: Path) -> None:
    """EXPLAIN QUERY PLAN of all that is asked: no sorting, and no walk through the events but from the newest on."""
    asked: set[str] = set()
    with EventStore(tmp_path, Retention(days=30, max_bytes=1), FakeDisk(free=0)) as store:
        assert store._connection is not None
        store._connection.set_trace_callback(asked.add)
        one, two, three = (store.commit(flag(exam, at)) for exam, at in ((1, LONG_AGO), (2, TODAY), (3, TODAY)))
        store.attach_clip(two.id, b"clip")
        store.replace_image(two.id, b"another")
        store.review(two.id, "confirmed", "Dr. A")
        store.pin(three.id)
        assert store.next_exam_id() == 4 and store.retain() == 1
        assert [event.id for event in store.events()] == [three.id, two.id]
        assert [event.id for event in store.events(review="confirmed", limit=20)] == [two.id]
        store._connection.set_trace_callback(None)
        plans = {
            query: [row[3] for row in store._connection.execute(f"EXPLAIN QUERY PLAN {query}")]
            for query in asked
            if query.startswith(("SELECT", "UPDATE", "DELETE"))
        }
    assert len(plans) >= 12
    for query, plan in plans.items():
        newest_first = "WHERE" not in query and query.split(" LIMIT ")[0].endswith("ORDER BY id DESC")
        assert not any("TEMP B-TREE" in step for step in plan), (query, plan)
        assert newest_first or not any(step.startswith("SCAN events") for step in plan), (query, plan)


def test_a_clean_up_removes_a_bounded_number_and_says_when_there_may_be_more(tmp_path: Path) -> None:
    most = store_module.FORGOTTEN_AT_ONCE
    with EventStore(tmp_path, Retention(days=30), FakeDisk(), wall=lambda: datetime.fromisoformat(TODAY)) as store:
        store.commit(flag(1))
        fill(tmp_path, 2, 2 + most + 5, LONG_AGO)
        assert [store.retain() for _ in range(3)] == [most, 5, 0]
        assert len(store.events()) == 1


def test_the_sweep_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SWEPT_AT_ONCE", 4)
    with EventStore(tmp_path) as store:
        event = store.attach_clip(store.commit(flag()).id, b"moving")
        folders = [tmp_path / "evidence" / day for day in ("2026-11-21", "2026-11-22")]
        for folder in folders:
            (folder / "a folder").mkdir(parents=True)
            for i in range(5):
                (folder / f"{i}.png").touch()
                os.utime(folder / f"{i}.png", (time.time() - 7200,) * 2)
        for name in (event.image_path, event.clip_path):
            os.utime(tmp_path / name, (time.time() - 7200,) * 2)
        left = []
        for _ in range(4):
            store.retain()
            open_now = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
            assert not any("evidence" in name for name in open_now), "a folder stays open from one clean-up to the next"
            left.append(sum(len(list(folder.glob("*.png"))) for folder in folders))
        assert left[-1] == 0 and all(a - b <= 4 for a, b in zip([10, *left], left, strict=False))
        assert store.image(event) == b"picture" and store.clip(event) == b"moving"


def test_the_bytes_kept_and_the_last_exam_are_right_through_every_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "NEWEST_KEPT", 1)

    def counted(store: EventStore) -> int:
        return sum(len(store.image(event)) + len(store.clip(event) or b"") for event in store.events(limit=-1))

    with EventStore(tmp_path, Retention(days=10**4, max_bytes=60), FakeDisk()) as store:
        events = [store.commit(flag(n, image=b"x" * 20)) for n in (3, 9, 4)]
        assert store._bytes_kept() == counted(store) == 60
        store.attach_clip(events[0].id, b"m" * 30)
        store.replace_image(events[1].id, b"y" * 50)
        assert store._bytes_kept() == counted(store) == 120
        store.review(events[1].id, "dismissed", "A")
        assert store.retain() == 2  # the dismissed one first, then the oldest
        assert store._bytes_kept() == counted(store) == 20
        assert store.next_exam_id() == 10  # exam 9 is gone; its number stays its own
    with EventStore(tmp_path, disk=FakeDisk("write")) as store:
        with pytest.raises(StoreError):
            store.commit(flag(20))
        assert store._bytes_kept() == 20 and store.next_exam_id() == 10


def test_a_store_from_before_the_totals_is_taken_over_and_serves_the_older_program_too(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute(schema.SCHEMA)
        database.execute("PRAGMA user_version = 2")
    database.close()
    fill(tmp_path, 1, 8)
    with EventStore(tmp_path) as store:
        assert store.next_exam_id() == 8 and store._bytes_kept() == 35
    fill(tmp_path, 8, 10)
    with sqlite3.connect(tmp_path / "events.db") as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
        database.execute("DELETE FROM events WHERE exam_id = 1")
    database.close()
    with EventStore(tmp_path) as store:
        assert store.next_exam_id() == 10 and store._bytes_kept() == 40 and len(store.events()) == 8


def test_a_take_over_that_is_cut_short_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute(schema.SCHEMA)
        database.execute("PRAGMA user_version = 2")
    database.close()
    fill(tmp_path, 1, 8)
    whole = schema.INDICES
    monkeypatch.setattr(schema, "INDICES", (*whole[:4], "CREATE INDEX events_time ON nothing (t_wall)"))
    with pytest.raises(StoreError, match="nothing"):
        EventStore(tmp_path).open()
    monkeypatch.setattr(schema, "INDICES", whole)
    with EventStore(tmp_path) as store:
        assert store.next_exam_id() == 8 and store._bytes_kept() == 35


def test_no_store_a_damaged_one_and_a_newer_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no event store"):
        EventStore(tmp_path / "none", create=False).open()
    assert not (tmp_path / "none").exists()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "events.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="move it aside"):
        EventStore(tmp_path / "damaged").open()
    EventStore(tmp_path).open()
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute("PRAGMA user_version = 99")
        database.execute("ALTER TABLE events RENAME COLUMN boundary TO border")
    with pytest.raises(StoreError, match="schema version 99 without boundary"):
        EventStore(tmp_path).open()


def test_a_path_that_cannot_be_a_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be opened for writing.*Not a directory.*events\.dir"):
        EventStore(tmp_path / "file" / "store").open()


@pytest.mark.parametrize("jump_days", [366, -366])
@pytest.mark.requirement("T-09")
def test_a_clock_that_jumps_by_a_year_costs_no_flag(tmp_path: Path, jump_days: int) -> None:
    now = [datetime.now(timezone.utc), 0]
    with EventStore(tmp_path, Retention(), FakeDisk(), lambda: now[1], wall=lambda: now[0]) as store:
        old = store.commit(flag(1, now[0].isoformat()))
        now[0] += timedelta(days=jump_days)
        now[1] += 3600 * 10**9
        new = store.commit(flag(2, now[0].isoformat()))
        assert store.retain() == 0 and {event.id for event in store.events()} == {old.id, new.id}


@pytest.mark.requirement("T-09")
def test_a_clock_that_starts_a_year_ahead_or_was_never_set_costs_no_flag(tmp_path: Path) -> None:
    ahead = datetime.now(timezone.utc) + timedelta(days=400)
    with EventStore(tmp_path, Retention(), FakeDisk(), wall=lambda: ahead) as store:
        store.commit(flag(1, TODAY))
        store.commit(flag(2, "1970-01-01T00:00:10+00:00"))
        assert store.retain() == 0 and len(store.events()) == 2


@pytest.mark.requirement("H-03")
def test_a_boundary_that_was_not_sure_stays_with_its_event_in_an_older_store_too(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.commit(flag())
    with sqlite3.connect(tmp_path / "events.db") as database:  # as a program without boundaries left it
        database.execute("ALTER TABLE events DROP COLUMN boundary")
    why = "before exam 2: no live picture for 61 s"
    with EventStore(tmp_path) as store:
        later = store.commit(dataclasses.replace(flag(2, image=b"other"), boundary=why))
        assert [event.boundary for event in store.events()] == [why, ""] and store.show(later.id).boundary == why
        export(store, tmp_path / "out")
    assert [row["boundary"] for row in json.loads((tmp_path / "out" / "events.json").read_text())] == [why, ""]
    with open(tmp_path / "out" / "events.csv", encoding="utf-8", newline="") as file:
        assert [row["boundary"] for row in csv.DictReader(file)] == [why, ""]
