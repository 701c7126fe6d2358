"""The whole pipeline on a data set and a model small enough for a test: what it leaves, what it takes up again, and what
it refuses to."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("sklearn")

from calibration.honesty import UNSHOWN, Check, Specimens
from edge.bundle import ANYONE, load_bundle
from edge.bundle.manifest import EvidenceRow, EvidenceTable
from edge.cli import main
from edge.engines.selftest import sigmoid
from edge.errors import BundleError, ConfigError, GateError, InputError
from export import bundle as assembling
from export import phantoms
from export.atomic import remove
from export.int8.ort_graph import run_graph
from export.int8.quantize import lint_qdq
from export.model.heads import HEADS
from export.model.vit import HygromaViT
from export.model.weights import _OURS  # noqa: E402
from export.pipeline import REFIT, Pipeline
from export.recipe import PhantomRecipe, QatRecipe, Recipe, StudentRecipe, TeacherRecipe
from export.report.gate import gate
from export.report.validate import EvaluationSet, validation_report
from export.stages import bundle as bundling
from export.stages import evidence
from export.stages.crops import Crops
from export.stamps import STAMP, VERSIONS
from export.training.train import predict

pytestmark = pytest.mark.usefixtures("few_draws", "few_ranges", "graphs_asked_once", "made_before", "short_exams")

SHAPE = (160, 200)  # rows, columns of a still: enough for the lesion operator's reach
NT, THALAMI = (60.0, 90.0, 150.0, 104.0), (80.0, 40.0, 124.0, 62.0)


def still(rng: np.random.Generator, standard: bool) -> np.ndarray:
    """Speckle; on a standard plane a dark band between two bright lines, thicker or thinner."""
    image = cv2.GaussianBlur(rng.normal(90, 60, SHAPE).astype(np.float32), (0, 0), 1.5)
    if standard:
        image[86:108, 50:160] += 60
        image[92 : 100 + rng.integers(0, 4), 50:160] = rng.integers(4, 14)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


TABLES = ("stills.csv", "elsewhere.csv")  # of the data set that `write_data` writes


def write_data(folder: Path, stills: int = 32, validation: int = 8) -> Path:
    """Two tables: of nuchal views, every fourth no standard plane, the last ones held out; of four axial heads to train on, and
    six cysts held out. Nobody has a hygroma."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    others: list[dict[str, object]] = []
    (folder / "ultrasound").mkdir(parents=True)
    for number in range(stills + validation + 4):
        head = number >= stills + validation
        standard = not head and number % 4 != 3
        name = f"ultrasound/{number:04d}.png"
        cv2.imwrite(str(folder / name), still(rng, standard))
        if head:
            others.append({"path": name, "patient": f"P{number}", "plane": "other", "split": "train", "site": "heads"})
            continue
        boxes = {"nt_box": NT, "thalami_box": THALAMI} if standard else {}
        rows.append({
            "path": name,
            "patient": f"P{number}",
            "hygroma": 0 if standard else "",
            "plane": "standard" if standard else "other",
            "split": "train" if number < stills else "holdout",
            **{key: " ".join(f"{side:g}" for side in boxes.get(key, ())) for key in ("nt_box", "thalami_box")},
            "nt_mm": round(float(rng.uniform(1.2, 3.0)), 3) if standard else "",
        })  # fmt: skip
    for number in range(6):
        name = f"ultrasound/cyst{number}.png"
        cv2.imwrite(str(folder / name), still(rng, False))
        others.append({"path": name, "patient": f"C{number}", "plane": "other", "split": "holdout", "site": "cysts"})
    for name, table in zip(TABLES, (rows, others), strict=True):
        write_table(folder / name, table)
    return folder


def tiny(base: Path, **changes: Any) -> Recipe:
    recipe = Recipe(
        tap=1,
        data=[str(base / "data" / name) for name in TABLES],
        work=str(base / "work"),
        name="tiny",
        version="0.0.1",
        teacher=TeacherRecipe(str(base / "init.pt"), width=64, depth=2, heads=2, epochs=1, frozen_blocks=1),
        image=48,
        batch=8,
        threads=1,
        folds=[0, 1],
        student=StudentRecipe(blocks=[0, 1], epochs=1, frozen_blocks=0),
        phantom=PhantomRecipe(training_frames=4, fitting_exams=2, measuring_hygromas=1, measuring_healthy=1),
    )
    return dataclasses.replace(recipe, **changes)


def prepared(base: Path) -> Recipe:
    """The tiny recipe, with data and a checkpoint to start from."""
    write_data(base / "data")
    recipe = tiny(base)
    torch.manual_seed(0)
    state = HygromaViT(recipe.teacher_config).state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith(_OURS)}, base / "init.pt")
    return recipe


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """That work folder for a test's own use. Linked: the pipeline replaces files, it never writes into one."""
    return Path(shutil.copytree(finished / "work", tmp_path / "work", copy_function=os.link))


@pytest.fixture
def no_exams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering exams is most of a bundle's time and not what the test is about."""

    def decide(draft: Path, base: Any, spec: Any, exams: Any, kept: Path, workers: int, progress: Any) -> Any:
        row = EvidenceRow("exam sensitivity", "measuring exams", exams.measuring_hygromas, 0.5, None, None)
        return base, [EvidenceTable("phantom exams", "phantom", f"would fit on {exams.fitting_exams}", (row,))]

    monkeypatch.setattr(bundling, "decide_on_exams", decide)


