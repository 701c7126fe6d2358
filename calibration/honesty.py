"""Does the edit give itself away? Checks that a simulated lesion teaches anatomy and not the traces of its making.

A discriminator is a logistic regression, cross-validated by patient, that tries to tell edited stills from untouched ones
(shams that are as thick as a group), or lesions of some patients from shams of others by what has nothing to do with the
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

from calibration.bank import MAX_SEPTA, read_still_picture
from calibration.dataset import FOLDS, LabelledImage
from calibration.intervals import patient_interval
from calibration.lesion import (
    CALIPERED,
    LESION_MM,
    NORMAL_NT_MM,
    NuchalAnatomy,
    add_calipers,
    draw_lesion_mm,
    measured_mm,
    operate,
    paint_out_calipers,
    traced_box,
)
from edge.errors import InputError
from edge.screen.preprocess import Preprocessing, letterbox

NEAR = (
    0.60  # AUC up to which a discriminator counts as near .5: d' = .36, an overlap of 86 % of two normal distributions
)
NEAR_HALF, UNSHOWN, TOLD, TIED = "near .5", "near .5 in point but not shown", "tells them apart", "all scores tied"
VERDICTS = (NEAR_HALF, UNSHOWN, TOLD, TIED)  # from the best to the worst
MODEL_SIZE = 192  # pixels: the still as a model sees it; a trace that does not survive it teaches nothing
CLOSE_UP = 1.3  # side of the close-up in widths of the annotated box: the box, its ends and as much below
PROBE_C = 0.03  # inverse L2 strength on standardised features; .003 to .3 differ by .02 in AUC (texture, 240 stills)
SHEET_STILLS, SHEET_ROWS, TILE = 50, 10, 300  # stills on the contact sheet, stills a page, pixels a tile
MIN_EACH = 8  # images of either class that a check needs: two a fold
Box = tuple[float, float, float, float]
Features = Callable[[np.ndarray], np.ndarray]  # uint8 [N,S,S] -> float [N,D]


@dataclass(frozen=True)
class Specimen:
    """One picture of a check, uint8 grey [H,W]; its nuchal box in pixels; `neck`: the box in pixels that holds all that an edit
    of this still can change, whatever its thickness."""

    grey: np.ndarray
    box: Box
    neck: tuple[int, int, int, int]
    group: str
    thickness_mm: float


@dataclass(frozen=True)
class Check:
    """A discriminator's out-of-fold AUC with its 95 % interval over patients, and one of VERDICTS."""

    question: str
    features: str
    images: int
    patients: int
    auc: float
    low: float
    high: float
    verdict: str

    @property
    def honest(self) -> bool:
        """Nothing was told apart, as far as this check can say."""
        return self.verdict in (NEAR_HALF, UNSHOWN)


@dataclass(frozen=True)
class Specimens:
    """Lists in the order of the stills."""

    untouched: list[Specimen]  # calipers painted out
    sham: list[Specimen]  # set to another still's thickness: as a group as thick as the untouched ones
    lesion: list[Specimen]


def make_specimens(
    stills: Sequence[LabelledImage], count: int, seed: int, on_step: Callable[[int, int], None] = lambda done, total: None
) -> Specimens:
    """Edits of `count` stills with an annotated translucency, drawn at random. Deterministic from `seed`. InputError when
    there are too few."""
    able = [still for still in stills if still.editable]
    if min(len(able), count) < 2 * MIN_EACH:
        raise InputError(
            f"lesion checks: found {len(able)} healthy standard planes with nt_box and thalami_box, {count} asked for; "
            f"need {2 * MIN_EACH}"
        )
    rng = np.random.default_rng(seed)
    chosen = [able[i] for i in rng.permutation(len(able))[:count]]
    pictures = [read_still_picture(still) for still in chosen]
    natural = [measured_mm(picture.grey, _anatomy(picture.image)) for picture in pictures]
    others = rng.permutation(natural)
    out = Specimens([], [], [])
    for number, picture in enumerate(pictures):
        on_step(number, len(chosen))
        grey, still, own = picture.grey, picture.image, natural[number]
        anatomy = _anatomy(still)
        clean = paint_out_calipers(grey, anatomy.nt)
        out.untouched.append(Specimen(clean, traced_box(clean, anatomy), _neck(clean, anatomy), still.group, own))
        septa = int(rng.integers(0, MAX_SEPTA + 1))
        out.sham.append(_edited(still, grey, own, others[number], [seed, number, 0]))
        out.lesion.append(_edited(still, grey, own, draw_lesion_mm(rng), [seed, number, 1], septa))
    return out


def _anatomy(still: LabelledImage) -> NuchalAnatomy:
    assert still.anatomy is not None
    return still.anatomy


def _edited(still: LabelledImage, grey: np.ndarray, own: float, mm: float, seed: list[int], septa: int = 0) -> Specimen:
    """The translucency is traced again in the annotated box, grown or shrunk on the posterior side as it was itself."""
    anatomy = _anatomy(still)
    image, done = operate(grey, anatomy, mm, np.random.default_rng(seed), septa)
    x0, y0, x1, y1 = anatomy.nt
    grown = (done.thickness_mm - own) * anatomy.px_per_mm
    box = (x0, y0, x1, max(y0 + 6, y1 + grown)) if anatomy.posterior_down else (x0, min(y1 - 6, y0 - grown), x1, y1)
    if done.thickness_mm <= NORMAL_NT_MM[1]:  # borders are traced as far as a normal translucency reaches
        box = traced_box(image, dataclasses.replace(anatomy, nt=box))
    return Specimen(image, box, _neck(grey, anatomy), still.group, done.thickness_mm)


