"""Options that several commands share, in groups: each group is a dataclass, and `grouped` turns it into options.

Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from pipeline.api import CACHE, require_copies, require_format, target
from stores.errors import UsageError
from stores.storage.location import Location, locate
from stores.system.command_line import describe, starting, stores_here
from stores.system.text import say

if TYPE_CHECKING:
    from pipeline.sources import Options
    from stores import DatasetStore

SOURCES = ("digits", "cifar10", "cifar100", "svhn", "stl10", "folder", "arrays", "imagenet32")
RECIPES = ("cutout", "erase", "simple", "color", "strong")
MOST = 1e30  # a float32 holds it


def _range(text: str) -> tuple[float, float]:
    """LOW,HIGH of --range.

    Raises:
        UsageError: not two finite numbers, the smaller one first.
    """
    try:
        low, high = (float(number) for number in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not -MOST < low < high < MOST:
        raise UsageError(f"--range {text} is not a range", "two numbers, the one for black first", "--range 0,4095")
    return low, high


StorePath = Annotated[
    Any,
    typer.Argument(
        metavar="STORE",
        parser=locate,
        help="Folder of a store, or s3://bucket/….",
        show_default=False,
        autocompletion=stores_here,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Name = Annotated[str | None, typer.Option(help="Name of the store.", show_default="made from the source or the split")]
Workers = Annotated[int | None, typer.Option(min=1, help="Parallel workers.", show_default="processors")]


@dataclass
class SourceOptions:
    """Which images."""

    source: Annotated[
        str,
        typer.Argument(
            help="digits, cifar10, cifar100, svhn, stl10, folder, arrays or imagenet32.",
            autocompletion=starting(SOURCES),
        ),
    ]
    path: Annotated[Path | None, typer.Argument(help="The folder or file, for folder, arrays and imagenet32.")] = None
    from_: Annotated[
        Path | None, typer.Option("--from", help="Local archive of the dataset, instead of a download.")
    ] = None
    extra: Annotated[bool, typer.Option("--extra", help="SVHN: add its extra images.")] = False
    unlabeled: Annotated[Path | None, typer.Option(help="Folder of images without labels (folder).")] = None
    test: Annotated[
        Path | None, typer.Option(help="Folder of test images (folder).", show_default="a sixth, held out")
    ] = None
    labels_from: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="CSV with columns file and label, instead of class folders (folder)."),
    ] = None
    size: Annotated[int | None, typer.Option(min=4, help="Side in pixels that images are resized to (folder).")] = None
    range_: Annotated[
        Any,
        typer.Option(
            "--range",
            metavar="LOW,HIGH",
            parser=_range,
            help="Values that are black and white in images of more than 8 bits (folder).",
            show_default="the range of their type",
        ),
    ] = None
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Largest image that is decoded (folder).", show_default="178956970")
    ] = None
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirroring keeps the class.")] = None
    drop_conflicts: Annotated[
        bool,
        typer.Option("--drop-conflicts", help="Leave out images of two classes, or trained and tested on (folder)."),
    ] = False
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out files that are no whole images (folder).")
    ] = False
    cache: Annotated[Path, typer.Option(help="Where downloads are kept.")] = CACHE

    def for_source(self) -> Options:
        """The options of `pipeline.sources.load` that are for some families of sources only."""
        return {
            "from_": self.from_,
            "extra": self.extra,
            "size": self.size,
            "unlabeled": self.unlabeled,
            "test": self.test,
            "range_": self.range_,
            "max_pixels": self.max_pixels,
            "drop_conflicts": self.drop_conflicts,
            "skip_broken": self.skip_broken,
            "labels_from": self.labels_from,
        }


@dataclass
class StoreOptions:
    """Which copies, and where the store goes."""

    copies: Annotated[int, typer.Option(help="Augmented copies of every training image.")] = 50
    recipe: Annotated[
        str,
        typer.Option(
            help="cutout, erase, simple, color, strong, or an albumentations file.", autocompletion=starting(RECIPES)
        ),
    ] = "cutout"
    root: Annotated[str, typer.Option(help="Folder that holds the stores, or s3://bucket/prefix (extra `cloud`).")] = (
        "stores"
    )
    name: Name = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of the copies and of the images' order.")] = 1
    workers: Workers = None
    format_: Annotated[
        str, typer.Option("--format", help="How copies are kept: zarr, or ffcv (an extra; uncompressed).")
    ] = "zarr"

    def target(self, images: SourceOptions) -> Location:
        """Where the store goes: under its name, or one made from the source.

        Raises:
            UsageError: the number of copies, the format or the name cannot be.
        """
        require_copies(self.copies)
        require_format(self.format_)
        return target(self.root, self.name, images.source, images.path, images.extra)


@dataclass
class SplitOptions:
    """Which images are labelled."""

    labels: Annotated[
        str | None,
        typer.Option(help="Labelled images: `250,4000` in total, `4/class`, or `all`.", show_default="the usual ones"),
    ] = None
    mismatch: Annotated[
        str | None,
        typer.Option(help="CIFAR-10 class mismatch, % of the unlabelled classes: `0,75`.", show_default="all five"),
    ] = None
    labeled_classes: Annotated[
        str | None,
        typer.Option(help='Train on these classes only, by name: `cat,dog`; with a comma: `"cat, tabby",dog`.'),
    ] = None
    unlabeled_classes: Annotated[
        str | None, typer.Option(help="Classes of the unlabelled pool, by name: `dog,truck`.")
    ] = None
    split_seed: Annotated[int, typer.Option(min=0, help="Seed of the labelled draw; STL-10: its predefined fold.")] = 1
    valid: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Images held out for validation.",
            show_default="of own images a tenth, where each class has 20 labels",
        ),
    ] = None
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Open-set protocol, the pool with foreign images: openmatch, iomatch, oliver or fixed-known; "
            "its papers' classes and numbers of labels unless you name yours."
        ),
    ] = None
    shares: Annotated[
        str | None,
        typer.Option(
            help="fixed-known: shares of the foreign images in the pool: `0,0.5`.", show_default="seven of them"
        ),
    ] = None


MORE = ("dask", "force", "check_space")
COMMON = ("unlabeled", "test", "labels_from", "size", "copies", "labels", "name")
PANELS = {"SourceOptions": "More about the images", "StoreOptions": "More about the store", "SplitOptions": "Splits"}


def grouped(command: Callable[..., object]) -> Callable[..., object]:
    """The same command with a parameter for each field of those of its parameters that are groups of options.

    In its help each group has a panel, but for the options that everybody needs.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}

    def flat() -> Iterator[inspect.Parameter]:
        for name, parameter in inspect.signature(command).parameters.items():
            if name not in groups:
                describe(name, hints[name], PANELS["StoreOptions"] if name in MORE else None)
                yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
                continue
            types = get_type_hints(groups[name], include_extras=True)
            for field in dataclasses.fields(groups[name]):
                panel = None if field.name in (*COMMON, "source", "path") else PANELS[groups[name].__name__]
                describe(field.name, types[field.name], panel)
                default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
                yield inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[field.name]
                )

    @functools.wraps(command)
    def called(**given: Any) -> object:
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in dataclasses.fields(kind)})
            for name, kind in groups.items()
        }
        return command(**made, **given)

    parameters = list(flat())
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del called.__wrapped__
    return called


def open_dataset(path: Location) -> DatasetStore:
    """The dataset store at `path`, or the one that the split store there points to."""
    from stores import DatasetStore, open_store

    opened = open_store(path)
    return opened if isinstance(opened, DatasetStore) else opened.dataset


def print_notes(notes: Sequence[str]) -> None:
    """Print on standard error what happened to the images; --quiet and --json do not hide it."""
    for note in notes:
        say(f"note: {note}", error=True)
