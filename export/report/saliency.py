"""Where the model looked: the report's section on the nuchal map, its INT8 form, and Score-CAM beside it as the check."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np
from torch import nn

from calibration.dataset import UNKNOWN
from edge.events.evidence import heat_overlay
from export.model.vit import ViTConfig
from export.report.evidence import HeldOut
from export.report.localise import agreement, localisation_row, map_cost
from export.report.records import Localisation, Looked, Panel
from export.report.score_cam import score_cam

CAM_STILLS = 24  # of the validation split: Score-CAM takes a forward pass a channel, about 8 s a still on two cores
PANEL_STILLS = 3  # a class
PANEL = 320  # pixels, each half of a panel
MAP_NAMES = {
    "teacher": "Nuchal map, teacher",
    "student": "Nuchal map, student FP32",
    "qdq": "Nuchal map, student INT8",
}


def boxed(data: HeldOut) -> np.ndarray:
    """Indices of the untouched standard planes with a nuchal box that a reader drew."""
    drawn = [e.source == "real" and e.standard and bool(e.box) and not e.guessed_box for e in data.entries]
    return np.flatnonzero(np.array(drawn, bool))


def evenly(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of them, evenly over their order."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int))]


def panel_stills(data: HeldOut) -> np.ndarray:
    """Indices of PANEL_STILLS positives, real ones where there are any and else simulated, and as many untouched healthy standard
    planes, each from the surest to the least sure."""
    positives = "real" if any(e.source == "real" and e.hygroma == 1 for e in data.entries) else "lesion"
    chosen = []
    for source, labels in ((positives, (1.0,)), ("real", (0.0, UNKNOWN))):
        keep = np.array([i for i, e in enumerate(data.entries) if e.source == source and e.standard and e.hygroma in labels], int)
        chosen.append(evenly(keep[np.argsort(-data.probability["student_hygroma"][keep], kind="stable")], PANEL_STILLS))
    return np.concatenate(chosen)


def looked(
    splits: Sequence[HeldOut], explained: HeldOut, stills: np.ndarray, cams: np.ndarray, config: ViTConfig
) -> Looked:
    """What the report says of the maps, as JSON values, without panels. cams [n,G,G]: Score-CAM of the student on
    `explained`'s entries `stills` [n]; beside it the nuchal map on the same ones. The agreement is that of the first split."""
    rows = []
    for data in splits:
        keep = boxed(data)
        if not len(keep):
            continue
        rows += [_row(f"{MAP_NAMES[form]}; {data.name}", data, keep, maps[keep]) for form, maps in data.maps.items()]
    if len(stills):
        rows.append(_row(f"{MAP_NAMES['student']}; {explained.name}, the {len(stills)} explained", explained, stills,
                         explained.maps["student"][stills]))  # fmt: skip
        rows.append(_row(f"Score-CAM, student FP32; {explained.name}", explained, stills, cams))
    first = boxed(splits[0])
    if not len(first):  # nobody drew a box: the two forms of a map can be held against each other all the same
        first = np.array([i for i, e in enumerate(splits[0].entries) if e.source == "real" and e.standard], int)
    return {
        "rows": rows,
        "agreement": agreement(splits[0].maps["student"][first], splits[0].maps["qdq"][first]),
        "cost": map_cost(config.width, config.grid, config.depth),
        "panels": [],
    }


def _row(method: str, data: HeldOut, keep: np.ndarray, maps: np.ndarray) -> Localisation:
    entries = [data.entries[i] for i in keep]
    boxes = [e.box for e in entries if e.box]
    return localisation_row(method, maps.astype(np.float64), boxes, [e.owner for e in entries])


def cams_of(model: nn.Module, crops: np.ndarray) -> np.ndarray:
    """crops uint8 [n,S,S] -> Score-CAM [n,G,G]."""
    return np.stack([score_cam(model, crop) for crop in crops])


def panel(crop: np.ndarray, nuchal_map: np.ndarray, cam: np.ndarray, caption: str) -> Panel:
    """The crop, the nuchal map over it and Score-CAM over it, side by side: {"jpeg": base64, "caption"}."""
    plain = cv2.cvtColor(cv2.resize(crop, (PANEL, PANEL), interpolation=cv2.INTER_LINEAR), cv2.COLOR_GRAY2BGR)
    heats = [heat_overlay(crop, np.asarray(m, np.float32), PANEL) for m in (nuchal_map, cam)]
    data = cv2.imencode(".jpg", np.hstack([plain, *heats]), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return {"jpeg": base64.b64encode(data.tobytes()).decode(), "caption": caption}
