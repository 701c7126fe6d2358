"""The decision's parameters. They are fitted on training exams and travel in the bundle's manifest."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from edge.bundle.manifest import Manifest
from edge.errors import BundleError

# Widest sensible value of each parameter: (low, high). Wider is a slip in the manifest, not a choice.
BOUNDS: dict[str, tuple[float, float]] = {
    "plane_threshold": (0.0, 1.0),
    "ood_threshold": (0.0, 1e6),
    "logit_offset": (-20.0, 20.0),
    "gain": (1e-3, 100.0),
    "cap": (1e-3, 100.0),
    "leak": (0.0, 0.5),
    "flag_threshold": (0.1, 1000.0),
    "min_frames": (1, 1000),
    "min_interval_ms": (0.0, 5000.0),
    "gap_s": (0.5, 3600.0),
    "menu_s": (0.1, 3600.0),
}

P_EPSILON = 1e-6  # probability; a saturated sigmoid would have infinite log-odds
LOG_ODDS_MAX = math.log((1 - P_EPSILON) / P_EPSILON)
PLANE_MOST = 0.999  # probability; a calibrated head gives standard planes .5 to .99
OOD_LEAST = 0.01  # distance; the training images' own median is near 1
EXAM_S = 600.0  # seconds; a nuchal view is held for seconds, a whole first-trimester exam lasts some twenty minutes


@dataclass(frozen=True)
class DecisionParams:
    """How scores become a flag.

    A distinct, assessable frame that comes at least `min_interval_ms` after the last one that counted changes the
    evidence E to `max(0, E * (1 - leak) + clip(gain * (logit(hygroma) - logit_offset), -cap, +cap))`. The exam is
    flagged when E reaches `flag_threshold` with at least `min_frames` counted. The defaults are round values for tests
    and for a bundle without a fit; a shipped bundle brings its own.
    """

    plane_threshold: float = 0.5  # probability from which a frame can be assessed
    ood_threshold: float = 1.0  # distance on the embedding above which an image is unfamiliar
    logit_offset: float = 0.0  # log-odds of the hygroma head at which a frame speaks neither for nor against
    gain: float = 1.0  # evidence per log-odd: below 1 where neighbouring frames say the same thing twice
    cap: float = 1.0  # most that one frame may add or take: no single frame flags an exam
    leak: float = 0.02  # part of the evidence forgotten per counted frame: a weak bias cannot add up for ever
    flag_threshold: float = 6.0  # evidence at which the exam is flagged
    min_frames: float = 5  # whole number of counted frames an exam needs before it may be flagged
    min_interval_ms: float = 100.0  # frames closer than this are too alike to count twice
    gap_s: float = 10.0  # seconds without signal after which the next picture is another exam
    menu_s: float = 1.0  # seconds of menu after which the next picture is another exam

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise BundleError(f"decision.{name}: found {value!r}, must be a number from {low:g} to {high:g}")
            if not low <= value <= high:
                raise BundleError(f"decision.{name}: found {value!r}, must be from {low:g} to {high:g}")
        if self.min_frames != int(self.min_frames):
            raise BundleError(f"decision.min_frames: found {self.min_frames!r}, must be a whole number of frames")
        if why := self._why_never():
            raise BundleError(f"decision: this rule can never flag: {why}")

    def _why_never(self) -> str:
        """Why no exam could be flagged, however sick: a box with such a rule watches for months and says nothing. "" where it
        can."""
        if self.plane_threshold > PLANE_MOST:
            return f"plane_threshold: found {self.plane_threshold!r}, which hardly any picture reaches; at most {PLANE_MOST}"
        if self.ood_threshold < OOD_LEAST:
            return f"ood_threshold: found {self.ood_threshold!r}, which no picture stays under; at least {OOD_LEAST}"
        most = min(self.cap, self.gain * (LOG_ODDS_MAX - self.logit_offset))
        if most <= 0.0:
            return f"logit_offset: found {self.logit_offset:g}, above any score's log-odds ({LOG_ODDS_MAX:.1f})"
        reach = most / self.leak if self.leak else math.inf  # where what is added and what is forgotten are level
        if reach <= self.flag_threshold:
            return (
                f"flag_threshold: found {self.flag_threshold:g}, and evidence stays below {reach:g} (cap {self.cap:g}, "
                f"leak {self.leak:g}); must be below that"
            )
        frames = self.flag_threshold / most
        if math.isfinite(reach):
            frames = math.log1p(-self.flag_threshold / reach) / math.log1p(-self.leak)
        frames = max(self.min_frames, math.ceil(frames))
        if (seconds := frames * self.min_interval_ms / 1000) > EXAM_S:
            return f"flag_threshold: found {self.flag_threshold:g}, which takes {seconds:.0f} s of the worst scores to reach"
        return ""

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> DecisionParams:
        """The manifest's `decision` object with its plane and out-of-distribution thresholds, which have sections of
        their own.

        BundleError unless `decision` has exactly the other keys, each in bounds: a parameter that falls back to a
        default in silence would change what the device flags.
        """
        found = manifest.decision
        wrong = [f"decision.{key}: missing" for key in sorted(_OWN_KEYS - set(found))]
        wrong += [f"decision.{key}: unknown" for key in sorted(set(found) - _OWN_KEYS)]
        if wrong:
            raise BundleError(
                "manifest.json: " + "; ".join(wrong) + "; build the bundle again with this version of hygroma"
            )
        return cls(
            plane_threshold=manifest.operating_point.plane_threshold, ood_threshold=manifest.ood.threshold, **found
        )

    def to_manifest(self) -> dict[str, float]:
        """The manifest's `decision` object: all but the two thresholds that have sections of their own."""
        return {key: float(value) for key, value in dataclasses.asdict(self).items() if key in _OWN_KEYS}


_OWN_KEYS = {item.name for item in dataclasses.fields(DecisionParams)} - {"plane_threshold", "ood_threshold"}
