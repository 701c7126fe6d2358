"""How starts of a new bundle end, remembered across restarts, and when that is reason enough to go back.

A bundle in `current` is on trial until it has watched for PROVE_S. On trial, a start that is not ready within `bundle.ready_s`
(of the configuration) or the third start that crashes makes the old bundle current again, at the next start. A crash is an end
that was not announced. A power cut is none if the daemon was ready; before that it counts, since nothing says that it would
ever have been.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from edge.clock import boot_id
from edge.errors import StoreError
from edge.schema import Decoder, encode, rule
from edge.sd_notify import Notifier
from edge.update.slots import STATE_FILE, Slots

log = logging.getLogger(__name__)

CRASHES_MAX = 3
PROVE_S = 600.0  # seconds of finished loops: past the start, the first exams and the first clean-up of the store
BY_HAND = "a person asked for it"  # the reason of a rollback that no failure caused; it stands in the state file
MAX_STATE_BYTES = 64 * 1024  # bytes; the state has less than 2000

_SLOT = rule(low=1, high=100)  # characters
_COUNT = rule(low=0, high=1e9)


@dataclass(frozen=True)
class Attempt:
    """The last start of the bundle on trial. `phase` is how far it came: starting, ready, or ended (as announced)."""

    slot: str = field(metadata=_SLOT)
    crashes: int = field(metadata=_COUNT)
    phase: str = field(metadata=rule(choices=("starting", "ready", "ended")))
    started_ns: int = field(metadata=rule(low=0, high=2**63))  # monotonic: means something in the same boot only
    boot: str = field(metadata=rule(high=64))


@dataclass(frozen=True)
class Rollback:
    slot: str = field(metadata=_SLOT)  # the bundle that failed, or was taken back
    reason: str = field(metadata=rule(high=1000))
    t_wall: str = field(metadata=rule(high=64))  # ISO 8601, UTC

    @property
    def by_hand(self) -> bool:
        """Whether a person took the bundle back: nothing failed, and nothing is to be repaired."""
        return self.reason == BY_HAND


@dataclass(frozen=True)
class State:
    """The whole of `state.json`. `going_back` is a rollback under way, written before anything is changed; `last` is the
    last one that was finished, until another bundle is installed."""

    schema_version: int = field(default=1, metadata=rule(low=1, high=1))
    proven: tuple[str, ...] = field(default=(), metadata=rule(high=16))
    attempt: Attempt | None = None
    rollbacks: int = field(default=0, metadata=_COUNT)
    going_back: Rollback | None = None
    last: Rollback | None = None


def load_state(slots: Slots) -> State:
    """A state that is missing or damaged is a fresh one: it must never keep a device from starting."""
    path = slots.root / STATE_FILE
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_STATE_BYTES)
        decoder = Decoder(str(path), StoreError)
        return decoder.dataclass(State, decoder.parse(data, "the file is damaged"))
    except FileNotFoundError:
        return State()
    except (OSError, StoreError) as error:
        log.error("the record of updates begins anew: %s", error)
        return State()


def save_state(slots: Slots, state: State) -> None:
    """Durable when it returns. StoreError when the disk refuses."""
    there = set(slots.names())
    state = replace(state, proven=tuple(slot for slot in state.proven if slot in there)[-16:])
    try:
        slots.disk.write_durable(slots.root / STATE_FILE, (json.dumps(encode(state), indent=1) + "\n").encode())
    except OSError as error:
        raise StoreError(f"{slots.root / STATE_FILE}: cannot be written ({error.strerror})") from error


def roll_back(slots: Slots, failed: str, reason: str, wall: Callable[[], str] | None = None) -> str:
    """The bundle before `failed` becomes current and the fact is recorded; returns its slot, "" for the shipped bundle.
    StoreError: `failed` is not current (any more), or the disk refuses."""
    with slots.locked():
        if not failed or slots.current() != failed:
            what = f"{failed} is not current" if failed else "no update is installed"
            raise StoreError(f"{slots.root}: {what}, there is nothing to go back from")
        going_back = Rollback(failed, reason[:1000], (wall or _utc_now)())
        save_state(slots, replace(load_state(slots), going_back=going_back))
        return _finish_rollback(slots)


def finish_rollback(slots: Slots) -> None:
    """What a kill in the middle of `roll_back` left undone. StoreError: the disk refuses."""
    if load_state(slots).going_back is not None:
        with slots.locked():
            _finish_rollback(slots)


def _finish_rollback(slots: Slots) -> str:
    state, slot = load_state(slots), slots.current()
    failed = state.going_back
    if failed is None:  # another process was quicker
        return slot
    if slot == failed.slot:
        slot = slots.go_back()
    proven = tuple(name for name in state.proven if name != failed.slot)
    save_state(
        slots,
        replace(state, proven=proven, attempt=None, rollbacks=state.rollbacks + 1, going_back=None, last=failed),
    )
    level = logging.INFO if failed.by_hand else logging.ERROR
    log.log(level, "bundle %s is rolled back to %s: %s", failed.slot, slot or "the shipped one", failed.reason)
    return slot


def judge(attempt: Attempt, now_ns: int, boot: str, ready_s: float) -> tuple[Attempt, str]:
    """How the attempt before this start ended: it, with its crashes counted, and why to go back ("" to go on)."""
    same_boot = boot == attempt.boot
    if attempt.phase == "starting" and same_boot and now_ns - attempt.started_ns >= ready_s * 1e9:
        return attempt, f"it was not ready within {ready_s:g} s of its start"
    if attempt.phase == "starting" or (attempt.phase == "ready" and same_boot):
        attempt = replace(attempt, crashes=attempt.crashes + 1)
    return attempt, f"it crashed {attempt.crashes} times" if attempt.crashes >= CRASHES_MAX else ""


class Trial:
    """One start of the daemon. `begin` first; then `ready`, `alive` and `ended` as they happen. A disk that refuses is logged and
    ends the counting, never the watching."""

    def __init__(
        self,
        slots: Slots,
        ready_s: float,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        boot: str | None = None,
        wall: Callable[[], str] | None = None,
    ) -> None:
        self._slots, self._ready_s, self._clock_ns, self._wall = slots, ready_s, clock_ns, wall
        self._boot = boot_id() if boot is None else boot
        self._ready_ns: int | None = None
        self.on = False  # whether the bundle that now starts is on trial

    def begin(self) -> None:
        """Judge how the last start ended, go back if it must be, and record this start."""
        self.on = False
        try:
            finish_rollback(self._slots)
            slot = self._slots.current()
            while slot and slot not in load_state(self._slots).proven:
                attempt = load_state(self._slots).attempt
                if attempt is None or attempt.slot != slot:
                    attempt = Attempt(slot, 0, "ended", 0, self._boot)
                attempt, reason = judge(attempt, self._clock_ns(), self._boot, self._ready_s)
                if reason:
                    slot = roll_back(self._slots, slot, reason, self._wall)
                    continue
                self._record(replace(attempt, phase="starting", started_ns=self._clock_ns(), boot=self._boot))
                self.on = True
                return
        except StoreError as error:
            log.error("this start of a new bundle is not counted: %s", error)

    def ready(self) -> None:
        """The daemon watches."""
        if self.on:
            self._ready_ns = self._clock_ns()
            self._progress("ready")

    def alive(self) -> None:
        """A loop has finished."""
        if self.on and self._ready_ns is not None and self._clock_ns() - self._ready_ns >= PROVE_S * 1e9:
            try:
                with self._slots.locked(wait_s=0.0):  # no reason to hold up the loop
                    state, slot = load_state(self._slots), self._slots.current()
                    if state.attempt and state.attempt.slot == slot:
                        save_state(self._slots, replace(state, proven=(*state.proven, slot), attempt=None))
                self.on = False
            except StoreError as error:
                log.warning("a new bundle stays on trial for another %.0f s: %s", PROVE_S, error)
                self._ready_ns = self._clock_ns()

    def ended(self) -> None:
        """The daemon ends because it was told to, or through no fault of the bundle."""
        if self.on:
            self._progress("ended")
            self.on = False

    def failed(self, slot: str, reason: str) -> None:
        """This bundle refused to run: no second start will make it."""
        self.on = False
        try:
            roll_back(self._slots, slot, reason, self._wall)
        except StoreError as error:
            log.error("the failed bundle stays current: %s", error)

    def _progress(self, phase: str) -> None:
        try:
            with self._slots.locked():
                state, slot = load_state(self._slots), self._slots.current()
                if state.attempt and state.attempt.slot == slot:  # else an update came between: its trial is its own
                    save_state(self._slots, replace(state, attempt=replace(state.attempt, phase=phase)))
        except StoreError as error:
            log.error("this start of a new bundle is not counted: %s", error)

    def _record(self, attempt: Attempt) -> None:
        with self._slots.locked():
            save_state(self._slots, replace(load_state(self._slots), attempt=attempt))


class TrialNotifier(Notifier):
    """Tells the trial what it tells systemd."""

    def __init__(self, trial: Trial, on_ready: Callable[[], None], environment: Mapping[str, str] = os.environ) -> None:
        super().__init__(environment)
        self._trial, self._on_ready = trial, on_ready

    def ready(self) -> None:
        self._on_ready()
        self._trial.ready()
        super().ready()

    def watchdog(self) -> None:
        super().watchdog()
        self._trial.alive()


def _utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
