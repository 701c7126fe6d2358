"""The few things that the store asks of a file system, in one object so that tests can break each of them."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

NO_SUCH_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # "not here", unlike EIO, which is a loss
UNCOUNTED = 2**63


def why_unwritable(folder: Path) -> str:
    """Why this user cannot write into a folder, one that is yet to be made included; "" when he can. Changes nothing."""
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            found = place.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{place}: {error.strerror}"
        if not stat.S_ISDIR(found.st_mode):
            return f"{place}: not a folder"
        return "" if os.access(place, os.W_OK | os.X_OK) else f"{place}: this user may not write there"
    return f"{folder}: no such place"


def give_to_owner(path: Path) -> None:
    """What root makes belongs to whoever owns the folder: `sudo` must leave nothing that the daemon's user cannot lock or write.
    OSError where root may not do so, as in some containers and on some network disks."""
    if os.geteuid() == 0:
        folder = path.parent.stat()
        if (folder.st_uid, folder.st_gid) != (0, 0):
            os.chown(path, folder.st_uid, folder.st_gid, follow_symlinks=False)


class Disk:
    """The real one. OSError from any of these means that nothing may be taken as written."""

    def write_durable(self, path: Path, data: bytes) -> None:
        """After this returns, `path` holds `data` also after a power cut; before, it holds nothing or what it held."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp = path.with_name(path.name + ".tmp")
        try:
            self.write(tmp, data)
            self.hand_over(tmp)
            self.rename(tmp, path)
        except OSError:
            with suppress(OSError):  # half a picture would take the last room of a full disk
                self.remove(tmp)
            raise
        self.sync_directory(path.parent)

    def write(self, path: Path, data: bytes) -> None:
        """Content to the platter, not only to the page cache."""
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, old: Path, new: Path) -> None:
        os.replace(old, new)

    def sync_directory(self, path: Path) -> None:
        """A rename is durable only once its directory is. Some file systems (SMB, some of FUSE) sync no directory and answer
        EINVAL: they are as durable as they get."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in NO_SUCH_SYNC:
                raise
            log.info("%s: this file system syncs no folder (%s)", path, error.strerror)
        finally:
            os.close(handle)

    def make_folder(self, path: Path) -> None:
        """A folder, made where it is missing, that the owner of the folder above may write."""
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            self.hand_over(path)

    def hand_over(self, path: Path) -> None:
        """As `give_to_owner`; where root may not, no flag is lost for it."""
        try:
            give_to_owner(path)
        except OSError as error:
            log.warning("%s: stays root's (%s); another user's daemon may not be able to write it", path, error.strerror)

    def remove(self, path: Path) -> None:
        """A file that is gone already is no error."""
        path.unlink(missing_ok=True)

    def free_bytes(self, path: Path) -> int:
        return shutil.disk_usage(path).free

    def free_files(self, path: Path) -> int:
        """How many files may still be made; a huge number on file systems that do not count them."""
        found = os.statvfs(path)
        return found.f_favail if found.f_files else UNCOUNTED
