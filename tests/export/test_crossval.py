"""4-fold cross-validation of the paper's systems, from the command line as a user runs it, on a few made-up images; and what
`export` makes of it."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from fakes.labelled import write_checkpoint, write_csv, write_images

from edge.cli import main
from edge.errors import InputError
from export.explain import explain
from export.jobs import run_jobs
from export.pipeline import Pipeline
from export.recipe import BaselineRecipe, PhantomRecipe, Recipe, StudentRecipe, load_recipe
from export.report.signed_rank import log_losses
from export.site.crossed import load_crossed
from export.training import finetune
from export.training.finetune import Examples
from export.training.systems import System, build
from export.training.watched import Watched

pytestmark = pytest.mark.usefixtures("few_draws", "few_ranges", "graphs_asked_once", "made_before", "one_precision")

FORMS = ["baseline", "teacher", "student", "qdq", "engine"]


@pytest.fixture(scope="module")
def small_densenet() -> Iterator[None]:
    """DenseNet with two layers a block: one of 169 takes seconds a step."""
    nets = pytest.importorskip("monai.networks.nets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nets, "DenseNet169", partial(nets.DenseNet, init_features=8, growth_rate=4, block_config=(2, 2, 2, 2)))
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with table.csv, c.pt. Not to be written to."""
    base = tmp_path_factory.mktemp("site")
    write_csv(base / "data/table.csv", write_images(base / "data", patients=8))
    write_checkpoint(base / "c.pt")
    return base


