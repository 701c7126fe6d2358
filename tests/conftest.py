"""Fixtures that more than one folder of tests needs: a bundle without a model, and a student small enough to export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bundle import Bundle, write_bundle
from edge.bundle import manifest as mf
from edge.bundle.arrays import GoldenVectors, OodStats, pack_golden, pack_ood
from edge.engines.fake_runner import FakeRunner
from edge.engines.selftest import infer_all
from edge.screen.preprocess import Preprocessing

SIZE, DIM, GRID = 64, 16, 4  # FakeRunner's defaults


def noise(n: int, size: int, seed: int = 0) -> np.ndarray:
    """uint8 [n,1,size,size]: smooth-ish random pictures that differ from each other in brightness and texture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (n, 1, size // 8, size // 8)).repeat(8, 2).repeat(8, 3)
    return np.clip(coarse + rng.normal(0, 20, (n, 1, size, size)), 0, 255).astype(np.uint8)


def fake_manifest() -> mf.Manifest:
    """A valid manifest for FakeRunner's shapes; `files` is empty (write_bundle fills it in)."""
    tolerance = mf.Tolerance(probability=0.02, embedding=0.02, map=0.05)
    return mf.Manifest(
        schema_version=mf.SCHEMA_VERSION,
        model=mf.ModelInfo("fake-student", "1.2.3", "no model at all"),
        input=mf.InputSpec("image", "uint8", SIZE),
        preprocessing=Preprocessing(size=SIZE, pad=0),
        heads=mf.Heads(embedding=DIM, map_grid=GRID),
        operating_point=mf.OperatingPoint(hygroma_threshold=0.6, plane_threshold=0.5),
        calibration=mf.Calibration(plane_temperature=1.0, hygroma_temperature=2.0),
        decision={"enter": 4.0, "leave": 1},
        ood=mf.Ood(threshold=3.0),
        golden=mf.Golden(64, tolerance, tolerance),
        provenance=mf.Provenance(
            data=(mf.DataSource("noise", "self-test", 64, "CC0", "none", "none"),),
            initialisation="none",
            teacher="none",
            recipe="none",
            seeds=(0,),
            quantisation="none",
            limits=("It is a fake.",),
        ),
        evidence=(mf.EvidenceTable("t", "phantom", "d", (mf.EvidenceRow("ROC-AUC", "fold 0", 10, 0.9, 0.7, 0.99),)),),
        gate=mf.GateResult(True, False, 100, 50, 0, 0, 0.0, 0.01, 0.005, (), ()),
        files={},
    )


def fake_files() -> dict[str, bytes]:
    """The files of a bundle whose golden vectors are FakeRunner's answers; its model file is not a model."""
    inputs = noise(64, SIZE)
    with FakeRunner() as runner:
        outputs = infer_all(runner, inputs)
    stats = OodStats(outputs.embedding.mean(0), np.eye(DIM, dtype=np.float32) / outputs.embedding.std())
    return {
        mf.MODEL_FILE: b"not a model",
        mf.GOLDEN_FILE: pack_golden(GoldenVectors(inputs, outputs, outputs)),
        mf.OOD_FILE: pack_ood(stats),
        mf.CARD_FILE: b"# fake\n",
    }


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
    from export.vit import HygromaViT, ViTConfig

    config = ViTConfig(image=48, patch=16, width=64, depth=2, heads=2, tap=1)
    generator = torch.Generator().manual_seed(0)
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
    from export.onnx_graph import build_float_graph

    return build_float_graph(*tiny_student)


@pytest.fixture(scope="session")
def tiny_int8_graph(tiny_student: tuple[dict[str, Any], Any]) -> Any:
    """The tiny student's canonical INT8 graph."""
    from export.quantize import quantize_best

    return quantize_best(*tiny_student, noise(32, 48, seed=1), noise(32, 48, seed=2)).model
