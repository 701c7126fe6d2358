"""The stages from data to bundle, in order. Each leaves files in the recipe's `work` folder, under a stamp of the keys that
decide them (export/stamps.py), and is skipped when they are there. What a stage does is export/stages'.

bank      crops with labels: real stills, shams, simulated lesions, other anatomy, phantom frames; what a given bundle says of the
          stills in place of labels that the data lack
train     one teacher a fold, and one on everything
distill   one student from each teacher: the teacher of a fold has never seen that fold. First, where the recipe asks for it, on
          frames without labels, then on labels and what the teacher says
quantize  float graph -> INT8 graph, a fold and a refit each
validate  held-out predictions of every form, the report
bundle    the refit, gated on the images held out for good where there are any, with decision parameters fitted on phantom exams

crossval, and baseline alone, lie beside that order: the folds' teachers and baselines, judged on what they never saw. The other
stages take them up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from threadpoolctl import threadpool_limits

from calibration.bank import BANK_SIZE, Bank, build_bank
from edge.bundle.manifest import GateResult, OperatingPoint, Provenance
from edge.engines.selftest import infer_all
from edge.errors import ConfigError, InputError
from edge.screen.preprocess import Preprocessing
from export.atomic import Form, appearing, remove, writable
from export.bundle import require_canonical
from export.data import Data, grouped, lacks, open_data, require_learnable, require_statistics
from export.int8.log_odds_shift import ShiftCrops, quantize_shifted, read_shifts
from export.int8.qat import finetune
from export.int8.quantize import Choice
from export.model.heads import HYGROMA, Head
from export.model.torch_runner import TorchRunner
from export.model.vit import HygromaViT
from export.phantoms import BANK, Progress, phantom_bank
from export.recipe import Recipe, load_recipe, write_recipe
from export.report.engine_gate import StoredCrops, save_crops
from export.report.evidence import HeldOut, evaluation_sets, held_out, judged_heads, operating_point, shipped_threshold
from export.report.paper import BASELINE, ENGINE, NAMES, Answers, write_paper
from export.report.provenance import provenance
from export.report.records import Checked, Report
from export.report.sensitivity import Measured, Study, study
from export.report.validate import EvaluationSet, write_report
from export.stages import bundle as bundling
from export.stages import evidence, given, graphs, weights
from export.stages.baseline import BaselineCourse, baseline_predictions, clear_state, with_finding
from export.stages.crops import REFIT, Crops, run_name
from export.stages.engine import engine_name, engine_says, require_engine
from export.stages.evidence import ARRAYS, beside
from export.stages.graphs import GRAPH
from export.stages.weights import WEIGHTS, Course
from export.stamps import Stamps
from export.training.finetune import STATE, open_device
from export.training.frames import decode_frames, find_frames
from export.training.precision import CPU, record, recorded
from export.training.systems import RANDOM, build, describe_start
from export.training.train import Schedule
from export.training.watched import Watched, best_epoch, set_aside

log = logging.getLogger("hygroma.export")

RECIPE = "recipe.yaml"  # in `work`
STAGES = {  # stage -> its folders under `work` that go on from one call to the next
    "bank": ("bank", "bank_phantom", "given", "frames"),
    "train": ("teacher", "baseline"),
    "distill": ("unlabelled", "student", "heads"),
    "quantize": ("qat", "qdq", "qdq_teacher"),
    "validate": ("predictions", "engine", "other_anatomy", "honesty"),
    "bundle": ("exams",),
    "baseline": ("baseline",),
    "crossval": ("teacher", "baseline", "crossval"),
}
ASIDE = {"baseline": ("bank", "baseline"), "crossval": ("bank", "crossval")}  # they need no more than these
TRAINED = ("teacher", "unlabelled", "student", "heads")  # whose products may be in bfloat16


class Pipeline:
    """All stages of one recipe. A stage asks the one before it for what it needs, so that any can be run first.

    ConfigError from a stage that finds outputs which other settings made; only the bundle is made again unasked. device: cpu or
    cuda, where teacher, baseline and students train and are asked; heads, INT8 graphs and fine-tuning with rounding
    are the CPU's. refit: whether a model is made of all folds too."""

    def __init__(
        self,
        recipe: Recipe,
        progress: Progress = lambda what, done, total: None,
        device: str = "cpu",
        refit: bool = True,
    ):
        self.device = open_device(device)
        self.recipe, self.progress = recipe, progress
        self.work, self.stamps = Path(recipe.work), Stamps(recipe, lambda: self.data)
        torch.set_num_threads(recipe.threads)
        threadpool_limits(recipe.threads, "blas")  # the heads' fits too: other threads sum in another order
        self.heads = recipe.student_config.answers
        # The refit first: should time run out, there is a model.
        self.runs = (REFIT, *recipe.folds) if refit else tuple(recipe.folds)

    def run(self, until: str = "bundle", accept_failing_gate: bool = False) -> None:
        """Every stage up to and including `until`. What other settings made, and data that a later one could not use, is refused
        before the first begins, and what the data lack, and what that costs, is logged."""
        make: dict[str, Callable[[], object]] = {
            "bank": self.bank if until not in ASIDE else lambda: self.taught_crops,
            "baseline": partial(self.cross_validated, teacher=False),
            "crossval": self.cross_validated,
            "train": self.train,
            "distill": self.distill,
            "quantize": self.quantize,
            "validate": self.validate,
            "bundle": partial(self.bundle, accept_failing_gate),
        }
        stages = self.check(until)
        for sentence in lacks(self.data, self.recipe) if until not in ASIDE else ():
            log.warning("%s", sentence)
        for stage in stages:
            make[stage]()

    def check(self, until: str) -> list[str]:
        """The stages up to and including `until`, in order; ConfigError or InputError where one of them cannot work."""
        writable(self.work)
        require_learnable(self.data, self.recipe)
        # The data, the checkpoint to start from, a given bundle and a site's frames are there.
        self.stamps.keys("student" if until not in ASIDE else until)
        with torch.random.fork_rng(devices=[]):  # and the checkpoints fit: said now, not after minutes of edits
            if until != "baseline":
                if self.recipe.given:
                    given.open_given(self.recipe.given)
                weights.at_start(self.recipe.teacher_config, self.recipe.teacher.init, self.recipe.seed)
            if until != "bank" and self.stamps.used("baseline"):
                build(self.recipe.baseline_system, self.recipe.seed)
        order = [stage for stage in STAGES if stage not in ASIDE]
        stages = list(ASIDE[until] if until in ASIDE else order[: order.index(until) + 1])
        unasked = {"bank_phantom"} if until in ASIDE else set()
        for stage in stages:
            for folder in STAGES[stage]:
                if self.stamps.used(folder) and folder not in unasked:
                    self.stamps.check(folder)
        self._leave_recipe()
        if "validate" in stages and self.stamps.used("engine"):
            require_engine(self.recipe.engine)
        if until == "bundle":
            self.stamps.differences("bundle")  # refuses one without a stamp
            require_statistics(self.data, self.recipe)
        return stages

    def _leave_recipe(self) -> None:
        """The recipe beside what it makes: for `hygroma explain`, and to go on from a cross-validation. One that says the same
        stays as it was written."""
        path = self.work / RECIPE
        if path.is_file():
            try:
                if load_recipe(path) == self.recipe:
                    return
            except ConfigError as error:
                log.warning("%s; written again", error)
        with appearing(path) as unfinished:
            write_recipe(replace(self.recipe, work="."), unfinished)

    def train(self) -> None:
        for run in self.runs:
            self.taught(run)

    def taught(self, run: int) -> None:
        self.teacher(run)
        self.baseline(run)

    def distill(self) -> None:
        for run in self.runs:
            self.student(run)

    def quantize(self) -> None:
        for number, run in enumerate(self.runs):
            self.progress("quantize", number, len(self.runs))
            self.qdq(run)

    # -- data

    @cached_property
    def data(self) -> Data:
        """What the recipe's data sets hold. InputError names what does not fit."""
        return open_data(self.recipe)

    @cached_property
    def crops(self) -> Crops:
        """Real stills and what was made of them, then phantoms. InputError when a run could not fill one batch from it."""
        phantom = self.recipe.phantom
        extra = self.stamps.kept_whole(
            "bank_phantom", BANK, lambda: phantom_bank(phantom.training_frames, self.progress)
        )
        return self._crops_of(self.taught_crops.bank.extended(extra.crops, extra.entries))

    @cached_property
    def taught_crops(self) -> Crops:
        """Real stills and what was made of them: all that teachers and baselines learn from. InputError as `crops`, and where a
        run that stops early could not set anything aside for it."""
        recipe = self.recipe
        crops = self._crops_of(self._with_given(self.stamps.kept_whole("bank", BANK, self._real_bank)))
        frames = len(self.frames())
        crops.require_batches(", ".join(recipe.data), self.runs, recipe.batch, frames if recipe.unlabelled.epochs else None)
        for run in self.runs:  # said before the first trains
            if recipe.teacher.patience:
                self._set_aside(crops, run, crops.taught(run))
            if self.stamps.used("baseline") and run != REFIT:
                self._set_aside(crops, run, with_finding(crops.bank, crops.taught(run)))
        return crops

    def _set_aside(self, crops: Crops, run: int, taught: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of what a run is taught, what it trains on and what tells when to stop. InputError where either lacks a class."""
        try:
            return set_aside(crops.bank, taught, self.recipe.seed)
        except InputError as error:
            raise InputError(f"{', '.join(self.recipe.data)}: {run_name(run)}: {error}") from None

    def _crops_of(self, bank: Bank) -> Crops:
        return Crops(bank, self.data.stills, Preprocessing(size=self.recipe.student_config.image), self.recipe.seed)

    def bank(self) -> Bank:
        return self.crops.bank

    def _real_bank(self) -> Bank:
        data, recipe = self.data, self.recipe
        groups, folds = grouped(data, recipe.seed, partial(self.progress, "bank: copies"), recipe.lesions)
        columns = [head.column for head in recipe.heads]
        return build_bank(
            data.stills, groups, folds, data.elsewhere, recipe.seed, partial(self.progress, "bank: stills"), recipe.lesions,
            columns,
        )

    def _with_given(self, bank: Bank) -> Bank:
        """The bank with what the given bundle says where the data have no labels."""
        lacking = not self.data.planes, not self.data.boxes
        if not self.recipe.given or not any(lacking):
            return bank

        no_planes = self._no_planes(bank)
        if no_planes:
            log.warning("%s", no_planes)
        return given.filled(bank, self._given_says(bank), lacking[0] and not no_planes, lacking[1])

    def _given_says(self, bank: Bank) -> dict[str, np.ndarray]:
        """What the given bundle says of the bank's real stills."""

        def said() -> dict[str, np.ndarray]:
            return given.asked(given.open_given(self.recipe.given), self._crops_of(bank), self.recipe.threads, self.progress)

        return self.stamps.kept("given", "said.npz", ARRAYS, said)

    def _no_planes(self, bank: Bank) -> str:
        """Why the given bundle's word on planes is not taken; "" where it is, or is not asked for."""
        if not self.recipe.given or self.data.planes:
            return ""
        return given.why_no_planes(*given.called_standard(bank, self._given_says(bank)))

    def frames(self) -> np.ndarray:
        """The site's unlabelled frames, uint8 [N,BANK_SIZE,BANK_SIZE]; none where the recipe names no folder."""
        if not self.recipe.unlabelled.frames:
            return np.empty((0, BANK_SIZE, BANK_SIZE), np.uint8)

        def write(found: list[Path], path: Path) -> None:
            decode_frames(found, BANK_SIZE, path, self.progress, self.data.pictures)

        form: Form[Any] = Form(write, lambda path: np.asarray(np.load(path, mmap_mode="r")))
        return self.stamps.kept("frames", "frames.npy", form, lambda: find_frames(Path(self.recipe.unlabelled.frames)))

    # -- weights

    def teacher(self, run: int) -> HygromaViT:
        """The teacher of a run, trained if it is not there yet, its plane head fitted again at the end."""
        bank, taught, patience = self.taught_crops.bank, self.taught_crops.taught(run), self.recipe.teacher.patience
        course = self._course("teacher", run, self.recipe.teacher_schedule(run))
        if patience:
            taught, aside = self._set_aside(self.taught_crops, run, taught)
            crops = self.taught_crops.of(aside, Preprocessing(size=self.recipe.teacher_config.image))
            labels = np.array([int(bank.entries[i].hygroma) for i in aside])
            course = replace(course, watched=Watched(crops, labels, patience))
        model = weights.taught_teacher(bank, taught, self.recipe.teacher_config, self.recipe.teacher.init, course)
        plane = self.stamps.kept(
            "teacher", f"{run_name(run)}.plane.pt", WEIGHTS,
            lambda: weights.plane_again(model, bank, taught, course.schedule.seed),
        )  # fmt: skip
        model.plane_head.load_state_dict(plane)
        return model

    def baseline(self, run: int) -> dict[str, np.ndarray]:
        """What a fold's baseline says of images that it never saw, trained if it is not there yet (export/stages/baseline.py);
        nothing of the refit, or where the recipe names none."""
        recipe = self.recipe
        if run == REFIT or not self.stamps.used("baseline"):
            return {}
        schedule = recipe.baseline_schedule(run)
        folder = self.stamps.claim("baseline") / run_name(run)
        course = BaselineCourse(
            recipe.baseline_system, schedule, recipe.baseline.patience, folder, self.device,
            lambda epoch, loss: self.progress(f"baseline {run_name(run)}", epoch, schedule.epochs),
        )  # fmt: skip
        said = self.stamps.kept(
            "baseline", f"{run_name(run)}.npz", ARRAYS, lambda: baseline_predictions(self.taught_crops, run, recipe.seed, course)
        )
        clear_state(folder)
        return said

    def student(self, run: int) -> HygromaViT:
        """The student of a run, distilled if it is not there yet, its heads fitted to the end."""
        model, recipe = self._distilled(run), self.recipe

        def fitted() -> dict[str, Any]:
            calibration, _ = self.crops.calibration(run)
            step = partial(self.progress, f"heads {run_name(run)}")
            record(self.stamps.folder("heads") / f"{run_name(run)}.pt", CPU)
            return weights.fitted_heads(
                model, self.bank(), self.crops.training(run), calibration, recipe.seed, recipe.threads, step
            )

        saved = self.stamps.kept("heads", f"{run_name(run)}.pt", WEIGHTS, fitted)
        for name, head in model.fitted_heads().items():
            head.load_state_dict(saved[name])
        return model

    def _distilled(self, run: int) -> HygromaViT:
        self.stamps.check("student")  # before its teacher trains
        recipe, teacher = self.recipe, self.teacher(run)
        course = self._course("student", run, recipe.student_schedule(run))
        unlabelled = None
        if recipe.unlabelled.epochs and not course.checkpoint.is_file():
            shown = [*(self.bank().crops[i] for i in self.crops.undrawn(run)), *self.frames()]
            unlabelled = shown, self._course("unlabelled", run, recipe.unlabelled_schedule(run))
        return weights.distilled_student(
            teacher, self.bank(), self.crops.taught(run), self.crops.training(run),
            recipe.student_config, recipe.student.blocks, course, unlabelled,
        )  # fmt: skip

    def _course(self, stage: str, run: int, schedule: Schedule, title: str = "") -> Course:
        name = f"{title or stage} {run_name(run)}"
        return Course(
            schedule,
            self.stamps.claim(stage) / f"{run_name(run)}.pt",
            lambda epoch, loss: self.progress(name, epoch, schedule.epochs),
            self.device,
        )

    # -- INT8

    def qdq(self, run: int) -> onnx.ModelProto:
        """The INT8 graph of a run's student, ranges from that run's training crops only."""
        name = f"{run_name(run)}.onnx"

        def chosen() -> onnx.ModelProto:
            choice = self.choice(run)
            log.info("%s: %s", name, choice.described())
            require_canonical(self.stamps.folder("qdq") / name, choice.model, self.recipe.student_config)
            return choice.model

        return self.stamps.kept("qdq", name, GRAPH, chosen)

    def choice(self, run: int, shift_crops: ShiftCrops | None = None) -> Choice:
        """How a run's student is quantised, found again: minutes. shift_crops: the run's, where they are known already."""
        model = graphs.float_model(self.student(run), self.crops, run, self.recipe.threads)
        found = quantize_shifted(model, shift_crops or self.shift_crops(run))
        return self._finetuned(run, found) if self.recipe.qat.when == "always" else found

    def _finetuned(self, run: int, choice: Choice) -> Choice:
        """The choice with weights fine-tuned to it, if they are not there yet, on what the run's student was trained on."""
        course = self._course("qat", run, self.recipe.qat_schedule(run), "quantisation-aware")
        state, config = self.student(run).state_dict(), self.recipe.student_config
        kept = self.bank(), self.crops.training(run)
        return finetune(choice, state, config, *kept, course.schedule, course.checkpoint, on_epoch=course.on_epoch)

    def shift_crops(self, run: int) -> ShiftCrops:
        """The crops on which the logit offset of a run's student is measured."""
        return graphs.shift_crops_of(self.student(run), self.crops, run, self.recipe.threads)

    def quantize_teacher(self) -> tuple[Path, GateResult]:
        """The refit's teacher in INT8, as its student is converted, and its gate on the validation split at the teacher's own
        threshold -> (the graph's file, the gate's result). No bundle holds it: it is for hosts that have room for it."""
        path, teacher = self.stamps.claim("qdq_teacher") / f"{run_name(REFIT)}.onnx", self.teacher(REFIT)
        decides = next(head for head in self.judged_heads if head.name == HYGROMA.name)
        threshold = shipped_threshold(self._folds(), "teacher", decides)
        converted = graphs.converted_teacher(teacher, self.crops, threshold, self.recipe.threads)
        require_canonical(path, converted.model, teacher.config, converted.kept_float)
        GRAPH.leave(converted.model, path)
        return path, converted.gate

    # -- evidence

    def predictions(self, run: int) -> dict[str, np.ndarray]:
        """Held-out probabilities of a run: keys "<form>_<head>" and "<form>_map" for teacher, student, qdq; "index" into the
        bank."""

        def predicted() -> dict[str, np.ndarray]:
            models = self.teacher(run), self.student(run), self.qdq(run)
            return evidence.predicted(*models, self.crops, run, self.recipe.threads, self.device)

        return self.stamps.kept("predictions", f"{run_name(run)}.npz", ARRAYS, predicted)

    def _folds(self) -> HeldOut:
        return self._held_out("folds", {f"fold {fold}": fold for fold in self.recipe.folds})

    def _validation(self) -> HeldOut | None:
        """None where the data hold nothing out for good."""
        return self._held_out("validation", {"validation": REFIT}) if self.crops.holdout else None

    def _held_out(self, name: str, runs: Mapping[str, int]) -> HeldOut:
        parts = {
            part: beside(beside(self.predictions(run), BASELINE, self.baseline(run)), ENGINE, self.engine(run))
            for part, run in runs.items()
        }
        return held_out(name, self.bank(), parts, self.heads)

    def engine(self, run: int) -> dict[str, np.ndarray]:
        """What an engine makes of a fold's INT8 graph (`engine_says`); nothing of the refit, or where the recipe names none."""
        recipe = self.recipe
        if run == REFIT or not self.stamps.used("engine"):
            return {}
        return self.stamps.kept(
            "engine", f"{run_name(run)}.npz", ARRAYS,
            lambda: engine_says(self.qdq(run), self.crops, run, recipe.engine, recipe.threads),
        )  # fmt: skip

    def crossed(self, run: int) -> dict[str, np.ndarray]:
        """What a fold's teacher and, where there is one, its baseline say of images that they never saw, as `predictions`."""
        self.baseline(run)
        return self.stamps.kept(
            "crossval", f"{run_name(run)}.npz", ARRAYS,
            lambda: evidence.taught(self.teacher(run), self.taught_crops, run, self.device),
        )  # fmt: skip

    def judged(self, run: int) -> None:
        """Leaves what all forms of a run say, its baseline and its engine among them."""
        self.baseline(run)
        self.predictions(run)
        self.engine(run)

    def cross_validated(self, teacher: bool = True) -> Answers:
        """What the folds' teachers, unless they are left out, and baselines say of images with a finding that they never saw."""
        crops = self.taught_crops  # what cannot be read or is in two folds is said before anything is made
        parts = {}
        for fold in self.recipe.folds:
            said = self.crossed(fold) if teacher else {"index": crops.held_out(fold)}
            parts[f"fold {fold}"] = beside(said, BASELINE, self.baseline(fold))
        return evidence.answers_of(held_out("folds", crops.bank, parts, self.heads), self.data.stills, crops.judged_on_real)

    def starts(self) -> dict[str, str]:
        """What every form starts from, in words: a student as its teacher did."""
        teacher = describe_start(self.recipe.teacher.init)
        baseline = {BASELINE: describe_start(self.recipe.baseline.init)} if self.stamps.used("baseline") else {}
        return dict.fromkeys(NAMES, teacher) | baseline

    def how_trained(self, form: str, fold: int) -> dict[str, Any]:
        """Of a fold's teacher or baseline: images trained on and watched, epochs and losses."""
        if form == BASELINE:
            found, state = self.baseline(fold), self.stamps.folder("baseline") / run_name(fold) / STATE
            losses, best = found["losses"].tolist(), int(found["best"][0])
            trained, watched = int(found["trained_on"][0]), int(found["watched"][0])
        else:
            state, taught = self.stamps.folder("teacher") / f"{run_name(fold)}.pt", self.taught_crops.taught(fold)
            saved = WEIGHTS.read(state)
            losses, trained, watched = saved.get("losses", []), len(taught), 0
            best = best_epoch(losses) if losses else saved["epoch"]
            if self.recipe.teacher.patience:
                trained, watched = map(len, self._set_aside(self.taught_crops, fold, taught))
        return {
            "trained_on": trained, "watched": watched, "best_epoch": best, "watched_losses": losses, "precision": recorded(state),
        }  # fmt: skip

    @property
    def _explained(self) -> int:
        """The run whose student the report explains, on images that it never saw: the refit, or the first fold's."""
        return REFIT if self.crops.holdout else self.recipe.folds[0]

    @cached_property
    def judged_heads(self) -> list[Head]:
        """The heads as they are judged, what decides first."""
        return judged_heads(self.bank(), self.heads)

    def evaluation_sets(self) -> list[EvaluationSet]:
        """Held-out evidence, out of fold and on what is held out for good."""
        return evaluation_sets(self._folds(), self._validation(), self.judged_heads)

    def _operating_point(self) -> OperatingPoint:
        return operating_point(self._folds(), self.judged_heads)

    def validate(self) -> Report:
        """The report; also written to `work`/report as JSON and HTML."""
        self.progress("validate", 0, 1)
        folds, validation, run = self._folds(), self._validation(), self._explained
        shown = validation or self._held_out("folds", {f"fold {run}": run})
        student, names = self.student(run), [run_name(own) for own in self.runs]
        crops = self.crops.of(self.predictions(run)["index"][np.concatenate(evidence.explained(shown))])
        cams = self.stamps.kept("predictions", "score_cam.npz", ARRAYS, lambda: evidence.cams(student, crops))["cams"]
        splits = [folds] if validation is None else [folds, validation]
        report = evidence.gather(
            self.recipe,
            self.evaluation_sets(),
            self.judged_heads,
            folds,
            validation,
            evidence.saliency(splits, shown, crops, cams, student),
            evidence.called_assessable(
                self._other_anatomy(), self._operating_point().plane_threshold, evidence.caveats(self.data)
            ),
            self.honesty(),
            read_shifts(self.stamps.folder("qdq"), self.stamps.folder("heads"), names),
            self.provenance(),
        )
        answers = evidence.answers_of(folds, self.data.stills, self.crops.judged_on_real)
        called = {ENGINE: engine_name(self.recipe.engine)} if self.stamps.used("engine") else {}
        report["paper"] = write_paper(answers, self.starts(), self.work / "report", called)
        write_report(report, self.work / "report")
        self.progress("validate", 1, 1)
        return report

    def _other_anatomy(self) -> dict[str, np.ndarray]:
        run = self._explained

        def judged() -> dict[str, np.ndarray]:
            return evidence.other_anatomy(
                self.crops, run, self.data.other_anatomy, self.qdq(run), self.recipe.threads, self.progress
            )

        return self.stamps.kept("other_anatomy", "said.npz", ARRAYS, judged)

    def honesty(self) -> list[Checked]:
        """Whether the edits give themselves away: the checks of calibration/honesty.py, as `hygroma lesions` makes them. Empty
        where none is drawn, or into too few stills to tell."""
        self.stamps.claim("honesty")
        count = evidence.checked_stills(self.data.stills) if self.recipe.lesions else 0
        if not count:
            return []
        init = None if self.recipe.teacher.init == RANDOM else Path(self.recipe.teacher.init)
        make = partial(evidence.lesion_checks, self.data.stills, count, self.recipe.seed, init, self.progress)
        return self.stamps.kept("honesty", "lesions.json", evidence.CHECKS, make)

    def threshold(self) -> float:
        """The hygroma head's operating point, a probability."""
        return self._operating_point().hygroma_threshold

    def study(self, run: int, most: int) -> Study:
        """What INT8 costs a run's student, layer by layer, on at most `most` images that it never saw: of its fold, or of the
        validation split for the refit. Ranges come from its training crops, as those of its INT8 graph."""
        recipe, data, shift_crops = self.recipe, self.crops.labelled(run, most), self.shift_crops(run)
        return study(
            f"{recipe.name} {recipe.version}, {run_name(run)}",
            graphs.float_model(self.student(run), self.crops, run, recipe.threads),
            self.choice(run, shift_crops),
            shift_crops,
            Measured(data.crops, data.labels, self.threshold()),
            self.progress,
        )

    def provenance(self) -> Provenance:
        precisions = {stage: recorded(self.stamps.folder(stage) / f"{run_name(REFIT)}.pt") for stage in TRAINED}
        bank = self.bank()
        return provenance(self.recipe, self.data, bank, len(self.frames()), precisions, self._no_planes(bank))

    def save_gate_crops(self, path: Path) -> None:
        """Write what `hygroma validate --engine` compares an engine on: the gate's crops and PyTorch's answers. It holds
        images of the data set."""
        data = self.crops.labelled(REFIT)
        with TorchRunner(self.student(REFIT).state_dict(), self.recipe.student_config) as runner:
            save_crops(StoredCrops(data.crops, data.labels, data.ids, infer_all(runner, data.crops)), path)

    # -- bundle

    def bundle(self, accept_failing_gate: bool = False) -> Path:
        """A draft with default decision parameters runs the phantom exams; the bundle is the draft with fitted ones. It
        takes the place of a bundle that other settings made once it is complete."""
        path, recipe = self.stamps.folder("bundle"), self.recipe
        changed = self.stamps.differences("bundle")
        if changed == []:
            return path
        if changed:
            log.info("%s: made again, since the recipe changed: %s", path, "; ".join(changed))
        report = self.validate()
        reasons = bundling.out_of_fold(report, self.judged_heads, accept_failing_gate)
        draft, made, old = (self.work / name for name in ("draft", "bundle.made", "bundle.old"))
        for unfinished in (draft, made, old):
            remove(unfinished)
        ingredients = bundling.ingredients(
            recipe,
            graphs.float_model(self.student(REFIT), self.crops, REFIT, recipe.threads),
            self.crops,
            self._folds(),
            self.judged_heads,
            self.provenance(),
            bundling.tables(report),
            partial(self._finetuned, REFIT),
        )
        drafted = bundling.drafted(draft, ingredients, accept_failing_gate, self.progress)
        exams = self.stamps.claim("exams")
        bundling.decided(made, draft, drafted, reasons, self.qdq(REFIT), recipe, exams, self.progress)
        # In this order a kill leaves a bundle under its own stamp or no bundle, never one under another's stamp.
        if path.exists():
            path.rename(old)
        self.stamps.write("bundle", self.stamps.path("bundle"))
        made.rename(path)
        for finished in (draft, old):
            remove(finished)
        return path
