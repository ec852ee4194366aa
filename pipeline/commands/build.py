"""`realmix-data build`."""

from __future__ import annotations

import json
import shlex
from typing import Annotated

import typer

from pipeline.commands.options import Json, Quiet, SourceOptions, SplitOptions, StoreOptions, print_notes
from pipeline.commands.plan import plan
from stores.system.text import say


def build(
    made: StoreOptions,
    splits: SplitOptions,
    images: SourceOptions,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler whose workers make the copies.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a store of another specification.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what `plan` prints; write nothing.")] = False,
    check_space: Annotated[
        bool, typer.Option("--space-check/--no-space-check", help="Refuse to begin what will not fit on the disk.")
    ] = True,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a dataset store with its copies, and its standard split stores. An interrupted build continues."""
    if dry_run:
        plan(made, images, as_json=as_json)
        return
    target = made.target(images)
    if made.format_ == "ffcv":
        from stores.ffcv.beton import require_ffcv

        require_ffcv()  # before a download
    from pipeline.build.build import build as build_store
    from pipeline.build.facts import dataset_facts, size
    from pipeline.commands.progress import Bars
    from pipeline.recipes import load_recipe
    from pipeline.sources import load
    from pipeline.splits.split_stores import requests_for, write_all, write_standard

    seed, valid = splits.split_seed, splits.valid
    requests = requests_for(
        splits.labels, splits.mismatch, splits.labeled_classes, splits.unlabeled_classes, seed, valid
    )
    with Bars(quiet=quiet or as_json) as bars:
        data = load(
            images.source,
            images.path,
            cache=images.cache,
            flip=images.flip,
            progress=bars.update,
            **images.for_source(),
        )
        print_notes(data.notes)
        height, width = data.train.images.shape[1:3]
        store, new = build_store(
            target,
            data,
            load_recipe(made.recipe, dict(data.weak), (height, width)),
            copies=made.copies,
            seed=made.seed,
            workers=made.workers,
            dask=dask,
            force=force,
            copies_format=made.format_,
            check_space=check_space,
            progress=bars.update,
        )
    written, left_out = (write_all(store, requests), []) if requests else write_standard(store, seed, valid)
    seconds = bars.seconds()
    facts = {**dataset_facts(store), "built": new, "seconds": seconds}
    facts |= {"splits": [str(path) for path in written], "splits_left_out": left_out}
    if as_json:
        say(json.dumps(facts))
        return
    rate = f"{store.num_images * made.copies / max(seconds, 0.01):,.0f} copies/s, " if new else ""
    say(
        f"{target}: {'built' if new else 'already built'} in {seconds:.1f} s ({rate}{size(facts['bytes'])}, "
        f"{facts['bytes_per_copy']:.0f} bytes a copy)"
    )
    say(f"splits: {', '.join(path.name for path in written) or 'none'}")
    for why in left_out:
        say(f"left out: {why}")
    if written:
        say(f"next: {shlex.join(['realmix-train', '--store', str(written[0])])}")
