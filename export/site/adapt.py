"""A site's bundle: the heads of a bundle fitted anew on a site's own images, everything else of it kept to the bit.

The trunk, its INT8 form and the nuchal map stay. The hygroma head is fitted on the site's class folders, anchored on what it
said before (heads/anchored.py), beside phantoms, so that the decision can be fitted on phantom exams as ever. So is the plane
head where the CSV's `plane` column tells enough planes apart; without it that head is frozen, and the card says so. Judged out
of fold, grouped by patient: what the bundle says as it was, and what it says adapted, on the same images.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calibration.dataset import FOLDS, Dataset
from calibration.naming import some
from calibration.site import Site, read_site, why_frozen
from edge.bundle import Bundle
from edge.bundle.manifest import ModelInfo
from edge.engines.selftest import sigmoid
from edge.errors import ConfigError, GateError, InputError
from edge.schema import Decoder, encode
from export.atomic import LOCK, alone, appearing, kept, require_beside, writable
from export.heads.features import HYGROMA, PLANE
from export.model import heads as records
from export.model.heads import REPORTED, TOGETHER
from export.phantoms import BANK, EXAMS, Progress, phantom_bank
from export.report import metrics
from export.report.evidence import CHOOSE, cross_fitted
from export.report.gate import gate
from export.report.validate import EvaluationSet, Step, evidence_tables, validation_report, write_report
from export.site.bundle import SITE_IMAGES, WRITTEN, Adapted, assemble, assessable_table, kept_tables, site_provenance
from export.site.heads import Head, Opened, fit_head
from export.stamps import VERSIONS

PHANTOMS = 600  # frames, four a patient: as many as a recipe trains on unless it says otherwise
LEAST_EXAMS = 4
NAMES = {HYGROMA: "hygroma", PLANE: "plane"}
RULES = {HYGROMA: records.HYGROMA.threshold, PLANE: records.PLANE.threshold}
TASKS = {HYGROMA: "hygroma, as the site's folders say", PLANE: "standard plane, as the site's CSV says"}
COLUMNS = ("id", "path", "label", "plane", "group", "fold", "assessable", "before", "adapted", "int8", "threshold")


@dataclass(frozen=True)
class Settings:
    """name, version: of the bundle that is made. exams: phantom exams that the decision is fitted on, half of them with a
    hygroma; it is measured on a quarter as many with and 1.5 times as many without. phantoms: frames fitted beside the site's
    images."""

    name: str
    version: str
    exams: int = 400
    phantoms: int = PHANTOMS
    seed: int = 0
    threads: int = 1


def adapt(
    start: Bundle,
    data: Dataset,
    out: Path,
    settings: Settings,
    accept_failing_gate: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Write `out`/bundle, `out`/report and `out`/predictions.csv; returns what the command prints. `out` holds names and
    predictions of the site's images, the bundle holds none.

    InputError for images or folds that do not fit, GateError when INT8 loses too much of the adapted head."""
    model = _check(start, data, out, settings)
    with alone(writable(out), "an adaptation"):
        return _adapt(start, model, data, out, settings, accept_failing_gate, progress)


