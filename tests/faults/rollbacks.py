"""New bundles that fail on a device whose every part is the real one: `hygroma update` and `hygroma run` as processes, started
again as systemd would. The models are tiny graphs that pass every check of the update and fail afterwards."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np
import onnx
from fakes.bundle_parts import DIM, GRID, SIZE, fake_manifest, noise
from onnx import TensorProto as T
from onnx import helper as h

from edge.bundle import manifest as mf
from edge.bundle import sign_bundle, write_bundle
from edge.bundle.arrays import GoldenVectors, OodStats, pack_golden, pack_ood
from edge.bundle.keys import new_key, read_signing_key
from edge.decision import DecisionParams
from edge.demo import CLIP
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.engines.selftest import infer_all

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0  # seconds before a process is given up: no promise, only an end
CRASHES_MAX = 3


def graph(loops: int = 1, breaks: bool = False) -> bytes:
    """A model of nothing, whose outputs are the picture's mean and parts of it. loops: how often each answer is thought over.
    breaks: an answer to a picture whose top right corner is black, as that of every fan on a screen is, is an error."""
    def constant(name: str, values: Any, kind: int = T.INT64) -> onnx.NodeProto:
        array = np.atleast_1d(np.asarray(values))
        return h.make_node("Constant", [], [name], value=h.make_tensor(name, kind, array.shape, array.ravel().tolist()))

    body = h.make_graph(
        [h.make_node("Identity", ["go_in"], ["go"]), h.make_node("Mul", ["x_in", "one"], ["x"])], "thinking",
        [h.make_tensor_value_info("i", T.INT64, []), h.make_tensor_value_info("go_in", T.BOOL, []),
         h.make_tensor_value_info("x_in", T.FLOAT, None)],
        [h.make_tensor_value_info("go", T.BOOL, []), h.make_tensor_value_info("x", T.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        constant("one", 1.0, T.FLOAT), constant("scale", 1 / 255, T.FLOAT), constant("zero", 0), constant("ones", 1),
        h.make_node("Cast", ["image"], ["raw"], to=T.FLOAT), h.make_node("Mul", ["raw", "scale"], ["grey"]),
        h.make_node("Constant", [], ["times"], value=h.make_tensor("times", T.INT64, [], [loops])),
        h.make_node("Constant", [], ["yes"], value=h.make_tensor("yes", T.BOOL, [], [True])),
        constant("axes", [1, 2, 3]), h.make_node("ReduceMean", ["grey"], ["mean"], axes=[1, 2, 3], keepdims=0),
        h.make_node("Loop", ["times", "yes", "mean"], ["plane"], body=body),
        # The corner's pixel, as an index into one value: 0 when it is not black.
        constant("start", [0, SIZE - 1]), constant("end", [1, SIZE]), constant("across", [2, 3]),
        h.make_node("Slice", ["raw", "start", "end", "across"], ["corner"]),
        constant("nothing", 0.5 if breaks else -1.0, T.FLOAT), h.make_node("Less", ["corner", "nothing"], ["black"]),
        h.make_node("Cast", ["black"], ["index"], to=T.INT64), constant("flat", [-1]),
        h.make_node("Reshape", ["index", "flat"], ["indices"]), constant("one_value", [0.0], T.FLOAT),
        h.make_node("Gather", ["one_value", "indices"], ["nought"]),
        h.make_node("Add", ["plane", "nought"], ["hygroma"]),
        h.make_node("AveragePool", ["grey"], ["pooled"], kernel_shape=[SIZE // GRID] * 2, strides=[SIZE // GRID] * 2),
        constant("grid", [-1, GRID, GRID]), h.make_node("Reshape", ["pooled", "grid"], ["nuchal_map"]),
        constant("row", [-1, DIM]), h.make_node("Reshape", ["pooled", "row"], ["embedding"]),
    ]  # fmt: skip
    shapes = {"plane": ["n"], "hygroma": ["n"], "embedding": ["n", DIM], "nuchal_map": ["n", GRID, GRID]}
    made = h.make_graph(
        nodes, "nothing", [h.make_tensor_value_info("image", T.UINT8, ["n", 1, SIZE, SIZE])],
        [h.make_tensor_value_info(name, T.FLOAT, shape) for name, shape in shapes.items()],
    )  # fmt: skip
    model = h.make_model(made, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def loops_for(seconds: float) -> int:
    """How many loops take so long on this machine, at the least."""
    loops = 1000
    picture = noise(1, SIZE)
    while True:
        with OnnxRuntimeRunner(graph(loops)) as runner:
            runner.infer(picture)
            begun = time.perf_counter()
            runner.infer(picture)
            took = time.perf_counter() - begun
        if took > 0.1:
            return round(loops * seconds / took)
        loops *= 4


class Device:
    """A folder with a configuration, a key that it trusts, and a daemon that is started again and again."""

    def __init__(self, root: Path, ready_s: float) -> None:
        self.root, self.key = root, read_signing_key(new_key(root / "keys")[0])
        self.config = root / "room1.yaml"
        self.config.write_text(
            f"source: {{uri: 'file:{CLIP}'}}\nengine: {{runtime: onnxruntime}}\nevents: {{dir: {root / 'events'}}}\n"
            f"status: {{port: 0}}\nbundle: {{trusted_keys: ['{self.key.public.text}'], ready_s: {ready_s}}}\n"
        )

    def make(self, version: str, model: bytes) -> Path:
        """A signed .tar with this model and golden vectors that it fits."""
        inputs = noise(64, SIZE)
        inputs[:, :, 0, -1] = 255
        with OnnxRuntimeRunner(graph()) as runner:
            outputs = infer_all(runner, inputs)
        files = {
            mf.MODEL_FILE: model, mf.CARD_FILE: b"# nothing\n",
            mf.GOLDEN_FILE: pack_golden(GoldenVectors(inputs, outputs, outputs)),
            mf.OOD_FILE: pack_ood(OodStats(outputs.embedding.mean(0), np.eye(DIM, dtype=np.float32))),
        }  # fmt: skip
        manifest = fake_manifest()
        manifest = dataclasses.replace(
            manifest, decision=DecisionParams().to_manifest(), model=dataclasses.replace(manifest.model, version=version)
        )
        path = self.root / f"{version}.tar"
        write_bundle(path, manifest, files)
        sign_bundle(path, self.key)
        return path

    def update(self, path: Path) -> dict[str, Any]:
        """`hygroma update`, which must take it; another model than the shipped one is meant."""
        done = subprocess.run(
            self.command("update", str(path), "--allow-downgrade", "--json"), cwd=ROOT, capture_output=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stderr.decode()
        return dict(json.loads(done.stdout))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "edge.cli", *words, "--config", str(self.config)]

    def start(self, when_ready: Callable[[subprocess.Popen[bytes], str], None] | None = None) -> Start:
        """One life of `hygroma run`. `when_ready` is called with the process and its log once it is ready, and must bring about
        its end, if it does not end by itself."""
        log, address = self.root / "log", self.root / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, open(log, "wb") as told:
            notified.bind(str(address))
            notified.settimeout(0.1)
            begun = time.monotonic()
            process = subprocess.Popen(
                self.command("run", "-v"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=told,
                env={**os.environ, "NOTIFY_SOCKET": str(address)},
            )  # fmt: skip
            ready = False
            try:
                while process.poll() is None:
                    assert time.monotonic() - begun < PATIENCE_S, f"neither ready nor ended: {log.read_text()[-2000:]}"
                    with suppress(TimeoutError):
                        if b"READY=1" in notified.recv(4096):
                            ready = True
                            if when_ready:
                                when_ready(process, log.read_text())
                return Start(ready, process.returncode, time.monotonic() - begun, log.read_text())
            finally:
                process.kill()
                process.wait()


@dataclasses.dataclass(frozen=True)
class Start:
    """How one life of the daemon went. `status` as subprocess has it: negative for a signal."""

    ready: bool
    status: int
    seconds: float
    log: str


def page(log: str) -> dict[str, Any]:
    """/snapshot.json of the daemon that logged this."""
    url = next(word for word in log.split() if word.startswith("http://127.0.0.1:"))
    with urllib.request.urlopen(url + "snapshot.json", timeout=PATIENCE_S) as answer:
        return dict(json.load(answer))


def runs_shipped(device: Device) -> tuple[str, float]:
    """Starts the daemon, which must watch with the shipped bundle: what the page says of the one before, and the seconds from
    start to READY."""
    seen: dict[str, Any] = {}
    begun = time.monotonic()

    def look(process: subprocess.Popen[bytes], log: str) -> None:
        seen.update(page(log), ready_s=time.monotonic() - begun)
        process.terminate()

    start = device.start(look)
    assert start.ready and start.status == 0, start.log[-3000:]
    state = seen["bundle_state"]
    assert state["signed_by"] == "hygroma" and state["rollbacks"] == 1 and not state["on_trial"]
    return next(problem for problem in state["problems"] if "was rolled back" in problem), seen["ready_s"]


def too_slow(folder: Path, ready_s: float) -> dict[str, Any]:
    """Its self-test takes three times as long as a start may."""
    device = Device(folder, ready_s)
    done = device.update(device.make("9.0.0", graph(loops_for(3 * ready_s / 64))))
    assert done["changed"]
    start = device.start()
    assert not start.ready and start.status == 1 and start.seconds >= ready_s and "Timeout" in start.log, start.log[-3000:]
    said, again_s = runs_shipped(device)
    assert f"not ready within {ready_s:g} s" in said
    return {"ended_after_s": start.seconds, "shipped_ready_s": again_s, "said": said}


def crashing(folder: Path, how: str) -> dict[str, Any]:
    """`error`: it fails on every picture of a scanner's screen, and the daemon gives up. A signal's name: each start ends so
    once it is ready, as after a fault in native code, the watchdog's end, or the kernel's when there is no memory."""
    device = Device(folder, 60)
    assert device.update(device.make("9.0.0", graph(breaks=how == "error")))["changed"]
    number = 0 if how == "error" else getattr(signal, how)
    for _ in range(CRASHES_MAX):
        start = device.start(None if how == "error" else lambda process, log: process.send_signal(number))
        assert start.ready and start.status == (-number if number else 70), start.log[-3000:]
    said, again_s = runs_shipped(device)
    assert f"it crashed {CRASHES_MAX} times" in said
    return {"crashes": CRASHES_MAX, "shipped_ready_s": again_s, "said": said}