def edit(recipe: Recipe, key: str, value: object) -> Recipe:
    """The recipe with one key changed: edit(recipe, "teacher.lr", 1e-3)."""
    first, _, rest = key.partition(".")
    if rest:
        value = dataclasses.replace(getattr(recipe, first), **{rest: value})
    return dataclasses.replace(recipe, **{first: value})


def inodes(folder: Path) -> dict[str, int]:
    """Which files there are: a file that was made again has another number."""
    return {str(p.relative_to(folder)): p.stat().st_ino for p in folder.rglob("*") if p.is_file()}


WEIGHTS = ("bank/", "bank_phantom/", "teacher/", "student/", "qdq/", "predictions/")


def weights(folder: Path) -> dict[str, int]:
    return {name: number for name, number in inodes(folder).items() if name.startswith(WEIGHTS)}


def test_every_stage_leaves_its_outputs_and_nothing_unfinished(finished: Path) -> None:
    names = set(inodes(finished / "work"))
    runs = ("refit", "fold0", "fold1")
    for folder, suffix in (
        ("teacher", "pt"),
        ("student", "pt"),
        ("heads", "pt"),
        ("qdq", "onnx"),
        ("predictions", "npz"),
    ):
        assert {f"{folder}/{run}.{suffix}" for run in runs} | {f"{folder}/{STAMP}"} <= names
    assert {"exams/fitting.jsonl", "exams/measuring.jsonl", f"exams/{STAMP}"} <= names
    tables = load_bundle(finished / "work/bundle", ANYONE).manifest.evidence
    assert [t.name for t in tables][-2:] == ["phantom exams", "decision rules"] and len(tables[-1].rows) == 2 * 4
    assert f"bundle.{STAMP}" in names and not any("partial" in name or "draft" in name for name in names)
    assert load_bundle(finished / "work/bundle", ANYONE).manifest.model.id == "tiny"


def test_the_validation_split_is_called_so_in_report_and_card(finished: Path) -> None:
    report = json.loads((finished / "work/report/validation.json").read_text())
    splits = {part["name"]: list(part["steps"]["INT8"]) for part in report["sets"]}
    assert splits["hygroma, folds"] == ["all folds", "fold 0", "fold 1"]
    assert splits["hygroma, validation"] == splits["plane, validation"] == ["validation"]
    card = (finished / "work/bundle/MODEL_CARD.md").read_text()
    assert "| validation | ROC-AUC |" in card and "fold 4" not in card


def test_what_the_lesions_are_told_from_is_in_report_and_bundle(finished: Path) -> None:
    found = json.loads((finished / "work/report/validation.json").read_text())["controls"]
    kinds = ["shams only", "untouched stills only", "calipers painted out"]
    assert [(r["split"], r["negatives"]) for r in found] == [(split, kind) for split in ("folds", "validation") for kind in kinds]
    tables = {t.name: t for t in load_bundle(finished / "work/bundle", ANYONE).manifest.evidence}
    table = tables["simulated lesions, by what they are told from"]
    assert [r.value for r in table.rows if r.metric == "ROC-AUC"] == [r["roc_auc"]["value"] for r in found]
    counted = {r["negatives"]: r["specificity"]["n"] for r in found if r["split"] == "folds"}
    main = {(r.split, r.metric): r.n for r in tables["hygroma, folds"].rows}
    assert counted["shams only"] + counted["untouched stills only"] == main["all folds", "specificity"]
    assert "**simulated lesions, by what they are told from.**" in (finished / "work/bundle/MODEL_CARD.md").read_text()


def test_other_anatomy_is_in_report_and_bundle(finished: Path) -> None:
    found = json.loads((finished / "work/report/validation.json").read_text())["unfamiliar"]
    assert [(row["n"], row["patients"]) for row in found["rows"]] == [(6, 6)] and found["planes"] == 6
    manifest = load_bundle(finished / "work/bundle", ANYONE).manifest
    table = next(t for t in manifest.evidence if t.name == "other anatomy")
    assert {r.metric: r.value for r in table.rows}["called assessable"] == found["rows"][0]["shipped"]["value"]
    html = (finished / "work/report/validation.html").read_text()
    assert "cysts" in html and "Site shift was not measured" in html


def test_the_report_says_the_shipped_thresholds_and_the_recipes_settings(finished: Path) -> None:
    found = json.loads((finished / "work/report/validation.json").read_text())["design"]
    point = load_bundle(finished / "work/bundle", ANYONE).manifest.operating_point
    html = (finished / "work/report/validation.html").read_text()
    for threshold in (point.hygroma_threshold, point.plane_threshold):
        assert f"head: {threshold:.3f}, " in found["thresholds"]
    assert "hygroma head: " in html and "folds 0, 1." in html and "<td>teacher.lr</td><td>0.0003</td>" in html


def test_the_report_says_what_the_shipped_graph_and_the_folds_lean_by(finished: Path) -> None:
    found = json.loads((finished / "work/report/validation.json").read_text())["lean"]
    shipped = load_bundle(finished / "work/bundle", ANYONE).manifest.provenance.quantisation
    assert list(found) == ["refit", "fold0", "fold1"] and f"raised by {found['refit']:.3f}" in shipped


def test_the_report_says_whether_the_edits_give_themselves_away(finished: Path) -> None:
    checks = json.loads((finished / "work/report/validation.json").read_text())["honesty"]
    asked = {(c["question"], c["features"]) for c in checks}
    assert {("sham against untouched", "backbone, close-up"), ("lesion against sham", "nuisance only")} < asked
    assert "lesion against sham</td><td>nuisance only" in (finished / "work/report/validation.html").read_text()


