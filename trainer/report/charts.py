"""Charts as SVG in the colours of the page: lines, a reliability diagram, histograms.

Charts are 360 units wide, the width of a phone; the page puts as many side by side as fit. Series differ in colour and
dash, and the legend gives their last values, so a chart can be read without colour and without a mouse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from trainer.report.markup import Child, Markup, el

WIDTH, HEIGHT = 360, 216
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 8, 38  # below the axis: its numbers, then its title
DASHES = (None, "6 3", "2 2.5", "8 3 2 3", "1 3", "10 4")
POINTS = 240  # most points of a line; more are averaged
TIPS = 120  # most points of a line that show their value under the mouse
Format = Callable[[float], str]


@dataclass
class Series:
    """A line.

    Attributes:
        name: as the legend says it.
        points: (x, y), ascending in x.
        color: number of its colour and dash; six colours, then the same six with other dashes.
        band: (x, low, high) of the area drawn behind it.
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    band: Sequence[tuple[float, float, float]] = ()


def lines(
    title: str,
    series: Sequence[Series],
    format_y: Format,
    log: bool = False,
    top: float | None = None,
    note: str = "",
    level: tuple[str, float] | None = None,
) -> Markup:
    """A figure of lines over steps; empty if no series has a point.

    Args:
        title: above the chart: what is on the y axis, with its unit.
        series: the lines.
        format_y: writes a value of the y axis.
        log: use a logarithmic y axis if all values are positive and span more than a factor of 5.
        top: upper end of the y axis; None: the largest value.
        note: below the chart.
        level: name and value of a dashed level, which is drawn if it lies within the chart, and named in any case.
    """
    shown = [one for one in series if one.points]
    values = [y for one in shown for _, y in one.points] + [y for one in shown for point in one.band for y in point[1:]]
    if not values:
        return Markup("")
    steps = [x for one in shown for x, _ in one.points]
    low, high = min(values), max(values)
    log = log and low > 0 and high / low > 5
    ticks = log_ticks(low, high) if log else round_ticks(min(0.0, low), top if top is not None else high)
    bottom, ceiling = min(low, ticks[0]), max(high, ticks[-1])
    x_of = _scale(min(steps, default=0) if len(set(steps)) > 1 else 0, max(steps), LEFT, WIDTH - RIGHT)
    y_of = _scale(bottom, ceiling, HEIGHT - BOTTOM, TOP, log)
    parts = [_grid(ticks, y_of, format_y), _steps_axis(min(steps), max(steps), x_of), _title("step", HEIGHT)]
    if level is not None and bottom <= level[1] <= ceiling:
        at = _n(y_of(level[1]))
        parts.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="ideal"))
    for one in shown:
        if len(one.band) > 1:
            edge = [(x, high) for x, _, high in one.band] + [(x, low) for x, low, _ in reversed(one.band)]
            parts.append(el("polygon", points=_path(edge, x_of, y_of), class_=f"band s{one.color % 6}"))
    for one in shown:
        points = thin(one.points)
        if len(points) == 1:
            (x, y) = points[0]
            parts.append(el("circle", cx=_n(x_of(x)), cy=_n(y_of(y)), r=3, class_=f"dot s{one.color % 6}"))
        parts.append(_line(_path(points, x_of, y_of), one.color))
        if len(points) <= TIPS:
            for x, y in points:
                tip = el("title", f"{one.name}, step {x:,.0f}: {format_y(y)}")
                parts.append(el("circle", tip, cx=_n(x_of(x)), cy=_n(y_of(y)), r=5, class_="tip"))
    legend = [(one.name, format_y(one.points[-1][1]), one.color) for one in shown]
    said = [note] if note else []
    if level is not None:
        dashed = "dashed" if bottom <= level[1] <= ceiling else "beyond the chart"
        said.append(f"{level[0]}: {format_y(level[1])}, {dashed}.")
    return figure(title + (", logarithmic" if log else ""), _svg(title, parts), _legend(legend), " ".join(said))


def varying(series: Sequence[Series]) -> list[Series]:
    """Without the lines that never change, which show nothing; single points stay."""
    return [one for one in series if len(one.points) < 2 or len({y for _, y in one.points}) > 1]


def reliability(bins: Sequence[dict[str, float | None]]) -> Markup:
    """Accuracy in each bin of confidence against the diagonal, with the number of images in each bin below.

    Args:
        bins: `count`, `accuracy` and `confidence` of equal bins of [0, 1]; the last two are None in an empty bin.
    """
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
            parts.append(_bar(x, y, width, y_of(0) - y, "s0", el("title", said)))
        height = strip * (one["count"] or 0) / most
        parts.append(_bar(x, floor - height, width, height, "quiet"))
    parts.append(el("line", x1=x_of(0), y1=y_of(0), x2=x_of(1), y2=y_of(1), class_="ideal"))
    parts += _unit_axis((0, 0.25, 0.5, 0.75, 1), floor + 14, x_of)
    parts.append(_title("confidence", floor + 34))
    svg = _svg("accuracy in each bin of confidence", parts, floor + 34)
    kinds = (("s0", "accuracy"), ("ideal", "perfectly calibrated"), ("quiet", "images"))
    legend = el("p", [[el("span", el("i", class_=f"swatch {k}"), name), " "] for k, name in kinds], class_="legend")
    return figure("Accuracy by confidence, 15 bins", svg, legend)


