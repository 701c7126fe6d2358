"""From a trained student to a bundle: float graph, INT8 graph, gate, golden vectors, embedding statistics, card,
manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from edge.bundle import Bundle, write_bundle
from edge.bundle.arrays import GoldenVectors, pack_golden, pack_ood
from edge.bundle.manifest import (
    CARD_FILE,
    GOLDEN_FILE,
    MODEL_FILE,
    OOD_FILE,
    Calibration,
    EvidenceTable,
    GateResult,
    Golden,
    Heads,
    InputSpec,
    Manifest,
    ModelInfo,
    Ood,
    OperatingPoint,
    Provenance,
    Tolerance,
)
from edge.engines.runner import Runner
from edge.engines.selftest import difference, infer_all, sigmoid
from edge.errors import BundleError, GateError, InputError
from edge.screen.preprocess import Preprocessing
from export.heads.ood import KEPT, distance_limit, fit_ood, left_out_distances
from export.int8.convert import Converted, convert
from export.int8.log_odds_shift import ShiftCrops, quantize_shifted
from export.int8.ort_graph import optimised_graph, run_graph
from export.int8.quantize import Choice, FloatModel, lint_qdq
from export.model.torch_runner import TorchRunner
from export.model.vit import ViTConfig
from export.report.gate import DEFAULT_LIMITS, GateLimits, gate
from export.report.model_card import model_card

MIN_GOLDEN = 64  # images (docs/design.md#bundle)
MAX_BYTES = 15_000_000  # of a bundle that is shipped (docs/design.md#bundle)

# A tolerance is what the canonical graph itself differs by, widened, plus a floor. Another engine rounds at other
# places, which moves some activations by one INT8 step: about as much again as quantising did. The floor keeps a lucky
# golden set from being too strict.
TOLERANCE_FACTOR = 2.0
TOLERANCE_FLOOR = Tolerance(probability=0.02, embedding=0.02, map=0.05)


@dataclass(frozen=True)
class LabelledCrops:
    """Crops uint8 [N,1,S,S], labels {0,1} [N] (1: hygroma), ids [N] (names for messages)."""

    crops: np.ndarray
    labels: np.ndarray
    ids: Sequence[str]


@dataclass(frozen=True)
class Ingredients:
    """Everything a bundle is made of. All crops are uint8 [N,1,S,S], made by `edge.screen.preprocess`.

    student: with 32-500 training images for INT8 ranges, and as many others to choose the range method on. judged: training
    images that the hygroma head judges, for the logit offset (int8/log_odds_shift.py). assessable: training images of assessable
    planes, for the embedding statistics. typical: held-out images of the same sort, an array a source; the distance that
    `ood_quantile` of every source stay under becomes the threshold. folds: of `assessable`, where nothing was held out
    (`left_out_distances`). gate: held-out, labelled, for the gate.
    golden: at least 64 held-out images of every sort, for the self-test.
    others: the thresholds of the heads besides plane and hygroma, by name. absent: outputs that nothing was learned for.
    finetune: quantisation-aware fine-tuning, None for none; done where nothing else passes the gate, or always.
    """

    student: FloatModel
    model: ModelInfo
    preprocessing: Preprocessing
    operating_point: OperatingPoint
    temperatures: Calibration
    decision: Mapping[str, float]
    provenance: Provenance  # its `quantisation` is replaced by what was really done
    evidence: Sequence[EvidenceTable]
    judged: np.ndarray
    assessable: np.ndarray
    typical: Sequence[np.ndarray]
    gate: LabelledCrops
    golden: np.ndarray
    folds: np.ndarray | None = None
    ood_quantile: float = KEPT
    others: Mapping[str, float] = field(default_factory=dict)
    absent: Sequence[str] = ()
    finetune: Callable[[Choice], Choice] | None = None
    finetune_always: bool = False


def assemble_bundle(
    path: str | Path,
    ingredients: Ingredients,
    accept_failing_gate: bool = False,
    limits: GateLimits = DEFAULT_LIMITS,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[str], None] = lambda stage: None,
) -> Bundle:
    """Convert, check, and write the bundle to the new directory (or .tar) `path`. `progress` is told each stage as it
    begins.

    GateError, with the names of the flipped images, when the conversion fails its gate, unless `accept_failing_gate`
    (recorded in the manifest). BundleError when the graph is not canonical or the bundle is larger than `max_bytes`.
    InputError for too few images.
    """
    i, student = ingredients, ingredients.student
    config, threads = student.config, student.threads
    if len(i.golden) < MIN_GOLDEN:
        raise InputError(f"golden crops: found {len(i.golden)}; give at least {MIN_GOLDEN} held-out images")
    progress("INT8 graph")
    shift_crops = ShiftCrops.near(student.state, config, i.judged, threads)
    choice = quantize_shifted(student, shift_crops)
    fallback = i.finetune
    if i.finetune is not None and i.finetune_always:
        progress("quantisation-aware fine-tuning")
        choice, fallback = i.finetune(choice), None
    with TorchRunner(student.state, config) as reference:
        progress("gate")
        temperature, threshold = i.temperatures.hygroma_temperature, i.operating_point.hygroma_threshold
        judge = gate_of(reference, i.gate, threshold, temperature, limits, threads)
        converted = convert(choice, student, shift_crops, judge, fallback)
        model, result = converted.model, converted.gate
        require_canonical(MODEL_FILE, model, config, converted.kept_float)
        if not result.passed and not accept_failing_gate:
            raise GateError(
                f"the INT8 conversion failed its gate: {'; '.join(result.reasons)}. Flipped: "
                f"{', '.join(result.flipped) or 'none'}. Use more calibration images, or accept it with "
                "accept_failing_gate (recorded in the manifest)"
            )
        progress("golden vectors")
        golden = GoldenVectors(i.golden, infer_all(reference, i.golden), run_graph(model, i.golden, threads))

    progress("embedding statistics")
    embeddings = run_graph(model, i.assessable, threads).embedding
    ood = fit_ood(embeddings)
    left_out = None if i.folds is None else left_out_distances(embeddings, i.folds)
    typical = [run_graph(model, crops, threads).embedding for crops in i.typical]
    farthest = distance_limit(ood, typical, i.ood_quantile, left_out)

    quantisation = (
        f"INT8 on {4 * config.depth - len(converted.kept_float)} matrix products: weights signed per channel, inputs signed "
        f"per tensor, everything else float. {_fallback(converted)}{converted.choice.described()}; {len(student.calibration)} "
        f"training crops for the ranges, {len(student.selection)} others for the choice."
    )
    heads = Heads(config.width, config.grid, dict(i.others), tuple(i.absent))
    manifest = Manifest(
        schema_version=heads.schema,
        model=i.model,
        input=InputSpec("image", "uint8", config.image),
        preprocessing=i.preprocessing,
        heads=heads,
        operating_point=i.operating_point,
        calibration=i.temperatures,
        decision=dict(i.decision),
        ood=Ood(farthest),
        golden=golden_tolerances(golden, i.temperatures, converted.choice.raised),
        provenance=replace(i.provenance, quantisation=quantisation),
        evidence=tuple(i.evidence),
        gate=replace(result, accepted_failing=not result.passed),
        files={},
    )
    files = {
        MODEL_FILE: model.SerializeToString(deterministic=True),
        GOLDEN_FILE: pack_golden(golden),
        OOD_FILE: pack_ood(ood),
        CARD_FILE: model_card(manifest).encode(),
    }
    size = sum(map(len, files.values()))
    if size > max_bytes:
        raise BundleError(
            f"{path}: holds {size} bytes; at most {max_bytes} allowed; use fewer golden images or a smaller student"
        )
    progress("writing")
    return write_bundle(path, manifest, files)


def gate_of(
    reference: Runner,
    data: LabelledCrops,
    threshold: float,
    temperature: float = 1.0,
    limits: GateLimits = DEFAULT_LIMITS,
    threads: int = 1,
) -> Callable[[onnx.ModelProto], GateResult]:
    """What holds a conversion, as it runs in ONNX Runtime, against the entered `reference` at its threshold."""
    before = sigmoid(infer_all(reference, data.crops).hygroma / temperature)

    def judge(model: onnx.ModelProto) -> GateResult:
        after = sigmoid(run_graph(model, data.crops, threads).hygroma / temperature)
        return gate(data.labels, before, after, threshold, data.ids, limits)

    return judge


def require_canonical(
    name: str | Path, model: onnx.ModelProto, config: ViTConfig, kept_float: Collection[str] = ()
) -> None:
    """BundleError when the graph, which messages call `name`, is not the form TensorRT takes, or ONNX Runtime does not run it as
    meant. kept_float: the block linears meant to be float."""
    problems = lint_qdq(model, kept_float)
    wanted = 4 * config.depth - len(kept_float)  # qkv, proj, fc1, fc2
    found = optimised_graph(model).int8_linears
    if found != wanted:
        problems.append(f"ONNX Runtime runs {found} of {wanted} block products in INT8")
    if problems:
        raise BundleError(f"{name}: not a canonical graph: {'; '.join(problems)}")


def _fallback(converted: Converted) -> str:
    if converted.corrected:
        return (
            "Plain INT8 missed the gate, so the biases after each branch were corrected on the crops for the ranges. "
        )
    if converted.finetuned:
        return (
            "Plain INT8, corrected biases and float products missed the gate, so the weights were fine-tuned with rounding, "
            "without labels. "
        )
    if converted.kept_float:
        return (
            f"All in INT8 missed the gate, so {', '.join(converted.kept_float)} stayed float: ranked on training crops, "
            "kept float one by one until the gate's images passed. "
        )
    return ""


def golden_tolerances(golden: GoldenVectors, temperatures: Calibration, raised: float) -> Golden:
    """What the self-test allows beside these vectors. raised: the INT8 graph's logit offset (int8/log_odds_shift.py)."""
    # A runner is compared with the INT8 graph, which has the same offset: only what rounding did counts as a difference.
    unshifted = replace(golden.qdq, hygroma=golden.qdq.hygroma - raised)
    return Golden(
        len(golden.inputs),
        fp32=_tolerance(difference(golden.qdq, golden.fp32, temperatures)),
        qdq=_tolerance(difference(unshifted, golden.fp32, temperatures)),
    )


def _tolerance(measured: Tolerance) -> Tolerance:
    def widen(name: str, top: float) -> float:
        widened: float = TOLERANCE_FACTOR * getattr(measured, name) + getattr(TOLERANCE_FLOOR, name)
        return min(top, widened)

    return Tolerance(probability=widen("probability", 1.0), embedding=widen("embedding", 2.0), map=widen("map", 1.0))
