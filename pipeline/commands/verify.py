"""`realmix-data verify`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

import typer

from pipeline.commands.options import Json, Quiet, StorePath
from stores.errors import IntegrityError
from stores.storage.location import Location
from stores.system.text import say

Progress = Callable[[str, int, int], None]  # (what, done, of)


def verify(
    store: StorePath,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also derive every copy again, or a sample of embeddings.")
    ] = False,
    weights: Annotated[str | None, typer.Option(help="The file of weights that embeddings were made with.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check every file of a store against its checksum. Exit code 4 if any is damaged or missing.

    Example: `realmix-data verify stores/cifar10 --deep`
    """
    from pipeline.check.deep_verify import check_copies
    from pipeline.commands.progress import Bars
    from stores import SplitStore, open_store
    from stores.embeddings import holds_embeddings
    from stores.verify import verify as check_files

    with Bars(quiet=quiet or as_json) as bars:
        problems = [str(p) for p in check_files(store, lambda done, of: bars.update("checksums, bytes", done, of))]
        embeddings = not problems and holds_embeddings(store)
        if embeddings:
            problems += _check_embeddings(store, deep, weights, bars.update)
        opened = None if problems or embeddings else open_store(store)
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
    said = ", a sample is what the network makes of the images" if embeddings else ", every copy is what its params say"
    say(f"{store}: sound{said if deep else ''} ({seconds} s)")


def _check_embeddings(store: Location, deep: bool, weights: str | None, progress: Progress) -> list[str]:
    """The dataset store of embeddings must be there, and deep down a sample must be what its network makes."""
    from stores.embeddings import open_with_dataset

    opened, dataset = open_with_dataset(store)
    if not deep:
        return []
    from pipeline.check.embeddings import check_sample, load_again

    return check_sample(opened, dataset, load_again(opened.manifest, weights), progress)
