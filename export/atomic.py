"""Files and folders that appear whole or not at all, so that a kill leaves nothing that a rerun takes for finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"  # in the name of everything that is still being written


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


def remove(path: Path) -> None:
    """A file or a folder with all it holds; nothing when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
