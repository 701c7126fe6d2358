"""Where the validation report answers what reporting guidelines for AI diagnostics ask: STARD-AI (Sounderajah et al. 2025) and
CLAIM (Mongan et al. 2020; update by Tejani et al. 2024). By topic, in our words: not the guidelines' text nor their numbering.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """asked: what a guideline wants stated; section: id of the report's section that states it, "" where none can; answer: in a
    sentence, what is there or why not."""

    asked: str
    section: str
    answer: str


TOPICS = (
    Topic(
        "Intended use and place in the clinical pathway", "summary", "A flag to refer; decision support, no diagnosis."
    ),
    Topic("Study design, retrospective or prospective", "summary", "Retrospective, on public images and simulations."),
    Topic(
        "Data sources, eligibility, dates, setting",
        "provenance",
        "Sources, licences, changes; the sources say no more.",
    ),
    Topic(
        "Reference standard and its rationale", "limits", "None for hygroma: positives are simulated, and said to be."
    ),
    Topic(
        "Annotators, their number and agreement", "", "Not stated by the sources: one set of boxes, no second reader."
    ),
    Topic(
        "Partition of data, level at which it is disjoint",
        "evidence",
        "Folds by patient; a validation split never trained on.",
    ),
    Topic("Sample size and how it was determined", "", "What the public sets hold; n stands beside each figure."),
    Topic("Model, inputs, outputs, initialisation", "provenance", "Teacher, student, starting weights, seeds."),
    Topic("Training, hyperparameters, selection", "provenance", "The recipe; its file decides every one of them."),
    Topic(
        "Threshold and how it was chosen",
        "evidence",
        "On other folds' held-out predictions; INT8 keeps the float one's.",
    ),
    Topic("Measures of performance with uncertainty", "evidence", "Figures with 95 % intervals, per fold and pooled."),
    Topic("Confusion table", "evidence", "Counts at the operating point, for each form of the model."),
    Topic("Calibration of the probabilities", "evidence", "Reliability diagrams with exact intervals."),
    Topic(
        "Robustness: the deployed form against the trained one", "conversion", "FP32 against INT8 on identical images."
    ),
    Topic("Explainability and how it was checked", "looked", "Nuchal map and Score-CAM against boxes and chance."),
    Topic("External validation", "limits", "None: no second hospital's hygromas."),
    Topic("Fairness across subgroups", "", "The sources give no age, ethnicity or body mass: not assessed."),
    Topic("Predictive values at the intended prevalence", "prevalence", "At 1 in 100, 285 and 800."),
    Topic(
        "Failure analysis",
        "conversion",
        "Each image whose decision a conversion flipped is named where the gate fails.",
    ),
    Topic("Limitations, bias, generalisability", "limits", "In plain words."),
    Topic(
        "Availability of code, model and data", "provenance", "The repository, the bundle; data under its own licences."
    ),
    Topic(
        "Ethics approval, registration, protocol, funding",
        "",
        "Public data, no registration; a hospital's study needs its own.",
    ),
)