def test_lesion_checks_are_made_once_and_those_of_another_start_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "init.pt").write_bytes(b"")
    pipeline = Pipeline(tiny(tmp_path))
    found = Check("sham against untouched", "texture", 60, 30, 0.55, 0.5, 0.62, UNSHOWN)
    asked: list[int] = []
    monkeypatch.setattr(evidence, "make_specimens", lambda stills, count, *_: asked.append(count) or Specimens([], [], []))
    monkeypatch.setattr(evidence, "backbone_features", lambda _: None)
    monkeypatch.setattr(evidence, "check_lesions", lambda *_, **__: [found])
    assert pipeline.honesty() == pipeline.honesty() == [dataclasses.asdict(found)]
    assert asked == [30]
    (tmp_path / "init.pt").write_bytes(b"another checkpoint")
    with pytest.raises(ConfigError, match="teacher.init: found 'SHA-256 .* delete .*honesty"):
        Pipeline(tiny(tmp_path)).honesty()


def test_the_report_says_where_the_model_looked(finished: Path) -> None:
    found = json.loads((finished / "work/report/validation.json").read_text())["localisation"]
    rows = {row["method"]: row for row in found["rows"]}
    assert rows["Nuchal map, student INT8; folds"]["n"] == rows["Nuchal map, teacher; folds"]["n"] > 0
    explained = rows["Score-CAM, student FP32; validation"]
    assert explained["n"] == rows[f"Nuchal map, student FP32; validation, the {explained['n']} explained"]["n"]
    for row in rows.values():
        assert 0 < row["mass_chance"] < 1 and 0 <= row["mass"]["value"] <= 1
    assert found["agreement"]["n"] == rows["Nuchal map, student INT8; folds"]["n"]
    html = (finished / "work/report/validation.html").read_text()
    assert html.count("data:image/jpeg;base64,") == len(found["panels"]) > 1 and "Simulated lesion, " in html


def test_a_rerun_makes_nothing_again(finished: Path, work: Path) -> None:
    before = inodes(work)
    moved = shutil.copytree(finished / "data", work.parent / "elsewhere")  # where the data lies decides nothing
    Pipeline(tiny(finished, work=str(work), data=[str(moved / name) for name in TABLES], threads=2)).run(accept_failing_gate=True)
    after = inodes(work)
    written = ("report/", "recipe.yaml")  # the report, and where the data lie now
    assert {n: i for n, i in after.items() if not n.startswith(written)} == {
        n: i for n, i in before.items() if not n.startswith(written)
    }


@pytest.mark.parametrize(
    ("key", "value", "stage", "words"),
    [
        ("seed", 1, "bank", "seed: found 0, the recipe says 1"),
        ("image", 64, "teacher", "image: found 48, the recipe says 64"),
        ("tap", 2, "teacher", "tap: found 1, the recipe says 2"),
        ("batch", 4, "teacher", "batch: found 8, the recipe says 4"),
        ("teacher.lr", 1e-3, "teacher", "teacher.lr: found 0.0003, the recipe says 0.001"),
        ("teacher.epochs", 2, "teacher", "teacher.epochs: found 1, the recipe says 2"),
        ("phantom.training_frames", 3, "bank_phantom", "phantom.training_frames: found 4, the recipe says 3"),
        ("student.blocks", [1], "student", "student.blocks: found [0, 1], the recipe says [1]"),
        ("student.layer_decay", 0.5, "student", "student.layer_decay: found 0.75, the recipe says 0.5"),
    ],
)
def test_outputs_of_other_settings_are_refused(
    finished: Path, work: Path, key: str, value: object, stage: str, words: str
) -> None:
    before = inodes(work)
    pipeline = Pipeline(edit(tiny(finished, work=str(work)), key, value))
    direct: dict[str, Callable[[], object]] = {
        "bank": pipeline.bank,
        "bank_phantom": pipeline.bank,
        "teacher": lambda: pipeline.teacher(0),
        "student": lambda: pipeline.student(0),
    }
    for call in (pipeline.run, direct[stage], pipeline.validate, pipeline.bundle):
        with pytest.raises(ConfigError) as error:
            call()
        said = str(error.value)
        assert words in said and f"/{STAMP}: " in said
        assert "give another `work` in the recipe, or delete " in said and str(work / "predictions") in said
    assert inodes(work) == before
    with pytest.raises(ConfigError, match=str(work / stage / STAMP)):
        pipeline.run()


def test_deleting_what_the_message_names_is_enough(finished: Path, work: Path, no_exams: None) -> None:
    pipeline = Pipeline(edit(tiny(finished, work=str(work)), "student.epochs", 2))
    with pytest.raises(ConfigError) as error:
        pipeline.run()
    named = str(error.value).split("or delete ")[1].split(" to have")[0].split(", ")
    assert named == [str(work / name) for name in ("student", "heads", "qdq", "predictions", "other_anatomy", "exams")]
    kept = {name: number for name, number in weights(work).items() if name.startswith(WEIGHTS[:3])}
    for name in named:
        shutil.rmtree(name)
    pipeline.run(accept_failing_gate=True)
    assert kept.items() <= weights(work).items()  # nobody was taught again
    assert torch.load(work / "student/fold0.pt", weights_only=True)["epoch"] == 2
    assert "2 epochs of labels" in load_bundle(work / "bundle", ANYONE).manifest.provenance.recipe


