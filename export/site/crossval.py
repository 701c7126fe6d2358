"""4-fold cross-validation of one system on a user's own images (the protocol of arXiv 2512.22730).

Folds are grouped by patient and stratified by class; early stopping and the threshold are decided on patients set aside
inside the training folds; every image is predicted once, by the model that never saw its patient. What lies in `out`:

    run.json                   what decides the results; a rerun goes on only if it is the same
    images.csv, crops.npz      the images as the models see them, their groups and folds
    fold0 .. fold3/            predictions.csv, fold.json, and the weights that made them
    predictions.csv            out of fold, one row an image
    report.json                figures per fold and pooled, with intervals
    lock                       held by the process that writes here
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calibration.crops import Crops, read_crops
from calibration.dataset import FOLDS, POSITIVE, Dataset, load_dataset
from calibration.leakage import assign_folds, inner_split, patient_groups, same_images
from edge.engines.selftest import sigmoid
from edge.errors import ConfigError, InputError
from export.atomic import LOCK, alone, appearing, intact, remove, require_beside
from export.jobs import load_ray, run_jobs
from export.model.vit import ViTConfig
from export.report.figures import METRICS, figures
from export.report.records import FiguredByPatient
from export.training.finetune import STATE, Examples, best_weights, fine_tune, logits, open_device
from export.training.precision import recorded
from export.training.systems import System, build

CODE = 2  # raise when the same settings would give other predictions: what the older code made is refused then
RUN, IMAGES, CROPS, PREDICTIONS, FOLD, REPORT = (
    "run.json",
    "images.csv",
    "crops.npz",
    "predictions.csv",
    "fold.json",
    "report.json",
)
COLUMNS = ("path", "label", "patient", "group", "site", "plane", "signal", "fold")
PREDICTED = ("path", "label", "group", "fold", "probability", "threshold", "decision")
EVEN_ODDS = 0.5
Progress = Callable[[str, int, int, str], None]  # what, done, total, note


@dataclass(frozen=True)
class Settings:
    """epochs: at most; patience: epochs without improvement before a fold stops; lr: peak learning rate, None for the
    system's own; threads: of the CPU, per job."""

    epochs: int = 50
    patience: int = 10
    batch: int = 32
    lr: float | None = None
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True)
class FoldJob:
    """Everything a fold needs besides `out`, for a process that may be on another machine."""

    out: str
    fold: int
    system: System
    settings: Settings
    device: str


@dataclass(frozen=True)
class Run:
    """A finished cross-validation: its report, and per image path, label {0,1}, group, fold, probability, decision."""

    folder: Path
    report: dict[str, Any]
    paths: list[str]
    labels: np.ndarray
    groups: list[str]
    folds: np.ndarray
    probability: np.ndarray
    decisions: np.ndarray


def cross_validate(
    folder: Path,
    system: System,
    out: Path,
    table: Path | None = None,
    positive: str = POSITIVE,
    settings: Settings = Settings(),
    device: str = "cpu",
    ray_address: str | None = None,
    progress: Progress = lambda what, done, total, note: None,
) -> dict[str, Any]:
    """The report, also in `out`. Goes on where an earlier call with the same settings was cut off. InputError or ConfigError
    before anything is trained when data, settings or device cannot work."""
    if ray_address is None:
        open_device(device)
    else:
        load_ray()
    system.require_batch(settings.batch)
    _check_out(out, folder)
    prepared = prepare(load_dataset(folder, table, positive), system, settings, progress)
    with alone(out, "a cross-validation"):
        prepared.store(out)
        del prepared  # the folds read the crops from `out`
        return _run_folds(system, settings, out, device, ray_address, progress)


def _run_folds(
    system: System, settings: Settings, out: Path, device: str, ray_address: str | None, progress: Progress
) -> dict[str, Any]:
    jobs = [FoldJob(str(out.resolve()), fold, system, settings, device) for fold in range(FOLDS)]
    done = partial(progress, "folds")
    run_jobs(
        partial(run_fold, progress=progress) if ray_address is None else run_fold,
        jobs,
        ray_address,
        cpus=settings.threads,
        gpus=int(device == "cuda"),
        on_done=lambda number, total: done(number, total, ""),
    )
    return write_report(out)


@dataclass(frozen=True)
class Prepared:
    """What a run starts from, all checked. stamp: what decides its results; rows: of images.csv."""

    stamp: dict[str, Any]
    rows: list[list[Any]]
    crops: Crops

    def store(self, out: Path) -> None:
        """Into `out`. ConfigError when that was made with other settings or data."""
        _claim(out, self.stamp)
        _write_rows(out / IMAGES, COLUMNS, self.rows)
        if not (out / CROPS).is_file():
            with appearing(out / CROPS) as partial_file:
                np.savez(partial_file, training=self.crops.training, model=self.crops.model)


