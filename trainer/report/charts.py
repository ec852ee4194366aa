"""Charts as SVG that follows the page's colours: lines, a reliability diagram, histograms. From numbers to markup.

Drawn 360 units wide so that a phone shows them one to one; the page puts as many beside each other as fit. Series are
told apart by colour and by dash, and the legend gives their last values: no chart needs colour or a mouse to be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from trainer.report.markup import Child, Markup, el

WIDTH, HEIGHT = 360, 216
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 8, 24
DASHES = (None, "6 3", "2 2.5", "8 3 2 3", "1 3", "10 4")
POINTS = 240  # of a line at most; more are averaged
TIPS = 120  # points up to which each one says its value
Format = Callable[[float], str]


@dataclass
class Series:
    """A line.

    Attributes:
        points: (x, y), ascending in x.
        color: number of the series' colour and dash; six colours, and other dashes for the next six.
        band: (x, low, high) drawn behind it.
        last: what the legend says; None: the last value.
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    band: Sequence[tuple[float, float, float]] = ()
    last: str | None = None


def lines(
    title: str,
    series: Sequence[Series],
    format_y: Format,
    log: bool = False,
    top: float | None = None,
    note: str = "",
) -> Markup:
    """A figure of lines over steps.

    Args:
        format_y: how values are written.
        log: logarithmic, if every value is positive and they span more than a factor of 5.
        top: end of the axis; None: the largest value.
    """
    shown = [one for one in series if one.points]
    values = [y for one in shown for _, y in one.points] + [y for one in shown for point in one.band for y in point[1:]]
    if not values:
        return Markup("")
    steps = [x for one in shown for x, _ in one.points]
    low, high = min(values), max(values)
    log = log and low > 0 and high / low > 5
    ticks = _log_ticks(low, high) if log else _ticks(min(0.0, low), top if top is not None else high)
    bottom, ceiling = (min(low, ticks[0]), max(high, ticks[-1])) if log else (ticks[0], max(ticks[-1], high))
    x_of = _scale(min(steps, default=0) if len(set(steps)) > 1 else 0, max(steps), LEFT, WIDTH - RIGHT)
    y_of = _scale(bottom, ceiling, HEIGHT - BOTTOM, TOP, log)
    parts = [_grid(ticks, y_of, format_y), _steps_axis(min(steps), max(steps), x_of)]
    for one in shown:
        if len(one.band) > 1:
            edge = [(x, high) for x, _, high in one.band] + [(x, low) for x, low, _ in reversed(one.band)]
            parts.append(el("polygon", points=_path(edge, x_of, y_of), class_=f"band s{one.color % 6}"))
    for one in shown:
        points = _thin(one.points)
        if len(points) == 1:
            (x, y) = points[0]
            parts.append(el("circle", cx=_n(x_of(x)), cy=_n(y_of(y)), r=3, class_=f"dot s{one.color % 6}"))
        parts.append(
            el(
                "polyline",
                points=_path(points, x_of, y_of),
                class_=f"line s{one.color % 6}",
                stroke_dasharray=_dash(one.color),
            )
        )
        if len(points) <= TIPS:
            parts += [
                el(
                    "circle",
                    el("title", f"{one.name}, step {x:,.0f}: {format_y(y)}"),
                    cx=_n(x_of(x)),
                    cy=_n(y_of(y)),
                    r=5,
                    class_="tip",
                )
                for x, y in points
            ]
    legend = [(one.name, one.last or format_y(one.points[-1][1]), one.color) for one in shown]
    return figure(title + (", logarithmic" if log else ""), _svg(title, parts), _legend(legend), note)


def small(title: str, points: Sequence[tuple[float, float]]) -> Markup:
    """A small line over steps with the last value in its title, for many beside each other."""
    values = [y for _, y in points]
    low, high = min(0.0, *values), max(0.0, *values)
    high = high if high > low else low + 1
    width, height, left = 150, 74, 2
    x_of = _scale(points[0][0] if len(points) > 1 else 0, points[-1][0], left, width - left)
    y_of = _scale(low, high, height - 16, 6)
    parts = [
        el("line", x1=left, x2=width - left, y1=_n(y_of(0)), y2=_n(y_of(0)), class_="axis"),
        el("polyline", points=_path(_thin(points), x_of, y_of), class_="line s0"),
        el("text", f"max {brief(max(values))}", x=left, y=height - 2),
        el("text", _thousands(points[-1][0]), x=width - left, y=height - 2, text_anchor="end"),
    ]
    svg = el("svg", parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=f"{title} over steps")
    return el("figure", el("figcaption", el("span", title), el("b", brief(values[-1]))), svg, class_="small")


