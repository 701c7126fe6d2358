"""The stages from data to bundle, in order. Each leaves files in the recipe's `work` folder, under a stamp of the keys that
decide them (export/stamps.py), and is skipped when they are there.

bank      crops with labels: real stills, shams, simulated lesions, other anatomy, phantom frames
train     one teacher a fold, and one on everything
distill   one student from each teacher: the teacher of a fold has never seen that fold. First, where the recipe asks for it, on
          frames without labels, then on labels and what the teacher says
quantize  float graph -> INT8 graph, a fold and a refit each
validate  held-out predictions of every form, the report
bundle    the refit, gated on the `validation` split, with decision parameters fitted on phantom exams
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from threadpoolctl import threadpool_limits

from calibration.bank import BANK_SIZE, UNKNOWN, Bank, build_bank, load_bank, save_bank
from calibration.honesty import MIN_EACH, check_lesions, make_specimens, write_checks
from calibration.stills import FOLDS, all_pictures, assign_folds, check_data, editable, load_stills, read_grey
from edge.bundle import Bundle, write_bundle
from edge.bundle.manifest import CARD_FILE, Calibration, GateResult, ModelInfo, Provenance
from edge.decision.params import DecisionParams
from edge.engines.selftest import infer_all, sigmoid
from edge.errors import GateError, InputError
from edge.screen.preprocess import Preprocessing, letterbox
from edge.screen.still import read_still
from export.atomic import appearing, intact, remove, writable
from export.bundle import Ingredients, LabelledCrops, assemble_bundle, gate_of, require_canonical
from export.heads.features import Shown
from export.heads.fit import CUTS, probe_plane_head, refit_hygroma_head
from export.heads.ood import distance_limit, fit_ood
from export.int8.convert import convert
from export.int8.log_odds_shift import SAMPLE, Falls, quantize_leaning, read_leans
from export.int8.ort_graph import run_graph
from export.int8.qat import finetune
from export.int8.quantize import Choice
from export.model.torch_runner import TorchRunner
from export.model.vit import HygromaViT
from export.model.weights import at_image, load_backbone, student_from_teacher
from export.phantoms import Progress, decide_on_exams, golden_crops, phantom_bank, standard_crops
from export.recipe import Recipe
from export.report.controls import control_rows, controls_table
from export.report.design import design
from export.report.engine_gate import StoredCrops, save_crops
from export.report.evidence import (
    HEADS,
    OUT_OF_FOLD,
    HeldOut,
    entry_id,
    evaluation_sets,
    held_out,
    increased_rows,
    operating_point,
    shipped_threshold,
    thickness_rows,
    thickness_table,
)
from export.report.framing import ASPECT, CUT, aspects, cut_stills, framing_rows, framing_table
from export.report.gate import also_failing
from export.report.model_card import model_card
from export.report.other_anatomy import SOURCES, Judged, read_pictures, read_sources, unfamiliar, unfamiliar_table
from export.report.provenance import provenance
from export.report.saliency import CAM_STILLS, boxed, cams_of, evenly, looked, panel, panel_stills
from export.report.validate import EvaluationSet, evidence_tables, failures, validation_report, write_report
from export.stamps import STAMP, Stamps
from export.training.features import backbone_features
from export.training.finetune import open_device
from export.training.frames import decode_frames, find_frames
from export.training.train import distillation_loss, draw_epoch, fit, predict
from export.training.unlabelled import distil_unlabelled, require_batch

log = logging.getLogger("hygroma.export")

REFIT = FOLDS  # the run that trains on every training still; the shipped weights
STAGES = {  # stage -> its folders under `work` that go on from one call to the next
    "bank": ("bank", "bank_phantom", "frames"),
    "train": ("teacher",),
    "distill": ("unlabelled", "student", "heads"),
    "quantize": ("qat", "qdq", "qdq_teacher"),
    "validate": ("predictions", "honesty"),
    "bundle": ("exams",),
}
SCORED = ("real", "sham", "borderline", "lesion")  # sources whose standard planes the hygroma head scores
UNDRAWN = ("real", "cleaned", "hc18")  # sources that are shown without labels: nothing was drawn into them
CALIBRATION_CROPS = 128  # DESIGN section 3: 32-500 suffice
GOLDEN_CROPS = 64
PLANES = "standard planes"
JUDGED = ("ok", "plane", "distance")  # of export.report.other_anatomy.Judged
CHECKED_STILLS = 480  # of some 1,020: an area of .60 between 480 and 480 is then told from .5 (95 %)
ANOTHER_GRAPH = (
    "The evidence on images is of the quantize stage's graphs, from which this one differs; the gate and the phantom exams are "
    "of this one."
)
TYPICAL_PHANTOMS = 128  # stills, two a patient: the 99th centile of distances needs a hundred


def run_name(run: int) -> str:
    return "refit" if run == REFIT else f"fold{run}"


class Pipeline:
    """All stages of one recipe. A stage asks the one before it for what it needs, so that any can be run first.

    ConfigError from a stage that finds outputs which other settings made; only the bundle is made again unasked. device: cpu or
    cuda, where teacher and students train and are asked; heads, INT8 graphs and fine-tuning with rounding are the CPU's."""

    def __init__(self, recipe: Recipe, progress: Progress = lambda what, done, total: None, device: str = "cpu"):
        self.device = open_device(device)
        self.recipe, self.progress = recipe, progress
        self.work, self.stamps = Path(recipe.work), Stamps(recipe)
        self.spec = Preprocessing(size=recipe.student_config.image)
        torch.set_num_threads(recipe.threads)
        threadpool_limits(recipe.threads, "blas")  # the heads' fits too: other threads sum in another order
        self.runs = (REFIT, *recipe.folds)  # the refit first: should time run out, there is a model
        self._bank: Bank | None = None

    def run(self, until: str = "bundle", accept_failing_gate: bool = False) -> None:
        """Every stage up to and including `until`. What other settings made, and data that a later one could not use, is refused
        before the first begins."""
        for stage in self.check(until):
            if stage == "bundle":
                self.bundle(accept_failing_gate)
            else:
                getattr(self, stage)()

    def check(self, until: str) -> list[str]:
        """The stages up to and including `until`, in order; ConfigError or InputError where one of them cannot work."""
        writable(self.work)
        self.stamps.keys("student")  # the data, the checkpoint to start from and a site's frames are there
        check_data(Path(self.recipe.data), SOURCES)
        with torch.random.fork_rng(devices=[]):  # and the checkpoint fits: said now, not after minutes of edits
            load_backbone(HygromaViT(self.recipe.teacher_config), Path(self.recipe.teacher.init))
        stages = list(STAGES)[: list(STAGES).index(until) + 1]
        for stage in stages:
            for folder in STAGES[stage]:
                if self.stamps.used(folder):
                    self.stamps.check(folder)
        if until == "bundle":
            self.stamps.differences("bundle")  # refuses one without a stamp
        return stages

    # -- data

    def bank(self) -> Bank:
        """Real stills and what was made of them, then phantoms. InputError when a run could not fill one batch from it."""
        if self._bank is None:
            real = self._saved_bank("bank", self._real_bank)
            extra = self._saved_bank(
                "bank_phantom", lambda: phantom_bank(self.recipe.phantom.training_frames, self.progress)
            )
            bank = real.extended(extra.crops, extra.entries)
            self._check_size(bank, len(self.frames()))
            self._bank = bank
        return self._bank

    def _saved_bank(self, stage: str, make: Callable[[], Bank]) -> Bank:
        """Crops, entries and stamp appear together, so that one is never taken for another's."""
        self.stamps.check(stage)
        folder = self.stamps.folder(stage)
        if not (folder / "entries.json").is_file():
            made = make()
            with appearing(folder) as unfinished:
                save_bank(made, unfinished)
                self.stamps.write(stage, unfinished / STAMP)
                remove(folder)  # empty, or without its entries
        with intact(folder):
            return load_bank(folder)

    def _real_bank(self) -> Bank:
        data, seed = Path(self.recipe.data), self.recipe.seed
        stills = load_stills(data)
        return build_bank(data, stills, assign_folds(stills, seed), seed, partial(self.progress, "bank: stills"))

    def frames(self) -> np.ndarray:
        """The site's unlabelled frames, uint8 [N,BANK_SIZE,BANK_SIZE]; none where the recipe names no folder."""
        if not self.recipe.unlabelled.frames:
            return np.empty((0, BANK_SIZE, BANK_SIZE), np.uint8)
        path = self.stamps.claim("frames") / "frames.npy"
        if not path.is_file():
            found = find_frames(Path(self.recipe.unlabelled.frames))
            decode_frames(found, BANK_SIZE, path, self.progress, all_pictures(Path(self.recipe.data)))
        with intact(path):
            return np.asarray(np.load(path, mmap_mode="r"))

    def _check_size(self, bank: Bank, frames: int) -> None:
        """A teacher's epoch is the smallest, or that on unlabelled frames: a student's has the phantoms besides. InputError where
        one would not fill a batch."""
        for run in self.runs:
            keep = _taught(bank, run)
            has_stills = any(bank.entries[i].source == "real" for i in keep)
            found = len(draw_epoch(bank, keep, np.random.default_rng(0))) if has_stills else 0
            if self.recipe.unlabelled.epochs:
                require_batch(len(_undrawn(bank, run)) + frames, self.recipe.batch)
            if found < self.recipe.batch:
                raise InputError(
                    f"{self.recipe.data}: found {found} crops an epoch to train {run_name(run)} on, fewer than one batch "
                    f"({self.recipe.batch}); add training stills, or lower `batch` in the recipe"
                )

    def crops(self, keep: np.ndarray, spec: Preprocessing | None = None) -> np.ndarray:
        """What the device would make of these entries, uint8 [N,S,S]; S is the student's, unless `spec` says another. An
        untouched still is read again as `hygroma score` reads it, fan and all; an edited or rendered one comes from the
        bank."""
        bank, spec = self.bank(), spec or self.spec
        stills = load_stills(Path(self.recipe.data))
        out = []
        for i in keep:
            entry, crop = bank.entries[i], None
            if entry.source == "real":
                crop = read_still(read_grey(stills[entry.still].path), spec).crop
            out.append(letterbox(bank.crops[i], spec) if crop is None else crop)
        return np.stack(out)

    def training(self, run: int) -> np.ndarray:
        """Indices of what the student of a run trains on."""
        return self.bank().where(lambda e: e.fold >= 0 and e.fold != run or e.source == "phantom")

    def held_out_of(self, run: int) -> np.ndarray:
        """Indices of what a run's models are judged on and never saw."""
        fold = -1 if run == REFIT else run
        return self.bank().where(lambda e: e.fold == fold and e.source in ("real", "cleaned", "sham", "lesion"))

    # -- weights

    def train(self) -> None:
        for run in self.runs:
            self.teacher(run)

    def distill(self) -> None:
        for run in self.runs:
            self.student(run)

    def teacher(self, run: int) -> HygromaViT:
        """The teacher of a run, trained if it is not there yet, its plane head fitted again at the end. Phantoms are kept from
        it: it teaches real pixels."""
        bank, taught = self.bank(), _taught(self.bank(), run)
        checkpoint = self.stamps.claim("teacher") / f"{run_name(run)}.pt"
        schedule = self.recipe.teacher_schedule(run)
        torch.manual_seed(schedule.seed)
        model = HygromaViT(self.recipe.teacher_config)
        load_backbone(model, Path(self.recipe.teacher.init))
        if not checkpoint.is_file():
            probe_plane_head(model, bank, taught, schedule.seed)
        name = f"teacher {run_name(run)}"
        fit(
            model,
            bank,
            taught,
            schedule,
            checkpoint,
            on_epoch=lambda epoch, loss: self.progress(name, epoch, schedule.epochs),
            device=self.device,
        )
        path = checkpoint.with_suffix(".plane.pt")
        if not path.is_file():
            probe_plane_head(model, bank, taught, schedule.seed)
            with appearing(path) as unfinished:
                torch.save(model.plane_head.state_dict(), unfinished)
        with intact(path):
            model.plane_head.load_state_dict(torch.load(path, weights_only=True))
        return model

    def student(self, run: int) -> HygromaViT:
        """The student of a run, distilled if it is not there yet, its heads fitted to the end."""
        model = self._distilled(run)
        heads = {"hygroma": model.hygroma_head, "plane": model.plane_head}
        path = self.stamps.claim("heads") / f"{run_name(run)}.pt"
        if not path.is_file():
            bank, taught = self.bank(), self.training(run)
            step = partial(self.progress, f"heads {run_name(run)}")
            calibration, _ = self.calibration_crops(run)
            shown = Shown.by_student(model.state_dict(), model.config, calibration, self.recipe.threads)
            refit_hygroma_head(model, shown, bank, taught, self.recipe.seed, step)
            probe_plane_head(model, bank, taught, self.recipe.seed, CUTS, shown)
            with appearing(path) as unfinished:
                torch.save({name: head.state_dict() for name, head in heads.items()}, unfinished)
        with intact(path):
            saved = torch.load(path, weights_only=True)
            for name, head in heads.items():
                head.load_state_dict(saved[name])
        return model

    def _distilled(self, run: int) -> HygromaViT:
        self.stamps.check("student")  # before its teacher trains
        teacher = self.teacher(run)
        checkpoint = self.stamps.claim("student") / f"{run_name(run)}.pt"
        schedule = self.recipe.student_schedule(run)
        torch.manual_seed(schedule.seed)
        model = HygromaViT(self.recipe.student_config)
        student_from_teacher(model, teacher, tuple(self.recipe.student.blocks))
        teacher = at_image(teacher, model.config.image).to(self.device)
        if self.recipe.unlabelled.epochs and not checkpoint.is_file():
            self._shown_unlabelled(run, model, teacher)
        if not checkpoint.is_file():
            probe_plane_head(model, self.bank(), _taught(self.bank(), run), schedule.seed)
        name = f"student {run_name(run)}"
        fit(
            model,
            self.bank(),
            self.training(run),
            schedule,
            checkpoint,
            distillation_loss(teacher),
            on_epoch=lambda epoch, loss: self.progress(name, epoch, schedule.epochs),
            device=self.device,
        )
        return model

    def _shown_unlabelled(self, run: int, model: HygromaViT, teacher: HygromaViT) -> None:
        """The student's blocks drawn towards its teacher's last tokens, in place, if that was not done yet."""
        bank, schedule = self.bank(), self.recipe.unlabelled_schedule(run)
        name = f"unlabelled {run_name(run)}"
        distil_unlabelled(
            model,
            teacher,
            [*(bank.crops[i] for i in _undrawn(bank, run)), *self.frames()],
            schedule,
            self.stamps.claim("unlabelled") / f"{run_name(run)}.pt",
            on_epoch=lambda epoch, loss: self.progress(name, epoch, schedule.epochs),
            device=self.device,
        )

    # -- INT8

    def quantize(self) -> None:
        for number, run in enumerate(self.runs):
            self.progress("quantize", number, len(self.runs))
            self.qdq(run)

    def qdq(self, run: int) -> onnx.ModelProto:
        """The INT8 graph of a run's student, ranges from that run's training crops only."""
        path = self.stamps.claim("qdq") / f"{run_name(run)}.onnx"
        if not path.is_file():
            choice = self.choice(run)
            log.info("%s: %s", path.name, choice.described())
            require_canonical(path, choice.model, self.recipe.student_config)
            with appearing(path) as unfinished:
                onnx.save(choice.model, str(unfinished))
        with intact(path):
            return onnx.load(str(path))

    def choice(self, run: int, falls: Falls | None = None) -> Choice:
        """How a run's student is quantised, found again: minutes. falls: the run's, where they are known already."""
        calibration, selection = self.calibration_crops(run)
        state = self.student(run).state_dict()
        config, threads = self.recipe.student_config, self.recipe.threads
        found = quantize_leaning(state, config, calibration, selection, falls or self.falls(run), threads)
        return self._finetuned(run, found) if self.recipe.qat.when == "always" else found

    def _finetuned(self, run: int, choice: Choice) -> Choice:
        """The choice with weights fine-tuned to it, if they are not there yet, on what the run's student was trained on."""
        schedule, name = self.recipe.qat_schedule(run), f"quantisation-aware {run_name(run)}"
        return finetune(
            choice,
            self.student(run).state_dict(),
            self.recipe.student_config,
            self.bank(),
            self.training(run),
            schedule,
            self.stamps.claim("qat") / f"{run_name(run)}.pt",
            on_epoch=lambda epoch, loss: self.progress(name, epoch, schedule.epochs),
        )

    def quantize_teacher(self) -> tuple[Path, GateResult]:
        """The refit's teacher in INT8, as its student is converted, and its gate on the validation split at the teacher's own
        threshold -> (the graph's file, the gate's result). No bundle holds it: it is for hosts that have room for it."""
        path = self.stamps.claim("qdq_teacher") / f"{run_name(REFIT)}.onnx"
        teacher, threads = self.teacher(REFIT), self.recipe.threads
        spec, state = Preprocessing(size=teacher.config.image), teacher.state_dict()
        calibration, selection = self.calibration_crops(REFIT, spec)
        falls = Falls.near(state, teacher.config, self.judged_crops(REFIT, spec), threads)
        choice = quantize_leaning(state, teacher.config, calibration, selection, falls, threads)
        threshold = shipped_threshold(self._folds(), "teacher", "hygroma")
        with TorchRunner(state, teacher.config) as reference:
            judge = gate_of(reference, self.labelled(REFIT, spec=spec), threshold, threads=threads)
            converted = convert(choice, state, teacher.config, calibration, selection, falls, judge, threads)
        require_canonical(path, converted.model, teacher.config, converted.spared)
        with appearing(path) as unfinished:
            onnx.save(converted.model, str(unfinished))
        return path, converted.gate

    def calibration_crops(self, run: int, spec: Preprocessing | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Two disjoint sets of training crops, uint8 [N,1,S,S]: for the ranges, and for choosing how they are taken. S is the
        student's, unless `spec` says another."""
        rng = np.random.default_rng([self.recipe.seed, run, 7])
        keep = rng.permutation(self.training(run))[: 2 * CALIBRATION_CROPS]
        crops = self.crops(keep, spec)[:, None]
        half = len(crops) // 2
        return crops[:half], crops[half:]

    def judged_crops(self, run: int, spec: Preprocessing | None = None) -> np.ndarray:
        """Training crops that the hygroma head judges, real pixels of standard planes, uint8 [N,1,S,S]: for the lean."""
        bank, rng = self.bank(), np.random.default_rng([self.recipe.seed, run, 8])
        real = [i for i in self.training(run) if bank.entries[i].plane == 1 and bank.entries[i].source in SCORED]
        return self.crops(rng.permutation(real)[:SAMPLE], spec)[:, None]

    def falls(self, run: int) -> Falls:
        """Where the lean of a run's student is measured."""
        state = self.student(run).state_dict()
        return Falls.near(state, self.recipe.student_config, self.judged_crops(run), self.recipe.threads)

    # -- evidence

    def predictions(self, run: int) -> dict[str, np.ndarray]:
        """Held-out probabilities of a run: keys "<form>_<head>" and "<form>_map" for teacher, student, qdq; "index" into the
        bank."""
        path = self.stamps.claim("predictions") / f"{run_name(run)}.npz"
        if not path.is_file():
            keep = self.held_out_of(run)
            crops, teacher = self.crops(keep), self.teacher(run)
            taught = self.crops(keep, Preprocessing(size=teacher.config.image)) if self.recipe.student.image else crops
            out: dict[str, np.ndarray] = {"index": keep}
            out |= probabilities("teacher", predict(teacher, taught, device=self.device))
            out |= probabilities("student", predict(self.student(run), crops, device=self.device))
            out |= probabilities("qdq", asdict(run_graph(self.qdq(run), crops[:, None], self.recipe.threads)))
            out |= self._framing(run, keep)
            with appearing(path) as unfinished:
                np.savez(unfinished, **out)  # type: ignore[arg-type]
        with intact(path), np.load(path) as saved:
            return dict(saved)

    def _framing(self, run: int, keep: np.ndarray) -> dict[str, np.ndarray]:
        """What export/report/framing.py asks of a run's held-out entries `keep`, float [n]; NaN but for untouched stills."""
        bank = self.bank()
        real = np.array([bank.entries[i].source == "real" for i in keep], bool)
        out = {name: np.full(len(keep), np.nan, np.float32) for name in (CUT, ASPECT)}
        if real.any():
            cut = cut_stills(bank, keep[real], self.spec, [self.recipe.seed, run])
            out[CUT][real] = sigmoid(run_graph(self.qdq(run), cut[:, None], self.recipe.threads).plane)
            out[ASPECT][real] = aspects(bank, keep[real])
        return out

    def _folds(self) -> HeldOut:
        return held_out("folds", self.bank(), {f"fold {f}": self.predictions(f) for f in self.recipe.folds})

    def _validation(self) -> HeldOut:
        return held_out("validation", self.bank(), {"validation": self.predictions(REFIT)})

    def _looked(self, folds: HeldOut, validation: HeldOut) -> dict[str, object]:
        """Where the maps of `folds` and `validation` lie; Score-CAM and panels of the refit, on the validation split."""
        stills, shown = evenly(boxed(validation), CAM_STILLS), panel_stills(validation)
        index = self.predictions(REFIT)["index"]
        wanted = np.concatenate([stills, shown])
        path = self.stamps.claim("predictions") / "score_cam.npz"
        crops = self.crops(index[wanted])
        if not path.is_file():
            with appearing(path) as unfinished:
                np.savez(unfinished, cams=cams_of(self.student(REFIT), crops))
        with intact(path), np.load(path) as saved:
            cams = saved["cams"]
        found = looked((folds, validation), validation, stills, cams[: len(stills)], self.recipe.student_config)
        found["panels"] = [
            panel(
                crop,
                validation.maps["student"][i],
                cam,
                f"{'Simulated lesion' if validation.entries[i].source == 'lesion' else 'Untouched still'}, "
                f"{validation.entries[i].thickness_mm:.1f} mm-equivalents, hygroma probability "
                f"{validation.probability['student_hygroma'][i]:.2f}. Left to right: picture, nuchal map, Score-CAM.",
            )
            for i, crop, cam in zip(shown, crops[len(stills) :], cams[len(stills) :], strict=True)
        ]
        return found

    def _unfamiliar(self) -> dict[str, Any]:
        """Other anatomy through the refit's INT8 graph, against the validation split's standard planes."""
        path = self.stamps.claim("predictions") / "unfamiliar.npz"
        sources = self._other_anatomy(path)
        with intact(path), np.load(path) as saved:
            judged = {
                name: Judged(saved[f"{number}_groups"].tolist(), *(saved[f"{number}_{k}"] for k in JUDGED))
                for number, name in enumerate(sources)
            }
            limit = float(saved["limit"])
        planes = judged.pop(PLANES)
        return unfamiliar(planes, judged, operating_point(self._folds()).plane_threshold, limit)

    def _honesty(self) -> list[dict[str, Any]]:
        """Whether the edits give themselves away: the checks of calibration/honesty.py, as `hygroma lesions` makes them. Empty
        where the data holds too few stills to tell."""
        path = self.stamps.claim("honesty") / "lesions.json"
        if not path.is_file():
            stills, seed, init = load_stills(Path(self.recipe.data)), self.recipe.seed, Path(self.recipe.teacher.init)
            count = min(CHECKED_STILLS, len(editable(stills)))
            if count < 2 * MIN_EACH:
                return []
            specimens = make_specimens(stills, count, seed, partial(self.progress, "lesion checks: edits"))
            step = partial(self.progress, "lesion checks")
            checks = check_lesions(specimens, backbone_features(init), on_step=step)
            with appearing(path) as unfinished:
                write_checks(checks, specimens, seed, init, unfinished)
        with intact(path):
            found: list[dict[str, Any]] = json.loads(path.read_text())["checks"]
        return found

    def _other_anatomy(self, path: Path) -> list[str]:
        """Writes groups, signals, probabilities and distances of every source to `path`, if they are not there yet; returns the
        sources in their order."""
        if path.is_file():
            with intact(path), np.load(path) as saved:
                return [str(name) for name in saved["sources"]]
        bank, data, graph = self.bank(), Path(self.recipe.data), self.qdq(REFIT)
        stills = load_stills(data)
        standard = [(s.path, s.group) for s in stills if s.split == "validation" and s.plane]
        pictures = read_sources(data, self.spec, partial(self.progress, "other anatomy"))
        pictures = {PLANES: read_pictures(standard, self.spec), **pictures} if standard else {}
        assessable, typical = self._familiar(bank)
        ood = fit_ood(run_graph(graph, assessable, self.recipe.threads).embedding)
        out: dict[str, np.ndarray] = {"sources": np.array(list(pictures), dtype=str)}
        out["limit"] = np.array(
            distance_limit(ood, [run_graph(graph, crops, self.recipe.threads).embedding for crops in typical])
        )
        for number, shown in enumerate(pictures.values()):
            raw = run_graph(graph, shown.crops[:, None], self.recipe.threads)
            out[f"{number}_groups"] = np.array(shown.groups, dtype=str)
            for key, values in zip(JUDGED, (shown.ok, sigmoid(raw.plane), ood.distance(raw.embedding)), strict=True):
                out[f"{number}_{key}"] = values
        with appearing(path) as unfinished:
            np.savez(unfinished, **out)  # type: ignore[arg-type]
        return list(pictures)

    def _familiar(self, bank: Bank) -> tuple[np.ndarray, list[np.ndarray]]:
        """Crops of assessable planes: those that the embedding statistics are fitted on, and held-out ones, an array a source."""
        assessable = bank.where(
            lambda e: e.plane == 1 and (e.source == "phantom" or e.fold >= 0 and e.source != "hc18")
        )
        typical = bank.where(lambda e: e.fold == -1 and e.plane == 1 and e.source in ("real", "sham", "lesion"))
        phantoms = standard_crops(TYPICAL_PHANTOMS, self.spec)
        return self.crops(assessable)[:, None], [self.crops(typical)[:, None], phantoms[:, None]]

    def evaluation_sets(self) -> list[EvaluationSet]:
        """Held-out evidence: simulated lesions and real planes, out of fold and on the validation split."""
        return evaluation_sets(self._folds(), self._validation())

    def validate(self) -> dict[str, Any]:
        """The report; also written to `work`/report as JSON and HTML."""
        self.progress("validate", 0, 1)
        report = validation_report(self.evaluation_sets())
        folds, validation = self._folds(), self._validation()
        report["design"] = design(self.recipe, operating_point(folds))
        report["controls"] = control_rows(folds, validation)
        report["thickness"] = thickness_rows((folds, validation))
        report["increased"] = increased_rows((folds, validation))
        report["framing"] = framing_rows((folds, validation))
        report["localisation"] = self._looked(folds, validation)
        report["unfamiliar"] = self._unfamiliar()
        report["honesty"] = self._honesty()
        if self.recipe.qat.when != "always":
            names = [run_name(run) for run in self.runs]
            report["lean"] = read_leans(self.stamps.folder("qdq"), self.stamps.folder("heads"), names)
        report["provenance"] = asdict(self._provenance())
        write_report(report, self.work / "report")
        self.progress("validate", 1, 1)
        return report

    def save_gate_crops(self, path: Path) -> None:
        """Write what `hygroma validate --engine` compares an engine on: the gate's crops and PyTorch's answers. It holds
        images of the data set."""
        data = self.gate_crops()
        with TorchRunner(self.student(REFIT).state_dict(), self.recipe.student_config) as runner:
            save_crops(StoredCrops(data.crops, data.labels, data.ids, infer_all(runner, data.crops)), path)

    # -- bundle

    def bundle(self, accept_failing_gate: bool = False) -> Path:
        """A draft with default decision parameters runs the phantom exams; the bundle is the draft with fitted ones. It
        takes the place of a bundle that other settings made once it is complete."""
        path = self.stamps.folder("bundle")
        changed = self.stamps.differences("bundle")
        if changed == []:
            return path
        if changed:
            log.info("%s: made again, since the recipe changed: %s", path, "; ".join(changed))
        report = self.validate()
        reasons = out_of_fold(report, accept_failing_gate)
        ingredients = self._ingredients(report)
        draft, made, old = (self.work / name for name in ("draft", "bundle.made", "bundle.old"))
        for unfinished in (draft, made, old):
            remove(unfinished)
        drafted = assemble_bundle(
            draft,
            ingredients,
            accept_failing_gate,
            progress=lambda stage: self.progress(f"bundle: {stage}", 0, 1),
            threads=self.recipe.threads,
        )
        params, tables = decide_on_exams(
            draft,
            DecisionParams.from_manifest(drafted.manifest),
            self.spec,
            self.recipe.phantom,
            self.stamps.claim("exams"),
            self.recipe.threads,
            self.progress,
        )
        manifest = replace(
            drafted.manifest,
            decision=params.to_manifest(),
            evidence=(*drafted.manifest.evidence, *tables),
            gate=also_failing(drafted.manifest.gate, reasons),
            provenance=self._told_apart(drafted),
        )
        write_bundle(made, manifest, {**drafted.files, CARD_FILE: model_card(manifest).encode()})
        # In this order a kill leaves a bundle under its own stamp or no bundle, never one under another's stamp.
        if path.exists():
            path.rename(old)
        self.stamps.write("bundle", self.stamps.path("bundle"))
        made.rename(path)
        for finished in (draft, old):
            remove(finished)
        return path

    def _told_apart(self, drafted: Bundle) -> Provenance:
        """The draft's, which says so where its graph is not the one that the report's figures are of."""
        found = drafted.manifest.provenance
        if onnx.load_from_string(drafted.model) == self.qdq(REFIT):
            return found
        return replace(found, quantisation=f"{found.quantisation} {ANOTHER_GRAPH}")

    def gate_crops(self) -> LabelledCrops:
        """The validation split's, as the conversion's gate is judged on."""
        return self.labelled(REFIT)

    def labelled(self, run: int, most: int = 0, spec: Preprocessing | None = None) -> LabelledCrops:
        """What a run never trained on and has a hygroma label; its fold, or the refit's validation split. At most `most` of them,
        drawn by the recipe's seed; 0: all."""
        bank = self.bank()
        keep = [
            i
            for i in self.held_out_of(run)
            if bank.entries[i].hygroma != UNKNOWN and bank.entries[i].source != "cleaned"
        ]
        if most and most < len(keep):
            rng = np.random.default_rng([self.recipe.seed, run, 8])
            keep = sorted(rng.permutation(keep)[:most])
        return LabelledCrops(
            self.crops(np.array(keep), spec)[:, None],
            np.array([bank.entries[i].hygroma for i in keep]),
            [entry_id(bank.entries[i], i) for i in keep],
        )

    def _provenance(self) -> Provenance:
        return provenance(self.recipe, self.bank(), len(self.frames()))

    def threshold(self) -> float:
        """The hygroma head's operating point, a probability."""
        return operating_point(self._folds()).hygroma_threshold

    def _ingredients(self, report: dict[str, Any]) -> Ingredients:
        bank, recipe = self.bank(), self.recipe
        calibration, selection = self.calibration_crops(REFIT)
        assessable, typical = self._familiar(bank)
        tables = (
            *evidence_tables(report),
            controls_table(report["controls"]),
            thickness_table(report["thickness"], report["increased"]),
            unfamiliar_table(report["unfamiliar"]),
            framing_table(report["framing"]),
        )
        c = recipe.student_config
        sizes = f"ViT, {c.depth} blocks, width {c.width}, {c.image} px, patch {c.patch}"
        return Ingredients(
            state=self.student(REFIT).state_dict(),
            config=c,
            model=ModelInfo(recipe.name, recipe.version, sizes),
            preprocessing=self.spec,
            operating_point=operating_point(self._folds()),
            temperatures=Calibration(1.0, 1.0),
            decision=DecisionParams().to_manifest(),
            provenance=self._provenance(),
            evidence=[table for table in tables if table is not None],
            calibration=calibration,
            selection=selection,
            judged=self.judged_crops(REFIT),
            assessable=assessable,
            typical=typical,
            gate=self.gate_crops(),
            # Golden images ship with the bundle: phantoms only, so that no real image travels with it.
            golden=golden_crops(GOLDEN_CROPS, self.spec)[:, None],
            finetune=None if recipe.qat.when == "never" else partial(self._finetuned, REFIT),
            finetune_always=recipe.qat.when == "always",
        )


def out_of_fold(report: Mapping[str, Any], accept_failing_gate: bool) -> list[str]:
    """Why the hygroma head's conversions fail out of fold, fold by fold and pooled: GateError unless accepted."""
    judged = next(part for part in report["sets"] if part["name"] == OUT_OF_FOLD)
    if (found := failures(judged, flipped=True)) and not accept_failing_gate:
        raise GateError(
            f"the INT8 conversion failed its gate out of fold: {'; '.join(found)}. Fine-tune with rounding "
            "(`qat: {when: always}` in the recipe), or accept it with --accept-failing-gate (recorded in the manifest)"
        )
    return failures(judged)


def probabilities(form: str, logits: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A form's outputs on held-out crops, as `predict` gives them -> "<form>_<head>" [n] and "<form>_map" [n,G,G]."""
    heads = {f"{form}_{head}": sigmoid(logits[head]).astype(np.float32) for head in HEADS}
    return heads | {f"{form}_map": sigmoid(logits["nuchal_map"]).astype(np.float16)}


def _taught(bank: Bank, run: int) -> np.ndarray:
    """Indices of what the teacher of a run trains on: real pixels of the other folds."""
    return bank.where(lambda e: e.fold >= 0 and e.fold != run and e.source != "phantom")


def _undrawn(bank: Bank, run: int) -> list[int]:
    """Indices of what the student of a run is shown without labels: of what its teacher trains on, that into which nothing was
    drawn."""
    return [int(i) for i in _taught(bank, run) if bank.entries[i].source in UNDRAWN]
