"""What one form of the models in a work folder of `hygroma crossval` or `export` said of the folds' images, and what it started from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import InputError
from export.recipe import Recipe, recipe_from
from export.report.paper import BASELINE, TEACHER, Answers, read_answers

PREDICTIONS, REPORT = "predictions.csv", "report.json"
MADE_BY = "give the --out of `hygroma crossval`, or the `work` of `hygroma export`"


@dataclass(frozen=True)
class Run:
    """report: of all forms, report.json; form: the one that is meant. Per image path, label {0,1}, group, fold, probability,
    decision {0,1}."""

    folder: Path
    report: dict[str, Any]
    form: str
    paths: list[str]
    labels: np.ndarray
    groups: list[str]
    folds: np.ndarray
    probability: np.ndarray
    decisions: np.ndarray

    @property
    def judged(self) -> dict[str, Any]:
        """The form's row of the paper's table."""
        row: dict[str, Any] = next(row for row in self.report["paper"]["forms"] if row["form"] == self.form)
        return row

    @property
    def recipe(self) -> Recipe:
        """That made it, its `work` where it lies now. InputError where the report does not say it."""
        return recipe_from({**self.report["recipe"], "work": str(self.folder.resolve())}, f"{self.folder / REPORT}: recipe")


def load_run(folder: Path, form: str = "") -> Run:
    """form: "" for the teacher, where there is none the baseline. InputError where nothing finished lies there, or no such form."""
    try:
        report, answers = json.loads((folder / REPORT).read_text()), read_answers(folder / PREDICTIONS)
        known = [row["form"] for row in report["paper"]["forms"]]
        if len(answers.names) != report["images"]:
            problem = f"{PREDICTIONS} has {len(answers.names)} rows, {REPORT} speaks of {report['images']}"
        elif known != answers.forms:
            problem = f"{PREDICTIONS} has {', '.join(answers.forms)}, {REPORT} speaks of {', '.join(known)}"
        else:
            return _run(folder, report, answers, form)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise InputError(f"{folder}: no finished cross-validation ({problem}); {MADE_BY}")


def _run(folder: Path, report: dict[str, Any], found: Answers, form: str) -> Run:
    form = form or (TEACHER if TEACHER in found.forms else BASELINE)
    if form not in found.forms:
        raise InputError(f"{folder}: found no {form!r}; there are predictions of {', '.join(found.forms)}")
    return Run(
        folder, report, form, list(found.names), found.labels, list(found.groups), found.folds, found.probability[form],
        found.decisions(form),
    )  # fmt: skip
