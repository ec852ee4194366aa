"""`realmix-data verify`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipeline.commands.options import Json, Quiet, StorePath
from stores.errors import IntegrityError
from stores.system.text import say


def verify(
    store: StorePath,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also derive every copy again from its image and params.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check every file of a store against its checksum. Exit code 4 if any is damaged or missing."""
    from pipeline.check.deep_verify import check_copies
    from pipeline.commands.progress import Bars
    from stores import SplitStore, open_store
    from stores.verify import verify as check_files

    with Bars(quiet=quiet or as_json) as bars:
        problems = [str(p) for p in check_files(store, lambda done, of: bars.update("checksums, bytes", done, of))]
        opened = None if problems else open_store(store)
        if isinstance(opened, SplitStore):
            problems += [f"{opened.dataset.name}/{p}" for p in check_files(opened.dataset.path)]
            opened = opened.dataset
        if deep and opened is not None and not problems:
            problems += check_copies(opened, bars.update)
    seconds = bars.seconds()
    if as_json:
        say(json.dumps({"store": str(store), "deep": deep, "seconds": seconds, "problems": problems}))
        raise typer.Exit(IntegrityError.exit_code if problems else 0)
    if problems:
        raise IntegrityError(
            f"'{store}': {len(problems)} damaged or missing",
            "\n".join(f"  {p}" for p in problems[:20]),
            f"`realmix-data repair {store}` restores what follows from base images and recipe",
        )
    say(f"{store}: sound{', every copy is what its params say' if deep else ''} ({seconds} s)")
