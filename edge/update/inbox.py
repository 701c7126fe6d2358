"""The watched folder: every `.tar` that is dropped into it is installed or refused, and a text beside it says which."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge.errors import HygromaError, StoreError
from edge.redaction import printable
from edge.update.disk import SlotDisk
from edge.update.install import Installed

log = logging.getLogger(__name__)

SETTLED_S = 2.0  # seconds without a change: nobody copies into the file any more
WAIT_MAX_S = 600.0  # seconds; half a gigabyte from a USB 1 stick
NAMES_MAX = 16  # tried for one file
FILES_MAX = 16  # of one run; each costs a self-test


@dataclass(frozen=True)
class Processed:
    """One file of the inbox: what came of it. `error` is "" when `installed` is there."""

    file: Path
    installed: Installed | None
    error: str


def process_inbox(
    folder: Path,
    install: Callable[[Path], Installed],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[Processed]:
    """Every `.tar` in `folder`, by name: `install`ed files are removed, refused ones renamed to `.tar.refused`, and
    `NAME.tar.txt` says what happened, so that none is tried twice. A file that is still written to stays for the next run.
    StoreError when the folder cannot be written."""
    done = []
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(".tar") and not name.startswith("."))
        for name in names[:FILES_MAX]:
            path = folder / name
            if not path.exists() and not path.is_symlink():  # a stick that was pulled
                continue
            try:
                settled = _settled(path, sleep, clock)
            except FileNotFoundError:
                continue
            if not settled:
                log.warning("%s: still changing after %.0f s; left for later", path, WAIT_MAX_S)
                continue
            try:
                if not stat.S_ISREG(path.lstat().st_mode):
                    raise StoreError(f"{path}: a link, a folder or a device; copy the file itself")
                result = Processed(path, install(path), "")
            except HygromaError as error:
                result = Processed(path, None, str(error))
            except Exception as error:  # else systemd would start this again at once, and for ever
                log.exception("%s: the update broke", path)
                result = Processed(path, None, f"{path}: the update broke ({error!r}); please report it")
            try:
                _say(path, result)
            except OSError as error:  # what lies behind it in the folder must not wait for ever
                log.error("%s: what came of it cannot be left beside it (%s)", path, error.strerror)
            done.append(result)
    except OSError as error:
        raise StoreError(
            f"{error.filename or folder}: the inbox cannot be worked on ({error.strerror}); check its permissions"
        ) from error
    return done


def _say(path: Path, result: Processed) -> None:
    text = result.error or (
        f"installed {result.installed.label}" if result.installed and result.installed.changed else "is current already"
    )
    for note in _beside(path, ".txt"):
        with suppress(OSError):
            whose = "" if note.name.startswith(path.name) else f"{path.name}: "
            SlotDisk().write(note, printable(f"{whose}{text}\n").encode())
            break
    if result.installed:
        path.unlink()  # it is unpacked; a kill before this line installs it again, which changes nothing
        return
    for refused in _beside(path, ".refused"):
        with suppress(OSError):
            if not refused.is_dir():
                path.rename(refused)
                return
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _beside(path: Path, ending: str) -> Iterator[Path]:
    """Names for what belongs to `path`: its own with the ending, then shorter ones, for where that is too long or a folder's."""
    yield path.with_name(path.name + ending)
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    for number in range(NAMES_MAX):
        yield path.with_name(f"{digest}-{number}.tar{ending}")


def _settled(path: Path, sleep: Callable[[float], None], clock: Callable[[], float]) -> bool:
    deadline, last, since = clock() + WAIT_MAX_S, None, clock()
    while True:
        info = path.lstat()
        if (info.st_size, info.st_mtime_ns) != last:
            last, since = (info.st_size, info.st_mtime_ns), clock()
        elif clock() - since >= SETTLED_S:
            return True
        if clock() > deadline:
            return False
        sleep(SETTLED_S / 4)
