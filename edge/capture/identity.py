"""Which camera is meant: by what it is, not by the number under which the kernel happened to find it."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from edge.capture.v4l2 import Device, Identity, Kernel, video_nodes
from edge.errors import SourceError

log = logging.getLogger(__name__)


class Whereabouts:
    """Finds a device again after it was unplugged, wherever it comes up.

    A number (/dev/video0) is replaced by its link under /dev/v4l as soon as the device is there; any other path is taken
    for an identity already. A device without a link, as few but virtual ones are, is known by its own name and bus.
    """

    def __init__(self, target: str, kernel: Kernel, dev: str | Path = "/dev") -> None:
        self.target = target
        self._kernel, self._dev = kernel, Path(dev)
        self._known: Identity | None = None
        self._adopt_link()

    def find(self) -> str:
        """The node at which the device is now. SourceError when it is not there."""
        self._adopt_link()
        if self._known is not None and _is_number(self.target):
            node = self._search(self._known)
        else:
            node = os.path.realpath(self.target) if Path(self.target).exists() else None
        if node is None:
            raise SourceError(
                f"v4l2:{self.target}: cannot be opened, the device is not there; check the cable, and the name with"
                " `ls /dev/v4l/by-id`"
            )
        return node

    def remember(self, identity: Identity) -> None:
        """What the device found said of itself: from now on its number means nothing."""
        self._known = identity

    def _adopt_link(self) -> None:
        if self._known is None and (link := stable_link(self.target, self._dev)) is not None:
            log.warning("v4l2:%s is %s; write that into source.uri, numbers change", self.target, link)
            self.target = str(link)

    def _search(self, known: Identity) -> str | None:
        for node in video_nodes(self._dev):
            try:
                device = Device(node, self._kernel)
            except OSError:  # another program's, or it has just gone
                continue
            try:
                if device.identify() == known:
                    return node
            except OSError:
                continue
            finally:
                device.close()
        return None


def stable_link(path: str, dev: str | Path = "/dev") -> Path | None:
    """The link under /dev/v4l that leads to a device given by number; None for another path, or when there is none."""
    if not _is_number(path) or not Path(path).exists():
        return None
    for folder in ("by-id", "by-path"):
        for link in sorted((Path(dev) / "v4l" / folder).glob("*")):
            if os.path.realpath(link) == os.path.realpath(path):
                return link
    return None


def _is_number(path: str) -> bool:
    return re.fullmatch(r"video\d+", Path(path).name) is not None
