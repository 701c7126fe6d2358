"""The stages from data to bundle, in order. Each leaves files in the recipe's `work` folder and is skipped when they are
there.

bank      crops with labels: real stills, shams, simulated lesions, other anatomy, phantom frames
train     one teacher a fold, and one on everything
distill   one student from each teacher: the teacher of a fold has never seen that fold
quantize  float graph -> INT8 graph, a fold and a refit each
validate  held-out predictions of every form, the report
bundle    the refit, gated on the `validation` split, with decision parameters fitted on phantom exams
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch

import edge
from calibration.bank import BANK_SIZE, UNKNOWN, Bank, Entry, box_in_crop, build_bank, load_bank, save_bank
from calibration.exams import Outcome, fit_decision, outcome, trace_exams
from calibration.phantom import PhantomFrame, render_stills
from calibration.stills import FOLDS, assign_folds, load_stills, read_grey
from edge.bundle import Bundle, load_bundle, write_bundle
from edge.bundle.manifest import (
    CARD_FILE,
    Calibration,
    DataSource,
    EvidenceRow,
    EvidenceTable,
    ModelInfo,
    OperatingPoint,
    Provenance,
)
from edge.decision.params import DecisionParams
from edge.engines.scorer import Scorer
from edge.engines.selftest import sigmoid
from edge.errors import InputError
from edge.screen.geometry import full_fan
from edge.screen.preprocess import Preprocessing, letterbox, prepare
from edge.screen.still import read_still
from export import metrics
from export.bundle import Ingredients, LabelledCrops, assemble_bundle
from export.model_card import model_card
from export.onnx_graph import build_float_graph
from export.ort_graph import run_graph
from export.quantize import quantize_best
from export.recipe import Recipe
from export.sources import DINOV2_INITIALISATION, PROTOTYPE_LIMITS, fetus_framework, hc18
from export.train import distillation_loss, fit, predict
from export.validate import EvaluationSet, Step, evidence_tables, validation_report, write_report
from export.vit import HygromaViT
from export.weights import load_backbone, student_from_teacher

log = logging.getLogger("hygroma.export")

REFIT = FOLDS  # the run that trains on every training still; the shipped weights
STAGES = ("bank", "train", "distill", "quantize", "validate", "bundle")
SPECIFICITY = 0.98  # a frame's, at the operating point: the evidence over an exam does the rest
PLANES_KEPT = 0.95  # of standard planes that the plane threshold keeps (DESIGN: other anatomy is judged at that point)
CALIBRATION_CROPS = 128  # DESIGN section 3: 32-500 suffice
GOLDEN_CROPS = 64
PHANTOM_MIX = {"normal": 0.35, "hygroma": 0.4, "other": 0.25}  # of the phantom training frames
PHANTOM_SEEDS = {"train": 10_000, "fit": 20_000, "measure": 30_000}  # never shared between uses

Progress = Callable[[str, int, int], None]  # (what, done, total)


def run_name(run: int) -> str:
    return "refit" if run == REFIT else f"fold{run}"


class Pipeline:
    """All stages of one recipe. A stage asks the one before it for what it needs, so that any can be run first."""

    def __init__(self, recipe: Recipe, progress: Progress = lambda what, done, total: None):
        self.recipe, self.progress = recipe, progress
        self.work = Path(recipe.work)
        self.spec = Preprocessing(size=recipe.image)
        torch.set_num_threads(recipe.threads)
        self.runs = (REFIT, *recipe.folds)  # the refit first: should time run out, there is a model
        self._bank: Bank | None = None

    def run(self, until: str = STAGES[-1], accept_failing_gate: bool = False) -> None:
        """Every stage up to and including `until`."""
        for stage in STAGES[: STAGES.index(until) + 1]:
            if stage == "bundle":
                self.bundle(accept_failing_gate)
            else:
                getattr(self, stage)()

    # -- data

    def bank(self) -> Bank:
        if self._bank is not None:
            return self._bank
        real, phantom = self.work / "bank", self.work / "bank_phantom"
        if not (real / "entries.json").is_file():
            stills = load_stills(Path(self.recipe.data))
            folds = assign_folds(stills, self.recipe.seed)
            made = build_bank(
                Path(self.recipe.data), stills, folds, self.recipe.seed, partial(self.progress, "bank: stills")
            )
            save_bank(made, real)
        if not (phantom / "entries.json").is_file():
            save_bank(self._phantom_bank(), phantom)
        extra = load_bank(phantom)
        self._bank = load_bank(real).extended(extra.crops, extra.entries)
        return self._bank

    def _phantom_bank(self) -> Bank:
        spec = Preprocessing(size=BANK_SIZE)
        crops: list[np.ndarray] = []
        entries: list[Entry] = []
        total = self.recipe.phantom.training_frames
        for number, (truth, share) in enumerate(PHANTOM_MIX.items()):
            frames = render_stills(PHANTOM_SEEDS["train"] + number, round(share * total), truth)
            for frame in frames:
                self.progress("bank: phantom", len(crops), total)
                reading = read_still(frame.image, spec)
                found = reading.fan is not None and reading.fan.kind != "full"
                fan = reading.fan if found else frame.fan  # a live reader finds in 2 s what one still may hide
                if fan is None:
                    continue
                crops.append(prepare(frame.image, fan, spec))
                entries.append(_phantom_entry(frame, truth, fan.box))
        return Bank(np.stack(crops), entries)

    def _crops(self, keep: np.ndarray) -> np.ndarray:
        """What the device would make of these entries, uint8 [N,S,S]. An untouched still is read again as `hygroma
        score` reads it, fan and all; an edited or rendered one comes from the bank."""
        bank = self.bank()
        stills = load_stills(Path(self.recipe.data))
        out = []
        for i in keep:
            entry, crop = bank.entries[i], None
            if entry.source == "real":
                crop = read_still(read_grey(stills[entry.still].path), self.spec).crop
            out.append(letterbox(bank.crops[i], self.spec) if crop is None else crop)
        return np.stack(out)

    def _training(self, run: int) -> np.ndarray:
        return self.bank().where(lambda e: e.fold >= 0 and e.fold != run or e.source == "phantom")

    def _held_out(self, run: int) -> np.ndarray:
        fold = -1 if run == REFIT else run
        return self.bank().where(lambda e: e.fold == fold and e.source in ("real", "sham", "lesion"))

    # -- weights

    def train(self) -> None:
        for run in self.runs:
            self.teacher(run)

    def distill(self) -> None:
        for run in self.runs:
            self.student(run)

    def teacher(self, run: int) -> HygromaViT:
        """The teacher of a run, trained if it is not there yet. Phantoms are kept from it: it teaches real pixels."""
        schedule = self.recipe.teacher_schedule(run)
        torch.manual_seed(schedule.seed)
        model = HygromaViT(self.recipe.teacher_config)
        load_backbone(model, Path(self.recipe.teacher.init))
        bank = self.bank()
        keep = np.array([i for i in self._training(run) if bank.entries[i].source != "phantom"])
        name = f"teacher {run_name(run)}"
        fit(
            model,
            bank,
            keep,
            schedule,
            self._checkpoint("teacher", run),
            on_epoch=lambda epoch, loss: self.progress(name, epoch, schedule.epochs),
        )
        return model

    def student(self, run: int) -> HygromaViT:
        """The student of a run, distilled if it is not there yet."""
        schedule = self.recipe.student_schedule(run)
        teacher = self.teacher(run)
        torch.manual_seed(schedule.seed)
        model = HygromaViT(self.recipe.student_config)
        student_from_teacher(model, teacher, tuple(self.recipe.student.blocks))
        name = f"student {run_name(run)}"
        fit(
            model,
            self.bank(),
            self._training(run),
            schedule,
            self._checkpoint("student", run),
            distillation_loss(teacher),
            on_epoch=lambda epoch, loss: self.progress(name, epoch, schedule.epochs),
        )
        return model

    def _checkpoint(self, kind: str, run: int) -> Path:
        folder = self.work / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{run_name(run)}.pt"

    # -- INT8

    def quantize(self) -> None:
        for number, run in enumerate(self.runs):
            self.progress("quantize", number, len(self.runs))
            self.qdq(run)

    def qdq(self, run: int) -> onnx.ModelProto:
        """The INT8 graph of a run's student, ranges from that run's training crops only."""
        path = self.work / "qdq" / f"{run_name(run)}.onnx"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            calibration, selection = self._calibration_crops(run)
            graph = build_float_graph(self.student(run).state_dict(), self.recipe.student_config)
            choice = quantize_best(graph, calibration, selection, threads=self.recipe.threads)
            log.info("%s: ranges by %s, errors %s", path.name, choice.method, choice.errors)
            onnx.save(choice.model, str(path))
        return onnx.load(str(path))

    def _calibration_crops(self, run: int) -> tuple[np.ndarray, np.ndarray]:
        """Two disjoint sets of training crops, uint8 [N,1,S,S]: for the ranges, and for choosing how they are taken."""
        rng = np.random.default_rng([self.recipe.seed, run, 7])
        keep = rng.permutation(self._training(run))[: 2 * CALIBRATION_CROPS]
        crops = self._crops(keep)[:, None]
        return crops[:CALIBRATION_CROPS], crops[CALIBRATION_CROPS:]

    # -- evidence

    def _predictions(self, run: int) -> dict[str, np.ndarray]:
        """Held-out probabilities of a run: keys "<form>_<head>" for teacher, student, qdq; "index" into the bank."""
        path = self.work / "predictions" / f"{run_name(run)}.npz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            keep = self._held_out(run)
            crops = self._crops(keep)
            out: dict[str, np.ndarray] = {"index": keep}
            forms = {"teacher": predict(self.teacher(run), crops), "student": predict(self.student(run), crops)}
            raw = run_graph(self.qdq(run), crops[:, None], self.recipe.threads)
            forms["qdq"] = {"plane": raw.plane, "hygroma": raw.hygroma}
            for form, values in forms.items():
                for head in ("plane", "hygroma"):
                    out[f"{form}_{head}"] = sigmoid(values[head]).astype(np.float32)
            np.savez(path, **out)  # type: ignore[arg-type]
        with np.load(path) as saved:
            return dict(saved)

    def _out_of_fold(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Predictions of all folds one after the other, and the fold of each."""
        parts = [self._predictions(fold) for fold in self.recipe.folds]
        folds = np.concatenate([np.full(len(p["index"]), f) for f, p in zip(self.recipe.folds, parts, strict=True)])
        return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}, folds

    def evaluation_sets(self) -> list[EvaluationSet]:
        """Held-out evidence: simulated lesions and real planes, out of fold and on the validation split."""
        oof, folds = self._out_of_fold()
        final = self._predictions(REFIT)
        sets = []
        for split, predictions, of in (
            ("folds", oof, folds),
            ("validation", final, np.full(len(final["index"]), REFIT)),
        ):
            entries = [self.bank().entries[i] for i in predictions["index"]]
            ids = [f"{e.source}:{e.still:04d}:{i}" for e, i in zip(entries, predictions["index"], strict=True)]
            lesion = np.array([e.hygroma != UNKNOWN for e in entries])
            real = np.array([e.source == "real" for e in entries])
            for head, keep, kind in (("hygroma", lesion, "simulated_lesion"), ("plane", real, "real")):
                labels = np.array([getattr(e, head) for e in entries])[keep]
                own = {form: predictions[f"{form}_{head}"][keep] for form in ("teacher", "student", "qdq")}
                limit: dict[str, np.ndarray | float]
                choose = _specific_threshold if head == "hygroma" else _keeping_threshold
                if split == "folds":  # each fold's threshold comes from the other folds
                    limit = {
                        form: _cross_fitted(labels, own[form], of[keep], choose) for form in ("teacher", "student")
                    }
                else:  # the shipped threshold, from the folds
                    everywhere = [self.bank().entries[i] for i in oof["index"]]
                    known = np.array(
                        [e.hygroma != UNKNOWN if head == "hygroma" else e.source == "real" for e in everywhere]
                    )
                    truth = np.array([getattr(e, head) for e in everywhere])[known]
                    limit = {form: choose(truth, oof[f"{form}_{head}"][known]) for form in ("teacher", "student")}
                steps = [
                    Step("teacher", own["teacher"], limit["teacher"]),
                    Step("student", own["student"], limit["student"]),
                    Step("INT8", own["qdq"], limit["student"]),
                ]
                sets.append(
                    _evaluation_set(
                        head, split, kind, [i for i, k in zip(ids, keep, strict=True) if k], labels, of[keep], steps
                    )
                )
        return sets

    def validate(self) -> dict[str, object]:
        """The report; also written to `work`/report as JSON and HTML."""
        self.progress("validate", 0, 1)
        report = validation_report(self.evaluation_sets())
        report["thickness"] = self._thickness()
        write_report(report, self.work / "report")
        self.progress("validate", 1, 1)
        return report

    def _thickness(self) -> list[dict[str, object]]:
        """Rank correlation of the hygroma head with the heuristic thickness of untouched real stills."""
        from scipy.stats import spearmanr

        rows = []
        for split, predictions in (("folds", self._out_of_fold()[0]), ("validation", self._predictions(REFIT))):
            entries = [self.bank().entries[i] for i in predictions["index"]]
            keep = np.array([e.source == "real" and e.thickness_mm != UNKNOWN for e in entries])
            mm = np.array([e.thickness_mm for e in entries])[keep]
            rho = float(spearmanr(mm, predictions["qdq_hygroma"][keep])[0])
            spread = 1.96 / np.sqrt(max(1, keep.sum() - 3))  # Fisher's z
            low, high = np.tanh(np.arctanh(rho) + np.array([-spread, spread]))
            rows.append({"split": split, "n": int(keep.sum()), "rho": rho, "low": float(low), "high": float(high)})
        return rows

    # -- bundle

    def bundle(self, accept_failing_gate: bool = False) -> Path:
        """A draft with default decision parameters runs the phantom exams; the bundle is the draft with fitted ones."""
        path = self.work / "bundle"
        if path.exists():
            return path
        report = self.validate()
        ingredients = self._ingredients(report)
        draft = self.work / "draft"
        _remove(draft)
        assemble_bundle(
            draft,
            ingredients,
            accept_failing_gate,
            progress=lambda stage: self.progress(f"bundle: {stage}", 0, 1),
            threads=self.recipe.threads,
        )
        made = load_bundle(draft)
        params, table = self._decision(made)
        manifest = replace(made.manifest, decision=params.to_manifest(), evidence=(*made.manifest.evidence, table))
        write_bundle(path, manifest, {**made.files, CARD_FILE: model_card(manifest).encode()})
        _remove(draft)
        return path

    def _decision(self, draft: Bundle) -> tuple[DecisionParams, EvidenceTable]:
        base = DecisionParams.from_manifest(draft.manifest)
        p = self.recipe.phantom
        with Scorer.open(draft.path) as scorer:
            fitting = trace_exams(
                _exam_truths(p.fitting_exams),
                PHANTOM_SEEDS["fit"],
                scorer,
                self.spec,
                lambda n: self.progress("decision: fitting exams", n, p.fitting_exams),
            )
            measuring = trace_exams(
                _exam_truths(p.measuring_exams),
                PHANTOM_SEEDS["measure"],
                scorer,
                self.spec,
                lambda n: self.progress("decision: measuring exams", n, p.measuring_exams),
            )
        params = fit_decision(fitting, base)
        return params, _exam_table(outcome(measuring, params))

    def _ingredients(self, report: dict[str, object]) -> Ingredients:
        bank, recipe = self.bank(), self.recipe
        oof, _ = self._out_of_fold()
        entries = [bank.entries[i] for i in oof["index"]]
        known = np.array([e.hygroma != UNKNOWN for e in entries])
        real = np.array([e.source == "real" for e in entries])
        hygroma = np.array([e.hygroma for e in entries])
        plane = np.array([e.plane for e in entries])
        point = OperatingPoint(
            _specific_threshold(hygroma[known], oof["student_hygroma"][known]),
            _keeping_threshold(plane[real], oof["student_plane"][real]),
        )
        calibration, selection = self._calibration_crops(REFIT)
        assessable = bank.where(
            lambda e: e.plane == 1 and (e.source == "phantom" or e.fold >= 0 and e.source != "hc18")
        )
        typical = bank.where(lambda e: e.fold == -1 and e.plane == 1 and e.source in ("real", "sham", "lesion"))
        gated = bank.where(lambda e: e.fold == -1 and e.hygroma != UNKNOWN)
        # Golden images ship with the bundle: phantoms only, so that no real image travels with it.
        golden = np.stack([_model_view(frame, self.spec) for frame in _golden_frames(GOLDEN_CROPS)])
        sizes = f"ViT, {len(recipe.student.blocks)} blocks, width {recipe.teacher.width}, {recipe.image} px, patch 16"
        return Ingredients(
            state=self.student(REFIT).state_dict(),
            config=recipe.student_config,
            model=ModelInfo(recipe.name, recipe.version, sizes),
            preprocessing=self.spec,
            operating_point=point,
            temperatures=Calibration(1.0, 1.0),
            decision=DecisionParams().to_manifest(),
            provenance=self._provenance(),
            evidence=[*evidence_tables(report), _thickness_table(report["thickness"])],  # type: ignore[arg-type]
            calibration=calibration,
            selection=selection,
            assessable=self._crops(assessable)[:, None],
            typical=self._crops(typical)[:, None],
            gate=LabelledCrops(
                self._crops(gated)[:, None],
                np.array([bank.entries[i].hygroma for i in gated]),
                [f"{bank.entries[i].source}:{bank.entries[i].still:04d}:{i}" for i in gated],
            ),
            golden=golden[:, None],
        )

    def _provenance(self) -> Provenance:
        recipe, bank = self.recipe, self.bank()
        stills = len(bank.where(lambda e: e.source == "real" and e.fold >= 0))
        lesions = len(bank.where(lambda e: e.source in ("lesion", "sham") and e.fold >= 0))
        heads = len(bank.where(lambda e: e.source == "hc18"))
        phantoms = len(bank.where(lambda e: e.source == "phantom"))
        t, st = recipe.teacher, recipe.student
        phantom = DataSource(
            "hygroma-edge phantom",
            "both heads; decision parameters; golden images",
            phantoms,
            "as this project",
            "rendered by calibration/phantom",
            "simulated, no patient",
        )
        return Provenance(
            data=(
                fetus_framework("both heads; simulated lesions and shams", stills, edited=True),
                hc18("negatives of the plane head", heads),
                phantom,
            ),
            initialisation=f"{Path(t.init).name}. {DINOV2_INITIALISATION}",
            teacher=f"ViT of {t.depth} blocks, {t.frozen_blocks} frozen, {t.epochs} epochs on real stills, {lesions} simulated "
            "lesions and shams made of them, and HC18; never on phantoms",
            recipe=f"hygroma export {edge.__version__}: the student starts from blocks {st.blocks} of its teacher; {st.epochs} "
            "epochs of labels, the teacher's soft logits, nuchal map and token directions, phantoms by label alone; folds "
            f"{recipe.folds} of {FOLDS} were held out in turn",
            seeds=(recipe.seed,),
            quantisation="-",  # assemble_bundle says what was done
            limits=(
                *PROTOTYPE_LIMITS,
                "The golden images are phantoms, since no image of the data may travel with the bundle.",
                "The phantom's exams show that the device works end to end; they say nothing about patients.",
            ),
        )


