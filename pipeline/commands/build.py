"""`realmix-data build`."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Annotated

import typer

from pipeline.commands.options import Json, Quiet, SourceOptions, SplitOptions, StoreOptions, print_notes
from pipeline.commands.plan import plan
from stores.system.text import say


def build(
    images: SourceOptions,
    splits: SplitOptions,
    made: StoreOptions,
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
    """Make a dataset store with its copies, and its standard split stores. An interrupted build continues.

    Example: `realmix-data build folder photos/labelled --unlabeled photos/rest --test photos/test`
    """
    if dry_run:
        plan(made, images, as_json=as_json)
        return
    from pipeline.api import build as build_store
    from pipeline.building.facts import dataset_facts, held_out, size
    from pipeline.commands.progress import Bars

    with Bars(quiet=quiet or as_json) as bars:
        built = build_store(
            **dataclasses.asdict(images),
            **dataclasses.asdict(made),
            **dataclasses.asdict(splits),
            dask=dask,
            force=force,
            check_space=check_space,
            progress=bars.update,
            notes=print_notes,
        )
    seconds = bars.seconds()
    facts = {**dataset_facts(built.store), "built": built.new, "seconds": seconds}
    facts |= {"splits": [str(split.path) for split in built.splits], "splits_left_out": built.left_out}
    if as_json:
        say(json.dumps(facts))
        return
    copies = built.store.num_images * made.copies
    rate = f"{copies / max(seconds, 0.01):,.0f} copies/s, " if built.new else ""
    say(
        f"{built.store.path}: {'built' if built.new else 'already built'} in {seconds:.1f} s "
        f"({rate}{size(facts['bytes'])}, {facts['bytes_per_copy']:.0f} bytes a copy)"
    )
    named = ", ".join(split.path.name for split in built.splits) or "none"
    counts = ", ".join(f"{len(split.labeled):,}" for split in built.splits)
    say(f"splits: {named}" + (f"; labels in total: {counts}" if counts else ""))
    if said := held_out(built.store, built.splits):
        say(said)
    for why in built.left_out:
        say(f"left out: {why}")
    if built.splits:
        first = built.splits[0]
        method = [] if len(first.unlabeled) else ["--method", "supervised"]
        say(f"next: {shlex.join(['realmix-train', '--store', str(first.path), *method])}")
