"""Options and arguments that commands of `realmix-train` share: types and help texts. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from stores.system.command_line import runs_here


def _debug(asked: bool) -> None:
    if asked:
        os.environ["REALMIX_DEBUG"] = "1"


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_debug)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, nothing else.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.", show_default="auto")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="torch's choice")]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False, autocompletion=runs_here)
]
Format = Annotated[str, typer.Option("--format", help="csv or jsonl.")]
ListFile = Annotated[Path | None, typer.Option("-o", "--output", help="File for the list.", show_default="not written")]


def use_threads(threads: int | None) -> None:
    """Let torch use so many threads; None: as many as it likes."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
