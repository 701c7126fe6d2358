"""Files and folders that appear whole or not at all, so that a kill leaves nothing that a rerun takes for finished."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from edge.errors import ConfigError, HygromaError, InputError
from edge.lock import open_lock, take

LOCK = "lock"  # in an --out, held by the process that writes there
PARTIAL = ".partial"  # in the name of everything that is still being written
T = TypeVar("T")


@dataclass(frozen=True)
class Form(Generic[T]):
    """How an artefact lies on disk. mark: the file that says a folder is finished; "" for a file, which says so itself."""

    write: Callable[[T, Path], object]
    read: Callable[[Path], T]
    mark: str = ""

    def leave(self, made: T, path: Path) -> None:
        """Put it at `path`, whole."""
        with appearing(path) as unfinished:
            self.write(made, unfinished)
            if self.mark:
                remove(path)  # a folder that is empty, or without its mark


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or a folder to. It becomes `path` when the block ends, and goes if the block
    raises; what a killed process left is cleared by the next."""
    partial = path.with_name(f"{path.stem}{PARTIAL}{path.suffix}")  # the suffix stays: np.savez would add one
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        remove(partial)


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Around the reading of what a stage left. InputError when that fails: what is cut short never appears, so it was damaged
    afterwards."""
    try:
        yield
    except HygromaError:
        raise
    except Exception as error:  # each library has classes of its own for this
        said = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(f"{path}: cannot be read ({said}); it is damaged: delete it, and it is made again") from error


def kept(path: Path, form: Form[T], make: Callable[[], T]) -> T:
    """The artefact at `path`: read where it is there, else made, and left there whole."""
    if not (path / form.mark).is_file():
        form.leave(make(), path)
    with intact(path):
        return form.read(path)


def writable(folder: Path) -> Path:
    """The folder, made. InputError when nothing can be written there: to be asked before minutes of work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); name a folder that this user may write"
        ) from None
    return folder


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read a piece at a time: a checkpoint may be larger than what is to spare."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def remove(path: Path) -> None:
    """A file or a folder with all it holds; nothing when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def require_beside(out: Path, data: Path) -> None:
    """ConfigError when a user's --out is a file, or lies in the folder that holds a folder per class."""
    if out.resolve().is_relative_to(data.resolve()):
        raise ConfigError(
            f"--out {out}: lies inside the data folder, where it would be taken for a class; give another"
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")


@contextmanager
def alone(out: Path, doing: str) -> Iterator[None]:
    """While this process writes to `out`, no other that asks does. ConfigError when one already does. doing: what, in words."""
    path = out / LOCK
    try:
        out.mkdir(parents=True, exist_ok=True)
        fd = open_lock(path)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from None
    try:
        try:
            take(fd)
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")  # for whoever finds it held
        except BlockingIOError:
            holder = path.read_text().strip() or "another process"
            raise ConfigError(
                f"{path}: held by {holder}, {doing} with the same --out; wait for its end, or give another --out"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be locked ({error.strerror}); give an --out where files can be"
            ) from None
        yield
    finally:
        os.close(fd)
