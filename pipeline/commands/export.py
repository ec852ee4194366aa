"""`realmix-data export`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipeline.api import require_format
from pipeline.commands.options import Json, Quiet, StorePath, open_dataset, print_notes
from stores.errors import UsageError
from stores.system.text import say


def export(
    store: StorePath,
    format_: Annotated[str, typer.Option("--format", help="ffcv (extra `ffcv`).")] = "ffcv",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add the images and copies as FFCV's `.beton` files, beside the arrays, for training code that reads those.

    Example: `realmix-data export stores/cifar10 --format ffcv`
    """
    if require_format(format_) == "zarr":
        raise UsageError("every store is a zarr group: there is nothing to export", hint="--format ffcv")
    from pipeline.building.export_ffcv import export as export_store
    from pipeline.building.facts import size as size_text
    from pipeline.commands.progress import Bars
    from stores.ffcv.beton import betons

    dataset = open_dataset(store)
    whole = sum(beton.bytes for beton in betons(dataset.num_images, dataset.num_copies, dataset.image_size))
    held = sum(facts["bytes"] for facts in dataset.manifest["files"].values())
    print_notes([f"FFCV's files hold every copy as it is: {size_text(whole)} beside the store's {size_text(held)}"])
    with Bars(quiet=quiet or as_json) as bars:
        new = export_store(dataset, bars.update)
    seconds = bars.seconds()
    files = open_dataset(store).manifest["files"]
    sizes = {str(dataset.path / key): facts["bytes"] for key, facts in files.items() if key.endswith(".beton")}
    if as_json:
        say(json.dumps({"store": str(dataset.path), "exported": new, "seconds": seconds, "bytes": sizes}))
        return
    for file, size in sizes.items():
        say(f"{file}: {size_text(size)}")
    say(f"{'exported' if new else 'already exported and sound'} ({seconds} s)")
