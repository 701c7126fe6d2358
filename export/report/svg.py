"""Drawings of the validation report as inline SVG: no scripts, no library, colours from the page's own style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from export.report.records import Bin

SIDE, LEFT, BOTTOM, TOP = 260, 44, 40, 12  # px: plot area and margins
WIDTH, HEIGHT = SIDE + LEFT + 12, SIDE + BOTTOM + TOP


def roc(curves: Mapping[str, Sequence[Sequence[float]]], title: str) -> str:
    """One line a form of the model; points (1 - specificity, sensitivity)."""
    lines = "".join(
        f'<polyline class="s{number}" points="{_points(points)}"/>' for number, points in enumerate(curves.values())
    )
    return _figure(title, "1 - specificity", "sensitivity", lines, list(curves), list(curves))


def reliability(bins: Mapping[str, Sequence[Bin]], title: str, forms: Sequence[str]) -> str:
    """One mark a bin with its interval: what was predicted against what was so. forms: those of the ROC curves beside it, whose
    colours the marks share."""
    marks = []
    for form, row in bins.items():
        number = forms.index(form)
        for b in row:
            x, y, low, high = _x(b["mean"]), _y(b["share"]), _y(b["low"]), _y(b["high"])
            marks.append(
                f'<g class="s{number}"><path d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{b["n"]} images</title></circle></g>'
            )
    return _figure(title, "predicted probability", "share of positives", "".join(marks), list(bins), forms)


def _figure(title: str, x_name: str, y_name: str, inside: str, names: Sequence[str], forms: Sequence[str]) -> str:
    ticks = "".join(
        f'<path class="grid" d="M{_x(v):.1f} {_y(0):.1f}V{_y(1):.1f}M{_x(0):.1f} {_y(v):.1f}H{_x(1):.1f}"/>'
        f'<text x="{_x(v):.1f}" y="{_y(0) + 15:.1f}" text-anchor="middle">{v:g}</text>'
        f'<text x="{_x(0) - 6:.1f}" y="{_y(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
        for v in (0, 0.25, 0.5, 0.75, 1)
    )
    middle = TOP + SIDE / 2
    legend = "".join(f'<span class="key s{forms.index(name)}">{escape(name)}</span>' for name in names)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{ticks}'
        f'<path class="even" d="M{_x(0):.1f} {_y(0):.1f}L{_x(1):.1f} {_y(1):.1f}"/>{inside}'
        f'<text x="{_x(0.5):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text transform="translate(11 {middle:.1f}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>'
        f"</svg><figcaption>{escape(title)}<br/>{legend}</figcaption></figure>"
    )


def _points(points: Sequence[Sequence[float]]) -> str:
    return " ".join(f"{_x(a):.1f},{_y(b):.1f}" for a, b in points)


def _x(value: float) -> float:
    return LEFT + SIDE * value


def _y(value: float) -> float:
    return TOP + SIDE * (1 - value)
