"""Float graph + calibration crops -> `model.qdq.onnx`, the canonical INT8 graph.

Quantised: the products with constant weights inside blocks, nothing else. Weights are signed per-channel int8, stored
as such; activations signed per-tensor int8, zero-point 0, on the products' inputs only; biases, heads, LayerNorm,
softmax, GELU, the attention products and the patch convolution stay float. That is the form TensorRT takes, and the one
that flips fewest images (docs/design.md#quantisation).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from edge.engines.runner import RawOutputs
from edge.engines.selftest import sigmoid
from edge.errors import InputError
from export.int8.onnx_graph import OPSET, build_float_graph
from export.int8.ort_graph import probing_session, run_graph
from export.int8.smoothquant import State, input_peaks, smooth
from export.model.vit import ViTConfig

UNSIGNED = (TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64)
# Operators that are quantised themselves: ONNX Runtime's ways, which TensorRT does not take.
SELF_QUANTISED = ("DynamicQuantizeLinear", "QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger")
BLOCK_PREFIX = "blocks."  # MatMuls with constant weights under this name are quantised
LEVELS = 127  # of int8, symmetric: -127..127 (TensorRT and the graph agree on a grid without -128 for weights)
BINS = 4096  # of |activation|: one bin is 1/32 of a step at full range
BATCH = 8  # crops a call: bounds the memory held by activations
PERCENTILES = (99.9, 99.99, 99.999)  # share of |activation| kept, per cent
METHODS = ("minmax", *(f"percentile{p}" for p in PERCENTILES), "entropy", "mse")
TRIED = np.linspace(0.05, 1.0, 96)  # of the range: the limits that entropy and mse choose from
# SmoothQuant strengths tried; 0 is none. On the 0.1 student (six blocks, 160 px; 160 held-out crops) the root mean square
# change of the hygroma probability was .026 at 0, .009 at .5, .007 at .65 and .009 at .8, each with mse ranges.
ALPHAS = (0.0, 0.5, 0.65, 0.8)


@dataclass(frozen=True)
class FloatModel:
    """What an INT8 form is made of: a float model, state of HygromaViT(config), and two disjoint sets of training crops uint8
    [N,1,S,S], `calibration` for the ranges and `selection` for choosing how they are taken. threads: of ONNX Runtime."""

    state: Mapping[str, Tensor]
    config: ViTConfig
    calibration: np.ndarray
    selection: np.ndarray
    threads: int = 1


@dataclass(frozen=True)
class Histogram:
    """Counts [BINS] of |x| over [0, top], for one activation tensor."""

    top: float
    counts: np.ndarray

    def limit(self, method: str) -> float:
        """The largest |x| that int8 should represent, by one of METHODS. Always > 0."""
        if self.top <= 0:
            return 1.0  # an activation that is always zero: any scale represents it
        if method == "minmax":
            return self.top
        if method == "mse":
            return self._mse_limit()
        if method == "entropy":
            return self._entropy_limit()
        share = float(method.removeprefix("percentile")) / 100
        cumulative = np.cumsum(self.counts) / self.counts.sum()
        return float((np.searchsorted(cumulative, share) + 1) / BINS * self.top)

    def _mse_limit(self) -> float:
        """The limit in TRIED whose int8 grid has the least mean squared error on the histogram."""
        centres = (np.arange(BINS) + 0.5) / BINS * self.top
        candidates = TRIED * self.top
        steps = candidates[:, None] / LEVELS
        rounded = np.minimum(np.round(centres / steps), LEVELS) * steps
        return float(candidates[np.argmin((np.square(rounded - centres) * self.counts).sum(1))])

    def _entropy_limit(self) -> float:
        """The limit in TRIED that loses least information (Migacz, "8-bit inference with TensorRT", GTC 2017): the least
        Kullback-Leibler divergence of the clipped histogram, its outliers in the last bin, from what int8 leaves of it
        without them."""
        bins = np.rint(TRIED * BINS).astype(int)
        return float(bins[np.argmin([self._divergence(kept) for kept in bins])] / BINS * self.top)

    def _divergence(self, kept: int) -> float:
        """In nats, of the first `kept` bins; infinite when they are empty."""
        inside = self.counts[:kept].astype(np.float64)
        if not inside.any():
            return float("inf")
        clipped = inside.copy()
        clipped[-1] += self.counts[kept:].sum()
        level = np.minimum(np.rint((np.arange(kept) + 0.5) / kept * LEVELS), LEVELS).astype(int)
        filled = inside > 0
        share = np.bincount(level, inside) / np.maximum(np.bincount(level, filled), 1)  # of each filled bin of a level
        quantised = np.where(filled, share[level], 0)
        quantised = np.maximum(quantised, 0.5)  # counts: what an empty bin that outliers fill is taken to hold
        seen = clipped > 0
        p, q = clipped[seen] / clipped.sum(), quantised[seen] / inside.sum()
        return float((p * np.log(p / q)).sum())


@dataclass(frozen=True)
class Choice:
    """What `quantize_best` chose and why: `errors` maps each (alpha, method) to its held-out error (see `agreement_error`).
    state: the smoothed state that `model` was made of; limits: the largest |x| represented, by tensor name. finetuned: how
    its weights were trained with rounding afterwards (export/int8/qat.py), "" when they were not. raised: the constant
    added to the graph's hygroma logit (export/int8/log_odds_shift.py), 0 or more."""

    model: onnx.ModelProto
    alpha: float
    method: str
    errors: dict[tuple[float, str], float]
    state: State
    limits: dict[str, float]
    finetuned: str = ""
    raised: float = 0.0

    def described(self) -> str:
        """For the bundle's provenance: the choice, and the error of the best method at each alpha."""
        best = {a: min((e, m) for (alpha, m), e in self.errors.items() if alpha == a) for a, _ in self.errors}
        tried = ", ".join(f"alpha {a:g} {m} {e:.5f}" for a, (e, m) in best.items())
        trained = f", then weights fine-tuned with rounding, {self.finetuned}" if self.finetuned else ""
        why = (
            "the 97.5th centile of the falls that rounding made" if self.raised else "since rounding made hardly any fall"
        )
        shift = f"; the log-odds of a hygroma raised by {self.raised:.3f}, {why} on training crops near even odds"
        return (
            f"SmoothQuant with alpha {self.alpha:g}, ranges by {self.method} (error of the best at each alpha: {tried})"
            f"{shift}{trained}"
        )


