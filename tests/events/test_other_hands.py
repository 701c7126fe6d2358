"""The store in other people's hands: root, another user, another program, file systems that do less, and two daemons."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from pathlib import Path

import pytest

from edge import watching
from edge.cli import main
from edge.config import Config
from edge.errors import ConfigError, StoreError
from edge.events import Disk, EventStore, NewEvent, Retention
from edge.events import disk as disk_module
from edge.events import store as store_module
from edge.home import home

TODAY = "2026-11-23T10:00:00+00:00"
OLD = "2025-07-01T10:00:00+00:00"
SERVICE = 12345  # a user's number that nobody has here


def flag(exam_id: int = 1, t_wall: str = TODAY) -> NewEvent:
    return NewEvent(exam_id, "file:x", 7, time.monotonic_ns(), t_wall, 0.9, 6.5, "student 0.1.0", b"picture")


@pytest.mark.requirement("T-15")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave files that others cannot write")
def test_what_root_makes_belongs_to_whom_the_store_belongs(tmp_path: Path) -> None:
    root = tmp_path / "room1"
    root.mkdir()
    os.chown(root, SERVICE, SERVICE)
    with EventStore(root, Retention(min_free_bytes=0)) as store:
        event = store.commit(flag())
        store.attach_clip(event.id, b"clip")
        store.retain()
    with watching._only_one(root):
        made = [path for path in root.rglob("*")]
        assert len(made) >= 6 and {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(SERVICE, SERVICE)}


@pytest.mark.requirement("T-15")
def test_a_root_that_may_give_nothing_away_loses_no_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container without CAP_CHOWN, or on a network disk."""

    def refuse(*words: object, **more: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(disk_module, "give_to_owner", refuse)
    with EventStore(tmp_path, Retention(min_free_bytes=0)) as store:
        assert store.commit(flag()).id == 1
    assert "stays root's" in caplog.text


@pytest.mark.requirement("T-15")
def test_a_day_that_another_user_made_costs_no_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = tmp_path / "evidence" / TODAY[:10]
    day.mkdir(parents=True)
    real = os.access
    monkeypatch.setattr(store_module.os, "access", lambda path, mode: Path(path) != day and real(path, mode))
    with EventStore(tmp_path) as store:
        event = store.commit(flag())
        assert event.image_path.startswith(f"evidence/{TODAY[:10]}-{os.geteuid()}/") and store.image(event) == b"picture"
    assert not list(day.iterdir())


@pytest.mark.requirement("T-15")
def test_a_store_that_may_only_be_read_is_listed_and_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = EventStore(tmp_path)
    writer.commit(flag())  # still open: the row stands in the log beside the database
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(store_module, "_writable", lambda path: False)
    where = ["--store", str(tmp_path)]
    assert main(["events", "list", *where]) == 0 and "exam 1" in capsys.readouterr().out
    assert main(["events", "review", "1", "confirmed", "--by", "A", *where]) == 74
    said = capsys.readouterr().err
    assert "this user may only read it" in said and "damaged" not in said
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    writer.close()


@pytest.mark.requirement("T-15")
@pytest.mark.parametrize(
    ("said", "fix", "not_said"),
    [
        ("attempt to write a readonly database", "check whose files these are", "damaged"),
        ("database is locked", "another program is writing there; try again", "damaged"),
        ("database disk image is malformed", "move it aside", "whose files"),
        ("database or disk is full", "check the disk's space and health", "whose files"),
    ],
)
def test_the_fix_is_of_what_is_wrong(tmp_path: Path, said: str, fix: str, not_said: str) -> None:
    with EventStore(tmp_path) as store, pytest.raises(StoreError, match=fix) as told, store._telling("written"):
        raise sqlite3.OperationalError(said)
    assert said in str(told.value) and not_said not in str(told.value)


class NoInodes(Disk):
    """A disk with room for bytes, and for no more files."""

    left = 0

    def free_bytes(self, path: Path) -> int:
        return 10**12

    def free_files(self, path: Path) -> int:
        return self.left

    def write(self, path: Path, data: bytes) -> None:
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        super().write(path, data)


@pytest.mark.requirement("T-15")
def test_no_inodes_left_is_said_and_settled_events_make_room(tmp_path: Path) -> None:
    disk = NoInodes()
    disk.left = 1000
    with EventStore(tmp_path, disk=disk) as store:
        for exam_id in (1, 2, 3):
            store.commit(flag(exam_id))
        store.review(1, "dismissed", "A")
        assert not store.is_short_of_space()
        disk.left = 0
        assert store.is_short_of_space()
        with pytest.raises(StoreError, match="takes no more files"):
            store.commit(flag(4))
        store.retain()
        assert [event.exam_id for event in store.events()] == [3, 2]  # what nobody has looked at stays


@pytest.mark.requirement("T-15")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_syncs_no_folder_costs_no_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(disk_module.os, "fsync", fsync)
    with EventStore(tmp_path) as store:
        assert store.commit(flag()).id == 1


@pytest.mark.requirement("T-08")
def test_a_folder_whose_sync_fails_for_real_acknowledges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk_module.os, "fsync", fsync)
    with EventStore(tmp_path) as store, pytest.raises(StoreError):
        store.commit(flag())


@pytest.mark.requirement("S-13")
@pytest.mark.parametrize(
    "leads", ["../victim.png", "{outside}/victim.png", "evidence/../../victim.png", "evidence/day/victim.png"]
)
def test_rows_of_another_program_lead_nothing_out_of_the_store(
    tmp_path: Path, leads: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another room's picture, or any file of root's, must not go because a row names it."""
    root, victim = tmp_path / "room1", tmp_path / "victim.png"
    with EventStore(root) as store:
        store.commit(flag(2))
    victim.write_bytes(b"another room's")
    (root / "evidence" / "day").symlink_to(tmp_path)
    name = leads.replace("{outside}", str(tmp_path))
    with sqlite3.connect(root / "events.db") as database:
        database.execute(
            "INSERT INTO events (exam_id, source, frame_id, t_wall, latency_ms, hygroma, evidence, bundle, image_path,"
            " image_sha256, image_bytes, review) VALUES (1, 's', 1, ?, 40, .9, 6, 'b', ?, '00', 5, 'dismissed')", (OLD, name)
        )  # fmt: skip
    database.close()
    with EventStore(root, Retention(days=30)) as store:
        stray = store.events(review="dismissed")[0]
        with pytest.raises(StoreError, match="outside its evidence"):
            store.image(stray)
        with pytest.raises(StoreError, match="outside its evidence"):
            store.replace_image(stray.id, b"new")
        assert store.retain() == 1 and [event.exam_id for event in store.events()] == [2]
    assert victim.read_bytes() == b"another room's" and "outside its evidence" in caplog.text


@pytest.mark.requirement("T-15")
def test_two_daemons_do_not_share_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "STOPPING_S", 0.0)
    with watching._only_one(tmp_path), pytest.raises(StoreError, match="another hygroma watches with this store"):
        watching._only_one(tmp_path).__enter__()
    with watching._only_one(tmp_path):  # the first has ended
        pass
    (tmp_path / "file").touch()
    with watching._only_one(tmp_path / "file" / "store"):  # no folder: the store says so, and the watching goes on
        pass


@pytest.mark.parametrize("option", ["--events", "engine.cache"])
def test_a_user_without_a_home_is_told_what_to_name(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(ConfigError, match=f"HOME is not set.*{option}"):
        home(option)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(watching, "why_unwritable", lambda folder: "not for tests")
    with pytest.raises(ConfigError, match="--events"):
        watching.keep_at_home(Config())
