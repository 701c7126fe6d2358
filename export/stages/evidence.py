"""validate: what every form of a run's models says of images that they never saw, and what the report makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from calibration.bank import Entry
from calibration.dataset import UNKNOWN, LabelledImage
from calibration.honesty import MIN_EACH, Check, Specimens, check_lesions, make_specimens, write_checks
from edge.bundle.manifest import Provenance
from edge.engines.selftest import sigmoid
from edge.errors import InputError
from edge.screen.preprocess import Preprocessing
from export.atomic import Form
from export.data import Data
from export.heads.ood import distance_limit, fit_ood
from export.int8.ort_graph import run_graph
from export.model.heads import HEADS, HYGROMA, PLANE, REAL_HYGROMA, Head
from export.model.vit import HygromaViT
from export.phantoms import Progress
from export.recipe import Recipe
from export.report.controls import control_rows
from export.report.design import design
from export.report.evidence import HeldOut, increased_rows, operating_point, thickness_rows
from export.report.framing import ASPECT, CUT, aspects, cut_stills, framing_rows
from export.report.other_anatomy import NOBODYS, ONE_SITE, Caveats, Judged, read_pictures, read_sources, unfamiliar
from export.report.paper import NAMES, REAL, SIMULATED, Answers, thresholds
from export.report.records import Checked, Looked, OtherAnatomy, Report
from export.report.saliency import CAM_STILLS, boxed, cams_of, evenly, looked, panel, panel_stills
from export.report.validate import EvaluationSet, validation_report
from export.stages.crops import Crops
from export.training.features import backbone_features
from export.training.train import predict

PLANES = "standard planes"
JUDGED = ("ok", "plane", "distance")  # of export.report.other_anatomy.Judged
CHECKED_STILLS = 480  # of some 1,020: an area of .60 between 480 and 480 is then told from .5 (95 %)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as saved:
        return dict(saved)


ARRAYS: Form[dict[str, np.ndarray]] = Form(
    lambda arrays, path: np.savez(path, **arrays),  # type: ignore[arg-type]
    _read_arrays,
)


def probabilities(
    form: str, logits: Mapping[str, np.ndarray], heads: Sequence[Head] = HEADS
) -> dict[str, np.ndarray]:
    """A form's outputs on held-out crops, as `predict` gives them -> "<form>_<head>" [n] and "<form>_map" [n,G,G]."""
    said = {f"{form}_{head.name}": sigmoid(logits[head.name]).astype(np.float32) for head in heads}
    return said | {f"{form}_map": sigmoid(logits["nuchal_map"]).astype(np.float16)}


def taught(teacher: HygromaViT, crops: Crops, run: int, device: torch.device) -> dict[str, np.ndarray]:
    """Held-out probabilities of a run's teacher alone, as `predicted` gives them."""
    keep = crops.held_out(run)
    own = crops.of(keep, Preprocessing(size=teacher.config.image))
    return {"index": keep} | probabilities("teacher", predict(teacher, own, device=device), teacher.config.answers)


