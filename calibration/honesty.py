"""Does the edit give itself away? Checks that a simulated lesion teaches anatomy and not the traces of its making.

A discriminator is a logistic regression, cross-validated by patient, that tries to tell edited stills from untouched ones
(shams that are as thick as a group), or lesions from shams by what has nothing to do with the
anatomy. All of them should sit near an AUC of .5. The untouched stills have their calipers painted out as the edited ones
have: training draws calipers into every class.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np

from calibration.bank import MAX_SEPTA
from calibration.intervals import patient_interval
from calibration.lesion import (
    NORMAL_NT_MM,
    NuchalAnatomy,
    draw_lesion_mm,
    measured_mm,
    operate,
    paint_out_calipers,
    traced_box,
)
from calibration.stills import FOLDS, Still, read_grey
from edge.errors import InputError
from edge.screen.preprocess import Preprocessing, letterbox

NEAR = (
    0.60  # AUC up to which a discriminator counts as near .5: d' = .36, an overlap of 86 % of two normal distributions
)
MODEL_SIZE = 192  # pixels: the still as a model sees it; a trace that does not survive it teaches nothing
CLOSE_UP = 1.3  # side of the close-up in widths of the annotated box: the box, its ends and as much below
PROBE_C = 0.03  # inverse L2 strength on standardised features; .003 to .3 differ by .02 in AUC (texture, 240 stills)
SHEET_STILLS, SHEET_ROWS, TILE = 50, 10, 300  # stills on the contact sheet, stills a page, pixels a tile
MIN_EACH = 8  # images of either class that a check needs: two a fold
Box = tuple[float, float, float, float]
Features = Callable[[np.ndarray], np.ndarray]  # uint8 [N,S,S] -> float [N,D]


@dataclass(frozen=True)
class Specimen:
    """One picture of a check, uint8 grey [H,W]; its nuchal box in pixels; `away`: the rows on the fetus's side of the neck, an
    eighth of the picture from it."""

    grey: np.ndarray
    box: Box
    away: tuple[int, int]
    group: str
    thickness_mm: float


@dataclass(frozen=True)
class Check:
    """A discriminator's out-of-fold AUC with its 95 % interval over patients; `honest` when it is at most NEAR."""

    question: str
    features: str
    images: int
    patients: int
    auc: float
    low: float
    high: float
    honest: bool


@dataclass(frozen=True)
class Specimens:
    """Lists in the order of the stills."""

    untouched: list[Specimen]  # calipers painted out
    sham: list[Specimen]  # set to another still's thickness: as a group as thick as the untouched ones
    lesion: list[Specimen]


def editable(stills: Sequence[Still]) -> list[Still]:
    """Standard planes with an annotated translucency that does not look thickened."""
    return [s for s in stills if s.plane and s.anatomy is not None and not s.by_eye_increased]


def make_specimens(
    stills: Sequence[Still], count: int, seed: int, on_step: Callable[[int, int], None] = lambda done, total: None
) -> Specimens:
    """Edits of `count` stills with an annotated translucency, drawn at random. Deterministic from `seed`. InputError when
    there are too few."""
    able = editable(stills)
    if min(len(able), count) < 2 * MIN_EACH:
        raise InputError(
            f"lesion checks: found {len(able)} stills with boxes of translucency and thalami, {count} asked for; "
            f"need {2 * MIN_EACH}"
        )
    rng = np.random.default_rng(seed)
    chosen = [able[i] for i in rng.permutation(len(able))[:count]]
    natural = [measured_mm(read_grey(s.path), _anatomy(s)) for s in chosen]
    others = rng.permutation(natural)
    out = Specimens([], [], [])
    for number, still in enumerate(chosen):
        on_step(number, len(chosen))
        grey, own, anatomy = read_grey(still.path), natural[number], _anatomy(still)
        clean = paint_out_calipers(grey, anatomy.nt)
        out.untouched.append(Specimen(clean, traced_box(clean, anatomy), _away(clean, anatomy), still.group, own))
        septa = int(rng.integers(0, MAX_SEPTA + 1))
        out.sham.append(_edited(still, grey, own, others[number], [seed, number, 0]))
        out.lesion.append(_edited(still, grey, own, draw_lesion_mm(rng), [seed, number, 1], septa))
    return out


def _anatomy(still: Still) -> NuchalAnatomy:
    assert still.anatomy is not None
    return still.anatomy


def _edited(still: Still, grey: np.ndarray, own: float, mm: float, seed: list[int], septa: int = 0) -> Specimen:
    """The translucency is traced again in the annotated box, grown or shrunk on the posterior side as it was itself."""
    anatomy = _anatomy(still)
    image, done = operate(grey, anatomy, mm, np.random.default_rng(seed), septa)
    x0, y0, x1, y1 = anatomy.nt
    grown = (done.thickness_mm - own) * anatomy.px_per_mm
    box = (x0, y0, x1, max(y0 + 6, y1 + grown)) if anatomy.posterior_down else (x0, min(y1 - 6, y0 - grown), x1, y1)
    if done.thickness_mm <= NORMAL_NT_MM[1]:  # borders are traced as far as a normal translucency reaches
        box = traced_box(image, dataclasses.replace(anatomy, nt=box))
    return Specimen(image, box, _away(grey, anatomy), still.group, done.thickness_mm)


