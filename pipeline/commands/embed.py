"""`realmix-data embed`."""

from __future__ import annotations

import json
import shlex
from typing import Annotated

import typer

from pipeline.commands.options import Json, Quiet, StorePath, open_dataset
from stores.system.text import say


def embed(
    store: StorePath,
    backbone: Annotated[str, typer.Option(help="timm:NAME or torchvision:NAME (extra `backbones`).")],
    weights: Annotated[str, typer.Option(help="pretrained, none (random), or a .safetensors or .pth file.")] = (
        "pretrained"
    ),
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Side in pixels of the network's input.", show_default="the weights'"),
    ] = None,
    copies: Annotated[
        int | None,
        typer.Option(min=0, help="Stored copies of each image to embed.", show_default="8, or as many as there are"),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Also embed copies by this recipe, without storing them: strong, …")
    ] = None,
    recipe_copies: Annotated[
        int | None, typer.Option(min=1, help="How many of those.", show_default="as --copies")
    ] = None,
    weak: Annotated[
        bool, typer.Option("--weak/--no-weak", help="Mirror and shift every copy, as training does with pixels.")
    ] = True,
    name: Annotated[
        str | None, typer.Option(help="Name of the embeddings.", show_default="the network's, and the size")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch: Annotated[
        int | None, typer.Option(min=1, help="Pictures of one forward pass.", show_default="64; 256 on a GPU")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler whose workers embed, on their own --device.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace embeddings of another specification.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take, measured on a few batches; write nothing.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Embed the images and copies of a store with a frozen network, for training in seconds. It can be interrupted.

    Example: `realmix-data embed stores/mine --backbone timm:resnet18 --size 96`
    """
    from pipeline.building.facts import embedding_facts
    from pipeline.building.facts import size as size_text
    from pipeline.commands.progress import Bars
    from pipeline.embedding.estimate import estimate, show
    from pipeline.embedding.job import Request, name_of, prepare
    from pipeline.embedding.job import embed as embed_store
    from stores.embeddings import location

    dataset = open_dataset(store)
    request = Request(backbone, weights, size, copies, recipe, recipe_copies, weak, device, batch, name)
    if dry_run:
        frozen, content = prepare(dataset, request)
        found = estimate(dataset, frozen, content, location(dataset, name_of(request, frozen)))
        say(json.dumps(found.facts())) if as_json else show(found)
        return
    with Bars(quiet=quiet or as_json) as bars:
        made, new = embed_store(dataset, request, dask=dask, force=force, progress=bars.update)
    seconds = bars.seconds()
    facts = {**embedding_facts(made), "embedded": new, "seconds": seconds}
    if as_json:
        say(json.dumps(facts))
        return
    rate = f"{facts['embeddings'] / max(seconds, 0.01):,.0f} a second, " if new else ""
    say(
        f"{made.path}: {facts['embeddings']:,} embeddings {'made' if new else 'already there'} in {seconds:.1f} s "
        f"({rate}{size_text(facts['bytes'])})"
    )
    if made.num_copies:
        say(f"next: {shlex.join(['realmix-train', 'compare', str(dataset.path), '--embeddings', made.name])}")
