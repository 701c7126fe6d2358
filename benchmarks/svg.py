"""Line and scatter plots as SVG text, for docs/: no library, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 336  # px
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 50, 44  # px: margins; the upper one holds the heading, the right one the legend
LOG_SPAN, LOG_STEP = (
    30,
    1.5,
)  # from which span on an axis is logarithmic; x only where each value is that often the last one
COLOURS = ("#3b7dd8", "#d9662c", "#3a9a5b", "#a05cc0", "#b08a1e", "#888888")
GREY = "#8a8a8a"

Points = Sequence[tuple[float, float]]


def lines(series: Mapping[str, Points], x_name: str, y_name: str, title: str, note: str = "") -> str:
    """One line a series. `note` stands under the title: on what it was measured. An axis is logarithmic when its values are
    positive and span more than a factor of LOG_SPAN; that of x only where they grow by factors, as counts do and times do not."""
    points = [point for own in series.values() for point in own]
    xs = [p[0] for p in points]
    x = _Axis(xs, LEFT, WIDTH - RIGHT, may_log=_grow_by_factors(xs))
    y = _Axis([p[1] for p in points], HEIGHT - BOTTOM, TOP)
    parts = _frame(x, y, x_name, y_name, title, note)
    for i, (name, own) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        shown = [(x(a), y(b)) for a, b in own if x.shows(a) and y.shows(b)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in shown)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(shown) <= 30:
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in shown]
        parts += _key(i, name)
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class Mark:
    """A named point of a scatter plot, with its interval [low, high] along y."""

    name: str
    x: float
    y: float
    low: float
    high: float


def scatter(series: Mapping[str, Sequence[Mark]], x_name: str, y_name: str, title: str) -> str:
    """Points with their intervals, each named at the foot of the plot; the x axis begins at 0, the y axis where it must."""
    marks = [mark for own in series.values() for mark in own]
    x = _Axis([m.x for m in marks], LEFT, WIDTH - RIGHT)
    y = _Axis([v for m in marks for v in (m.low, m.high)], HEIGHT - BOTTOM, TOP, from_zero=False)
    parts = _frame(x, y, x_name, y_name, title)
    for i, (name, own) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        for m in own:
            parts.append(
                f'<g stroke="{colour}" fill="{colour}"><path d="M{x(m.x):.1f} {y(m.low):.1f}V{y(m.high):.1f}"/>'
                f'<circle cx="{x(m.x):.1f}" cy="{y(m.y):.1f}" r="4"><title>{escape(m.name)}: {m.y:.3f}</title></circle></g>'
            )
        parts += _key(i, name)
    for name, at in {m.name: m.x for m in marks}.items():
        place = f"translate({x(at) - 4:.1f} {HEIGHT - BOTTOM - 4}) rotate(-90)"
        parts.append(f'<text transform="{place}" fill="{GREY}" font-size="10">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _frame(x: _Axis, y: _Axis, x_name: str, y_name: str, title: str, note: str = "") -> list[str]:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<text x="{LEFT}" y="18" font-weight="bold" fill="{GREY}">{escape(title)}</text>',
        f'<text x="{LEFT}" y="34" font-size="11" fill="{GREY}">{escape(note)}</text>',
    ]
    for value in x.ticks:
        parts.append(f'<path d="M{x(value):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{GREY}" stroke-opacity=".25"/>')
        parts.append(_text(x(value), HEIGHT - BOTTOM + 16, short(value), "middle"))
    for value in y.ticks:
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-opacity=".25"/>')
        parts.append(_text(LEFT - 6, y(value) + 4, short(value), "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_name, "middle"))
    parts.append(
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle" '
        f'fill="{GREY}">{escape(y_name)}</text>'
    )
    return parts


def _key(number: int, name: str) -> list[str]:
    """A series' line of the legend."""
    row, colour = TOP + 10 + 18 * number, COLOURS[number % len(COLOURS)]
    return [
        f'<path d="M{WIDTH - RIGHT + 12} {row - 4}h16" stroke="{colour}" stroke-width="2"/>',
        _text(WIDTH - RIGHT + 34, row, name, "start"),
    ]


def short(value: float) -> str:
    """At most four characters or so: 1500 -> 1.5k."""
    for factor, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{sign}"
    return f"{value:g}"


def _grow_by_factors(values: Sequence[float]) -> bool:
    ordered = sorted(set(values))
    counts = len(ordered) > 1 and all(value == int(value) for value in ordered)
    return counts and all(b >= LOG_STEP * a for a, b in zip(ordered, ordered[1:], strict=False))


class _Axis:
    """Values -> pixels from `first` to `last`. Without `from_zero` the axis is linear and begins near the smallest. Whole numbers
    have whole ticks."""

    def __init__(
        self, values: Sequence[float], first: float, last: float, from_zero: bool = True, may_log: bool = True
    ) -> None:
        positive = [v for v in values if v > 0]
        self.log = (
            from_zero and may_log and bool(positive) and len(positive) == len(values)
            and max(values) / min(values) > LOG_SPAN
        )  # fmt: skip
        if self.log:
            low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
            self.ticks = [10.0**k for k in range(low, high + 1)]
            self._low, self._high = float(low), float(high)
        else:
            anchor = [0.0] if from_zero or not values else []
            top, bottom = max([*values, *anchor]), min([*values, *anchor])
            if top == bottom:
                top = bottom + 1.0
            step = 10 ** math.floor(math.log10((top - bottom) / 2))
            step *= next(k for k in (1, 2, 5, 10) if (top - bottom) / (k * step) <= 6)
            if all(value == int(value) for value in values):
                step = max(1.0, step)
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
