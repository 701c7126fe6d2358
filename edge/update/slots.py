"""The folder that installed bundles live in.

    bundles/
      current -> 1.3.0-5f2a0c9e11d4      what the daemon runs; without it, the bundle that came with hygroma
      previous -> 1.2.0-0b1e77a2c3d5     what it goes back to; without it, likewise
      1.3.0-5f2a0c9e11d4/                one slot a bundle: version and the first digits of its manifest's SHA-256
      state.json                         see edge/update/trial.py

A slot is written once, under another name, and appears whole. A link changes by rename. So at every moment `current` is the old
bundle or the new one, each of them whole.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.bundle import Bundle, Trust, load_bundle
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.config import Config
from edge.errors import BundleError, StoreError
from edge.events.disk import give_to_owner
from edge.lock import open_lock, take
from edge.update.disk import SlotDisk

log = logging.getLogger(__name__)

INCOMING = ".incoming"
STATE_FILE = "state.json"
LOCK_WAIT_S = 5.0  # seconds; the short lock is held for a few small writes
SPARE_BYTES = 64 * 2**20  # bytes that must stay free beside a new bundle: events are still to be written
_NAME = re.compile(r"([0-9A-Za-z.-]{1,64})-([0-9a-f]{12})(\.[0-9]{1,3})?")


def bundles_folder(config: Config) -> Path:
    """Where a configuration keeps its bundles."""
    return Path(config.bundle.dir) if config.bundle.dir else Path(config.events.dir) / "bundles"


def bundle_path(config: Config) -> Path:
    """What a daemon with this configuration starts with, if it can: the configured bundle, else the installed one, else the
    shipped one."""
    if config.engine.bundle:
        return Path(config.engine.bundle)
    slots = Slots(bundles_folder(config))
    slot = slots.current()
    return slots.path(slot) if slot else SHIPPED_BUNDLE


class Slots:
    """The folder, made when first written to. StoreError, naming the path, when the disk refuses."""

    def __init__(self, root: Path, disk: SlotDisk | None = None) -> None:
        self.root = root
        self.disk = disk or SlotDisk()

    def path(self, slot: str) -> Path:
        return self.root / slot

    def current(self) -> str:
        """The slot that runs, "" for the shipped bundle."""
        return self._target("current")

    def previous(self) -> str:
        """The slot to go back to, "" for the shipped bundle. A kill while going back leaves both links alike."""
        slot = self._target("previous")
        return "" if slot == self.current() else slot

    def names(self) -> list[str]:
        """Every slot there is."""
        try:
            return sorted(name for name in os.listdir(self.root) if _NAME.fullmatch(name))
        except FileNotFoundError:
            return []

    def find(self, bundle: Bundle, trust: Trust) -> str:
        """The slot that holds this very bundle, undamaged, or ""."""
        for slot in self.names():
            if slot.startswith(_slot_name(bundle)):
                try:
                    if load_bundle(self.path(slot), trust).contents == bundle.contents:
                        return slot
                except BundleError as error:
                    log.warning("a damaged slot is passed over: %s", error)
        return ""

    def unpack(self, bundle: Bundle) -> None:
        """The bundle's bytes into `.incoming`, durable. What an interrupted unpacking left there goes."""
        with self._telling():
            self._make_root()
            size = sum(len(data) for data in bundle.contents.values())
            incoming = self.root / INCOMING
            self.disk.remove_tree(incoming)
            free = self.disk.free_bytes(self.root)
            if free < size + SPARE_BYTES:
                raise StoreError(
                    f"{self.root}: {free // 2**20} MB free, {(size + SPARE_BYTES) // 2**20} MB wanted for this bundle;"
                    " remove something"
                )
            self.disk.make_directory(incoming)
            for name, data in bundle.contents.items():
                self.disk.write(incoming / name, data)
            self.disk.sync_directory(incoming)

    def place(self, bundle: Bundle) -> str:
        """`.incoming` becomes a slot; returns its name. A damaged slot of that name is left alone: it may be running."""
        names = self.names()
        base = _slot_name(bundle)
        slot = next(name for name in (base, *(f"{base}.{i}" for i in range(2, 1000))) if name not in names)
        with self._telling():
            self.disk.rename(self.root / INCOMING, self.path(slot))
            self.disk.sync_directory(self.root)
        return slot

    def keep(self) -> None:
        """`previous` becomes what `current` is."""
        slot = self.current()
        with self._telling():
            if slot:
                self.disk.link(slot, self.root / "previous")
            else:
                self.disk.unlink(self.root / "previous")

    def switch(self, slot: str) -> None:
        """`current` becomes this slot."""
        with self._telling():
            self.disk.link(slot, self.root / "current")

    def go_back(self) -> str:
        """`current` becomes what `previous` is, and `previous` nothing; returns the slot, "" for the shipped bundle."""
        slot = self.previous()
        with self._telling():
            if slot:
                self.disk.link(slot, self.root / "current")
            else:
                self.disk.unlink(self.root / "current")
            self.disk.unlink(self.root / "previous")
        return slot

    def clean(self) -> None:
        """Remove every slot that no link names, and what interrupted installations left."""
        used = {self.current(), self.previous()}
        with self._telling():
            for name in [INCOMING, *(slot for slot in self.names() if slot not in used)]:
                # Under the name of something unfinished first: half of a slot must never look like one.
                if name != INCOMING:
                    self.disk.remove_tree(self.root / INCOMING)
                    self.disk.rename(self.path(name), self.root / INCOMING)
                self.disk.remove_tree(self.root / INCOMING)
            self.disk.sync_directory(self.root)

    @contextmanager
    def locked(self, name: str = "lock", wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
        """Held by one process at a time; goes with the process. StoreError when another keeps it for `wait_s`."""
        with self._telling():
            self._make_root()
            fd = open_lock(self.root / name)
            give_to_owner(self.root / name)
        try:
            try:
                take(fd, wait_s)
            except BlockingIOError:
                raise StoreError(
                    f"{self.root / name}: another hygroma holds it: an update is under way, try again later"
                ) from None
            yield
        finally:
            os.close(fd)

    def _make_root(self) -> None:
        for folder in (*reversed(self.root.parents), self.root):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                give_to_owner(folder)

    def _target(self, link: str) -> str:
        try:
            slot = os.readlink(self.root / link)
        except FileNotFoundError:
            return ""
        except OSError as error:
            log.error("%s: not a link (%s); it is passed over", self.root / link, error.strerror)
            return ""
        if not _NAME.fullmatch(slot):
            log.error("%s: leads to %r, which is no slot; it is passed over", self.root / link, slot)
            return ""
        return slot

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{error.filename or self.root}: cannot be written ({error.strerror or error}); check space and permissions"
            ) from error


def version_of(slot: str) -> str:
    """The version in a slot's name, for when the slot itself cannot be read."""
    match = _NAME.fullmatch(slot)
    return match[1] if match else ""


def _slot_name(bundle: Bundle) -> str:
    return f"{bundle.manifest.model.version}-{bundle.sha256[:12]}"
