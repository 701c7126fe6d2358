"""A model whose weights lie in another file is no part of a bundle: the file that counts then is whatever lies in the working
directory, and no hash covers it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes.bundle_parts import fake_files, fake_manifest

from edge.bundle import ANYONE, load_bundle, write_bundle
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.errors import BundleError
from edge.onnx_bytes import has_external_data

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper


def external(name: str = "w") -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    return tensor


def graph(nodes: list, tensors: list) -> object:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    return helper.make_graph(nodes, "g", [], [out], tensors)


def models() -> dict[str, object]:
    constant = helper.make_node("Constant", [], ["y"], value=external("c"))
    inner = graph([constant], [])
    branch = helper.make_node("If", ["t"], ["y"], then_branch=inner, else_branch=inner)
    plain = numpy_helper.from_array(np.ones(3, np.float32), "w")
    function = helper.make_function("own", "f", [], ["y"], [constant], [helper.make_opsetid("", 20)])
    sparse = helper.make_sparse_tensor(external("v"), numpy_helper.from_array(np.zeros(3, np.int64)), [9])
    held = graph([], [])
    held.sparse_initializer.append(sparse)  # type: ignore[attr-defined]
    return {
        "initializer": helper.make_model(graph([helper.make_node("Identity", ["w"], ["y"])], [plain, external("x")])),
        "constant": helper.make_model(graph([constant], [plain])),
        "subgraph": helper.make_model(graph([branch], [plain])),
        "function": helper.make_model(graph([], [plain]), functions=[function]),
        "sparse": helper.make_model(held),
    }


@pytest.mark.requirement("B-06")
@pytest.mark.parametrize("where", list(models()))
def test_weights_in_another_file_are_refused_wherever_they_are(tmp_path: Path, where: str) -> None:
    data = models()[where].SerializeToString()  # type: ignore[attr-defined]
    assert has_external_data(data)
    with pytest.raises(BundleError, match="model.onnx: its weights lie in another file"):
        write_bundle(tmp_path / "bundle", fake_manifest(), {**fake_files(), "model.onnx": data})  # reads what it wrote
        load_bundle(tmp_path / "bundle", ANYONE)


def test_whole_models_are_taken() -> None:
    assert not has_external_data(load_bundle(SHIPPED_BUNDLE).model)
