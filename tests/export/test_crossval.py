"""4-fold cross-validation of the paper's systems, from the command line as a user runs it, on a few made-up images."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from fakes.labelled import write_checkpoint, write_csv, write_images

from edge.cli import main
from export.jobs import run_jobs
from export.site import crossval as module
from export.site.crossval import choose_threshold, load_run, write_report
from export.training import finetune
from export.training.finetune import Examples
from export.training.systems import build, choose_system


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, patients.csv, c.pt. Not to be written to."""
    base = tmp_path_factory.mktemp("site")
    write_csv(base / "patients.csv", write_images(base / "data", patients=8))
    write_checkpoint(base / "c.pt")
    return base


def command(base: Path, out: Path, *more: str, system: str = "usf-mae") -> list[str]:
    start = {"usf-mae": ["--init", str(base / "c.pt")], "vit-random": ["--shape-of", str(base / "c.pt")]}
    return [
        "crossval", str(base / "data"), "--csv", str(base / "patients.csv"), "--system", system, *start.get(system, []),
        "--image", "64", "--epochs", "3", "--batch", "6", "--threads", "1", "--out", str(out), "--json", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "usf"
    assert main(command(site, out)) == 0
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_image_is_predicted_once_by_a_model_that_never_saw_its_patient(finished: Path, site: Path) -> None:
    predictions, known = rows(finished / "predictions.csv"), rows(site / "patients.csv")
    assert sorted(r["path"] for r in predictions) == sorted(r["path"] for r in known)
    patient = {r["path"]: r["patient"] for r in known}
    where: dict[str, set[str]] = {}
    for row in predictions:
        assert row["group"] == patient[row["path"]] and 0 <= float(row["probability"]) <= 1
        assert int(row["decision"]) == (float(row["probability"]) >= float(row["threshold"]))
        where.setdefault(row["group"], set()).add(row["fold"])
    assert all(len(folds) == 1 for folds in where.values()) and len({r["fold"] for r in predictions}) == 4
    for fold in json.loads((finished / "report.json").read_text())["folds"]:
        assert fold["trained_on"] + fold["watched"] == 12


def test_the_report_pools_what_the_predictions_say(finished: Path) -> None:
    report, run = json.loads((finished / "report.json").read_text()), load_run(finished)
    assert (report["images"], report["positives"], report["patients"]) == (16, 8, 16)
    assert report["pooled"]["accuracy"]["value"] == pytest.approx((run.labels == run.decisions).mean())
    for fold in report["folds"]:
        keep = run.folds == fold["fold"]
        assert fold["figures"]["accuracy"]["value"] == pytest.approx((run.labels == run.decisions)[keep].mean())
        assert fold["figures"]["accuracy"]["n"] == 4
    for figure in report["pooled"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]


def test_a_second_call_trains_nothing_and_says_the_same(
    finished: Path, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "fine_tune", lambda *_: pytest.fail("trained again"))
    before = (finished / "predictions.csv").read_bytes()
    assert main(command(site, finished)) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((finished / "report.json").read_text())
    assert (finished / "predictions.csv").read_bytes() == before


def test_a_kill_loses_only_the_running_epoch(
    finished: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second epoch of the second fold; what was done is not done again, and it ends in the same weights."""
    epochs, real = [], finetune._train_epoch

    def dies(*args: Any) -> None:
        epochs.append(1)
        if len(epochs) == 5:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(finetune, "_train_epoch", dies)
    assert main(command(site, tmp_path / "out")) == 130
    assert (tmp_path / "out/fold0/fold.json").is_file() and (tmp_path / "out/fold1/training.pt").is_file()
    assert main(command(site, tmp_path / "out")) == 0
    assert len(epochs) == 5 + 2 + 3 + 3  # the one that died; folds 1, 2 and 3
    assert (tmp_path / "out/predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()
    assert not list((tmp_path / "out").rglob("training.pt"))


def test_two_processes_never_write_to_one_folder(
    finished: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is refused while the first trains, and may go on when that was killed."""
    out, real = tmp_path / "out", finetune._train_epoch

    def dies(*args: Any) -> None:
        before = sorted(p.name for p in out.rglob("*"))
        assert main(command(site, out)) == 78
        assert f"{out / 'lock'}: held by process {os.getpid()} on " in capsys.readouterr().err
        assert sorted(p.name for p in out.rglob("*")) == before
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "_train_epoch", dies)
    assert main(command(site, out)) == 130
    monkeypatch.setattr(finetune, "_train_epoch", real)
    assert main(command(site, out)) == 0
    assert (out / "predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()


def test_a_kill_before_the_first_file_leaves_a_folder_that_can_be_gone_on_with(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_claim", dies)
    for _ in range(2):
        assert main(command(site, tmp_path / "out")) == 130
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["lock"]


def half_done(out: Path) -> None:
    (out / "fold3/fold.json").unlink()


def no_state(out: Path) -> None:
    half_done(out)
    (out / "fold3/training.pt").write_bytes(b"PK cut")


def no_crops(out: Path) -> None:
    half_done(out)
    (out / "crops.npz").write_bytes(b"PK cut")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "command_of", "words"),
    [
        (no_state, "crossval", r"fold3/training.pt: cannot be read \(.*delete it"),
        (no_crops, "crossval", r"crops.npz: cannot be read \(.*delete it"),
        (lambda out: cut_short(out / "run.json"), "crossval", "run.json: damaged, .*delete "),
        (lambda out: (out / "crops.npz").write_bytes(b"x"), "explain", r"crops.npz: cannot be read \(.*delete it"),
        (lambda out: [p.unlink() for p in out.glob("fold*/epoch*.pt")], "explain", "epoch000.*missing; delete .*/fold"),
        (lambda out: [cut_short(p) for p in out.glob("fold*/epoch*.pt")], "explain", "epoch000.*damaged; delete .*/fold"),
        (lambda out: (out / "report.json").write_text("{}"), "compare", "no finished cross-validation .KeyError"),
        (lambda out: cut_rows(out / "predictions.csv"), "compare", "predictions.csv has 11 rows, report.json speaks of 16"),
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


def cut_rows(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:12]))


@pytest.mark.parametrize("system", ["vit-random", "densenet169"])
def test_the_other_systems_run_on_the_same_folds(
    finished: Path, site: Path, tmp_path: Path, system: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if system == "densenet169":
        pytest.importorskip("monai")
    call = command(site, tmp_path / "out", "--epochs", "1", system=system)
    call[call.index("--image") + 1] = "32" if system == "densenet169" else "64"
    assert main(call) == 0
    assert json.loads(capsys.readouterr().out)["start"] == "random"
    for unit in ("image", "patient", "fold", "fold-metric"):
        assert main(["compare", str(finished), str(tmp_path / "out"), "--unit", unit]) == 0
        text = capsys.readouterr().out
        assert text.count("A pretrained, B random start") == text.count(" p = ") == (4 if unit == "fold" else 1)
        assert text.count("smallest p") == text.count(" p = ")
    assert "vit-random is the control" in text


def test_the_table_a_user_reads(finished: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = [part for part in command(site, finished) if part != "--json"]
    assert main(call) == 0
    text = capsys.readouterr().out
    assert "16 images, 8 hygroma, 16 patients" in text and text.count("\nfold ") == 4 and "pooled" in text
    assert "95 % intervals: DeLong, exact" in text
    assert "\ntrained in float32" in text or "\ntrained in bfloat16" in text


def test_patients_of_both_classes_are_told(
    finished: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A CSV that numbers each class anew makes one patient of two: half the patients, and no error anywhere."""
    assert json.loads((finished / "report.json").read_text())["patients in both classes"] == 0
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for path in (out / "fold0/predictions.csv", out / "fold1/predictions.csv", out / "fold2/predictions.csv",
                 out / "fold3/predictions.csv"):  # fmt: skip
        path.write_text(re.sub(",[nh]([0-9]+),", r",\1,", path.read_text()))
    assert main([part for part in command(site, out) if part != "--json"]) == 0
    assert "8 patients have images of both classes" in capsys.readouterr().out


def at_sites(finished: Path, out: Path, sites: Callable[[dict[str, str]], str]) -> Path:
    """A finished run whose images come from the sites that `sites` says of its rows."""
    shutil.copytree(finished, out)
    known = rows(out / "images.csv")
    write_csv(out / "images.csv", [{**row, "site": sites(row)} for row in known])
    write_report(out)
    return out


def test_figures_per_site_are_those_of_its_images(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads((finished / "report.json").read_text())["by site"] == []
    half = {row["path"] for row in rows(finished / "images.csv") if row["path"].endswith(("1-0.png", "3-0.png"))}
    out = at_sites(finished, tmp_path / "out", lambda row: "Köln" if row["path"] in half else "")
    run, (unnamed, named) = load_run(out), load_run(out).report["by site"]
    keep = np.array([path in half for path in run.paths])
    assert (named["site"], named["images"], named["positives"], unnamed["images"]) == ("Köln", 4, 2, 12)
    right = run.labels[keep] == run.decisions[keep]
    assert named["figures"]["accuracy"]["value"] == right.mean()
    assert named["figures"]["sensitivity"]["value"] == right[run.labels[keep] == 1].mean()
    for figure in named["figures"].values():
        assert figure["low"] <= figure["value"] <= figure["high"] and figure["low"] < figure["high"]
    assert main(["compare", str(out), str(finished)]) == 0
    said = capsys.readouterr().out
    assert said.count("Köln (2 positive)") == said.count("no site given (6 positive)") == 1


def test_a_site_with_one_class_says_so(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = [{**row, "site": f"of-{row['label']}"} for row in rows(site / "patients.csv")]
    table, out = write_csv(tmp_path / "sites.csv", known), tmp_path / "out"
    call = command(site, out, "--epochs", "1", "--csv", str(table))
    assert main([part for part in call if part != "--json"]) == 0
    said = capsys.readouterr().out
    assert (
        "of-normal (no positive image, so no area)" in said and "of-hygroma (positive images only, so no area)" in said
    )
    ill, healthy = load_run(out).report["by site"]
    assert (list(ill["figures"]), list(healthy["figures"])) == (
        ["accuracy", "sensitivity"],
        ["accuracy", "specificity"],
    )


# -- what is refused, always before anything is trained ---------------------------------------------------------------


def broken_image(base: Path) -> list[str]:
    (base / "data/normal/00-0.png").write_bytes(b"")
    return []


def two_labels(base: Path) -> list[str]:
    (base / "data/hygroma/00-0.png").write_bytes((base / "data/normal/00-0.png").read_bytes())
    return []


def one_patient(base: Path) -> list[str]:
    many = rows(base / "patients.csv")
    for row in many:
        row["patient"] = "one" if row["label"] == "normal" else row["patient"]
    write_csv(base / "patients.csv", many)
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


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (broken_image, 66, "normal/00-0.png: the file is empty; copy it again"),
        (two_labels, 66, "the same image under two labels"),
        (one_patient, 66, "normal: 1 patients for 4 folds"),
        (missing_file, 66, "names files that are not in the class folders: normal/00-0.png"),
        (wrong_checkpoint, 66, "no vision transformer with timm's keys"),
        (damaged_checkpoint, 66, "c.pt: not "),
        (lambda b: ["--csv", str(b / "none.csv")], 66, "none.csv: no such file"),
        (lambda b: ["--positive", "CH"], 66, "none is 'CH'"),
        (lambda b: ["--image", "60"], 78, "--image: found 60"),
        (lambda b: ["--out", str(b / "data/out")], 78, "lies inside the data folder"),
        (lambda b: ["--out", str(b / "c.pt")], 78, "c.pt: is a file; give a folder"),
        (lambda b: ["--out", str(b)], 78, "holds something else; give an empty or a new folder"),
        (lambda b: ["--init", str(b / "absent.pt")], 66, "absent.pt: no such checkpoint"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    tmp_path: Path,
    spoil: Callable[[Path], list[str]],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_csv(tmp_path / "patients.csv", write_images(tmp_path / "data", patients=5))
    write_checkpoint(tmp_path / "c.pt")
    monkeypatch.setattr(module, "fine_tune", lambda *_: pytest.fail("trained"))
    more = spoil(tmp_path)
    assert main(command(tmp_path, tmp_path / "out", *more)) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_that_is_not_there(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(site, tmp_path / "out", "--device", "cuda")) == 78
    assert "--device cuda: torch" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_other_settings_do_not_go_on_from_a_run(finished: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(site, finished, "--seed", "1")) == 78
    assert "seed: found 0, now 1" in capsys.readouterr().err
    assert main(["compare", str(finished), str(site)]) == 66
    assert "no finished cross-validation" in capsys.readouterr().err


def test_the_threshold_is_the_best_and_nearest_to_even_odds() -> None:
    assert choose_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])) == 0.5
    assert choose_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.9])) == pytest.approx(0.25)


def test_training_learns_and_leaves_the_best_weights(site: Path, tmp_path: Path) -> None:
    """Bright centres and dark ones: what a few steps can learn."""
    labels, rng = np.arange(16) % 2, np.random.default_rng(0)
    training = rng.integers(60, 90, (16, 85, 85)).astype(np.uint8)
    training[:, 25:60, 25:60] = np.where(labels, 230, 10)[:, None, None]
    examples = Examples(training, np.ascontiguousarray(training[:, 10:74, 10:74]), labels)
    system, cpu, everything = choose_system("vit-random", None, 64, site / "c.pt"), torch.device("cpu"), np.arange(16)
    model = build(system, seed=0)
    schedule = system.schedule(epochs=12, batch=8, seed=0, lr=3e-3)
    outcome = finetune.fine_tune(model, examples, everything, everything, schedule, 12, tmp_path, cpu)
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


def test_on_a_cluster_the_jobs_ask_for_what_they_need(
    finished: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert main(command(site, tmp_path / "out", "--ray", "head:6379")) == 0
    assert ray.asked == [{"num_cpus": 1, "num_gpus": 0}] and ray.down
    assert (tmp_path / "out/predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()
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
    assert (tmp_path / "out/predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()
