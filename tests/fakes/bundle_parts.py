"""A bundle without a model, which FakeRunner's answers fit: also for the processes that tests start."""

from __future__ import annotations

from functools import cache

import numpy as np
from fakes.runner_fake import FakeRunner

from edge.bundle import manifest as mf
from edge.bundle.arrays import GoldenVectors, OodStats, pack_golden, pack_ood
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
    return dict(_files())


@cache
def _files() -> dict[str, bytes]:
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
