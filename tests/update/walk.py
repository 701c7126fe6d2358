"""Kills an update, or a rollback, at every single thing that it asks of the disk, each time in a process of its own.

    python walk.py FOLDER SCENARIO before|both

Kills before each call, or also halfway through those that have two halves. Prints one JSON object a kill: where, which
versions ran before and after, and after the update was tried again. Processes are forked from this one, which never scores
anything itself: threads would not survive the fork.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent), str(Path(__file__).parents[2])]

from device import CRASH, READY, Device, RecordingDisk, open_fake
from fakes.bundle_parts import fake_files, fake_manifest

from edge.update.disk import SlotDisk
from edge.update.install import install
from edge.update.slots import INCOMING
from edge.update.trial import PROVE_S


class KillingDisk(RecordingDisk):
    """Kills its process at call number `at`: before it, or halfway through it."""

    def __init__(self, at: int, halfway: bool) -> None:
        super().__init__(self.count)
        self.at, self.halfway, self.calls = at, halfway, 0

    def count(self, what: str, path: Path) -> None:
        self.calls += 1
        if self.calls != self.at:
            return
        if self.halfway:
            if what == "write":
                path.write_bytes(b"half")
            elif what == "remove" and path.is_dir():
                next(iter(sorted(path.iterdir())), path / "none").unlink(missing_ok=True)
            elif what == "link":
                os.symlink("half", path.with_name(f".{path.name}.new"))
            else:
                os._exit(3)  # nothing has two halves
        os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], object]) -> tuple[int, Any]:
    """(exit status, result) of `work` in a forked process; the status is negative when a signal ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writing, json.dumps(work()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), json.loads(data) if data else None


def open_device(root: Path) -> Device:
    return Device(root, (fake_manifest(), fake_files()))


def first(device: Device) -> None:
    """Nothing was ever installed."""


def second(device: Device) -> None:
    """One that has proved itself, with the one before it behind; and what an interrupted update left."""
    device.update("1.3.0")
    device.update("1.3.5")
    device.start(READY, PROVE_S)
    (device.slots.root / INCOMING).mkdir()
    (device.slots.root / INCOMING / "model.qdq.onnx").write_bytes(b"old")


def failing(device: Device) -> None:
    """The current one has crashed three times: the next start goes back."""
    second(device)
    device.update("1.4.0")
    for _ in range(3):
        device.start(CRASH)


def bring_back(device: Device) -> None:
    """The previous one is to be installed again."""
    second(device)


def do_update(version: str) -> Callable[[Device, SlotDisk], object]:
    def act(device: Device, disk: SlotDisk) -> object:
        return install(device.make(version), device.config, open_fake, True, disk, lambda name: None).slot

    return act


def do_start(device: Device, disk: SlotDisk) -> object:
    device.slots.disk = disk
    trial = device.trial(device.slots)
    trial.begin()
    return device.slots.current()


SCENARIOS: dict[str, tuple[Callable[[Device], None], Callable[[Device, SlotDisk], object], str, str]] = {
    "first": (first, do_update("1.4.0"), "1.2.3", "1.4.0"),
    "second": (second, do_update("1.4.0"), "1.3.5", "1.4.0"),
    "bring_back": (bring_back, do_update("1.3.0"), "1.3.5", "1.3.0"),
    "failing": (failing, do_start, "1.4.0", "1.3.5"),
}


KEPT = {"current", "previous", "state.json", "lock", "update.lock"}


def look(root: Path) -> dict[str, object]:
    device = open_device(root)
    version = device.running()
    used = {device.slots.current(), device.slots.previous()} - {""}
    return {
        "runs": version,
        "rollbacks": device.state.rollbacks,
        "problems": device.state.problems,
        "leftovers": sorted(set(os.listdir(device.slots.root)) - used - KEPT) if device.slots.root.is_dir() else [],
    }


def look_act_look(root: Path, act: Callable[[Device, SlotDisk], object]) -> dict[str, object]:
    after = look(root)
    act(open_device(root), SlotDisk())
    return {"after": after, "finally": look(root)}


def main(folder: Path, scenario: str, both: bool) -> None:
    prepare, act, old, new = SCENARIOS[scenario]
    fake_files()  # made once, for every process that is forked
    template = folder / "template"

    def build() -> None:
        device = open_device(template)
        prepare(device)
        device.make("1.4.0")

    assert forked(build)[0] == 0
    for halfway in (False, True)[: 1 + int(both)]:
        at, status = 0, -signal.SIGKILL
        while status in (-signal.SIGKILL, 3):
            at += 1
            root = folder / "device"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(template, root, symlinks=True)
            status, _ = forked(lambda: act(open_device(root), KillingDisk(at, halfway)))  # noqa: B023
            if status == 3:
                continue
            assert status in (0, -signal.SIGKILL), f"call {at}: exit status {status}"
            looked, found = forked(lambda: look_act_look(root, act))  # noqa: B023
            assert looked == 0, f"call {at}: exit status {looked}"
            line = {"at": at, "halfway": halfway, "killed": status != 0, "old": old, "new": new}
            print(json.dumps(line | found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "both")
