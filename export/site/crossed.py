"""What a cross-validation or an export said of images that its models never saw, as it lies in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.errors import InputError
from export.report.paper import NAMES, PREDICTIONS, TABLE, TEACHER, Answers, read_answers
from export.report.records import PaperForm
from export.training.systems import RANDOM


@dataclass(frozen=True)
class Crossed:
    """One form's answers. folder: that was named; row: of the paper's table."""

    folder: Path
    form: str
    answers: Answers
    row: PaperForm

    @property
    def title(self) -> str:
        return NAMES[self.form]

    @property
    def pretrained(self) -> bool:
        """As far as is known: a student starts from its teacher."""
        return self.row["start"] != RANDOM

    @property
    def probability(self) -> np.ndarray:
        return self.answers.probability[self.form]

    @property
    def decisions(self) -> np.ndarray:
        return self.answers.decisions(self.form)


def load_crossed(folder: Path, form: str = "") -> Crossed:
    """form: of NAMES; left out: the teacher's, or the only one. InputError where the folder holds no such thing."""
    try:
        table = json.loads((folder / "report" / TABLE).read_text())
        answers = read_answers(folder / "report" / PREDICTIONS)
        rows = {row["form"]: row for row in table["forms"]}
        known = list(rows)
        if len(answers.names) != table["images"] or set(known) != set(answers.forms):
            raise ValueError(f"{PREDICTIONS} has {len(answers.names)} rows, {TABLE} speaks of {table['images']}")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{folder}: no finished cross-validation or export ({type(error).__name__}: {error}); give the --out of `hygroma "
            "crossval`, or the `work` of a recipe that `hygroma validate` has finished"
        ) from None
    chosen = form or (TEACHER if TEACHER in rows else known[0])
    if chosen not in rows:
        raise InputError(f"{folder}: --forms: found {chosen!r}; it holds {', '.join(known)}")
    return Crossed(folder, chosen, answers, rows[chosen])
