"""The validation report as one HTML file without scripts, fonts or anything from outside: readable offline, printable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from export.model.heads import EVERY_PART, REPORTED, TOGETHER
from export.report import svg as report_svg
from export.report.checklist import TOPICS
from export.report.figures import METRICS
from export.report.gate import failing
from export.report.localise import MORE, mass_in_words, mass_verdict
from export.report.metrics import DELONG, EXACT
from export.report.other_anatomy import MET, MISSED, UNSHOWN, aim_in_words, caveats_in_words
from export.report.paper import NAMES, ON_WHAT, POOLED, THRESHOLDS, starts_in_words
from export.report.records import (
    Area,
    Bracket,
    Checked,
    Controls,
    Design,
    Figured,
    Localisation,
    Looked,
    Losses,
    OtherAnatomy,
    Paper,
    Report,
    SetReport,
    Verdict,
)

KIND_TITLES = {
    "phantom": "Phantom: simulated exams",
    "simulated_lesion": "Simulated lesion: real images with a thickened nuchal translucency, and sham-operated "
    "controls",
    "real": "Real images, untouched",
}

SECTIONS = {
    "summary": "In short",
    "paper": "Every form on the same images, fold by fold",
    "limits": "What this report cannot tell",
    "evidence": "Evidence",
    "conversion": "What INT8 changed",
    "looked": "Where the model looked",
    "prevalence": "What a flag would mean",
    "honesty": "Do the simulated lesions give themselves away?",
    "provenance": "Where it comes from",
    "checklist": "Reporting checklist",
}
OF_PUBLIC_DATA = ("looked", "honesty", "checklist")  # sections that speak of the images that this project trains on

_STYLE = """
:root{color-scheme:light dark;--ink:#17202a;--dim:#56636f;--line:#dde3e9;--ground:#fff;--band:#f4f6f9;
--good:#0b7a4b;--bad:#b3261e;--s0:#8a96a3;--s1:#1f6feb;--s2:#d9730d}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--dim:#9aa7b4;--line:#2b3540;--ground:#11161c;--band:#182028;
--good:#4cc38a;--bad:#ff8a80;--s0:#8a96a3;--s1:#6ea8fe;--s2:#f0a35e}}
body{margin:0 auto;max-width:66rem;padding:2.5rem 1.5rem 4rem;background:var(--ground);color:var(--ink);
font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .5rem}
h2{font-size:1.35rem;margin:3.2rem 0 .6rem;padding-top:1.2rem;border-top:2px solid var(--line)}
h3{font-size:1.1rem;margin:2.4rem 0 .4rem}h4{font-size:.95rem;margin:1.4rem 0 .4rem}
p,li{max-width:46rem}p{margin:.3rem 0 .9rem}.dim,small{color:var(--dim)}a{color:var(--s1)}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:1.2rem 0;font-size:.9rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem;min-width:24rem}
th,td{text-align:left;padding:.4rem .9rem .4rem .4rem;border-bottom:1px solid var(--line);white-space:nowrap}
table.text td{white-space:normal}th{color:var(--dim);font-weight:600}tr.pooled td{background:var(--band);font-weight:600}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));gap:1rem;margin:1.4rem 0}
.tile{background:var(--band);border-radius:.7rem;padding:1rem 1.2rem}.tile b{display:block;font-size:1.7rem;line-height:1.3}
.tile span{color:var(--dim);font-size:.85rem;display:block}
.figures{display:flex;flex-wrap:wrap;gap:1.5rem}figure{margin:.5rem 0;width:20rem;max-width:100%}
figcaption{font-size:.85rem;color:var(--dim)}figure img{width:100%;border-radius:.4rem}
svg{width:100%;height:auto}svg text{font-size:11px;fill:var(--dim)}.grid{stroke:var(--line);fill:none}
.even{stroke:var(--dim);stroke-dasharray:4 4;fill:none}polyline{fill:none;stroke-width:2}
.s0{stroke:var(--s0);color:var(--s0)}.s1{stroke:var(--s1);color:var(--s1)}.s2{stroke:var(--s2);color:var(--s2)}
circle{fill:currentColor;stroke:none}.key{margin-right:1rem}.key:before{content:"\\25CF\\00A0"}
.verdict{display:inline-block;padding:.1rem .7rem;border-radius:1rem;font-weight:600;font-size:.9rem;
border:1px solid currentColor}.pass{color:var(--good)}.fail{color:var(--bad)}.open{color:var(--dim)}
@media print{nav{display:none}h2{break-after:avoid}figure,tr{break-inside:avoid}body{max-width:none;padding:0}}
"""


def render(report: Report) -> str:
    """The dict that `report.validate.validation_report` makes -> a complete HTML page. Kinds of evidence get parts of their
    own. Keys that a report may have besides: paper, design, controls, thickness, increased, framing, unfamiliar, localisation,
    lean, honesty, provenance; site: true where the images are a site's own, so that what is said of the public ones is left
    out."""
    bodies = {
        "summary": _summary(report),
        "paper": _paper(report.get("paper")),
        "limits": _limits(report),
        "evidence": _evidence(report),
        "conversion": _conversions(report),
        "looked": _looked(report.get("localisation")),
        "prevalence": _prevalence(report),
        "honesty": _honesty(report.get("honesty")),
        "provenance": _provenance(report.get("provenance"), report.get("design")),
        "checklist": _checklist(),
    }
    shown = {key: title for key, title in SECTIONS.items() if not (report.get("site") and key in OF_PUBLIC_DATA)}
    if not report.get("paper"):
        del shown["paper"]
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in shown.items())
    sections = "".join(
        f'<section id="{key}"><h2>{escape(title)}</h2>{"".join(bodies[key])}</section>' for key, title in shown.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Validation report</title><style>{_STYLE}</style></head><body><h1>Validation report</h1>"
        '<p class="dim">Suspected nuchal collection at 11 to 14 weeks: a model that flags an exam for referral. '
        "A research prototype, no medical device.</p>"
        f"<nav>{links}</nav>{sections}</body></html>\n"
    )


def _summary(report: Report) -> list[str]:
    tiles: dict[str, list[str]] = {}
    for part in report["sets"]:
        step = list(part["steps"])[-1]
        figure = next(iter(part["steps"][step].values()))["ROC-AUC"]
        if figure is not None:
            tiles.setdefault(part["kind"], []).append(
                f'<div class="tile"><span>{escape(part["name"])}</span>'
                f"<b>{figure['value']:.3f}</b><span>area under the ROC curve of {escape(step)}, 95 % interval "
                f"{figure['low']:.3f} to {figure['high']:.3f}{_unusual(figure)}, {figure['n']} images</span></div>"
            )
    limits, own = report["limits"], report.get("site")
    design = (
        "a site's own images, held out fold by fold"
        if own
        else "on images that others collected for other ends and on simulations; nobody was examined for it"
    )
    against = "the same graph without rounding, whose weights are the INT8 ones" if own else "PyTorch FP32"
    return [
        "<p>Intended use: decision support for whoever scans. A flag means refer; it is no diagnosis, and no flag does not rule "
        f"anything out. Design: retrospective, {design}.</p>",
        *(
            f'<h3>{escape(KIND_TITLES[kind])}</h3><div class="tiles">{"".join(tiles[kind])}</div>'
            for kind in KIND_TITLES
            if kind in tiles
        ),
        f"<p>{_verdict(report['passed'])} Gate on every conversion, {'all folds together' if own else 'per fold and pooled'}, "
        f"against {against}, on identical held-out images: at most {limits['positives_lost']} positives lost at the operating "
        f"point, {limits['flips']:.1%} of decisions flipped, ROC-AUC down by {limits['auc_drop']}.{_reported(report)}</p>",
        '<p class="dim">Brackets are 95 % intervals, exact for shares and DeLong\'s for areas where they do not say otherwise. '
        "The kinds of evidence answer different questions: their figures must not be compared with each other"
        + ("" if own else ", nor with figures from hospitals' own images")
        + ".</p>",
    ]


def _paper(found: Paper | None) -> list[str]:
    if not found:
        return []
    rows = [
        [starts_in_words(form), "all folds" if part == POOLED else part,
         str((figures["accuracy"] or {"n": 0})["n"]), *(_figure(figures[name]) for name in METRICS)]
        for form in found["forms"]
        for part, figures in form["figures"].items()
    ]  # fmt: skip
    sites = [
        [form["name"], row["site"] or "no site given", str(row["images"]), *(_figure(row["figures"][name]) for name in METRICS)]
        for form in found["forms"]
        for row in form["by site"]
    ]
    tests = [
        [f"{NAMES[test['second']]} against {NAMES[test['first']]}", str(test["n"]), str(test["ties"]), str(test["second_better"]),
         f"{test['p']:.3g}", f"{test['smallest_p']:.3g}"]
        for test in found["tests"]
    ]  # fmt: skip
    head = ["Accuracy", "Sensitivity", "Specificity", "ROC-AUC"]
    return [
        f"<p>{escape(ON_WHAT[found['kind']])}. {found['images']} images of {found['patients']} patients, {found['positives']} "
        f"positive, each predicted once by models that never saw its patient. {escape(THRESHOLDS)}</p>",
        _table(["Model", "Held out", "n", *head], rows, pooled=1),
        *(["<h4>By site</h4>", _table(["Model", "Site", "n", *head], sites)] if sites else []),
        "<h4>Is one better?</h4><p>Wilcoxon's signed-rank test of the patients' mean log losses, two-sided and exact up to 1,000 "
        "patients. The folds' models share most of their training images, which no such test knows of.</p>",
        _table(["Models", "Patients", "Without a difference", "The first is better in", "p", "Smallest p possible"], tests)
        if tests else "<p>One model alone: nothing to compare.</p>",
    ]  # fmt: skip


def _reported(report: Report) -> str:
    """What the gate's verdict leaves out, with what the same limits say of it."""
    found = [part for part in report["sets"] if part["gated"] == REPORTED and part["conversions"]]
    each = ", ".join(f"{escape(part['name'])} ({'passed' if part['passed'] else 'failed'})" for part in found)
    return f" Held to the same limits, but reported only: {each}. {_GATED[REPORTED]}" if found else ""


