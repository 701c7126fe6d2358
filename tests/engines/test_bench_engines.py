"""What `hygroma bench` measures where there is a TensorRT engine: through a fake GPU, the same cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import models, peers, startup
from benchmarks.case import Bench
from benchmarks.suites import cases, run_case
from edge.bundle import Bundle
from edge.engines import choice
from edge.engines.tensorrt.build import BuildOptions
from edge.engines.tensorrt.cache import EngineCache
from edge.engines.tensorrt.host import Host
from edge.engines.tensorrt.race import race


@pytest.fixture
def bench(
    host: Host, cache: EngineCache, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    monkeypatch.setenv("CACHE_DIRECTORY", str(cache.root.parent))
    monkeypatch.setattr(choice, "this_host", lambda: host)
    monkeypatch.setattr("edge.engines.tensorrt.host.this_host", lambda: host)
    for module in (models, peers, startup):
        monkeypatch.setattr(module, "has_tensorrt", lambda: True)
    folder = tmp_path / "bench"
    folder.mkdir()
    return Bench(tiny_bundle, folder, calls=5, limit_s=1.0)


def test_the_engine_is_timed_among_the_models_and_the_peers(bench: Bench, host: Host, cache: EngineCache) -> None:
    race(host, cache, bench.bundle, BuildOptions("int8"), precisions=["int8"])
    case = next(case for case in cases("models") if "TensorRT" in case.name)
    (found,) = run_case(case, bench)
    assert found.distribution is not None and found.distribution.n == 5
    two = {name: peers.PEERS[name] for name in (peers.OURS, "engine, TensorRT")}
    ours, engine, ratios = peers.side_by_side(bench, two)
    assert ours.distribution is not None and engine.distribution is not None
    rows = {row["system"]: row for row in ratios.table}
    differences = {float(row["largest difference of p"]) for row in rows.values()}
    assert max(differences) - min(differences) < 1e-3  # the fake engine computes the canonical graph


def test_a_gpu_without_an_engine_says_how_to_make_one(bench: Bench) -> None:
    case = next(case for case in cases("models") if "TensorRT" in case.name)
    (found,) = run_case(case, bench)
    assert "build one with `hygroma engine race`" in found.skipped
    (_, _, told) = peers.side_by_side(bench, {peers.OURS: peers.ours, "engine, TensorRT": peers.tensorrt})
    assert "build one with `hygroma engine race`" in told.skipped


def test_the_build_of_an_engine_is_timed(bench: Bench) -> None:
    (found,) = startup.engine_build(bench)
    assert found.distribution is not None and found.distribution.n == 1 and found.name == "build the INT8 engine"
    assert not list(EngineCache(None).entries())  # it built into a folder of its own
