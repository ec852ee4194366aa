"""Where the images come from: one module a family, one `Source` out of each.

`load("cifar10")` downloads (checksummed, into a cache), `load("folder", path)` reads a folder, and so on. Nothing heavy
is imported before a source of its family is asked for, and what a source gives depends on nothing but its data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from pipeline.sources.source import Images, Part, Source
from stores.errors import UsageError, suggest
from stores.format.fields import LARGEST_SIDE, SMALLEST_SIDE

__all__ = ["CACHE", "NAMES", "Images", "Part", "Source", "load"]

NAMES = ("digits", "cifar10", "cifar100", "svhn", "stl10", "folder", "arrays", "imagenet32")
CACHE = Path("~/.cache/realmix")
_DOWNLOADED = ("cifar10", "cifar100", "svhn", "stl10")
_LOCAL = ("folder", "arrays", "imagenet32")


def load(
    name: str,
    path: Path | None = None,
    *,
    from_: Path | None = None,
    cache: Path = CACHE,
    extra: bool = False,
    size: int | None = None,
    unlabeled: Path | None = None,
    test: Path | None = None,
    range_: tuple[float, float] | None = None,
    max_pixels: int | None = None,
    flip: bool | None = None,
    drop_conflicts: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Source:
    """Open a source.

    Args:
        name: one of `NAMES`.
        path: the folder or file of `folder`, `arrays`, `imagenet32`.
        from_: cifar10, cifar100, svhn, stl10: a local copy of the archive, the folder that holds it, or the folder
            where it was unpacked; then nothing is downloaded.
        cache: where downloads and unpacked archives stay.
        extra: svhn: add the 531,131 images of the extra split to the training part.
        size: folder: side of the square that every image is resized to.
        unlabeled: folder: another folder, any depth, whose images join the training part without label.
        test: folder: the test images, a sub-folder per class.
        range_: folder: the numbers that are black and white in pictures of more than 8 bits.
        max_pixels: folder: the largest picture that is decoded; it holds for the whole process.
        flip: overrides whether the weak augmentation flips.
        drop_conflicts: folder: leave out what lies under two classes, and what is trained on and tested on.
        progress: called with (what is being done, done, total; 0 = unknown).

    Raises:
        UsageError: unknown name, an option that the source does not take, a folder or file that is not as it should be.
        StoreError: a download failed.
        IntegrityError: a wrong checksum, a broken image, a truncated file.
        ResourceError: no room for the scratch file of imagenet32.
    """
    check(name, path, from_, extra, size, unlabeled, test, range_, max_pixels, drop_conflicts)
    if path is None and name in _LOCAL:
        raise UsageError(f"'{name}' needs a PATH", hint=f"{name} PATH")
    try:
        source = _open(
            name,
            path or Path(),
            from_,
            cache,
            extra,
            size,
            unlabeled,
            test,
            range_,
            max_pixels,
            drop_conflicts,
            progress,
        )
    except ModuleNotFoundError as missing:
        why = f"the Python package '{missing.name}' is not installed"
        raise UsageError(f"source '{name}' cannot be read", why, "pip install 'realmix[data]'") from missing
    _require_text(source.class_names)
    _check_sides(*source.train.images.shape[1:3])
    return source if flip is None else dataclasses.replace(source, weak=source.weak | {"flip": flip})


def cache_folder(cache: Path) -> Path:
    """The folder that `cache` names, "~" for the user's home.

    Raises:
        UsageError: the user has no home, as in a container that was given any number for a user.
    """
    try:
        return cache.expanduser()
    except RuntimeError as error:
        why = "HOME is not set, and the system does not know this user"
        raise UsageError(
            f"there is no home for '{cache}'", why, "--cache FOLDER says where downloads are kept"
        ) from error


def check(
    name: str,
    path: Path | None,
    from_: Path | None = None,
    extra: bool = False,
    size: int | None = None,
    unlabeled: Path | None = None,
    test: Path | None = None,
    range_: tuple[float, float] | None = None,
    max_pixels: int | None = None,
    drop_conflicts: bool = False,
) -> None:
    """Raises UsageError for an unknown name, an option that the source does not take, and a file that is not there."""
    if name not in NAMES:
        own = f"for your own images: folder {name}" if Path(name).exists() else suggest(name, NAMES)
        raise UsageError(f"unknown source '{name}'", hint=own)
    _refuse(name, path is not None, "a PATH", _LOCAL, "give a local archive with --from" if name in _DOWNLOADED else "")
    _refuse(name, from_ is not None, "--from", _DOWNLOADED, f"give it as PATH: {name} PATH" if name in _LOCAL else "")
    _refuse(name, extra, "--extra", ("svhn",))
    _refuse(name, drop_conflicts, "--drop-conflicts", ("folder",))
    for option, value in (
        ("--size", size),
        ("--unlabeled", unlabeled),
        ("--test", test),
        ("--range", range_),
        ("--max-pixels", max_pixels),
    ):
        _refuse(name, value is not None, option, ("folder",))
    if size is not None and size < SMALLEST_SIDE:
        raise UsageError(f"--size {size} is too small", hint=f"{SMALLEST_SIDE} pixels at least")
    for given in (path, from_, unlabeled, test):
        if given is not None and not given.exists():
            raise UsageError(f"'{given}' does not exist")


def _check_sides(height: int, width: int) -> None:
    """Of a smaller image the networks' strides leave one pixel, and no shift fits; a larger one no store may hold."""
    if min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_SIDE:
        why = f"a side must have {SMALLEST_SIDE} to {LARGEST_SIDE:,} pixels"
        raise UsageError(f"the images are {height}×{width} pixels", why, "a folder's are resized with --size")


def _open(
    name: str,
    path: Path,
    from_: Path | None,
    cache: Path,
    extra: bool,
    size: int | None,
    unlabeled: Path | None,
    test: Path | None,
    range_: tuple[float, float] | None,
    max_pixels: int | None,
    drop_conflicts: bool,
    progress: Callable[[str, int, int], None] | None,
) -> Source:
    match name:
        case "digits":
            from pipeline.sources import digits

            return digits.load()
        case "folder":
            from pipeline.sources import folder
            from stores.images import picture

            if max_pixels is not None:
                picture.allow(max_pixels)
            return folder.load(path, test, unlabeled, size, progress, range_, drop_conflicts)
        case "arrays":
            from pipeline.sources import arrays

            return arrays.load(path)
        case "imagenet32":
            from pipeline.sources import imagenet32

            return imagenet32.load(path, cache_folder(cache), progress)
        case _:
            from pipeline.sources import downloads

            return downloads.load(name, from_, cache_folder(cache), extra)


def _require_text(class_names: list[str]) -> None:
    """Raises UsageError for a class name that no store can hold."""
    for name in class_names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UsageError(f"the class name {name!a} is no text", "it holds half of a surrogate pair") from None


def _refuse(name: str, given: bool, option: str, takers: tuple[str, ...], hint: str = "") -> None:
    if given and name not in takers:
        what = f"source '{name}' takes no {option.removeprefix('a ')}"
        raise UsageError(what, f"{option} is for: {', '.join(takers)}", hint)
