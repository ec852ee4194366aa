"""`realmix-train foreign`: which unlabelled images belong to no training class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stores.errors import require_place
from stores.system import text
from trainer.commands.options import Debug, Device, Format, Json, ListFile, RunPath, Threads, use_threads

Store = Annotated[str | None, typer.Option(help="Split store to look through.", show_default="the run's own")]
Sheet = Annotated[
    Path | None, typer.Option(help="Page to write, of the most and least foreign images.", show_default="not written")
]
Split = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Split store to write, without the foreign images.", show_default="not written"),
]


def foreign(
    run: RunPath,
    store: Store = None,
    output: ListFile = None,
    format: Format = "csv",
    sheet: Sheet = None,
    split: Split = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the unlabelled images that belong to no training class: a ranked list, a page, a cleaned split.

    Example: `realmix-train foreign runs/mine --sheet foreign.html`
    """
    require_place(output, sheet)
    use_threads(threads)
    from trainer.inference import foreign as inference
    from trainer.inference import listing

    listing.require_form(format)
    found = inference.find(run, store, device or "auto")
    summary = found.summary()
    written = []
    if output is not None:
        listing.write(output, inference.COLUMNS, found.table(), format)
        written.append(f"list: {output}")
    if sheet is not None:
        inference.write_sheet(found, sheet)
        written.append(f"page: {sheet}")
    if split is not None:
        summary["split"] = str(inference.write_cleaned(found, split))
        written.append(f"without them: {summary['split']}")
    if as_json:
        text.say(json.dumps(summary))
        return
    text.say(f"{found.sentence()}; scores from {found.judged.features} features")
    if not written:
        rows = found.table()[:10]
        shown = [
            (str(row["rank"]), row["file"] or f"row {row['row']}", row["class"], str(row["score"])) for row in rows
        ]
        text.print_table(shown, ("rank", "image", "would be", "score"), "most foreign")
        text.say("`-o foreign.csv` writes them all, `--sheet foreign.html` shows them, `--split NAME` leaves them out")
    for line in written:
        text.say(line)