_GATED = {
    EVERY_PART: "Every row must pass.",
    TOGETHER: "All folds together must pass; a fold's own verdict is shown only.",
    REPORTED: "No bundle is refused for it: a plane that is lost the next frame brings again.",
}
_GENERAL_LIMITS = (
    "A figure holds for images like those it was measured on. Another scanner, another population or another way of scanning "
    "may give worse ones.",
    "An interval covers chance in the choice of images. It does not cover a bias in how they were collected, made or labelled.",
)
_LESION_LIMIT = "Simulated lesions are drawn into real images. They cannot show how the model does on patients."


def _limits(report: Report) -> list[str]:
    texts = [*(report.get("provenance") or {}).get("limits", ()), *_GENERAL_LIMITS]
    if not report.get("site"):
        texts.append(_LESION_LIMIT)
    return ["<ul>", *(f"<li>{escape(text)}</li>" for text in texts), "</ul>"]


def _evidence(report: Report) -> list[str]:
    design = report.get("design")
    out = [f"<p>{escape(text)}</p>" for text in (design["partition"], design["thresholds"])] if design else []
    for kind, title in KIND_TITLES.items():
        sets = [part for part in report["sets"] if part["kind"] == kind]
        if sets:
            out.append(f"<h3>{escape(title)}</h3>")
        for part in sets:
            out.extend(_set(part))
        if kind == "simulated_lesion":
            out.extend(_controls(report.get("controls")))
        if kind == "real" and not report.get("site"):
            out.extend(_thickness(report))
            out.extend(_framing(report.get("framing")))
            out.extend(_other_anatomy(report.get("unfamiliar")))
    return out


