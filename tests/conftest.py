"""Fixtures that more than one folder of tests needs: a bundle without a model, and a student small enough to export."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # read when torch and BLAS are loaded, and by the processes that tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker a core: more threads would wait for one another

import numpy as np
import pytest
from fakes.bundle_parts import fake_files, fake_manifest, noise

from edge.bundle import Bundle, write_bundle
from edge.bundle import manifest as mf
from edge.engines import onnxruntime_runner, selftest
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.records import RawOutputs

APART = ("tests/export/test_pipeline.py",)  # files whose dear fixtures are made once a run (shared.py), not once a worker


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For pytest-xdist: the first test of each APART file goes first, since it makes what the others find, and the others last,
    to fill up whichever worker is free."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    names = [item.nodeid.split("::")[0] for item in items]
    first = {names.index(name) for name in APART if name in names}
    order = sorted(range(len(items)), key=lambda at: -1 if at in first else names[at] in APART)
    items[:] = [items[at] for at in order]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay on one worker, as its fixtures do; but those of APART are dealt out one by one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            name = nodeid.split("::")[0]
            return nodeid if name in APART else name

    config.option.loadscopereorder = False  # in the order of `pytest_collection_modifyitems`
    return ByFile(config, log)

if os.environ.get("HYGROMA_TESTS_WITHOUT_VNNI"):  # .ci/run; child processes read the real file
    onnxruntime_runner.has_vnni.__defaults__ = (Path(os.devnull),)


@pytest.fixture(scope="session", autouse=True)
def asked_once() -> Iterator[None]:
    """What ONNX Runtime makes of a self-test's picture with the same graph is asked for once a process: the shipped bundle's 64
    take two seconds, and every start in this process asks them. A runner that a test changed is asked as ever, and so is one
    outside a self-test."""
    ask, infer = selftest.infer_all, OnnxRuntimeRunner.infer
    known: dict[tuple[bytes, bool, bytes], RawOutputs] = {}

    def asked(runner: Any, inputs: np.ndarray, batch: int = selftest.BATCH) -> RawOutputs:
        if type(runner) is not OnnxRuntimeRunner or OnnxRuntimeRunner.infer is not infer or batch != selftest.BATCH:
            return ask(runner, inputs, batch)
        model = runner._model if isinstance(runner._model, bytes) else Path(runner._model).read_bytes()
        how = sha256(model).digest(), onnxruntime_runner.has_vnni()
        keys = [(*how, sha256(one.tobytes()).digest()) for one in inputs]
        for key, one in zip(keys, inputs, strict=True):
            if key not in known:
                known[key] = infer(runner, one[None])
        found = {name: np.concatenate([known[key].named()[name] for key in keys]) for name in known[keys[0]].named()}
        return RawOutputs(*(found.pop(name) for name in selftest.OUTPUT_NAMES), others=found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selftest, "infer_all", asked)
        yield


@pytest.fixture
def fake_bundle(tmp_path: Path) -> Bundle:
    """A valid bundle directory in tmp_path that FakeRunner() passes the self-test of."""
    return write_bundle(tmp_path / "bundle", fake_manifest(), fake_files())


@pytest.fixture
def fake_bundle_parts() -> tuple[mf.Manifest, dict[str, bytes]]:
    """What `fake_bundle` is written from, for tests that want to spoil it."""
    return fake_manifest(), fake_files()


@pytest.fixture
def pictures() -> Callable[..., np.ndarray]:
    """`pictures(n, size, seed=0)` -> uint8 [n,1,size,size]."""
    return noise


@pytest.fixture(scope="session")
def tiny_student() -> tuple[dict[str, Any], Any]:
    """(state dict, ViTConfig) of an untrained student, 48 pixels, two blocks; weights so large that every layer matters."""
    torch = pytest.importorskip("torch")
    from export.model.vit import HygromaViT, ViTConfig

    config = ViTConfig(image=48, patch=16, width=64, depth=2, heads=2, tap=1)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # what is added to below is drawn too
        state = HygromaViT(config).state_dict()
    for name, value in state.items():
        if name.endswith("gamma"):
            value.uniform_(0.2, 1.5, generator=generator)
        elif name.endswith("weight") and value.ndim == 2:
            value.normal_(0, 0.15, generator=generator)
        elif value.ndim == 4:
            value.normal_(0, 0.02, generator=generator)
        else:
            value.add_(torch.empty_like(value).normal_(0, 0.1, generator=generator))
    return state, config


@pytest.fixture(scope="session")
def tiny_float_graph(tiny_student: tuple[dict[str, Any], Any]) -> Any:
    """The tiny student's float ONNX graph."""
    pytest.importorskip("onnx")
    from export.int8.onnx_graph import build_float_graph

    return build_float_graph(*tiny_student)


@pytest.fixture(scope="session")
def tiny_int8_graph(tiny_student: tuple[dict[str, Any], Any]) -> Any:
    """The tiny student's canonical INT8 graph."""
    from export.int8.quantize import quantize_best

    return quantize_best(*tiny_student, noise(32, 48, seed=1), noise(32, 48, seed=2)).model


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    """A root with the files in which a Jetson tells its temperatures and power mode."""
    root = tmp_path / "jetson"
    files = {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, BOARD: generic\n",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=MAXN_SUPER >\n"
        "< POWER_MODEL ID=2 NAME=25W >\nCPU_ONLINE CORE_0 1\n< PM_CONFIG DEFAULT=0 >\n",
        "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
        "sys/class/thermal/thermal_zone0/type": "tj-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "61500\n",
        "sys/class/thermal/thermal_zone1/type": 'odd"zone"\n',
        "sys/class/thermal/thermal_zone1/temp": "40000\n",
        "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
        "sys/class/thermal/thermal_zone2/temp": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
