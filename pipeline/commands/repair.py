"""`realmix-data repair`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipeline.commands.options import Json, Quiet, StorePath
from stores.errors import IntegrityError
from stores.system.text import say


def repair(
    store: StorePath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    weights: Annotated[str | None, typer.Option(help="The file of weights that embeddings were made with.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Restore damaged files that follow from the rest: copies, params, metadata, indices of a split, embeddings.

    Exit code 4 if something is lost for good: base images and labels follow from nothing.

    Example: `realmix-data repair stores/cifar10`
    """
    from pipeline.check.repair import AGAIN
    from pipeline.check.repair import repair as repair_store
    from pipeline.commands.progress import Bars

    with Bars(quiet=quiet or as_json) as bars:
        report = repair_store(store, dry_run=dry_run, weights=weights, progress=bars.update)
    seconds = bars.seconds()
    if as_json:
        facts = {"store": str(store), "dry_run": dry_run, "seconds": seconds}
        say(json.dumps({**facts, "restored": report.restored, "lost": report.lost}))
        raise typer.Exit(IntegrityError.exit_code if report.lost else 0)
    for key, how in report.restored.items():
        say(f"{'would restore' if dry_run else 'restored'} {key}: {how}")
    if report.lost:
        listed = [f"  {key}: {why}" for key, why in report.lost.items()]
        more = ["  …"] * (len(listed) > 20)
        raise IntegrityError(
            f"'{store}': {len(listed)} file(s) cannot be restored", "\n".join(listed[:20] + more), AGAIN
        )
    say(f"{store}: {f'{len(report.restored)} file(s) restored' if report.restored else 'sound'} ({seconds} s)")
