"""Made-up downloads in the form of the public data sets that are imported, a few small pictures each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

SETS = {  # of the Fetus Framework -> the folder of a set and a plane
    "set1": "Set1-Training&Validation Sets CNN/Standard",
    "set2": "Set2-Training&Validation Sets ANN Scoring system/Standard",
    "set2-other": "Set2-Training&Validation Sets ANN Scoring system/Non-standard",
    "internal": "Internal Test Set/Standard",
    "external": "External Test Set/Standard",
    "external-other": "External Test Set/Non-standard",
}
PICTURES = {  # numbers of the real one: in folds, held out, copies, one that is excluded
    "set1": [0, 1, 2, 134, 458], "set2": [3, 152], "set2-other": [1061, 1062, 1104, 1105, 1290], "internal": [1660],
    "external": [1373], "external-other": [1437],
}  # fmt: skip
SHAPE = (300, 640)  # rows, columns: longer than a still may be
NT, THALAMI = (120.0, 180.0, 220.0, 200.0), (280.0, 90.0, 360.0, 130.0)  # left, top, right, bottom
HEADER = ["fname", "structure", "h_min", "w_min", "h_max", "w_max"]


def still(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """uint8: noise with a dark line where NT says."""
    rng = np.random.default_rng(seed)
    grey = cv2.GaussianBlur(rng.normal(0, 60, shape).astype(np.float32), (0, 0), 4) * 4 + 110
    cv2.line(grey, (100, 190), (240, 190), 15.0, 9)
    return np.clip(grey, 5, 250).astype(np.uint8)


def box_row(number: int, structure: str, box: Iterable[float]) -> list[object]:
    x0, y0, x1, y1 = box
    return [f"{number}.png", structure, y0, x0, y1, x1]


def fetus_framework(folder: Path, nested: int = 1, boxed: Sequence[int] = (0, 1, 2, 134, 458, 3, 1373)) -> Path:
    """The download, with boxes on the pictures `boxed`; copies are copies."""
    import openpyxl

    root = folder
    for _ in range(nested):
        root = root / "Dataset for Fetus Framework"
    copies = {458: 134, 1105: 1104, 1290: 1660}
    for name, numbers in PICTURES.items():
        (root / SETS[name]).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            cv2.imwrite(str(root / SETS[name] / f"{number}.png"), still(copies.get(number, number)))
    book = openpyxl.Workbook()
    book.active.append(HEADER)
    for number in boxed:
        for structure, box in (("thalami", THALAMI), ("NT", NT), ("4th ventricle", (10, 10, 30, 30))):
            book.active.append(box_row(number, structure, box))
    book.save(root / "ObjectDetection.xlsx")
    return folder


def hc18(folder: Path, women: int = 4, tests: int = 3, shape: tuple[int, int] = (54, 80)) -> Path:
    """Every second woman has two pictures; each picture has its outline beside it."""
    for part, table, count in (
        ("training_set", "training_set_pixel_size_and_HC.csv", women), ("test_set", "test_set_pixel_size.csv", tests),
    ):  # fmt: skip
        (folder / part).mkdir(parents=True)
        names = [f"{n:03d}_{k}HC" for n in range(count) for k in (("", "2") if n % 2 and part == "training_set" else ("",))]
        lines = ["filename,pixel size(mm)" + (",head circumference (mm)" if part == "training_set" else "")]
        for seed, name in enumerate(names):
            cv2.imwrite(str(folder / part / f"{name}.png"), still(seed, shape))
            if part == "training_set":
                cv2.imwrite(str(folder / part / f"{name}_Annotation.png"), np.zeros(shape, np.uint8))
            lines.append(f"{name}.png,0.0{seed % 9 + 1}" + (",170.5" if part == "training_set" else ""))
        (folder / table).write_text("\n".join(lines) + "\n")
    return folder
