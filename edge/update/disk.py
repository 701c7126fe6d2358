"""What installing asks of a file system beyond what the event store does: every change is one call, so that a test can
kill the program before or after each."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edge.events.disk import Disk, give_to_owner


class SlotDisk(Disk):
    """The real one. Each call is durable when it returns, but for `write`, `rename` and `make_directory`, whose directory
    the caller syncs. OSError as the system gives it."""

    def make_directory(self, path: Path) -> None:
        path.mkdir()
        give_to_owner(path)

    def write(self, path: Path, data: bytes) -> None:
        """A new file; what has its name goes first, so that no link leads root to write somewhere else."""
        path.unlink(missing_ok=True)
        with open(path, "xb") as file:
            file.write(data)
            file.flush()
            give_to_owner(path)
            os.fsync(file.fileno())

    def link(self, target: str, path: Path) -> None:
        """`path` becomes a symbolic link to `target`, atomically: it is never missing, and never half of something."""
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)  # a kill between the next two lines leaves one
        os.symlink(target, fresh)
        give_to_owner(fresh)
        self.rename(fresh, path)
        self.sync_directory(path.parent)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.sync_directory(path.parent)

    def remove_tree(self, path: Path) -> None:
        """A folder, a file or a link that is gone already is no error."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