def block_linears(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The MatMul nodes to quantise: in blocks, with a constant weight (float initialiser or dequantised int8)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants}
    return [
        n
        for n in model.graph.node
        if n.op_type == "MatMul" and n.name.startswith(BLOCK_PREFIX) and n.input[1] in constants
    ]


def linear_limits(model: onnx.ModelProto, limits: Mapping[str, float]) -> dict[str, float]:
    """Limits by tensor name -> by the name of the block linear that reads the tensor."""
    return {node.name: limits[node.input[0]] for node in block_linears(model)}


def collect_histograms(model: onnx.ModelProto, crops: np.ndarray, threads: int = 1) -> dict[str, Histogram]:
    """Run the float graph on calibration crops uint8 [N,1,S,S] and histogram the inputs of its block linears, by tensor
    name.

    Two passes, so that the bins cover exactly what occurs: the result does not depend on the order of the crops.
    InputError when there is none.
    """
    _require_crops(crops)
    tensors = sorted({n.input[0] for n in block_linears(model)})
    session = probing_session(model, tensors, threads)
    batches = [crops[i : i + BATCH] for i in range(0, len(crops), BATCH)]
    tops = dict.fromkeys(tensors, 0.0)
    for batch in batches:
        for name, value in zip(tensors, session.run(tensors, {"image": batch}), strict=True):
            tops[name] = max(tops[name], float(np.abs(value).max()))
    counts = {name: np.zeros(BINS, np.int64) for name in tensors}
    for batch in batches:
        for name, value in zip(tensors, session.run(tensors, {"image": batch}), strict=True):
            if tops[name] > 0:
                bins = np.minimum((np.abs(value) * (BINS / tops[name])).astype(np.int32), BINS - 1)
                counts[name] += np.bincount(bins.ravel(), minlength=BINS)
    return {name: Histogram(tops[name], counts[name]) for name in tensors}


