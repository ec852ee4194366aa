"""`realmix-data preview`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import StorePath, open_dataset
from stores.errors import require_place
from stores.system.text import say


def preview(
    store: StorePath,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")] = Path("preview.png"),
    rows: Annotated[int, typer.Option(min=1, max=200, help="Images shown.")] = 8,
    copies: Annotated[int, typer.Option(min=1, max=200, help="Copies shown of each.")] = 12,
) -> None:
    """Draw a contact sheet: images and their copies, erased boxes outlined.

    Example: `realmix-data preview stores/cifar10 -o sheet.png`
    """
    from pipeline.commands.contact_sheet import contact_sheet

    require_place(output)
    contact_sheet(open_dataset(store), output, rows=rows, copies=copies)
    say(output)