def _set(part: SetReport) -> list[str]:
    every = [f for splits in part["steps"].values() for figures in splits.values() for f in figures.values() if f is not None]
    same = len({_unusual(f) for f in every}) == 1  # said once then, not in every cell
    said = f" Every interval: {every[0]['interval']}." if same and _unusual(every[0]) else ""
    rows = [
        [step, split, *(_figure(f, marked=not same) for f in figures.values())]
        for step, splits in part["steps"].items()
        for split, figures in splits.items()
    ]
    out = [
        f"<h4>{escape(part['name'])}</h4><p>{escape(part['description'])} Positive: {escape(part['task'])}. {part['n']} images, "
        f"{part['positives']} positive.{escape(said)}</p>",
        _table(["Step", "Split", "Accuracy", "Sensitivity", "Specificity", "ROC-AUC"], rows, pooled=1),
    ]
    if curves := part.get("curves"):
        last = list(curves)[-1]
        bins = {last: curves[last]["reliability"]["bins"]}
        error = curves[last]["reliability"]["expected_calibration_error"]
        out.append(
            '<div class="figures">'
            + report_svg.roc({step: c["roc"] for step, c in curves.items()}, f"ROC curves, {part['name']}")
            + report_svg.reliability(bins, f"Reliability, {part['name']}; expected calibration error {error:.3f}", list(curves))
            + "</div>"
        )
        rows = [[step, *(str(n) for n in c["confusion"].values())] for step, c in curves.items()]
        head = [
            "At the operating point",
            "Positive, called so",
            "Positive, missed",
            "Negative, flagged",
            "Negative, called so",
        ]
        out.append(_table(head, rows))
    return out


