"""`realmix-data plan`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from pipeline.commands.options import Json, SourceOptions, StoreOptions, print_notes
from stores.storage.location import locate
from stores.system.text import say


def plan(
    made: StoreOptions,
    images: SourceOptions,
    sample_from: Annotated[
        Any, typer.Option(metavar="STORE", parser=locate, help="Measure on this store's images instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a build would take: bytes, files, time, memory, measured on a sample. Downloads and writes nothing.

    `realmix-data embed STORE … --dry-run` says what embeddings would take.

    Example: `realmix-data plan imagenet32 --copies 50`
    """
    from pipeline.api import require_copies, require_format, target
    from pipeline.building.plan import make_plan, show
    from pipeline.building.sample import of_request
    from pipeline.commands.progress import Bars
    from pipeline.recipes import load_recipe

    require_copies(made.copies)
    require_format(made.format_)
    place = target(made.root, made.name, images.source, images.path, images.extra)
    with Bars(quiet=as_json) as bars:
        subject = of_request(
            images.source,
            images.path,
            sample_from,
            seed=made.seed,
            cache=images.cache,
            flip=images.flip,
            progress=bars.update,
            **images.for_source(),
        )
        print_notes(subject.notes)
        found = make_plan(
            subject,
            load_recipe(made.recipe, dict(subject.weak), subject.size),
            place,
            copies=made.copies,
            seed=made.seed,
            workers=made.workers,
            copies_format=made.format_,
        )
    say(json.dumps(found.facts())) if as_json else show(found)
