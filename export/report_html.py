"""The validation report as one HTML file without scripts, fonts or links: readable offline, printable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

KIND_TITLES = {
    "phantom": "Phantom: simulated exams",
    "simulated_lesion": "Simulated lesion: real images with a thickened nuchal translucency, and sham-operated "
    "controls",
    "real": "Real images, untouched",
}

_STYLE = """
:root{color-scheme:light dark;--ink:#17202a;--dim:#5b6875;--line:#dde3e9;--ground:#fff;
--band:#f5f7f9;--good:#0b7a4b;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{
--ink:#e6ebf0;--dim:#93a1af;--line:#2b3540;--ground:#11161c;
--band:#182028;--good:#4cc38a;--bad:#ff8a80}}
body{margin:0 auto;max-width:68rem;padding:2.5rem 1.5rem 4rem;background:var(--ground);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.7rem;margin:0 0 .3rem}
h2{font-size:1.25rem;margin:3rem 0 .4rem;padding-top:1.2rem;border-top:2px solid var(--line)}
h3{font-size:1rem;margin:1.8rem 0 .5rem}p{margin:.3rem 0 .8rem;color:var(--dim);max-width:50rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:left;padding:.4rem .7rem;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--dim);font-weight:600}tr.pooled td{background:var(--band);font-weight:600}
small{color:var(--dim);font-weight:400}
.verdict{display:inline-block;padding:.15rem .7rem;border-radius:1rem;font-weight:600;
border:1px solid currentColor}.pass{color:var(--good)}.fail{color:var(--bad)}
"""


def render(report: Mapping[str, Any]) -> str:
    """The dict that `export.validate.validation_report` makes -> a complete HTML page. Sets of different kinds get
    sections of their own."""
    limits = report["limits"]
    body = [
        "<h1>Validation report</h1>",
        (
            f"<p>{_verdict(report['passed'])} Gate on every conversion, against PyTorch FP32 on identical held-out "
            f"images: at most {limits['positives_lost']} positives lost at the operating point, {limits['flips']:.1%} "
            f"of decisions flipped, ROC-AUC down by {limits['auc_drop']}. Brackets are 95 % intervals. The kinds of "
            "evidence below answer different questions: their figures must not be compared with each other, nor with "
            "figures from hospitals' own images.</p>"
        ),
    ]
    for kind, title in KIND_TITLES.items():
        sets = [part for part in report["sets"] if part["kind"] == kind]
        if sets:
            body.append(f"<h2>{escape(title)}</h2>")
        for part in sets:
            body.extend(_set(part))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Validation report</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _set(part: Mapping[str, Any]) -> list[str]:
    out = [
        f"<h3>{escape(part['name'])}</h3>",
        (
            f"<p>{escape(part['description'])} Positive: {escape(part['task'])}. {part['n']} images, "
            f"{part['positives']} positive.</p>"
        ),
    ]
    rows = [
        [step, split, *(_figure(f) for f in figures.values())]
        for step, splits in part["steps"].items()
        for split, figures in splits.items()
    ]
    out.append(_table(["Step", "Split", "Accuracy", "Sensitivity", "Specificity", "ROC-AUC"], rows, pooled=1))
    for step, losses in part["conversions"].items():
        gate = losses["gate"]
        out.append(f"<h3>{escape(part['reference'])} &rarr; {escape(step)} {_verdict(gate['passed'])}</h3>")
        if gate["reasons"]:
            out.append(
                f"<p>{escape('; '.join(gate['reasons']))}. Flipped: {escape(', '.join(gate['flipped']) or 'none')}.</p>"
            )
        rows = [_loss_row(split, x) for split, x in losses.items() if split != "gate"]
        out.append(_table(_LOSS_HEAD, rows, pooled=0))
    if part["predictive_values"]:
        out.append("<h3>If an exam were judged as these images were: of those flagged, how many would be affected</h3>")
        rows = [[f"1 in {v['one_in']}", f"{v['ppv']:.1%}"] for v in part["predictive_values"]]
        out.append(_table(["Prevalence", "Positive predictive value"], rows))
    return out


_LOSS_HEAD = (
    "Split",
    "Images",
    "Flips to neg / pos",
    "Positives lost",
    "Loss below (95 %)",
    "max / p99 |dp|",
    "Kappa",
    "McNemar p",
    "Wilcoxon p",
)


def _loss_row(split: str, x: Mapping[str, Any]) -> list[str]:
    return [
        split,
        str(x["n"]),
        f"{x['flips_to_negative']} / {x['flips_to_positive']}",
        f"{x['positives_lost']} of {x['positives']}",
        "-" if x["positives_lost_bound"] is None else f"{x['positives_lost_bound']:.1%}",
        f"{x['max_dp']:.3f} / {x['p99_dp']:.3f}",
        f"{x['kappa']:.3f}",
        f"{x['mcnemar_p']:.3g}",
        f"{x['wilcoxon_p']:.2g}",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], pooled: int | None = None) -> str:
    """`pooled`: the column that says whether a row is the pooled one, to be set off."""
    lines = []
    for row in rows:
        mark = ' class="pooled"' if pooled is not None and row[pooled] == "all folds" else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{mark}>{cells}</tr>")
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="scroll"><table><tr>{titles}</tr>{"".join(lines)}</table></div>'


def _figure(figure: Mapping[str, Any] | None) -> str:
    return "-" if figure is None else f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _verdict(passed: bool) -> str:
    return f'<span class="verdict {"pass" if passed else "fail"}">{"passed" if passed else "failed"}</span>'
