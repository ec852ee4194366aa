"""`realmix-data`: build, plan, split, info, verify, repair, export, preview.

Only words and tables here: every command hands over to the module that does the work, imported when the command runs,
so that `--help` answers at once.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.options import (
    CACHE,
    Cache,
    Copies,
    DropConflicts,
    Extra,
    Flip,
    Format,
    From,
    Json,
    LabeledClasses,
    Labels,
    MaxPixels,
    Mismatch,
    Name,
    Range,
    RecipeName,
    Root,
    Seed,
    Size,
    SourceName,
    SourcePath,
    SplitSeed,
    StorePath,
    Test,
    Unlabeled,
    UnlabeledClasses,
    Valid,
    Workers,
)
from stores import __version__
from stores.errors import UsageError, run
from stores.storage.location import Location, locate
from stores.system.text import say

if TYPE_CHECKING:
    from stores import DatasetStore

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Build stores of augmented copies once; train from them with `realmix-train` as often as you like.",
    epilog="Example: `realmix-data build cifar10 --copies 50`, then `realmix-train --store stores/cifar10_250`",
)


def _version(asked: bool) -> None:
    if asked:
        say(f"realmix {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of `realmix-data`."""
    run(app)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ["REALMIX_DEBUG"] = "1"


@app.command()
def build(
    source: SourceName,
    path: SourcePath = None,
    copies: Copies = 50,
    recipe: RecipeName = "cutout",
    root: Root = "stores",
    name: Name = None,
    seed: Seed = 1,
    workers: Workers = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler whose workers make the copies.")
    ] = None,
    labels: Labels = None,
    mismatch: Mismatch = None,
    labeled_classes: LabeledClasses = None,
    unlabeled_classes: UnlabeledClasses = None,
    split_seed: SplitSeed = 1,
    valid: Valid = 0,
    from_: From = None,
    extra: Extra = False,
    unlabeled: Unlabeled = None,
    test: Test = None,
    size: Size = None,
    range_: Range = None,
    max_pixels: MaxPixels = None,
    flip: Flip = None,
    drop_conflicts: DropConflicts = False,
    cache: Cache = CACHE,
    format_: Format = "zarr",
    force: Annotated[bool, typer.Option("--force", help="Replace a store of another specification.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what `plan` prints; write nothing.")] = False,
    check_space: Annotated[
        bool, typer.Option("--space-check/--no-space-check", help="Refuse to begin what will not fit on the disk.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Json = False,
) -> None:
    """Make a dataset store with its copies, and its standard split stores. An interrupted build continues."""
    if dry_run:
        return plan(
            source,
            path,
            copies,
            recipe,
            root,
            name,
            seed,
            workers,
            from_,
            extra,
            unlabeled,
            test,
            size,
            range_,
            max_pixels,
            flip,
            drop_conflicts,
            cache,
            format_,
            as_json=as_json,
        )
    from pipeline.api import build as build_store
    from pipeline.build.facts import dataset_facts
    from pipeline.build.facts import size as size_text
    from pipeline.commands.progress import Bars

    began = time.monotonic()
    with Bars(quiet=quiet or as_json) as bars:
        built = build_store(
            source,
            path,
            copies=copies,
            recipe=recipe,
            root=root,
            name=name,
            seed=seed,
            workers=workers,
            dask=dask,
            labels=labels,
            mismatch=mismatch,
            labeled_classes=labeled_classes,
            unlabeled_classes=unlabeled_classes,
            split_seed=split_seed,
            valid=valid,
            from_=from_,
            extra=extra,
            unlabeled=unlabeled,
            test=test,
            size=size,
            range_=range_,
            max_pixels=max_pixels,
            flip=flip,
            drop_conflicts=drop_conflicts,
            cache=cache,
            format_=format_,
            force=force,
            check_space=check_space,
            progress=bars.update,
            notes=_tell,
        )
    seconds = time.monotonic() - began
    facts = {
        **dataset_facts(built.store),
        "built": built.new,
        "seconds": round(seconds, 2),
        "splits": [str(split.path) for split in built.splits],
        "splits_left_out": built.left_out,
    }
    if as_json:
        say(json.dumps(facts))
        return
    total = built.store.num_images * copies
    rate = f"{total / seconds:,.0f} copies/s, " if built.new else ""
    say(
        f"{built.store.path}: {'built' if built.new else 'already built'} in {seconds:.1f} s "
        f"({rate}{size_text(facts['bytes'])}, {facts['bytes_per_copy']:.0f} bytes a copy)"
    )
    say(f"splits: {', '.join(split.path.name for split in built.splits) or 'none'}")
    for why in built.left_out:
        say(f"left out: {why}")
    if built.splits:
        say(f"next: {shlex.join(['realmix-train', '--store', str(built.splits[0].path)])}")


@app.command()
def plan(
    source: SourceName,
    path: SourcePath = None,
    copies: Copies = 50,
    recipe: RecipeName = "cutout",
    root: Root = "stores",
    name: Name = None,
    seed: Seed = 1,
    workers: Workers = None,
    from_: From = None,
    extra: Extra = False,
    unlabeled: Unlabeled = None,
    test: Test = None,
    size: Size = None,
    range_: Range = None,
    max_pixels: MaxPixels = None,
    flip: Flip = None,
    drop_conflicts: DropConflicts = False,
    cache: Cache = CACHE,
    format_: Format = "zarr",
    sample_from: Annotated[
        Any, typer.Option(metavar="STORE", parser=locate, help="Measure on this store's images instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a build would take: bytes, files, time, memory, measured on a sample. Downloads and writes nothing."""
    from pipeline.api import known_format, require_copies, target

    require_copies(copies)
    place = target(root, name, source, path, extra)
    from pipeline.build.plan import make_plan, show
    from pipeline.build.sample import of_request
    from pipeline.commands.progress import Bars
    from pipeline.recipes import load_recipe

    with Bars(quiet=as_json) as bars:
        subject = of_request(
            source,
            path,
            sample_from,
            seed=seed,
            from_=from_,
            cache=cache,
            extra=extra,
            flip=flip,
            size=size,
            unlabeled=unlabeled,
            test=test,
            range_=range_,
            max_pixels=max_pixels,
            drop_conflicts=drop_conflicts,
            progress=bars.update,
        )
        _tell(subject.notes)
        made = load_recipe(recipe, dict(subject.weak), subject.size)
        found = make_plan(
            subject, made, place, copies=copies, seed=seed, workers=workers, copies_format=known_format(format_)
        )
    say(json.dumps(found.facts())) if as_json else show(found)


@app.command()
def split(
    store: StorePath,
    labels: Labels = None,
    mismatch: Mismatch = None,
    labeled_classes: LabeledClasses = None,
    unlabeled_classes: UnlabeledClasses = None,
    split_seed: SplitSeed = 1,
    valid: Valid = 0,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Add split stores to a dataset store: index arrays, no pixels."""
    from pipeline.api import split as add_splits

    made = add_splits(
        store,
        labels=labels,
        mismatch=mismatch,
        labeled_classes=labeled_classes,
        unlabeled_classes=unlabeled_classes,
        split_seed=split_seed,
        valid=valid,
        name=name,
    )
    if as_json:
        return say(json.dumps([str(split.path) for split in made]))
    for split in made:
        say(split.path)


@app.command()
def info(store: StorePath, as_json: Json = False) -> None:
    """What a store holds."""
    from pipeline.build.facts import dataset_facts, show, split_facts
    from stores import DatasetStore, open_store

    opened = open_store(store)
    facts = dataset_facts(opened) if isinstance(opened, DatasetStore) else split_facts(opened)
    if as_json:
        say(json.dumps(facts))
        return
    show(facts)


@app.command()
def verify(
    store: StorePath,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also derive every copy again from its image and params.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Json = False,
) -> None:
    """Check every file of a store against its checksum. Exit code 4 if any is damaged or missing."""
    from pipeline.check.deep_verify import check_copies
    from pipeline.commands.progress import Bars
    from stores import SplitStore, open_store
    from stores.errors import IntegrityError
    from stores.verify import verify as check_files

    began = time.monotonic()
    with Bars(quiet=quiet or as_json) as bars:
        problems = [str(p) for p in check_files(store, lambda done, of: bars.update("checksums, bytes", done, of))]
        opened = None if problems else open_store(store)
        if isinstance(opened, SplitStore):
            problems += [f"{opened.dataset.name}/{p}" for p in check_files(opened.dataset.path)]
            opened = opened.dataset
        if deep and opened is not None and not problems:
            problems += check_copies(opened, bars.update)
    seconds = round(time.monotonic() - began, 2)
    if as_json:
        say(json.dumps({"store": str(store), "deep": deep, "seconds": seconds, "problems": problems}))
        raise typer.Exit(IntegrityError.exit_code if problems else 0)
    if problems:
        raise IntegrityError(
            f"'{store}': {len(problems)} damaged or missing",
            "\n".join(f"  {p}" for p in problems[:20]),
            f"`realmix-data repair {store}` puts back what follows from base images and recipe",
        )
    say(f"{store}: sound{', every copy is what its params say' if deep else ''} ({seconds} s)")


@app.command()
def repair(
    store: StorePath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Json = False,
) -> None:
    """Put back damaged and missing files that follow from the rest: copies, params, metadata, the indices of a split.

    Exit code 4 if something is lost for good: base images and labels follow from nothing.
    """
    from pipeline.check.repair import AGAIN
    from pipeline.check.repair import repair as repair_store
    from pipeline.commands.progress import Bars
    from stores.errors import IntegrityError

    began = time.monotonic()
    with Bars(quiet=quiet or as_json) as bars:
        report = repair_store(store, dry_run=dry_run, progress=bars.update)
    seconds = round(time.monotonic() - began, 2)
    if as_json:
        facts = {"store": str(store), "dry_run": dry_run, "seconds": seconds}
        say(json.dumps({**facts, "restored": report.restored, "lost": report.lost}))
        raise typer.Exit(IntegrityError.exit_code if report.lost else 0)
    for key, how in report.restored.items():
        say(f"{'would restore' if dry_run else 'restored'} {key}: {how}")
    if report.lost:
        listed = [f"  {key}: {why}" for key, why in report.lost.items()]
        raise IntegrityError(
            f"'{store}': {len(listed)} file(s) cannot be restored",
            "\n".join(listed[:20] + ["  …"] * (len(listed) > 20)),
            AGAIN,
        )
    say(f"{store}: {f'{len(report.restored)} file(s) restored' if report.restored else 'sound'} ({seconds} s)")


@app.command()
def export(
    store: StorePath,
    format_: Annotated[str, typer.Option("--format", help="ffcv (extra `ffcv`).")] = "ffcv",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Json = False,
) -> None:
    """Add the images and copies as FFCV's `.beton` files, beside the arrays, for training code that reads those."""
    from pipeline.api import known_format

    if known_format(format_) == "zarr":
        raise UsageError("every store is a zarr group: there is nothing to export", hint="--format ffcv")
    from pipeline.build.export_ffcv import export as export_store
    from pipeline.build.facts import size as size_text
    from pipeline.commands.progress import Bars

    began = time.monotonic()
    dataset = _open_dataset(store)
    with Bars(quiet=quiet or as_json) as bars:
        new = export_store(dataset, bars.update)
    seconds = round(time.monotonic() - began, 2)
    files = _open_dataset(store).manifest["files"]
    sizes = {str(dataset.path / key): facts["bytes"] for key, facts in files.items() if key.endswith(".beton")}
    if as_json:
        say(json.dumps({"store": str(dataset.path), "exported": new, "seconds": seconds, "bytes": sizes}))
        return
    for file, size in sizes.items():
        say(f"{file}: {size_text(size)}")
    say(f"{'exported' if new else 'already exported and sound'} ({seconds} s)")


@app.command()
def preview(
    store: StorePath,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")] = Path("preview.png"),
    rows: Annotated[int, typer.Option(min=1, max=200, help="Images shown.")] = 8,
    copies: Annotated[int, typer.Option(min=1, max=200, help="Copies shown of each.")] = 12,
) -> None:
    """Draw a contact sheet: images and their copies, erased boxes outlined."""
    from pipeline.commands.preview import contact_sheet

    contact_sheet(_open_dataset(store), output, rows=rows, copies=copies)
    say(output)


def _open_dataset(path: Location) -> DatasetStore:
    """The dataset store at `path`, or the one that the split store there points to."""
    from stores import DatasetStore, open_store

    opened = open_store(path)
    return opened if isinstance(opened, DatasetStore) else opened.dataset


def _tell(notes: Sequence[str]) -> None:
    """On standard error, whatever else is said: what happened to the data is no progress."""
    for note in notes:
        say(f"note: {note}", error=True)
