"""Where the images come from: one module per family of sources, each of which returns a `Source`.

`load("cifar10")` downloads (with checksums, into a cache), `load("folder", path)` reads a folder, and so on. A family's
libraries are imported when it is first used. What a source returns depends on nothing but its data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, Unpack

from pipeline.sources.source import Images, Part, Source
from stores.errors import UsageError, install, suggest
from stores.format.fields import LARGEST_SIDE, SMALLEST_SIDE

__all__ = ["CACHE", "NAMES", "Images", "Options", "Part", "Source", "load"]

NAMES = ("digits", "cifar10", "cifar100", "svhn", "stl10", "folder", "arrays", "imagenet32")
CACHE = Path("~/.cache/realmix")
_DOWNLOADED = ("cifar10", "cifar100", "svhn", "stl10")
_LOCAL = ("folder", "arrays", "imagenet32")
Progress = Callable[[str, int, int], None]  # (what, done, of)


class Options(TypedDict, total=False):
    """What a source may be asked for; most options are for one family of sources.

    Attributes:
        from_: cifar10, cifar100, svhn, stl10: a local copy of the archive, the folder that holds it, or the folder
            it was unpacked into; then nothing is downloaded.
        extra: svhn: add the 531,131 images of the extra split to the training part.
        size: folder: side in pixels of the square that every image is resized to.
        unlabeled: folder: another folder whose images, at any depth, join the training part without labels.
        test: folder: the test images, one sub-folder per class.
        range_: folder: the values that are black and white in images of more than 8 bits.
        max_pixels: folder: pixels of the largest image that is decoded; applies to the whole process.
        drop_conflicts: folder: leave out images of two classes, and training images that are test images too.
        labels_from: folder: CSV file with the columns file and label, instead of class folders.
        skip_broken: folder: leave out files that are no whole images, and name them in the store's manifest.
    """

    from_: Path | None
    extra: bool
    size: int | None
    unlabeled: Path | None
    test: Path | None
    range_: tuple[float, float] | None
    max_pixels: int | None
    drop_conflicts: bool
    labels_from: Path | None
    skip_broken: bool


def load(
    name: str,
    path: Path | None = None,
    *,
    cache: Path = CACHE,
    flip: bool | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Source:
    """Open a source.

    Args:
        name: one of `NAMES`.
        path: the folder or file of `folder`, `arrays`, `imagenet32`.
        cache: where downloads and unpacked archives are kept.
        flip: overrides whether the weak augmentation flips.
        progress: called with (what is being done, done, total); a total of 0 is unknown.
        options: see `Options`.

    Raises:
        UsageError: unknown name, an option that the source does not take, or an unusable folder or file.
        StoreError: a download failed.
        IntegrityError: a wrong checksum, a broken image, a truncated file.
        ResourceError: no room for the scratch file of imagenet32.
    """
    check(name, path, **options)
    if path is None and name in _LOCAL:
        raise UsageError(f"'{name}' needs a PATH", hint=f"{name} PATH")
    try:
        source = _open(name, path or Path(), cache, progress, options)
    except ModuleNotFoundError as missing:
        why = f"the Python package '{missing.name}' is not installed"
        raise UsageError(f"source '{name}' cannot be read", why, install("data")) from missing
    _require_text(source.class_names)
    _check_sides(*source.train.images.shape[1:3])
    return source if flip is None else dataclasses.replace(source, weak=source.weak | {"flip": flip})


def cache_folder(cache: Path) -> Path:
    """The folder that `cache` names; "~" is the user's home.

    Raises:
        UsageError: the user has no home, as in a container that runs under an arbitrary user number.
    """
    try:
        return cache.expanduser()
    except RuntimeError as error:
        why = "HOME is not set, and the system does not know this user"
        raise UsageError(
            f"there is no home for '{cache}'", why, "--cache FOLDER says where downloads are kept"
        ) from error


def check(name: str, path: Path | None, **options: Unpack[Options]) -> None:
    """Check a request before anything is read.

    Args:
        name: of the source.
        path: its folder or file, if it has one.
        options: see `Options`.

    Raises:
        UsageError: unknown name, an option that the source does not take, or a file that does not exist.
    """
    if name not in NAMES:
        own = f"for your own images: folder {name}" if Path(name).exists() else suggest(name, NAMES)
        raise UsageError(f"unknown source '{name}'", hint=own)
    from_, size = options.get("from_"), options.get("size")
    _refuse(name, path is not None, "a PATH", _LOCAL, "give a local archive with --from" if name in _DOWNLOADED else "")
    _refuse(name, from_ is not None, "--from", _DOWNLOADED, f"give it as PATH: {name} PATH" if name in _LOCAL else "")
    _refuse(name, options.get("extra", False), "--extra", ("svhn",))
    for option in ("drop_conflicts", "skip_broken", "size", "unlabeled", "test", "range_", "max_pixels", "labels_from"):
        given = options.get(option) not in (None, False)
        _refuse(name, given, f"--{option.rstrip('_').replace('_', '-')}", ("folder",))
    if size is not None and size < SMALLEST_SIDE:
        raise UsageError(f"--size {size} is too small", hint=f"{SMALLEST_SIDE} pixels at least")
    for given_path in (path, from_, options.get("unlabeled"), options.get("test"), options.get("labels_from")):
        if given_path is not None and not given_path.exists():
            raise UsageError(f"'{given_path}' does not exist")


def _check_sides(height: int, width: int) -> None:
    """Refuse images too small for a network's strides and a shift, or too large for a store."""
    if min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_SIDE:
        why = f"a side must have {SMALLEST_SIDE} to {LARGEST_SIDE:,} pixels"
        raise UsageError(f"the images are {height}×{width} pixels", why, "a folder's are resized with --size")


def _open(name: str, path: Path, cache: Path, progress: Progress | None, options: Options) -> Source:
    match name:
        case "digits":
            from pipeline.sources import digits

            return digits.load()
        case "folder":
            from pipeline.sources import folder
            from stores.images import picture

            if (most := options.get("max_pixels")) is not None:
                picture.allow(most)
            return folder.load(
                path,
                options.get("test"),
                options.get("unlabeled"),
                options.get("size"),
                progress,
                options.get("range_"),
                options.get("drop_conflicts", False),
                options.get("labels_from"),
                options.get("skip_broken", False),
            )
        case "arrays":
            from pipeline.sources import arrays

            return arrays.load(path)
        case "imagenet32":
            from pipeline.sources import imagenet32

            return imagenet32.load(path, cache_folder(cache), progress)
        case _:
            from pipeline.sources import downloads

            return downloads.load(name, options.get("from_"), cache_folder(cache), options.get("extra", False))


def _require_text(class_names: list[str]) -> None:
    """Raise a UsageError for a class name that a store cannot hold."""
    for name in class_names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UsageError(f"the class name {name!a} is not text", "it holds half of a surrogate pair") from None


def _refuse(name: str, given: bool, option: str, takers: tuple[str, ...], hint: str = "") -> None:
    if given and name not in takers:
        what = f"source '{name}' takes no {option.removeprefix('a ')}"
        raise UsageError(what, f"{option} is for: {', '.join(takers)}", hint)