def test_other_data_or_another_checkpoint_under_the_same_name_is_refused(finished: Path, work: Path) -> None:
    base = work.parent
    shutil.copytree(finished / "data", base / "data")
    torch.save({**torch.load(finished / "init.pt"), "cls_token": torch.ones(1, 1, 64)}, base / "init.pt")
    with pytest.raises(ConfigError, match=r"teacher/recipe.json: teacher.init: found 'SHA-256 \w{16}'"):
        Pipeline(tiny(base)).run("train")
    shutil.copyfile(base / "data/ultrasound/0002.png", base / "data/ultrasound/0003.png")  # another image under the same name
    with pytest.raises(ConfigError, match=r"bank/recipe.json: data: found 'SHA-256 \w{16}'"):
        Pipeline(tiny(base)).run("bank")


def test_other_anatomy_that_is_only_judged_is_a_key_of_its_own_stage_alone(finished: Path, work: Path) -> None:
    base = work.parent
    shutil.copytree(finished / "data", base / "data")
    shutil.copyfile(finished / "init.pt", base / "init.pt")
    shutil.copyfile(base / "data/ultrasound/cyst0.png", base / "data/ultrasound/cyst9.png")
    with (base / "data" / TABLES[1]).open("a") as file:
        file.write("ultrasound/cyst9.png,C0,other,holdout,cysts\n")
    Pipeline(tiny(base)).run("quantize")
    with pytest.raises(ConfigError, match=r"other_anatomy/recipe.json: other anatomy: found 'SHA-256 \w{16}'"):
        Pipeline(tiny(base)).run("validate")


@pytest.mark.parametrize(
    "stage", ["bank", "bank_phantom", "teacher", "student", "heads", "qdq", "predictions", "exams", "bundle"]
)
def test_outputs_without_a_stamp_are_refused(finished: Path, work: Path, stage: str) -> None:
    stamp = work / f"bundle.{STAMP}" if stage == "bundle" else work / stage / STAMP
    stamp.unlink()
    before = weights(work)
    with pytest.raises(ConfigError) as error:
        Pipeline(tiny(finished, work=str(work))).run()
    assert str(error.value).startswith(f"{stamp}: missing, so what lies in {work / stage} may be another recipe's; ")
    assert f"or delete {work / stage}" in str(error.value)
    assert weights(work) == before


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_stamp_that_cannot_be_read_is_refused(finished: Path, work: Path, text: str) -> None:
    stamp = work / "qdq" / STAMP
    stamp.unlink()  # a link: what it is linked to stays
    stamp.write_text(text)
    with pytest.raises(ConfigError, match=f"{stamp}: not readable as a JSON object; give another"):
        Pipeline(tiny(finished, work=str(work))).qdq(0)


def test_outputs_of_older_code_are_refused(finished: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    was = VERSIONS["qdq"]
    monkeypatch.setitem(VERSIONS, "qdq", was + 1)
    pipeline = Pipeline(tiny(finished, work=str(work)))
    pipeline.run("distill")
    said = f"qdq/{STAMP}: code of qdq: found {was}, this version has {was + 1}; .*/qdq, .*/predictions"
    with pytest.raises(ConfigError, match=said):
        pipeline.run("quantize")


def test_a_bundle_without_a_stamp_is_refused_before_hours_of_training(finished: Path, work: Path) -> None:
    for name in ("teacher", "student", "heads", "qdq", "predictions"):
        shutil.rmtree(work / name)
    (work / f"bundle.{STAMP}").unlink()
    with pytest.raises(ConfigError, match=f"bundle.{STAMP}: missing"):
        Pipeline(tiny(finished, work=str(work))).run()
    assert not (work / "teacher").exists()


def test_an_earlier_stage_does_not_ask_about_later_ones(finished: Path, work: Path) -> None:
    (work / "student" / STAMP).unlink()
    Pipeline(tiny(finished, work=str(work))).run("train")


def test_a_stamp_of_a_run_that_made_nothing_binds_nobody(finished: Path, work: Path) -> None:
    for name in ("teacher", "student", "heads", "qdq", "predictions"):
        shutil.rmtree(work / name)
    first = Pipeline(tiny(finished, work=str(work)))
    first.stamps.claim("teacher")
    (work / "teacher/refit.partial").write_bytes(b"killed in its first epoch")
    other = Pipeline(edit(tiny(finished, work=str(work)), "teacher.lr", 1e-3))
    other.teacher(0)
    assert json.loads((work / "teacher" / STAMP).read_text())["teacher.lr"] == 1e-3


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "renamed"), ("version", "9.9.9"), ("phantom.fitting_exams", 4), ("phantom.measuring_hygromas", 4)],
)
def test_an_edit_that_changes_no_weight_makes_the_bundle_again(
    finished: Path, work: Path, no_exams: None, key: str, value: object
) -> None:
    before = weights(work)
    recipe = edit(tiny(finished, work=str(work)), key, value)
    path = Pipeline(recipe).bundle(accept_failing_gate=True)
    made = load_bundle(path, ANYONE)
    table = made.manifest.evidence[-1]
    assert weights(work) == before
    assert table.description == f"would fit on {recipe.phantom.fitting_exams}"
    assert table.rows[0].n == recipe.phantom.measuring_hygromas
    assert (made.manifest.model.id, made.manifest.model.version) == (recipe.name, recipe.version)
    assert not [p.name for p in work.iterdir() if "draft" in p.name or "made" in p.name or "old" in p.name]
    Pipeline(recipe).bundle()  # and once only: a second time would raise GateError
    assert load_bundle(path, ANYONE).sha256 == made.sha256


