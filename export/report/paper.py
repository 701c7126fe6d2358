"""The paper's table (arXiv 2512.22730): accuracy, sensitivity, specificity and area of every form of a run's models, per fold and
pooled, on the same images that none of them saw; and Wilcoxon's signed-rank test between any two."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from edge.errors import InputError
from export.atomic import appearing
from export.report.figures import METRICS, figures
from export.report.records import FiguredByPatient, Paper, PaperForm, PaperSite, PaperTest
from export.report.signed_rank import by_group, log_losses, signed_rank
from export.training.systems import RANDOM

REAL, SIMULATED = "real", "simulated_lesion"  # kinds of evidence
BASELINE, TEACHER, STUDENT, QDQ, ENGINE = "baseline", "teacher", "student", "qdq", "engine"
# form -> what tables call it
NAMES = {BASELINE: "DenseNet-169", TEACHER: "teacher", STUDENT: "student", QDQ: "INT8 graph", ENGINE: "engine"}
JUDGED_AS = {QDQ: STUDENT, ENGINE: STUDENT}  # a conversion has the threshold of what it was made from
EVEN_ODDS = 0.5
POOLED = "pooled"
PREDICTIONS, TABLE = "predictions.csv", "paper.json"  # beside the report
FIXED = ("path", "label", "patient", "site", "fold", "kind")  # columns of predictions.csv; then three a form
PER_FORM = ("probability", "threshold", "decision")
ON_WHAT = {
    REAL: "Images with a real finding, as the data set says",
    SIMULATED: "Simulated lesions, drawn into real stills, against shams and untouched stills: no figure of real hygromas",
}
THRESHOLDS = (
    "Each fold's threshold is the one of the highest balanced accuracy on the other folds' held-out images, of equally good ones "
    "the nearest to .5; the INT8 graph's and the engine's are their student's. The device's operating point is another one: it "
    "keeps false alarms rare."
)


@dataclass(frozen=True)
class Answers:
    """What forms of models say of images that they never saw. names, groups, sites [n]: of the image, of its patient, of where it
    comes from ("" where nobody said); labels {0,1} [n]; folds [n]: in which each was held out; kind: REAL or SIMULATED.
    probability, threshold: form -> float [n]."""

    names: Sequence[str]
    labels: np.ndarray
    groups: Sequence[str]
    sites: Sequence[str]
    folds: np.ndarray
    kind: str
    probability: Mapping[str, np.ndarray]
    threshold: Mapping[str, np.ndarray]

    @property
    def forms(self) -> list[str]:
        return list(self.probability)

    def decisions(self, form: str) -> np.ndarray:
        """{0,1} [n]."""
        return (self.probability[form] >= self.threshold[form]).astype(int)

    def losses(self, form: str) -> np.ndarray:
        """Log losses [n]."""
        return log_losses(self.labels, self.probability[form])


def choose_threshold(labels: np.ndarray, probability: np.ndarray) -> float:
    """The probability that best separates labels {0,1} of both kinds (highest balanced accuracy); of equally good ones the
    nearest to .5, since a few dozen images leave a wide gap open."""
    levels = np.unique(probability.astype(np.float64))
    candidates = np.concatenate([[EVEN_ODDS], (levels[1:] + levels[:-1]) / 2])
    positive = labels.astype(bool)
    called = probability[None] >= candidates[:, None]
    balanced = (called[:, positive].mean(1) + (~called[:, ~positive]).mean(1)) / 2
    best = candidates[balanced >= balanced.max() - 1e-9]
    return float(best[np.abs(best - EVEN_ODDS).argmin()])


def thresholds(labels: np.ndarray, folds: np.ndarray, probability: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Form -> the threshold at which each image is judged [n], chosen on the other folds. InputError where these show one
    class."""
    out = {}
    for form in probability:
        said = probability.get(JUDGED_AS.get(form, form), probability[form])
        limits = np.empty(len(labels))
        for fold in np.unique(folds):
            rest = folds != fold
            if len(set(labels[rest].tolist())) < 2:
                raise InputError(
                    f"fold {fold}: the other folds hold one class only, so that no threshold can be chosen; add images"
                )
            limits[folds == fold] = choose_threshold(labels[rest], said[rest])
        out[form] = limits
    return out


def paper(answers: Answers, starts: Mapping[str, str] | None = None, names: Mapping[str, str] | None = None) -> Paper:
    """The record. starts: form -> what it started from; names: of forms that NAMES does not say enough of."""
    return {
        "kind": answers.kind,
        "images": len(answers.labels),
        "positives": int(answers.labels.sum()),
        "patients": len(set(answers.groups)),
        "folds": [int(fold) for fold in np.unique(answers.folds)],
        "forms": [
            _form(answers, form, (starts or {}).get(form, ""), (names or {}).get(form, NAMES[form])) for form in answers.forms
        ],
        "tests": [_test(answers, *pair) for pair in combinations(answers.forms, 2)],
    }


