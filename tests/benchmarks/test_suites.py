"""Suites on the shipped bundle, in their shortest form: that they measure what they say, never how fast."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pipeline, startup, suites
from benchmarks.case import Bench, Record
from benchmarks.frames import ScheduledCamera, clip_frames, to_yuyv, yuyv_decoder
from benchmarks.machine import gemm_work, yardstick
from benchmarks.tiny_onnx import one_op
from edge.bundle import load_bundle
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.engines.scorer import Scorer
from edge.errors import EngineError
from edge.records import Scores

pytestmark = pytest.mark.kernels

ROOT = Path(__file__).parents[2]


PICTURES = 12  # of the clip, or of one rendered exam, instead of 32: they are shown again and again


@pytest.fixture(scope="module", autouse=True)
def few_pictures() -> Iterator[None]:
    """Pictures that every case decodes, or renders, anew, and more than are looked at here."""
    few = cache(lambda count, size: clip_frames(min(count, PICTURES), size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "KEPT", PICTURES)
        patch.setattr(pipeline, "clip_frames", lambda count=PICTURES, size=None: few(count, size))
        yield


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(load_bundle(SHIPPED_BUNDLE), tmp_path, calls=3, limit_s=0.5, events_max=1000, soak_frames=60)


@pytest.fixture
def unsettled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop accounts for its pictures whether its fan is settled or not."""
    monkeypatch.setattr(pipeline, "SETTLE", 10)


