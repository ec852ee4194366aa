"""Your own images: a folder with a sub-folder for each class, images of any size, mode and format at any depth in it.

Classes are the sub-folders in alphabetical order. What `stores.images.walk` passes over does not belong to the set;
everything else must be an image. The scan reads every file once, for its header and its SHA-256; pixels are decoded
when asked for, or at once if they fit in 512 MiB. A broken image is an error that names the file, never a black
square.
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
_LARGE_FILE = 16 << 10  # mean bytes from which decoding outweighs Python: then threads pay
_EVERY = 2048  # images between two reports of progress
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
    """Images resized to size × size; without `size` to the size that nine of ten have at least, else to 32×32.

    Without a test folder one sixth of each class (CIFAR's share) is held out, always the same images.

    Args:
        drop_conflicts: leave out what lies under two classes, and of the training part what is also in the test folder.

    Raises:
        UsageError: no class folders, one class only, an empty class, a file that belongs to no class, a test class that
            is not trained, a picture that is trained on and tested on.
        IntegrityError: files that are no images, at once; images that do not decode, when they are decoded. All are
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
    origin["fit"] = "crop, lanczos, 1"
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
        once = twins.alone(train.digests)  # one that is under another class as well is tested on if no other is there
        rows, held = hold_out(train.labels, one_in(train.labels, len(names), 6), "folder test", once)
        if not len(held):
            raise UsageError(f"'{path}' has no image to spare for a test set", hint="two images a class, or --test")
        origin["held_out"] = "1/6 of each class"
        train, tested = train[rows], train[held]
        if also := int(np.count_nonzero(np.isin(tested.digests, train.digests))):
            notes.append(f"{also:,} of {len(held):,} held-out images are trained on under another class")
    elif not tested.files:
        raise UsageError(f"no image of the test folder '{test}' is left", "each lies under two of its classes")
    unlabelled = int(np.count_nonzero(train.labels < 0))
    origin |= {"train": len(train.files) - unlabelled, "unlabeled": unlabelled, "test": len(tested.files)}

    threads = (os.cpu_count() or 1) if scanned.mean_bytes >= _LARGE_FILE else 1
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
    """What lies in the folders: class names; files and labels of each part; notes of what was passed over."""

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
    """Image files as uint8 [N, H, W, 3], decoded when `images[rows]` asks for them, by several threads if large.

    Attributes:
        broken: row → what is wrong with the file, of those that were asked for.
        seen: bool [N], which those are.
    """

    def __init__(
        self, files: Sequence[str], shape: tuple[int, int], threads: int, range_: picture.Range | None
    ) -> None:
        self.files, self.threads, self.range = list(files), threads, range_
        self.shape = (len(files), *shape, 3)
        self.broken: dict[int, IntegrityError] = {}
        self.seen = np.zeros(len(files), bool)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Raises IntegrityError: some are broken; names them."""
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        if self.threads == 1 or len(rows) < 2:
            self._decode(rows, out)
        else:
            blocks = np.array_split(np.arange(len(rows)), min(len(rows), 4 * self.threads))
            with thread_pool(self.threads) as pool:
                for _ in pool.map(lambda block: self._decode(rows[block], out[block[0] : block[-1] + 1]), blocks):
                    pass
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
    out = np.empty(lazy.shape, np.uint8)
    for start in range(0, count, _EVERY):
        stop = min(start + _EVERY, count)
        out[start:stop] = lazy[np.arange(start, stop)]
        report(what, stop, count)
    return out


def _examine(parts: Sequence[ImageFiles], report: _Report) -> None:
    """If an image turned out to be broken, decode what nobody asked for yet, to name every broken one at once.

    Raises:
        IntegrityError: there are some.
    """
    if not any(images.broken for images in parts):
        return
    left = [(images, row) for images in parts for row in np.flatnonzero(~images.seen).tolist()]
    block = max(1, min(_EVERY, (64 << 20) // int(np.prod(parts[0].shape[1:]))))
    for start in range(0, len(left), block):
        report("look for others", start, len(left))
        for images in parts:
            rows = np.array([row for of, row in left[start : start + block] if of is images], np.int64)
            with contextlib.suppress(IntegrityError):  # kept in `broken`
                images[rows]
    raise broken_images([images.broken[row] for images in parts for row in sorted(images.broken)])


def _require_apart(path: Path, test: Path | None, unlabeled: Path | None) -> None:
    """Raises UsageError if one of the folders lies in another, or is the same."""
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
    """Raises UsageError if leaving twins out left a class without an image."""
    empty = np.flatnonzero(np.bincount(train.labels[train.labels >= 0], minlength=len(names)) == 0)
    if len(empty):
        why = "each of them lies under another class or in the test part as well"
        raise UsageError(f"no image of the class '{names[empty[0]]}' of '{path}' is left", why)


def _flatten(classes: dict[str, list[str]], names: list[str]) -> tuple[list[str], np.ndarray]:
    files = [file for name in names for file in classes.get(name, [])]
    labels = [class_ for class_, name in enumerate(names) for _ in classes.get(name, [])]
    return files, np.asarray(labels, np.int64)