def command(base: Path, out: Path, *more: str, system: str = "usf-mae", data: str = "data/table.csv") -> list[str]:
    start = {"usf-mae": ["--init", str(base / "c.pt")], "vit-random": ["--shape-of", str(base / "c.pt")]}
    return [
        "crossval", str(base / data), "--system", system, *start.get(system, []),
        "--image", "64", "--epochs", "3", "--batch", "6", "--threads", "1", "--out", str(out), "--json", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "usf"
    assert main(command(site, out)) == 0
    return out


def to_export(out: Path) -> Recipe:
    """The recipe that a cross-validation left, with a baseline, and all that follows as small as can be."""
    return dataclasses.replace(
        load_recipe(out / "recipe.yaml"),
        baseline=BaselineRecipe("densenet169", image=32, epochs=2),
        engine="onnxruntime",
        student=StudentRecipe(blocks=[0, 1], epochs=1, frozen_blocks=0),
        phantom=PhantomRecipe(training_frames=16, fitting_exams=2, measuring_hygromas=1, measuring_healthy=1),
    )


@pytest.fixture(scope="module")
def exported(finished: Path, small_densenet: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it that was exported up to the report: baseline, student and INT8 graph besides."""
    out = tmp_path_factory.mktemp("out") / "exported"
    shutil.copytree(finished, out)
    trained: list[str] = []
    Pipeline(to_export(out), lambda what, done, total: trained.append(what)).run("validate")
    assert "teacher refit" in trained and "baseline fold3" in trained
    assert not [what for what in trained if what.startswith("teacher fold")]  # taken up, none trained again
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def report_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "report/crossval.json").read_text()))


def table_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "report/paper.json").read_text()))


@pytest.mark.requirement("V-01")
def test_every_image_is_predicted_once_by_a_model_that_never_saw_its_patient(finished: Path, site: Path) -> None:
    predictions, known = rows(finished / "report/predictions.csv"), rows(site / "data/table.csv")
    assert sorted(r["path"] for r in predictions) == sorted(r["path"] for r in known)
    patient = {r["path"]: r["patient"] for r in known}
    where: dict[str, set[str]] = {}
    for row in predictions:
        assert row["patient"] == patient[row["path"]] and 0 <= float(row["teacher probability"]) <= 1
        assert int(row["teacher decision"]) == (float(row["teacher probability"]) >= float(row["teacher threshold"]))
        where.setdefault(row["patient"], set()).add(row["fold"])
    assert all(len(folds) == 1 for folds in where.values()) and len({r["fold"] for r in predictions}) == 4
    taught = Pipeline(load_recipe(finished / "recipe.yaml")).taught_crops
    for fold in report_of(finished)["folds"]:
        assert fold["trained_on"] + fold["watched"] == 12 and fold["watched"] >= 2
        shown = {taught.stills[taught.bank.entries[i].still].name for i in taught.taught(fold["fold"])}
        assert not shown & {row["path"] for row in predictions if row["fold"] == str(fold["fold"])}


def by_hand(labels: np.ndarray, said: np.ndarray, decisions: np.ndarray) -> dict[str, float]:
    """The four figures by counting."""
    ill, healthy = labels == 1, labels == 0
    pairs = [(p > n) + 0.5 * (p == n) for p, n in itertools.product(said[ill], said[healthy])]
    return {
        "accuracy": sum(labels == decisions) / len(labels),
        "sensitivity": sum(decisions[ill]) / sum(ill),
        "specificity": sum(1 - decisions[healthy]) / sum(healthy),
        "roc_auc": sum(pairs) / len(pairs),
    }


@pytest.mark.requirement("V-02")
def test_the_table_is_what_counting_gives_per_fold_and_pooled(exported: Path) -> None:
    found = rows(exported / "report/predictions.csv")
    labels, folds = np.array([int(r["label"]) for r in found]), np.array([int(r["fold"]) for r in found])
    table = json.loads((exported / "report/validation.json").read_text())["paper"]
    assert table == table_of(exported) and [form["form"] for form in table["forms"]] == FORMS
    assert (table["kind"], table["images"], table["positives"], table["patients"]) == ("real", 16, 8, 16)
    for form in table["forms"]:
        said = np.array([float(r[f"{form['form']} probability"]) for r in found])
        decisions = np.array([int(r[f"{form['form']} decision"]) for r in found])
        for part, figures in form["figures"].items():
            keep = np.ones(len(labels), bool) if part == "pooled" else folds == int(part[-1])
            expected = by_hand(labels[keep], said[keep], decisions[keep])
            assert {name: figure["value"] for name, figure in figures.items()} == pytest.approx(expected)
    starts = {form["form"]: form["start"] for form in table["forms"]}
    assert starts["baseline"] == "random" and starts["teacher"] == starts["qdq"] and starts["teacher"].startswith("c.pt (SHA-256")


def wilcoxon_by_hand(gain: np.ndarray) -> float:
    """Two-sided p over every pattern of signs; for differences of different sizes."""
    ranks = np.abs(gain).argsort().argsort() + 1
    signs = (np.arange(2 ** len(gain))[:, None] >> np.arange(len(gain))) & 1
    sums, found = signs @ ranks, ranks[gain > 0].sum()
    return float(min(1.0, 2 * min((sums <= found).mean(), (sums >= found).mean())))


@pytest.mark.requirement("V-02")
def test_every_two_forms_are_tested_on_the_same_patients(exported: Path) -> None:
    found, table = rows(exported / "report/predictions.csv"), table_of(exported)
    labels = np.array([int(r["label"]) for r in found])
    said = {form: np.array([float(r[f"{form} probability"]) for r in found]) for form in FORMS}
    assert [(t["first"], t["second"]) for t in table["tests"]] == list(itertools.combinations(FORMS, 2))
    for test in table["tests"]:
        first, second = (log_losses(labels, said[test[key]]) for key in ("first", "second"))
        if (test["first"], test["second"]) == ("qdq", "engine"):  # the same runner
            assert (test["n"], test["ties"], test["p"], test["smallest_p"]) == (16, 16, 1.0, 1.0)
            continue
        assert (test["n"], test["ties"], test["smallest_p"]) == (16, 0, 2.0**-15)
        assert test["p"] == pytest.approx(wilcoxon_by_hand(first - second), rel=1e-6)


@pytest.mark.requirement("V-02")
def test_it_is_the_first_table_of_the_report(exported: Path) -> None:
    page = (exported / "report/validation.html").read_text()
    first = page.partition("<table")[2].partition("</table>")[0]
    named = ("DenseNet-169 from a random start", "teacher from c.pt", "student", "INT8 graph", "engine (ONNX Runtime) from c.pt")
    assert all(name in first for name in named)
    panels = json.loads((exported / "report/validation.json").read_text())["localisation"]["panels"]
    assert sum("Hygroma" in panel["caption"] for panel in panels) == sum("Untouched" in panel["caption"] for panel in panels) > 0


@pytest.mark.requirement("V-02")
def test_a_tensorrt_engine_is_built_of_each_folds_graph_and_a_missing_one_is_said_first(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT is no part of this machine: what would be built is run by ONNX Runtime in its place."""
    from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
    from edge.engines.tensorrt import api, build, runner
    from edge.errors import EngineError
    from export.stages.engine import engine_says, require_engine

    pipeline, built = Pipeline(to_export(exported)), []

    def refuses() -> None:
        raise EngineError("tensorrt is not installed")

    def builds(made_by: object, model: bytes, options: build.BuildOptions) -> tuple[bytes, bytes]:
        built.append(options.precision)
        return model, b""

    monkeypatch.setattr(api, "load_tensorrt", refuses)
    with pytest.raises(EngineError, match="not installed"):
        require_engine("tensorrt")
    monkeypatch.setattr(api, "load_tensorrt", object)
    monkeypatch.setattr(api, "describe", lambda trt: trt)
    monkeypatch.setattr(build, "build_plan", builds)
    monkeypatch.setattr(runner, "TensorRTRunner", lambda plan, precision, made_by: OnnxRuntimeRunner(plan))
    found = engine_says(pipeline.qdq(0), pipeline.crops, 0, "tensorrt", 1)
    assert built == ["int8"] and found["index"].tolist() == pipeline.predictions(0)["index"].tolist()
    np.testing.assert_array_equal(found["engine_hygroma"], pipeline.predictions(0)["qdq_hygroma"])


@pytest.mark.requirement("V-03")
def test_export_takes_up_what_crossval_trained(exported: Path, finished: Path) -> None:
    for fold in range(4):
        assert (exported / f"teacher/fold{fold}.pt").read_bytes() == (finished / f"teacher/fold{fold}.pt").read_bytes()
    for ours, theirs in zip(rows(exported / "report/predictions.csv"), rows(finished / "report/predictions.csv"), strict=True):
        assert {key: ours[key] for key in theirs} == theirs


@pytest.mark.requirement("V-03")
def test_crossval_needs_no_phantoms_and_no_refit(finished: Path) -> None:
    made = {path.name for path in finished.iterdir()}
    assert made == {"bank", "teacher", "crossval", "recipe.yaml", "report", "lock"}
    assert not list((finished / "teacher").glob("refit*"))


@pytest.mark.requirement("V-01")
def test_a_second_call_trains_nothing_and_says_the_same(
    finished: Path, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.stages.weights.fit", lambda *_, **__: pytest.fail("trained again"))
    before = (finished / "report/predictions.csv").read_bytes()
    assert main(command(site, finished)) == 0
    assert json.loads(capsys.readouterr().out) == report_of(finished)
    assert (finished / "report/predictions.csv").read_bytes() == before


@pytest.mark.requirement("V-01")
def test_a_kill_loses_only_the_running_epoch(
    finished: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second epoch of the second fold; what was done is not done again, and it ends in the same weights."""
    epochs, real = [], Watched.loss

    def dies(*args: Any) -> float:
        epochs.append(1)
        if len(epochs) == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(Watched, "loss", dies)
    assert main(command(site, tmp_path / "out")) == 130
    assert (tmp_path / "out/crossval/fold0.npz").is_file() and (tmp_path / "out/teacher/fold1.pt").is_file()
    assert main(command(site, tmp_path / "out")) == 0
    assert len(epochs) == 5 + 2 + 3 + 3  # the one that died; folds 1, 2 and 3
    assert (tmp_path / "out/report/predictions.csv").read_bytes() == (finished / "report/predictions.csv").read_bytes()


@pytest.mark.requirement("V-04")
def test_a_killed_baseline_goes_on_to_the_same_predictions(
    site: Path, small_densenet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = partial(command, site, system="densenet169")
    assert main([*call(tmp_path / "whole"), "--image", "32"]) == 0
    epochs, real = [], finetune._train_epoch

    def dies(*args: Any) -> None:
        epochs.append(1)
        if len(epochs) == 5:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(finetune, "_train_epoch", dies)
    assert main([*call(tmp_path / "out"), "--image", "32"]) == 130
    assert (tmp_path / "out/baseline/fold0.npz").is_file() and (tmp_path / "out/baseline/fold1/training.pt").is_file()
    assert main([*call(tmp_path / "out"), "--image", "32"]) == 0
    assert len(epochs) == 5 + 2 + 3 + 3
    assert (tmp_path / "out/report/predictions.csv").read_bytes() == (tmp_path / "whole/report/predictions.csv").read_bytes()
    assert not list((tmp_path / "out").rglob("training.pt")) and not (tmp_path / "out/teacher").exists()
    assert [form["form"] for form in table_of(tmp_path / "out")["forms"]] == ["baseline"]


@pytest.mark.requirement("V-04")
def test_the_baseline_sees_the_very_images_of_the_teacher(exported: Path) -> None:
    pipeline = Pipeline(to_export(exported))
    for fold in pipeline.recipe.folds:
        found, said = pipeline.baseline(fold), pipeline.predictions(fold)
        assert found["index"].tolist() == said["index"].tolist()
        assert found["trained_on"] + found["watched"] == 12
        assert len(found["losses"]) <= 2 and found["losses"][found["best"][0] - 1] == found["losses"].min()


@pytest.mark.requirement("V-04")
def test_a_recipe_takes_up_a_baseline_that_was_cross_validated_alone(site: Path, small_densenet: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([*command(site, out, "--epochs", "1", system="densenet169"), "--image", "40"]) == 0
    recipe = load_recipe(out / "recipe.yaml")
    assert (recipe.image, recipe.baseline.image, recipe.baseline_system.image) == (48, 40, 40)
    trained: list[str] = []
    Pipeline(recipe, lambda what, done, total: trained.append(what)).run("baseline")
    assert not [what for what in trained if what.startswith("baseline")]


@pytest.mark.requirement("V-04")
def test_another_baseline_is_not_taken_for_this_one(exported: Path, tmp_path: Path) -> None:
    from edge.errors import ConfigError

    recipe = dataclasses.replace(to_export(exported), baseline=BaselineRecipe("densenet169", image=64, epochs=2))
    with pytest.raises(ConfigError, match=r"baseline.*baseline.image: found 32, the recipe says 64"):
        Pipeline(recipe).check("baseline")


@pytest.mark.requirement("V-01")
def test_two_processes_never_write_to_one_folder(
    finished: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is refused while the first trains, and may go on when that was killed."""
    out, real = tmp_path / "out", Watched.loss

    def dies(*args: Any) -> float:
        before = sorted(p.name for p in out.rglob("*"))
        assert main(command(site, out)) == 78
        assert f"{out / 'lock'}: held by process {os.getpid()} on " in capsys.readouterr().err
        assert sorted(p.name for p in out.rglob("*")) == before
        raise KeyboardInterrupt

    monkeypatch.setattr(Watched, "loss", dies)
    assert main(command(site, out)) == 130
    monkeypatch.setattr(Watched, "loss", real)
    assert main(command(site, out)) == 0
    assert (out / "report/predictions.csv").read_bytes() == (finished / "report/predictions.csv").read_bytes()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_done(out: Path) -> None:
    (out / "crossval/fold3.npz").unlink()
    cut_short(out / "teacher/fold3.pt")


def cut_rows(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:12]))


@pytest.mark.parametrize(
    ("spoil", "command_of", "words"),
    [
        (half_done, "crossval", r"teacher/fold3.pt: cannot be read \(.*delete it"),
        (lambda out: (out / "teacher/recipe.json").unlink(), "crossval", "teacher/recipe.json: missing, .*delete"),
        (lambda out: cut_short(out / "recipe.yaml"), "crossval", "recipe.yaml: "),
        (lambda out: [p.unlink() for p in out.glob("teacher/fold?.pt")], "explain", "teacher/fold..pt: missing; run the same"),
        (lambda out: [cut_short(p) for p in out.glob("teacher/fold?.pt")], "explain", r"teacher/fold..pt: cannot be read"),
        (lambda out: (out / "report/paper.json").write_text("{}"), "compare", "no finished cross-validation or export .KeyError"),
        (lambda out: (out / "report/paper.json").write_text("[]"), "explain", "no finished cross-validation .*TypeError"),
        (lambda out: cut_rows(out / "report/predictions.csv"), "compare", "predictions.csv has 11 rows, paper.json speaks of 16"),
    ],
)  # fmt: skip
def test_what_was_damaged_afterwards_is_named_with_the_fix(
    finished: Path, site: Path, tmp_path: Path, spoil: Callable[[Path], Any], command_of: str, words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    spoil(out)
    assert main({
        "crossval": command(site, out),
        "explain": ["explain", str(out), "--out", str(tmp_path / "maps"), "--each", "1"],
        "compare": ["compare", str(finished), str(out)],
    }[command_of]) in (66, 78)  # fmt: skip
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.requirement("V-05")
def test_any_two_forms_of_any_two_folders_are_compared(
    finished: Path, exported: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(site, tmp_path / "random", "--epochs", "1", system="vit-random")) == 0
    capsys.readouterr()
    for unit in ("image", "patient", "fold", "fold-metric"):
        assert main(["compare", str(finished), str(tmp_path / "random"), "--unit", unit]) == 0
        text = capsys.readouterr().out
        assert text.count("A pretrained, B random start") == text.count(" p = ") == (4 if unit == "fold" else 1)
        assert text.count("smallest p") == text.count(" p = ")
    assert "vit-random is the control" in text
    table = {(t["first"], t["second"]): t["p"] for t in table_of(exported)["tests"]}
    for a, b in itertools.combinations(FORMS, 2):
        assert main(["compare", str(exported), str(exported), "--forms", a, b, "--unit", "patient", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [system["form"] for system in found["systems"]] == [a, b]
        assert found["tests"][0]["p"] == pytest.approx(table[a, b], rel=1e-6)
    same = ["compare", str(finished), str(exported), "--json"]
    assert main(same) == 0 and json.loads(capsys.readouterr().out)["tests"][0]["ties"] == 16
    assert main([*same, "--forms", "student", "qdq"]) == 66
    assert "found 'student'; it holds teacher" in capsys.readouterr().err


@pytest.mark.requirement("V-05")
@pytest.mark.parametrize("form", ["teacher", "student", "baseline"])
def test_every_form_with_layers_is_explained(exported: Path, small_densenet: None, tmp_path: Path, form: str) -> None:
    found, located = explain(exported, tmp_path / "maps", 1, form)
    assert [row["label"] for row in found] == ["normal", "hygroma"] and located == []
    run = load_crossed(exported, form)
    for row in found:
        assert row["probability"] == run.probability[run.answers.names.index(row["path"])] and Path(row["overlay"]).is_file()
    with pytest.raises(InputError, match="maps are made of teacher, student, baseline"):
        explain(exported, tmp_path / "maps", 1, "qdq")


def test_the_table_a_user_reads(finished: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = [part for part in command(site, finished) if part != "--json"]
    assert main(call) == 0
    text = capsys.readouterr().out
    assert "16 images, 8 hygroma, 16 patients" in text and text.count("\nfold ") == 4 and "pooled" in text
    assert "95 % intervals: DeLong, exact" in text and "teacher from c.pt (SHA-256" in text
    assert "\ntrained in float32" in text or "\ntrained in bfloat16" in text


@pytest.mark.requirement("V-03")
def test_a_recipe_is_cross_validated_with_its_baseline_on_its_own_data(
    finished: Path, exported: Path, site: Path, tmp_path: Path, small_densenet: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    path = out / "recipe.yaml"
    path.write_text((finished / "recipe.yaml").read_text() + "baseline: {system: densenet169, image: 32, epochs: 2} # mine\n")
    monkeypatch.setattr("export.stages.weights.fit", lambda *_, **__: pytest.fail("trained again"))
    assert main(["crossval", str(path)]) == 0
    text = capsys.readouterr().out
    assert "DenseNet-169 from a random start" in text and text.count("\nfold ") == 8
    assert "teacher against DenseNet-169, log loss by patient: p = " in text
    assert [form["form"] for form in table_of(out)["forms"]] == ["baseline", "teacher"]
    assert path.read_text().endswith("# mine\n")  # what a user wrote stays
    assert main(command(site, out)) == 78  # and is not overruled by what the first command said
    assert "baseline.system: found 'densenet169', now ''" in capsys.readouterr().err and path.read_text().endswith("# mine\n")
    for more in (["--seed", "1"], ["--system", "usf-mae"], ["--out", "x"], [str(path)]):
        assert main(["crossval", str(path), *more]) == 78
        assert f"found {more[0]} beside it; write it into the recipe" in capsys.readouterr().err


def test_patients_of_both_classes_are_told(
    finished: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table that numbers each class anew makes one patient of two: half the patients, and no error anywhere."""
    assert report_of(finished)["patients in both classes"] == 0
    known = [
        {**row, "patient": row["patient"][1:], "path": str(site / "data" / row["path"])} for row in rows(site / "data/table.csv")
    ]
    write_csv(tmp_path / "t.csv", known)
    call = command(site, tmp_path / "out", "--epochs", "1")
    call[1] = str(tmp_path / "t.csv")
    assert main([part for part in call if part != "--json"]) == 0
    assert "8 patients have images of both classes" in capsys.readouterr().out


def at_sites(site: Path, folder: Path, of: Callable[[dict[str, str]], str]) -> str:
    known = rows(site / "data/table.csv")
    folder.mkdir()
    return str(write_csv(folder / "t.csv", [{**row, "path": str(site / "data" / row["path"]), "site": of(row)} for row in known]))


def test_figures_per_site_are_those_of_its_images(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = command(site, tmp_path / "out", "--epochs", "1")
    call[1] = at_sites(site, tmp_path / "t", lambda row: "Köln" if row["path"].endswith(("1-0.png", "3-0.png")) else "")
    assert main([part for part in call if part != "--json"]) == 0
    said = capsys.readouterr().out
    assert said.count("Köln (2 positive)") == said.count("no site given (6 positive)") == 1
    run, (unnamed, named) = load_crossed(tmp_path / "out"), report_of(tmp_path / "out")["by site"]
    keep = np.array([path.endswith(("1-0.png", "3-0.png")) for path in run.answers.names])
    assert (named["site"], named["images"], named["positives"], unnamed["images"]) == ("Köln", 4, 2, 12)
    right = run.answers.labels[keep] == run.decisions[keep]
    assert named["figures"]["accuracy"]["value"] == right.mean()
    assert named["figures"]["sensitivity"]["value"] == right[run.answers.labels[keep] == 1].mean()
    for figure in named["figures"].values():
        assert figure["low"] <= figure["value"] <= figure["high"] and figure["low"] < figure["high"]
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("Köln (2 positive)") == 2


def test_a_site_with_one_class_says_so(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = command(site, tmp_path / "out", "--epochs", "1")
    call[1] = at_sites(site, tmp_path / "t", lambda row: f"of-{row['hygroma']}")
    assert main([part for part in call if part != "--json"]) == 0
    said = capsys.readouterr().out
    assert "of-0 (no positive image, so no area)" in said and "of-1 (positive images only, so no area)" in said
    healthy, ill = report_of(tmp_path / "out")["by site"]
    assert ill["figures"]["specificity"] is healthy["figures"]["sensitivity"] is None
    assert ill["figures"]["accuracy"] and ill["figures"]["sensitivity"] and healthy["figures"]["specificity"]


# -- what is refused, always before anything is trained ---------------------------------------------------------------


def broken_image(base: Path) -> list[str]:
    (base / "data/normal/00-0.png").write_bytes(b"")
    return []


def two_labels(base: Path) -> list[str]:
    (base / "data/hygroma/00-0.png").write_bytes((base / "data/normal/00-0.png").read_bytes())
    return []


def one_patient(base: Path) -> list[str]:
    many = rows(base / "data/table.csv")
    for row in many:
        row["patient"] = "one" if row["hygroma"] == "0" else row["patient"]
    write_csv(base / "data/table.csv", many)
    return []


def missing_file(base: Path) -> list[str]:
    (base / "data/normal/00-0.png").unlink()
    return []


def wrong_checkpoint(base: Path) -> list[str]:
    torch.save({"features.conv0.weight": torch.zeros(1)}, base / "c.pt")
    return []


def damaged_checkpoint(base: Path) -> list[str]:
    (base / "c.pt").write_bytes((base / "c.pt").read_bytes()[:2000])
    return []


def no_positive(base: Path) -> list[str]:
    write_csv(base / "data/table.csv", [{**row, "hygroma": "0"} for row in rows(base / "data/table.csv")])
    return []


FOLDERS = "data"  # in place of the table


@pytest.mark.requirement("V-01")
@pytest.mark.parametrize(
    ("spoil", "code", "words", "leaves"),
    [
        (broken_image, 66, "normal/00-0.png: the file is empty; copy it again", True),
        (two_labels, 66, "the same image with two findings", True),
        (one_patient, 66, "1 patients with images of 'normal' for 4 folds", True),
        (missing_file, 66, "00-0.png", False),
        (no_positive, 66, "no image of 'hygroma' to train on", False),
        (wrong_checkpoint, 66, "no vision transformer with timm's keys", False),
        (damaged_checkpoint, 66, "c.pt: not ", False),
        (lambda b: ["--image", "60"], 78, "--image: found 60", False),
        (lambda b: ["--batch", "64"], 66, "fewer than one batch", True),
        (lambda b: ["--out", str(b / "c.pt")], 78, "c.pt: is a file; give a folder", False),
        (lambda b: ["--out", str(b)], 78, "holds something else; give an empty or a new folder", False),
        (lambda b: ["--init", str(b / "absent.pt")], 66, "absent.pt: no such checkpoint", False),
        (lambda b: [FOLDERS, "--positive", "CH"], 66, "none is 'CH'", False),
        (lambda b: [FOLDERS, "--out", str(b / "data/out")], 78, "lies inside the data folder", False),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    tmp_path: Path,
    spoil: Callable[[Path], list[str]],
    code: int,
    words: str,
    leaves: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_csv(tmp_path / "data/table.csv", write_images(tmp_path / "data", patients=5))
    write_checkpoint(tmp_path / "c.pt")
    monkeypatch.setattr("export.stages.weights.fit", lambda *_, **__: pytest.fail("trained"))
    more = spoil(tmp_path)
    data = "data" if FOLDERS in more else "data/table.csv"
    if data == "data":
        (tmp_path / "data/table.csv").unlink()
    assert main(command(tmp_path, tmp_path / "out", *(part for part in more if part != FOLDERS), data=data)) == code
    assert words in capsys.readouterr().err
    assert (tmp_path / "out").exists() == leaves  # what is seen only in the images leaves the recipe


@pytest.mark.requirement("V-01")
def test_a_fold_that_could_not_stop_early_is_said_before_the_first_trains(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.stages.weights.fit", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr("export.pipeline.set_aside", lambda bank, taught, seed: refuse_fold_3(bank, taught))
    assert main(command(site, tmp_path / "out")) == 66
    assert "table.csv: fold3: too few" in capsys.readouterr().err


def refuse_fold_3(bank: Any, taught: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not any(bank.entries[i].fold == 3 for i in taught):
        raise InputError("too few")
    return taught, taught


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_that_is_not_there(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(site, tmp_path / "out", "--device", "cuda")) == 78
    assert "--device cuda: torch" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.requirement("V-01")
def test_other_settings_do_not_go_on_from_a_run(finished: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "recipe.yaml").read_text()
    assert main(command(site, finished, "--seed", "1")) == 78
    assert "seed: found 0, now 1" in capsys.readouterr().err and (finished / "recipe.yaml").read_text() == before
    assert main(["compare", str(finished), str(site)]) == 66
    assert "no finished cross-validation" in capsys.readouterr().err


@pytest.mark.requirement("V-01")
def test_data_that_moved_go_on_and_data_that_changed_do_not(
    finished: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    shutil.copytree(site, tmp_path / "moved")
    monkeypatch.setattr("export.stages.weights.fit", lambda *_, **__: pytest.fail("trained"))
    assert main(command(tmp_path / "moved", tmp_path / "out")) == 0
    assert load_recipe(tmp_path / "out/recipe.yaml").data == [str((tmp_path / "moved/data/table.csv").resolve())]
    (tmp_path / "moved/data/normal/00-0.png").write_bytes((site / "data/normal/00-0.png").read_bytes() + b"\0")
    capsys.readouterr()
    assert main(command(tmp_path / "moved", tmp_path / "out")) == 78
    assert "data: found 'SHA-256" in capsys.readouterr().err


def test_training_learns_and_leaves_the_best_weights(small_densenet: None, tmp_path: Path) -> None:
    """Bright centres and dark ones: what a few steps can learn."""
    labels, rng = np.arange(16) % 2, np.random.default_rng(0)
    training = rng.integers(60, 90, (16, 85, 85)).astype(np.uint8)
    training[:, 25:60, 25:60] = np.where(labels, 230, 10)[:, None, None]
    examples = Examples(training, np.ascontiguousarray(training[:, 10:74, 10:74]), labels)
    system, cpu, everything = System("densenet169", "random", 64, None), torch.device("cpu"), np.arange(16)
    model = build(system, seed=0)
    schedule = system.schedule(epochs=20, batch=8, seed=0, lr=3e-3)
    outcome = finetune.fine_tune(model, examples, everything, everything, schedule, 20, tmp_path, cpu)
    assert outcome.losses[outcome.best - 1] == min(outcome.losses) < outcome.losses[0] / 2
    kept = finetune.logits(model, examples.model, cpu)
    assert ((kept > 0) == (labels == 1)).all()
    assert [path.name for path in tmp_path.glob("epoch*.pt")] == [f"epoch{outcome.best:04d}.pt"]


# -- Ray ------------------------------------------------------------------------------------------------------------------


class FakeRay(ModuleType):
    """Runs each task when it is awaited, last first, as a cluster may."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.asked: list[dict[str, int]] = []
        self.exceptions = SimpleNamespace(RayTaskError=RuntimeError)
        self.down = False

    def init(self, address: str, **_: Any) -> None:
        if address == "nowhere:1":
            raise ConnectionError("refused")

    def remote(self, **resources: int) -> Callable[[Any], Any]:
        self.asked.append(resources)
        return lambda function: SimpleNamespace(remote=lambda job: (function, job))

    def wait(self, waiting: list[Any]) -> tuple[list[Any], list[Any]]:
        return waiting[-1:], waiting[:-1]

    def get(self, done: list[Any]) -> None:
        for function, job in done:
            function(job)

    def shutdown(self) -> None:
        self.down = True


@pytest.mark.parametrize("system", ["usf-mae", "densenet169"])
def test_on_a_cluster_the_jobs_ask_for_what_they_need(
    finished: Path, site: Path, tmp_path: Path, small_densenet: None, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay()
    more = [] if system == "usf-mae" else ["--image", "32", "--epochs", "1"]
    here = finished if system == "usf-mae" else tmp_path / "here"
    if system != "usf-mae":
        assert main([*command(site, here, system=system), *more]) == 0
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert main([*command(site, tmp_path / "out", system=system), *more, "--ray", "head:6379"]) == 0
    assert ray.asked == [{"num_cpus": 1, "num_gpus": 0}] and ray.down
    assert (tmp_path / "out/report/predictions.csv").read_bytes() == (here / "report/predictions.csv").read_bytes()
    run_jobs(print, [], "head:6379", cpus=3, gpus=1)
    assert ray.asked[-1] == {"num_cpus": 3, "num_gpus": 1}


def test_no_ray_and_no_cluster(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(command(site, tmp_path / "out", "--ray", "auto")) == 78
    assert "pip install 'hygroma-edge[ray]'" in capsys.readouterr().err and not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    assert main(command(site, tmp_path / "out", "--ray", "nowhere:1")) == 78
    assert "no Ray cluster answers there" in capsys.readouterr().err


def test_a_real_cluster_of_this_machine_gives_the_same_bits(finished: Path, site: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed (pip install 'hygroma-edge[ray]')")
    assert main(command(site, tmp_path / "out", "--ray", "local")) == 0
    assert (tmp_path / "out/report/predictions.csv").read_bytes() == (finished / "report/predictions.csv").read_bytes()
