"""A bundle's head fitted on a site's images: fold by fold to be judged, then on everything to be shipped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from calibration.bank import UNKNOWN, Bank
from calibration.dataset import FOLDS
from calibration.site import OTHER, UNLABELLED, Site
from edge.bundle import Bundle
from edge.engines.graph_forms import strip_quantisers
from edge.screen.preprocess import letterbox
from export.heads.anchored import Anchored, Samples, fit_anchored
from export.heads.features import PLANE, HeadInputs
from export.heads.fit import Reading
from export.heads.head_graph import hygroma_said, plane_said, with_hygroma
from export.int8.log_odds_shift import shift_needed
from export.phantoms import PER_PATIENT

PHANTOM_SHARE = 0.5  # of the site's images, that all phantoms together count for


@dataclass(frozen=True)
class Opened:
    """A bundle to start from. graph: its INT8 graph; unshifted: the same without rounding."""

    bundle: Bundle
    graph: onnx.ModelProto
    unshifted: onnx.ModelProto
    shown: HeadInputs

    @classmethod
    def of(cls, bundle: Bundle, threads: int) -> Opened:
        graph = onnx.load_from_string(bundle.model)
        unshifted = onnx.load_from_string(strip_quantisers(bundle.model))
        with_hygroma(graph, 1.0, Reading(np.zeros(1), 0.0))  # a head without room is refused now, not when all is fitted
        return cls(bundle, graph, unshifted, HeadInputs(unshifted, graph, threads))

    def said(self, head: str, features: np.ndarray) -> np.ndarray:
        """Log-odds [N] of its own head on features [N,D]."""
        cooled = self.bundle.manifest.calibration
        if head == PLANE:
            return plane_said(self.unshifted, features) / cooled.plane_temperature
        return hygroma_said(self.unshifted, features) / cooled.hygroma_temperature


@dataclass(frozen=True)
class Head:
    """A head before and after. keep [N]: indices of the site's images that it is judged on, labels {0,1} [N]; before, adapted,
    int8 [N]: log-odds on them, held out: of the bundle's head in INT8, of the adapted one without rounding and in INT8; every:
    as int8, of all of the site's images; fitted, raised: the head to ship, and its logit offset (int8/log_odds_shift.py)."""

    keep: np.ndarray
    labels: np.ndarray
    before: np.ndarray
    adapted: np.ndarray
    int8: np.ndarray
    every: np.ndarray
    fitted: Anchored
    raised: float


def fit_head(head: str, start: Opened, site: Site, phantoms: Bank, seed: int) -> Head:
    """`phantoms`: rendered frames and what they show."""
    if head == PLANE:
        keep, labels = np.flatnonzero(site.planes != UNLABELLED), site.planes
        rendered = np.array([e.plane for e in phantoms.entries])
    else:
        keep, labels = np.flatnonzero(site.planes != OTHER), site.labels
        rendered = np.array([e.hygroma for e in phantoms.entries])
    telling = np.flatnonzero(rendered != UNKNOWN)
    spec = start.bundle.manifest.preprocessing
    crops = [*site.crops, *(letterbox(phantoms.crops[i], spec) for i in telling)]
    features, rounding = start.shown(head, crops)
    before, before_int8 = start.said(head, features), start.said(head, features + rounding)
    # the whole picture's mean, which the hygroma head sees last, it leaves alone (export/heads/fit.py)
    reach = features.shape[1] - (0 if head == PLANE else start.bundle.manifest.heads.embedding)
    n = len(site.labels)
    samples = Samples(
        before,
        features[:, :reach].astype(np.float64),
        rounding[:, :reach].astype(np.float64),
        np.concatenate([labels, rendered[telling]]).astype(np.float64),
        np.concatenate([np.ones(n), np.full(len(telling), PHANTOM_SHARE * len(keep) / max(1, len(telling)))]),
        [*site.groups, *(f"phantom {i // PER_PATIENT}" for i in telling)],
    )
    rounded = samples.features + samples.rounding
    learned = np.concatenate([keep, np.arange(n, len(before))])  # of the others no label is known

    def shifted(fitted: Anchored, part: np.ndarray) -> float:
        """Of the hygroma head alone: a plane that is lost the next frame brings again."""
        if head == PLANE:
            return 0.0
        return shift_needed(fitted(before[part], samples.features[part]), fitted(before_int8[part], rounded[part]))

    adapted, int8 = np.empty(n), np.empty(n)
    for fold in range(FOLDS):
        held = np.flatnonzero(site.folds == fold)
        rest = np.setdiff1d(learned, held)
        fitted = fit_anchored(samples.part(rest), seed)
        adapted[held] = fitted(before[held], samples.features[held])
        int8[held] = fitted(before_int8[held], rounded[held]) + shifted(fitted, rest)
    fitted = fit_anchored(samples.part(learned), seed)
    return Head(
        keep, labels[keep], before_int8[keep], adapted[keep], int8[keep], int8, fitted, shifted(fitted, learned)
    )
