"""A new bundle runs the whole pipeline once before anybody relies on it: on the device's own last evidence images."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge.config import Config
from edge.decision.exam import Exam
from edge.decision.params import DecisionParams
from edge.engines.scorer import Scorer
from edge.errors import EngineError, StoreError
from edge.events.evidence import PANEL, render_evidence
from edge.events.store import EventStore
from edge.records import Event, Frame, Reading, Signal
from edge.screen.geometry import full_fan
from edge.screen.preprocess import prepare
from edge.screen.reader import ScreenReader

log = logging.getLogger(__name__)

PICTURES_MAX = 8  # evidence images; a second's work on the slowest device
CONFIRMED_MAX = 64  # confirmed events; seconds of scoring on the slowest device
STEP_NS = 1_000_000_000  # nanoseconds between them, as the decision sees it


def evidence_pictures(folder: str | Path) -> list[np.ndarray]:
    """What the model saw in the newest events, newest first, uint8 [H,W]; fewer or none where there are none to be read.
    Each is checked against its hash."""
    return [picture for _, picture in _pictures(folder, None, PICTURES_MAX)]


def _pictures(folder: str | Path, review: str | None, most: int) -> list[tuple[Event, np.ndarray]]:
    pictures: list[tuple[Event, np.ndarray]] = []
    if not (Path(folder) / "events.db").is_file():
        return pictures  # nothing was ever flagged here
    try:
        with EventStore(folder, create=False) as store:
            for event in store.events(review, limit=most):
                try:
                    data = store.image(event)
                except StoreError as error:
                    log.warning("an evidence image is left out: %s", error)
                    continue
                picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
                if picture is not None:
                    pictures.append((event, picture[:PANEL, :PANEL]))  # the left panel of `render_evidence`: the plain crop
    except StoreError as error:
        log.warning("evidence images are left out: %s", error)
    return pictures


@dataclass(frozen=True)
class Confirmed:
    """A flag that a person confirmed: its event's number, and what the model saw, uint8 [H,W]."""

    event_id: int
    picture: np.ndarray


def confirmed_pictures(folder: str | Path) -> list[Confirmed]:
    """Of the newest events that were confirmed on this device; none where there are none to be read."""
    return [Confirmed(event.id, picture) for event, picture in _pictures(folder, "confirmed", CONFIRMED_MAX)]


def no_longer_called(scorer: Scorer, confirmed: list[Confirmed]) -> tuple[int, ...]:
    """The events whose picture an entered scorer does not call a suspected collection: their score is below the bundle's own
    threshold, or the picture counts as not assessable. The scorer that flagged them may have been right or wrong; a person
    confirmed them."""
    point, limit = scorer.manifest.operating_point, scorer.manifest.ood.threshold
    lost = []
    for flag in confirmed:
        scores = scorer.score(prepare(flag.picture, full_fan(flag.picture.shape), scorer.manifest.preprocessing))
        view = scores.plane is None or scores.plane >= point.plane_threshold
        called = scores.hygroma >= point.hygroma_threshold and view and scores.ood <= limit
        if not called:
            lost.append(flag.event_id)
    return tuple(lost)


def rehearse(scorer: Scorer, config: Config, pictures: list[np.ndarray]) -> None:
    """Read, prepare, score, decide and render each of `pictures`, and one that is always there, with an entered scorer.
    EngineError or BundleError when anything cannot be done or a score is not finite."""
    spec = scorer.manifest.preprocessing
    reader = ScreenReader(spec)
    exam = Exam(config.decision.apply(DecisionParams.from_manifest(scorer.manifest)), 1)
    ramp = np.tile(np.linspace(0, 255, PANEL).astype(np.uint8), (PANEL, 1))
    for i, picture in enumerate([ramp, *pictures]):
        reader.read(Frame(i, i * STEP_NS, picture))
        fan = full_fan(picture.shape)
        crop = prepare(picture, fan, spec)
        scores = scorer.score(crop)
        if not np.isfinite([scores.plane or 0.0, scores.hygroma, scores.ood]).all():
            raise EngineError(
                f"{scorer.label}: picture {i} of the rehearsal: found a score that is not finite; do not use this bundle"
            )
        verdict = exam.step(Reading(i, i * STEP_NS, Signal.OK, fan, crop), scores)
        render_evidence(crop, scores, "rehearsal", verdict.exam_id, scorer.label)