def prepare(data: Dataset, system: System, settings: Settings, progress: Progress) -> Prepared:
    """Images, groups and folds. InputError when they cannot work."""
    crops = read_crops(data, system.image, lambda done, total: progress("images", done, total, ""))
    groups = patient_groups(data, same_images(crops.hashes))
    folds = assign_folds(data, groups, settings.seed)
    for fold in range(FOLDS):
        try:
            inner_split(data.labels, groups, np.flatnonzero(folds != fold), settings.seed)
        except InputError as error:
            raise InputError(f"{data.folder}: fold {fold} held out: {error}") from None
    rows = [
        [i.name, i.label, i.patient if data.table else "", group, i.site, i.plane_called, signal, fold]
        for i, group, signal, fold in zip(data.images, groups, crops.signals, folds, strict=True)
    ]
    digest = hashlib.sha256(repr(rows).encode() + crops.training.tobytes() + crops.model.tobytes()).hexdigest()
    found = {
        "system": system.name,
        "start": system.described_start(),
        "architecture": _described(system.vit) if system.vit else "DenseNet-169",
        "image": system.image,
        **{k: v for k, v in asdict(settings).items() if k != "threads"},
        "classes": list(data.classes),
        "patients known": data.table is not None,
        "data": f"SHA-256 {digest[:16]}",
        "code": CODE,
    }
    return Prepared(found, rows, crops)


def _described(vit: ViTConfig) -> dict[str, Any]:
    """The transformer's shape; it has no further heads here, and runs of older versions knew none."""
    return {name: value for name, value in asdict(vit).items() if name != "others"}


def run_fold(job: FoldJob, progress: Progress = lambda what, done, total, note: None) -> None:
    """Train on the other folds and predict this one, unless that is done. Leaves files in `out`/fold<n>."""
    out, folder, settings = Path(job.out), Path(job.out) / f"fold{job.fold}", job.settings
    if (folder / FOLD).is_file():
        remove(folder / STATE)
        return
    if not (out / CROPS).is_file():
        raise InputError(f"{out / CROPS}: not seen on this machine; --out must be storage that all machines share")
    torch.set_num_threads(settings.threads)
    device = open_device(job.device)
    folder.mkdir(exist_ok=True)
    rows = _read_rows(out / IMAGES)
    with intact(out / CROPS), np.load(out / CROPS) as saved:
        examples = Examples(saved["training"], saved["model"], np.array([int(row["label"]) for row in rows]))
    held_out = np.array([int(row["fold"]) for row in rows]) == job.fold
    groups = [row["group"] for row in rows]
    trained, watched = inner_split(examples.labels, groups, np.flatnonzero(~held_out), settings.seed)
    schedule = job.system.schedule(settings.epochs, settings.batch, settings.seed + job.fold, settings.lr)
    model = build(job.system, schedule.seed)

    def on_epoch(epoch: int, loss: float) -> None:
        progress(f"fold {job.fold} epoch", epoch, settings.epochs, f"watched loss {loss:.3f}")

    outcome = fine_tune(model, examples, trained, watched, schedule, settings.patience, folder, device, on_epoch)
    threshold = choose_threshold(examples.labels[watched], sigmoid(logits(model, examples.model[watched], device)))
    probability = sigmoid(logits(model, examples.model[held_out], device))
    _write_rows(
        folder / PREDICTIONS,
        PREDICTED,
        [
            [row["path"], row["label"], row["group"], job.fold, f"{p:.9g}", f"{threshold:.9g}", int(p >= threshold)]
            for row, p in zip((rows[i] for i in np.flatnonzero(held_out)), probability, strict=True)
        ],
    )
    _write_json(
        folder / FOLD,
        {
            "trained_on": len(trained),
            "watched": len(watched),
            "best_epoch": outcome.best,
            "watched_losses": outcome.losses,
            "threshold": threshold,
            "weights": best_weights(folder, outcome.best).name,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "precision": recorded(folder / STATE),
        },
    )
    remove(folder / STATE)


def choose_threshold(labels: np.ndarray, probability: np.ndarray) -> float:
    """The probability that best separates the watched images (highest balanced accuracy); of equally good ones the nearest
    to .5, since a few dozen images leave a wide gap open."""
    levels = np.unique(probability.astype(np.float64))
    candidates = np.concatenate([[EVEN_ODDS], (levels[1:] + levels[:-1]) / 2])
    positive = labels.astype(bool)
    called = probability[None] >= candidates[:, None]
    balanced = (called[:, positive].mean(1) + (~called[:, ~positive]).mean(1)) / 2
    best = candidates[balanced >= balanced.max() - 1e-9]
    return float(best[np.abs(best - EVEN_ODDS).argmin()])