def test_folds_are_added_without_touching_the_others(finished: Path, work: Path, no_exams: None) -> None:
    before = weights(work)
    recipe = tiny(finished, work=str(work), folds=[0, 1, 2])
    path = Pipeline(recipe).bundle(accept_failing_gate=True)
    assert before.items() <= weights(work).items()
    assert (work / "predictions/fold2.npz").is_file()
    manifest = load_bundle(path, ANYONE).manifest
    assert "[0, 1, 2] of 4" in manifest.provenance.recipe
    assert "fold 2" in {row.split for table in manifest.evidence for row in table.rows}


# -- the gate


def as_the_student(data: EvaluationSet, *lost: int) -> EvaluationSet:
    """The set with an INT8 form that says what the student does, but of the entries `lost`: those turn positive to negative."""
    taught, student, int8 = data.steps
    before, after = student.probability.copy(), student.probability.copy()
    before[list(lost)], after[list(lost)] = 1, 0
    steps = [taught, dataclasses.replace(student, probability=before), dataclasses.replace(int8, probability=after)]
    return dataclasses.replace(data, steps=steps)


def losing(monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, str]:
    """In the sets of these names one positive of fold 1, or of the validation split, is lost; in all others nothing changes.
    Returns the lost entries' names, once they are."""
    lost: dict[str, str] = {}
    whole = Pipeline.evaluation_sets

    def sets(self: Pipeline) -> list[EvaluationSet]:
        out = []
        for data in whole(self):
            wanted = (i for i, s in enumerate(data.splits) if s != "fold 0" and np.asarray(data.labels)[i] == 1)
            if data.name in names:
                entry = next(wanted)
                lost[data.name] = data.ids[entry]
                out.append(as_the_student(data, entry))
            else:
                out.append(as_the_student(data))
        return out

    monkeypatch.setattr(Pipeline, "evaluation_sets", sets)
    return lost


