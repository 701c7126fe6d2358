"""given: what a given bundle says of the bank's real stills, in place of labels that the data lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx

from calibration.bank import UNKNOWN, Bank, Entry
from edge.bundle import Bundle, load_bundle
from edge.bundle.trust import ANYONE, SHIPPED_BUNDLE
from edge.engines.selftest import sigmoid
from export.int8.ort_graph import run_graph
from export.model.heads import NO_PLANES
from export.phantoms import Progress
from export.recipe import SHIPPED
from export.stages.crops import Crops

ASKED_AT_ONCE = 64  # crops: bounds memory, and shows how far it is
# Share of the images with a finding that a bundle which knows such pictures calls standard planes, at least.
LEAST_CALLED = 0.5
IN_MAP = 0.5  # probability from which a cell of the given map belongs to the nuchal region

Box = tuple[float, float, float, float]


def open_given(given: str) -> Bundle:
    """The bundle that a recipe names. It is this machine's owner who named it, so that no signature is asked for. BundleError."""
    return load_bundle(SHIPPED_BUNDLE) if given == SHIPPED else load_bundle(Path(given), ANYONE)


def asked(bundle: Bundle, crops: Crops, threads: int, progress: Progress) -> dict[str, np.ndarray]:
    """ "index" [n] of the real stills in the bank; "plane" [n], the probability of a standard plane, and "box" [n,4], the nuchal
    region in crop fractions, NaN where the map shows none."""
    index = crops.bank.where(lambda e: e.source == "real")
    graph, manifest = onnx.load_from_string(bundle.model), bundle.manifest
    planes: list[np.ndarray] = []
    boxes: list[Sequence[float]] = []
    for start in range(0, len(index), ASKED_AT_ONCE):
        progress(f"given bundle {manifest.model.id}", start, len(index))
        own = crops.of(index[start : start + ASKED_AT_ONCE], manifest.preprocessing)
        said = run_graph(graph, own[:, None], threads)
        planes.append(sigmoid(said.plane / manifest.calibration.plane_temperature))
        boxes += [region(cells) or [np.nan] * 4 for cells in sigmoid(said.nuchal_map)]
    return {"index": index, "plane": np.concatenate(planes), "box": np.array(boxes, float).reshape(-1, 4)}


def region(cells: np.ndarray) -> Box | None:
    """The largest connected region of a map, probabilities [G,G] -> its box in fractions of the crop; None where there is
    none."""
    count, _, stats, _ = cv2.connectedComponentsWithStats((cells >= IN_MAP).astype(np.uint8), connectivity=4)
    if count < 2:
        return None
    x, y, w, h = (int(side) for side in stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())][:4])
    side = len(cells)
    return x / side, y / side, (x + w) / side, (y + h) / side


def called_standard(bank: Bank, said: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """How many of the real stills with a finding and without a label of their plane the given bundle calls standard planes, of
    how many: a finding could be told in each of them."""
    told = [bank.entries[i].hygroma != UNKNOWN and bank.entries[i].plane == UNKNOWN for i in said["index"]]
    return int((said["plane"][told] >= NO_PLANES).sum()), sum(told)


def why_no_planes(called: int, among: int) -> str:
    """Why a given bundle's word on planes is not taken, in a sentence; "" where it is. A plane head that learned it would call
    most of the site's own pictures not assessable, and the device would be silent."""
    if called >= LEAST_CALLED * among:
        return ""
    return (
        f"The given bundle calls {called} of {among} images with a finding standard planes: it does not know such pictures, "
        "and there is no plane head. The device cannot tell whether a picture shows the nuchal plane at all; "
        "label planes in the table."
    )


def filled(bank: Bank, said: Mapping[str, np.ndarray], planes: bool, boxes: bool) -> Bank:
    """The bank with what the given bundle said of its real stills. planes, boxes: whether its word on them is taken; a still with
    a label of its own keeps that."""
    entries: list[Entry] = list(bank.entries)
    for i, plane, box in zip(said["index"].tolist(), said["plane"].tolist(), said["box"], strict=True):
        entry = entries[i]
        if planes and entry.plane == UNKNOWN:
            entry = replace(entry, soft_plane=plane)
        if boxes and entry.standard and entry.box is None and not np.isnan(box[0]):
            entry = replace(entry, box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])), guessed_box=True)
        entries[i] = entry
    return replace(bank, entries=entries)