def write_report(out: Path) -> dict[str, Any]:
    """Pool the folds' predictions; figures per fold and pooled."""
    order = {row["path"]: i for i, row in enumerate(_read_rows(out / IMAGES))}
    rows = [row for fold in range(FOLDS) for row in _read_rows(out / f"fold{fold}" / PREDICTIONS)]
    rows.sort(key=lambda row: order[row["path"]])
    _write_rows(out / PREDICTIONS, PREDICTED, [[row[column] for column in PREDICTED] for row in rows])
    run = _run(out, {}, rows)
    images = _read_rows(out / IMAGES)
    report = {
        **json.loads((out / RUN).read_text()),
        "images": len(rows),
        "positives": int(run.labels.sum()),
        "patients": len(set(run.groups)),
        "patients in both classes": len(
            {group for group, label in zip(run.groups, run.labels, strict=True) if label}
            & {group for group, label in zip(run.groups, run.labels, strict=True) if not label}
        ),
        "sites": len({row["site"] for row in images}),
        "by site": _by_site(run, [row["site"] for row in images]),
        "signals": dict(Counter(row["signal"] for row in images)),
        "folds": [
            {
                "fold": fold,
                **json.loads((out / f"fold{fold}" / FOLD).read_text()),
                "figures": _figures(run, run.folds == fold),
            }
            for fold in range(FOLDS)
        ],
        "pooled": _figures(run, run.folds >= 0),
    }
    _write_json(out / REPORT, report)
    return report


def _by_site(run: Run, sites: Sequence[str]) -> list[dict[str, Any]]:
    """The pooled predictions and decisions, site by site; nothing where there is one site only. A site of one class has the
    figures of that class alone."""
    rows = []
    for site in sorted(set(sites)) if len(set(sites)) > 1 else ():
        keep = np.array(sites) == site
        positives, n = int(run.labels[keep].sum()), int(keep.sum())
        wanted = METRICS if 0 < positives < n else ("accuracy", "sensitivity" if positives else "specificity")
        rows.append({"site": site, "images": n, "positives": positives, "figures": _figures(run, keep, wanted)})
    return rows


def _figures(run: Run, keep: np.ndarray, wanted: Sequence[str] = METRICS) -> dict[str, FiguredByPatient]:
    groups = [run.groups[i] for i in np.flatnonzero(keep)]
    return figures(run.labels[keep], run.decisions[keep], run.probability[keep], groups, wanted)


def load_run(folder: Path) -> Run:
    """A finished cross-validation. InputError when it is none."""
    try:
        run = _run(folder, json.loads((folder / REPORT).read_text()), _read_rows(folder / PREDICTIONS))
        if len(run.paths) == run.report["images"]:
            return run
        problem = f"{PREDICTIONS} has {len(run.paths)} rows, {REPORT} speaks of {run.report['images']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise InputError(f"{folder}: no finished cross-validation ({problem}); give the --out of `hygroma crossval`")


def _run(folder: Path, report: dict[str, Any], rows: list[dict[str, str]]) -> Run:
    return Run(
        folder,
        report,
        [row["path"] for row in rows],
        np.array([int(row["label"]) for row in rows]),
        [row["group"] for row in rows],
        np.array([int(row["fold"]) for row in rows]),
        np.array([float(row["probability"]) for row in rows]),
        np.array([int(row["decision"]) for row in rows]),
    )


def _check_out(out: Path, data: Path) -> None:
    require_beside(out, data)
    if out.is_dir() and not (out / RUN).is_file() and any(path.name != LOCK for path in out.iterdir()):
        raise ConfigError(f"--out {out}: holds something else; give an empty or a new folder")


def _claim(out: Path, found: dict[str, Any]) -> None:
    """Stamp a new run, or make sure that an old one was made the same way."""
    path = out / RUN
    if path.is_file():
        try:
            known = dict(json.loads(path.read_text()))
        except (ValueError, TypeError):
            raise ConfigError(f"{path}: damaged, so that nobody knows what made this folder; delete {out}") from None
        wrong = [
            f"{k}: found {known.get(k)!r}, now {found.get(k)!r}"
            for k in {**found, **known}
            if known.get(k) != found.get(k)
        ]
        if wrong:
            raise ConfigError(f"{path}: made otherwise ({'; '.join(wrong)}); give another --out, or delete {out}")
        return
    _write_json(path, found)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with appearing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n")


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with appearing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
