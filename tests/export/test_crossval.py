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
from export.site.crossed import load_crossed
from export.stages import weights
from export.stamps import STAMP
from export.training import train


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, with the table p.csv in it, and c.pt. Not to be written to."""
    base = tmp_path_factory.mktemp("site")
    write_csv(base / "data/p.csv", write_images(base / "data", patients=8))
    write_checkpoint(base / "c.pt")
    return base


def command(base: Path, out: Path, *more: str, system: str = "usf-mae") -> list[str]:
    start = {"usf-mae": ["--init", str(base / "c.pt")], "vit-random": ["--shape-of", str(base / "c.pt")]}
    return [
        "crossval", str(base / "data/p.csv"), "--system", system, *start.get(system, []),
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
    predictions, known = rows(finished / "report/predictions.csv"), rows(site / "data/p.csv")
    assert sorted(r["path"] for r in predictions) == sorted(r["path"] for r in known)
    patient = {r["path"]: r["patient"] for r in known}
    where: dict[str, set[str]] = {}
    for row in predictions:
        assert row["patient"] == patient[row["path"]] and 0 <= float(row["teacher probability"]) <= 1
        assert int(row["teacher decision"]) == (float(row["teacher probability"]) >= float(row["teacher threshold"]))
        where.setdefault(row["patient"], set()).add(row["fold"])
    assert all(len(folds) == 1 for folds in where.values()) and len({r["fold"] for r in predictions}) == 4


def test_the_report_pools_what_the_predictions_say(finished: Path) -> None:
    run = load_crossed(finished)
    table, answers = json.loads((finished / "report/paper.json").read_text()), run.answers
    assert (table["images"], table["positives"], table["patients"], table["kind"]) == (16, 8, 16, "real")
    figures = run.row["figures"]
    assert figures["pooled"]["accuracy"]["value"] == pytest.approx((answers.labels == run.decisions).mean())
    for fold in range(4):
        keep = answers.folds == fold
        found = figures[f"fold {fold}"]["accuracy"]
        assert found["value"] == pytest.approx((answers.labels == run.decisions)[keep].mean()) and found["n"] == 4
    for figure in figures["pooled"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]


def test_a_second_call_trains_nothing_and_says_the_same(
    finished: Path, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, made = (finished / "report/predictions.csv").read_bytes(), inodes(finished)
    assert main(command(site, finished)) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((finished / "report/crossval.json").read_text())
    assert (finished / "report/predictions.csv").read_bytes() == before and inodes(finished) == made


def inodes(folder: Path) -> dict[str, int]:
    """Of what stages made: a file that was made again has another number."""
    return {str(p.relative_to(folder)): p.stat().st_ino for name in ("bank", "teacher", "crossval") for p in folder.glob(f"{name}/*")}


def test_export_goes_on_from_a_cross_validation_and_trains_no_fold_again(finished: Path, site: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(finished, work, copy_function=os.link)
    text = (work / "recipe.yaml").read_text().replace(str(finished), str(work))
    (tmp_path / "recipe.yaml").write_text(text)
    before = inodes(work)
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 0
    after = inodes(work)
    assert before.items() <= after.items() and set(after) - set(before) >= {"teacher/refit.pt"}


def test_a_kill_loses_only_the_running_epoch(
    finished: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second epoch of the second fold; what was done is not done again, and it ends in the same weights."""
    epochs, real = [], train.batches

    def dies(*args: Any) -> Any:
        epochs.append(1)
        if len(epochs) == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train, "batches", dies)
    assert main(command(site, tmp_path / "out")) == 130
    assert (tmp_path / "out/teacher/fold0.pt").is_file() and (tmp_path / "out/teacher/fold1.pt").is_file()
    assert main(command(site, tmp_path / "out")) == 0
    assert len(epochs) == 5 + 2 + 3 + 3  # the one that died; folds 1, 2 and 3
    assert (tmp_path / "out/report/predictions.csv").read_bytes() == (finished / "report/predictions.csv").read_bytes()


