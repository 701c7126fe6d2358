"""From a student's weights to a bundle that loads, self-tests and scores; and the refusals on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from edge.bundle import load_bundle, write_bundle  # noqa: E402
from edge.bundle.manifest import Calibration, DataSource, ModelInfo, OperatingPoint, Provenance  # noqa: E402
from edge.bundle.trust import SHIPPED_BUNDLE  # noqa: E402
from edge.engines.scorer import Scorer  # noqa: E402
from edge.engines.selftest import infer_all, sigmoid  # noqa: E402
from edge.errors import BundleError, EngineError, GateError, InputError  # noqa: E402
from edge.screen.preprocess import Preprocessing  # noqa: E402
from export.bundle import Ingredients, LabelledCrops, assemble_bundle  # noqa: E402
from export.data import NO_HYGROMA  # noqa: E402
from export.heads.ood import fit_ood  # noqa: E402
from export.int8.quantize import FloatModel  # noqa: E402
from export.model.torch_runner import TorchRunner  # noqa: E402
from export.report.gate import GateLimits  # noqa: E402
from export.report.model_card import model_card  # noqa: E402
from export.report.provenance import DINOV2_INITIALISATION, OF_EVERY_MODEL, PROTOTYPE, phantom  # noqa: E402

pytestmark = pytest.mark.kernels


@pytest.fixture
def ingredients(tiny_student: Any, pictures: Callable[..., np.ndarray]) -> Ingredients:
    state, config = tiny_student
    crops = pictures(64, 48, seed=5)
    with TorchRunner(state, config) as runner:
        p = sigmoid(infer_all(runner, crops).hygroma)
    middle = np.sort(p)[31:33].mean()  # between two images, so that rounding flips none
    return Ingredients(
        student=FloatModel(state, config, pictures(16, 48, seed=1), pictures(16, 48, seed=2)),
        model=ModelInfo("tiny-student", "0.1.0", "ViT 2x64/16"),
        preprocessing=Preprocessing(size=48),
        operating_point=OperatingPoint(hygroma_threshold=float(middle), plane_threshold=0.5),
        temperatures=Calibration(1.0, 1.0),
        decision={"enter": 3.0},
        provenance=Provenance(
            data=(DataSource("Public", "training", 100, "CC BY 4.0", "doi:10.17632/n2rbrb9t4f.1", "cut"), phantom(100)),
            initialisation=DINOV2_INITIALISATION,
            teacher="none",
            recipe="random weights",
            seeds=(0,),
            quantisation="-",
            limits=(PROTOTYPE, NO_HYGROMA, *OF_EVERY_MODEL),
        ),
        evidence=(),
        judged=pictures(16, 48, seed=2),
        assessable=pictures(80, 48, seed=3),
        typical=[pictures(40, 48, seed=4), pictures(20, 48, seed=5)],
        gate=LabelledCrops(crops, (p >= middle).astype(int), [f"picture-{i}" for i in range(64)]),
        golden=crops,
    )


LENIENT = GateLimits(positives_lost=64, flips=1.0, auc_drop=1.0)  # random weights are not what these tests judge


def test_a_bundle_is_assembled_loads_and_scores(
    ingredients: Ingredients, tmp_path: Path, pictures: Callable[..., np.ndarray]
) -> None:
    stages: list[str] = []
    bundle = assemble_bundle(tmp_path / "b", ingredients, limits=LENIENT, progress=stages.append)
    assert stages[0] == "INT8 graph" and stages[-1] == "writing"
    manifest = bundle.manifest
    assert manifest.gate.passed and not manifest.gate.accepted_failing
    assert "8 matrix products" in manifest.provenance.quantisation
    assert "; the log-odds of a hygroma raised by 0." in manifest.provenance.quantisation
    with Scorer.open(tmp_path / "b") as scorer:
        assert scorer.selftest is not None and scorer.selftest.qdq.probability < 1e-3
        scores = scorer.score_batch(pictures(40, 48, seed=4)[:, 0])
        assert np.mean([s.ood > manifest.ood.threshold for s in scores]) <= 0.03  # the images it was set on
        assert scorer.score(np.zeros((48, 48), np.uint8)).ood > manifest.ood.threshold
    card = bundle.files["MODEL_CARD.md"].decode()
    for text in (
        "tiny-student 0.1.0",
        "doi:10.17632/n2rbrb9t4f.1",
        "1 in 285",
        "14%",
        "log-odds of a hygroma raised by",
        "CC BY 4.0",
        "USF-MAE",
        "real cystic hygroma",
    ):
        assert text in card


def test_another_models_outputs_fail_the_self_test(ingredients: Ingredients, tmp_path: Path) -> None:
    bundle = assemble_bundle(tmp_path / "b", ingredients, limits=LENIENT)
    state = {name: value.clone() for name, value in ingredients.student.state.items()}
    state["hygroma_head.2.bias"] += 3.0
    student = dataclasses.replace(ingredients.student, state=state)
    other = assemble_bundle(tmp_path / "c", dataclasses.replace(ingredients, student=student), limits=LENIENT)
    files = dict(bundle.files) | {"model.qdq.onnx": other.model}
    write_bundle(tmp_path / "mixed", bundle.manifest, files)
    with pytest.raises(EngineError, match="probability differs"), Scorer.open(tmp_path / "mixed"):
        pass


def test_a_failing_gate_refuses_names_the_images_and_can_be_accepted(ingredients: Ingredients, tmp_path: Path) -> None:
    impossible = GateLimits(positives_lost=-1)
    with pytest.raises(GateError, match="positives lost at the operating point.*Flipped: "):
        assemble_bundle(tmp_path / "b", ingredients, limits=impossible)
    assert not (tmp_path / "b").exists()
    bundle = assemble_bundle(tmp_path / "b", ingredients, accept_failing_gate=True, limits=impossible)
    assert not bundle.manifest.gate.passed and bundle.manifest.gate.accepted_failing
    assert "FAILED its gate" in bundle.files["MODEL_CARD.md"].decode()


@pytest.mark.parametrize(
    ("lost", "flips", "words"),
    [
        (0, 0, "0 positives lost (95 % bound 1.1%), 0 decisions flipped (exact McNemar p 1), "),
        (0, 1, "1 decisions flipped (exact McNemar p 1), "),
        (2, 2, "2 positives lost (95 % bound 2.4%), 2 decisions flipped (exact McNemar p 0.5), "),
        (0, 3, "3 decisions flipped (exact McNemar p at least 0.25, whichever way each went), "),
    ],
)
def test_the_card_says_what_the_gates_counts_allow(lost: int, flips: int, words: str) -> None:
    shipped = load_bundle(SHIPPED_BUNDLE).manifest
    gate = dataclasses.replace(shipped.gate, positives=260, positives_lost=lost, flips=flips)
    assert words in model_card(dataclasses.replace(shipped, gate=gate))
    none = dataclasses.replace(gate, positives=0, positives_lost=0)
    assert "0 positives lost, " in model_card(dataclasses.replace(shipped, gate=none))  # no bound on a share of nothing


def test_too_few_golden_images_and_too_large_a_bundle_are_refused(ingredients: Ingredients, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found 63; give at least 64"):
        assemble_bundle(tmp_path / "b", dataclasses.replace(ingredients, golden=ingredients.golden[:63]))
    with pytest.raises(BundleError, match="at most 1000 allowed"):
        assemble_bundle(tmp_path / "b", ingredients, limits=LENIENT, max_bytes=1000)


def test_whitened_distance_of_its_own_gaussian_is_about_one() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(0, 1, (12, 12))
    train, test = rng.normal(0, 1, (400, 12)) @ mixing + 5, rng.normal(0, 1, (400, 12)) @ mixing + 5
    stats = fit_ood(train.astype(np.float32))
    assert np.mean(stats.distance(test.astype(np.float32))) == pytest.approx(1.0, abs=0.1)
    assert stats.distance((test[:1] + 100).astype(np.float32))[0] > 5
    with pytest.raises(InputError, match="found 15"):
        fit_ood(train[:15])
