"""Screens of four fictional vendors: where the fan lies, and everything a scanner writes around it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from calibration.phantom.records import SCREEN_H, SCREEN_W, ExamSpec
from edge.records import Fan

CANARY = "DOE^PHANTOM"  # fictional patient name on every screen: tests look for it where it must never appear
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Skin:
    """One vendor's screen. vendor, machine: fictional.

    layout: "zoom" (a sector cut by its box), "wide" or "narrow" (whole sector), "rect". depth_ofd: range of depth that
    the picture's height shows, in occipito-frontal diameters. tint: BGR of white in the picture, fraction. text: BGR of
    lettering. background: grey value around everything.
    """

    vendor: str
    machine: str
    layout: str
    depth_ofd: tuple[float, float]
    tint: tuple[float, float, float]
    text: tuple[int, int, int]
    background: int


SKINS = {
    "aurelia": Skin("AURELIA", "V8 Crown", "zoom", (1.35, 1.9), (1.0, 1.0, 1.0), (210, 210, 210), 0),
    "nordwelle": Skin("Nordwelle", "S5 Fjord", "rect", (1.3, 1.85), (1.0, 1.0, 1.0), (225, 225, 225), 0),
    "kestrel": Skin("KESTREL", "P3 Portable", "wide", (2.0, 2.6), (1.0, 0.97, 0.92), (60, 200, 230), 12),
    "mirador": Skin("Mirador", "M20", "narrow", (1.8, 2.4), (0.90, 0.97, 1.0), (200, 220, 200), 6),
}


def layout_fan(layout: str, depth_mm: float, rng: np.random.Generator) -> tuple[Fan, float]:
    """A fan on the 1280x720 screen and its scale in pixels a millimetre."""
    if layout == "rect":
        height, width = int(rng.integers(560, 620)), int(rng.integers(800, 900))
        x0, y0 = int(rng.integers(180, 300)), int(rng.integers(50, 80))
        return Fan("rect", (x0, y0, x0 + width, y0 + height)), height / depth_mm
    if layout == "zoom":
        height, width = int(rng.integers(570, 630)), int(rng.integers(800, 900))
        x0, y0 = int(rng.integers(150, 260)), int(rng.integers(50, 80))
        scale = height / depth_mm
        above = float(rng.uniform(75, 120)) * scale  # probe radius plus the depth at which the zoom starts
        apex = (x0 + width / 2 + float(rng.uniform(-60, 60)), y0 - above)
        half = float(np.arctan((width / 2) / (above + height * rng.uniform(0.55, 1.1))))
        box = (x0, y0, x0 + width, y0 + height)
        return Fan("sector", box, apex, above + 4.0, float(np.hypot(above + height, width)), -half, half), scale
    half, radius = (
        (np.radians(rng.uniform(29, 35)), 55.0) if layout == "wide" else (np.radians(rng.uniform(22, 27)), 45.0)
    )
    half, r1_mm = float(half), radius + depth_mm
    drop = radius * float(np.cos(half))  # the arc's ends lie higher than its middle is deep
    scale = min(
        640.0 / (r1_mm - drop), 600.0 / (r1_mm * float(np.sin(half)))
    )  # both its height and its width fit the screen
    apex = (640.0 + float(rng.uniform(-30, 30)), 45.0 - drop * scale)
    reach = r1_mm * float(np.sin(half)) * scale
    box = (int(apex[0] - reach), 44, int(apex[0] + reach) + 1, int(apex[1] + r1_mm * scale) + 1)
    return Fan("sector", box, apex, radius * scale, r1_mm * scale, -half, half), scale


def put(image: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int], size: float = 0.45) -> None:
    """One line of lettering, baseline at `at`."""
    cv2.putText(image, text, at, FONT, size, colour, 1, cv2.LINE_AA)


def screen(spec: ExamSpec) -> np.ndarray:
    """Everything but the picture: uint8 BGR [720,1280,3]. The same for the whole exam."""
    rng = np.random.default_rng([spec.seed, 77])
    skin, preset, fan = SKINS[spec.preset.skin], spec.preset, spec.preset.fan
    image = np.full((SCREEN_H, SCREEN_W, 3), skin.background, np.uint8)
    _, y0, _, y1 = fan.box
    stamp = (
        f"{rng.integers(1, 28):02d}-{rng.integers(1, 13):02d}-2026  {rng.integers(8, 18):02d}:{rng.integers(0, 60):02d}"
    )
    put(image, f"{CANARY}  ID {rng.integers(10000, 99999)}-{rng.integers(10, 99)}", (20, 24), skin.text, 0.5)
    put(image, f"{skin.vendor} {skin.machine}", (560, 24), skin.text, 0.5)
    put(image, stamp, (1050, 24), skin.text, 0.5)
    days = round(77 + (spec.patient.crl_mm - 45) * 20 / 39)  # CRL 45 mm is 11w0d, 84 mm is 13w6d
    lines = [
        "OB 1st Trim" if spec.anatomy == "fetus" else "General",
        f"Gn {preset.gain_db:+.0f}",
        f"DR {preset.dynamic_range_db:.0f}",
        f"{spec.fps} Hz",
        f"D {(y1 - y0) / preset.px_per_mm / 10:.1f} cm",
        f"MI {rng.uniform(0.6, 1.1):.1f}  TIb {rng.uniform(0.1, 0.4):.1f}",
    ]
    if spec.anatomy == "fetus":
        lines.append(f"GA {days // 7}w{days % 7}d")
    left = skin.layout in ("rect", "wide")
    for i, line in enumerate(lines):
        put(image, line, (16 if left else 1140, 80 + 24 * i), skin.text)
    grey_bar(image, (1220 if left else 40, 120), skin)
    ruler(image, fan, preset.px_per_mm, skin)
    if skin.layout in ("wide", "rect"):
        curve = np.column_stack([1190 - 40 * np.linspace(0.2, 0.8, 20) ** 2 - preset.tgc_db, np.linspace(380, 620, 20)])
        cv2.polylines(image, [np.round(curve).astype(np.int32)], False, skin.text, 1, cv2.LINE_AA)
    put(image, "Freeze: off   Store: 0   Probe C5-2", (20, 708), skin.text, 0.4)
    return image


def grey_bar(image: np.ndarray, at: tuple[int, int], skin: Skin) -> None:
    """The grey map's bar, white on top."""
    ramp = np.linspace(255, 0, 180, dtype=np.float32)[:, None, None] * np.array(skin.tint, np.float32)
    image[at[1] : at[1] + 180, at[0] : at[0] + 12] = ramp.astype(np.uint8)


