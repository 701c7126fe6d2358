"""MODEL_CARD.md, generated from the manifest, so that the card cannot say anything else than the bundle."""

from __future__ import annotations

from edge.bundle.manifest import EvidenceTable, GateResult, Manifest
from export.report.metrics import mcnemar_of, predictive_value, upper_bound
from export.report.validate import ONE_IN

# Exam-level pairs (sensitivity, specificity) whose predictive value is shown beside the bundle's own figures
# (docs/design.md#decision).
EXAMPLE_EXAM_FIGURES = ((0.94, 0.98), (0.94, 0.997))

_KIND_TITLES = {
    "phantom": "Phantom (simulated exams)",
    "simulated_lesion": "Simulated lesions (real images, edited)",
    "real": "Real images, untouched",
}


def model_card(manifest: Manifest, reference: str = "PyTorch FP32") -> str:
    """Manifest (its `files` may still be empty) -> Markdown. reference: what the gate held the INT8 graph against."""
    m, point = manifest, manifest.operating_point
    parts = [
        f"# {m.model.id} {m.model.version}\n",
        (
            "Looks at grey ultrasound frames of 11-14 week pregnancies and gives, for each, the probability that it "
            "is an assessable mid-sagittal view, the probability that it shows a thick nuchal collection (cystic "
            "hygroma) given that it is, a map of where the nuchal region lies, and a distance from the training "
            "images.\n"
        ),
        *(f"**Not in this bundle**: {text}.\n" for text in m.heads.lacking),
        (
            f"- Model: {m.model.architecture}; input {m.input.dtype} {m.input.size} x {m.input.size} grey; weights and "
            "block inputs INT8."
        ),
        (
            f"- Operating point: hygroma >= {point.hygroma_threshold:.3f}, plane >= {point.plane_threshold:.3f}; "
            f"not assessable above distance {m.ood.threshold:.3g}."
        ),
        f"- Quantisation: {m.provenance.quantisation}\n",
        "## What the INT8 conversion lost\n",
        _gate(m.gate, reference),
        "## Evidence\n",
        (
            "Kinds of evidence are never mixed in one table, and only figures on real hygromas may be set beside a "
            "published study's.\n"
        ),
    ]
    if not m.evidence:
        parts.append("None was recorded in this bundle.\n")
    for kind, title in _KIND_TITLES.items():
        tables = [t for t in m.evidence if t.kind == kind]
        if tables:
            parts.append(f"### {title}\n")
            parts.extend(_evidence(t) for t in tables)
    parts += [
        "## What a flag would mean\n",
        (
            "Most pregnancies are healthy, so even a good test's flags are mostly false alarms. Of 100 flagged exams, "
            "this many would be affected, for two assumed pairs of exam-level figures (assumed, not measured on this "
            "model):\n"
        ),
        _predictive_values(),
        "## Limits\n",
        *(f"- {text}" for text in m.provenance.limits),
        "",
        "## Where it comes from\n",
        f"- Initialisation: {m.provenance.initialisation}",
        f"- Teacher: {m.provenance.teacher}",
        f"- Recipe: {m.provenance.recipe}",
        f"- Seeds: {', '.join(map(str, m.provenance.seeds))}\n",
        "## Data and attribution\n",
        "| Data set | Used for | Images | Licence | Citation | Changes made |\n|---|---|---:|---|---|---|",
        *(
            f"| {_cell(d.name)} | {_cell(d.use)} | {d.images} | {_cell(d.licence)} | {_cell(d.citation)} | "
            f"{_cell(d.changes)} |"
            for d in m.provenance.data
        ),
    ]
    return "\n".join(parts) + "\n"


def _gate(gate: GateResult, reference: str) -> str:
    verdict = "passed its gate" if gate.passed else "FAILED its gate, and was shipped all the same by explicit choice"
    text = (
        f"On {gate.n} held-out images ({gate.positives} positive) the conversion from {reference} {verdict}: "
        f"{gate.positives_lost} positives lost{_bound(gate)}, {gate.flips} decisions flipped (exact McNemar p {_mcnemar(gate)}), "
        f"ROC-AUC down by {gate.auc_drop:.4f}, largest change of a probability {gate.max_dp:.3f}, 99th percentile "
        f"{gate.p99_dp:.3f}.\n"
    )
    return text if gate.passed else text + "\nReasons: " + "; ".join(gate.reasons) + ".\n"


def _bound(gate: GateResult) -> str:
    return f" (95 % bound {upper_bound(gate.positives_lost, gate.positives):.1%})" if gate.positives else ""


def _mcnemar(gate: GateResult) -> str:
    """A manifest does not say which way the flips went unless all are lost positives: else the least p that so many allow."""
    p = mcnemar_of(gate.flips, 0)
    known = gate.flips in (gate.positives_lost, 1)
    return f"{p:.2g}" if known else f"at least {p:.2g}, whichever way each went"


def _evidence(table: EvidenceTable) -> str:
    lines = [
        f"**{table.name}.** {table.description}\n",
        "| Split | Figure | n | Value | 95 % interval |",
        "|---|---|---:|---:|---|",
    ]
    for row in table.rows:
        interval = "-" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
        lines.append(f"| {_cell(row.split)} | {_cell(row.metric)} | {row.n} | {row.value:.3f} | {interval} |")
    return "\n".join(lines) + "\n"


def _predictive_values() -> str:
    head = "".join(f" sensitivity {sens:g}, specificity {spec:g} |" for sens, spec in EXAMPLE_EXAM_FIGURES)
    lines = [f"| Prevalence |{head}", "|---|" + "---:|" * len(EXAMPLE_EXAM_FIGURES)]
    for k in ONE_IN:
        cells = "".join(f" {predictive_value(sens, spec, 1 / k):.0%} |" for sens, spec in EXAMPLE_EXAM_FIGURES)
        lines.append(f"| 1 in {k} |{cells}")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
