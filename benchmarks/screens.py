"""Screen reading against truth: `python -m benchmarks.screens [--exams N] [--data DIR --sheet FILE.png] [--out FILE.json]`.

Phantom (simulated): IoU of the found fan with the fan that was rendered, every skin, and the state that is told of each kind of
screen. Real screens have no truth of their own: how many stills and clips are told anything but OK, and a sheet to look at.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.samples import bootstrap
from calibration.phantom import FPS, ExamSpec, render, sample_exam
from calibration.phantom.skins import SKINS, menu
from edge.capture.dicom import read_dicom
from edge.errors import HygromaError, InputError
from edge.records import Fan, Frame, Reading, Signal
from edge.screen.geometry import outline, rasterise
from edge.screen.preprocess import Preprocessing, to_screen
from edge.screen.reader import ScreenReader
from edge.screen.still import read_still

SCHEMA = "screens 1"
LOOKS_S = (0.56, 2.2)  # seconds into an exam: after the first improved estimate, and once the fan has settled
FIRST_SEED = 70_000  # far from any seed that a test or a fit has used
KINDS = (
    "normal",
    "hygroma",
    "other",
)  # what an exam shows; a quarter of the pictures that the daemon sees is not a fetus
HALF_SIDE = 560  # pixels, at most, of each picture of a dual view: two fit beside each other on 1280
CLIP_FRAMES = 75  # of a real clip: three seconds
TILE = (320, 214)  # pixels of a picture on the sheet, caption included
COLUMNS, CAPTION = 6, 22  # of the sheet; pixels


@dataclass(frozen=True)
class Overlap:
    """One phantom exam's fan: IoU on the pixel grid at each of LOOKS_S, and the state told then."""

    skin: str
    kind: str
    seed: int
    iou: tuple[float, ...]
    signal: str


def iou(found: Fan | None, truth: Fan, shape: tuple[int, ...]) -> float:
    """Intersection over union of two fans on a screen's pixels; 0 when none was found."""
    if found is None:
        return 0.0
    a, b = (rasterise(fan, (0, 0, shape[1], shape[0])) for fan in (found, truth))
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))


def watch(images: Iterator[np.ndarray] | list[np.ndarray], fps: float = FPS) -> list[Reading]:
    reader = ScreenReader(Preprocessing())
    return [reader.read(Frame(i, round(i * 1e9 / fps), image)) for i, image in enumerate(images)]


def overlap(spec: ExamSpec) -> Overlap:
    truth = spec.preset.fan
    images = [shown.image for shown in render(spec)]
    readings = watch(images)
    found = tuple(iou(readings[round(s * FPS) - 1].fan, truth, images[0].shape) for s in LOOKS_S)
    return Overlap(spec.preset.skin, spec.truth, spec.seed, found, readings[-1].signal.value)


