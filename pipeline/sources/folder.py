"""Your own images: a folder with a sub-folder for each class, images of any size, mode and format at any depth in it.

Classes are the sub-folders in alphabetical order; hidden files and notes (.txt, .csv, .json, …) are passed over,
anything else must be an image. The scan reads every file once, for its header and its SHA-256; pixels are decoded when
asked for, or at once if they fit in 512 MiB. A broken image is an error that names the file, never a black square.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mismatch import is_cifar10
from pipeline.sources.source import Images, Part, Source, hold_out, one_in, shift_of
from stores import picture
from stores.errors import UsageError
from stores.threads import thread_pool

MIXED_SIZES = (32, 32)  # (H, W) for images of different sizes, unless --size says otherwise
IN_MEMORY = 512 << 20  # bytes of pixels up to which a part is decoded at once
_LARGE_FILE = 16 << 10  # mean bytes from which decoding outweighs Python: then threads pay
_EVERY = 2048  # images between two reports of progress
_Report = Callable[[str, int, int], None]


def load(path: Path, test: Path | None, unlabeled: Path | None, size: int | None, progress: _Report | None) -> Source:
    """Images resized to size × size; without `size` as they are if all have one size, else 32×32.

    Without a test folder one sixth of each class (CIFAR's share) is held out, always the same images.

    Raises:
        UsageError: no class folders, one class only, an empty class, a file that belongs to no class, a test class that
            is not trained.
        IntegrityError: a file that is no image, at once; an image that does not decode, when it is decoded.
    """
    report = progress or (lambda *_: None)
    path, test, unlabeled = path.absolute(), test and test.absolute(), unlabeled and unlabeled.absolute()
    if test is not None and test.resolve() in (path.resolve(), unlabeled and unlabeled.resolve()):
        raise UsageError(f"the test folder '{test}' is also trained on", "the test error would be a training error")
    classes = _classes(path)
    names = list(classes)
    if len(names) == 1:
        raise UsageError(f"'{path}' has the one class '{names[0]}'", "a classifier needs two or more")
    test_classes = _classes(test) if test is not None else {}
    strange = [name for name in test_classes if name not in classes]
    if strange:
        why = f"the classes of '{path}' are {', '.join(names)}"
        raise UsageError(f"the test folder '{test}' has the unknown class '{strange[0]}'", why)
    files, labels = _flatten(classes, names)
    test_files, test_labels = _flatten(test_classes, names)
    extra = picture.files_below(unlabeled) if unlabeled is not None else []
    if unlabeled is not None and not extra:
        raise UsageError(f"'{unlabeled}' has no image")

    groups = [("train", path, files), ("unlabeled", unlabeled or path, extra), ("test", test or path, test_files)]
    sizes, mean_bytes, digest = _scan(groups, report)
    threads = (os.cpu_count() or 1) if mean_bytes >= _LARGE_FILE else 1
    shape = (size, size) if size else sizes.pop() if len(sizes) == 1 else MIXED_SIZES
    origin: dict[str, Any] = {"kind": "folder", "sha256": digest, "size": list(shape), "fit": "crop, lanczos, 1"}
    if test is None:
        rows, held = hold_out(labels, one_in(labels, len(names), 6), "folder test")
        if not len(held):
            raise UsageError(f"'{path}' has no image to spare for a test set", hint="two images a class, or --test")
        origin["held_out"] = "1/6 of each class"
        test_files, test_labels = [files[row] for row in held], labels[held]
        files, labels = [files[row] for row in rows], labels[rows]
    origin |= {"train": len(files), "unlabeled": len(extra), "test": len(test_files)}
    return Source(
        name="folder",
        train=Part(
            _images(ImageFiles(files + extra, shape, threads), "decode", report),
            np.append(labels, np.full(len(extra), -1)),
        ),
        test=Part(_images(ImageFiles(test_files, shape, threads), "decode test", report), test_labels),
        class_names=names,
        weak={"flip": True, "shift": shift_of(*shape)},
        origin=origin,
        protocol="cifar10" if is_cifar10(names) else None,
    )


class ImageFiles:
    """Image files as uint8 [N, H, W, 3], decoded when `images[rows]` asks for them, by several threads if large."""

    def __init__(self, files: Sequence[str], shape: tuple[int, int], threads: int) -> None:
        self.files, self.threads = list(files), threads
        self.shape = (len(files), *shape, 3)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        if self.threads == 1 or len(rows) < 2:
            self._decode(rows, out)
            return out
        blocks = np.array_split(np.arange(len(rows)), min(len(rows), 4 * self.threads))
        with thread_pool(self.threads) as pool:
            for _ in pool.map(lambda block: self._decode(rows[block], out[block[0] : block[-1] + 1]), blocks):
                pass  # the first error, in the order of the rows, is raised here
        return out

    def _decode(self, rows: np.ndarray, out: np.ndarray) -> None:
        height, width = self.shape[1:3]
        for slot, row in zip(out, rows, strict=True):
            slot[:] = picture.load(self.files[row], (height, width))


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


def _classes(root: Path) -> dict[str, list[str]]:
    """The images of each class, sorted; classes in alphabetical order."""
    if not root.is_dir():
        raise UsageError(f"'{root}' is no folder", hint="give a folder with a sub-folder for each class")
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if not entry.is_dir() and not entry.name.lower().endswith(picture.NOTES)]
    if not folders:
        what = f"'{root}' has images but no class folders" if loose else f"'{root}' has no class folders"
        hint = "put each image into a folder named like its class; images without label go with --unlabeled"
        raise UsageError(what, "the sub-folders are the classes", hint)
    if loose:
        raise UsageError(f"'{loose[0]}' belongs to no class", "it lies beside the class folders", "move it")
    classes = {folder.name: picture.files_below(folder) for folder in folders}
    for name, files in classes.items():
        if not files:
            raise UsageError(f"the class folder '{root / name}' has no image", hint="fill it or remove it")
    return classes


def _flatten(classes: dict[str, list[str]], names: list[str]) -> tuple[list[str], np.ndarray]:
    files = [file for name in names for file in classes.get(name, [])]
    labels = [class_ for class_, name in enumerate(names) for _ in classes.get(name, [])]
    return files, np.asarray(labels, np.int64)


def _scan(groups: list[tuple[str, Path, list[str]]], report: _Report) -> tuple[set[tuple[int, int]], float, str]:
    """Read every file of every (part, root, files) once.

    Returns:
        The (height, width) that occur, the mean bytes of a file, and a SHA-256 over each file's part, path below its
        root, and content: the same wherever the folders lie.
    """
    sizes, total, read = set(), hashlib.sha256(), 0
    done, count = 0, sum(len(files) for _, _, files in groups)
    for part, root, files in groups:
        prefix = len(str(root)) + 1
        for file in files:
            data = picture.contents(file)
            try:
                sizes.add(picture.size(data))
            except picture.BrokenImage as error:
                raise picture.broken(file, error) from error
            total.update(f"{part}/{file[prefix:]}\0".encode(errors="surrogateescape"))
            total.update(hashlib.sha256(data).digest())
            done, read = done + 1, read + len(data)
            if done % _EVERY == 0 or done == count:
                report("scan", done, count)
    return sizes, read / count, total.hexdigest()