def _require_crops(crops: np.ndarray) -> None:
    if len(crops) == 0:
        raise InputError("calibration crops: found none; give 32 to 500 crops of training images")


def quantize(
    model: onnx.ModelProto, limits: Mapping[str, float], kept_float: Collection[str] = frozenset()
) -> onnx.ModelProto:
    """Float graph + the largest |x| of each block linear's input, by tensor name -> the canonical INT8 graph.

    kept_float: names of block linears that stay float (see export/report/sensitivity.py)."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    linears = {n.name for n in block_linears(out)} - set(kept_float)
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero_point")
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = [zero]
    replaced: set[str] = set()
    done: dict[str, str] = {}  # activation -> its dequantised form, so that a shared input is quantised once
    for node in graph.node:
        if node.name in linears:
            activation, weight = node.input[0], node.input[1]
            if activation not in done:
                scale = numpy_helper.from_array(
                    np.array(limits[activation] / LEVELS, np.float32), f"{activation}.scale"
                )
                added.append(scale)
                q, dq = f"{activation}.q", f"{activation}.dq"
                nodes.append(helper.make_node("QuantizeLinear", [activation, scale.name, zero.name], [q], name=q))
                nodes.append(helper.make_node("DequantizeLinear", [q, scale.name, zero.name], [dq], name=dq))
                done[activation] = dq
            stored = quantize_weight(weights[weight], weight)
            added.extend(stored)
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", [t.name for t in stored], [f"{weight}.dq"], name=f"{weight}.dq", axis=1
                )
            )
            replaced.add(weight)
            node.input[0], node.input[1] = done[activation], f"{weight}.dq"
        nodes.append(node)
    kept = [tensor for tensor in graph.initializer if tensor.name not in replaced]
    if not replaced:
        added = []  # every linear kept float: the float graph
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept + added)
    onnx.checker.check_model(out, full_check=True)
    return out


def quantize_weight(weight: np.ndarray, name: str) -> tuple[onnx.TensorProto, onnx.TensorProto, onnx.TensorProto]:
    """float32 [K_in,K_out] -> int8 initialiser, per-output scales float32 [K_out], zero-points int8 [K_out] (all 0)."""
    top = np.abs(weight).max(0)
    scale = np.where(top > 0, top / LEVELS, 1.0).astype(np.float32)  # a dead output: any scale represents its zeros
    values = np.clip(np.rint(weight / scale), -LEVELS, LEVELS).astype(np.int8)
    return (
        numpy_helper.from_array(values, f"{name}.int8"),
        numpy_helper.from_array(scale, f"{name}.scale"),
        numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}.zero_point"),
    )


def agreement_error(reference: RawOutputs, found: RawOutputs) -> float:
    """How far a quantised graph is from the float one on held-out crops: root mean square difference of both heads'
    probabilities, plus a tenth of the embedding's relative error (out-of-distribution distances rest on it; it also
    breaks ties of saturated heads)."""
    dp = np.concatenate(
        [sigmoid(found.hygroma) - sigmoid(reference.hygroma), sigmoid(found.plane) - sigmoid(reference.plane)]
    )
    gap = np.linalg.norm(found.embedding - reference.embedding) / np.linalg.norm(reference.embedding)
    return float(np.sqrt(np.mean(np.square(dp))) + 0.1 * gap)


def quantize_best(
    state: Mapping[str, Tensor],
    config: ViTConfig,
    calibration: np.ndarray,
    heldout: np.ndarray,
    alphas: Sequence[float] = ALPHAS,
    methods: Sequence[str] = METHODS,
    threads: int = 1,
) -> Choice:
    """Try every smoothing with every range method; keep the one that agrees best with the float graph on `heldout`.

    state: of HygromaViT(config). calibration, heldout: uint8 [N,1,S,S] crops of training images, disjoint; neither may
    come from images that evidence is measured on. InputError when there is no calibration crop.
    """
    _require_crops(calibration)
    reference = run_graph(build_float_graph(state, config), heldout, threads)
    peaks = input_peaks(state, config, calibration)
    errors: dict[tuple[float, str], float] = {}
    best: Choice | None = None
    for alpha in alphas:
        smoothed = smooth(state, config, peaks, alpha) if alpha else dict(state)
        graph = build_float_graph(smoothed, config)
        histograms = collect_histograms(graph, calibration, threads)
        for method in methods:
            limits = {name: h.limit(method) for name, h in histograms.items()}
            candidate = quantize(graph, limits)
            error = agreement_error(reference, run_graph(candidate, heldout, threads))
            if best is None or error < min(errors.values()):
                best = Choice(candidate, alpha, method, errors, smoothed, limits)
            errors[alpha, method] = error
    if best is None:
        raise ValueError("quantize_best: no alpha or no method to try")
    return best


def _unsigned_inside(model: onnx.ModelProto) -> list[str]:
    """Names of the unsigned tensors that nodes make, and of unsigned inputs beside the first."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*list(graph.input)[1:], *graph.value_info, *graph.output]
    return [value.name for value in values if value.type.tensor_type.elem_type in UNSIGNED]


