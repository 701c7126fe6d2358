"""What the toolchain renders: phantom frames to train on, golden images to ship, exams to fit and measure the decision on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from calibration.bank import BANK_SIZE, UNKNOWN, Bank, Entry, box_in_crop, load_bank, save_bank
from calibration.exams import FALSE_FLAGS_IN, Outcome, fit_decision, outcome
from calibration.phantom import PhantomFrame, render_stills
from calibration.rules import compare
from calibration.traces import Plan, trace_exams
from edge.bundle.manifest import EvidenceRow, EvidenceTable
from edge.decision.params import DecisionParams
from edge.screen.geometry import full_fan
from edge.screen.preprocess import Preprocessing, prepare
from edge.screen.still import read_still
from export.atomic import Form
from export.recipe import PhantomRecipe
from export.report import metrics

PHANTOM_MIX = {"normal": 0.35, "hygroma": 0.4, "other": 0.25}  # of the training frames
PER_PATIENT = 4  # training frames: patients differ more than frames do; at 16, what was missed was missed a whole exam
PHANTOM_SEEDS = {"train": 10_000, "fit": 20_000, "measure": 30_000, "typical": 40_000}  # never shared between uses

EXAMS = "phantom exams"  # the table of what the decision does
Progress = Callable[[str, int, int], None]  # (what, done, total)
BANK: Form[Bank] = Form(lambda bank, folder: save_bank(bank, folder), load_bank, mark="entries.json")


def phantom_bank(total: int, progress: Progress) -> Bank:
    """About `total` rendered frames, read as the device reads a screen; those without a fan are left out."""
    spec = Preprocessing(size=BANK_SIZE)
    crops: list[np.ndarray] = []
    entries: list[Entry] = []
    for number, (truth, share) in enumerate(PHANTOM_MIX.items()):
        frames = render_stills(PHANTOM_SEEDS["train"] + number, round(share * total), truth, per_patient=PER_PATIENT)
        for frame in frames:
            progress("bank: phantom", len(crops), total)
            reading = read_still(frame.image, spec)
            found = reading.fan is not None and reading.fan.kind != "full"
            fan = reading.fan if found else frame.fan  # a live reader finds in 2 s what one still may hide
            if fan is None:
                continue
            crops.append(prepare(frame.image, fan, spec))
            entries.append(_entry(frame, truth, fan.box))
    return Bank(np.array(crops, np.uint8).reshape(-1, BANK_SIZE, BANK_SIZE), entries)


def _entry(frame: PhantomFrame, truth: str, fan: tuple[int, int, int, int]) -> Entry:
    standard = frame.view == "standard"
    box = None
    if frame.nuchal_box is not None:
        x0, y0, x1, y1 = frame.nuchal_box
        box = box_in_crop((x0 - fan[0], y0 - fan[1], x1 - fan[0], y1 - fan[1]), (fan[3] - fan[1], fan[2] - fan[0]))
    hygroma = float(truth == "hygroma") if standard else UNKNOWN
    return Entry(-1, "phantom", -2, float(standard), hygroma, frame.nt_mm if frame.nt_mm is not None else UNKNOWN, box)


def golden_crops(count: int, spec: Preprocessing) -> np.ndarray:
    """uint8 [count,S,S]: phantom frames of every sort from seeds that nothing is trained on."""
    share = {"normal": count // 2 - count // 8, "hygroma": count // 2 - count // 8, "other": count // 4}
    frames = [
        f
        for i, (truth, n) in enumerate(share.items())
        for f in render_stills(PHANTOM_SEEDS["measure"] + 900 + i, n, truth)
    ]
    return np.stack([prepare(f.image, f.fan or full_fan(f.image.shape), spec) for f in frames])


def standard_crops(count: int, spec: Preprocessing) -> np.ndarray:
    """uint8 [count,S,S]: standard planes, half of them with a hygroma, from seeds that nothing else uses."""
    truths = ("normal", "hygroma")
    frames = [
        frame
        for i, truth in enumerate(truths)
        for frame in render_stills(
            PHANTOM_SEEDS["typical"] + i, count // len(truths), truth, standard_share=1.0, per_patient=2
        )
    ]
    return np.stack([prepare(f.image, f.fan or full_fan(f.image.shape), spec) for f in frames])


def decide_on_exams(
    draft: Path,
    base: DecisionParams,
    spec: Preprocessing,
    exams: PhantomRecipe,
    kept: Path,
    workers: int,
    progress: Progress,
) -> tuple[DecisionParams, list[EvidenceTable]]:
    """Parameters fitted on exams scored by the bundle at `draft`, `base` where there are none; what they do on others; and beside
    them the usual rules, which need both. The traces of both lie in the folder `kept`."""
    half = exams.fitting_exams // 2
    plans = {
        "fitting": exam_plans(PHANTOM_SEEDS["fit"], half, exams.fitting_exams - half),
        "measuring": exam_plans(PHANTOM_SEEDS["measure"], exams.measuring_hygromas, exams.measuring_healthy),
    }
    fitting, measuring = (
        trace_exams(plan, draft, spec, kept / f"{name}.jsonl", workers, partial(progress, f"decision: {name} exams"))
        for name, plan in plans.items()
    )
    params = fit_decision(fitting, base) if fitting else base
    tables = [exam_table(outcome(measuring, params))] if measuring else []
    return params, [*tables, *([rules_table(compare(fitting, measuring, params))] if fitting and measuring else [])]


def exam_plans(seed: int, hygromas: int, healthy: int) -> list[Plan]:
    """Hygromas and healthy exams in turn, seeds counted up; every fifth healthy one shows other anatomy. A plan for more exams
    of either sort begins with the same ones."""
    sick = [Plan(seed + 2 * i, "hygroma") for i in range(hygromas)]
    well = [Plan(seed + 2 * i + 1, "other" if i % 5 == 4 else "normal") for i in range(healthy)]
    return sorted([*sick, *well], key=lambda plan: plan.seed)


def rules_table(found: Sequence[tuple[str, Outcome]]) -> EvidenceTable:
    rows = []
    for name, o in found:
        sens = metrics.proportion(o.flagged_hygroma, o.hygroma)
        spec = metrics.proportion(o.healthy - o.flagged_healthy, o.healthy)
        rows += [
            EvidenceRow("exam sensitivity", name, sens.n, sens.value, sens.low, sens.high),
            EvidenceRow("exam specificity", name, spec.n, spec.value, spec.low, spec.high),
        ]
    text = f"On the same simulated exams: each rule's threshold set for at most one false flag in {FALSE_FLAGS_IN} healthy exams "
    return EvidenceTable(
        "decision rules", "phantom", text + "of the fitting seeds, its size for the most hygromas.", tuple(rows)
    )


def exam_table(result: Outcome) -> EvidenceTable:
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
    return EvidenceTable(EXAMS, "phantom", text, tuple(rows))
