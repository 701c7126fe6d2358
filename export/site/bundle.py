"""What an adapted bundle holds: the graph with its new heads, golden vectors, what is said of it, the fitted decision."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

import edge
from calibration.site import OTHER, STANDARD, UNLABELLED, Site
from edge.bundle import Bundle, write_bundle
from edge.bundle.arrays import GoldenVectors, pack_golden
from edge.bundle.manifest import (
    CARD_FILE,
    GOLDEN_FILE,
    MODEL_FILE,
    Calibration,
    DataSource,
    EvidenceRow,
    EvidenceTable,
    GateResult,
    ModelInfo,
    OperatingPoint,
    Provenance,
)
from edge.decision.params import DecisionParams
from export.atomic import remove
from export.bundle import golden_tolerances
from export.data import NO_HYGROMA
from export.heads.head_graph import with_hygroma, with_plane
from export.int8.ort_graph import run_graph
from export.phantoms import Progress, decide_on_exams
from export.recipe import PhantomRecipe
from export.report import metrics
from export.report.model_card import model_card
from export.report.provenance import CUT_LIMIT, CUT_LIMIT_OF_OLD, LESION_LIMIT
from export.site.heads import Head, Opened

# Of the bundle it starts from: tables that judge the plane head and the trunk alone, true as long as both are kept.
PLANE_TABLES = ("plane, folds", "plane, validation", "other anatomy", "planes, however they are cut")
SITE_IMAGES = "a site's own images"  # among the data of an adapted bundle
WRITTEN = ("bundle", "exams-", "phantoms-", "predictions", "report")  # how the names of all that lies in `out` begin
REFERENCE = "the same graph without rounding (weights as INT8 has them)"  # a bundle holds no other weights
MOST_CHARACTERS = 4000  # of a text in the manifest (edge/bundle/manifest.py)


@dataclass(frozen=True)
class Adapted:
    """What is known of an adapted bundle before its decision is fitted. plane: None where that head was kept."""

    model: ModelInfo
    hygroma: Head
    plane: Head | None
    operating_point: OperatingPoint
    provenance: Provenance
    evidence: Sequence[EvidenceTable]
    gate: GateResult


def assemble(
    start: Opened, adapted: Adapted, out: Path, exams: int, threads: int, progress: Progress
) -> list[EvidenceTable]:
    """A draft runs phantom exams, `exams` of them to fit the decision; `out`/bundle, which appears whole, is the draft with the
    decision fitted. Exams go on where a kill cut them off. Returns what they measured."""
    old, raised = start.bundle.manifest, adapted.hygroma.raised
    model = _grafted(start.graph, adapted, old.calibration, raised)
    unshifted = _grafted(start.unshifted, adapted, old.calibration, 0.0)
    crops = start.bundle.golden().inputs
    golden = GoldenVectors(crops, run_graph(unshifted, crops, threads), run_graph(model, crops, threads))
    temperatures = Calibration(old.calibration.plane_temperature if adapted.plane is None else 1.0, 1.0)
    manifest = replace(
        old,
        model=adapted.model,
        operating_point=adapted.operating_point,
        calibration=temperatures,
        decision=DecisionParams().to_manifest(),
        golden=golden_tolerances(golden, temperatures, raised),
        provenance=adapted.provenance,
        evidence=tuple(adapted.evidence),
        gate=replace(adapted.gate, accepted_failing=not adapted.gate.passed),
        files={},
    )
    files = {
        **start.bundle.files,
        MODEL_FILE: model.SerializeToString(deterministic=True),
        GOLDEN_FILE: pack_golden(golden),
        CARD_FILE: model_card(manifest, REFERENCE).encode(),
    }
    draft, made = out / "bundle.draft", out / "bundle.made"
    for unfinished in (draft, made):
        remove(unfinished)
    write_bundle(draft, manifest, files)
    params, tables = decide_on_exams(
        draft,
        DecisionParams.from_manifest(manifest),
        old.preprocessing,
        PhantomRecipe(0, exams, max(1, exams // 4), max(1, 3 * exams // 2)),
        out / f"exams-{hashlib.sha256(files[MODEL_FILE]).hexdigest()[:12]}",  # another model's traces are another model's
        threads,
        progress,
    )
    manifest = replace(manifest, decision=params.to_manifest(), evidence=(*manifest.evidence, *tables))
    write_bundle(made, manifest, {**files, CARD_FILE: model_card(manifest, REFERENCE).encode()})
    made.rename(out / "bundle")
    remove(draft)
    return tables


def _grafted(base: onnx.ModelProto, adapted: Adapted, cooled: Calibration, raised: float) -> onnx.ModelProto:
    """`base`, a graph of the bundle it starts from, with the new heads, its log-odds of a hygroma raised."""
    fitted = adapted.hygroma.fitted
    shifted = replace(fitted.reading, bias=fitted.reading.bias + raised)
    made = with_hygroma(base, fitted.gain / cooled.hygroma_temperature, shifted)
    if adapted.plane is not None:
        own = adapted.plane.fitted
        made = with_plane(made, own.gain / cooled.plane_temperature, own.reading)
    return made


def assessable_table(assessable: np.ndarray, site: Site) -> EvidenceTable:
    rows = []
    for plane, split in ((STANDARD, "standard planes"), (OTHER, "other planes"), (UNLABELLED, "planes not labelled")):
        mine = site.planes == plane
        if mine.any():
            share = metrics.proportion(int(assessable[mine].sum()), int(mine.sum()))
            rows.append(EvidenceRow("called assessable", split, share.n, share.value, share.low, share.high))
    return EvidenceTable(
        "site's images, called assessable",
        "real",
        "How many of the site's images the device would assess, by plane head and distance from the training images; the others "
        "it would call not assessable, and raise no flag on.",
        tuple(rows),
    )


def kept_tables(start: Bundle) -> list[EvidenceTable]:
    return [
        replace(t, description=f"Of {start.label}, whose trunk and plane head are kept: {t.description}")
        for t in start.manifest.evidence
        if t.name in PLANE_TABLES
    ]


def site_provenance(start: Bundle, site: Site, hygroma: Head, plane: Head | None, frozen: str) -> Provenance:
    """`frozen`: why the plane head was kept."""
    old = start.manifest.provenance
    n, positives = len(hygroma.keep), int(site.labels[hygroma.keep].sum())
    patients = len({site.groups[i] for i in hygroma.keep}) if site.data.patients_known else 0
    sites = len({site.data.images[i].site for i in hygroma.keep})
    heads = "hygroma head" if plane is None else "both heads"
    untrue = (NO_HYGROMA, LESION_LIMIT, *(() if plane is None else (CUT_LIMIT, CUT_LIMIT_OF_OLD)))
    limits = [text for text in old.limits if text not in untrue]
    own = [
        f"The hygroma head was fitted on {n} images of {'one site' if sites == 1 else f'{sites} sites'}, {positives} of them in "
        "the positive folder"
        + (f", {patients} patients" if patients else "; nobody said whose they are, so one patient may be in two folds")
        + ". Whether the folders are right nobody here has checked.",
        f"The plane head was fitted on the site's {len(plane.keep)} planes; what it does on other anatomy was not measured again."
        if plane
        else f"The plane head is that of {start.label}, frozen: {frozen}.",
    ]
    if site.others:
        left = ", ".join(f"{k} {v}" for k, v in sorted(site.others.items()))
        own.append(f"Images left out, since the device would not score them, by what it reads: {left}.")
    return replace(
        old,
        data=(
            *old.data,
            DataSource(
                SITE_IMAGES,
                heads,
                len(site.labels),
                "the site's own; none travels with the bundle",
                "the site that made this bundle",
                "cut to the fan, grey, letterboxed, as the device does",
            ),
        ),
        recipe=_cut(
            f"hygroma adapt {edge.__version__} from {start.label}: {heads} fitted anew, anchored on what they said (gain "
            f"{hygroma.fitted.gain:.3f}, strength {hygroma.fitted.strength:g} of the hygroma head), phantoms beside. Before: "
            f"{old.recipe}"
        ),
        quantisation=_cut(
            "The INT8 graph is that of the bundle it starts from, to the bit, but for its float heads; the gate's reference is "
            f"the same graph without rounding, since a bundle holds no other weights; the adapted log-odds are raised by "
            f"{hygroma.raised:.3f} for what rounding takes. There: {old.quantisation}"
        ),
        limits=(*own, *limits),
    )


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 4] + " ..."