def _adapt(
    start: Bundle,
    model: ModelInfo,
    data: Dataset,
    out: Path,
    settings: Settings,
    accept_failing_gate: bool,
    progress: Progress,
) -> dict[str, Any]:
    opened = Opened.of(start, settings.threads)
    site = read_site(data, start.manifest.preprocessing.size, settings.seed, partial(progress, "site: images"))
    # Kept beside the report: who goes on after a gate that failed need not wait for them again.
    rendered = out / f"phantoms-{settings.phantoms}-v{VERSIONS['bank_phantom']}"
    phantoms = kept(rendered, BANK, lambda: phantom_bank(settings.phantoms, progress))
    frozen = why_frozen(site)
    progress("hygroma head", 0, 1)
    heads = {HYGROMA: fit_head(HYGROMA, opened, site, phantoms, settings.seed)}
    if not frozen:
        progress("plane head", 0, 1)
        heads[PLANE] = fit_head(PLANE, opened, site, phantoms, settings.seed)
    hygroma, plane = heads[HYGROMA], heads.get(PLANE)
    _check_way_round(hygroma, start, data)

    sets = {name: _evaluation(name, head, site, start) for name, head in heads.items()}
    thresholds = {name: CHOOSE[RULES[name]](head.labels, sigmoid(head.adapted)) for name, head in heads.items()}
    assessable = _assessable(opened, site, plane, sets.get(PLANE))
    provenance = site_provenance(start, site, hygroma, plane, frozen)
    report = validation_report(list(sets.values()))
    report |= {"site": True, "lean": {"refit": hygroma.raised}, "provenance": asdict(provenance)}
    write_report(report, out / "report")
    _write_predictions(out / "predictions.csv", site, hygroma, sets[HYGROMA], assessable)
    _, before, after = sets[HYGROMA].steps
    result = gate(hygroma.labels, before.probability, after.probability, before.threshold, sets[HYGROMA].ids)
    if not result.passed and not accept_failing_gate:
        raise GateError(
            f"the adapted head fails the gate in INT8: {'; '.join(result.reasons)}; {out / 'report'} shows it. Add images, or "
            "accept it with --accept-failing-gate (recorded in the manifest)"
        )
    point = start.manifest.operating_point
    tables = [*evidence_tables(report), assessable_table(assessable, site), *(kept_tables(start) if frozen else ())]
    adapted = Adapted(
        model,
        hygroma,
        plane,
        replace(
            point,
            hygroma_threshold=thresholds[HYGROMA],
            plane_threshold=thresholds.get(PLANE, point.plane_threshold),
        ),
        provenance,
        tables,
        result,
    )
    exams = assemble(opened, adapted, out, settings.exams, settings.threads, progress)
    return {
        "bundle": str(out / "bundle"),
        "report": str(out / "report" / "validation.html"),
        "images": len(site.labels),
        "left out": site.others,
        "patients known": data.patients_known,
        "called assessable": int(assessable.sum()),
        "plane head": f"kept as it was: {frozen}" if frozen else "fitted on the site's planes",
        "exams": [asdict(row) for table in exams if table.name == EXAMS for row in table.rows],
        "gate": "passed" if result.passed else f"FAILED, accepted: {'; '.join(result.reasons)}",
        "sets": [
            {"name": s["name"], "n": s["n"], "positives": s["positives"], "steps": s["steps"]} for s in report["sets"]
        ],
    }


def _check(start: Bundle, data: Dataset, out: Path, settings: Settings) -> ModelInfo:
    """What can be said before an image is read."""
    if data.source.is_dir():  # beside a table nothing is read but what it names
        require_beside(out, data.folder)
    if out.is_dir() and data.source.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"--out {out}: holds the data; give another")
    if (out / "bundle").exists():
        raise ConfigError(f"{out / 'bundle'}: there already; give another --out, or delete it")
    if out.is_dir() and (strange := sorted(p.name for p in out.iterdir() if not p.name.startswith((".", LOCK, *WRITTEN)))):
        raise ConfigError(f"--out {out}: holds something else ({some(strange)}); give an empty or a new folder")
    if any(source.name == SITE_IMAGES for source in start.manifest.provenance.data):
        raise ConfigError(
            f"{start.label}: adapted already, and held-out images may be among those that it was fitted on; start from the "
            "bundle that it was made from"
        )
    if settings.exams < LEAST_EXAMS:
        raise ConfigError(f"--exams: found {settings.exams}; give at least {LEAST_EXAMS}, half of them with a hygroma")
    for name, value in (("--seed", settings.seed), ("--threads", settings.threads - 1)):
        if value < 0:
            raise ConfigError(f"{name}: found {getattr(settings, name[2:])}; give {0 if name == '--seed' else 1} or more")
    model = ModelInfo(settings.name, settings.version, start.manifest.model.architecture)
    return Decoder("--name, --version", ConfigError).dataclass(ModelInfo, encode(model))


