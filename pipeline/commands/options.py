"""Options and arguments that commands of `realmix-data` share: types, help texts, defaults. Imports nothing heavy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from stores.errors import UsageError
from stores.storage.location import locate


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
        raise UsageError(f"--range {text} is no range", "two numbers, the one for black first", "--range 0,4095")
    return low, high


StorePath = Annotated[
    Any, typer.Argument(metavar="STORE", parser=locate, help="Folder of a store, or s3://bucket/….", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")]
Name = Annotated[str | None, typer.Option(help="Name of the store.", show_default="made from the source or the split")]
SplitSeed = Annotated[int, typer.Option(min=0, help="Seed of the labelled draw; STL-10: its predefined fold.")]
Valid = Annotated[int, typer.Option(min=0, help="Images held out for validation, taken from the unlabelled pool.")]
Labels = Annotated[
    str | None, typer.Option(help="Numbers of labelled images: `250,4000`, or `all`.", show_default="the usual ones")
]
Mismatch = Annotated[
    str | None,
    typer.Option(help="CIFAR-10 class mismatch, % of the unlabelled classes: `0,75`.", show_default="all five"),
]
LabeledClasses = Annotated[
    str | None, typer.Option(help='Train on these classes only, by name: `cat,dog`; with a comma: `"cat, tabby",dog`.')
]
UnlabeledClasses = Annotated[str | None, typer.Option(help="Classes of the unlabelled pool, by name: `dog,truck`.")]
SourceName = Annotated[
    str, typer.Argument(help="digits, cifar10, cifar100, svhn, stl10, folder, arrays or imagenet32.")
]
SourcePath = Annotated[Path | None, typer.Argument(help="The folder or file, for folder, arrays and imagenet32.")]
Copies = Annotated[int, typer.Option(help="Augmented copies of every training image.")]
RecipeName = Annotated[str, typer.Option(help="cutout, erase, simple, color, strong, or an albumentations file.")]
Root = Annotated[str, typer.Option(help="Folder that holds the stores, or s3://bucket/prefix (extra `cloud`).")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the copies and of the images' order.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Parallel workers.", show_default="processors")]
From = Annotated[Path | None, typer.Option("--from", help="Local archive of the dataset, instead of a download.")]
Extra = Annotated[bool, typer.Option("--extra", help="SVHN: add its extra images.")]
Unlabeled = Annotated[Path | None, typer.Option(help="Folder of images without labels (folder).")]
Test = Annotated[Path | None, typer.Option(help="Folder of test images (folder).", show_default="a sixth, held out")]
Size = Annotated[int | None, typer.Option(min=4, help="Side in pixels that images are resized to (folder).")]
Range = Annotated[
    Any,
    typer.Option(
        "--range",
        metavar="LOW,HIGH",
        parser=_range,
        help="Numbers that are black and white in pictures of more than 8 bits (folder).",
        show_default="the range of their type",
    ),
]
MaxPixels = Annotated[
    int | None, typer.Option(min=1, help="Largest picture that is decoded (folder).", show_default="178956970")
]
DropConflicts = Annotated[
    bool, typer.Option("--drop-conflicts", help="Leave out pictures of two classes, or trained and tested on (folder).")
]
Flip = Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirroring keeps the class.")]
Cache = Annotated[Path, typer.Option(help="Where downloads are kept.")]
Format = Annotated[str, typer.Option("--format", help="How copies are kept: zarr, or ffcv (an extra; uncompressed).")]
MOST = 1e30  # a float32 holds it
CACHE = Path("~/.cache/realmix")
