"""The scorer: self-test first, then probabilities by the manifest's calibration."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.runner_fake import FakeRunner

from edge.bundle import Bundle, write_bundle
from edge.engines.scorer import Scorer
from edge.engines.selftest import sigmoid
from edge.errors import EngineError
from edge.records import RawOutputs


def logits(crop: np.ndarray) -> tuple[float, float]:
    return 1.0, 3.0


def without_selftest_mismatch(parts: Any, runner: FakeRunner, path: Path) -> Bundle:
    """A bundle whose golden vectors are `runner`'s own."""
    from edge.bundle.arrays import GoldenVectors, pack_golden
    from edge.engines.selftest import infer_all

    manifest, files = parts
    inputs = np.random.default_rng(0).integers(0, 256, (64, 1, 64, 64), dtype=np.uint8)
    with runner:
        outputs = infer_all(runner, inputs)
    return write_bundle(path, manifest, files | {"golden.npz": pack_golden(GoldenVectors(inputs, outputs, outputs))})


def test_scores_follow_the_calibration(fake_bundle_parts: Any, tmp_path: Path) -> None:
    runner = FakeRunner(respond=logits)
    bundle = without_selftest_mismatch(fake_bundle_parts, runner, tmp_path / "b")
    with Scorer(bundle, runner) as scorer:
        scores = scorer.score(np.zeros((64, 64), np.uint8))
    assert scores.plane == pytest.approx(1 / (1 + math.exp(-1.0)))
    assert scores.hygroma == pytest.approx(1 / (1 + math.exp(-1.5)))  # hygroma_temperature is 2
    assert scores.nuchal_map.shape == (4, 4) and scores.nuchal_map.dtype == np.float32
    assert scores.nuchal_map[0, 0] == pytest.approx(1 / (1 + math.exp(-1.0)))
    assert scores.ood > 0 and scores.ms > 0


def test_a_batch_scores_as_its_crops_do(fake_bundle: Bundle, pictures: Any) -> None:
    crops = pictures(3, 64)[:, 0]
    with Scorer(fake_bundle, FakeRunner()) as scorer:
        for one, many in zip([scorer.score(c) for c in crops], scorer.score_batch(crops), strict=True):
            assert (one.plane, one.hygroma, one.ood) == pytest.approx((many.plane, many.hygroma, many.ood))


def test_distance_is_one_at_home_and_large_far_away(fake_bundle: Bundle) -> None:
    stats = fake_bundle.ood()
    assert stats.distance(stats.mean[None])[0] == 0
    z = np.linalg.pinv(stats.whitening) @ np.ones(16)
    assert stats.distance((stats.mean + z)[None])[0] == pytest.approx(1.0, abs=1e-4)


def test_the_self_test_measures_and_is_kept(fake_bundle: Bundle) -> None:
    with Scorer(fake_bundle, FakeRunner()) as scorer:
        assert scorer.selftest is not None and scorer.selftest.count == 64
        assert scorer.selftest.qdq.probability == scorer.selftest.qdq.embedding == 0.0


class Wrong(FakeRunner):
    """A FakeRunner whose outputs `spoil` changes."""

    def __init__(self, spoil: Any):
        super().__init__()
        self.spoil = spoil

    def infer(self, crops: np.ndarray) -> RawOutputs:
        return self.spoil(super().infer(crops))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda o: dataclasses.replace(o, hygroma=o.hygroma + 1), "probability differs from PyTorch's FP32 outputs by"),
        (lambda o: dataclasses.replace(o, plane=-o.plane), "probability differs from the canonical graph's outputs"),
        (
            lambda o: dataclasses.replace(o, embedding=o.embedding * 1.1),
            r"embedding differs .* by 0\.1 \(limit 0\.02\)",
        ),
        (lambda o: dataclasses.replace(o, nuchal_map=o.nuchal_map[:, ::-1]), "map differs"),
        (lambda o: dataclasses.replace(o, plane=o.plane * np.nan), "plane: found values that are not finite"),
        (lambda o: dataclasses.replace(o, embedding=o.embedding[:, :8]), r"embedding: found shape \[64, 8\]"),
    ],
    ids=["shifted", "swapped sign", "scaled", "map upside down", "NaN", "other shape"],
)
@pytest.mark.requirement("T-11")
def test_an_engine_that_computes_something_else_does_not_start(fake_bundle: Bundle, spoil: Any, message: str) -> None:
    runner = Wrong(spoil)
    with pytest.raises(EngineError, match=message), Scorer(fake_bundle, runner):
        pass
    with pytest.raises(EngineError, match="outside its `with` block"):  # and was released
        FakeRunner.infer(runner, np.zeros((1, 1, 64, 64), np.uint8))


def test_an_engine_of_another_size_does_not_start(fake_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="takes 32 pixels; the manifest's input.size says 64"):
        Scorer(fake_bundle, FakeRunner(size=32)).__enter__()


def test_an_answer_that_is_not_finite_is_an_error_not_a_score(fake_bundle: Bundle) -> None:
    runner = Wrong(lambda o: o)
    with Scorer(fake_bundle, runner) as scorer:
        runner.spoil = lambda o: dataclasses.replace(o, embedding=o.embedding * np.inf)
        with pytest.raises(EngineError, match="not finite"):
            scorer.score(np.full((64, 64), 9, np.uint8))


def test_a_crop_of_another_shape_is_refused(fake_bundle: Bundle) -> None:
    with Scorer(fake_bundle, FakeRunner()) as scorer, pytest.raises(EngineError, match="expected uint8"):
        scorer.score(np.zeros((64, 63), np.uint8))


def test_sigmoid_never_overflows() -> None:
    with np.errstate(all="raise"):
        assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
