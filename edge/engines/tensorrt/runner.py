"""The GPU engine: TensorRT, one stream, one captured graph; a frame makes no device or pinned allocation."""

from __future__ import annotations

import logging
import math
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from edge.engines.runner import check_crops
from edge.engines.tensorrt.api import Api, describe, load_tensorrt, make_logger
from edge.engines.tensorrt.build import INPUT_NAME
from edge.engines.tensorrt.cuda import Cuda, host_view, load_cuda
from edge.errors import EngineError
from edge.records import OUTPUT_NAMES, RawOutputs

log = logging.getLogger(__name__)

ALIGN = 256  # bytes; what cudaMalloc itself aligns to


def engine_name(precision: str) -> str:
    """What a runner of an engine of this precision is called."""
    return f"tensorrt-{precision}"


class TensorRTRunner:
    """Runner over a verified engine that this project's builder made for this machine.

    plan: the engine's bytes. precision: for the name and messages. N crops run in calls of the engine's batch; a last,
    shorter call is filled up with zeros. `captured` says, once entered, whether a CUDA graph is replayed.

    EngineError when TensorRT, the driver or the engine is not what it should be.
    """

    qdq_limit, note = None, ""

    def __init__(self, plan: bytes, precision: str, api: Api | None = None, cuda: Cuda | None = None):
        self.name = engine_name(precision)
        self.input_size = 0  # this and the next two are known once activated
        self.batch = 0
        self.captured = False
        self._plan, self._api, self._cuda = plan, api, cuda
        self._session: _Session | None = None

    def __enter__(self) -> TensorRTRunner:
        session = _Session(self.name, self._plan, self._api or describe(load_tensorrt()), self._cuda or load_cuda())
        self.batch, self.input_size = session.input.shape[0], session.input.shape[2]
        self.captured = session.graph is not None
        self._session = session
        return self

    def __exit__(self, *exc: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def infer(self, crops: np.ndarray) -> RawOutputs:
        """See `Runner.infer`."""
        check_crops(self.name, self._session is not None, crops, self.input_size)
        session = self._entered()
        out = {name: np.empty((len(crops), *view.shape[1:]), np.float32) for name, view in session.outputs.items()}
        for start in range(0, len(crops), self.batch):
            part = crops[start : start + self.batch]
            session.input[: len(part)] = part
            session.input[len(part) :] = 0
            session.run()
            for name, view in session.outputs.items():
                out[name][start : start + len(part)] = view[: len(part)]
        return RawOutputs(*(out[name] for name in OUTPUT_NAMES))

    def device_times(self, repeats: int) -> np.ndarray:
        """Milliseconds [repeats] of one call on the device, copies included, by CUDA events. EngineError unless entered."""
        return self._entered().times(repeats)

    def host_times(self, repeats: int) -> np.ndarray:
        """Milliseconds [repeats] of one call as its caller waits for it. EngineError unless entered."""
        crops = np.zeros((self.batch, 1, self.input_size, self.input_size), np.uint8)
        times = np.empty(repeats)
        for i in range(repeats):
            start = time.perf_counter()
            self.infer(crops)
            times[i] = (time.perf_counter() - start) * 1000
        return times

    def _entered(self) -> _Session:
        if self._session is None:
            raise EngineError(f"{self.name}: was called outside its `with` block; enter the runner first")
        return self._session


class _Session:
    """What exists between enter and exit. `input` uint8 [B,1,S,S] and `outputs` float32 are views of pinned memory."""

    def __init__(self, name: str, plan: bytes, api: Api, cuda: Cuda):
        self._name, self._cuda = name, cuda
        logger = make_logger(api)
        self._runtime = api.trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"{name}: TensorRT {api.text} refuses the engine ({'; '.join(logger.errors) or 'no reason given'}); "
                "build it again with `hygroma engine race`"
            )
        shapes = _tensor_shapes(name, api, self._engine)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{name}: no execution context ({'; '.join(logger.errors)}); is the GPU's memory full?")
        self.graph: int | None = None
        with ExitStack() as stack:
            self._stream = cuda.create_stream()
            stack.callback(cuda.destroy_stream, self._stream)
            self._allocate(stack, shapes)
            self._capture(stack)
            stack.callback(cuda.synchronize, self._stream)  # called first: nothing may be in flight when memory goes
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def run(self) -> None:
        """Copy in, compute, copy out, wait."""
        self._enqueue()
        self._cuda.synchronize(self._stream)

    def times(self, repeats: int) -> np.ndarray:
        cuda = self._cuda
        times = np.empty(repeats)
        with ExitStack() as stack:
            first = cuda.create_event()
            stack.callback(cuda.destroy_event, first)
            second = cuda.create_event()
            stack.callback(cuda.destroy_event, second)
            for i in range(repeats):
                cuda.record(first, self._stream)
                self._enqueue()
                cuda.record(second, self._stream)
                cuda.synchronize(self._stream)
                times[i] = cuda.elapsed_ms(first, second)
        return times

    def _allocate(self, stack: ExitStack, shapes: dict[str, tuple[int, ...]]) -> None:
        """One pinned and one device block for the input, one of each for all outputs, and their addresses to TensorRT."""
        cuda, context = self._cuda, self._context
        offsets, total = {}, 0
        for name in OUTPUT_NAMES:
            offsets[name] = total
            total += -(-math.prod(shapes[name]) * 4 // ALIGN) * ALIGN
        self._in_bytes, self._out_bytes = math.prod(shapes[INPUT_NAME]), total
        pinned, device = [], []
        for size in (self._in_bytes, self._out_bytes):
            pinned.append(cuda.malloc_host(size))
            stack.callback(cuda.free_host, pinned[-1])
            device.append(cuda.malloc(size))
            stack.callback(cuda.free, device[-1])
        self._host_in, self._host_out = pinned
        self._device_in, self._device_out = device
        self.input = host_view(self._host_in, shapes[INPUT_NAME], np.uint8)
        self.input[:] = 0
        self.outputs = {n: host_view(self._host_out + offset, shapes[n], np.float32) for n, offset in offsets.items()}
        addresses = {INPUT_NAME: self._device_in, **{n: self._device_out + offset for n, offset in offsets.items()}}
        fits = context.set_input_shape(INPUT_NAME, shapes[INPUT_NAME])
        if not fits or not all(context.set_tensor_address(n, address) for n, address in addresses.items()):
            raise EngineError(f"{self._name}: the engine refuses its buffers, {shapes}; build it again")

    def _capture(self, stack: ExitStack) -> None:
        self.run()  # the first call allocates inside TensorRT, which a capture forbids
        try:
            self.graph = self._cuda.capture(self._stream, self._enqueue)
        except EngineError as error:
            log.warning("%s: runs without a CUDA graph, slower: %s", self._name, error)
        else:
            stack.callback(self._cuda.destroy_graph, self.graph)

    def _enqueue(self) -> None:
        cuda, stream = self._cuda, self._stream
        if self.graph is not None:
            cuda.launch(self.graph, stream)
            return
        cuda.to_device(self._device_in, self._host_in, self._in_bytes, stream)
        if not self._context.execute_async_v3(stream):
            raise EngineError(
                f"{self._name}: TensorRT refuses to run; restart, and build the engine again if it persists"
            )
        cuda.to_host(self._host_out, self._device_out, self._out_bytes, stream)


def _tensor_shapes(name: str, api: Api, engine: Any) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape. EngineError unless the engine has the contract's input and outputs."""
    trt = api.trt
    tensors = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [t for t in tensors if engine.get_tensor_mode(t) == trt.TensorIOMode.INPUT]
    batch = 0
    if inputs == [INPUT_NAME]:
        batch = int(tuple(engine.get_tensor_profile_shape(INPUT_NAME, 0)[2])[0])  # min, opt, max: all the same
    # the engine keeps the graph's open batch as -1
    shapes = {t: tuple(batch if d < 0 else int(d) for d in engine.get_tensor_shape(t)) for t in tensors}
    types = {t: engine.get_tensor_dtype(t) for t in tensors}
    image = shapes.get(INPUT_NAME, ())
    wanted = {INPUT_NAME: trt.DataType.UINT8, **dict.fromkeys(OUTPUT_NAMES, trt.DataType.FLOAT)}
    if inputs != [INPUT_NAME] or types != wanted or len(image) != 4 or image[1] != 1 or image[2] != image[3]:
        found = [(t, str(types[t]), shapes[t]) for t in tensors]
        raise EngineError(
            f"{name}: found tensors {found}; expected {INPUT_NAME} uint8 [N,1,S,S] and float {', '.join(OUTPUT_NAMES)}; "
            "build it again with `hygroma engine race`"
        )
    return shapes
