"""bundle: the refit as a draft, whose phantom exams fit the decision; then the bundle, the draft with what was fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from calibration.bank import Bank
from edge.bundle import Bundle, write_bundle
from edge.bundle.manifest import CARD_FILE, NUCHAL_MAP, PLANE, Calibration, EvidenceTable, ModelInfo, Provenance
from edge.decision.params import DecisionParams
from edge.errors import GateError
from export.bundle import Ingredients, assemble_bundle
from export.int8.quantize import Choice, FloatModel
from export.model.heads import REPORTED, Head
from export.phantoms import Progress, decide_on_exams, golden_crops
from export.recipe import Recipe
from export.report.controls import controls_table
from export.report.evidence import HeldOut, operating_point, shipped_threshold, thickness_table
from export.report.framing import framing_table
from export.report.gate import also_failing
from export.report.model_card import model_card
from export.report.other_anatomy import other_anatomy_table
from export.report.records import Report
from export.report.validate import evidence_tables, failures
from export.stages.crops import REFIT, Crops
from export.stages.given import open_given

GOLDEN_CROPS = 64
ANOTHER_GRAPH = (
    "The evidence on images is of the quantize stage's graphs, from which this one differs; the gate and the phantom exams are "
    "of this one."
)


def out_of_fold(report: Report, heads: Sequence[Head], accept_failing_gate: bool) -> list[str]:
    """Why the conversions of the heads that may refuse a bundle fail out of fold, fold by fold and pooled: GateError unless
    accepted."""
    wanted = {f"{head.called}, folds" for head in heads if head.gated != REPORTED}
    judged = [part for part in report["sets"] if part["name"] in wanted]
    if (found := [why for part in judged for why in failures(part, flipped=True)]) and not accept_failing_gate:
        raise GateError(
            f"the INT8 conversion failed its gate out of fold: {'; '.join(found)}. Fine-tune with rounding "
            "(`qat: {when: always}` in the recipe), or accept it with --accept-failing-gate (recorded in the manifest)"
        )
    return [why for part in judged for why in failures(part)]


def tables(report: Report) -> list[EvidenceTable]:
    """The report's figures as the manifest's evidence."""
    found = (
        *evidence_tables(report),
        controls_table(report["controls"]),
        thickness_table(report["thickness"], report["increased"]),
        other_anatomy_table(report["unfamiliar"]),
        framing_table(report["framing"]),
    )
    return [table for table in found if table is not None]


def ingredients(
    recipe: Recipe,
    student: FloatModel,
    crops: Crops,
    folds: HeldOut,
    judged: Sequence[Head],
    origin: Provenance,
    evidence: Sequence[EvidenceTable],
    finetune: Callable[[Choice], Choice],
) -> Ingredients:
    """What the refit's bundle is made of. folds choose its thresholds, of the heads `judged`. finetune: with rounding, if the
    recipe says so."""
    c = student.config
    familiar = crops.familiar()
    return Ingredients(
        student=student,
        model=ModelInfo(
            recipe.name, recipe.version, f"ViT, {c.depth} blocks, width {c.width}, {c.image} px, patch {c.patch}"
        ),
        preprocessing=crops.spec,
        operating_point=operating_point(folds, judged),
        absent=absent(crops.bank, student.state),
        others={head.name: shipped_threshold(folds, "student", head) for head in c.others},
        temperatures=Calibration(1.0, 1.0),
        decision=_start_of_decision(recipe),
        provenance=origin,
        evidence=evidence,
        judged=crops.judged(REFIT),
        assessable=familiar.assessable,
        typical=familiar.typical,
        folds=familiar.folds,
        gate=crops.labelled(REFIT),
        # Golden images ship with the bundle: phantoms only, so that no real image travels with it.
        golden=golden_crops(GOLDEN_CROPS, crops.spec)[:, None],
        finetune=None if recipe.qat.when == "never" else finetune,
        finetune_always=recipe.qat.when == "always",
    )


def absent(bank: Bank, state: Mapping[str, torch.Tensor]) -> list[str]:
    """The outputs of a student that nothing was learned for: a plane head that says yes to everything (`NO_PLANE_HEAD`), a map
    without a box in any picture of real pixels."""
    boxes = any(entry.box is not None for entry in bank.entries if entry.source != "phantom")
    return [*([] if state["plane_head.weight"].any() else [PLANE]), *([] if boxes else [NUCHAL_MAP])]


def _start_of_decision(recipe: Recipe) -> dict[str, float]:
    """What is fitted on phantom exams, or stays where there are none: the given bundle's, else the usual one."""
    if recipe.given and not recipe.phantom.fitting_exams:
        return dict(open_given(recipe.given).manifest.decision)
    return DecisionParams().to_manifest()


def drafted(path: Path, found: Ingredients, accept_failing_gate: bool, progress: Progress) -> Bundle:
    """The bundle at `path` with default decision parameters."""
    return assemble_bundle(path, found, accept_failing_gate, progress=lambda stage: progress(f"bundle: {stage}", 0, 1))


def decided(
    path: Path,
    draft: Path,
    found: Bundle,
    reasons: Sequence[str],
    judged: onnx.ModelProto,
    recipe: Recipe,
    exams: Path,
    progress: Progress,
) -> None:
    """Write to `path` the bundle `found`, which lies at `draft`, with decision parameters fitted on exams that it scored; their
    traces are kept in the folder `exams`. reasons: why the conversion fails elsewhere; judged: the graph that the report's
    figures are of."""
    base, origin = DecisionParams.from_manifest(found.manifest), found.manifest.provenance
    params, measured = decide_on_exams(
        draft, base, found.manifest.preprocessing, recipe.phantom, exams, recipe.threads, progress
    )
    if onnx.load_from_string(found.model) != judged:
        origin = replace(origin, quantisation=f"{origin.quantisation} {ANOTHER_GRAPH}")
    manifest = replace(
        found.manifest,
        decision=params.to_manifest(),
        evidence=(*found.manifest.evidence, *measured),
        gate=also_failing(found.manifest.gate, reasons),
        provenance=origin,
    )
    write_bundle(path, manifest, {**found.files, CARD_FILE: model_card(manifest).encode()})
