"""A head is one record: a third one in a recipe is trained, exported, quantised, judged, shipped and scored."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("sklearn")

from test_pipeline import TABLES, prepared
from test_training import TINY, bank

from calibration.bank import UNKNOWN, load_bank, save_bank
from calibration.open_dataset import open_dataset, open_datasets
from edge.bundle import ANYONE, load_bundle
from edge.bundle.manifest import SCHEMA_VERSION, WITH_OTHER_HEADS, dump_manifest, parse_manifest
from edge.engines.scorer import Scorer
from edge.engines.selftest import sigmoid
from edge.errors import BundleError, ConfigError, EngineError, GateError, InputError
from edge.records import RawOutputs
from export.model.heads import EVERY_PART, HEADS, KEEPING, REPORTED, Head
from export.model.torch_runner import TorchRunner
from export.model.vit import HygromaViT
from export.model.weights import student_from_teacher
from export.pipeline import REFIT, Pipeline
from export.recipe import HeadRecipe, load_recipe
from export.stages import bundle as bundling
from export.stages import crops as shown
from export.stages import evidence
from export.stamps import Stamps
from export.training.train import Schedule, fit, predict

SHARP = HeadRecipe("sharp", "is_sharp", "a sharp still", KEEPING, EVERY_PART)


def labelled(data: Path) -> None:
    """A column for it: three of every four stills, either way; of the fourth nobody said."""
    path = data / TABLES[0]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row[SHARP.column] = "" if number % 4 == 3 else str(number // 4 % 2)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def pipeline(
    tmp_path_factory: pytest.TempPathFactory, few_draws: None, few_ranges: None, graphs_asked_once: None, made_before: None
) -> Pipeline:
    base = tmp_path_factory.mktemp("third")
    recipe = dataclasses.replace(prepared(base), heads=[SHARP])
    labelled(base / "data")
    out = Pipeline(recipe)
    with pytest.MonkeyPatch.context() as patch:  # the edits and the decision are not what this is about
        patch.setattr(evidence, "checked_stills", lambda data: 0)
        patch.setattr(evidence, "cams_of", lambda model, crops: np.ones((len(crops), 3, 3)))
        patch.setattr(shown, "TYPICAL_PHANTOMS", 16)
        patch.setattr(bundling, "decide_on_exams", lambda draft, base, *_: (base, []))
        out.bundle(accept_failing_gate=True)
    return out


@pytest.mark.requirement("E-02")
def test_a_third_head_is_trained_exported_quantised_judged_shipped_and_scored(pipeline: Pipeline) -> None:
    made = load_bundle(pipeline.work / "bundle", ANYONE)
    manifest = made.manifest
    assert manifest.schema_version == WITH_OTHER_HEADS and set(manifest.heads.others) == {"sharp"}
    assert 0 < manifest.heads.others["sharp"] < 1
    assert parse_manifest(dump_manifest(manifest)) == manifest
    report = json.loads((pipeline.work / "report/validation.json").read_text())
    sets = {part["name"]: part for part in report["sets"]}
    assert sets["sharp, folds"]["task"] == "a sharp still" and sets["sharp, folds"]["gated"] == EVERY_PART
    assert 0 < sets["sharp, validation"]["positives"] < sets["sharp, validation"]["n"] < sets["plane, validation"]["n"]
    assert "sharp, folds" in {table.name for table in manifest.evidence}
    assert "sharp, folds" in made.files["MODEL_CARD.md"].decode()
    golden = made.golden()
    student = pipeline.student(REFIT)
    with TorchRunner(student.state_dict(), student.config) as reference:
        float_said = reference.infer(golden.inputs).others["sharp"]
    np.testing.assert_allclose(float_said, golden.fp32.others["sharp"], atol=1e-4)
    with Scorer.open(pipeline.work / "bundle") as scorer:  # its self-test is of this head too
        scores = scorer.score_batch(golden.inputs[:4, 0])
    found = [score.others["sharp"] for score in scores]
    np.testing.assert_allclose(found, sigmoid(golden.qdq.others["sharp"][:4]), atol=1e-3)
    assert np.ptp(found) > 0


def test_a_bundle_whose_runtime_gives_no_third_head_does_not_start(pipeline: Pipeline) -> None:
    bundle = load_bundle(pipeline.work / "bundle", ANYONE)

    class Without:
        name, note, qdq_limit, input_size = "two-headed", "", None, bundle.manifest.input.size

        def __enter__(self) -> Without:
            return self

        def __exit__(self, *exc: object) -> None: ...

        def infer(self, crops: np.ndarray) -> RawOutputs:
            n, heads = len(crops), bundle.manifest.heads
            shapes = ((n,), (n,), (n, heads.embedding), (n, heads.map_grid, heads.map_grid))
            return RawOutputs(*(np.zeros(shape, np.float32) for shape in shapes))

    words = "two-headed: found outputs plane, .* heads give plane, .*, sharp; set engine.runtime: onnxruntime"
    with pytest.raises(EngineError, match=words), Scorer(bundle, Without()):
        pass


def test_each_schema_has_its_own_heads(pipeline: Pipeline) -> None:
    content = json.loads((pipeline.work / "bundle/manifest.json").read_text())
    with pytest.raises(BundleError, match="heads: found {'others'.*sharp.*; schema 3 names absent outputs"):
        parse_manifest(json.dumps({**content, "schema_version": SCHEMA_VERSION}).encode())
    content["heads"]["others"]["sharp"] = 1.5
    with pytest.raises(BundleError, match=r"heads.others.sharp: found 1.5"):
        parse_manifest(json.dumps(content).encode())


def test_a_head_with_a_gate_of_its_own_refuses_the_bundle(pipeline: Pipeline) -> None:
    def part(name: str) -> dict[str, Any]:
        verdict = {"passed": False, "reasons": ["1 positives lost"], "flipped": ["real:0"]}
        return {"name": name, "gated": EVERY_PART, "conversions": {"INT8": {"all folds": {"gate": verdict}}}}

    report = {"sets": [part("plane, folds"), part("sharp, folds"), part("sharp, validation")]}
    with pytest.raises(GateError, match=r"out of fold: sharp, folds, INT8, all folds: 1 positives lost \(flipped: real:0\)\."):
        bundling.out_of_fold(report, pipeline.heads, False)
    assert len(bundling.out_of_fold(report, pipeline.heads, True)) == 1
    told = dataclasses.replace(SHARP, gate=REPORTED).head
    assert bundling.out_of_fold(report, (*HEADS, told), False) == []


@pytest.mark.parametrize("blocks", [(0, 1), (1,)])
def test_a_third_head_learns_its_own_label_and_passes_to_a_student(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    """Every other pair of pictures is bright at the top, whatever the centre, which says hygroma, shows."""
    head, found = Head("corner", "corner"), bank(32)
    entries = []
    for i, entry in enumerate(found.entries):
        found.crops[i, :80] = 250 if i // 2 % 2 else 0
        entries.append(dataclasses.replace(entry, labels={} if i == 0 else {"corner": float(i // 2 % 2)}))
    taught = dataclasses.replace(found, entries=entries)
    torch.manual_seed(0)
    model = HygromaViT(dataclasses.replace(TINY, others=(head,)))
    fit(model, taught, np.arange(32), Schedule(60, batch=8, lr=2e-3, new_heads=5.0), tmp_path / "c.pt")
    crops = found.crops[:, ::5, ::5][:, :48, :48]
    said = predict(model, crops)["corner"]
    labels = np.array([e.label("corner") for e in entries])
    assert labels[0] == UNKNOWN and said[labels == 1].mean() > said[labels == 0].mean() + 1
    student = HygromaViT(dataclasses.replace(model.config, depth=len(blocks), width=32, heads=1, tap=0))
    with pytest.raises(RuntimeError, match="tap_norm"):  # that of the teacher has no place in it
        student_from_teacher(student, model, blocks)
    student = HygromaViT(dataclasses.replace(model.config, depth=len(blocks), width=32, heads=1))
    student_from_teacher(student, model, blocks)
    assert student.state_dict()["other_heads.corner.weight"].shape == (1, 64)


def test_labels_of_a_third_head_come_from_the_table_and_lie_in_the_bank(tmp_path: Path) -> None:
    base = tmp_path
    prepared(base)
    table = base / "data" / TABLES[0]
    with pytest.raises(InputError, match="no image has is_sharp, which the recipe's heads name; add the column"):
        open_datasets([table], columns=["is_sharp"])
    labelled(base / "data")
    images = open_dataset(table, columns=["is_sharp"]).images
    assert [image.labels for image in images[:5]] == [{"is_sharp": 0.0}] * 3 + [{}, {"is_sharp": 1.0}]
    text = table.read_text()
    table.write_text(text.replace(",0\n", ",perhaps\n", 1).replace(",0\r\n", ",perhaps\r\n", 1))
    with pytest.raises(InputError, match="line 2: is_sharp 'perhaps'; expected 1 or 0, or nothing"):
        open_dataset(table, columns=["is_sharp"])
    old = bank(4)
    save_bank(old, base / "old")
    assert "labels" not in (base / "old/entries.json").read_text() and load_bank(base / "old").entries == old.entries
    entries = [dataclasses.replace(e, labels={"is_sharp": 1.0}) for e in old.entries]
    save_bank(dataclasses.replace(old, entries=entries), base / "new")
    assert load_bank(base / "new").entries == entries


def test_a_recipe_names_its_heads_and_stamps_keep_them(tmp_path: Path) -> None:
    recipe = prepared(tmp_path)
    labelled(tmp_path / "data")
    assert "heads" not in Stamps(recipe).keys("bundle")
    assert Stamps(dataclasses.replace(recipe, heads=[SHARP])).keys("teacher")["heads"][0]["name"] == "sharp"
    text = "data: d\nwork: w\nname: made-up\nversion: 1.0.0\nteacher: {init: t.pt}\nheads:\n- {name: %s, column: c, task: t%s}\n"
    path = tmp_path / "r.yaml"
    path.write_text(text % ("sharp", ", gate: together"))
    loaded = load_recipe(path)
    assert [head.name for head in loaded.student_config.answers] == ["hygroma", "plane", "sharp"]
    for name, more, words in (
        ("plane", "", r"heads\[0\].name: found 'plane'; give a name of its own"),
        ("Sharp", "", r"heads\[0\].name: found 'Sharp'"),
        ("sharp", ", gate: never", r"heads\[0\].gate: found never; expected one of every part, together, reported"),
        ("sharp", ", threshold: high", r"heads\[0\].threshold: found high; expected specific or keeping"),
        ("sharp", "}\n- {name: sharp, column: d, task: t", r"heads\[1\].name: found 'sharp'"),
    ):
        path.write_text(text % (name, more))
        with pytest.raises(ConfigError, match=words):
            load_recipe(path)