def beside(part: Mapping[str, np.ndarray], form: str, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A fold's held-out probabilities with those of one more form, `own`, beside them; NaN where that was not asked, and without
    the form where `own` is empty."""
    if not own:
        return dict(part)
    key = f"{form}_hygroma"
    said = dict(zip(own["index"].tolist(), own[key].tolist(), strict=True))
    return {**part, key: np.array([said.get(i, np.nan) for i in part["index"].tolist()])}


def predicted(
    teacher: HygromaViT,
    student: HygromaViT,
    graph: onnx.ModelProto,
    crops: Crops,
    run: int,
    threads: int,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Held-out probabilities of a run: keys "<form>_<head>" and "<form>_map" for teacher, student, qdq; "index" into the bank;
    and what export/report/framing.py asks of untouched stills, NaN for all others."""
    keep, heads = crops.held_out(run), student.config.answers
    own = crops.of(keep)
    taught = own if teacher.config.image == crops.spec.size else crops.of(keep, Preprocessing(size=teacher.config.image))
    out = {"index": keep}
    out |= probabilities("teacher", predict(teacher, taught, device=device), heads)
    out |= probabilities("student", predict(student, own, device=device), heads)
    out |= probabilities("qdq", run_graph(graph, own[:, None], threads).named(), heads)
    real = np.array([crops.bank.entries[i].source == "real" for i in keep], bool)
    out |= {name: np.full(len(keep), np.nan, np.float32) for name in (CUT, ASPECT)}
    if real.any():
        cut = cut_stills(crops.bank, keep[real], crops.spec, [crops.seed, run])
        out[CUT][real] = sigmoid(run_graph(graph, cut[:, None], threads).plane)
        out[ASPECT][real] = aspects(crops.bank, keep[real])
    return out


def answers_of(folds: HeldOut, stills: Sequence[LabelledImage], real: bool) -> Answers:
    """What the forms that `folds` knows say of the images with a finding: of real ones, or, as the gate, of simulated lesions.
    stills: what the bank's entries index. InputError where a class is missing."""
    kind, head = (REAL, REAL_HYGROMA) if real else (SIMULATED, HYGROMA)
    keep, labels = folds.known(head), folds.labels(head)
    if len(set(labels[keep].tolist())) < 2:
        raise InputError("held-out images with a finding: of one class only; add images of the other to the data set")
    at = np.flatnonzero(keep).tolist()
    entries = [folds.entries[i] for i in at]
    forms = [form for form in NAMES if f"{form}_{HYGROMA.name}" in folds.probability]
    said = {form: folds.said(form, HYGROMA)[at].astype(np.float64) for form in forms}
    labels, of_fold = labels[at].astype(int), np.array([entry.fold for entry in entries])
    return Answers(
        [stills[entry.still].name if entry.source == "real" else folds.ids[i] for i, entry in zip(at, entries, strict=True)],
        labels,
        [entry.owner for entry in entries],
        [stills[entry.still].site for entry in entries],
        of_fold,
        kind,
        said,
        thresholds(labels, of_fold, said),
    )


def explained(data: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Of held-out entries: those whose Score-CAM is measured, and those that the report shows."""
    return evenly(boxed(data), CAM_STILLS), panel_stills(data)


def cams(student: HygromaViT, crops: np.ndarray) -> dict[str, np.ndarray]:
    """Score-CAM of crops uint8 [n,S,S]."""
    return {"cams": cams_of(student, crops)}


def saliency(
    splits: Sequence[HeldOut], data: HeldOut, crops: np.ndarray, cams: np.ndarray, student: HygromaViT
) -> Looked:
    """Where the maps of `splits` lie; Score-CAM and panels of a run's student, on what it never saw, `data`. crops, cams: of the
    entries that `explained` names, one after the other."""
    stills, shown = explained(data)
    found = looked(splits, data, stills, cams[: len(stills)], student.config)
    found["panels"] = [
        panel(
            crop,
            data.maps["student"][i],
            cam,
            f"{_shows(data.entries[i])}, hygroma probability {data.said('student', HYGROMA)[i]:.2f}. "
            "Left to right: picture, nuchal map, Score-CAM.",
        )
        for i, crop, cam in zip(shown, crops[len(stills) :], cams[len(stills) :], strict=True)
    ]
    return found


def _shows(entry: Entry) -> str:
    kind = "Simulated lesion" if entry.source == "lesion" else "Hygroma" if entry.hygroma == 1 else "Untouched still"
    return kind if entry.thickness_mm == UNKNOWN else f"{kind}, {entry.thickness_mm:.1f} mm-equivalents"


def other_anatomy(
    crops: Crops, run: int, others: Sequence[LabelledImage], graph: onnx.ModelProto, threads: int, progress: Progress
) -> dict[str, np.ndarray]:
    """Other anatomy, and the standard planes that a run never saw, through its INT8 graph, as arrays: "sources", their names; of
    each, by its number, groups and JUDGED; "limit", the run's limit of distances. No sources where one of both lacks."""
    entries = crops.bank.entries
    standard = [crops.stills[e.still] for i in crops.held_out(run) if (e := entries[i]).source == "real" and e.plane == 1]
    pictures = read_sources(others, crops.spec, partial(progress, "other anatomy")) if standard else {}
    pictures = {PLANES: read_pictures(standard, crops.spec), **pictures} if pictures else {}
    out = {"sources": np.array(list(pictures), dtype=str)}
    if not pictures:
        return out
    familiar = crops.familiar(run)  # of a run that holds something out
    ood = fit_ood(run_graph(graph, familiar.assessable, threads).embedding)
    out["limit"] = np.array(distance_limit(ood, [run_graph(graph, own, threads).embedding for own in familiar.typical]))
    for number, shown in enumerate(pictures.values()):
        raw = run_graph(graph, shown.crops[:, None], threads)
        out[f"{number}_groups"] = np.array(shown.groups, dtype=str)
        for key, values in zip(JUDGED, (shown.ok, sigmoid(raw.plane), ood.distance(raw.embedding)), strict=True):
            out[f"{number}_{key}"] = values
    return out


def caveats(data: Data) -> Caveats:
    """Of the data's other anatomy and of its nuchal planes."""
    nobodys = any(not image.patient for image in data.other_anatomy)
    one_site = len({still.site for still in data.stills}) < 2
    return Caveats(NOBODYS if nobodys else "", ONE_SITE if one_site else "")


def called_assessable(
    found: Mapping[str, np.ndarray], plane_threshold: float, of_data: Caveats
) -> OtherAnatomy | None:
    """The report's part, of what `other_anatomy` found."""
    judged = {
        str(name): Judged(found[f"{number}_groups"].tolist(), *(found[f"{number}_{key}"] for key in JUDGED))
        for number, name in enumerate(found["sources"])
    }
    return unfamiliar(judged.pop(PLANES), judged, plane_threshold, float(found["limit"]), of_data) if judged else None


@dataclass(frozen=True)
class LesionChecks:
    """Whether the edits give themselves away, as `hygroma lesions` finds it; specimens: that it was found on."""

    checks: Sequence[Check]
    specimens: Specimens
    seed: int
    init: Path | None


def checked_stills(stills: Sequence[LabelledImage]) -> int:
    """How many stills are checked; 0 where there are too few to tell."""
    count = min(CHECKED_STILLS, sum(still.editable for still in stills))
    return count if count >= 2 * MIN_EACH else 0


CHECKS: Form[Any] = Form(
    lambda found, path: write_checks(found.checks, found.specimens, found.seed, found.init, path),
    lambda path: json.loads(path.read_text())["checks"],
)


def lesion_checks(
    stills: Sequence[LabelledImage], count: int, seed: int, init: Path | None, progress: Progress
) -> LesionChecks:
    specimens = make_specimens(stills, count, seed, partial(progress, "lesion checks: edits"))
    checks = check_lesions(specimens, backbone_features(init) if init else None, on_step=partial(progress, "lesion checks"))
    return LesionChecks(checks, specimens, seed, init)


def gather(
    recipe: Recipe,
    sets: Sequence[EvaluationSet],
    heads: Sequence[Head],
    folds: HeldOut,
    validation: HeldOut | None,
    localisation: Looked,
    other: OtherAnatomy | None,
    honesty: list[Checked],
    shifts: dict[str, float],
    origin: Provenance,
) -> Report:
    """The report. heads: as they are judged (`judged_heads`)."""
    splits = [split for split in (folds, validation) if split is not None]
    report = validation_report(sets)
    decides = heads[0]
    planes = PLANE.name in [head.name for head in heads]
    point = operating_point(folds, heads)
    report["design"] = design(recipe, point, validation is not None, decides.real_positives, planes)
    report["controls"] = control_rows(folds, validation, heads[0])
    report["thickness"] = thickness_rows(splits)
    report["increased"] = increased_rows(splits)
    report["framing"] = framing_rows(splits)
    report["localisation"] = localisation
    report["unfamiliar"] = other or {}  # type: ignore[typeddict-item]  # as it has always been written
    report["honesty"] = honesty
    if recipe.qat.when != "always":
        report["lean"] = shifts
    report["provenance"] = asdict(origin)
    return report