def ruler(image: np.ndarray, fan: Fan, px_per_mm: float, skin: Skin) -> None:
    """Depth ticks every 5 mm, long every 10 mm, beside the box."""
    x = max(fan.box[0] - 14, 4) if skin.layout in ("zoom", "narrow") else min(fan.box[2] + 14, SCREEN_W - 12)
    for i, y in enumerate(np.arange(fan.box[1], fan.box[3], 5 * px_per_mm)):
        cv2.line(image, (x, int(y)), (x + (9 if i % 2 == 0 else 4), int(y)), skin.text, 1)
    cv2.circle(image, (fan.box[0] + 6, fan.box[1] - 8), 4, skin.text, 1, cv2.LINE_AA)  # the probe's orientation mark


def cross(image: np.ndarray, at: tuple[float, float], colour: tuple[int, int, int]) -> None:
    """One caliper cross."""
    x, y = round(at[0]), round(at[1])
    cv2.line(image, (x - 5, y), (x + 5, y), colour, 1)
    cv2.line(image, (x, y - 5), (x, y + 5), colour, 1)


def inset(image: np.ndarray, picture: np.ndarray, fan: Fan) -> None:
    """A thumbnail of the unzoomed view at the lower right of the box, as vendors draw it beside a zoomed one."""
    width, height = 150, 110
    x0, y0 = fan.box[2] - width - 4, fan.box[3] - height - 4
    thumb = np.zeros((height, width), np.uint8)
    small = cv2.resize(picture, (62, 44), interpolation=cv2.INTER_AREA)
    haze = np.random.default_rng(int(picture[:8].sum())).rayleigh(28, (height, width))
    thumb[:] = np.clip(cv2.GaussianBlur(haze, (0, 0), 0.8), 0, 255)
    thumb[38:82, 44:106] = small
    ys, xs = np.mgrid[0:height, 0:width]
    radius, angle = np.hypot(xs - 75, ys + 30), np.arctan2(xs - 75, ys + 30)
    thumb[(radius < 38) | (radius > 134) | (np.abs(angle) > 0.45)] = 0
    image[y0 : y0 + height, x0 : x0 + width] = thumb[..., None]
    cv2.rectangle(image, (x0 - 1, y0 - 1), (x0 + width, y0 + height), (150, 150, 150), 1)


def menu(seed: int) -> np.ndarray:
    """A new-patient form: the screen between two exams. uint8 BGR [720,1280,3]."""
    rng = np.random.default_rng([seed, 78])
    image = np.full((SCREEN_H, SCREEN_W, 3), (46, 40, 36), np.uint8)
    cv2.rectangle(image, (0, 0), (SCREEN_W, 54), (84, 66, 52), -1)
    put(image, "NEW PATIENT", (30, 36), (240, 240, 240), 0.8)
    fields = ("Last name", "First name", "Patient ID", "Date of birth", "LMP", "Referring", "Accession")
    values = ("DOE", "PHANTOM", str(rng.integers(10000, 99999)), "01-01-1990", "--", "", "")
    for i, (name, value) in enumerate(zip(fields, values, strict=True)):
        y = 110 + 62 * i
        put(image, name, (120, y + 26), (200, 200, 200), 0.6)
        cv2.rectangle(image, (330, y), (800, y + 38), (92, 84, 78), 1)
        put(image, value, (342, y + 26), (235, 235, 235), 0.6)
    for i, label in enumerate(("OB", "GYN", "ABD", "Start exam")):
        cv2.rectangle(image, (900, 110 + 80 * i), (1160, 164 + 80 * i), (96, 82, 70), -1)
        put(image, label, (930, 145 + 80 * i), (235, 235, 235), 0.7)
    return image


def no_signal(kind: str) -> np.ndarray:
    """What a grabber hands out without a scanner: "black", "blue" or "bars". uint8 BGR [720,1280,3]."""
    image = np.zeros((SCREEN_H, SCREEN_W, 3), np.uint8)
    if kind == "blue":
        image[:] = (200, 30, 10)
    elif kind == "bars":
        colours = (
            (191,) * 3,
            (0, 191, 191),
            (191, 191, 0),
            (0, 191, 0),
            (191, 0, 191),
            (0, 0, 191),
            (191, 0, 0),
            (0,) * 3,
        )
        for i, colour in enumerate(colours):
            image[:, i * SCREEN_W // 8 : (i + 1) * SCREEN_W // 8] = colour
    return image