def _controls(rows: Sequence[Controls] | None) -> list[str]:
    if not rows:
        return []
    cells = []
    for r in rows:
        area, kept = r["roc_auc"], r["specificity"]
        cells.append([r["split"], r["negatives"], _bracket(area), str(area["n"]), _bracket(kept), str(kept["n"])])
    return [
        "<h4>By what they are told from</h4><p>The INT8 form against each kind of negative by itself. Shams went through the "
        "same edit as the lesions, so that a trace of it tells nothing; untouched stills did not, and keep their own calipers; "
        "with the calipers painted out the anatomy alone can speak. Specificity is at the operating point. Intervals are drawn "
        "over stills where one gives several images.</p>",
        _table(["Split", "Told from", "ROC-AUC", "n", "Specificity", "n"], cells),
    ]


def _thickness(report: Report) -> list[str]:
    rows = [
        [
            "Rank correlation with thickness",
            r["split"],
            str(r["n"]),
            f"{r['rho']:.3f} [{r['low']:.3f}, {r['high']:.3f}]",
        ]
        for r in report.get("thickness") or ()
    ] + [
        [
            f"ROC-AUC, {r['positives']} thick by eye",
            r["split"],
            str(r["n"]),
            f"{r['auc']:.3f} [{r['low']:.3f}, {r['high']:.3f}]",
        ]
        for r in report.get("increased") or ()
    ]
    if not rows:
        return []
    return [
        "<h4>Thickness of untouched stills</h4><p>How the INT8 hygroma score goes with the thickness of the translucency, which "
        "a heuristic measured: a weak label. With the calipers painted out the anatomy alone can speak.</p>",
        _table(["Figure", "Split", "n", "Value"], rows),
    ]


def _framing(rows: Sequence[Area] | None) -> list[str]:
    if not rows:
        return []
    return [
        "<h4>Planes, however they are cut</h4><p>Whoever collected the stills cut standard planes out of their screens otherwise "
        "than others, so that their aspect (width over height) alone tells something. The same held-out stills, cut anew to a "
        "random aspect, show how much of the INT8 plane head's area under the ROC curve rests on the picture, and not on its "
        "cut.</p>",
        _table(
            ["Stills", "n", "ROC-AUC"],
            [[r["split"], str(r["n"]), _bracket({"value": r["auc"], "low": r["low"], "high": r["high"]})] for r in rows],
        ),
    ]


_TONES = {MET: "pass", UNSHOWN: "open", MISSED: "fail"}  # verdict -> its class in the style


def _other_anatomy(found: OtherAnatomy | None) -> list[str]:
    if not found:
        return ["<h4>Other anatomy</h4><p>Not measured in this run: the data holds no image of another source.</p>"]
    rows = [
        [r["source"], str(r["n"]), str(r["patients"])]
        + [_bracket(f) for f in (r["shipped"], r["matched"], r["auc_plane"], r["auc_distance"])]
        for r in found["rows"]
    ]
    shipped, matched = (_bracket(found["kept"][point]) for point in ("shipped", "matched"))
    head = [
        "Source",
        "Images",
        "Patients or clips",
        "Called assessable",
        "95 % of planes kept",
        "AUC, plane",
        "AUC, distance",
    ]
    return [
        "<h4>Other anatomy</h4><p>Images that show no fetal neck. Called assessable: the share that the INT8 model would "
        f"judge all the same, at the shipped thresholds, which keep {shipped} of {found['planes']} standard planes of the "
        f"validation split, and at the plane threshold that keeps {matched} of them (chosen on those very planes). Areas: "
        "how well the plane head's probability, and the distance of the embedding from the training images, tell those "
        "planes from the source.</p>",
        _table(head, rows),
        f"<p>{_badge(found['verdict'], _TONES[found['verdict']])} {escape(aim_in_words(found))} "
        f"{escape(caveats_in_words(found))}</p>",
    ]


