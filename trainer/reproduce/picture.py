"""A reproduced table as an SVG picture: the measured errors beside the published ones, each with its own axis.

A table with rows of several columns is drawn as lines over the columns, any other one as bars. Error bars are ± a
standard deviation.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainer.report.markup import Markup, el
from trainer.reproduce.recipe import Recipe, mean_and_std
from trainer.reproduce.table import Cells

COLORS = ("#0a5c9e", "#c2410c", "#0d7458", "#83398a", "#8a6d00", "#55555c", "#b0256b", "#2f6f8f", "#6b8e23", "#444")
DASHES = ("", "6 3", "2 2.5", "8 3 2 3")
INK, SOFT, RULE = "#1c1c1f", "#63636b", "#e2e1dd"
WIDTH, LINE = 760, 20
PLOT = 230  # height of a plot over columns
Value = tuple[float, float]  # mean, standard deviation (0: none)


@dataclass(frozen=True)
class _Panel:
    """One side of the picture.

    Attributes:
        title: "measured" or "published".
        values: mean and standard deviation by (row, column).
        left: x of its left edge.
        width: of the plot.
    """

    title: str
    values: Mapping[tuple[str, str], Value]
    left: float
    width: float

    @property
    def top(self) -> float:
        return 1.08 * max((mean + std for mean, std in self.values.values()), default=1.0) or 1.0

    @property
    def ticks(self) -> list[float]:
        """Ticks of the y axis, which begins at 0 unless the lines would have less than half of the height."""
        low = min((mean - std for mean, std in self.values.values()), default=0.0)
        low = low if low > self.top / 2 else 0.0
        step = next((s for s in (0.5, 1, 2, 5, 10, 20) if (self.top - low) / s <= 7), (self.top - low) / 5)
        return [step * i for i in range(int(low / step), int(self.top / step) + 1)]


def draw(recipe: Recipe, found: Cells, caption: str) -> str:
    """The SVG document of a table.

    Args:
        recipe: of the table.
        found: its cells.
        caption: below the title.
    """
    measured = {key: (cell.mean, cell.std or 0.0) for key, cell in found.items() if cell.mean is not None}
    published = {key: mean_and_std(cell.published) for key, cell in found.items() if cell.published}
    sides = [("measured", measured)] + ([("published", published)] if published else [])
    several = any(len(row.stores) > 1 for row in recipe.rows)
    start = 44 if several else 190
    width = (WIDTH - start - 16 - 44 * (len(sides) - 1)) / len(sides)
    panels = [_Panel(title, values, start + i * (width + 44), width) for i, (title, values) in enumerate(sides)]
    head = [
        *((line, 15, INK, 600) for line in textwrap.wrap(recipe.title, 84)),
        *((line, 11, SOFT, 400) for line in textwrap.wrap(caption, 128)),
    ]
    texts = [
        el("text", text, x=12, y=30 + 18 * i, font_size=size, fill=color, font_weight=weight)
        for i, (text, size, color, weight) in enumerate(head)
    ]
    y = 46.0 + 18 * len(head)
    body = _over_columns(recipe, panels, y) if several else _bars(recipe, panels, y)
    height = y + (PLOT + 34 + LINE * ((len(recipe.rows) + 2) // 3) if several else LINE * len(recipe.rows) + 12)
    return str(
        el(
            "svg",
            el("rect", width=WIDTH, height=height, fill="#ffffff"),
            texts,
            body,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {WIDTH} {height:.0f}",
            width=WIDTH,
            height=f"{height:.0f}",
            role="img",
            font_family="system-ui, 'Segoe UI', Helvetica, Arial, sans-serif",
        )
    )


def _over_columns(recipe: Recipe, panels: list[_Panel], top: float) -> list[Markup]:
    parts: list[Markup] = []
    for panel in panels:
        places = {
            column: panel.left + panel.width * (i + 0.5) / len(recipe.columns)
            for i, column in enumerate(recipe.columns)
        }
        y_of = _scale(panel.ticks[0], panel.top, top + PLOT, top)
        parts += _axis(panel, y_of, top)
        parts += [_text(column, x, top + PLOT + 16, anchor="middle") for column, x in places.items()]
        for i, row in enumerate(recipe.rows):
            points = [(places[c], panel.values[row.name, c]) for c in recipe.columns if (row.name, c) in panel.values]
            color, dash = COLORS[i % len(COLORS)], DASHES[i % len(DASHES)]
            if len(points) == 1:  # a baseline that applies to all columns
                y = y_of(points[0][1][0])
                parts.append(_line(panel.left, y, panel.left + panel.width, y, color, 1.0, "2 3"))
            path = " ".join(f"{x:.1f},{y_of(mean):.1f}" for x, (mean, _) in points)
            parts.append(
                el("polyline", points=path, fill="none", stroke=color, stroke_width=2, stroke_dasharray=dash or None)
            )
            for x, (mean, std) in points:
                parts.append(_line(x, y_of(mean - std), x, y_of(mean + std), color, 1.5))
                parts.append(el("circle", cx=f"{x:.1f}", cy=f"{y_of(mean):.1f}", r=3.5, fill=color))
    for i, row in enumerate(recipe.rows):
        x, y = 44 + (i % 3) * 236, top + PLOT + 44 + LINE * (i // 3)
        parts.append(_line(x, y - 4, x + 22, y - 4, COLORS[i % len(COLORS)], 2, DASHES[i % len(DASHES)]))
        parts.append(_text(row.name, x + 28, y, color=INK, size=12))
    return parts


def _bars(recipe: Recipe, panels: list[_Panel], top: float) -> list[Markup]:
    parts = [_text(row.name, 180, top + LINE * i + 14, "end", INK, 12) for i, row in enumerate(recipe.rows)]
    for panel in panels:
        x_of = _scale(0.0, panel.top, panel.left, panel.left + panel.width - 40)
        parts.append(_text(f"{panel.title}, error in %", panel.left, top - 10, color=INK, size=12))
        for i, row in enumerate(recipe.rows):
            (column,) = row.stores
            if (row.name, column) not in panel.values:
                continue
            mean, std = panel.values[row.name, column]
            y, color = top + LINE * i, COLORS[0] if panel.title == "measured" else SOFT
            bar = {"x": f"{panel.left:.1f}", "width": f"{x_of(mean) - panel.left:.1f}"}
            parts.append(el("rect", **bar, y=y + 3, height=LINE - 7, fill=color))
            parts.append(_line(x_of(max(0.0, mean - std)), y + 9.5, x_of(mean + std), y + 9.5, INK, 1.2))
            parts.append(_text(f"{mean:.1f}", x_of(mean + std) + 5, y + 14, color=INK))
    return parts


def _axis(panel: _Panel, y_of: Callable[[float], float], top: float) -> list[Markup]:
    return [
        _text(f"{panel.title}, error in %", panel.left, top - 10, color=INK, size=12),
        *(_line(panel.left, y_of(t), panel.left + panel.width, y_of(t), RULE, 1) for t in panel.ticks),
        *(_text(f"{t:g}", panel.left - 6, y_of(t) + 4, "end") for t in panel.ticks),
    ]


def _scale(low: float, high: float, at_low: float, at_high: float) -> Callable[[float], float]:
    return lambda value: at_low + (at_high - at_low) * (value - low) / (high - low)


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float, dash: str = "") -> Markup:
    return el(
        "line",
        x1=f"{x1:.1f}",
        y1=f"{y1:.1f}",
        x2=f"{x2:.1f}",
        y2=f"{y2:.1f}",
        stroke=color,
        stroke_width=width,
        stroke_dasharray=dash or None,
    )


def _text(text: str, x: float, y: float, anchor: str = "start", color: str = SOFT, size: int = 11) -> Markup:
    return el("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, fill=color, font_size=size)
