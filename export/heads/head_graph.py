"""The heads inside a bundle's graph: what they say of features, and the same graph with others. All else stays to the bit."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edge.errors import InputError
from export.heads.features import HYGROMA, PLANE
from export.heads.fit import Reading

HIDDEN, OUTPUT = f"{HYGROMA}.0", f"{HYGROMA}.2"


def plane_said(graph: onnx.ModelProto, features: np.ndarray) -> np.ndarray:
    """Log-odds [N] that the plane head gives features [N,D]."""
    return (features @ _weight(graph, PLANE) + _bias(graph, PLANE))[:, 0]


def hygroma_said(graph: onnx.ModelProto, features: np.ndarray) -> np.ndarray:
    """Log-odds [N] that the hygroma head gives features [N,D]."""
    from scipy.special import erf

    hidden = features @ _weight(graph, HIDDEN) + _bias(graph, HIDDEN)
    return (hidden * (1 + erf(hidden / np.sqrt(2))) / 2 @ _weight(graph, OUTPUT) + _bias(graph, OUTPUT))[:, 0]


def with_plane(graph: onnx.ModelProto, gain: float, reading: Reading) -> onnx.ModelProto:
    """The graph whose plane head says gain x what it said + `reading` of the features [D]."""
    weight = gain * _weight(graph, PLANE) + reading.weight[:, None]
    return _replaced(graph, {f"{PLANE}.weight": weight, f"{PLANE}.bias": gain * _bias(graph, PLANE) + reading.bias})


def with_hygroma(graph: onnx.ModelProto, gain: float, reading: Reading) -> onnx.ModelProto:
    """The graph whose hygroma head says gain x what it said + `reading` of the first features it sees, with two of its idle
    hidden units: GELU(x) - GELU(-x) = x. InputError when it has none left."""
    hidden, output = _weight(graph, HIDDEN).copy(), gain * _weight(graph, OUTPUT)
    bias = _bias(graph, HIDDEN).copy()
    idle = np.flatnonzero((np.abs(hidden).max(0) == 0) & (output[:, 0] == 0))
    if len(idle) < 2:
        raise InputError(
            f"{HYGROMA}: {len(idle)} of {hidden.shape[1]} hidden units are idle, two are needed; start from a bundle of "
            "hygroma-edge 0.5 or newer"
        )
    for unit, sign in zip(idle[:2], (1.0, -1.0), strict=True):
        hidden[: len(reading.weight), unit] = sign * reading.weight
        bias[..., unit] = 0.0
        output[unit] = sign
    values = {f"{HIDDEN}.weight": hidden, f"{HIDDEN}.bias": bias, f"{OUTPUT}.weight": output}
    return _replaced(graph, {**values, f"{OUTPUT}.bias": gain * _bias(graph, OUTPUT) + reading.bias})


def _weight(graph: onnx.ModelProto, head: str) -> np.ndarray:
    return _constant(graph, f"{head}.weight")


def _bias(graph: onnx.ModelProto, head: str) -> np.ndarray:
    """float64 [1,K]."""
    return _constant(graph, f"{head}.bias").reshape(1, -1)


def _constant(graph: onnx.ModelProto, name: str) -> np.ndarray:
    for tensor in graph.graph.initializer:
        if tensor.name == name:
            return np.asarray(numpy_helper.to_array(tensor), np.float64)
    raise InputError(f"graph: has no {name}; start from a bundle that hygroma-edge made")


def _replaced(graph: onnx.ModelProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(graph)
    for tensor in out.graph.initializer:
        if tensor.name in values:
            value = values[tensor.name].astype(np.float32).reshape(tuple(tensor.dims))
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return out
