"""The validation report: every step from teacher to INT8 on identical held-out images, per fold and pooled, and the
gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edge.bundle.manifest import EVIDENCE_KINDS, EvidenceRow, EvidenceTable
from edge.errors import InputError
from export.atomic import appearing
from export.model.heads import EVERY_PART, REPORTED
from export.report import metrics
from export.report.curves import confusion, reliability, roc_points
from export.report.figures import figures as by_patient
from export.report.gate import DEFAULT_LIMITS, GateLimits, failing, gate, verdict
from export.report.html import render
from export.report.records import Figured, Figures, Losses, Report, SetReport

POOLED = "all folds"
# Prevalences, as 1 in N, at which predictive values are shown: a referral clinic, septated hygroma in a screened
# population (Malone 2005), and a population with few of them.
ONE_IN = (100, 285, 800)


@dataclass(frozen=True)
class Step:
    """One form of the model: `probability` [n] of the positive class, `threshold` its operating point, one or per image
    [n] (each image's fold has its own). A conversion has the threshold of the model that it was made from."""

    name: str
    probability: np.ndarray
    threshold: np.ndarray | float


@dataclass(frozen=True)
class EvaluationSet:
    """Held-out images of one kind of evidence, scored by every step, in order.

    ids [n]; labels {0,1} [n]; splits [n]: name of the part in which each image was held out ("fold 0", "validation").
    reference: name of the PyTorch FP32 step that the steps after it were converted from. task: what a positive is, in
    words. `screening` says whether predictive values make sense. groups [n]: each image's patient, where one may have several:
    intervals are then drawn over patients (report/figures.py); empty: each image is its patient's only one. gated: on what of
    it a conversion must pass the gate (export/report/gate.py).
    """

    name: str
    kind: str
    task: str
    description: str
    ids: Sequence[str]
    labels: np.ndarray
    splits: Sequence[str]
    steps: Sequence[Step]
    reference: str
    screening: bool = True
    groups: Sequence[str] = ()
    gated: str = EVERY_PART


def evaluate(data: EvaluationSet, limits: GateLimits = DEFAULT_LIMITS) -> SetReport:
    """The report on one set, as JSON values: figures per step, pooled and per part (once, where there is one part only);
    losses and gate per conversion, pooled and per part; losses, without a gate, from each step before the reference to it.
    InputError when lengths differ, the kind or reference is unknown, or a class is missing altogether."""
    _check(data)
    labels = np.asarray(data.labels).astype(bool)
    splits = np.asarray(data.splits)
    parts = {str(name): splits == name for name in np.unique(splits)}
    pooled = POOLED if len(parts) > 1 else next(iter(parts))
    parts = {pooled: np.ones(len(labels), bool)} | parts
    names = [step.name for step in data.steps]
    reference = data.steps[names.index(data.reference)]
    earlier, conversions = data.steps[: names.index(data.reference)], data.steps[names.index(data.reference) + 1 :]
    ids = np.asarray(data.ids)
    report: SetReport = {
        "name": data.name,
        "kind": data.kind,
        "task": data.task,
        "description": data.description,
        "n": len(labels),
        "positives": int(labels.sum()),
        "steps": {
            s.name: {
                part: _figures(labels[keep], *_cut(s, keep), np.asarray(data.groups)[keep].tolist() if data.groups else ())
                for part, keep in parts.items()
            }
            for s in data.steps
        },
        "curves": {
            s.name: {
                "roc": roc_points(labels, np.asarray(s.probability)),
                "reliability": reliability(labels, np.asarray(s.probability)),
                "confusion": confusion(labels, np.asarray(s.probability) >= s.threshold),
            }
            for s in data.steps
        },
        "reference": data.reference,
        "earlier": {
            step.name: {part: _losses(labels[keep], _cut(step, keep), _cut(reference, keep)) for part, keep in parts.items()}
            for step in earlier
        },
        "conversions": {},
        "gated": data.gated,
        "predictive_values": [],
        "passed": False,
    }
    for step in conversions:
        report["conversions"][step.name] = {}
        for part, keep in parts.items():
            (before, threshold), after = _cut(reference, keep), np.asarray(step.probability)[keep]
            report["conversions"][step.name][part] = {
                **_losses(labels[keep], (before, threshold), (after, threshold)),
                "gate": verdict(gate(labels[keep], before, after, threshold, ids[keep].tolist(), limits))
            }
    if data.screening:
        last = report["steps"][names[-1]][pooled]
        assert last["sensitivity"] and last["specificity"]  # both classes are there
        sens, spec = last["sensitivity"]["value"], last["specificity"]["value"]
        report["predictive_values"] = [
            {"one_in": k, "ppv": metrics.predictive_value(sens, spec, 1 / k), "step": names[-1]} for k in ONE_IN
        ]
    report["passed"] = not any(failing(c, data.gated) for c in report["conversions"].values())
    return report


def validation_report(sets: Sequence[EvaluationSet], limits: GateLimits = DEFAULT_LIMITS) -> Report:
    """All sets' reports, the limits, and whether every conversion passed on every set that is gated."""
    reports = [evaluate(data, limits) for data in sets]
    passed = all(r["passed"] for r in reports if r["gated"] != REPORTED)
    return {"limits": asdict(limits), "passed": passed, "sets": reports}


def failures(part: SetReport, flipped: bool = False) -> list[str]:
    """Why the conversions in a set's report fail, in words: set, step, part and reasons, with the images that flipped where
    they are asked for. Empty when they pass."""
    return [
        f"{part['name']}, {step}, {split}: {'; '.join(verdict['reasons'])}"
        + (f" (flipped: {', '.join(verdict['flipped']) or 'none'})" if flipped else "")
        for step, conversion in part["conversions"].items()
        for split, verdict in failing(conversion, part["gated"]).items()
    ]


def read_verdicts(folder: str | Path) -> tuple[bool, dict[str, str]]:
    """Of the report in `folder`: whether the gate passed, and name of each set -> "passed", or why its conversions fail."""
    report: Report = json.loads((Path(folder) / "validation.json").read_text(encoding="utf-8"))
    said = {}
    for part in report["sets"]:
        words = "; ".join(failures(part)) or "passed"
        said[part["name"]] = f"{words} (reported only)" if part["gated"] == REPORTED else words
    return report["passed"], said


def write_report(report: Report, folder: str | Path) -> tuple[Path, Path]:
    """Write `validation.json` and the self-contained `validation.html` into `folder`; returns both paths."""
    as_json, as_html = Path(folder) / "validation.json", Path(folder) / "validation.html"
    texts = {as_json: json.dumps(report, indent=1, allow_nan=False) + "\n", as_html: render(report)}
    for path, text in texts.items():
        with appearing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return as_json, as_html


def evidence_tables(report: Report) -> tuple[EvidenceTable, ...]:
    """The pooled and per-fold figures of each set's last step, as the manifest's evidence."""
    tables = []
    for part in report["sets"]:
        step = list(part["steps"])[-1]
        rows = [
            EvidenceRow(metric, split, f["n"], f["value"], f["low"], f["high"])
            for split, figures in part["steps"][step].items()
            for metric, f in figures.items()
            if f is not None
        ]
        described = f"{part['description']} Positive: {part['task']}. Model form: {step}."
        tables.append(EvidenceTable(part["name"], part["kind"], described, tuple(rows)))
    return tuple(tables)


def _check(data: EvaluationSet) -> None:
    n = len(data.labels)
    if data.kind not in EVIDENCE_KINDS:
        raise InputError(
            f"evaluation set {data.name}: kind: found {data.kind!r}; expected one of {', '.join(EVIDENCE_KINDS)}"
        )
    if data.reference not in [s.name for s in data.steps]:
        raise InputError(f"evaluation set {data.name}: reference: found {data.reference!r}; expected one of its steps")
    lengths = {"ids": len(data.ids), "splits": len(data.splits), "groups": len(data.groups) or n}
    lengths |= {s.name: len(s.probability) for s in data.steps}
    for name, length in lengths.items():
        if length != n:
            raise InputError(f"evaluation set {data.name}: {name}: found {length} entries; there are {n} labels")
    if not 0 < int(np.asarray(data.labels).astype(bool).sum()) < n:
        raise InputError(f"evaluation set {data.name}: labels: found one class only; expected both")


def _cut(step: Step, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(step.probability)[keep], np.broadcast_to(step.threshold, keep.shape)[keep]


def _figures(
    labels: np.ndarray, probability: np.ndarray, threshold: np.ndarray, groups: Sequence[str]
) -> Figures:
    """None stands for a figure that this part cannot give: a fold may hold one class only."""
    decisions = probability >= threshold
    several = len(set(groups)) < len(groups)

    def figure(
        name: str, compute: Callable[[np.ndarray, np.ndarray], metrics.Figure], values: np.ndarray
    ) -> Figured | None:
        try:
            if several:
                return by_patient(labels, decisions, probability, groups, [name])[name]
            return compute(labels, values).row()
        except InputError:
            return None

    return {
        "accuracy": figure("accuracy", metrics.accuracy, decisions),
        "sensitivity": figure("sensitivity", metrics.sensitivity, decisions),
        "specificity": figure("specificity", metrics.specificity, decisions),
        "ROC-AUC": figure("roc_auc", metrics.auc, probability),
    }


def _losses(
    labels: np.ndarray, old: tuple[np.ndarray, np.ndarray], new: tuple[np.ndarray, np.ndarray]
) -> Losses:
    """old, new: probability and threshold of two forms [n]."""
    before, after = old[0] >= old[1], new[0] >= new[1]
    dp = np.abs(old[0].astype(np.float64) - new[0])
    positives = int(labels.sum())
    lost = int((labels & before & ~after).sum())
    return {
        "n": len(labels),
        "flips_to_negative": int((before & ~after).sum()),
        "flips_to_positive": int((~before & after).sum()),
        "positives": positives,
        "positives_lost": lost,
        "positives_lost_bound": metrics.upper_bound(lost, positives) if positives else None,
        "max_dp": float(dp.max()),
        "p99_dp": float(np.percentile(dp, 99)),
        "kappa": metrics.kappa(before, after),
        "mcnemar_p": metrics.mcnemar(labels, before, after),
        "wilcoxon_p": metrics.wilcoxon_losses(labels, old[0], new[0]),
    }