def phantom_fans(exams: int) -> list[Overlap]:
    """`exams` exams of every skin."""
    found = []
    for s, skin in enumerate(SKINS):
        for i in range(exams):
            kind = KINDS[i % len(KINDS)]
            found.append(overlap(sample_exam(FIRST_SEED + 1000 * s + i, kind, seconds=LOOKS_S[-1], skin=skin)))
            print(f"\rphantom: {skin} {i + 1}/{exams} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def figures(values: np.ndarray) -> dict[str, float]:
    """[n] IoUs -> n, median with its 95 % bootstrap interval, worst, and the share of .97 or more."""
    low, high = bootstrap(lambda rows: float(np.median(values[rows])), len(values))
    return {
        "n": len(values),
        "median": round(float(np.median(values)), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "worst": round(float(values.min()), 4),
        "share_of_.97": round(float((values >= 0.97).mean()), 3),
    }


def fan_table(found: list[Overlap]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for look, seconds in enumerate(LOOKS_S):
        for skin in (*SKINS, "all"):
            own = [o for o in found if skin in (o.skin, "all")]
            worst = min(own, key=lambda o: o.iou[look])
            layout = SKINS[skin].layout if skin in SKINS else ""
            shape = "" if not layout else "rectangle" if layout == "rect" else f"annulus sector, {layout}"
            rows.append({"skin": skin, "shape": shape, "after_s": seconds, **figures(np.array([o.iou[look] for o in own])),
                         "worst_exam": f"{worst.kind} {worst.seed}"})  # fmt: skip
    return rows


def two(spec: ExamSpec) -> list[np.ndarray]:
    """A dual view: the exam's picture twice, side by side, on its own screen's background."""
    out = []
    for shown in render(spec):
        screen = np.full_like(shown.image, SKINS[spec.preset.skin].background)
        x0, y0, x1, y1 = spec.preset.fan.box
        inside = rasterise(spec.preset.fan, spec.preset.fan.box)[..., None]
        picture = np.where(inside, shown.image[y0:y1, x0:x1], screen[y0:y1, x0:x1])
        k = min(0.7, HALF_SIDE / max(picture.shape))
        half = cv2.resize(picture, None, fx=k, fy=k, interpolation=cv2.INTER_AREA)
        for centre in (330, 950):
            left = centre - half.shape[1] // 2
            screen[120 : 120 + half.shape[0], left : left + half.shape[1]] = half
        out.append(screen)
    return out


def coloured(spec: ExamSpec) -> list[np.ndarray]:
    """Colour flow, red and blue, in a box of the fan."""
    rng, out = np.random.default_rng([spec.seed, 5]), []
    x0, y0, x1, y1 = spec.preset.fan.box
    for shown in render(spec):
        image = shown.image.copy()
        for i in range(6):
            at = (int((x0 + x1) / 2 + rng.normal(0, 50)), int((y0 + y1) / 2 + rng.normal(0, 40)))
            cv2.ellipse(image, at, (26, 14), 20, 0, 360, (30, 40, 220) if i % 2 else (220, 60, 30), -1)
        out.append(image)
    return out


def phantom_states(exams: int) -> dict[str, Counter[str]]:
    """What was shown -> what the last frame was told to be. Two seconds of each, every skin in turn."""
    told: dict[str, Counter[str]] = {}
    for i in range(exams):
        skin, seed = list(SKINS)[i % len(SKINS)], FIRST_SEED + 500 + i
        normal = sample_exam(seed, "normal", seconds=LOOKS_S[-1], skin=skin)
        frozen = [shown.image for shown in render(sample_exam(seed, "frozen", seconds=5.0, skin=skin))]
        lost = [shown.image for shown in render(sample_exam(seed, "lost", seconds=0.4))]
        shown = {
            "FROZEN": frozen,
            "NO_SIGNAL": lost,
            "MENU": [menu(seed)] * 30,
            "DUAL": two(normal),
            "DOPPLER": coloured(normal),
        }
        for truth, images in shown.items():
            told.setdefault(truth, Counter())[watch(images)[-1].signal.value] += 1
        print(f"\rphantom: states {i + 1}/{exams} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return told


# -- real screens -------------------------------------------------------------------------------------------------------


def still_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".png", ".jpg"})


def clip_paths(data: Path) -> list[Path]:
    return sorted((*(data / "videos").glob("*"), *(data / "dicom").glob("*.dcm")))


def read_picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_ANYCOLOR)
    if image is None:
        raise InputError(f"{path}: cannot be decoded; copy the data again")
    return image


def real_stills(data: Path) -> dict[str, dict[str, Any]]:
    """Every still of every folder of the data: source -> how many, how many told what, and which are not OK."""
    folders: dict[str, list[Path]] = {}
    for path in still_paths(data):
        folders.setdefault("/".join(path.relative_to(data).parts[:-1][:2]), []).append(path)
    out: dict[str, dict[str, Any]] = {}
    for folder, paths in folders.items():
        told: Counter[str] = Counter()
        fans: Counter[str] = Counter()
        odd = []
        for path in paths:
            reading = read_still(read_picture(path), Preprocessing())
            told[reading.signal.value] += 1
            fans[reading.fan.kind if reading.fan else "none"] += 1
            if reading.signal is not Signal.OK:
                odd.append(f"{path.relative_to(data)}: {reading.signal.value}")
        out[folder] = {"n": len(paths), "told": dict(told), "fan": dict(fans), "not_ok": odd}
        print(f"{folder}: {dict(told)}", file=sys.stderr)
    return out


def clip_images(path: Path) -> list[np.ndarray]:
    if path.suffix == ".dcm":
        return [to_screen(image) for image in read_dicom(path)[0][:CLIP_FRAMES]]
    clip = cv2.VideoCapture(str(path))
    images: list[np.ndarray] = []
    while len(images) < CLIP_FRAMES and (got := clip.read())[0]:
        images.append(got[1])
    clip.release()
    return images


def real_clips(data: Path) -> dict[str, dict[str, Any]]:
    """The clips and cines, three seconds of each, as a live source shows them."""
    out: dict[str, dict[str, Any]] = {}
    for path in clip_paths(data):
        readings = watch(clip_images(path))
        out[str(path.relative_to(data))] = {
            "frames": len(readings),
            "told": dict(Counter(r.signal.value for r in readings)),
            "layout_changes": sum(r.layout_changed for r in readings),
        }
    return out


def drawn(image: np.ndarray, fan: Fan | None, caption: str) -> np.ndarray:
    """One tile of the sheet: the screen with the found fan's edge."""
    image = np.ascontiguousarray(image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    width, height = TILE[0], TILE[1] - CAPTION
    k = min(width / image.shape[1], height / image.shape[0])
    small = cv2.resize(image, None, fx=k, fy=k, interpolation=cv2.INTER_AREA)
    if fan is not None:
        cv2.polylines(small, [np.round(np.array(outline(fan)) * k).astype(np.int32)], True, (0, 255, 0), 1, cv2.LINE_AA)
    tile = np.full((TILE[1], TILE[0], 3), 60, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    cv2.putText(tile, caption, (4, TILE[1] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
    return tile


def sheet(data: Path, file: Path, each: int = 12) -> None:
    """`each` stills of every folder, evenly chosen, and the last of three seconds of every clip, with the fan drawn."""
    tiles = []
    for folder in sorted({path.parent for path in still_paths(data)}):
        paths = [path for path in still_paths(folder) if path.parent == folder]
        for path in paths[:: max(1, len(paths) // each)][:each]:
            image = read_picture(path)
            reading = read_still(image, Preprocessing())
            kind = reading.fan.kind if reading.fan else "none"
            tiles.append(
                drawn(image, reading.fan, f"{folder.name[:18]} {path.stem[-16:]} {reading.signal.value} {kind}")
            )
    for path in clip_paths(data):
        images = clip_images(path)
        last = watch(images)[-1]
        kind = last.fan.kind if last.fan else "none"
        tiles.append(drawn(images[-1], last.fan, f"{path.stem[-26:]} {last.signal.value} {kind}"))
    while len(tiles) % COLUMNS:
        tiles.append(np.zeros_like(tiles[0]))
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    file.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(file), np.vstack(rows)):
        raise HygromaError(f"--sheet: {file} cannot be written; name a .png in a folder that this user may write")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screens", description=__doc__)
    parser.add_argument("--exams", type=int, default=30, metavar="N", help="phantom exams of every skin (default 30)")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="a folder of real stills, with videos/ and dicom/ in it"
    )
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="real screens with the found fan; needs --data")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    args = parser.parse_args(argv)
    if args.exams < 1 or (args.sheet and not args.data) or (args.data and not args.data.is_dir()):
        parser.error("--exams: at least 1; --sheet needs --data, a folder that is there")
    fans = phantom_fans(args.exams)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "phantom, simulated: IoU with the rendered fan": fan_table(fans),
        "phantom, simulated: told of what was shown": {k: dict(v) for k, v in phantom_states(args.exams).items()}
        | {"OK": dict(Counter(o.signal for o in fans))},
    }
    if args.data:
        result["real stills: told"] = real_stills(args.data)
        result["real clips: told, frame by frame"] = real_clips(args.data)
    if args.sheet:
        sheet(args.data, args.sheet)
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