def _away(grey: np.ndarray, anatomy: NuchalAnatomy) -> tuple[int, int]:
    height, (_, top, _, bottom) = len(grey), anatomy.nt
    if anatomy.posterior_down:
        return 0, max(8, int(top) - height // 8)
    return min(height - 8, int(bottom) + height // 8), height


# -- features -------------------------------------------------------------------------------------------------------------


def close_up(specimen: Specimen, size: int) -> np.ndarray:
    """uint8 [size,size]: a square around the nuchal box, black beyond the picture."""
    x0, y0, x1, y1 = specimen.box
    side = CLOSE_UP * (x1 - x0)
    scale = size / side
    matrix = np.array([
        [scale, 0, size / 2 - scale * (x0 + x1) / 2], [0, scale, size / 2 - scale * (y0 + y1) / 2]
    ])  # fmt: skip
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.warpAffine(specimen.grey, matrix, (size, size), flags=interpolation), np.uint8)


def as_seen(specimen: Specimen) -> Specimen:
    """The still at the model's size, box and all."""
    height, width = specimen.grey.shape
    scale = MODEL_SIZE / max(height, width)
    left, top = (max(height, width) - width) / 2, (max(height, width) - height) / 2
    x0, y0, x1, y1 = specimen.box
    box = ((x0 + left) * scale, (y0 + top) * scale, (x1 + left) * scale, (y1 + top) * scale)
    return dataclasses.replace(specimen, grey=letterbox(specimen.grey, Preprocessing(size=MODEL_SIZE)), box=box)


def texture(specimen: Specimen) -> np.ndarray:
    """float [42]: level, local variance, autocorrelation and edge strength in three bands of rows (the nuchal box, as much
    above it, as much below it), and each band's against the one above."""
    x0, y0, x1, y1 = specimen.box
    high = max(y1 - y0, 4.0)
    bands = [
        _band(specimen.grey, x0, x1, low, low + high) for low in (y0 - high, y0, y1)
    ]  # above, inside, below; rows beyond the picture are left out
    inside, below = bands[1] - bands[0], bands[2] - bands[0]
    return np.concatenate([*bands, inside, below])[: 5 * len(bands[0])]


def _band(grey: np.ndarray, x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    """float [10] of the picture's part of a box; zeros when less than 3 x 8 pixels of it are in the picture."""
    height, width = grey.shape
    top, bottom = int(np.clip(round(y0), 0, height)), int(np.clip(round(y1), 0, height))
    left, right = int(np.clip(round(x0), 0, width)), int(np.clip(round(x1), 0, width))
    part = grey[top:bottom, left:right].astype(np.float32)
    if part.shape[0] < 3 or part.shape[1] < 8:
        return np.zeros(10)
    mean, deviation = cv2.blur(part, (3, 3)), cv2.blur(part * part, (3, 3))
    local = np.log1p(np.sqrt(np.maximum(deviation - mean * mean, 0)))
    rows, columns = np.diff(part, axis=0), np.diff(part, axis=1)
    ratio = np.log((np.abs(rows).mean() + 0.1) / (np.abs(columns).mean() + 0.1))
    flat = np.mean(local < 0.4)  # share without grain: what is filled, copied or stretched
    lags = [_correlation(part[:, :-k], part[:, k:]) for k in (1, 2, 4)] + [_correlation(part[:-1], part[1:])]
    return np.array([
        np.log1p(part.mean()), np.log1p(part.std()), local.mean(), local.std(), flat, ratio,
        *lags,
    ])  # fmt: skip


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (np.sqrt((a * a).sum() * (b * b).sum()) + 1e-6))


def nuisance(specimen: Specimen) -> np.ndarray:
    """float [10]: what says nothing about the anatomy: size, brightness away from the neck, black borders, overlay marks."""
    grey = specimen.grey
    height, width = grey.shape
    lit = grey > 8  # above a screen's black
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    border = (
        [rows[0] / height, 1 - rows[-1] / height, columns[0] / width, 1 - columns[-1] / width]
        if len(rows)
        else [1.0] * 4
    )
    hat = np.minimum(
        cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, np.ones((1, 13), np.uint8)),
        cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, np.ones((13, 1), np.uint8)),
    )
    marks = cv2.connectedComponents((hat > 60).astype(np.uint8))[0] - 1
    away = grey[slice(*specimen.away)].astype(np.float32)
    return np.array([
        height, width, np.log1p(grey.mean()), np.log1p(away.mean()), np.log1p(away.std()), np.log1p(marks), *border,
    ])  # fmt: skip


# -- discriminators -------------------------------------------------------------------------------------------------------


