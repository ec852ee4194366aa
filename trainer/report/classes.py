"""Errors by class, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.report import charts
from trainer.report.markup import Markup, el, percent, table
from trainer.report.records import Record

MANY = 20  # classes from which only the worst are listed


def section(record: Record) -> Markup | None:
    """Errors and confusion of a finished run; of many classes only the worst."""
    result = record.result
    if result is None:
        return None
    names, confusion = result["class_names"], result["confusion"]
    errors = [(name, result["per_class_error"][name], sum(row)) for name, row in zip(names, confusion, strict=True)]
    if len(names) > MANY:
        worst = sorted((one for one in errors if one[1] is not None), key=lambda one: -one[1])[:MANY]
        figures = [
            charts.figure(f"Error of the {MANY} worst of {len(names)} classes", _bars(worst)),
            charts.figure("Most frequent confusions", _confusions(names, confusion)),
        ]
    else:
        figures = [
            charts.figure("Test error by class", _bars(errors)),
            charts.figure(
                "Confusion in % of each row: true classes in rows, predicted ones in columns",
                _confusion_matrix(names, confusion),
            ),
        ]
    return el("div", figures, class_="pair")


def _bars(errors: Sequence[tuple[str, float | None, int]]) -> Markup:
    longest = max((error or 0 for _, error, _ in errors), default=0) or 1
    rows = [
        (name, el("span", class_="meter", style=f"--v:{(error or 0) / longest:.3f}"), percent(error, 1), f"{count:,}")
        for name, error, count in errors
    ]
    return table(("class", "", "error", "images"), rows, class_="bars")


def _confusion_matrix(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> Markup:
    """Shares of each row in per cent, which colour the cells too; errors have a colour of their own."""
    turned = "turned" if max(map(len, names)) > 3 else None
    head = el("tr", el("th"), [el("th", el("span", name), scope="col", class_=turned) for name in names])
    rows = []
    for i, (name, row) in enumerate(zip(names, confusion, strict=True)):
        total = sum(row) or 1
        cells = [
            el(
                "td",
                f"{100 * n / total:.0f}" if n else "·",
                class_=("hit" if i == j else "miss") + (" full" if n > total / 2 else "") + ("" if n else " none"),
                style=f"--v:{n / total:.3f}" if n else None,
                title=f"{name} taken for {names[j]}: {n:,} of {total:,}",
            )
            for j, n in enumerate(row)
        ]
        rows.append(el("tr", el("th", name, scope="row"), cells))
    matrix = el("table", el("thead", head), el("tbody", rows), class_="matrix")
    return el("div", matrix, class_="scroll", tabindex=0)


def _confusions(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> Markup:
    found = [(n, i, j, sum(row)) for i, row in enumerate(confusion) for j, n in enumerate(row) if i != j and n]
    rows = [
        (names[i], names[j], f"{n:,}", percent(100 * n / total, 1))
        for n, i, j, total in sorted(found, key=lambda one: (-one[0], one[1], one[2]))[:MANY]
    ]
    return table(("true", "taken for", "images", "share"), rows, numbers=slice(2, None))
