"""Other anatomy: how much of it is called assessable, at the point where standard nuchal planes are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.dataset import LabelledImage
from calibration.images import read_grey
from edge.bundle.manifest import EvidenceRow, EvidenceTable
from edge.records import Signal
from edge.screen.geometry import full_fan
from edge.screen.preprocess import Preprocessing, prepare
from edge.screen.still import read_still
from export.report.figures import figures
from export.report.records import Bracket, OtherAnatomy, OtherSource

UNNAMED = "other anatomy"  # of images whose table gives no site
AIM = 0.01  # share of other anatomy called assessable, at most (docs/design.md#evidence)
ROUNDING = 1e-9  # of 1 minus a share: 4 of 400 are 1 %, and no more
MET, UNSHOWN, MISSED = "met", "met in point but not shown", "missed"
KEPT = 0.95  # of the standard planes, at the point where the aim is judged
NOBODYS = (
    "Nobody said whose some of the other anatomy's images are: each of those counts as a patient of its own, and the intervals "
    "that "
    "count patients may be too narrow."
)
ONE_SITE = (
    "Site shift was not measured: every labelled nuchal plane at hand is of one site. Other sources may be of other hospitals, "
    "but "
    "hold no nuchal plane."
)


@dataclass(frozen=True)
class Caveats:
    """What images of other anatomy and of nuchal planes could not tell, a sentence each; "" where there is nothing to say."""

    grouping: str = ""
    site_shift: str = ""


@dataclass(frozen=True)
class Judged:
    """Images as the INT8 graph sees them, one after the other. groups [n]: patient or clip; ok bool [n]: the screen reader
    found an ultrasound picture; plane [n]: probability; distance [n]: of the embedding."""

    groups: Sequence[str]
    ok: np.ndarray
    plane: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """crops uint8 [n,S,S]; groups [n]; ok bool [n]."""

    crops: np.ndarray
    groups: list[str]
    ok: np.ndarray


def read_pictures(images: Sequence[LabelledImage], spec: Preprocessing) -> Pictures:
    """As `hygroma score` reads stills: what is no ultrasound picture gets a crop all the same. InputError for a damaged one."""
    crops, ok = [], []
    for image in images:
        grey = read_grey(image.path)
        reading = read_still(grey, spec)
        crop = reading.crop
        crops.append(prepare(grey, reading.fan or full_fan(grey.shape), spec) if crop is None else crop)
        ok.append(reading.signal is Signal.OK)
    return Pictures(np.stack(crops), [image.group for image in images], np.array(ok))


def read_sources(
    images: Sequence[LabelledImage], spec: Preprocessing, on_step: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Pictures]:
    """The pictures of each site of other anatomy, by its name."""
    by_site: dict[str, list[LabelledImage]] = {}
    for image in images:
        by_site.setdefault(image.site or UNNAMED, []).append(image)
    out = {}
    for number, (name, own) in enumerate(by_site.items()):
        on_step(number, len(by_site))
        out[name] = read_pictures(own, spec)
    return out


def unfamiliar(
    planes: Judged,
    others: Mapping[str, Judged],
    plane_threshold: float,
    distance_limit: float,
    caveats: Caveats = Caveats(),  # noqa: B008  frozen
) -> OtherAnatomy | None:
    """The report's part; None where nothing was measured. planes: standard planes that no training saw; others: source -> its
    images. Two points: the one that is shipped, and the plane threshold at which KEPT of `planes` stay assessable (the aim's),
    with the distance limit as it is."""
    if not len(planes.plane) or not others:
        return None
    matched = float(np.quantile(np.where(planes.ok & (planes.distance <= distance_limit), planes.plane, 0.0), 1 - KEPT))
    everything = dict(others)
    if len(others) > 1:
        everything["all of them"] = Judged(
            [g for o in others.values() for g in o.groups],
            *(np.concatenate([getattr(o, name) for o in others.values()]) for name in ("ok", "plane", "distance")),
        )
    points = {"shipped": plane_threshold, "matched": matched}
    rows: list[OtherSource] = []
    kept: dict[str, Bracket] = {}
    for source, other in everything.items():
        labels = np.repeat([1, 0], [len(planes.plane), len(other.plane)])
        groups = [*planes.groups, *other.groups]
        probability, distance, ok = (
            np.concatenate([getattr(planes, name), getattr(other, name)]) for name in ("plane", "distance", "ok")
        )
        at = {
            point: figures(labels, ok & (probability >= threshold) & (distance <= distance_limit), probability, groups)
            for point, threshold in points.items()
        }
        kept = kept or {point: _bracket(found["sensitivity"]) for point, found in at.items()}  # of the same planes each time
        called = {point: _rest(found["specificity"]) for point, found in at.items()}
        plane, far = (figures(labels, labels == 1, s, groups)["roc_auc"] for s in (probability, -distance))
        rows.append({
            "source": source, "n": len(other.plane), "patients": len(set(other.groups)), "shipped": called["shipped"],
            "matched": called["matched"], "auc_plane": _bracket(plane), "auc_distance": _bracket(far),
        })  # fmt: skip
    return {
        "planes": len(planes.plane),
        "kept": kept,
        "plane_threshold": points,
        "distance_limit": distance_limit,
        "aim": AIM,
        "verdict": verdict(rows[-1]["matched"]),
        "rows": rows,
        "grouping": caveats.grouping,
        "site_shift": caveats.site_shift,
    }


def _bracket(figure: Bracket) -> Bracket:
    return {"value": figure["value"], "low": figure["low"], "high": figure["high"]}


def _rest(figure: Bracket) -> Bracket:
    """Of 1 minus a share."""
    return {"value": 1 - figure["value"], "low": 1 - figure["high"], "high": 1 - figure["low"]}


def verdict(share: Bracket) -> str:
    """What a share with its 95 % interval says of AIM: shown only where the whole interval keeps to it."""
    limit = AIM + ROUNDING
    if share["value"] > limit:
        return MISSED
    return MET if share["high"] <= limit else UNSHOWN


def aim_in_words(found: OtherAnatomy) -> str:
    """The aim and the upper end of the interval that decides whether it is shown, for the report and the card."""
    last = found["rows"][-1]
    return (
        f"Aim: at most {found['aim']:.0%} of other anatomy called assessable with {KEPT:.0%} of standard planes kept. Found on "
        f"{last['source']}: {last['matched']['value']:.2%}, at most {last['matched']['high']:.2%} by the 95 % interval."
    )


def caveats_in_words(found: OtherAnatomy) -> str:
    """What `unfamiliar` found, but could not tell, in words."""
    return " ".join(filter(None, (found["grouping"], found["site_shift"])))


def other_anatomy_table(found: OtherAnatomy | None) -> EvidenceTable | None:
    """The bundle's evidence table; None where nothing was measured."""
    if not found:
        return None
    kept = found["kept"]["shipped"]
    rows = [
        EvidenceRow("standard planes kept", "validation", found["planes"], kept["value"], kept["low"], kept["high"])
    ]
    for row in found["rows"]:
        for metric, f, planes in (
            ("called assessable", row["shipped"], 0),
            (f"called assessable with {KEPT:.0%} of planes kept", row["matched"], 0),
            ("ROC-AUC of the plane probability", row["auc_plane"], found["planes"]),
            ("ROC-AUC of the distance", row["auc_distance"], found["planes"]),
        ):
            n = row["n"] + planes
            rows.append(EvidenceRow(metric, row["source"], n, f["value"], f["low"], f["high"]))
    described = (
        "Images of other anatomy, called assessable at the shipped thresholds and at the plane threshold that keeps "
        f"{KEPT:.0%} of the validation split's standard planes; areas are against those planes. {aim_in_words(found)} It is "
        f"{found['verdict']}. {caveats_in_words(found)} Model form: INT8."
    )
    return EvidenceTable("other anatomy", "real", described, tuple(rows))
