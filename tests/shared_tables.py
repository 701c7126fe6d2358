"""../shared/data as data sets of the form that docs/data.md describes: `python tests/shared_tables.py OUT` writes the tables that
the shipped bundle and its report are made of, and `... OUT hospital` a made-up hospital of the paper's size. Nothing else knows
that layout."""

from __future__ import annotations

import csv
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from calibration.images import read_grey
from calibration.lesion import THALAMI_MM, draw_lesion_mm, operate
from calibration.open_dataset import open_dataset
from calibration.table import read_table

DATA = Path(__file__).parents[2] / "shared" / "data"
SHIPPED_FOLDS = Path(__file__).parents[1] / "calibration" / "shipped_folds.csv"
NUCHAL, HEADS, OTHERS = "fetus-framework.csv", "hc18.csv", "other-anatomy.csv"
CORNERS = ("x_min", "y_min", "x_max", "y_max")
BOXES = {"NT": "nt_box", "thalami": "thalami_box"}
COPIES = {"FF0458": "FF0134"}  # the one near-duplicate that the data's README names
JUDGED = {  # sources that are never trained on, by their split -> the site that the report names
    (
        "hc18",
        "ood_near_fetal",
    ): "axial fetal heads (HC18; others of its images were negatives of the plane head in training)",
    ("mmotu", "ood_hard_negative"): "ovaries with cysts (MMOTU)",
    ("pocus_covid", "ood"): "lungs (POCUS)",
    ("nhbs_spj", "ood"): "infant hips (NHBS)",
}
SOURCES = {
    NUCHAL: (
        "Dataset for Fetus Framework",
        'Cui C, Dong F (2022), "Dataset for Fetus Framework", Mendeley Data V1, doi:10.17632/n2rbrb9t4f.1',
        "The real nuchal views come from one hospital and its branch, most from one or two scanner makers, at 11 to 14 weeks. "
        "Other "
        "makes, presets and populations are untested.",
    ),
    HEADS: (
        "HC18",
        "van den Heuvel TLA et al. (2018), PLoS ONE 13(8):e0200412; Zenodo doi:10.5281/zenodo.1327317",
        "",
    ),
}
Row = dict[str, object]


def write_tables(out: Path, first: int | None = None, data: Path = DATA) -> list[Path]:
    """The three tables, with the file beside each that says where it comes from. first: so many images of each source alone."""
    out.mkdir(parents=True, exist_ok=True)
    manifest = [row.cells for row in read_table(data / "manifest.csv").rows]
    stills = [row for row in manifest if row["kind"] == "still"]
    rows = {
        NUCHAL: _nuchal([row for row in stills if row["source"] == "fetus_framework"], data)[:first],
        HEADS: [
            {"path": row["path"], "plane": "other", "split": number % 4}
            for number, row in enumerate(
                [r for r in stills if (r["source"], r["proposed_split"]) == ("hc18", "train")][:first]
            )
        ],
        OTHERS: [
            {
                "path": row["path"],
                "patient": row["patient_or_video_id"],
                "plane": "other",
                "split": "holdout",
                "site": site,
            }
            for (source, split), site in JUDGED.items()
            for row in [r for r in stills if (r["source"], r["proposed_split"]) == (source, split)][:first]
        ],
    }
    for name, own in rows.items():
        write_table(out / name, [{**row, "path": os.path.relpath(data / str(row["path"]), out)} for row in own])
        if name in SOURCES:
            title, citation, limit = SOURCES[name]
            text = f"name: {title}\nlicence: CC BY 4.0\ncitation: '{citation}'\n" + (
                f"limits: ['{limit}']\n" if limit else ""
            )
            (out / name).with_suffix(".source.yaml").write_text(text)
    return [out / name for name in rows]


def _nuchal(stills: Sequence[dict[str, str]], data: Path) -> list[Row]:
    boxes: dict[str, dict[str, str]] = defaultdict(dict)
    for row in read_table(data / "ultrasound/nt_structures.csv").rows:
        if name := BOXES.get(row.cells["structure"]):
            boxes[row.cells["path"]][name] = " ".join(row.cells[corner] for corner in CORNERS)
    flags = {row.cells["path"]: row.cells for row in read_table(data / "ultrasound/nt_weak_flags.csv").rows}
    folds = {row.cells["patient"]: row.cells["fold"] for row in read_table(SHIPPED_FOLDS).rows}
    owner: dict[str, str] = {}
    out: list[Row] = []
    for row in stills:
        if row["proposed_split"] not in ("train", "validation"):
            continue
        flag = flags.get(row["path"], {})
        standard = row["label"] == "standard plane"
        patient = owner.setdefault(row["sha256"], row["patient_or_video_id"])
        patient = COPIES.get(patient, patient)
        ratio = flag.get("nt_over_thalami_size")
        out.append({
            "path": row["path"],
            "patient": patient,
            "hygroma": 0 if standard and flag.get("by_eye_increased_nt") != "1" else "",
            "plane": "standard" if standard else "other",
            "split": "holdout" if row["proposed_split"] == "validation" else folds[patient],
            "nt_mm": float(ratio) * THALAMI_MM if ratio else "",
            **{name: boxes[row["path"]].get(name, "") for name in BOXES.values()},
        })  # fmt: skip
    return out


def write_table(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


# -- a made-up hospital of the paper's size -----------------------------------------------------------------------------

HOSPITAL, LESIONS, PATIENTS, SITES = 289, 129, 250, 2  # images, of them with a SIMULATED collection; women; clinics


def write_hospital(out: Path, images: int = HOSPITAL, lesions: int = LESIONS, patients: int = PATIENTS) -> Path:
    """Stills of ../shared/data with and without a SIMULATED collection, labelled as a hospital's own would be; the last women
    have two images, of one kind. Nothing of it is a hygroma. Returns the table."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    (table, *_), rows = write_tables(out / "tables"), []
    rng = np.random.default_rng(0)
    able = [image for image in open_dataset(table).images if image.editable]
    chosen = [able[i] for i in rng.permutation(len(able))[:images]]
    for number, image in enumerate(chosen):
        sick = number < lesions
        grey = read_grey(image.path)
        if sick and image.anatomy is not None:
            grey = operate(
                grey, image.anatomy, draw_lesion_mm(rng), np.random.default_rng([0, number]), int(rng.integers(0, 4))
            )[0]
        path = out / "images" / f"{number:04d}.png"
        cv2.imwrite(str(path), grey)
        own = number if sick else number - lesions
        women = round(patients * lesions / images) if sick else patients - round(patients * lesions / images)
        rows.append({
            "path": f"images/{path.name}",
            "patient": f"{'H' if sick else 'N'}{own % women:03d}",
            "site": "AB"[own % women % SITES],
            "hygroma": int(sick),
        })  # fmt: skip
    write_table(out / "hospital.csv", rows)
    return out / "hospital.csv"


if __name__ == "__main__":
    print(write_hospital(Path(sys.argv[1])) if sys.argv[2:] == ["hospital"] else write_tables(Path(sys.argv[1])))