def _form(answers: Answers, form: str, start: str, name: str) -> PaperForm:
    every = np.ones(len(answers.labels), bool)
    parts = {POOLED: every} | {f"fold {fold}": answers.folds == fold for fold in np.unique(answers.folds)}
    return {
        "form": form,
        "name": name,
        "start": start,
        "figures": {part: figures_of(answers, form, keep) for part, keep in parts.items()},
        "thresholds": {
            f"fold {fold}": float(answers.threshold[form][answers.folds == fold][0]) for fold in np.unique(answers.folds)
        },
        "by site": _by_site(answers, form),
    }


def figures_of(answers: Answers, form: str, keep: np.ndarray) -> dict[str, FiguredByPatient | None]:
    """METRICS of a form on the images `keep`; None where a class that one needs is missing."""
    labels = answers.labels[keep]
    groups = [answers.groups[i] for i in np.flatnonzero(keep).tolist()]
    positives = int(labels.sum())
    wanted = METRICS if 0 < positives < len(labels) else ("accuracy", "sensitivity" if positives else "specificity")
    found = figures(labels, answers.decisions(form)[keep], answers.probability[form][keep], groups, wanted)
    return {name: found.get(name) for name in METRICS}


def _by_site(answers: Answers, form: str) -> list[PaperSite]:
    """The pooled predictions and decisions, site by site; nothing where there is one site only."""
    sites = np.array(answers.sites)
    rows: list[PaperSite] = []
    for site in np.unique(sites) if len(np.unique(sites)) > 1 else ():
        keep = sites == site
        rows.append({
            "site": str(site), "images": int(keep.sum()), "positives": int(answers.labels[keep].sum()),
            "figures": figures_of(answers, form, keep),
        })  # fmt: skip
    return rows


def _test(answers: Answers, first: str, second: str) -> PaperTest:
    gain = by_group(answers.losses(first) - answers.losses(second), np.array(answers.groups))
    found = signed_rank(gain)
    return {
        "first": first, "second": second, "n": found.n, "ties": found.ties, "second_better": found.greater, "p": found.p,
        "smallest_p": found.smallest_p,
    }  # fmt: skip


# -- predictions.csv ----------------------------------------------------------------------------------------------------


def write_answers(answers: Answers, path: Path) -> None:
    """A row an image; of every form its probability, threshold and decision."""
    columns = [*FIXED, *(f"{form} {what}" for form in answers.forms for what in PER_FORM)]
    decisions = {form: answers.decisions(form) for form in answers.forms}
    with appearing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for i, name in enumerate(answers.names):
            said = [
                cell
                for form in answers.forms
                for cell in (f"{answers.probability[form][i]:.9g}", f"{answers.threshold[form][i]:.9g}", int(decisions[form][i]))
            ]
            fixed = [name, int(answers.labels[i]), answers.groups[i], answers.sites[i], int(answers.folds[i]), answers.kind]
            writer.writerow([*fixed, *said])


def read_answers(path: Path) -> Answers:
    """What `write_answers` wrote. KeyError, ValueError or OSError for anything else."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    forms = [form for form in NAMES if f"{form} probability" in rows[0]] if rows else []
    if not forms:
        raise ValueError(f"{path.name} holds no predictions")

    def numbers(column: str) -> np.ndarray:
        return np.array([float(row[column]) for row in rows])

    return Answers(
        [row["path"] for row in rows],
        numbers("label").astype(int),
        [row["patient"] for row in rows],
        [row["site"] for row in rows],
        numbers("fold").astype(int),
        rows[0]["kind"],
        {form: numbers(f"{form} probability") for form in forms},
        {form: numbers(f"{form} threshold") for form in forms},
    )


def write_paper(answers: Answers, starts: Mapping[str, str], folder: Path, names: Mapping[str, str] | None = None) -> Paper:
    """Write PREDICTIONS and TABLE into `folder`; returns the table."""
    found = paper(answers, starts, names)
    write_answers(answers, folder / PREDICTIONS)
    with appearing(folder / TABLE) as unfinished:
        unfinished.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return found


# -- in words -----------------------------------------------------------------------------------------------------------


def starts_in_words(form: PaperForm) -> str:
    """What a form is, for a table's first column."""
    if not form["start"]:
        return form["name"]
    return f"{form['name']} from {'a random start' if form['start'] == RANDOM else form['start']}"


def test_in_words(test: PaperTest) -> str:
    """Without the full stop."""
    first, second = NAMES[test["first"]], NAMES[test["second"]]
    return (
        f"{second} against {first}, log loss by patient: p = {test['p']:.3g} (n = {test['n']}, {test['ties']} of them without a "
        f"difference; smallest p possible {test['smallest_p']:.3g}; {second} better in {test['second_better']})"
    )
