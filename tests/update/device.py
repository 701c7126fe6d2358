"""A device in a folder: a configuration, a shipped bundle, updates signed by its maker, and a model that is no model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fakes.runner_fake import FakeRunner

from edge.bundle import ANYONE, Bundle, load_bundle, sign_bundle, write_bundle
from edge.bundle.keys import new_key, read_signing_key
from edge.config import BundleConfig, Config, EngineConfig, EventsConfig
from edge.decision.params import DecisionParams
from edge.engines.scorer import Scorer
from edge.update.disk import SlotDisk
from edge.update.install import Installed, install
from edge.update.slots import Slots
from edge.update.startup import Deadline, open_start
from edge.update.trial import Trial

Parts = tuple[Any, dict[str, bytes]]
READY, CRASH, HANG, CUT, STOP = "ready", "crash", "hang", "power cut", "stop"
READY_S = BundleConfig().ready_s


def open_fake(path: str | Path, config: Config) -> Scorer:
    """As `edge.watching.open_scorer`, with FakeRunner for every model."""
    return Scorer(load_bundle(path, config.bundle.trust()), FakeRunner())


class NoDeadline(Deadline):
    def __init__(self) -> None:
        self.armed = 0.0

    def arm(self, seconds: float) -> None:
        self.armed = seconds

    def cancel(self) -> None:
        self.armed = 0.0


class Device:
    """`root` holds everything; a device opened again on the same folder is the same device."""

    def __init__(self, root: Path, parts: Parts) -> None:
        manifest = dataclasses.replace(parts[0], decision=DecisionParams().to_manifest())
        self.root, self.parts = root, (manifest, parts[1])
        self.now_ns, self.boot = 10**9, "boot-1"
        if not (root / "keys").is_dir():
            new_key(root / "keys")
            write_bundle(root / "shipped", *self.parts)  # version 1.2.3
        self.key = read_signing_key(root / "keys" / "hygroma.key")
        self.config = Config(
            bundle=BundleConfig(trusted_keys=(self.key.public.text,)), events=EventsConfig(dir=str(root / "events")),
            engine=EngineConfig(runtime="onnxruntime"),
        )
        self.slots = Slots(root / "events" / "bundles")
        pin = load_bundle(root / "shipped", ANYONE).sha256
        for target, value in (
            ("edge.update.startup.SHIPPED_BUNDLE", root / "shipped"),
            ("edge.update.install.SHIPPED_BUNDLE", root / "shipped"),
            ("edge.bundle.trust.pinned_sha256", lambda: pin),
        ):
            patcher = patch(target, value)
            patcher.start()
            self.patches = [*getattr(self, "patches", []), patcher]

    def close(self) -> None:
        for patcher in self.patches:
            patcher.stop()

    def make(self, version: str, **spoil: Any) -> Path:
        """A signed .tar of this version. `spoil` replaces fields of the manifest's model."""
        path = self.root / f"{version}.tar"
        if not path.exists():
            manifest = dataclasses.replace(
                self.parts[0], model=dataclasses.replace(self.parts[0].model, **{"version": version, **spoil})
            )
            write_bundle(path, manifest, self.parts[1])
            sign_bundle(path, self.key)
        return path

    def update(self, version: str, **options: Any) -> Installed:
        return install(self.make(version), self.config, open_fake, **options)

    def trial(self, slots: Slots, ready_s: float = READY_S) -> Trial:
        return Trial(slots, ready_s, lambda: self.now_ns, self.boot, lambda: "2026-11-24T00:00:00+00:00")

    def start(self, ending: str = STOP, after_s: float = 1.0, open_scorer: Callable[..., Scorer] = open_fake) -> str:
        """One start of the daemon, to one of the endings; returns the version that ran ("" if the start hung)."""
        deadline = NoDeadline()
        context = open_start(self.config, open_scorer, self.trial, deadline)
        start = context.__enter__()
        self.state = start.bundle
        version = start.scorer.manifest.model.version
        assert bool(deadline.armed) == start.bundle.on_trial
        if ending != HANG:
            start.notifier.ready()
            assert not deadline.armed
        self.now_ns += round(after_s * 1e9)
        if ending == STOP:
            start.notifier.watchdog()
            context.__exit__(None, None, None)
        elif ending == READY:
            start.notifier.watchdog()
        elif ending == CUT:
            self.boot += "+"
            self.now_ns = 10**9
        return version  # CRASH, HANG and CUT: nothing is announced

    def running(self) -> str:
        return self.start(STOP)

    def current(self) -> str:
        """The installed version, "" for the shipped bundle."""
        return self.slots.current().rpartition("-")[0]

    def previous(self) -> str:
        return self.slots.previous().rpartition("-")[0]

    def bundle(self, version: str) -> Bundle:
        return load_bundle(self.make(version), self.config.bundle.trust())

    def read_state(self) -> dict[str, Any]:
        return json.loads((self.slots.root / "state.json").read_text())


class RecordingDisk(SlotDisk):
    """Tells of every call: (what, name of the path)."""

    def __init__(self, tell: Callable[[str, Path], None]) -> None:
        self.tell = tell

    def write(self, path: Path, data: bytes) -> None:
        self.tell("write", path)
        super().write(path, data)

    def rename(self, old: Path, new: Path) -> None:
        self.tell("rename", new)
        super().rename(old, new)

    def sync_directory(self, path: Path) -> None:
        self.tell("sync", path)
        super().sync_directory(path)

    def make_directory(self, path: Path) -> None:
        self.tell("mkdir", path)
        super().make_directory(path)

    def link(self, target: str, path: Path) -> None:
        self.tell("link", path)
        super().link(target, path)

    def unlink(self, path: Path) -> None:
        self.tell("unlink", path)
        super().unlink(path)

    def remove_tree(self, path: Path) -> None:
        self.tell("remove", path)
        super().remove_tree(path)
