"""Your own images: a folder with one sub-folder per class, with images of any size, mode and format at any depth.

Classes are the sub-folders in alphabetical order. Files that `stores.images.walk` skips are ignored; all others must be
images. The scan reads every file once, for its header and SHA-256. Pixels are decoded when they are needed, or at once
if they fit in 512 MiB. A broken image is an error that names the file.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.sources import classes as class_folders
from pipeline.sources import dark, twins
from pipeline.sources.classes import Classes
from pipeline.sources.scan import broken_images, common_size, scan
from pipeline.sources.source import Images, Part, Source, hold_out, one_in, shift_of
from pipeline.sources.twins import Pictures
from pipeline.splits.mismatch import is_cifar10
from stores.errors import IntegrityError, UsageError
from stores.images import picture, walk
from stores.system.threads import thread_pool

IN_MEMORY = 512 << 20  # bytes of pixels up to which a part is decoded at once
_LARGE_FILE = 16 << 10  # mean bytes of a file from which threads pay off
_EVERY, _EVERY_LARGE = 256, 16  # images that a thread decodes between reports of progress
_TOGETHER = 2048  # images decoded in one call after one was broken
_Report = Callable[[str, int, int], None]


def load(
    path: Path,
    test: Path | None,
    unlabeled: Path | None,
    size: int | None,
    progress: _Report | None,
    range_: picture.Range | None = None,
    drop_conflicts: bool = False,
) -> Source:
    """Open a folder of images.

    Args:
        path: folder with one sub-folder per class.
        test: folder of test images; None: one sixth of each class is held out, always the same images.
        unlabeled: folder of images without labels.
        size: side in pixels of the square that images are resized to; None: the size that 90 % of them have, else 32.
        progress: called with (what, done, total).
        range_: the values that are black and white in images of more than 8 bits.
        drop_conflicts: leave out images in two classes, and training images that are also test images.

    Raises:
        UsageError: no class folder, only one, an empty one, a file that belongs to no class, a test class that is not
            trained, or an image that is both trained and tested on.
        IntegrityError: files are not images, which is found at once, or do not decode, which is found later; all are
            named.
    """
    report = progress or (lambda *_: None)
    path, test, unlabeled = path.absolute(), test and test.absolute(), unlabeled and unlabeled.absolute()
    _require_apart(path, test, unlabeled)
    found = _look(path, test, unlabeled, lambda count: report("find", count, 0))
    names, notes, files, extra = found.names, found.notes, found.files, found.extra
    groups = [("train", path, files), ("unlabeled", unlabeled or path, extra), ("test", test or path, found.test_files)]
    scanned, count = scan(groups, report), len(files) + len(extra)
    settled = twins.settle(
        Pictures(files + extra, np.append(found.labels, np.full(len(extra), -1)), scanned.digests[:count]),
        Pictures(found.test_files, found.test_labels, scanned.digests[count:]),
        drop_conflicts,
    )
    train, tested = settled.train, settled.test
    shape = (size, size) if size else common_size(scanned.sizes, notes)
    origin: dict[str, Any] = {"kind": "folder", "sha256": scanned.digest, "size": list(shape)}
    reduced = any(picture.is_reduced(size, shape) for size in scanned.jpeg_sizes)
    origin["fit"] = f"crop, lanczos, {2 if reduced else 1}"  # until 0.1.0 large JPEGs were decoded at another scale
    if range_ is not None:
        origin["range"] = list(range_)
    elif note := dark.note([*train.files, *tested.files]):
        notes.append(note)
    if settled.left_out:
        origin["left_out"] = settled.left_out
    if settled.kept:
        origin["kept"] = settled.kept
    _require_every_class(path, train, names)
    if test is None:
        once = twins.alone(train.digests)  # images in several classes are tested on only if there are no others
        rows, held = hold_out(train.labels, one_in(train.labels, len(names), 6), "folder test", once)
        if not len(held):
            raise UsageError(f"'{path}' has no image to spare for a test set", hint="two images a class, or --test")
        origin["held_out"] = "1/6 of each class"
        train, tested = train[rows], train[held]
        if also := int(np.count_nonzero(np.isin(tested.digests, train.digests))):
            notes.append(f"{also:,} of {len(held):,} held-out images are trained on under another class")
    elif not tested.files:
        raise UsageError(f"no image of the test folder '{test}' is left", "each is in two classes")
    unlabelled = int(np.count_nonzero(train.labels < 0))
    origin |= {"train": len(train.files) - unlabelled, "unlabeled": unlabelled, "test": len(tested.files)}

    threads = len(os.sched_getaffinity(0)) if scanned.mean_bytes >= _LARGE_FILE else 1
    lazy = [ImageFiles(part.files, shape, threads, range_) for part in (train, tested)]

    def examine(report: _Report) -> None:
        _examine(lazy, report)

    try:
        images = [_images(one, what, report) for one, what in zip(lazy, ("decode", "decode test"), strict=True)]
    except IntegrityError:
        examine(report)
        raise
    return Source(
        name="folder",
        train=Part(images[0], train.labels),
        test=Part(images[1], tested.labels),
        class_names=names,
        weak={"flip": True, "shift": shift_of(*shape)},
        origin=origin,
        protocol="cifar10" if is_cifar10(names) else None,
        notes=(*notes, *settled.notes),
        examine=examine,
    )


@dataclass
class _Found:
    """The files found: class names, files and labels of each part, and notes about skipped files."""

    names: list[str]
    files: list[str]
    labels: np.ndarray
    extra: list[str]
    test_files: list[str]
    test_labels: np.ndarray
    notes: list[str]


def _look(path: Path, test: Path | None, unlabeled: Path | None, report: Callable[[int], None]) -> _Found:
    classes = class_folders.read(path, test, unlabeled, report)
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
    listed = ", ".join(f"'{folder}'" for folder in ours[:3]) + ", …" * (len(ours) > 3)
    notes = [told] * bool(told) + [f"left out stores and runs of realmix: {listed}"] * bool(ours)
    return _Found(names, *_flatten(classes.files, names), below.files, *_flatten(tests.files, names), notes)


class ImageFiles:
    """Image files as uint8 [N, H, W, 3], decoded by `images[rows]`, in several threads if they are large.

    Attributes:
        broken: errors of the files decoded so far, by row.
        seen: bool [N], which files have been decoded.
    """

    def __init__(
        self, files: Sequence[str], shape: tuple[int, int], threads: int, range_: picture.Range | None
    ) -> None:
        self.files, self.threads, self.range = list(files), threads, range_
        self.shape = (len(files), *shape, 3)
        self.broken: dict[int, IntegrityError] = {}
        self.seen = np.zeros(len(files), bool)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        return self.read(np.asarray(rows, np.int64))

    def read(self, rows: np.ndarray, report: Callable[[int], None] = lambda _: None) -> np.ndarray:
        """Decode rows.

        Args:
            rows: int64 [n].
            report: called with the number of images decoded so far.

        Returns:
            uint8 [n, H, W, 3].

        Raises:
            IntegrityError: images are broken; all of them are named.
        """
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        every = _EVERY if self.threads == 1 else _EVERY_LARGE
        blocks = [slice(start, start + every) for start in range(0, len(rows), every)]

        def decode(block: slice) -> int:
            self._decode(rows[block], out[block])
            return min(block.stop, len(rows))

        if self.threads == 1 or len(blocks) < 2:
            for done in map(decode, blocks):
                report(done)
        else:
            with thread_pool(self.threads) as pool:
                for done in pool.map(decode, blocks):
                    report(done)
        broken = [self.broken[row] for row in rows.tolist() if row in self.broken]
        if broken:
            raise broken_images(broken)
        return out

    def _decode(self, rows: np.ndarray, out: np.ndarray) -> None:
        height, width = self.shape[1:3]
        for slot, row in zip(out, rows.tolist(), strict=True):
            try:
                slot[:] = picture.load(self.files[row], (height, width), self.range)
            except IntegrityError as error:
                self.broken[row] = error
            self.seen[row] = True


def _images(lazy: ImageFiles, what: str, report: _Report) -> Images:
    count = lazy.shape[0]
    if int(np.prod(lazy.shape)) > IN_MEMORY:
        return lazy
    return lazy.read(np.arange(count), lambda done: report(what, done, count))


def _examine(parts: Sequence[ImageFiles], report: _Report) -> None:
    """If an image is broken, decode all others too, so that one error names every broken one.

    Raises:
        IntegrityError: an image is broken.
    """
    if not any(images.broken for images in parts):
        return
    left = [(images, row) for images in parts for row in np.flatnonzero(~images.seen).tolist()]
    block = max(1, min(_TOGETHER, (64 << 20) // int(np.prod(parts[0].shape[1:]))))
    for start in range(0, len(left), block):
        report("look for others", start, len(left))
        for images in parts:
            rows = np.array([row for of, row in left[start : start + block] if of is images], np.int64)
            with contextlib.suppress(IntegrityError):  # kept in `broken`
                images[rows]
    raise broken_images([images.broken[row] for images in parts for row in sorted(images.broken)])


def _require_apart(path: Path, test: Path | None, unlabeled: Path | None) -> None:
    """Raise a UsageError if one of the folders is in another, or the same."""
    given = [("the labelled images", path), ("--unlabeled", unlabeled), ("--test", test)]
    there = [(what, folder, folder.resolve()) for what, folder in given if folder is not None]
    for (what, folder, real), (other, holder, real_holder) in itertools.permutations(there, 2):
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
        why = "each of them is also in another class or in the test part"
        raise UsageError(f"no image of the class '{names[empty[0]]}' of '{path}' is left", why)


def _flatten(classes: dict[str, list[str]], names: list[str]) -> tuple[list[str], np.ndarray]:
    files = [file for name in names for file in classes.get(name, [])]
    labels = [class_ for class_, name in enumerate(names) for _ in classes.get(name, [])]
    return files, np.asarray(labels, np.int64)