def test_two_processes_never_write_to_one_folder(
    finished: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is refused while the first trains, and may go on when that was killed."""
    out, real = tmp_path / "out", train.batches

    def dies(*args: Any) -> Any:
        before = sorted(p.name for p in out.rglob("*"))
        assert main(command(site, out)) == 78
        assert f"{out / 'lock'}: held by process {os.getpid()} on " in capsys.readouterr().err
        assert sorted(p.name for p in out.rglob("*")) == before
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "batches", dies)
    assert main(command(site, out)) == 130
    monkeypatch.setattr(train, "batches", real)
    assert main(command(site, out)) == 0
    assert (out / "report/predictions.csv").read_bytes() == (finished / "report/predictions.csv").read_bytes()


def half_done(out: Path) -> None:
    (out / "crossval/fold3.npz").unlink()
    (out / "teacher/fold3.pt").write_bytes(b"PK cut")


def no_bank(out: Path) -> None:
    (out / "crossval/fold3.npz").unlink()
    (out / "bank/entries.json").write_text("[")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "command_of", "words"),
    [
        (half_done, "crossval", r"teacher/fold3.pt: cannot be read \(.*delete it"),
        (no_bank, "crossval", r"bank: cannot be read \(.*delete it"),
        (lambda out: cut_short(out / f"teacher/{STAMP}"), "crossval", "teacher/recipe.json: not readable as a JSON object"),
        (lambda out: [p.unlink() for p in out.glob("teacher/fold*.pt")], "explain", "teacher/fold..pt: missing; run the same"),
        (lambda out: (out / "report/paper.json").write_text("{}"), "compare", "no finished cross-validation or export .KeyError"),
        (lambda out: cut_rows(out / "report/predictions.csv"), "compare", "predictions.csv has 11 rows, paper.json speaks of 16"),
    ],
)  # fmt: skip
def test_what_was_damaged_afterwards_is_named_with_the_fix(
    finished: Path, site: Path, tmp_path: Path, spoil: Callable[[Path], Any], command_of: str, words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "recipe.yaml").write_text((out / "recipe.yaml").read_text().replace(str(finished), str(out)))
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
    assert [form["start"] for form in json.loads(capsys.readouterr().out)["paper"]["forms"]] == ["random"]
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


def test_patients_of_both_classes_are_told(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table that numbers each class anew makes one patient of two: half the patients, and no error anywhere."""
    shutil.copytree(site / "data", tmp_path / "data")
    many = [{**row, "patient": row["patient"][1:]} for row in rows(site / "data/p.csv")]
    write_csv(tmp_path / "data/p.csv", many)
    shutil.copyfile(site / "c.pt", tmp_path / "c.pt")
    assert main([part for part in command(tmp_path, tmp_path / "out", "--epochs", "1") if part != "--json"]) == 0
    assert "8 patients have images of both classes" in capsys.readouterr().out


def test_figures_per_site_are_those_of_its_images_and_one_class_says_so(
    site: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_crossed(finished).row["by site"] == []
    shutil.copytree(site / "data", tmp_path / "data")
    shutil.copyfile(site / "c.pt", tmp_path / "c.pt")
    named = {row["path"]: "Köln" if row["hygroma"] == "1" else "" for row in rows(site / "data/p.csv")}
    write_csv(tmp_path / "data/p.csv", [{**row, "site": named[row["path"]]} for row in rows(site / "data/p.csv")])
    out = tmp_path / "out"
    assert main([part for part in command(tmp_path, out, "--epochs", "1") if part != "--json"]) == 0
    said = capsys.readouterr().out
    assert "no site given (no positive image, so no area)" in said and "Köln (positive images only, so no area)" in said
    run = load_crossed(out)
    healthy, ill = run.row["by site"]
    keep = np.array([named[name] == "Köln" for name in run.answers.names])
    assert (ill["site"], ill["images"], healthy["images"]) == ("Köln", 8, 8)
    assert ill["figures"]["sensitivity"]["value"] == (run.answers.labels == run.decisions)[keep].mean()
    assert ill["figures"]["roc_auc"] is None and healthy["figures"]["sensitivity"] is None
    assert main(["compare", str(out), str(finished)]) == 0
    assert "Köln (positive images only" in capsys.readouterr().out


# -- what is refused, always before anything is trained ---------------------------------------------------------------


def broken_image(base: Path) -> list[str]:
    (base / "data/normal/00-0.png").write_bytes(b"")
    return []


def two_labels(base: Path) -> list[str]:
    (base / "data/hygroma/00-0.png").write_bytes((base / "data/normal/00-0.png").read_bytes())
    return []


def one_patient(base: Path) -> list[str]:
    many = rows(base / "data/p.csv")
    for row in many:
        row["patient"] = "one" if row["hygroma"] == "0" else row["patient"]
    write_csv(base / "data/p.csv", many)
    return []


def missing_file(base: Path) -> list[str]:
    (base / "data/normal/00-0.png").unlink()
    return []


def no_table(base: Path) -> list[str]:
    (base / "data/p.csv").unlink()
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
        (two_labels, 66, "the same image with two findings"),
        (one_patient, 66, "1 patients with images of 'normal' for 4 folds"),
        (missing_file, 66, "names files that are not there: normal/00-0.png"),
        (wrong_checkpoint, 66, "no vision transformer with timm's keys"),
        (damaged_checkpoint, 66, "c.pt: not "),
        (no_table, 66, "p.csv: no such file; give a folder per class or a table"),
        (lambda b: ["--image", "60"], 78, "--image: found 60"),
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
    write_csv(tmp_path / "data/p.csv", write_images(tmp_path / "data", patients=5))
    write_checkpoint(tmp_path / "c.pt")
    monkeypatch.setattr(weights, "taught_teacher", lambda *_: pytest.fail("trained"))
    more = spoil(tmp_path)
    assert main(command(tmp_path, tmp_path / "out", *more)) == code
    assert words in capsys.readouterr().err
    assert not {p.name for p in (tmp_path / "out").glob("*")} - {"lock", "recipe.yaml"}


def test_folders_are_a_data_set_and_results_do_not_lie_in_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "data", patients=5)
    call = ["crossval", str(tmp_path / "data"), "--system", "densenet169", "--image", "32", "--out"]
    pytest.importorskip("monai")
    assert main([*call, str(tmp_path / "data/out")]) == 78 and "lies inside the data folder" in capsys.readouterr().err
    assert main([*call, str(tmp_path / "out"), "--positive", "CH"]) == 66 and "none is 'CH'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_that_is_not_there(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(site, tmp_path / "out", "--device", "cuda")) == 78
    assert "--device cuda: torch" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_other_settings_do_not_go_on_from_a_run(finished: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(site, finished, "--seed", "1")) == 78
    assert "seed: found 0, the recipe says 1" in capsys.readouterr().err
    assert main(["compare", str(finished), str(site)]) == 66
    assert "no finished cross-validation" in capsys.readouterr().err


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
    assert (tmp_path / "out/report/predictions.csv").read_bytes() == (finished / "report/predictions.csv").read_bytes()
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