def discriminate(a: np.ndarray, b: np.ndarray, groups: Sequence[str], question: str, name: str, seed: int = 0) -> Check:
    """Features [n,D] of the one class and [m,D] of the other; groups [n+m]: patients. InputError when a class has fewer
    than MIN_EACH."""
    from scipy.stats import rankdata
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(len(a), len(b)) < MIN_EACH:
        raise InputError(f"{question}: found {len(a)} and {len(b)} images; need {MIN_EACH} of either")
    x, y = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_C, max_iter=3000))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(probe, x, y, groups=groups, cv=folds, method="decision_function")

    def area(keep: np.ndarray) -> float:
        one = y[keep] == 1
        m, n = int(one.sum()), int((~one).sum())
        if not m or not n:
            return float("nan")
        return float((rankdata(scores[keep])[one].sum() - m * (m + 1) / 2) / (m * n))

    value = area(np.arange(len(y)))
    low, high = patient_interval(area, groups)
    return Check(question, name, len(y), len(set(groups)), value, low, high, value <= NEAR)


def check_lesions(
    specimens: Specimens,
    backbone: Features | None = None,
    size: int = 224,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Check]:
    """Every check. `backbone`: frozen features of crops [N,size,size]; without it texture and nuisance speak alone."""
    descriptors: dict[str, Callable[[list[Specimen]], np.ndarray]] = {
        "texture": lambda many: np.stack([texture(s) for s in many]),
        "texture at the model's size": lambda many: np.stack([texture(as_seen(s)) for s in many]),
    }
    if backbone is not None:
        descriptors["backbone, close-up"] = lambda many: backbone(np.stack([close_up(s, size) for s in many]))
        spec = Preprocessing(size=size)
        descriptors["backbone, whole still"] = lambda many: backbone(np.stack([letterbox(s.grey, spec) for s in many]))
    questions = {
        "sham against untouched": (specimens.untouched, specimens.sham),
    }
    work = [(q, pair, name) for name in descriptors for q, pair in questions.items() if min(map(len, pair)) >= MIN_EACH]
    checks, known = [], {}
    for number, (question, (a, b), name) in enumerate(work):
        on_step(number, len(work))
        features = []
        for many in (a, b):
            key = name, id(many)
            if key not in known:
                known[key] = descriptors[name](many)
            features.append(known[key])
        checks.append(discriminate(features[0], features[1], [s.group for s in (*a, *b)], question, name))
    sham, lesion = ([*map(nuisance, many)] for many in (specimens.sham, specimens.lesion))
    groups = [s.group for s in (*specimens.sham, *specimens.lesion)]
    checks.append(discriminate(np.stack(sham), np.stack(lesion), groups, "lesion against sham", "nuisance only"))
    return sorted(
        checks, key=lambda c: list(questions).index(c.question) if c.question in questions else len(questions)
    )


def write_checks(checks: Sequence[Check], specimens: Specimens, seed: int, backbone: Path | None, path: Path) -> str:
    """The checks and what they rest on, as JSON; returns the text. `backbone`: the checkpoint whose features were used."""
    text = json.dumps(
        {
            "kind": "simulated_lesion",
            "stills": len(specimens.untouched),
            "seed": seed,
            "backbone": backbone.name if backbone else None,
            "near": NEAR,
            "honest": all(check.honest for check in checks),
            "checks": [dataclasses.asdict(check) for check in checks],
        },
        indent=1,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return text


# -- the contact sheet ----------------------------------------------------------------------------------------------------


def contact_sheet(specimens: Specimens, folder: Path) -> list[Path]:
    """Pages of close-ups, a still a row: untouched (calipers painted out), sham, lesion. Written to `folder` as PNG and one
    HTML page that holds them. The pictures are of the data: they belong in no repository."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    parts: list[str] = []
    for page in _pages(specimens):
        path = folder / f"lesions-{len(paths) + 1}.png"
        data = cv2.imencode(".png", page)[1].tobytes()
        path.write_bytes(data)
        paths.append(path)
        parts.append(f'<img alt="{escape(path.name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">')
    html = folder / "lesions.html"
    html.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Simulated lesions</title>'
        "<style>body{margin:2rem auto;max-width:1240px;background:#11161c;color:#e6ebf0;font:16px system-ui}img{width:100%}"
        "</style><h1>Simulated lesions and shams</h1><p>Each still twice over: untouched, sham operated, lesion. Simulated: "
        f"no picture shows a real hygroma.</p>{''.join(parts)}</html>\n",
        encoding="utf-8",
    )
    return [html, *paths]


def _pages(specimens: Specimens) -> Iterator[np.ndarray]:
    rows = []
    for three in list(zip(specimens.untouched, specimens.sham, specimens.lesion, strict=True))[:SHEET_STILLS]:
        tiles = []
        for name, specimen in zip(("untouched", "sham", "lesion"), three, strict=True):
            tile = close_up(specimen, TILE)
            tile[:18] = 0
            text = f"{name} {specimen.thickness_mm:.1f} mm-eq"
            cv2.putText(tile, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 255, 1, cv2.LINE_AA)
            tiles.append(tile)
        rows.append(np.hstack(tiles))
    if len(rows) % 2:
        rows.append(np.zeros_like(rows[0]))
    pairs = [np.hstack(rows[i : i + 2]) for i in range(0, len(rows), 2)]
    for start in range(0, len(pairs), SHEET_ROWS // 2):
        yield np.vstack(pairs[start : start + SHEET_ROWS // 2])
