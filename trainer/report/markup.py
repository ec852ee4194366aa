"""HTML elements from Python. Text is escaped unless it is `Markup`: a class may be called `<script>`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from stores.system.text import visible

VOID = ("meta", "img", "path", "line", "rect", "circle", "polyline", "polygon")


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def el(tag: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """An HTML element.

    Args:
        tag: its name.
        children: elements, text, numbers, or nested sequences of them; None is left out.
        attributes: `class_` is class, other `_` become `-`; None and False are left out.
    """
    said = [
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(visible(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    ]
    if tag in VOID and not children:
        return Markup(f"<{tag}{''.join(said)}/>")
    return Markup(f"<{tag}{''.join(said)}>{join(children)}</{tag}>")


def join(children: Child) -> Markup:
    """Children one after the other, texts escaped, None left out."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, str | int | float):
        return Markup(html.escape(visible(children), quote=False))
    return Markup("".join(join(child) for child in children))


def table(
    head: Sequence[Child], rows: Iterable[Sequence[Child]], numbers: slice = slice(1, None), class_: str | None = None
) -> Markup:
    """A table that scrolls sideways if it is too wide.

    Args:
        head: headings of the columns.
        rows: cells of each row; the first one is the row's heading.
        numbers: columns of numbers, which are right-aligned.
        class_: class of the table.
    """

    def kind(column: int) -> str | None:
        return "num" if column in range(len(head))[numbers] else None

    top = el("tr", [el("th", cell, scope="col", class_=kind(i)) for i, cell in enumerate(head)])
    body = [
        el(
            "tr",
            [el("th", cell, scope="row") if i == 0 else el("td", cell, class_=kind(i)) for i, cell in enumerate(row)],
        )
        for row in rows
    ]
    return el("div", el("table", el("thead", top), el("tbody", body), class_=class_), class_="scroll", tabindex=0)


def percent(value: float | None, digits: int = 2) -> str:
    """A number of per cent, "–" for None."""
    return "–" if value is None else f"{value:.{digits}f} %"
