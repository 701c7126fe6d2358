"""What is dropped into the folder is installed or refused once, and the text beside it says which."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from device import Device, open_fake

from edge.errors import StoreError
from edge.update.inbox import SETTLED_S, WAIT_MAX_S, Processed, process_inbox
from edge.update.install import Installed, install


class Clock:
    """Sleeping is what makes its time pass; `meanwhile` happens in every sleep."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()

    def meanwhile(self) -> None:
        pass


@pytest.fixture
def inbox(device: Device) -> Path:
    folder = device.root / "inbox"
    folder.mkdir()
    return folder


def run(device: Device, inbox: Path, clock: Clock | None = None) -> list[Processed]:
    clock = clock or Clock()

    def bring(file: Path) -> Installed:
        return install(file, device.config, open_fake)

    return process_inbox(inbox, bring, clock.sleep, clock)


@pytest.mark.requirement("U-06")
def test_a_dropped_bundle_is_installed_and_gone(device: Device, inbox: Path) -> None:
    shutil.copy(device.make("1.3.0"), inbox / "new.tar")
    (result,) = run(device, inbox)
    assert result.installed is not None and result.installed.changed
    assert [p.name for p in inbox.iterdir()] == ["new.tar.txt"]
    assert "installed fake-student 1.3.0" in (inbox / "new.tar.txt").read_text()
    assert device.running() == "1.3.0"
    shutil.copy(device.make("1.3.0"), inbox / "new.tar")
    (result,) = run(device, inbox)
    assert result.installed is not None and not result.installed.changed
    assert (inbox / "new.tar.txt").read_text() == "is current already\n"


@pytest.mark.requirement("U-06")
def test_a_refused_one_is_kept_aside_with_the_reason_and_not_tried_again(device: Device, inbox: Path) -> None:
    (inbox / "a.tar").write_bytes(b"garbage")
    shutil.copy(device.make("1.0.0"), inbox / "b.tar")
    shutil.copy(device.make("1.3.0"), inbox / "c.tar")
    (inbox / ".hidden.tar").write_bytes(b"half")
    (inbox / "notes.doc").write_bytes(b"")
    assert [bool(result.installed) for result in run(device, inbox)] == [False, False, True]
    assert "not a readable .tar" in (inbox / "a.tar.txt").read_text()
    assert "--allow-downgrade" in (inbox / "b.tar.txt").read_text()
    assert {"a.tar.refused", "b.tar.refused", ".hidden.tar", "notes.doc"} <= {p.name for p in inbox.iterdir()}
    assert run(device, inbox) == []
    assert device.running() == "1.3.0"


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
@pytest.mark.requirement("U-06")
def test_what_is_no_file_is_refused_once(device: Device, inbox: Path, kind: str) -> None:
    if kind == "link":
        (inbox / "x.tar").symlink_to(device.make("1.3.0"))
    elif kind == "folder":
        shutil.copytree(device.root / "shipped", inbox / "x.tar")
    else:
        os.mkfifo(inbox / "x.tar")
    (result,) = run(device, inbox)
    assert "copy the file itself" in result.error and device.make("1.3.0").is_file()
    assert run(device, inbox) == [] and not device.slots.names()


@pytest.mark.requirement("U-07")
def test_the_text_beside_is_never_written_through_a_link(device: Device, inbox: Path) -> None:
    (device.root / "precious").write_text("precious")
    (inbox / "x.tar.txt").symlink_to(device.root / "precious")
    (inbox / "x.tar").write_bytes(b"garbage")
    run(device, inbox)
    assert (device.root / "precious").read_text() == "precious" and "not a readable .tar" in (inbox / "x.tar.txt").read_text()


def test_a_file_that_is_still_copied_is_waited_for(device: Device, inbox: Path) -> None:
    data, path = device.make("1.3.0").read_bytes(), inbox / "slow.tar"
    path.write_bytes(data[:1000])
    clock = Clock()

    def copy_on() -> None:
        if clock.now < 60:
            path.write_bytes(data[: 1000 + round(len(data) * clock.now / 120)])
        else:
            path.write_bytes(data) if path.stat().st_size < len(data) else None

    clock.meanwhile = copy_on  # type: ignore[method-assign]
    (result,) = run(device, inbox, clock)
    assert result.installed is not None and 60 + SETTLED_S <= clock.now < 70


def test_but_not_for_ever(device: Device, inbox: Path) -> None:
    path, clock = inbox / "endless.tar", Clock()
    path.write_bytes(b"")
    clock.meanwhile = lambda: path.write_bytes(b"x" * round(clock.now * 10))  # type: ignore[method-assign,assignment,return-value]
    assert run(device, inbox, clock) == []
    assert path.exists() and WAIT_MAX_S < clock.now < WAIT_MAX_S + 5


def test_a_folder_that_is_not_there(device: Device) -> None:
    with pytest.raises(StoreError, match="the inbox cannot be worked on"):
        run(device, device.root / "none")


def test_an_update_that_breaks_is_refused_and_not_tried_for_ever(device: Device, inbox: Path) -> None:
    (inbox / "x.tar").write_bytes(b"")
    clock = Clock()

    def broken(file: Path) -> Installed:
        raise MemoryError("no more")

    (result,) = process_inbox(inbox, broken, clock.sleep, clock)
    assert "the update broke" in result.error and (inbox / "x.tar.refused").exists()
    assert run(device, inbox) == []


@pytest.mark.requirement("U-06")
@pytest.mark.parametrize("name", [b"\xfcpdate.tar", b"n" * 250 + b".tar", b"a.tar", b"A.TAR", "ümläut.tar".encode()])
@pytest.mark.parametrize("taken", ["", ".txt", ".refused"])
def test_no_odd_name_keeps_what_lies_behind_it_waiting(device: Device, inbox: Path, name: bytes, taken: str) -> None:
    odd = Path(os.fsdecode(os.path.join(os.fsencode(inbox), name)))
    odd.write_bytes(b"no bundle")
    if taken and len(name) < 200:
        folder = odd.with_name(odd.name + taken)
        folder.mkdir()
        (folder / "something").touch()
    shutil.copy(device.make("1.3.0"), inbox / "zz.tar")
    results = {result.file.name: result for result in run(device, inbox)}
    assert len(results) == 2 and results[odd.name].installed is None
    brought = results["zz.tar"].installed
    assert brought is not None and brought.changed
    assert run(device, inbox) == []  # none is tried twice
    notes = [path for path in inbox.iterdir() if path.is_file() and path.name.endswith(".txt")]
    assert len(notes) == 2 and any("not a bundle" in note.read_text() or "bundle" in note.read_text() for note in notes)


@pytest.mark.requirement("U-06")
def test_a_stick_that_is_pulled_ends_nothing(device: Device, inbox: Path) -> None:
    (inbox / "a.tar").write_bytes(b"no bundle")
    shutil.copy(device.make("1.3.0"), inbox / "b.tar")
    clock = Clock()
    clock.meanwhile = lambda: (inbox / "a.tar").unlink(missing_ok=True)  # type: ignore[method-assign]
    results = run(device, inbox, clock)
    assert [result.file.name for result in results if result.installed] == ["b.tar"]
