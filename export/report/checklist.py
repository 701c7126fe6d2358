"""Where the validation report answers what reporting guidelines for AI diagnostics ask: STARD-AI (Sounderajah et al. 2025) and
CLAIM (Mongan et al. 2020; update by Tejani et al. 2024). By topic, in our words: not the guidelines' text nor their numbering.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """asked: what a guideline wants stated; section: id of the report's section that states it, "" where none can; answer: in a
    sentence, what is there or why not; words: what that section says of it, so that a test finds whether it does."""

    asked: str
    section: str
    answer: str
    words: tuple[str, ...] = ()


TOPICS = (
    Topic(
        "Intended use and place in the clinical pathway",
        "summary",
        "A flag to refer; decision support, no diagnosis.",
        ("Intended use", "refer"),
    ),
    Topic(
        "Study design, retrospective or prospective",
        "summary",
        "Retrospective, on public images and simulations.",
        ("retrospective",),
    ),
    Topic(
        "Data sources, eligibility, dates, setting",
        "provenance",
        "Sources, licences, changes; the sources say no more.",
        ("Data set", "Licence", "Changes made"),
    ),
    Topic(
        "Reference standard and its rationale",
        "limits",
        "None for hygroma: positives are simulated, and said to be.",
        ("No image of a real cystic hygroma was used",),
    ),
    Topic(
        "Annotators, their number and agreement", "", "Not stated by the sources: one set of boxes, no second reader."
    ),
    Topic(
        "Partition of data, level at which it is disjoint",
        "evidence",
        "Folds by patient; what is held out for good is never trained on.",
        ("folds by patient", "held-out split is in no fold"),
    ),
    Topic("Sample size and how it was determined", "", "What the public sets hold; n stands beside each figure."),
    Topic(
        "Model, inputs, outputs, initialisation",
        "provenance",
        "Teacher, student, starting weights, seeds.",
        ("In: a grey picture", "Out: the probability", "Initialisation", "Seeds"),
    ),
    Topic(
        "Training, hyperparameters, selection",
        "provenance",
        "The recipe's keys, each with its value.",
        ("teacher.lr", "student.lr", "batch", "teacher.layer_decay", "student.weight_decay", "student.epochs"),
    ),
    Topic(
        "Threshold and how it was chosen",
        "evidence",
        "Its value; on other folds' held-out predictions; INT8 keeps the float one's.",
        ("Operating point of the hygroma head", "of the held-out negatives stay", "cross-fitted"),
    ),
    Topic(
        "Measures of performance with uncertainty",
        "evidence",
        "Figures with 95 % intervals, per fold and pooled.",
        ("Accuracy", "Sensitivity", "Specificity", "ROC-AUC", "all folds", "fold 0"),
    ),
    Topic(
        "Confusion table",
        "evidence",
        "Counts at the operating point, for each form of the model.",
        ("Positive, missed", "Negative, flagged"),
    ),
    Topic(
        "Calibration of the probabilities",
        "evidence",
        "Reliability diagrams with exact intervals.",
        ("Reliability", "expected calibration error"),
    ),
    Topic(
        "Robustness: the deployed form against the trained one",
        "conversion",
        "FP32 against INT8 on identical images.",
        ("the float model against the converted one, on the same images", "FP32", "INT8"),
    ),
    Topic(
        "Explainability and how it was checked",
        "looked",
        "Nuchal map and Score-CAM against boxes and chance.",
        ("annotated nuchal box", "by chance", "Score-CAM", "95 % interval"),
    ),
    Topic("External validation", "limits", "None beyond the sites that the data set names.", ("of one site",)),
    Topic("Fairness across subgroups", "", "The sources give no age, ethnicity or body mass: not assessed."),
    Topic(
        "Predictive values at the intended prevalence",
        "prevalence",
        "At 1 in 100, 285 and 800.",
        ("Positive predictive value", "1 in 100", "1 in 285", "1 in 800"),
    ),
    Topic(
        "Failure analysis",
        "conversion",
        "Each image whose decision a conversion flipped is named where the gate fails.",
        ("Flips to neg / pos", "Flipped:"),
    ),
    Topic("Limitations, bias, generalisability", "limits", "In plain words.", ("Another scanner", "a bias in how")),
    Topic(
        "Availability of code, model and data",
        "provenance",
        "The package and its version, the bundle; data under its own licences.",
        ("Python package hygroma-edge, version", "the bundle", "Licence"),
    ),
    Topic(
        "Ethics approval, registration, protocol, funding",
        "",
        "No registration; a hospital's study needs its own.",
    ),
)
