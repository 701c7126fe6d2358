"""What the validation report holds, from the predictions to the page and the card. A record's keys are those of report.json."""

from __future__ import annotations

from typing import Any, TypedDict

Figures = dict[str, "Figured | None"]  # by name; None where a part cannot give it
ByPart = dict[str, Figures]  # by the name of the part, all together first


class Bracket(TypedDict):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Figured(Bracket):
    """n: images; interval: which one it is (report/metrics.py)."""

    n: int
    interval: str


class FiguredByPatient(Figured):
    patients: int


class Losses(TypedDict):
    """What a step loses against the one before it. positives_lost_bound: one-sided, None without a positive; dp: changes of a
    probability."""

    n: int
    flips_to_negative: int
    flips_to_positive: int
    positives: int
    positives_lost: int
    positives_lost_bound: float | None
    max_dp: float
    p99_dp: float
    kappa: float
    mcnemar_p: float
    wilcoxon_p: float


class Verdict(TypedDict):
    """edge.bundle.manifest.GateResult, as JSON."""

    passed: bool
    accepted_failing: bool
    n: int
    positives: int
    positives_lost: int
    flips: int
    auc_drop: float
    max_dp: float
    p99_dp: float
    reasons: tuple[str, ...]
    flipped: tuple[str, ...]


class GatedLosses(Losses):
    gate: Verdict


class Bin(TypedDict):
    """Of the reliability diagram."""

    n: int
    mean: float
    share: float
    low: float
    high: float


class Reliability(TypedDict):
    bins: list[Bin]
    expected_calibration_error: float


class Curves(TypedDict):
    roc: list[list[float]]
    reliability: Reliability
    confusion: dict[str, int]


class PredictiveValue(TypedDict):
    one_in: int
    ppv: float
    step: str


class SetReport(TypedDict):
    """One evaluation set. steps, curves: by form of the model; earlier, conversions: step -> part -> what it lost."""

    name: str
    kind: str
    task: str
    description: str
    n: int
    positives: int
    steps: dict[str, ByPart]
    curves: dict[str, Curves]
    reference: str
    earlier: dict[str, dict[str, Losses]]
    conversions: dict[str, dict[str, GatedLosses]]
    gated: str
    predictive_values: list[PredictiveValue]
    passed: bool


class Controls(TypedDict):
    split: str
    negatives: str
    roc_auc: FiguredByPatient
    specificity: FiguredByPatient


class Correlation(TypedDict):
    split: str
    n: int
    rho: float
    low: float
    high: float


class Area(TypedDict):
    split: str
    n: int
    auc: float
    low: float
    high: float


class IncreasedArea(Area):
    positives: int


class OtherSource(TypedDict):
    """How much of a source of other anatomy is called assessable at two points, and how well it is told from planes."""

    source: str
    n: int
    patients: int
    shipped: Bracket
    matched: Bracket
    auc_plane: Bracket
    auc_distance: Bracket


class OtherAnatomy(TypedDict):
    """kept: of the planes, at either point."""

    planes: int
    kept: dict[str, Bracket]
    plane_threshold: dict[str, float]
    distance_limit: float
    aim: float
    verdict: str
    rows: list[OtherSource]
    grouping: str
    site_shift: str


class Localisation(TypedDict):
    """Of one kind of map: pointing and mass, each beside what chance gives."""

    method: str
    n: int
    grid: int
    pointing: Bracket
    pointing_chance: float
    mass: Bracket
    mass_chance: float


class Agreement(TypedDict):
    n: int
    same_peak: Bracket
    max_change: float
    mean_change: float
    median_rho: float | None


class Panel(TypedDict):
    jpeg: str  # base64
    caption: str


class Looked(TypedDict):
    rows: list[Localisation]
    agreement: Agreement
    cost: dict[str, float]
    panels: list[Panel]


class Design(TypedDict):
    partition: str
    thresholds: str
    model: str
    code: str
    settings: dict[str, Any]  # key of the recipe -> value, of whatever type it has there


class Checked(TypedDict):
    """calibration.honesty.Check, as JSON."""

    question: str
    features: str
    images: int
    patients: int
    auc: float
    low: float
    high: float
    verdict: str


class PaperSite(TypedDict):
    site: str
    images: int
    positives: int
    figures: dict[str, FiguredByPatient | None]
# Of one form. figures: part ("pooled", "fold 0") -> figure's name -> figure, None where a class is missing; start: what it began
# from.
PaperForm = TypedDict(
    "PaperForm",
    {
        "form": str,
        "name": str,
        "start": str,
        "figures": dict[str, dict[str, "FiguredByPatient | None"]],
        "thresholds": dict[str, float],
        "by site": list[PaperSite],
    },
)


class PaperTest(TypedDict):
    """Wilcoxon's signed-rank test of patients' mean log losses. second_better: patients; ties: those without a difference."""

    first: str
    second: str
    n: int
    ties: int
    second_better: int
    p: float
    smallest_p: float


class Paper(TypedDict):
    """export/report/paper.py. kind: of the evidence."""

    kind: str
    images: int
    positives: int
    patients: int
    folds: list[int]
    forms: list[PaperForm]
    tests: list[PaperTest]


class Report(TypedDict, total=False):
    """limits, passed and sets stand in every report; site: true where the images are a site's own."""

    limits: dict[str, float]
    passed: bool
    sets: list[SetReport]
    design: Design
    controls: list[Controls]
    thickness: list[Correlation]
    increased: list[IncreasedArea]
    framing: list[Area]
    localisation: Looked
    unfamiliar: OtherAnatomy | None
    honesty: list[Checked]
    lean: dict[str, float]
    site: bool
    paper: Paper
    provenance: dict[str, Any]  # edge.bundle.manifest.Provenance, as JSON
