"""What every runner must do: the same tests over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fakes.cuda_fake import FakeDevice, python_module
from fakes.runner_fake import FakeRunner
from fakes.tensorrt_fake import World, make_tensorrt

from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.engines.openvino_runner import OpenVinoRunner, has_openvino
from edge.engines.runner import Runner
from edge.engines.tensorrt.api import describe
from edge.engines.tensorrt.build import BuildOptions, build_plan
from edge.engines.tensorrt.cuda import Cuda, python_caller
from edge.engines.tensorrt.runner import TensorRTRunner
from edge.errors import EngineError
from edge.records import OUTPUT_NAMES, RawOutputs

pytestmark = pytest.mark.kernels


@pytest.fixture(params=["fake", "onnxruntime", "openvino", "tensorrt", "torch"])
def runner(request: pytest.FixtureRequest) -> Runner:
    if request.param == "fake":
        return FakeRunner()
    if request.param == "onnxruntime":
        return OnnxRuntimeRunner(request.getfixturevalue("tiny_int8_graph").SerializeToString())
    if request.param == "openvino":
        need_openvino()
        return OpenVinoRunner(request.getfixturevalue("tiny_int8_graph").SerializeToString())
    if request.param == "tensorrt":
        return fake_tensorrt_runner(request.getfixturevalue("tiny_int8_graph").SerializeToString())
    pytest.importorskip("torch")
    from export.model.torch_runner import TorchRunner

    return TorchRunner(*request.getfixturevalue("tiny_student"))


def need_openvino() -> None:
    """Not `importorskip`: that would import its telemetry."""
    if not has_openvino():
        pytest.skip("OpenVINO is not installed: the extra `openvino`")


def fake_tensorrt_runner(model: bytes) -> TensorRTRunner:
    """Over a fake device; see tests/fakes."""
    world = World(FakeDevice())
    api = describe(make_tensorrt("10.3.0", world))
    plan, _ = build_plan(api, model, BuildOptions("int8", batch=2))
    return TensorRTRunner(plan, "int8", api, Cuda(python_caller(python_module(world.device)), "fake"))


@pytest.fixture
def active(runner: Runner) -> Iterator[Runner]:
    with runner as entered:
        yield entered


def assert_equal(a: RawOutputs, b: RawOutputs, tolerance: float = 0.0) -> None:
    for name in OUTPUT_NAMES:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=tolerance)


def test_it_satisfies_the_protocol(active: Runner) -> None:
    assert isinstance(active, Runner)
    assert active.name and active.input_size > 0


@pytest.mark.parametrize("n", [1, 3])
def test_outputs_have_the_shapes_and_type_of_the_contract(active: Runner, pictures: Callable[..., Any], n: int) -> None:
    out = active.infer(pictures(n, active.input_size))
    assert out.plane.shape == out.hygroma.shape == (n,)
    assert out.embedding.ndim == 2 and out.embedding.shape[0] == n
    assert out.nuchal_map.ndim == 3 and out.nuchal_map.shape == (n, out.nuchal_map.shape[1], out.nuchal_map.shape[1])
    for name in OUTPUT_NAMES:
        value = getattr(out, name)
        assert value.dtype == np.float32 and np.isfinite(value).all()


def test_the_same_crop_gives_the_same_answer_every_time(active: Runner, pictures: Callable[..., Any]) -> None:
    crops = pictures(2, active.input_size)
    assert_equal(active.infer(crops), active.infer(crops))


def test_a_crop_scores_alone_as_it_does_in_a_batch(active: Runner, pictures: Callable[..., Any]) -> None:
    crops = pictures(4, active.input_size)
    together = active.infer(crops)
    for i in range(4):
        alone = active.infer(crops[i : i + 1])
        assert_equal(
            alone, RawOutputs(*(getattr(together, n)[i : i + 1] for n in OUTPUT_NAMES)), 1e-3
        )


def test_different_crops_score_differently(active: Runner, pictures: Callable[..., Any]) -> None:
    out = active.infer(pictures(2, active.input_size))
    assert out.hygroma[0] != out.hygroma[1] and out.plane[0] != out.plane[1]


def test_it_neither_changes_nor_keeps_its_input(active: Runner, pictures: Callable[..., Any]) -> None:
    crops = pictures(1, active.input_size)
    before = crops.copy()
    first = active.infer(crops)
    hygroma = first.hygroma.copy()
    np.testing.assert_array_equal(crops, before)
    crops[:] = 0
    active.infer(crops)
    np.testing.assert_array_equal(first.hygroma, hygroma)


def test_read_only_and_strided_crops_are_welcome(active: Runner, pictures: Callable[..., Any]) -> None:
    crops = pictures(4, active.input_size)
    crops.setflags(write=False)
    assert_equal(active.infer(crops[::2]), active.infer(np.ascontiguousarray(crops[::2])))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.astype(np.float32),
        lambda c: c.astype(np.int8),
        lambda c: c[0],
        lambda c: c[:0],
        lambda c: c[:, :, :-1],
        lambda c: c.repeat(3, 1),
    ],
    ids=["float", "signed", "no batch axis", "empty batch", "wrong height", "three channels"],
)
def test_anything_but_uint8_n_1_s_s_is_refused(active: Runner, pictures: Callable[..., Any], spoil: Any) -> None:
    with pytest.raises(EngineError, match=r"expected uint8 \[N,1,"):
        active.infer(spoil(pictures(2, active.input_size)))


def test_infer_is_refused_before_entering_and_after_leaving(runner: Runner, pictures: Callable[..., Any]) -> None:
    with pytest.raises(EngineError, match="outside its `with` block"):
        runner.infer(pictures(1, 48))
    with runner as active:
        crops = pictures(1, active.input_size)
        active.infer(crops)
    with pytest.raises(EngineError, match="outside its `with` block"):
        runner.infer(crops)


def test_it_can_be_entered_again(runner: Runner, pictures: Callable[..., Any]) -> None:
    with runner as active:
        crops = pictures(1, active.input_size)
        first = active.infer(crops)
    with runner as active:
        assert_equal(active.infer(crops), first)


def test_onnxruntime_says_why_a_model_cannot_be_used(tmp_path: Any) -> None:
    with pytest.raises(EngineError, match="cannot load the model"), OnnxRuntimeRunner(b"not a model"):
        pass
    with pytest.raises(EngineError, match="missing.onnx"), OnnxRuntimeRunner(tmp_path / "missing.onnx"):
        pass
    with pytest.raises(EngineError, match="threads: found 0"):
        OnnxRuntimeRunner(b"", threads=0)


def test_openvino_says_why_a_model_cannot_be_used() -> None:
    need_openvino()
    with pytest.raises(EngineError, match="cannot compile the model"), OpenVinoRunner(b"not a model"):
        pass
    with pytest.raises(EngineError, match="threads: found 0"):
        OpenVinoRunner(b"", threads=0)


@pytest.mark.parametrize("make", [OnnxRuntimeRunner, OpenVinoRunner])
def test_a_graph_with_another_input_or_output_is_refused(make: Callable[[bytes], Runner]) -> None:
    if make is OpenVinoRunner:
        need_openvino()
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    node = helper.make_node("Identity", ["x"], ["plane"])
    for dtype, shape in (
        (onnx.TensorProto.FLOAT, ["N", 1, 8, 8]),
        (onnx.TensorProto.UINT8, ["N", 3, 8, 8]),
        (onnx.TensorProto.UINT8, ["N", 1, 8, 9]),
        (onnx.TensorProto.UINT8, ["N", 8, 8]),
    ):
        value = [helper.make_tensor_value_info(name, dtype, shape) for name in ("x", "plane")]
        graph = helper.make_graph([node], "g", value[:1], value[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        with pytest.raises(EngineError, match="expected one, uint8"), make(model.SerializeToString()):
            pass
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, ["N", 1, 8, 8]) for name in ("x", "plane")]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(EngineError, match="'embedding'"), make(model.SerializeToString()):
        pass


def test_two_threads_and_spinning_give_the_same_numbers(tiny_int8_graph: Any, pictures: Callable[..., Any]) -> None:
    data, crops = tiny_int8_graph.SerializeToString(), pictures(2, 48)
    with OnnxRuntimeRunner(data) as one, OnnxRuntimeRunner(data, threads=2, spinning=True) as two:
        assert_equal(one.infer(crops), two.infer(crops), 1e-3)
