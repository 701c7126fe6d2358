"""`hygroma update`: from a file that somebody brought to the bundle that runs next."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge.bundle import ANYONE, Bundle, load_bundle
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.config import Config
from edge.engines.scorer import Scorer
from edge.errors import BundleError, ConfigError, EngineError, HygromaError
from edge.update.disk import SlotDisk
from edge.update.engine import build_engine
from edge.update.rehearse import confirmed_pictures, evidence_pictures, no_longer_called, rehearse
from edge.update.semver import precedence
from edge.update.slots import Slots, bundles_folder, version_of
from edge.update.trial import CRASHES_MAX, finish_rollback, load_state, save_state

log = logging.getLogger(__name__)

# In this order. A kill between any two leaves the old bundle current up to "kept", the new one from "switched".
STEPS = ("verified", "unpacked", "placed", "built", "rehearsed", "kept", "switched", "recorded", "cleaned")


@dataclass(frozen=True)
class Installed:
    """What an update did. `previous` is the slot to go back to, "" for the shipped bundle; `changed` is false when this
    very bundle was current already; `pictures` counts the evidence images of the rehearsal, `confirmed` the flags among them
    that a person confirmed, and `lost` are the numbers of those that this bundle no longer calls."""

    label: str
    signed_by: str
    slot: str
    previous: str
    changed: bool
    pictures: int
    confirmed: int = 0
    lost: tuple[int, ...] = ()


def install(
    file: str | Path,
    config: Config,
    open_scorer: Callable[[str | Path, Config], Scorer],
    allow_downgrade: bool = False,
    disk: SlotDisk | None = None,
    step: Callable[[str], None] = log.info,
    build: Callable[[Bundle, Config], None] = build_engine,
) -> Installed:
    """Verify `file`, unpack it beside what runs, let it show that it works, and make it current for the next start.

    `step` is called after each of STEPS. In each of these cases nothing has changed:
    BundleError: not trusted, damaged, or an earlier version than what runs.
    EngineError: its engine cannot be built, or it fails its self-test or the rehearsal.
    ConfigError: the configuration runs another bundle whatever is installed.
    StoreError: the disk refuses, or another update is under way.
    """
    if config.engine.bundle:
        raise ConfigError(
            f"engine.bundle: found {config.engine.bundle!r}: it runs whatever is installed; leave it empty for updates"
        )
    slots, trust = Slots(bundles_folder(config), disk), config.bundle.trust()
    bundle = load_bundle(file, trust)
    with slots.locked("update.lock", wait_s=0.0):
        finish_rollback(slots)
        if not allow_downgrade:
            _refuse_downgrade(file, bundle, slots, config)
        step("verified")
        slot = slots.find(bundle, trust)
        if slot and slot == slots.current():
            slots.clean()  # a kill right after the switch left something
            return Installed(bundle.label, bundle.signed_by, slot, slots.previous(), False, 0)
        if not slot:
            slots.unpack(bundle)
            step("unpacked")
            slot = slots.place(bundle)
            step("placed")
        try:
            _build(build, bundle, config)
            step("built")
            tried = _try_out(slots.path(slot), config, open_scorer)
        except Exception:
            slots.clean()
            raise
        step("rehearsed")
        with slots.locked():
            if not _is_failing(slots):  # else what comes before it stays the one to go back to
                slots.keep()
                step("kept")
            slots.switch(slot)
            step("switched")
            save_state(slots, replace(load_state(slots), attempt=None, last=None))
            step("recorded")
        slots.clean()
        step("cleaned")
        return Installed(bundle.label, bundle.signed_by, slot, slots.previous(), True, *tried)


def _is_trusted(path: Path, config: Config) -> bool:
    """False for a bundle that is whole and that no trusted key has signed; a damaged one counts as what it was."""
    try:
        load_bundle(path, config.bundle.trust())
    except BundleError:
        try:
            load_bundle(path, ANYONE)
        except BundleError:
            return True
        return False
    return True


def _refuse_downgrade(file: str | Path, bundle: Bundle, slots: Slots, config: Config) -> None:
    new, current = bundle.manifest.model, slots.current()
    # A bundle whose key was withdrawn does not run, and sets no version that others must reach.
    current = next((slot for slot in (current, slots.previous()) if slot and _is_trusted(slots.path(slot), config)), "")
    try:
        path = slots.path(current) if current else SHIPPED_BUNDLE
        running = load_bundle(path, config.bundle.trust()).manifest.model
        model, version = running.id, running.version
    except BundleError as error:
        log.warning("what is current cannot be read, its version is taken from its name: %s", error)
        model, version = new.id, version_of(current)
    if model != new.id:
        raise BundleError(
            f"{file}: model.id: found {new.id!r}, {model!r} is current; versions of different models cannot be compared:"
            " say --allow-downgrade if this is meant"
        )
    if version and precedence(new.version) < precedence(version):
        raise BundleError(
            f"{file}: model.version: found {new.version}, {version} is current; say --allow-downgrade if an earlier"
            " version is meant"
        )


def _build(build: Callable[[Bundle, Config], None], bundle: Bundle, config: Config) -> None:
    try:
        build(bundle, config)
    except HygromaError:
        raise
    except Exception as error:  # a builder that never met this graph may raise anything
        raise EngineError(f"{bundle.path}: no engine can be built from it: {error!r}; do not use it") from error


def _try_out(
    path: Path, config: Config, open_scorer: Callable[[str | Path, Config], Scorer]
) -> tuple[int, int, tuple[int, ...]]:
    """Runs the golden self-test, then the rehearsal; (evidence images in it, confirmed ones, which of these it no longer
    calls)."""
    pictures, confirmed = evidence_pictures(config.events.dir), confirmed_pictures(config.events.dir)
    try:
        with open_scorer(path, config) as scorer:
            rehearse(scorer, config, pictures)
            lost = no_longer_called(scorer, confirmed)
    except HygromaError:
        raise
    except Exception as error:  # code that never met this bundle may raise anything
        raise EngineError(f"{path}: the pipeline fails with this bundle: {error!r}; do not use it") from error
    if lost:
        log.warning("%s no longer calls %d of %d confirmed flags of this device: %s", path.name, len(lost), len(confirmed), lost)
    return len(pictures), len(confirmed), lost


def _is_failing(slots: Slots) -> bool:
    """Whether the current bundle is on trial and has crashed, so that it is no place to go back to."""
    attempt = load_state(slots).attempt
    return attempt is not None and attempt.slot == slots.current() and 0 < attempt.crashes <= CRASHES_MAX
