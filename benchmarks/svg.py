"""Line plots as SVG text, for docs/performance.md: no library, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 300  # px
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 14, 44  # px: margins; the right one holds the legend
COLOURS = ("#3b7dd8", "#d9662c", "#3a9a5b", "#a05cc0", "#b08a1e", "#888888")
GREY = "#8a8a8a"

Points = Sequence[tuple[float, float]]


def lines(series: Mapping[str, Points], x_name: str, y_name: str, title: str) -> str:
    """One line a series. An axis is logarithmic when its values are positive and span more than a factor of 30."""
    points = [point for own in series.values() for point in own]
    x, y = _Axis([p[0] for p in points], LEFT, WIDTH - RIGHT), _Axis([p[1] for p in points], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
    ]
    parts.append(f"<title>{escape(title)}</title>")
    for value in x.ticks:
        parts.append(f'<path d="M{x(value):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{GREY}" stroke-opacity=".25"/>')
        parts.append(_text(x(value), HEIGHT - BOTTOM + 16, short(value), "middle"))
    for value in y.ticks:
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-opacity=".25"/>')
        parts.append(_text(LEFT - 6, y(value) + 4, short(value), "end"))
    for i, (name, own) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        shown = [(x(a), y(b)) for a, b in own if x.shows(a) and y.shows(b)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in shown)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(shown) <= 30:
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in shown]
        row = TOP + 10 + 18 * i
        parts.append(f'<path d="M{WIDTH - RIGHT + 12} {row - 4}h16" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(WIDTH - RIGHT + 34, row, name, "start"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_name, "middle"))
    parts.append(
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle" '
        f'fill="{GREY}">{escape(y_name)}</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def short(value: float) -> str:
    """At most four characters or so: 1500 -> 1.5k."""
    for factor, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{sign}"
    return f"{value:g}"


class _Axis:
    """Values -> pixels from `first` to `last`."""

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        positive = [v for v in values if v > 0]
        self.log = bool(positive) and len(positive) == len(values) and max(values) / min(values) > 30
        if self.log:
            low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
            self.ticks = [10.0**k for k in range(low, high + 1)]
            self._low, self._high = float(low), float(high)
        else:
            top = max([*values, 0.0]) or 1.0
            bottom = min([*values, 0.0])
            step = 10 ** math.floor(math.log10((top - bottom) / 2))
            step *= next(k for k in (1, 2, 5, 10) if (top - bottom) / (k * step) <= 6)
            self._low, self._high = math.floor(bottom / step) * step, math.ceil(top / step) * step
            count = round((self._high - self._low) / step)
            self.ticks = [round(self._low + i * step, 10) for i in range(count + 1)]
        self._first, self._last = first, last

    def shows(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)

    def __call__(self, value: float) -> float:
        place = math.log10(value) if self.log else value
        return self._first + (self._last - self._first) * (place - self._low) / ((self._high - self._low) or 1)


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{GREY}">{escape(words)}</text>'
