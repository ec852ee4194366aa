"""Your own images: a folder with one sub-folder per class, with images of any size, mode and format at any depth.

Classes are the sub-folders in alphabetical order, or the labels of a CSV file (`labels.py`). Files that
`stores.images.walk` skips are ignored; all others must be images. The scan reads every file once, for its header and
SHA-256. Pixels are decoded when they are needed, or at once if they fit in 512 MiB. A broken image is an error that
names the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.sources import classes as class_folders
from pipeline.sources import dark, labels, layout, twins
from pipeline.sources.classes import Classes
from pipeline.sources.image_files import ImageFiles, broken_among, examine
from pipeline.sources.scan import MIXED_SIZES, Scan, broken_images, broken_notes, common_size, scan
from pipeline.sources.source import Images, Part, Source, hold_out, one_in, shift_of
from pipeline.sources.twins import Pictures
from pipeline.splits.mismatch import is_cifar10
from stores.errors import IntegrityError, UsageError
from stores.images import picture, walk
from stores.system import process
from stores.system.text import visible

IN_MEMORY = 512 << 20  # bytes of pixels up to which a part is decoded at once
_LARGE_FILE = 16 << 10  # mean bytes of a file from which threads pay off
_Report = Callable[[str, int, int], None]


def load(
    path: Path,
    test: Path | None,
    unlabeled: Path | None,
    size: int | None,
    progress: _Report | None,
    range_: picture.Range | None = None,
    drop_conflicts: bool = False,
    labels_from: Path | None = None,
    skip_broken: bool = False,
) -> Source:
    """Open a folder of images.

    Args:
        path: folder with one sub-folder per class; with `labels_from` a folder of images at any depth.
        test: folder of test images; None: one sixth of each class is held out, always the same images.
        unlabeled: folder of images without labels.
        size: side in pixels of the square that images are resized to; None: the size that 90 % of them have, else 32,
            and 128 for photographs.
        progress: called with (what, done, total).
        range_: the values that are black and white in images of more than 8 bits.
        drop_conflicts: leave out images in two classes, and training images that are also test images.
        labels_from: CSV file of the images' labels; those without one join the training part without labels.
        skip_broken: leave out files that are no whole images; every file is decoded to find them.

    Raises:
        UsageError: no class folder, only one, an empty one, a file that belongs to no class, a test class that is not
            trained, an image that is both trained and tested on, or a CSV file that cannot be used.
        IntegrityError: files are not images, which is found at once, or do not decode, which may be found later; all
            are named.
    """
    report = progress or (lambda *_: None)
    path, test, unlabeled = path.absolute(), test and test.absolute(), unlabeled and unlabeled.absolute()
    _require_apart(path, test, unlabeled, labels_from is not None)
    found = _look(path, test, unlabeled, labels_from, lambda count: report("find", count, 0))
    names, notes, files, extra = found.names, found.notes, found.files, [*found.rest, *found.extra]
    groups = [("train", path, files), ("unlabeled", path, found.rest), ("unlabeled", unlabeled or path, found.extra)]
    groups.append(("test", test or path, found.test_files))
    scanned, count = scan(groups, report), len(files) + len(extra)
    threads = process.cores() if scanned.mean_bytes >= _LARGE_FILE else 1
    train = Pictures(files + extra, np.append(found.labels, np.full(len(extra), -1)), scanned.digests[:count])
    tested = Pictures(found.test_files, found.test_labels, scanned.digests[count:])
    square = (size, size) if size else None
    decoded = partial(ImageFiles, threads=threads, range_=range_)
    broken = _broken(
        [*train.files, *tested.files], scanned, partial(decoded, shape=square or MIXED_SIZES), report, skip_broken
    )
    notes += broken_notes(list(broken.values()))
    train, tested = train.without(broken), tested.without(broken)
    settled = twins.settle(train, tested, drop_conflicts)
    train, tested = settled.train, settled.test
    roots = [root for root in (path, unlabeled, test) if root is not None]
    shape = square or common_size(scanned.sizes, notes)
    origin: dict[str, Any] = {"kind": "folder", "sha256": scanned.digest, "size": list(shape)}
    reduced = any(picture.is_reduced(size, shape) for size in scanned.jpeg_sizes)
    origin["fit"] = f"crop, lanczos, {2 if reduced else 1}"  # until 0.1.0 large JPEGs were decoded at another scale
    if found.labels_digest:
        origin["labels"] = found.labels_digest
    if range_ is not None:
        origin["range"] = list(range_)
    elif note := dark.note([*train.files, *tested.files]):
        notes.append(note)
    left_out = sorted(map(visible, _below(list(broken), roots)))
    kinds = {"broken": left_out, "left_out": settled.left_out, "kept": settled.kept}
    origin |= {what: files for what, files in kinds.items() if files}
    _require_every_class(path, train, names)
    if test is None:
        train, tested = _hold_out(path, train, len(names), notes)
        origin["held_out"] = "1/6 of each class"
    elif not tested.files:
        raise UsageError(f"no image of the test folder '{test}' is left", "each is broken or in two classes")
    unlabelled = int(np.count_nonzero(train.labels < 0))
    origin |= {"train": len(train.files) - unlabelled, "unlabeled": unlabelled, "test": len(tested.files)}

    lazy = [decoded(part.files, shape=shape) for part in (train, tested)]
    try:
        images = [_images(one, what, report) for one, what in zip(lazy, ("decode", "decode test"), strict=True)]
    except IntegrityError:
        examine(lazy, report)
        raise
    return Source(
        name="folder",
        train=Part(images[0], train.labels, _below(train.files, roots)),
        test=Part(images[1], tested.labels, _below(tested.files, roots)),
        class_names=names,
        weak={"flip": True, "shift": shift_of(*shape)},
        origin=origin,
        protocol="cifar10" if is_cifar10(names) else None,
        notes=(*notes, *settled.notes),
        examine=partial(examine, lazy),
    )


@dataclass
class _Found:
    """The files found.

    Attributes:
        names: of the classes.
        files: labelled ones.
        rest: files of the same folder without labels.
        extra: files of the folder of images without labels.
        notes: about skipped files.
        labels_digest: of a CSV file's labels.
    """

    names: list[str]
    files: list[str]
    labels: np.ndarray
    rest: list[str]
    extra: list[str]
    test_files: list[str]
    test_labels: np.ndarray
    notes: list[str]
    labels_digest: str = ""


def _look(
    path: Path, test: Path | None, unlabeled: Path | None, labels_from: Path | None, report: Callable[[int], None]
) -> _Found:
    rest, digest, notes = list[str](), "", list[str]()
    if labels_from is None:
        classes = class_folders.read(path, test, unlabeled, report)
        notes += layout.doubts(path, classes.names)
    else:
        listed = walk.files_below(path, report)
        if not listed.files:
            raise UsageError(f"'{path}' has no image", walk.told(listed.passed))
        by_file, digest = labels.read(labels_from, path, listed.files)
        names = sorted(set(by_file.values()))
        classes = Classes({name: [] for name in names}, listed.passed, listed.ours)
        for file in listed.files:
            (classes.files[by_file[file]] if file in by_file else rest).append(file)
        notes.append(f"'{labels_from}' labels {len(by_file):,} of {len(listed.files):,} images of '{path}'")
    names = classes.names
    tests = class_folders.read_test(test, report) if test is not None else Classes()
    strange = [name for name in tests.names if name not in names]
    if strange:
        why = f"the classes of '{path}' are {', '.join(names)}"
        raise UsageError(f"the test folder '{test}' has the unknown class '{strange[0]}'", why)
    below = walk.files_below(unlabeled, report) if unlabeled is not None else walk.Below()
    if unlabeled is not None and not below.files:
        raise UsageError(f"'{unlabeled}' has no image")
    told = walk.told(classes.passed + tests.passed + below.passed)
    ours = classes.ours + tests.ours + below.ours
    left_out = ", ".join(f"'{folder}'" for folder in ours[:3]) + ", …" * (len(ours) > 3)
    notes += [told] * bool(told) + [f"left out stores and runs of realmix: {left_out}"] * bool(ours)
    files, test_files = _flatten(classes.files, names), _flatten(tests.files, names)
    return _Found(names, *files, rest, below.files, *test_files, notes, digest)


def _broken(
    files: Sequence[str], scanned: Scan, decoded: Callable[[list[str]], ImageFiles], report: _Report, skip: bool
) -> dict[str, IntegrityError]:
    """The errors of the files that are broken, in order, if they are to be skipped.

    Whoever has one broken file wants to know of all of them, and the scan has only read headers.

    Raises:
        IntegrityError: files are broken, and they are not to be skipped, or no file is left.
    """
    broken = scanned.broken
    if broken or skip:
        broken = broken | broken_among(decoded([file for file in files if file not in broken]), report)
    broken = {file: broken[file] for file in files if file in broken}
    if broken and (not skip or len(broken) == len(files)):
        raise broken_images(list(broken.values()))
    return broken


def _hold_out(path: Path, train: Pictures, num_classes: int, notes: list[str]) -> tuple[Pictures, Pictures]:
    """One sixth of each class as the test part, always the same images, and the rest."""
    once = twins.alone(train.digests)  # images in several classes are tested on only if there are no others
    rows, held = hold_out(train.labels, one_in(train.labels, num_classes, 6), "folder test", once)
    if not len(held):
        raise UsageError(f"'{path}' has no image to spare for a test set", hint="two images a class, or --test")
    train, tested = train[rows], train[held]
    if also := int(np.count_nonzero(np.isin(tested.digests, train.digests))):
        notes.append(f"{also:,} of {len(held):,} held-out images are trained on under another class")
    return train, tested


def _below(files: Sequence[str], roots: Sequence[Path]) -> list[str]:
    """The same files relative to the folder that holds each."""
    starts = sorted((f"{root}/".replace("//", "/") for root in roots), key=len, reverse=True)
    return [file[next(len(start) for start in starts if file.startswith(start)) :] for file in files]


def _images(lazy: ImageFiles, what: str, report: _Report) -> Images:
    count = lazy.shape[0]
    if int(np.prod(lazy.shape)) > IN_MEMORY:
        return lazy
    return lazy.read(np.arange(count), lambda done: report(what, done, count))


def _require_apart(path: Path, test: Path | None, unlabeled: Path | None, at_any_depth: bool) -> None:
    """Raise a UsageError if one of the folders is in another, or the same; beside class folders they may lie."""
    given = [("the labelled images", path), ("--unlabeled", unlabeled), ("--test", test)]
    there = [(what, folder, folder.resolve()) for what, folder in given if folder is not None]
    for (what, folder, real), (other, holder, real_holder) in itertools.permutations(there, 2):
        if not at_any_depth and folder is not path and real.parent == path.resolve() == real_holder:
            continue
        if real_holder in (real, *real.parents):
            tested = "--test" in (what, other)
            where = "is also that of" if real == real_holder else f"lies in '{holder}', that of"
            raise UsageError(
                f"the folder of {what}, '{folder}', {where} {other}",
                "what is tested on would be trained on" if tested else "its images would be taken twice",
                "give folders that lie side by side",
            )


def _require_every_class(path: Path, train: Pictures, names: list[str]) -> None:
    """Raise a UsageError if a class has no image left after duplicates were left out."""
    empty = np.flatnonzero(np.bincount(train.labels[train.labels >= 0], minlength=len(names)) == 0)
    if len(empty):
        why = "each of them is broken, or also in another class or in the test part"
        raise UsageError(f"no image of the class '{names[empty[0]]}' of '{path}' is left", why)


def _flatten(classes: dict[str, list[str]], names: list[str]) -> tuple[list[str], np.ndarray]:
    files = [file for name in names for file in classes.get(name, [])]
    labels = [class_ for class_, name in enumerate(names) for _ in classes.get(name, [])]
    return files, np.asarray(labels, np.int64)
