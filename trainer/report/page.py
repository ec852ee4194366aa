"""The page: head, style and sections. Several runs are compared first."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import stores
from trainer.report import comparison, sections
from trainer.report.markup import Child, Markup, el, percent
from trainer.report.records import Record, group

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # makes the browser block network access


def render(records: Sequence[Record]) -> str:
    """The HTML of the whole page."""
    if len(records) == 1:
        record = records[0]
        title = f"{record.run['method']} on {record.store['name']}"
        body: list[Child] = [_header(title, record.name), sections.run(record)]
    else:
        groups = group(records)
        title = f"{len(records)} runs"
        names = "/".join(dict.fromkeys(record.store["name"] for record in records))
        body = [_header(title, f"on {names}"), comparison.compare(groups)]
        labels = comparison.labels(groups)
        body.append(el("h2", "Each run"))
        for one, label in zip(groups, labels, strict=True):
            for i, record in enumerate(one.records):
                error = percent(record.score("error_last"))
                summary = el("summary", el("b", record.name), " ", label, el("span", error, class_="num"))
                body.append(
                    el(
                        "details",
                        summary,
                        sections.run(record, images=i == 0),
                        id=comparison.anchor(record),
                        class_="run",
                    )
                )
    return document(title, body)


def document(title: str, body: Child, written_by: str = "report") -> str:
    """A page of its own with this title and content."""
    style = resources.files("trainer.report").joinpath("style.css").read_text(encoding="utf-8")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", f"{title} · realmix"),
        el("style", Markup(style)),
    )
    foot = el("footer", f"realmix {stores.__version__}, written by realmix-train {written_by}")
    return f"<!doctype html>\n{el('html', head, el('body', el('main', body), foot), lang='en')}\n"


def _header(title: str, below: str) -> Markup:
    return el("header", el("h1", title), el("p", below))
