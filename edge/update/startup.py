"""Which bundle a daemon starts with: the configured one, else the installed one with the old ones behind it, else the shipped."""

from __future__ import annotations

import faulthandler
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.bundle.trust import SHIPPED_BUNDLE
from edge.config import Config
from edge.decision.params import DecisionParams
from edge.engines.scorer import Scorer
from edge.errors import BundleError, EngineError, HygromaError
from edge.sd_notify import Notifier
from edge.status.board import BundleState
from edge.update.slots import Slots, bundles_folder
from edge.update.trial import Trial, TrialNotifier, load_state

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A scorer that passed its self-test, what the page says about its bundle, and whom the loop tells that it lives."""

    scorer: Scorer
    bundle: BundleState
    notifier: Notifier


class Deadline:
    """Ends the process, with a traceback, unless cancelled in time. Kept by a thread of C: a start that hangs in an engine may
    never give Python its turn again."""

    def arm(self, seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)

    def cancel(self) -> None:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def open_start(
    config: Config,
    open_scorer: Callable[[str | Path, Config], Scorer],
    make_trial: Callable[[Slots, float], Trial] = Trial,
    deadline: Deadline | None = None,
) -> Iterator[Start]:
    """The first bundle that passes its self-test. BundleError or EngineError of the last when none does.

    One on trial that fails is rolled back for good. One that had proved itself is passed over this time only, and the page
    says so: what keeps it from running may be gone at the next start.
    """
    deadline = deadline or Deadline()
    slots = Slots(bundles_folder(config))
    trial = make_trial(slots, config.bundle.ready_s)
    fixed = config.engine.bundle
    if not fixed:
        trial.begin()
    with ExitStack() as stack:
        stack.callback(deadline.cancel)
        if trial.on:
            deadline.arm(config.bundle.ready_s)
        try:
            scorer, slot, problems = _first_that_runs(stack, config, open_scorer, slots, trial, deadline)
            state = _describe(config, scorer, slots, slot, problems, trial.on)
            notifier = TrialNotifier(trial, deadline.cancel) if trial.on else Notifier()
            yield Start(scorer, state, notifier)
        except (BundleError, EngineError):
            raise  # the bundle's fault, as far as anyone can tell: counted as a crash
        except (HygromaError, KeyboardInterrupt, SystemExit):
            trial.ended()
            raise
        else:
            trial.ended()


def _first_that_runs(
    stack: ExitStack,
    config: Config,
    open_scorer: Callable[[str | Path, Config], Scorer],
    slots: Slots,
    trial: Trial,
    deadline: Deadline,
) -> tuple[Scorer, str, list[str]]:
    """The entered scorer, its slot ("" for the configured or the shipped bundle), and what is wrong with those before it."""
    if config.engine.bundle:
        return stack.enter_context(open_scorer(config.engine.bundle, config)), "", []
    problems: list[str] = []
    for slot in dict.fromkeys((slots.current(), slots.previous(), "")):
        try:
            with ExitStack() as attempt:
                scorer = attempt.enter_context(open_scorer(slots.path(slot) if slot else SHIPPED_BUNDLE, config))
                DecisionParams.from_manifest(scorer.manifest)  # the other part of a bundle that a daemon may refuse
                stack.push(attempt.pop_all())
            return scorer, slot, problems
        except (BundleError, EngineError) as error:
            if not slot:
                raise
            log.error("bundle %s cannot run: %s", slot, error)
            if trial.on:  # only the first can be on trial
                deadline.cancel()
                trial.failed(slot, str(error))
            else:
                problems.append(f"bundle {slot} cannot run ({error}); an older one runs instead")
    raise AssertionError("the shipped bundle ends the loop")


def _describe(
    config: Config, scorer: Scorer, slots: Slots, slot: str, problems: list[str], on_trial: bool
) -> BundleState:
    state = load_state(slots)
    if state.last is not None and not state.last.by_hand and not config.engine.bundle:
        problems = [*problems, f"bundle {state.last.slot} was rolled back: {state.last.reason}"]
    if not scorer.signed_by:
        problems = [*problems, "the bundle is UNSIGNED (bundle.allow_unsigned)"]
    gate = scorer.manifest.gate
    if gate.accepted_failing:
        reasons = "; ".join(gate.reasons)
        problems = [*problems, f"the bundle's INT8 conversion FAILED its gate and was accepted by hand: {reasons}"]
        log.warning(
            "bundle %s: its INT8 conversion failed its gate and was accepted by hand: %s", scorer.label, reasons
        )
    return BundleState(
        model=scorer.manifest.model.id,
        version=scorer.manifest.model.version,
        sha256=scorer.sha256,
        signed_by=scorer.signed_by,
        allow_unsigned=config.bundle.allow_unsigned,
        previous=(slots.previous() or "shipped") if slot and slot == slots.current() else "",
        on_trial=on_trial,
        rollbacks=state.rollbacks,
        problems=tuple(problems),
    )
