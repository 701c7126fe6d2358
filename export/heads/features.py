"""What a student's trunk shows its heads, as PyTorch computes it and as its INT8 graph does: heads that are fitted on both do not
rely on what rounding changes.

Rounding moves a feature by about a twentieth of its spread, and a head fitted without it may weigh features of which the
rounding adds up: the decisions of 2 % of stills then differ between PyTorch and INT8 (plane head of bundle 0.5.0, n = 1,208).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from torch import Tensor

from export.int8.onnx_graph import build_float_graph
from export.int8.ort_graph import probing_session
from export.int8.quantize import BATCH, collect_histograms, quantize
from export.int8.smoothquant import input_peaks, smooth
from export.model.vit import ViTConfig

PLANE, HYGROMA = "plane_head", "hygroma_head"  # the heads: of which of them the input is read
# What `quantize_best` chose for most students of the shipped recipe. Which one it will choose for this student depends on the
# heads, which are fitted here; the rounding of any of them lies in much the same directions.
ALPHA, METHOD = 0.8, "minmax"


class HeadInputs:
    """Reads the inputs of a student's heads, of crops uint8 [S,S] each."""

    def __init__(self, float_graph: onnx.ModelProto, int8_graph: onnx.ModelProto, threads: int = 1):
        self._inputs = {head: _input_of(float_graph, head) for head in (PLANE, HYGROMA)}
        self._float, self._int8 = (
            probing_session(graph, list(self._inputs.values()), threads) for graph in (float_graph, int8_graph)
        )

    @classmethod
    def by_student(
        cls, state: Mapping[str, Tensor], config: ViTConfig, calibration: np.ndarray, threads: int = 1
    ) -> HeadInputs:
        """state: of HygromaViT(config), whatever its heads are. calibration: uint8 [N,1,S,S] of training images, for the
        ranges; InputError when there is none."""
        graph = build_float_graph(smooth(state, config, input_peaks(state, config, calibration), ALPHA), config)
        limits = {name: h.limit(METHOD) for name, h in collect_histograms(graph, calibration, threads).items()}
        return cls(graph, quantize(graph, limits), threads)

    def __call__(self, head: str, crops: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What the head named PLANE or HYGROMA is shown, float32 [N,D], and what rounding adds to it, float32 [N,D]."""
        name = self._inputs[head]
        batches = [np.stack(crops[i : i + BATCH])[:, None] for i in range(0, len(crops), BATCH)]
        features, rounded = (
            np.concatenate([session.run([name], {"image": batch})[0].reshape(len(batch), -1) for batch in batches])
            for session in (self._float, self._int8)
        )
        return features, rounded - features


def _input_of(graph: onnx.ModelProto, head: str) -> str:
    """The tensor that a head of `build_float_graph` reads."""
    return next(str(node.output[0]) for node in graph.graph.node if node.name == f"{head}.concat")