def _phantom_entry(frame: PhantomFrame, truth: str, fan: tuple[int, int, int, int]) -> Entry:
    standard = frame.view == "standard"
    box = None
    if frame.nuchal_box is not None:
        x0, y0, x1, y1 = frame.nuchal_box
        box = box_in_crop((x0 - fan[0], y0 - fan[1], x1 - fan[0], y1 - fan[1]), (fan[3] - fan[1], fan[2] - fan[0]))
    hygroma = float(truth == "hygroma") if standard else UNKNOWN
    return Entry(-1, "phantom", -2, float(standard), hygroma, frame.nt_mm if frame.nt_mm is not None else UNKNOWN, box)


def _golden_frames(count: int) -> list[PhantomFrame]:
    """Phantom frames of every sort from seeds that nothing is trained on."""
    share = {"normal": count // 2 - count // 8, "hygroma": count // 2 - count // 8, "other": count // 4}
    return [
        f
        for i, (truth, n) in enumerate(share.items())
        for f in render_stills(PHANTOM_SEEDS["measure"] + 900 + i, n, truth)
    ]


def _model_view(frame: PhantomFrame, spec: Preprocessing) -> np.ndarray:
    return prepare(frame.image, frame.fan or full_fan(frame.image.shape), spec)


def _exam_truths(count: int) -> list[str]:
    """Half hygroma; the rest mostly normal, every fifth of it other anatomy."""
    return ["hygroma" if i % 2 == 0 else ("other" if i % 10 == 9 else "normal") for i in range(count)]


def _specific_threshold(labels: np.ndarray, probability: np.ndarray) -> float:
    """The lowest probability at which SPECIFICITY of the negatives stay below."""
    return float(np.clip(np.quantile(probability[labels == 0], SPECIFICITY), 0.01, 0.99))


def _keeping_threshold(labels: np.ndarray, probability: np.ndarray) -> float:
    """The probability that PLANES_KEPT of the positives reach."""
    return float(np.clip(np.quantile(probability[labels == 1], 1 - PLANES_KEPT), 0.01, 0.99))


def _cross_fitted(
    labels: np.ndarray, probability: np.ndarray, folds: np.ndarray, choose: Callable[[np.ndarray, np.ndarray], float]
) -> np.ndarray:
    """A threshold per image, chosen on the other folds' held-out predictions."""
    out = np.empty(len(labels))
    for fold in np.unique(folds):
        out[folds == fold] = choose(labels[folds != fold], probability[folds != fold])
    return out


def _evaluation_set(
    head: str, split: str, kind: str, ids: list[str], labels: np.ndarray, folds: np.ndarray, steps: list[Step]
) -> EvaluationSet:
    if len(labels) == 0:
        raise InputError(f"evaluation of the {head} head on {split}: no held-out image; check `data` in the recipe")
    words = {
        "hygroma": (
            "nuchal collection of 3.2-12 mm-equivalents, simulated",
            "real mid-sagittal stills with a simulated lesion, against shams and untouched stills",
        ),
        "plane": ("standard mid-sagittal nuchal view", "untouched real stills, standard against non-standard planes"),
    }
    held = {"folds": "held out of training fold by fold", "validation": "the validation split, never trained on"}
    name = f"{head}, {split}"
    return EvaluationSet(
        name,
        kind,
        words[head][0],
        f"{words[head][1]}; {held[split]}.",
        ids,
        labels,
        folds,
        steps,
        "student",
        screening=head == "hygroma",
    )


def _thickness_table(rows: list[dict[str, float | int | str]]) -> EvidenceTable:
    return EvidenceTable(
        "thickness of untouched stills",
        "real",
        "Spearman rank correlation of the INT8 hygroma probability with the heuristic thickness of untouched real stills.",
        tuple(
            EvidenceRow(
                "Spearman rho", str(r["split"]), int(r["n"]), float(r["rho"]), float(r["low"]), float(r["high"])
            )
            for r in rows
        ),
    )


def _exam_table(result: Outcome) -> EvidenceTable:
    sens = metrics.proportion(result.flagged_hygroma, result.hygroma)
    spec = metrics.proportion(result.healthy - result.flagged_healthy, result.healthy)
    rows = [
        EvidenceRow("exam sensitivity", "measuring exams", sens.n, sens.value, sens.low, sens.high),
        EvidenceRow("exam specificity", "measuring exams", spec.n, spec.value, spec.low, spec.high),
    ]
    if result.seconds_to_flag:
        median = float(np.median(result.seconds_to_flag))
        rows.append(
            EvidenceRow(
                "median seconds from standard plane to flag",
                "measuring exams",
                len(result.seconds_to_flag),
                median,
                None,
                None,
            )
        )
    text = "Simulated cine exams (phantom) of seeds neither trained nor fitted on, through screen, INT8 model and decision."
    return EvidenceTable("phantom exams", "phantom", text, tuple(rows))


def _remove(path: Path) -> None:
    import shutil

    if path.exists():
        shutil.rmtree(path)