def _conversions(report: Report) -> list[str]:
    out = [
        "<p>Every decision of the float model against the converted one, on the same images at the same threshold. A step from "
        "one model to another, each at its own threshold, comes before it and is no conversion. Zero losses do not mean a loss "
        "of zero: the bound says what rate the images still allow. The INT8 form's log-odds of a hygroma lean "
        "by what rounding took from them on training crops: what rounding costs is specificity. "
        f"{_shifts(report.get('lean') or {})}</p>"
    ]
    for part in report["sets"]:
        name, reference = escape(part["name"]), escape(part["reference"])
        for step, earlier in part["earlier"].items():
            badge = _badge("not a conversion: not gated", "open")
            out.append(f"<h3>{name}: {escape(step)} &rarr; {reference} {badge}</h3>")
            out.append(_table(_LOSS_HEAD, [_loss_row(s, x) for s, x in earlier.items()], pooled=0))
        for step, losses in part["conversions"].items():
            failed = failing(losses, part["gated"])
            out.append(f"<h3>{name}: {reference} &rarr; {escape(step)} {_verdict(not failed)}</h3>")
            out.append(f"<p>{_GATED[part['gated']]}</p>")
            for split, gate in failed.items():
                flipped = ", ".join(gate["flipped"]) or "none"
                out.append(f"<p>{escape(split)}: {escape('; '.join(gate['reasons']))}. Flipped: {escape(flipped)}.</p>")
            rows = [[*_loss_row(s, x), *_gate_cells(x["gate"])] for s, x in losses.items()]
            out.append(_table((*_LOSS_HEAD, "ROC-AUC down by", "Gate"), rows, pooled=0))
    return out


def _shifts(found: Mapping[str, float]) -> str:
    """found: run -> the constant added to its hygroma logit, as `export.int8.log_odds_shift.read_shifts` gives them."""
    said = [f"the refit, which is shipped, by {found['refit']:.3f}"] if "refit" in found else []
    if folds := [shift for run, shift in found.items() if run != "refit"]:
        each = f"by {min(folds):.3f}" if len(folds) == 1 else f"by {min(folds):.3f} to {max(folds):.3f}"
        said.append(f"the folds' models, {len(folds)} of them, {each}")
    return f"They lean so: {'; '.join(said)}." if said else "By how much was not recorded in this report."


def _looked(found: Looked | None) -> list[str]:
    if not found:
        return ["<p>Not measured in this run.</p>"]
    rows = [
        [
            r["method"], str(r["n"]), _bracket(r["pointing"]), f"{r['pointing_chance']:.3f}", _bracket(r["mass"]),
            f"{r['mass_chance']:.3f}",
        ]
        for r in found["rows"]
    ]  # fmt: skip
    out = [
        "<p>Real, untouched standard planes with an annotated nuchal box. Pointing: the map's highest cell touches the box. "
        "Mass: the share of the map that lies inside it.</p>",
        _table(["Map", "n", "Pointing", "by chance", "Mass inside", "by chance"], rows),
        f"<p>{escape(_told_from_chance(found['rows']))}</p>",
    ]
    if cost := found.get("cost"):
        out.append(
            f"<p>The map costs no forward pass of its own: it adds {cost['added']:,.0f} multiplications, {cost['share']:.4%} of "
            "the blocks'.</p>"
        )
    if a := found.get("agreement"):
        out.append(
            f"<p>After INT8 the nuchal map has the same highest cell in {a['same_peak']['value']:.1%} of {a['n']} images; a cell "
            f"changes by {a['mean_change']:.4f} on average, {a['max_change']:.3f} at most.</p>"
        )
    panels = "".join(
        f'<figure><img alt="{escape(p["caption"])}" src="data:image/jpeg;base64,{p["jpeg"]}">'
        f"<figcaption>{escape(p['caption'])}</figcaption></figure>"
        for p in found.get("panels", ())
    )
    return [*out, f'<div class="figures">{panels}</div>'] if panels else out


def _told_from_chance(rows: Sequence[Localisation]) -> str:
    said = "By its 95 % interval every map has more of its mass inside the box than chance gives"
    odd = [mass_in_words(r) for r in rows if mass_verdict(r) != MORE]
    return f"{said}, but for these. {'. '.join(odd)}." if odd else f"{said}."


def _prevalence(report: Report) -> list[str]:
    out = [
        "<p>Most pregnancies are healthy, so even a good test's flags are mostly false alarms. If an exam were judged as these "
        "images were: of those flagged, how many would be affected. Real exams are many frames, not one image.</p>"
    ]
    for part in report["sets"]:
        if part["predictive_values"]:
            rows = [[f"1 in {v['one_in']}", f"{v['ppv']:.1%}"] for v in part["predictive_values"]]
            out.append(f"<h4>{escape(part['name'])}</h4>" + _table(["Prevalence", "Positive predictive value"], rows))
    return out