def _neck(grey: np.ndarray, anatomy: NuchalAnatomy) -> tuple[int, int, int, int]:
    """The columns of the annotated box, with half its width and 16 px on either side; the rows from an eighth of the picture in
    front of it to the picture's edge behind it, up to which an edit pushes the tissue."""
    (height, width), (x0, top, x1, bottom) = grey.shape, anatomy.nt
    reach = (x1 - x0) / 2 + 16  # an edit's ends reach .35 of the width and are softened over 16 px
    left, right = max(0, int(x0 - reach)), min(width, int(x1 + reach) + 1)
    if anatomy.posterior_down:
        return left, max(8, int(top) - height // 8), right, height
    return left, 0, right, min(height - 8, int(bottom) + height // 8)


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
    """float [10]: what says nothing about the anatomy: size, brightness and black borders outside the neck, brightness of the
    rows in front of it, overlay marks outside it."""
    grey, (x0, y0, x1, y1) = specimen.grey, specimen.neck
    height, width = grey.shape
    seen = np.ones(grey.shape, bool)
    seen[y0:y1, x0:x1] = False
    lit = (grey > 8) & seen  # above a screen's black
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    border = (
        [rows[0] / height, 1 - rows[-1] / height, columns[0] / width, 1 - columns[-1] / width]
        if len(rows)
        else [1.0] * 4
    )
    outside = np.where(seen, grey, 0).astype(np.uint8)  # a mark's neighbourhood must not reach into the neck either
    hat = np.minimum(
        cv2.morphologyEx(outside, cv2.MORPH_TOPHAT, np.ones((1, 13), np.uint8)),
        cv2.morphologyEx(outside, cv2.MORPH_TOPHAT, np.ones((13, 1), np.uint8)),
    )
    marks = cv2.connectedComponents((hat > 60).astype(np.uint8))[0] - 1
    front = np.concatenate([grey[:y0], grey[y1:]]).astype(np.float32)
    return np.array([
        height, width, np.log1p(grey[seen].mean()), np.log1p(front.mean()), np.log1p(front.std()), np.log1p(marks), *border,
    ])  # fmt: skip


def unlike_patients(specimens: Specimens, seed: int = 0) -> tuple[list[Specimen], list[Specimen]]:
    """Shams of half of the patients, drawn at random, and lesions of the others, with calipers drawn in at random as training
    does: of one patient both, size and screen would be the same in either class. Lesions are those that training calls so:
    where the picture ends close behind the neck an edit stays thinner."""
    rng = np.random.default_rng(seed)
    patients = sorted({s.group for s in specimens.sham})
    shams_of = {patients[i] for i in rng.permutation(len(patients))[: len(patients) // 2]}
    sham = [s for s in specimens.sham if s.group in shams_of]
    lesion = [s for s in specimens.lesion if s.group not in shams_of and s.thickness_mm >= LESION_MM[0]]
    return _calipered(sham, rng), _calipered(lesion, rng)


def _calipered(many: Sequence[Specimen], rng: np.random.Generator) -> list[Specimen]:
    return [
        dataclasses.replace(s, grey=add_calipers(s.grey, s.box, rng)) if rng.random() < CALIPERED else s for s in many
    ]


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
    tied = len(np.unique(scores)) <= FOLDS  # a constant a fold: features that are the same in every picture ask nothing
    return Check(question, name, len(y), len(set(groups)), value, low, high, TIED if tied else _verdict(value, high))


def _verdict(value: float, high: float) -> str:
    """What an area and the upper end of its interval say of NEAR: shown only where the whole interval keeps to it."""
    if not value <= NEAR:  # NaN too
        return TOLD
    return NEAR_HALF if high <= NEAR else UNSHOWN


def check_lesions(
    specimens: Specimens,
    backbone: Features | None = None,
    size: int = 224,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Check]:
    """Every check that has MIN_EACH images of either class. `backbone`: frozen features of crops [N,size,size]; without it
    texture and nuisance speak alone."""
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
    sham, lesion = unlike_patients(specimens)
    if min(len(sham), len(lesion)) < MIN_EACH:  # half of the patients each: few stills answer the other questions only
        return checks
    vectors = [np.array([nuisance(s) for s in many]) for many in (sham, lesion)]
    groups = [s.group for s in (*sham, *lesion)]
    checks.append(discriminate(vectors[0], vectors[1], groups, "lesion against sham", "nuisance only"))
    return checks


def write_checks(checks: Sequence[Check], specimens: Specimens, seed: int, backbone: Path | None, path: Path) -> str:
    """The checks and what they rest on, as JSON; returns the text. `backbone`: the checkpoint whose features were used."""
    text = json.dumps(
        {
            "kind": "simulated_lesion",
            "stills": len(specimens.untouched),
            "seed": seed,
            "backbone": backbone.name if backbone else None,
            "near": NEAR,
            "verdict": max((check.verdict for check in checks), key=VERDICTS.index),
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
