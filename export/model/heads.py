"""What a head is: one record a head. Whatever trains, exports, quantises, judges or ships heads loops over these records."""

from __future__ import annotations

from dataclasses import dataclass, replace

# How a head's threshold is chosen on held-out predictions.
SPECIFIC, KEEPING = "specific", "keeping"
# How a head learns (LOSSES of training/train.py): its label, weighted by its entry's source; label and thickness; label alone.
BY_SOURCE, THICKNESS, LABEL = "label by source", "label and thickness", "label"
# What of a set of images a conversion must pass on: every part and all together; all together; or nothing, it is reported only.
EVERY_PART, TOGETHER, REPORTED = "every part", "together", "reported"


@dataclass(frozen=True)
class Head:
    """name: of the graph's output. column: of the label, {0,1} or unknown, in the bank's entries (calibration/bank.py: `label`),
    which have those of the data set's table. sources: of the entries that it is judged on; real_positives: whether real ones are
    among them. title: of its evidence, where that is not its name. kind, task, images: what the report calls its evidence, a
    positive, and what it is judged on. gated: whether it may refuse a bundle, and on what.
    screening: whether predictive values make sense."""

    name: str
    column: str
    loss: str = LABEL
    threshold: str = SPECIFIC
    gated: str = REPORTED
    sources: tuple[str, ...] = ("real",)
    kind: str = "real"
    task: str = ""
    images: str = "untouched real stills"
    screening: bool = False
    title: str = ""
    real_positives: bool = True

    @property
    def called(self) -> str:
        """What the report calls its evidence."""
        return self.title or self.name


HYGROMA = Head(
    "hygroma",
    "hygroma",
    THICKNESS,
    SPECIFIC,
    EVERY_PART,
    ("real", "sham", "lesion"),  # never a still and its cleaned copy
    "simulated_lesion",
    "nuchal collection of 3.2-12 mm-equivalents, simulated",
    "real mid-sagittal stills with a simulated lesion, against shams and untouched stills",
    screening=True,
    real_positives=False,  # real and simulated ones never stand in one figure
)
REAL_HYGROMA = replace(
    HYGROMA,
    title="hygroma, real",
    sources=("real",),
    kind="real",
    task="hygroma, as the data set says",
    images="untouched real stills with a finding",
    real_positives=True,
)
PLANE = Head(
    "plane",
    "plane",
    BY_SOURCE,
    KEEPING,
    REPORTED,  # a plane that is lost the next frame brings again
    ("real",),
    "real",
    "standard mid-sagittal nuchal view",
    "untouched real stills, standard against non-standard planes",
)
NO_PLANES = 0.5  # plane threshold where there is no plane head; and a given bundle's probability from which it says plane
HEADS = (HYGROMA, PLANE)  # of every model