def lint_qdq(model: onnx.ModelProto, kept_float: Collection[str] = frozenset()) -> list[str]:
    """What keeps `model` from being a canonical graph; empty when it is one. kept_float: the block linears meant to be float.

    Checked: opset 17 and no operator but ONNX's own, none that is quantised itself; every quantiser is signed int8 with
    zero-point 0 and finite scales above 0; weights per channel, activations per tensor; no quantised bias; nothing unsigned but
    the input; every block linear has both sides quantised and nothing else is.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    linears = {n.name for n in block_linears(model)}
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    problems = [] if opsets == {"ai.onnx": OPSET} else [f"opsets {opsets}; expected ai.onnx {OPSET} alone"]
    problems += [
        f"{n.name}: {n.op_type}; only QuantizeLinear and DequantizeLinear may quantise"
        for n in graph.node
        if n.op_type in SELF_QUANTISED
    ]
    problems += [f"initialiser {t.name} is unsigned" for t in graph.initializer if t.data_type in UNSIGNED]
    if opsets == {"ai.onnx": OPSET}:  # of another one the types are not known
        problems += [f"{name} is unsigned; only the image may be" for name in _unsigned_inside(model)]
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if (
            len(node.input) != 3
            or node.input[2] not in constants
            or constants[node.input[2]].data_type != TensorProto.INT8
        ):
            problems.append(f"{node.name}: zero-point must be a constant int8")
        elif np.any(numpy_helper.to_array(constants[node.input[2]])):
            problems.append(f"{node.name}: zero-point must be 0")
        weight = node.op_type == "DequantizeLinear" and node.input[0] in constants
        if weight and constants[node.input[0]].data_type != TensorProto.INT8:
            problems.append(f"{node.name}: only int8 weights may be dequantised; a bias must stay float")
        scale = constants.get(node.input[1])
        if scale is None or len(scale.dims) != (1 if weight else 0):
            problems.append(f"{node.name}: scale must be constant, {'per channel' if weight else 'per tensor'}")
        elif weight and [a.i for a in node.attribute if a.name == "axis"] not in ([], [1]):
            problems.append(f"{node.name}: its scales must be of the weight's columns, axis 1")
        elif not (np.isfinite(values := numpy_helper.to_array(scale)) & (values > 0)).all():
            problems.append(f"{node.name}: every scale must be finite and above 0")
        if node.op_type == "DequantizeLinear":
            for user in consumers.get(node.output[0], []):
                side = list(user.input).index(node.output[0])
                if user.name not in linears or side != (1 if weight else 0):
                    problems.append(
                        f"{node.name}: feeds {user.name}; only the two sides of block linears may be quantised"
                    )
    problems += [f"{name}: to be kept in float, but no such block linear" for name in kept_float if name not in linears]
    for node in graph.node:
        if node.name in linears:
            for side in (0, 1):
                source = producers.get(node.input[side])
                quantised = source is not None and source.op_type == "DequantizeLinear"
                if quantised == (node.name in kept_float):
                    problems.append(f"{node.name}: input {side} is {'' if quantised else 'not '}quantised")
    return problems