def _honesty(checks: Sequence[Checked] | None) -> list[str]:
    if not checks:
        return ["<p>Not measured in this run: the figures on simulated lesions may rest on traces of the edit.</p>"]
    rows = [
        [c["question"], c["features"], str(c["images"]), str(c["patients"]), f"{c['auc']:.3f} [{c['low']:.3f}, {c['high']:.3f}]",
         c["verdict"]]
        for c in checks
    ]  # fmt: skip
    return [
        "<p>A discriminator, cross-validated by patient, that tries to tell edited stills from untouched ones. An area of .5 is "
        "a coin: the edit tells nothing. It is near .5 where the whole interval is at most .6.</p>",
        _table(["Question", "Features", "Images", "Patients", "ROC-AUC", ""], rows),
    ]


def _provenance(found: dict[str, Any] | None, design: Design | None) -> list[str]:
    if not found:
        return ["<p>Not recorded in this run.</p>"]
    rows = [["Initialisation", found["initialisation"]], ["Teacher", found["teacher"]], ["Recipe", found["recipe"]]]
    rows += [["Seeds", ", ".join(map(str, found["seeds"]))]]
    settings: list[str] = []
    if design:
        rows += [["Model", design["model"]], ["Code", design["code"]]]
        keys = [[key, str(value)] for key, value in design["settings"].items()]
        settings = ["<h4>Settings of the training</h4>", _table(["Key of the recipe", "Value"], keys, text=True)]
    data = [[d["name"], d["use"], str(d["images"]), d["licence"], d["citation"], d["changes"]] for d in found["data"]]
    head = ["Data set", "Used for", "Images", "Licence", "Citation", "Changes made"]
    return [_table(["", ""], rows, text=True), "<h4>Data</h4>", _table(head, data, text=True), *settings]


def _checklist() -> list[str]:
    rows = "".join(
        f"<tr><td>{escape(t.asked)}</td><td>"
        + (f'<a href="#{t.section}">{escape(SECTIONS[t.section])}</a>' if t.section else "not in this report")
        + f"</td><td>{escape(t.answer)}</td></tr>"
        for t in TOPICS
    )
    return [
        "<p>What STARD-AI and CLAIM ask of a report on an AI diagnostic test, by topic and in our words, and where it is "
        "answered. No claim to comply with either.</p>",
        f'<div class="scroll"><table class="text"><tr><th>Asked</th><th>Section</th><th>Answer</th></tr>{rows}</table></div>',
    ]


_LOSS_HEAD = (
    "Split",
    "Images",
    "Flips to neg / pos",
    "Positives lost",
    "Loss below (95 %)",
    "max / p99 |dp|",
    "Kappa",
    "McNemar p, exact",
    "Wilcoxon p",
)


def _loss_row(split: str, x: Losses) -> list[str]:
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


def _gate_cells(gate: Verdict) -> list[str]:
    both = 0 < gate["positives"] < gate["n"]  # else there is no area
    return [f"{gate['auc_drop']:.4f}" if both else "-", "passed" if gate["passed"] else "failed"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], pooled: int | None = None, text: bool = False) -> str:
    """`pooled`: the column that says whether a row is the pooled one, to be set off; `text`: cells hold prose."""
    lines = []
    for row in rows:
        mark = ' class="pooled"' if pooled is not None and row[pooled] == "all folds" else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{mark}>{cells}</tr>")
    kind = ' class="text"' if text else ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="scroll"><table{kind}><tr>{titles}</tr>{"".join(lines)}</table></div>'


def _bracket(figure: Bracket) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _figure(figure: Figured | None, marked: bool = True) -> str:
    """marked: with what its interval is, where that is unusual."""
    if figure is None:
        return "-"
    return _bracket(figure) + (_unusual(figure) if marked else "")


def _unusual(figure: Figured) -> str:
    """Which interval a figure of `export.metrics` has, where it is not the one that its column's figures have."""
    return "" if figure["interval"] in (EXACT, DELONG) else f" ({figure['interval']})"


def _verdict(passed: bool) -> str:
    return _badge("passed", "pass") if passed else _badge("failed", "fail")


def _badge(words: str, tone: str) -> str:
    return f'<span class="verdict {tone}">{escape(words)}</span>'
