"""The records that flow through the daemon's loop, in the order in which the loop makes them.

All are frozen. `t_mono_ns` is `time.monotonic_ns()` at capture and travels unchanged, so that any stage can tell how old its
input is. Wall-clock time appears only in Event, for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum

import numpy as np

REVIEWS = ("open", "confirmed", "dismissed")  # what a person may have said of an event
REVIEWER_MAX = 100  # characters of that person's name
# One line of letters of any script: no control and no formatting characters, which could turn the words around them.
REVIEWER = r"[^\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\uffff]+"


class Signal(str, Enum):
    """What the scanner's screen is showing. Only OK frames are ever scored."""

    OK = "OK"
    NO_SIGNAL = "NO_SIGNAL"  # black, blue or flat picture, colour bars
    FROZEN = "FROZEN"  # the picture inside the fan has stopped changing
    DOPPLER = "DOPPLER"  # colour inside the fan
    DUAL = "DUAL"  # two fans side by side
    MENU = "MENU"  # a picture, but no fan: menus, patient lists, reports


@dataclass(frozen=True)
class Frame:
    """One picture from a source. `image` is uint8, grey [H,W] or BGR [H,W,3]; treat it as read-only."""

    id: int  # consecutive per source from 0, counting dropped frames too
    t_mono_ns: int  # of a recording played fast: the clip's own time, so that evidence does not depend on the machine
    image: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True)
class Fan:
    """Where the ultrasound picture lies on the screen, in pixels of the frame.

    `kind` is "sector" (annulus sector), "rect", or "full" (a still that is its own fan). `box` is (x0, y0, x1, y1), half
    open. For a sector: `apex` (x, y) may lie above the frame, radii `r0 < r1` in pixels, angles `a0 < a1` in radians from
    straight down, positive to the right.
    """

    kind: str
    box: tuple[int, int, int, int]
    apex: tuple[float, float] = (0.0, 0.0)
    r0: float = 0.0
    r1: float = 0.0
    a0: float = 0.0
    a1: float = 0.0


@dataclass(frozen=True)
class Fingerprint:
    """A picture inside its fan in a few hundred numbers, to tell whether it was there before (`edge.screen.likeness`).

    `values`: float32 [R,C], mean grey level of each cell of the screen; true only where `inside`, bool [R,C]. `slopes`: float32
    [2,R,C], what they would change by if the picture lay a pixel further left, or up. `alike`: grey levels of difference up to
    which two pictures of this source cannot be told from one picture and its noise.
    """

    values: np.ndarray = field(repr=False, compare=False)
    inside: np.ndarray = field(repr=False, compare=False)
    slopes: np.ndarray = field(repr=False, compare=False)
    alike: float = 0.0


@dataclass(frozen=True)
class Reading:
    """What screen reading made of one frame. Pixels outside the fan end here: only `crop` goes on."""

    frame_id: int
    t_mono_ns: int
    signal: Signal
    fan: Fan | None
    # uint8 [S,S], model input; None unless OK with nothing over the fan
    crop: np.ndarray | None = field(repr=False, compare=False, default=None)
    duplicate: bool = False  # the same picture inside the fan as before, but for noise: carries no evidence
    layout_changed: bool = False  # the fan moved: the exam's evidence starts again
    settled: bool = True  # the fan is sure enough to show and keep what lies in it; the model may look before
    doubtful: bool = False  # a MENU that may be the scanner's own screen gone dark, or a notice: ends no exam by itself
    covered: bool = False  # a window of the interface lies over the picture: it is not scored
    fingerprint: Fingerprint | None = field(repr=False, compare=False, default=None)  # None without a fan
    repeats: bool = False  # the exam has counted this picture, however long ago: carries no evidence
    noise: float = 0.0  # grey levels, the source's measured noise floor (`edge.screen.held`); 0 until it is known


@dataclass(frozen=True)
class RawOutputs:
    """What the graph gives for N crops, float32: `plane` [N] and `hygroma` [N] are logits, `embedding` [N,D],
    `nuchal_map` [N,G,G] logits per patch; `others`: logits [N] of the heads besides plane and hygroma, by name."""

    plane: np.ndarray
    hygroma: np.ndarray
    embedding: np.ndarray
    nuchal_map: np.ndarray
    others: Mapping[str, np.ndarray] = field(default_factory=dict, kw_only=True)

    def named(self) -> dict[str, np.ndarray]:
        """Every output by its name in the graph."""
        return {name: getattr(self, name) for name in OUTPUT_NAMES} | dict(self.others)


# Of every graph that export writes; the outputs of further heads come after them, by their names.
OUTPUT_NAMES = tuple(output.name for output in fields(RawOutputs) if output.name != "others")


@dataclass(frozen=True)
class Scores:
    """The model's answer to one crop. Probabilities in [0,1]; `ood` is a distance, higher is stranger. `plane` and `nuchal_map`
    are None where the bundle has no such head (edge/bundle/manifest.py, `absent`)."""

    plane: float | None
    hygroma: float
    ood: float
    nuchal_map: np.ndarray | None = field(
        repr=False, compare=False
    )  # float32 [G,G], probability per patch of being nuchal region
    ms: float = 0.0  # wall time of this inference
    others: Mapping[str, float] = field(default_factory=dict)  # probability by the name of a head besides plane and hygroma


@dataclass(frozen=True)
class Verdict:
    """The decision's state after one frame.

    `reasons` says why the frame is not assessable, in fixed words (see decision.REASONS); empty when it is. `evidence` is the
    accumulated log-likelihood-like sum, `threshold` the value at which the exam is flagged.
    """

    frame_id: int
    t_mono_ns: int
    exam_id: int
    signal: Signal
    assessable: bool
    reasons: tuple[str, ...]
    plane: float | None
    hygroma: float | None
    ood: float | None
    evidence: float
    threshold: float
    flagged: bool  # latched for this exam
    newly_flagged: bool  # true on exactly one frame of a flagged exam
    exam_started: bool = False  # true on the first frame of an exam
    repeats: bool = False  # the exam has counted this picture already
    boundary: str = ""  # why this exam may hold, or have begun with, another patient than it seems; "" when nothing says so
    question: str = ""  # what the operator is asked about that boundary; "" when nothing is


@dataclass(frozen=True)
class Event:
    """One committed flag. `image_path` is relative to the store and was durable before the row was."""

    id: int
    exam_id: int
    source: str  # credentials removed
    frame_id: int
    t_wall: str  # ISO 8601, UTC
    latency_ms: float  # capture stamp of the newest frame behind the flag to commit
    hygroma: float
    evidence: float
    bundle: str
    image_path: str
    image_sha256: str
    review: str = "open"  # one of REVIEWS
    reviewed_by: str = ""
    clip_path: str = ""  # "" until the seconds after the flag are there too, and for ever when they could not be kept
    clip_sha256: str = ""
    pinned: bool = False  # never removed
    boundary: str = ""  # as in Verdict: why the exam's boundary was not sure
    overrides: str = ""  # what the configuration had changed of the bundle's decision, in words
    clock: str = ""  # how t_wall was known (edge/clock.py): synchronised, set by hand, unknown; "" in an older version's events
    boot: str = ""  # which boot of the device
    t_mono_ns: int = 0  # monotonic clock of that boot, at the flag: puts t_wall right once the clock's error is known
