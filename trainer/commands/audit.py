"""`realmix-train audit`: labels that look wrong, and images that are there twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stores.errors import require_place
from stores.system import text
from trainer.commands.options import Debug, Device, Format, Json, ListFile, Threads, use_threads

Source = Annotated[Path, typer.Argument(metavar="RUN|STORE", help="Run, or split store.", show_default=False)]
Embeddings = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of a store, whose features are compared.", show_default=False)
]
Store = Annotated[str | None, typer.Option(help="Of a run, split store to look through.", show_default="the run's own")]
Sheet = Annotated[Path | None, typer.Option(help="Page to write, of what looks wrong.", show_default="not written")]


def audit(
    source: Source,
    embeddings: Embeddings = None,
    store: Store = None,
    output: ListFile = None,
    format: Format = "csv",
    sheet: Sheet = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look through the labelled images: labels that look wrong, pairs that look like the same picture.

    Example: `realmix-train audit runs/mine --sheet audit.html`
    """
    require_place(output, sheet)
    use_threads(threads)
    from trainer.inference import audit as inference
    from trainer.inference import listing

    listing.require_form(format)
    found = inference.audit(source, store, embeddings, device or "auto")
    written = []
    if output is not None:
        listing.write(output, inference.COLUMNS, found.table(), format)
        written.append(f"list: {output}")
    if sheet is not None:
        inference.write_sheet(found, sheet)
        written.append(f"page: {sheet}")
    if as_json:
        text.say(json.dumps(found.summary()))
        return
    text.say(found.sentence())
    if found.features == "trained":
        text.say("the features were trained on these labels: wrong ones that the network has learnt are not found")
    rows = found.table()
    for kind, title, other in (
        ("label", "labels that look wrong", "probably"),
        ("duplicate", "the same picture?", "twin"),
    ):
        shown = [
            (row["file"] or f"row {row['row']}", row["class"], _other(row, other), f"{row['score']:.2f}")
            for row in rows
            if row["kind"] == kind
        ][:10]
        if shown and not written:
            text.print_table(shown, ("image", "label", other, "score"), title)
    if not written:
        text.say("`-o audit.csv` writes them all, `--sheet audit.html` shows them")
    for line in written:
        text.say(line)


def _other(row: dict[str, object], other: str) -> str:
    if other == "probably":
        return str(row["probably"])
    return f"{row['twin_file'] or 'row ' + str(row['twin'])} ({row['twin_class'] or 'unlabelled'})"