def test_a_bundle_that_loses_a_positive_out_of_fold_is_refused_and_can_be_accepted(
    finished: Path, work: Path, no_exams: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = losing(monkeypatch, "hygroma, folds")
    recipe = tiny(finished, work=str(work), name="renamed")
    with pytest.raises(GateError) as error:
        Pipeline(recipe).bundle()
    (name,) = lost.values()
    for part in ("all folds", "fold 1"):
        assert f"hygroma, folds, INT8, {part}: 1 positives lost at the operating point" in str(error.value)
    assert "fold 0" not in str(error.value) and str(error.value).count(f"(flipped: {name})") == 2
    assert "--accept-failing-gate" in str(error.value)
    assert load_bundle(work / "bundle", ANYONE).manifest.model.id == "tiny" and not (work / "draft").exists()
    made = load_bundle(Pipeline(recipe).bundle(accept_failing_gate=True), ANYONE)
    verdict, card = made.manifest.gate, made.files["MODEL_CARD.md"].decode()
    assert verdict.accepted_failing and not verdict.passed
    assert verdict.reasons[-1].startswith("hygroma, folds, INT8, fold 1: 1 positives lost")
    assert "FAILED its gate" in card and verdict.reasons[-1] in card


def test_a_lost_plane_refuses_no_bundle_and_fails_no_validation(
    finished: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = losing(monkeypatch, "plane, folds", "plane, validation")
    recipe = tiny(finished, work=str(work))
    assert bundling.out_of_fold(validation_report(Pipeline(recipe).evaluation_sets()), HEADS, False) == [] and len(lost) == 2
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    assert main(["validate", str(tmp_path / "recipe.yaml")]) == 0
    said = capsys.readouterr().out
    assert "gate, hygroma, folds: passed\n" in said and "gate, plane, folds: plane, folds, INT8, all folds: 1 positives" in said
    assert said.count("(reported only)") == 2


@pytest.mark.parametrize("name", ["hygroma, folds", "hygroma, validation"])
def test_validate_says_what_the_gate_says_and_exits_with_it(
    finished: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    losing(monkeypatch, name)
    recipe = tiny(finished, work=str(work))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    (work / "report/validation.json").unlink()
    assert main(["validate", str(tmp_path / "recipe.yaml"), "--json"]) == GateError.exit_code
    said = json.loads(capsys.readouterr().out)["gate"]
    assert "1 positives lost at the operating point; at most 0 allowed" in said.pop(name)
    assert said == {
        other: "passed (reported only)" if "plane" in other else "passed"
        for other in ("hygroma, folds", "plane, folds", "hygroma, validation", "plane, validation")
        if other != name
    }
    assert json.loads((work / "report/validation.json").read_text())["passed"] is False


def test_a_graph_that_is_not_canonical_is_never_saved(
    finished: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, path = tiny(finished, work=str(work)), work / "qdq/fold0.onnx"
    model = onnx.load(str(path))
    scale = next(t for t in model.graph.initializer if t.name.endswith(".scale") and len(t.dims) == 0)
    scale.CopyFrom(onnx.numpy_helper.from_array(np.array(0, np.float32), scale.name))
    path.unlink()
    choice = SimpleNamespace(model=model, described=lambda: "made to fail")
    monkeypatch.setattr(Pipeline, "choice", lambda self, run: choice)
    with pytest.raises(BundleError, match=rf"{path}: not a canonical graph: .*every scale must be finite and above 0"):
        Pipeline(recipe).qdq(0)
    assert not path.exists()


@pytest.mark.parametrize("misses", [0, 1])
def test_a_bundle_says_so_when_its_graph_is_not_the_one_that_the_evidence_is_of(
    finished: Path, work: Path, no_exams: None, monkeypatch: pytest.MonkeyPatch, misses: int
) -> None:
    passing = gate(np.array([0, 1]), np.array([0.1, 0.9]), np.array([0.1, 0.9]), 0.5, ["a", "b"])
    verdicts = iter([dataclasses.replace(passing, passed=False)] * misses + [passing])
    monkeypatch.setattr(assembling, "gate_of", lambda *_: lambda model: next(verdicts))
    losing(monkeypatch)
    made = load_bundle(Pipeline(tiny(finished, work=str(work), name="renamed")).bundle(), ANYONE)
    same = onnx.load_from_string(made.model) == onnx.load(str(work / "qdq/refit.onnx"))
    text, card = made.manifest.provenance.quantisation, made.files["MODEL_CARD.md"].decode()
    assert same == (misses == 0) and ("the biases after each branch were corrected" in text) == (misses == 1)
    assert (bundling.ANOTHER_GRAPH in text) == (bundling.ANOTHER_GRAPH in card) == (misses == 1)
    assert made.manifest.gate.passed and made.manifest.gate.reasons == ()


# -- kills


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def dying_savez(path: Path, **arrays: np.ndarray) -> None:
    path.write_bytes(b"PK half a file")
    raise KeyboardInterrupt


def dying_onnx_save(model: Any, path: str) -> None:
    Path(path).write_bytes(half(model.SerializeToString()))
    raise KeyboardInterrupt


def dying_save_bank(bank: Any, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "entries.json").write_text("[")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("where", "name", "dying", "stage", "file"),
    [
        (onnx, "save", dying_onnx_save, "qdq", "qdq/refit.onnx"),
        (np, "savez", dying_savez, "predictions", "predictions/refit.npz"),
        (phantoms, "save_bank", dying_save_bank, "bank", "bank/entries.json"),
        (phantoms, "save_bank", dying_save_bank, "bank_phantom", "bank_phantom/entries.json"),
    ],
)
def test_a_file_cut_short_is_never_taken_for_finished(
    finished: Path,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    dying: Any,
    stage: str,
    file: str,
) -> None:
    shutil.rmtree(work / stage)
    recipe = tiny(finished, work=str(work))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(where, name, dying)
        Pipeline(recipe).run("validate")
    assert not (work / file).exists()
    Pipeline(recipe).run("validate")
    assert (work / file).stat().st_size == (finished / "work" / file).stat().st_size


@pytest.mark.parametrize(("key", "value", "said"), [
    ("work", "/proc/work", "/proc/work: cannot be written"),
    ("work", "FILE", "cannot be written (File exists)"),
    ("data", "EMPTY", "EMPTY: empty; expected a folder per class"),
    ("teacher.init", "/nowhere.pt", "/nowhere.pt: no such checkpoint"),
])  # fmt: skip
def test_what_is_missing_is_said_before_anything_is_made(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: str, said: str
) -> None:
    (tmp_path / "FILE").touch()
    (tmp_path / "EMPTY").mkdir()
    value = value if value.startswith("/") else str(tmp_path / value)
    recipe = edit(tiny(finished, work=str(tmp_path / "work")), key, [value] if key == "data" else value)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    assert main(["quantize", str(tmp_path / "recipe.yaml")]) == 66
    done = capsys.readouterr()
    assert said in done.err and "bank" not in done.err and done.out == ""


def test_a_checkpoint_of_another_architecture_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(tmp_path)
    write_data(tmp_path / "data")
    torch.save({"head.weight": torch.zeros(1), "conv1.weight": torch.zeros(1)}, recipe.teacher.init)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 66
    done = capsys.readouterr()
    assert "not a checkpoint of this architecture" in done.err and "unexpected ['conv1.weight']" in done.err
    assert "edits" not in done.err and not list((tmp_path / "work").iterdir())


DAMAGED = ["bank/crops.npy", "bank/entries.json", "teacher/fold0.pt", "teacher/fold0.plane.pt", "student/refit.pt",
           "heads/fold1.pt", "qdq/refit.onnx", "predictions/fold0.npz", "predictions/score_cam.npz",
           "other_anatomy/said.npz"]  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_an_output_that_was_damaged_is_named_and_can_be_made_again(
    finished: Path, work: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], no_exams: None
) -> None:
    data = (work / name).read_bytes()
    (work / name).unlink()  # it is linked to the other tests'
    (work / name).write_bytes(data[: len(data) // 2])
    remove(work / "bundle")
    (work / f"bundle.{STAMP}").unlink()
    recipe = tiny(finished, work=str(work))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    words = ["export", str(tmp_path / "recipe.yaml"), "--accept-failing-gate"]
    assert main(words) == 66
    said = capsys.readouterr().err
    named = name.split("/")[0] if name.startswith("bank/") else name
    assert f"hygroma: {work / named}: cannot be read (" in said and "it is damaged: delete it" in said
    remove(work / named)
    assert main(words) == 0


def test_a_full_disk_is_said_and_what_was_finished_is_kept(
    finished: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(finished, work=str(work))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    (work / "qdq/refit.onnx").unlink()
    before = {p.name for p in (work / "qdq").iterdir()}
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, usual[1]))  # less than a graph's size
    try:
        code = main(["quantize", str(tmp_path / "recipe.yaml")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    said = capsys.readouterr().err
    assert code == 74 and "File too large" in said and "Traceback" not in said
    assert {p.name for p in (work / "qdq").iterdir()} == before
    assert main(["quantize", str(tmp_path / "recipe.yaml")]) == 0


def test_what_a_killed_process_left_is_cleared(finished: Path, work: Path) -> None:
    """SIGKILL lets no block end: the unfinished file or folder stays."""
    for name in ("bank", "qdq", "predictions"):
        shutil.rmtree(work / name)
    (work / "bank.partial").mkdir()
    for name in ("bank.partial/entries.json", "qdq/fold0.partial.onnx", "predictions/fold0.partial.npz"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(b"[")
    Pipeline(tiny(finished, work=str(work))).validate()
    assert set(weights(work)) == set(weights(finished / "work")) and not (work / "bank.partial").exists()


def test_a_bundle_is_replaced_whole(
    finished: Path, work: Path, no_exams: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(finished, work=str(work), name="renamed")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # while the new one is written
        patch.setattr(bundling, "write_bundle", dying_write_bundle)
        Pipeline(recipe).bundle(accept_failing_gate=True)
    assert load_bundle(work / "bundle", ANYONE).manifest.model.id == "tiny"
    pipeline = Pipeline(recipe)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # while they change places
        patch.setattr(pipeline.stamps, "write", interrupted)
        pipeline.bundle(accept_failing_gate=True)
    Pipeline(recipe).bundle(accept_failing_gate=True)
    assert load_bundle(work / "bundle", ANYONE).manifest.model.id == "renamed"
    assert json.loads((work / f"bundle.{STAMP}").read_text())["name"] == "renamed"


def dying_write_bundle(path: Path, manifest: Any, files: Any) -> None:
    path.mkdir()
    (path / "manifest.json").write_text("{")
    raise KeyboardInterrupt


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


# -- data


def test_a_file_that_only_validation_reads_is_missed_before_training(tmp_path: Path) -> None:
    (write_data(tmp_path / "data") / "ultrasound/cyst3.png").unlink()
    (tmp_path / "init.pt").write_bytes(b"read later")
    recipe = tiny(tmp_path)
    with pytest.raises(InputError, match=r"elsewhere.csv: names files that are not there: ultrasound/cyst3.png \(line 9"):
        Pipeline(recipe).run()
    assert not any((tmp_path / "work").glob("*"))


def test_fewer_crops_than_a_batch_are_refused_before_training(finished: Path, work: Path) -> None:
    shutil.rmtree(work / "teacher")
    recipe = tiny(finished, work=str(work), batch=64)
    keep = Pipeline(dataclasses.replace(recipe, batch=8)).crops.taught(0)
    with pytest.raises(
        InputError, match=r"stills.csv, .*elsewhere.csv: found (\d+) crops an epoch to train (\w+) on, fewer than one batch"
    ) as e:
        Pipeline(recipe).train()
    assert "(64); add training stills, or lower `batch`" in str(e.value) and len(keep) > 64
    assert not (work / "teacher").exists()


# -- quantisation-aware fine-tuning


def test_finetuning_is_asked_for_and_resumes_and_other_graphs_are_refused(
    finished: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = (work / "qdq/fold0.onnx").read_bytes()
    assert "qat" not in (work / "qdq" / STAMP).read_text()
    always = tiny(finished, work=str(work), qat=QatRecipe("always", epochs=1, lr=1e-3))
    with pytest.raises(ConfigError, match=r"qdq/recipe.json: qat.when: found 'nothing', the recipe says 'always'"):
        Pipeline(always).run("quantize")
    for name in ("qdq", "predictions", "exams"):
        shutil.rmtree(work / name)
    Pipeline(always).run("quantize")
    tuned = (work / "qdq/fold0.onnx").read_bytes()
    assert tuned != plain and {p.name for p in (work / "qat").glob("*.pt")} == {"fold0.pt", "fold1.pt", "refit.pt"}
    (work / "qdq/fold0.onnx").unlink()
    before = (work / "qat/fold0.pt").stat().st_mtime_ns
    Pipeline(always).run("quantize")
    assert (work / "qdq/fold0.onnx").read_bytes() == tuned and (work / "qat/fold0.pt").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="qat.lr: found 0.001, the recipe says 0.002"):
        Pipeline(dataclasses.replace(always, qat=QatRecipe("always", epochs=1, lr=2e-3))).run("quantize")


def test_finetuning_as_a_fallback_is_the_bundles_affair(finished: Path, work: Path, no_exams: None) -> None:
    """The tiny student's bundle failed its gate (see `finished`), so the fallback is tried."""
    fallback = tiny(finished, work=str(work), qat=QatRecipe("fallback", epochs=1, lr=1e-3))
    before = weights(work)
    assert Pipeline(fallback).stamps.differences("bundle")
    made = Pipeline(fallback).bundle(accept_failing_gate=True)
    manifest = load_bundle(made, ANYONE).manifest
    own = [reason for reason in manifest.gate.reasons if not reason.startswith("hygroma, folds")]
    assert (work / "qat/refit.pt").is_file() == (bool(own) or "fine-tuned" in manifest.provenance.quantisation)
    assert {k: v for k, v in weights(work).items() if not k.startswith("qat")} == before


def test_the_teacher_is_quantised_too_and_gated_at_its_own_threshold(
    finished: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(finished, work=str(work))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    before = weights(work)
    code = main(["quantize", str(tmp_path / "recipe.yaml"), "--teacher", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["teacher"] == str(work / "qdq_teacher/refit.onnx")
    assert (code, said["teacher's gate"] == "passed") in ((0, True), (3, False))  # untrained weights may lose anything
    graph = onnx.load(said["teacher"])
    assert lint_qdq(graph) == [] and graph != onnx.load(str(work / "qdq/refit.onnx"))
    teacher, keep = Pipeline(recipe).teacher(REFIT), Pipeline(recipe).crops.held_out(REFIT)[:8]
    crops = Pipeline(recipe).crops.of(keep)
    found, wanted = run_graph(graph, crops[:, None]), predict(teacher, crops)
    assert np.abs(sigmoid(found.hygroma) - sigmoid(wanted["hygroma"])).max() < 0.05
    assert {k: v for k, v in weights(work).items() if "qdq_teacher" not in k} == before
    other = edit(recipe, "teacher.lr", 0.5)
    with pytest.raises(ConfigError, match="teacher.lr"):
        Pipeline(other).run("quantize")


# -- sensitivity


def sensitivity(recipe: Recipe, folder: Path, *more: str) -> int:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    return main(["sensitivity", str(path), *more])


@pytest.mark.parametrize("run", [1, REFIT])
def test_ranges_and_their_choice_come_from_training_images_alone(
    finished: Path, monkeypatch: pytest.MonkeyPatch, run: int
) -> None:
    pipeline, asked, whole = Pipeline(tiny(finished)), [], Crops.of

    def crops(self: Crops, keep: np.ndarray, spec: Any = None) -> np.ndarray:
        asked.append([int(i) for i in keep])
        return whole(self, keep, spec)

    monkeypatch.setattr(Crops, "of", crops)
    ranges, choice = pipeline.crops.calibration(run)
    (taken,) = asked
    assert len(ranges) + len(choice) == len(taken) == len(set(taken)) and len(ranges) and len(choice)  # no crop is in both
    judged_on = set(pipeline.crops.held_out(run).tolist())
    assert judged_on and not judged_on & set(taken) and set(taken) <= set(pipeline.crops.training(run).tolist())
    entries = pipeline.bank().entries
    assert {entries[i].still for i in judged_on}.isdisjoint(entries[i].still for i in taken if entries[i].fold >= 0)
    asked.clear()
    lean_on = pipeline.crops.judged(run)
    (taken,) = asked
    assert len(lean_on) == len(taken) == len(set(taken)) > 0 and set(taken) <= set(pipeline.crops.training(run).tolist())
    assert {entries[i].plane for i in taken} == {1}
    assert not {entries[i].source for i in taken} & {"phantom", "cleaned", "elsewhere"}


def test_sensitivity_of_a_fold_is_measured_on_that_fold(
    finished: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tiny(finished, work=str(work)), tmp_path / "found" / "here"
    before = weights(work)
    assert sensitivity(recipe, tmp_path, "--run", "fold1", "--crops", "14", "--out", str(out), "--json") == 0
    printed, kept = json.loads(capsys.readouterr().out), json.loads((out / "sensitivity.json").read_text())
    assert printed == kept and kept["model"] == "tiny 0.0.1, fold1" and "SmoothQuant" in kept["quantisation"]
    result = kept["result"]
    assert result["n"] == 14 and 0 < result["positives"] < 14 and len(result["layers"]) == 8
    assert result["all"]["hygroma_rms"] > 0
    assert f"n = 14 crops, {result['positives']} positive" in (out / "sensitivity.md").read_text()
    assert (out / "sensitivity.svg").read_text().count("<rect") == 16
    pipeline = Pipeline(recipe)
    data, entries = pipeline.crops.labelled(1), pipeline.bank().entries
    assert {entries[i].fold for i in pipeline.crops.held_out(1)} == {1}
    assert len(data.labels) > 14 and set(data.labels) == {0, 1} and len(data.crops) == len(data.ids)
    assert set(pipeline.crops.labelled(1, 14).ids) < set(data.ids)
    assert weights(work) == before


def test_sensitivity_goes_into_the_work_folder_and_says_the_worst(
    finished: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sensitivity(tiny(finished, work=str(work)), tmp_path, "--crops", "14") == 0
    said = capsys.readouterr().out
    assert "fold0: 14 crops" in said and said.count("alone;") == 3 and "the gate with" in said
    assert (work / "sensitivity" / "sensitivity.md").is_file()


def test_sensitivity_says_what_is_wrong_before_it_measures(
    finished: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(finished, work=str(work))
    (tmp_path / "file").touch()
    for more, code, words in (
        (["--run", "fold3"], 78, "--run: found 'fold3'; this recipe has fold0, fold1, refit"),
        (["--crops", "1"], 78, "--crops: found 1"),
        (["--out", str(tmp_path / "file")], 66, "file: cannot be written"),
    ):
        assert sensitivity(recipe, tmp_path, *more) == code
        assert words in capsys.readouterr().err
    assert main(["sensitivity", str(tmp_path / "none.yaml")]) == 78


def test_training_without_phantoms(finished: Path, tmp_path: Path) -> None:
    recipe = edit(tiny(finished, work=str(tmp_path / "work")), "phantom.training_frames", 0)
    pipeline = Pipeline(recipe)
    pipeline.student(0)
    assert (tmp_path / "work/student/fold0.pt").is_file()
    assert not len(pipeline.bank().where(lambda e: e.source == "phantom"))