def test_every_suite_imports_without_torch_onnx_or_pytest() -> None:
    script = (
        "import sys\nfor name in ('torch', 'onnx', 'pytest', 'openvino', 'nncf', 'monai', 'scipy'): sys.modules[name] = None\n"
        "from benchmarks.suites import MODULES, cases\nimport benchmarks.command\n"
        "for suite in MODULES: assert cases(suite), suite\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=120)


def test_without_torch_a_device_measures_the_rest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    records = {case.name: suites.run_case(case, bench)[0] for case in suites.cases("models")}
    assert records["student INT8, ONNX Runtime, 1 thread"].distribution is not None
    for name in ("student float, PyTorch", "teacher ViT-B/16 float, PyTorch", "baseline DenseNet-169 float, PyTorch"):
        assert records[name].skipped == "PyTorch is not installed here: pip install 'hygroma-edge[toolchain]'"
    assert not [name for name, found in records.items() if found.failed]


def front(*words: str, wanted: int = 0) -> str:
    """What `pytest benchmarks` prints, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider", "-p", "no:schemathesis", *words]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=alone)
    assert done.returncode == wanted, done.stdout + done.stderr
    return done.stdout


def test_pytests_front_has_every_case() -> None:
    found = front("--collect-only", "--suite", "all")
    names = [f"[{case.suite}: {case.name}]" for suite in suites.MODULES for case in suites.cases(suite)]
    assert [name for name in names if name not in found] == [] and f"{len(names)} tests collected" in found


@pytest.mark.requirement("L-01")
def test_the_plain_command_writes_latencies_that_two_runs_are_compared_by(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    quick = ("--benchmark-min-rounds=3", "--benchmark-max-time=.1", "--benchmark-warmup=off")
    few = ("-k", "decide or memory", "--calls", "4", *quick)
    front(*few, f"--benchmark-json={first}")
    run = json.loads(first.read_text())
    decide, loop = sorted(run["benchmarks"], key=lambda entry: entry["name"])
    assert decide["name"] == "test_case[pipeline: decide]" and decide["stats"]["rounds"] >= 3
    assert loop["stats"]["rounds"] == 3  # one between each two of four calls, and no duration of the whole case
    for entry in (decide, loop):
        (summary,) = entry["extra_info"]["records"].values()
        assert summary["percentiles"]["p50"]["value"] == pytest.approx(entry["stats"]["median"] * 1000, rel=0.9)
        assert sum(summary["histogram"]["counts"]) == entry["stats"]["rounds"]
        assert entry["extra_info"]["bundle"]["sha256"] == load_bundle(SHIPPED_BUNDLE).sha256
        assert entry["extra_info"]["fingerprint"]["cpu"]["cores"] == os.cpu_count()
    loop["stats"]["median"] /= 1000  # as if it had been a thousand times faster
    second.write_text(json.dumps(run))
    compared = front(*few, f"--benchmark-compare={first}", "--benchmark-compare-fail=median:100000%")
    assert compared.count("memory") >= 2  # now and then
    front(*few, f"--benchmark-compare={second}", "--benchmark-compare-fail=median:1000%", wanted=1)


def test_names_of_cases_are_unique() -> None:
    for suite in suites.MODULES:
        names = [case.name for case in suites.cases(suite)]
        assert len(set(names)) == len(names) and all(case.suite == suite for case in suites.cases(suite))


@pytest.mark.parametrize("name", ["read the screen", "engine", "commit a flag"])
def test_a_stage_is_measured(bench: Bench, name: str) -> None:
    case = next(case for case in pipeline.CASES if case.name == name)
    (record,) = suites.run_case(case, bench)
    assert not record.failed and record.distribution is not None and record.distribution.n == 3


@pytest.mark.parametrize("source", ["camera", "file", "phantom"])
@pytest.mark.usefixtures("unsettled")
def test_the_loop_accounts_for_every_picture_of_a_source(bench: Bench, source: str) -> None:
    case = next(case for case in pipeline.CASES if case.name == f"loop, {source}, due to verdict")
    (record,) = suites.run_case(case, dataclasses.replace(bench, calls=15))
    assert not record.failed and record.distribution is not None
    assert record.values["unaccounted"] == 0
    assert record.distribution.n + record.values["dropped"] + record.values["late"] >= 15


@pytest.mark.parametrize("source", ["camera", "file", "phantom"])
@pytest.mark.usefixtures("unsettled")
def test_a_flag_is_measured_to_its_commit(bench: Bench, source: str) -> None:
    case = next(case for case in pipeline.CASES if case.name == f"loop, {source}, due to committed flag")
    (record,) = suites.run_case(case, bench)
    assert not record.failed and record.distribution is not None and record.distribution.n >= 2
    assert record.values["lost_flags"] == 0


@pytest.mark.usefixtures("unsettled")
def test_a_loop_whose_engine_fails_gives_no_figure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, whole = iter(range(10**6)), Scorer.score

    def score(self: Scorer, crop: np.ndarray) -> Scores:
        if next(calls) % 5 == 4:  # the loop itself gives up after ten in a row
            raise EngineError("broken")
        return whole(self, crop)

    monkeypatch.setattr(Scorer, "score", score)
    case = next(case for case in pipeline.CASES if case.run is pipeline.from_memory)
    (record,) = suites.run_case(case, bench)
    assert "the loop counted errors" in record.failed and record.distribution is None


def test_a_start_is_measured_to_ready(bench: Bench) -> None:
    ms, memory = startup.start_daemon(bench.bundle.path, bench.folder / "0")
    assert ms > 0 and memory["peak_mb"] >= memory["rss_mb"] > 20


def test_the_camera_stamps_when_a_picture_was_due_not_when_it_was_taken() -> None:
    now = [0]

    def sleep(seconds: float) -> None:
        now[0] += round(seconds * 1e9)

    camera = ScheduledCamera([1, 2], 10.0, 3, lambda value: np.full((1, 1), value), lambda: now[0], sleep)
    camera.open()
    first, now[0] = camera.read(), 250_000_000  # the reader is away for 250 ms
    second, third = camera.read(), camera.read()
    assert first is not None and second is not None and third is not None and camera.read() is None
    assert [f.t_mono_ns for f in (first, second, third)] == [0, 100_000_000, 200_000_000] and now[0] == 250_000_000
    assert [int(f.image[0, 0]) for f in (first, second, third)] == [1, 2, 1]


def test_pictures_of_the_clip_come_in_any_size_and_through_yuyv() -> None:
    (picture,) = clip_frames(1, (640, 360))
    assert picture.shape == (360, 640, 3)
    back = yuyv_decoder((640, 360))(to_yuyv(picture))
    assert np.abs(back.astype(int) - picture).mean() < 3


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_product_is_computed_by_the_models_own_kernels(dtype: str) -> None:
    (found,) = gemm_work(dtype, (3, 8, 5), 1)()  # type: ignore[misc]
    assert found.shape == (3, 5) and found.dtype == (np.int32 if dtype == "int8" else np.float32)


def test_the_handmade_model_is_valid_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    weights = np.arange(-150, 150, dtype=np.int16).astype(np.int8).reshape(20, 15)
    model = one_op("MatMulInteger", [("a", "uint8", (300, 20))], {"b": weights}, ("int32", 2))
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)


def test_the_yardstick_is_the_sum_of_its_parts() -> None:
    found = yardstick(runs=1)
    assert found.loop_ms == pytest.approx(found.gemm_ms + found.resize_ms + found.python_ms)
    assert min(found.gemm_ms, found.resize_ms, found.python_ms) > 0


def test_the_student_in_pytorch_is_the_graphs_own() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from benchmarks.torch_student import torch_student
    from edge.engines.graph_forms import strip_quantisers
    from edge.engines.onnxruntime_runner import OnnxRuntimeRunner

    bundle = load_bundle(SHIPPED_BUNDLE)
    crops = bundle.golden().inputs[:2]
    with torch.inference_mode(), OnnxRuntimeRunner(strip_quantisers(bundle.model)) as runner:
        wanted, found = runner.infer(crops), torch_student(bundle)(torch.from_numpy(crops.astype(np.float32)))
    for a, b in zip(found, (wanted.plane, wanted.hygroma, wanted.embedding, wanted.nuchal_map), strict=True):
        np.testing.assert_allclose(a.numpy(), b, atol=2e-3)


def test_the_optimised_graphs_products_run_in_int8(bench: Bench) -> None:
    from benchmarks.layers import INT8_OPS, part_of, places, profile

    kernels = profile(bench.bundle.model, bench.bundle.golden().inputs, 1, 1, bench.folder)
    linears = [kernel for kernel in kernels if kernel.op in INT8_OPS]
    macs, float_macs = (sum(getattr(k, kind) for k in kernels) for kind in ("int8_macs", "float_macs"))
    tokens, width, depth = 145, 384, 5
    assert macs == pytest.approx(tokens * 12 * width**2 * depth, rel=0.01)  # qkv, proj, fc1, fc2 of each block
    scores, embedding = 2 * tokens**2 * width * depth, 144 * 256 * width  # with the mixture; 16 by 16 pixels a patch
    assert float_macs == pytest.approx(scores + embedding, rel=0.02)  # and the heads
    assert len(linears) == 4 * depth
    parts = [part_of(name) for name in places(kernels)]
    assert parts.count("MLP: GELU and scaling") == 3 * depth  # Gelu, Mul, QuantizeLinear
    maps = [k.name for part, k in zip(parts, kernels, strict=True) if part == "nuchal map and pooling by it"]
    assert {"map_head", "map_head.pool", "output.nuchal_map"} < set(maps) and len(maps) == 6
    gelus = [part for part, kernel in zip(parts, kernels, strict=True) if kernel.op == "Gelu"]
    assert gelus == ["MLP: GELU and scaling"] * depth + ["heads and outputs"]


def test_rows_are_filled_to_a_number_and_can_be_read(bench: Bench) -> None:
    from benchmarks.growth import fill
    from edge.events.store import EventStore

    with EventStore(bench.folder) as store:
        store.open()
    assert fill(bench.folder / "events.db", fill(bench.folder / "events.db", 0, 50), 120) == 120
    with EventStore(bench.folder) as store:
        assert len(store.events(limit=1000)) == 120 and store.next_exam_id() == 120


def test_a_peer_that_is_missing_is_named_and_the_others_are_compared(bench: Bench) -> None:
    from contextlib import contextmanager

    from benchmarks import peers

    @contextmanager
    def missing(bench: Bench):
        raise ModuleNotFoundError("No module named 'openvino'", name="openvino")
        yield

    three = {peers.OURS: peers.ours, "twin": peers.ours, "gone": missing}
    *systems, ratios, skipped = peers.side_by_side(bench, three)
    assert [r.name for r in systems] == [peers.OURS, "twin"] and skipped.skipped.startswith("openvino is not installed")
    rows = {row["system"]: row for row in ratios.table}
    assert rows[peers.OURS]["times ours"] == 1.0 and rows["twin"]["largest difference of p"] < 0.1
    assert rows["twin"]["low"] <= rows["twin"]["times ours"] <= rows["twin"]["high"]


def test_peers_are_measured_with_the_threads_asked_for_and_with_two(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import limits, peers

    seen = []

    def measured(bench: Bench) -> list[Record]:
        seen.append(bench.threads)
        only = [Record("peers", "slow start", skipped="no")] if len(seen) > 1 else []
        return [Record("peers", "ratios"), Record("peers", "gone", skipped="not here"), *only]

    monkeypatch.setattr(peers, "side_by_side", measured)
    (case,) = suites.cases("peers")
    cores = 2
    for module in (peers, limits):
        monkeypatch.setattr(module, "usable_cores", lambda: cores)
    names = [r.name for r in suites.run_case(case, bench)]
    assert seen == [1, 2]  # what is not here is not said twice
    assert names == ["ratios", "gone", "ratios, 2 threads", "slow start, 2 threads"]
    seen.clear()
    assert len(suites.run_case(case, dataclasses.replace(bench, threads=2))) == 2 and seen == [2]
    cores = 1
    (*_, last) = suites.run_case(case, bench)
    assert seen[-1] == 1 and last.skipped == "this process may use one core"


def test_every_peer_of_the_issue_is_in_the_run() -> None:
    from benchmarks import peers

    words = ("PyTorch eager", "PyTorch compiled", "float, ONNX Runtime", "quantize_dynamic", "quantize_static with defaults",
             "OpenVINO", "NNCF INT8", "hygroma INT8, OpenVINO", "TensorRT", "teacher")  # fmt: skip
    assert [word for word in words if not any(word in name for name in peers.PEERS)] == []


def test_the_rates_are_of_every_number_of_threads_that_is_compared(bench: Bench) -> None:
    from benchmarks.limits import THREADS, rates
    from edge.hardware import usable_cores

    (found,) = rates(bench)
    assert {row[THREADS] for row in found.table} == {1.0, float(min(2, usable_cores())), float(usable_cores())}


def test_streams_run_together_and_account_for_their_pictures(bench: Bench) -> None:
    from benchmarks.streams import together

    (found,) = together(bench, 1, "720p", 15, 1.0)
    assert found["due"] == 15 and found["unaccounted"] == 0 and found["missing"] + found["late"] <= 15
