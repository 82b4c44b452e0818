"""Small vector plots: SVG whose colours and fonts come from the page's style sheet."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from markupsafe import Markup

Point = tuple[float, float]
_DIGIT = 7
"""Width of a digit of a label, with a little to spare."""
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 16, 38
"""Margins of the plotting area for the labels, in units of the drawing."""


@dataclass(frozen=True)
class Axis:
    """One axis of a plot.

    Attributes:
        title: shown beside it; empty for none.
        low: the smallest value shown.
        high: the largest.
        ticks: the values with a grid line.
        log: logarithmic.
        text: turns a tick into its label.
    """

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False
    text: Callable[[float], str] = lambda value: f"{value:g}"

    def position(self, value: float) -> float:
        """Return where a value lies, from 0 at `low` to 1 at `high`; values outside are moved."""
        low, high, value = (
            (np.log10(v) for v in (self.low, self.high, max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        return float(np.clip((value - low) / (high - low), 0, 1))


def share_axis(title: str) -> Axis:
    """Return an axis from 0 to 1."""
    return Axis(title, 0, 1, (0, 0.25, 0.5, 0.75, 1))


def fitting_axis(title: str, values: Iterable[float], from_zero: bool = False) -> Axis:
    """Return an axis whose round ticks enclose finite values; 0 to 1 without any."""
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return share_axis(title)
    low, high = (min(known), max(known)) if not from_zero else (0.0, max(known))
    span = high - low or abs(high) or 1.0
    step = _round_step(span / 4)
    first, last = np.floor(low / step), np.ceil(high / step)
    last = max(last, first + 1)
    ticks = [float(f"{number * step:.6g}") for number in np.arange(first, last + 1)]
    return Axis(title, ticks[0], ticks[-1], ticks)


def decade_axis(title: str, low: float, high: float) -> Axis:
    """Return a logarithmic axis from `low` to `high`, above 0, with round ticks."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 100 else (1,)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    inside = [tick for tick in ticks if low <= tick <= high]
    return Axis(title, low, high, inside, log=True, text=lambda value: f"{value:,.0f}")


def _round_step(rough: float) -> float:
    power = 10.0 ** np.floor(np.log10(rough))
    return float(next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9)))


@dataclass
class Plot:
    """A plot of fixed proportions; every mark has a class, which the style sheet colours.

    Attributes:
        title: read out by screen readers.
        x: the horizontal axis.
        y: the vertical axis.
        width: of the drawing, in its own units; the page scales it.
        height: of the drawing.
    """

    title: str
    x: Axis
    y: Axis
    width: int = 420
    height: int = 300
    _marks: list[str] = field(default_factory=list)

    def line(self, points: Sequence[Point], kind: str) -> None:
        """Connect points; one that is not finite leaves a gap."""
        steps, pen_down = [], False
        for point in points:
            is_known = bool(np.isfinite(point).all())
            if is_known:
                steps.append(f"{'L' if pen_down else 'M'}{self._at(point)}")
            pen_down = is_known
        if steps:
            self._marks.append(f'<path class="line {kind}" d="{"".join(steps)}"/>')

    def dots(self, points: Iterable[Point], kind: str, labels: Iterable[str] = ()) -> None:
        """Draw points; a label is shown when the pointer rests on its point."""
        texts = [*labels]
        for i, point in enumerate(points):
            x, y = self._at(point).split(",")
            text = f"<title>{escape(texts[i])}</title>" if texts else ""
            self._marks.append(
                f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="3.5">{text}</circle>'
            )

    def interval(self, low: Point, high: Point, kind: str) -> None:
        """Draw a bar from one point to another, unless one of them is not known."""
        if np.isfinite([*low, *high]).all():
            d = f"M{self._at(low)}L{self._at(high)}"
            self._marks.append(f'<path class="interval {kind}" d="{d}"/>')

    def rule(self, at: float, kind: str, label: str = "", upright: bool = False) -> None:
        """Draw a straight line through the plot, at a value of the vertical axis or upright."""
        low, high = (
            ((at, self.y.low), (at, self.y.high))
            if upright
            else ((self.x.low, at), (self.x.high, at))
        )
        self._marks.append(f'<path class="rule {kind}" d="M{self._at(low)}L{self._at(high)}"/>')
        if label:
            x, y = map(float, self._at(high).split(","))
            x, y = (x, y - 5) if upright else (x - 4, y - 5)
            anchor = "start" if upright else "end"
            self._marks.append(
                f'<text class="note" x="{x:g}" y="{y:g}" text-anchor="{anchor}">'
                f"{escape(label)}</text>"
            )

    def svg(self) -> Markup:
        """Return the drawing."""
        inner = "".join((*self._grid(), *self._marks))
        return Markup(
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}">{inner}</svg>'
        )

    def _at(self, point: Point) -> str:
        x = LEFT + self.x.position(point[0]) * (self.width - LEFT - RIGHT)
        y = TOP + (1 - self.y.position(point[1])) * (self.height - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}".replace(".0", "")

    def _grid(self) -> list[str]:
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        parts = []
        for tick in self.y.ticks:
            y = self._at((self.x.low, tick)).split(",")[1]
            parts.append(f'<path class="grid" d="M{LEFT},{y}H{right}"/>')
            parts.append(_text(LEFT - 7, float(y) + 3.5, self.y.text(tick), "end"))
        for tick in self.x.ticks:
            x = self._at((tick, self.y.low)).split(",")[0]
            parts.append(f'<path class="grid" d="M{x},{TOP}V{bottom}"/>')
            label = self.x.text(tick)
            # A long label at the right end would be cut off.
            middle = min(float(x), self.width - len(label) * _DIGIT / 2)
            parts.append(_text(middle, bottom + 15, label, "middle"))
        middle = (LEFT + right) / 2
        parts.append(_text(middle, self.height - 5, self.x.title, "middle", "axis"))
        turned = f'transform="translate(11 {(TOP + bottom) / 2:g}) rotate(-90)"'
        parts.append(
            f'<text class="axis" {turned} text-anchor="middle">{escape(self.y.title)}</text>'
        )
        return parts


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'