def reliability(bins: Sequence[dict[str, float | None]]) -> Markup:
    """Accuracy of each bin of confidence against the diagonal; below, how many images each bin holds."""
    size, strip = 216, 34
    x_of, y_of = _scale(0, 1, LEFT, WIDTH - RIGHT), _scale(0, 1, size - 4, TOP)
    count = len(bins)
    total = sum(one["count"] or 0 for one in bins) or 1
    most = max(one["count"] or 0 for one in bins) or 1
    floor = size + 8 + strip
    parts = [_grid([0, 0.25, 0.5, 0.75, 1], y_of, lambda v: f"{v:g}")]
    for i, one in enumerate(bins):
        share = (one["count"] or 0) / total
        x, width = x_of(i / count) + 1, x_of(1 / count) - x_of(0) - 2
        if one["accuracy"] is not None and one["confidence"] is not None:
            y = y_of(one["accuracy"])
            said = f"{100 * share:.1f} % of images: confidence {one['confidence']:.3f}, right {one['accuracy']:.3f}"
            parts.append(
                el(
                    "rect",
                    el("title", said),
                    x=_n(x),
                    y=_n(y),
                    width=_n(width),
                    height=_n(y_of(0) - y),
                    class_="bar s0",
                )
            )
        height = strip * (one["count"] or 0) / most
        parts.append(el("rect", x=_n(x), y=_n(floor - height), width=_n(width), height=_n(height), class_="bar quiet"))
    parts.append(el("line", x1=x_of(0), y1=y_of(0), x2=x_of(1), y2=y_of(1), class_="ideal"))
    parts += [
        el(
            "text",
            f"{v:g}",
            x=_n(x_of(v)),
            y=floor + 14,
            text_anchor="middle" if 0 < v < 1 else "start" if v == 0 else "end",
        )
        for v in (0, 0.25, 0.5, 0.75, 1)
    ]
    svg = _svg("accuracy in each bin of confidence", parts, floor + 20)
    legend = el(
        "p",
        el("span", el("i", class_="swatch s0"), "accuracy"),
        " ",
        el("span", el("i", class_="swatch ideal"), "perfectly calibrated"),
        " ",
        el("span", el("i", class_="swatch quiet"), "images"),
        class_="legend",
    )
    return figure("Accuracy by confidence, 15 bins", svg, legend)


def histograms(title: str, groups: Sequence[tuple[str, Sequence[int], int]]) -> Markup:
    """Step outlines of shares in equal bins of [0, 1].

    Args:
        groups: (name, counts, color) of each.
    """
    shares = [[n / (sum(counts) or 1) for n in counts] for _, counts, _ in groups]
    ticks = _ticks(0, max(max(share) for share in shares) or 1)
    x_of, y_of = _scale(0, 1, LEFT, WIDTH - RIGHT), _scale(0, ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_grid(ticks, y_of, lambda v: f"{100 * v:.0f} %")]
    for (_, _, color), share in zip(groups, shares, strict=True):
        corners = [(0.0, 0.0)]
        for i, value in enumerate(share):
            corners += [(i / len(share), value), ((i + 1) / len(share), value)]
        corners.append((1.0, 0.0))
        parts.append(el("polygon", points=_path(corners, x_of, y_of), class_=f"band s{color % 6}"))
        parts.append(
            el(
                "polyline",
                points=_path(corners, x_of, y_of),
                class_=f"line s{color % 6}",
                stroke_dasharray=_dash(color),
            )
        )
    parts += [
        el(
            "text",
            f"{v:g}",
            x=_n(x_of(v)),
            y=HEIGHT - 6,
            text_anchor="start" if v == 0 else "end" if v == 1 else "middle",
        )
        for v in (0, 0.2, 0.4, 0.6, 0.8, 1)
    ]
    legend = [(name, f"{sum(counts):,}", color) for name, counts, color in groups]
    return figure(title, _svg(title, parts), _legend(legend))