def histograms(title: str, groups: Sequence[tuple[str, Sequence[int], int]], axis: str) -> Markup:
    """Step outlines of the shares in equal bins of [0, 1].

    Args:
        title: above the chart.
        axis: title of the x axis.
        groups: name, counts and colour of each outline.
    """
    shares = [[n / (sum(counts) or 1) for n in counts] for _, counts, _ in groups]
    ticks = round_ticks(0, max(max(share) for share in shares) or 1)
    x_of, y_of = _scale(0, 1, LEFT, WIDTH - RIGHT), _scale(0, ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_grid(ticks, y_of, lambda v: f"{100 * v:.0f} %")]
    for (_, _, color), share in zip(groups, shares, strict=True):
        corners = [(0.0, 0.0)]
        for i, value in enumerate(share):
            corners += [(i / len(share), value), ((i + 1) / len(share), value)]
        corners.append((1.0, 0.0))
        parts.append(el("polygon", points=_path(corners, x_of, y_of), class_=f"band s{color % 6}"))
        parts.append(_line(_path(corners, x_of, y_of), color))
    parts += [*_unit_axis((0, 0.2, 0.4, 0.6, 0.8, 1), HEIGHT - 20, x_of), _title(axis, HEIGHT)]
    legend = [(name, f"{sum(counts):,}", color) for name, counts, color in groups]
    return figure(title, _svg(title, parts), _legend(legend))


def figure(title: str, svg: Markup, legend: Child = None, note: str = "") -> Markup:
    """A chart with its title above and its legend below."""
    return el("figure", el("figcaption", title), svg, legend, el("p", note, class_="note") if note else None)


def _dash(color: int) -> str | None:
    return DASHES[(color + color // 6) % 6]


def _svg(label: str, parts: Sequence[Child], height: int = HEIGHT) -> Markup:
    return el("svg", parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label)


def _legend(entries: Sequence[tuple[str, str, int]]) -> Markup:
    """Name, last value and a stroke of the line for each."""

    def stroke(color: int) -> Markup:
        line = el("line", x1=0, x2=22, y1=4, y2=4, class_=f"line s{color % 6}", stroke_dasharray=_dash(color))
        return el("svg", line, viewBox="0 0 22 8", class_="stroke", aria_hidden="true")

    said = [[el("span", stroke(color), name, " ", el("b", last)), " "] for name, last, color in entries]
    return el("p", said, class_="legend")


def _grid(ticks: Sequence[float], y_of: Callable[[float], float], format_y: Format) -> Markup:
    rules = [el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(y_of(v)), y2=_n(y_of(v)), class_="grid") for v in ticks]
    return el("g", rules, [_text(format_y(v), LEFT - 5, y_of(v) + 3.5, "end") for v in ticks])


def _steps_axis(first: float, last: float, x_of: Callable[[float], float]) -> Markup:
    ticks = [v for v in round_ticks(first if last > first else 0, last) if first <= v <= last] or [last]
    ends = WIDTH - RIGHT - 14
    return el("g", [_text(_thousands(v), x_of(v), HEIGHT - 20, "end" if x_of(v) > ends else "middle") for v in ticks])


def _title(text: str, floor: float) -> Markup:
    """The title of the x axis, at the lower edge of a chart."""
    return _text(text, (LEFT + WIDTH - RIGHT) / 2, floor - 4, "middle")


def _unit_axis(values: Sequence[float], y: float, x_of: Callable[[float], float]) -> list[Markup]:
    """Numbers below an axis of [0, 1]; those at its ends stay within it."""
    return [_text(f"{v:g}", x_of(v), y, "start" if v == 0 else "end" if v == 1 else "middle") for v in values]


def _text(text: str, x: float, y: float, anchor: str) -> Markup:
    return el("text", text, x=_n(x), y=_n(y), text_anchor=anchor)


def _line(path: str, color: int) -> Markup:
    return el("polyline", points=path, class_=f"line s{color % 6}", stroke_dasharray=_dash(color))


def _bar(x: float, y: float, width: float, height: float, kind: str, *children: Child) -> Markup:
    return el("rect", children, x=_n(x), y=_n(y), width=_n(width), height=_n(height), class_=f"bar {kind}")


def _thousands(step: float) -> str:
    for size, sign in ((1e6, "M"), (1e3, "k")):
        if step >= size:
            return f"{step / size:g}{sign}"
    return f"{step:g}"


def round_ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose [low, high]."""
    span = high - low if high > low else abs(high) or 1.0
    rough = max(span / 4, 1e-300)  # a quarter of the smallest number is 0
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil((high if high > low else low + span) / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
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


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points, means of neighbours; the first and the last point stay as they are."""
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
    """A coordinate, to a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0")
