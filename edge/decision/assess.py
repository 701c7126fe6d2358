"""Can this one image be assessed? The same rule for a still (`hygroma score`) and for every frame of an exam."""

from __future__ import annotations

from edge.decision.params import DecisionParams
from edge.records import Signal

NO_ANSWER = "no model answer"
COVERED = "window over the picture"
NOT_PLANE = "not the nuchal plane"
UNFAMILIAR = "unfamiliar image"

SIGNAL_REASONS: dict[Signal, str] = {
    Signal.NO_SIGNAL: "no signal",
    Signal.FROZEN: "frozen",
    Signal.DOPPLER: "doppler",
    Signal.DUAL: "dual view",
    Signal.MENU: "menu",
}

# Every word that Verdict.reasons may hold. Fixed: pages, logs and scripts match on them.
REASONS: tuple[str, ...] = (*SIGNAL_REASONS.values(), NO_ANSWER, COVERED, NOT_PLANE, UNFAMILIAR)


def assess(
    signal: Signal, plane: float | None, ood: float | None, params: DecisionParams, covered: bool = False
) -> tuple[bool, tuple[str, ...]]:
    """(assessable, reasons from REASONS; empty when assessable).

    plane: probability [0,1], None where the bundle has no plane head, and then every view passes; ood: distance, None when the
    model was not asked or failed. `covered`: a window of the interface lies over the picture. A value that is not a
    number fails its comparison and so counts against the frame.
    """
    if signal is not Signal.OK:
        return False, (SIGNAL_REASONS[signal],)
    if covered:
        return False, (COVERED,)
    if ood is None:
        return False, (NO_ANSWER,)
    reasons = []
    if plane is not None and not plane >= params.plane_threshold:
        reasons.append(NOT_PLANE)
    if not ood <= params.ood_threshold:
        reasons.append(UNFAMILIAR)
    return not reasons, tuple(reasons)