def figure(title: str, svg: Markup, legend: Child = None, note: str = "") -> Markup:
    """A chart with its title above and its legend below."""
    return el("figure", el("figcaption", title), svg, legend, el("p", note, class_="note") if note else None)


def brief(value: float) -> str:
    """A number in as few signs as tell it apart: 0.00321, 4.57, 1,234."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size >= 1e-4 or value == 0 else f"{value:.0e}"


def _dash(color: int) -> str | None:
    return DASHES[(color + color // 6) % 6]


def _svg(label: str, parts: Sequence[Child], height: int = HEIGHT) -> Markup:
    return el("svg", parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label)


def _legend(entries: Sequence[tuple[str, str, int]]) -> Markup:
    """Name, last value and a stroke of the line for each."""

    def stroke(color: int) -> Markup:
        line = el("line", x1=0, x2=22, y1=4, y2=4, class_=f"line s{color % 6}", stroke_dasharray=_dash(color))
        return el("svg", line, viewBox="0 0 22 8", class_="stroke", aria_hidden="true")

    return el(
        "p",
        [[el("span", stroke(color), name, " ", el("b", last)), " "] for name, last, color in entries],
        class_="legend",
    )


def _grid(ticks: Sequence[float], y_of: Format | Callable[[float], float], format_y: Format) -> Markup:
    return el(
        "g",
        [
            [
                el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(float(y_of(v))), y2=_n(float(y_of(v))), class_="grid"),
                el("text", format_y(v), x=LEFT - 5, y=_n(float(y_of(v)) + 3.5), text_anchor="end"),
            ]
            for v in ticks
        ],
    )


def _steps_axis(first: float, last: float, x_of: Callable[[float], float]) -> Markup:
    ticks = [v for v in _ticks(first if last > first else 0, last) if first <= v <= last] or [last]
    return el(
        "g",
        [
            el(
                "text",
                _thousands(v),
                x=_n(x_of(v)),
                y=HEIGHT - 6,
                text_anchor="end" if x_of(v) > WIDTH - RIGHT - 14 else "middle",
            )
            for v in ticks
        ],
    )


def _thousands(step: float) -> str:
    for size, sign in ((1e6, "M"), (1e3, "k")):
        if step >= size:
            return f"{step / size:g}{sign}"
    return f"{step:g}"


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose [low, high]."""
    span = high - low if high > low else abs(high) or 1.0
    rough = max(span / 4, 1e-300)  # a quarter of the smallest number is 0
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil((high if high > low else low + span) / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20 … from the last one below `low` to the first one above `high`."""
    found = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        for factor in (1, 2, 5)
    ]
    below = max(i for i, v in enumerate(found) if v <= low * 1.0001)
    above = next((i for i, v in enumerate(found) if v >= high * 0.9999), len(found) - 1)
    return found[below : above + 1]


def _scale(low: float, high: float, start: float, end: float, log: bool = False) -> Callable[[float], float]:
    """The function from values to units."""
    turn: Callable[[float], float] = math.log if log else float
    span = turn(high) - turn(low) or 1.0
    return lambda v: start + (turn(v) - turn(low)) / span * (end - start)


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS points: means of neighbours; the first and the last stay where they are."""
    if len(points) <= POINTS:
        return list(points)
    inner, parts = points[1:-1], POINTS - 2
    edges = [round(i * len(inner) / parts) for i in range(parts + 1)]
    means = [
        (sum(x for x, _ in inner[a:b]) / (b - a), sum(y for _, y in inner[a:b]) / (b - a)) for a, b in pairwise(edges)
    ]
    return [points[0], *means, points[-1]]


def _path(points: Sequence[tuple[float, float]], x_of: Callable[[float], float], y_of: Callable[[float], float]) -> str:
    return " ".join(f"{_n(x_of(x))},{_n(y_of(y))}" for x, y in points)


def _n(value: float) -> str:
    """A coordinate: a tenth of a unit is less than anyone sees."""
    return f"{value:.1f}".removesuffix(".0")