def _check_way_round(hygroma: Head, start: Bundle, data: Dataset) -> None:
    """InputError when the bundle as it was surely ranks the classes the other way: the fit would follow, and flag the healthy."""
    area = metrics.auc(hygroma.labels, hygroma.before)
    if area.high < 0.5:
        negative, positive = data.classes
        raise InputError(
            f"{data.source}: {start.label} ranks {negative!r} above {positive!r} (ROC-AUC {area.value:.3f}, {area.low:.3f} to "
            f"{area.high:.3f}): they seem the wrong way round; correct the folders, or name the positive one with --positive"
        )


def _evaluation(name: str, head: Head, site: Site, start: Bundle) -> EvaluationSet:
    """What `validation_report` judges; each fold at the threshold that the others give."""
    kind, point = NAMES[name], start.manifest.operating_point
    own = sigmoid(head.adapted)
    nobodys = "nobody said whose they are: each counts as a patient's only one"
    whose = "grouped by patient" if site.data.patients_known else nobodys
    crossed = cross_fitted(head.labels, own, site.folds[head.keep], CHOOSE[RULES[name]])
    return EvaluationSet(
        f"site's {kind}s",
        "real",
        TASKS[name],
        f"The site's own images, held out of the fit fold by fold, {whose}; as it was: {start.label}, in INT8, at its own "
        "threshold.",
        [f"site:{i:04d}" for i in head.keep],  # never a file's name: it may hold a patient's
        head.labels,
        [f"fold {fold}" for fold in site.folds[head.keep]],
        [
            Step("as it was", sigmoid(head.before), getattr(point, f"{kind}_threshold")),
            Step("adapted", own, crossed),
            Step("INT8", sigmoid(head.int8), crossed),
        ],
        "adapted",
        screening=name == HYGROMA,
        groups=[site.groups[i] for i in head.keep],
        gated=TOGETHER if name == HYGROMA else REPORTED,  # a site's fold is too small: of fewer than 143 images none may flip
    )


def _assessable(start: Opened, site: Site, plane: Head | None, judged: EvaluationSet | None) -> np.ndarray:
    """bool [N]: the site's images that the device would call assessable; where a plane head was fitted, by one that they were
    held out of, at the threshold that the other folds give."""
    features, rounding = start.shown(PLANE, list(site.crops))
    int8, manifest = features + rounding, start.bundle.manifest
    distance = start.bundle.ood().distance(int8[:, -manifest.heads.embedding :])
    passes = sigmoid(start.said(PLANE, int8)) >= manifest.operating_point.plane_threshold
    if plane is not None and judged is not None:
        limits = np.asarray(judged.steps[-1].threshold)
        for fold in range(FOLDS):
            own = site.folds == fold
            passes[own] = sigmoid(plane.every[own]) >= limits[own[plane.keep]][0]
    return np.asarray(passes & (distance <= manifest.ood.threshold))


def _write_predictions(
    path: Path, site: Site, hygroma: Head, judged: EvaluationSet, assessable: np.ndarray
) -> None:
    """A row an image that the hygroma head was judged on, out of fold; probabilities."""
    thresholds = np.broadcast_to(judged.steps[1].threshold, hygroma.keep.shape)
    with (
        appearing(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row, i in enumerate(hygroma.keep):
            image = site.data.images[i]
            said = [f"{step.probability[row]:.6g}" for step in judged.steps]
            writer.writerow(
                [judged.ids[row], image.name, site.data.classes[image.label], image.plane_called, site.groups[i], site.folds[i],
                 int(assessable[i]), *said, f"{thresholds[row]:.6g}"]
            )  # fmt: skip
