"""Images and labels as arrays in one .npz file, read without pickle.

Keys: `images` and `labels` (one sixth of each class is held out as the test set), or `x_train`, `y_train`, `x_test` and
`y_test`; optionally `class_names`: text, UTF-8 bytes or integers. Images are uint8, NHWC or grey NHW. Labels are
integers 0 … C−1, or −1 for no label in training.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.sources import twins
from pipeline.sources.digits import in_colour
from pipeline.sources.source import Part, Source, hold_out, one_in, shift_of
from pipeline.splits.mismatch import is_cifar10
from stores.errors import IntegrityError, ResourceError, UsageError, suggest

_WHOLE = ("images", "labels")
_PARTS = ("x_train", "y_train", "x_test", "y_test")


def load(path: Path) -> Source:
    """Open an .npz file, whose arrays are held in memory.

    Raises:
        UsageError: not an .npz, a missing key, a wrong shape or dtype, or a class without images.
        IntegrityError: a truncated or damaged file.
        ResourceError: the arrays do not fit in memory.
    """
    arrays = _read(path)
    if all(key in arrays for key in _PARTS):
        train = _part(path, arrays, "x_train", "y_train")
        test = _part(path, arrays, "x_test", "y_test", most=len(train[1]))
    elif all(key in arrays for key in _WHOLE):
        train, test = _part(path, arrays, *_WHOLE), None
    else:
        hint = f"save it with the keys {' and '.join(_WHOLE)}, or {', '.join(_PARTS)}"
        raise UsageError(f"'{path}' lacks images and labels", f"its keys: {', '.join(arrays) or 'none'}", hint)

    names = _class_names(path, arrays, train[1])
    origin: dict[str, Any] = {"kind": "arrays"}
    if test is None:
        images, labels = train
        alone = twins.alone(twins.digests_of(images))
        if not alone.all():
            origin["held_out"] = "images that occur once before others"
        rows, held = hold_out(labels, one_in(labels, len(names), 6), "arrays test", alone)
        train, test = (images[rows], labels[rows]), (images[held], labels[held])
    _check_parts(path, train, test, len(names))
    height, width = train[0].shape[1:3]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return Source(
        name="arrays",
        train=Part(*train),
        test=Part(*test),
        class_names=names,
        weak={"flip": True, "shift": shift_of(height, width)},
        origin={**origin, "sha256": digest.hexdigest(), "train": len(train[1]), "test": len(test[1])},
        protocol="cifar10" if is_cifar10(names) else None,
        notes=tuple(twins.told(twins.digests_of(train[0]), train[1], twins.digests_of(test[0]))),
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise UsageError(f"'{path}' is no .npz file", hint="write it with numpy.savez(FILE, images=…, labels=…)")
    known = (*_WHOLE, *_PARTS, "class_names")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(member.file_size for member in packed.infolist())
        if unpacked > memory:
            raise MemoryError(f"they take {unpacked / 1e9:,.1f} GB, the machine has {memory / 1e9:,.1f} GB")
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            unknown = [key for key in file.files if key not in known]
            if unknown:
                raise UsageError(f"'{path}' has an unknown key '{unknown[0]}'", hint=suggest(unknown[0], known))
            arrays = {key: file[key] for key in file.files}
    except MemoryError as error:
        raise ResourceError(f"the arrays of '{path}' do not fit in memory", str(error)) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise IntegrityError(f"'{path}' is damaged", str(error), "write or fetch it again") from error
    except ValueError as error:  # an array of objects would need pickle, which can run code
        raise UsageError(f"'{path}' holds something else than plain arrays", str(error)) from error
    strange = [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:
        raise UsageError(f"'{strange[0]}' of '{path}' is no array", hint="write the file with numpy.savez")
    return arrays


def _part(
    path: Path, arrays: dict[str, np.ndarray], x: str, y: str, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Check a part and return its images uint8 [N, H, W, 3] and labels int64 [N] (below `most`, by default N)."""
    images, labels = arrays[x], arrays[y]
    if images.dtype != np.uint8:
        raise UsageError(f"'{x}' of '{path}' is {images.dtype}", "pixels must be uint8, 0–255")
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim == 3:
        images = in_colour(images)
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        planar = images.ndim == 4 and images.shape[1] in (1, 3)
        hint = "move the channels last: x.transpose(0, 2, 3, 1)" if planar else ""
        why = "it must be [N, H, W, 3] or [N, H, W]"
        raise UsageError(f"'{x}' of '{path}' has the shape {list(arrays[x].shape)}", why, hint)
    if labels.dtype.kind not in "iu" or labels.size != len(images) or labels.ndim not in (1, 2):
        why = f"it must be integers [{len(images)}], one for each image of '{x}'"
        raise UsageError(f"'{y}' of '{path}' is {labels.dtype} {list(labels.shape)}", why)
    if labels.min() < -1:
        raise UsageError(f"'{y}' of '{path}' has the label {labels.min()}", "classes count from 0; −1 is no label")
    if labels.max() >= (most or len(images)):
        why = f"{most or len(images)} training images have at most as many classes, counted from 0"
        unsigned = "−1, no label, was kept as an unsigned number: save signed ones" if labels.dtype.kind == "u" else ""
        raise UsageError(f"'{y}' of '{path}' has the label {labels.max()}", why, unsigned)
    return images, labels.reshape(-1).astype(np.int64)


def _class_names(path: Path, arrays: dict[str, np.ndarray], labels: np.ndarray) -> list[str]:
    if "class_names" in arrays:
        given = arrays["class_names"].reshape(-1)
        if given.dtype.kind not in "USiu":
            raise UsageError(f"'class_names' of '{path}' is {given.dtype}", "it must be text, UTF-8 bytes or integers")
        try:
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in given.tolist()]
        except UnicodeDecodeError as error:
            raise UsageError(f"'class_names' of '{path}' is not UTF-8", str(error), "save it as text") from error
        if not all(name.strip() for name in names):
            raise UsageError(f"'class_names' of '{path}' has an empty name")
        if len(set(names)) != len(names):
            raise UsageError(f"'class_names' of '{path}' names a class twice")
    else:
        names = [str(class_) for class_ in range(int(labels.max()) + 1)]
    if len(names) < 2:
        raise UsageError(f"'{path}' has {len(names)} class", "a classifier needs two or more")
    return names


def _check_parts(
    path: Path, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], num_classes: int
) -> None:
    for labels in (train[1], test[1]):
        if labels.max(initial=-1) >= num_classes:
            raise UsageError(f"'{path}' has the label {labels.max()}", f"it has {num_classes} classes, counted from 0")
    empty = np.flatnonzero(np.bincount(train[1][train[1] >= 0], minlength=num_classes) == 0)
    if len(empty):
        raise UsageError(f"class {empty[0]} of '{path}' has no training image", "classes count from 0 without a gap")
    if not len(test[1]):
        raise UsageError(f"'{path}' has no image to spare for a test set", hint="add x_test and y_test")
    if test[1].min() < 0:
        raise UsageError(f"'{path}' has a test image without label", "−1 is for training images")
    if train[0].shape[1:] != test[0].shape[1:]:
        why = f"{train[0].shape[1:]} and {test[0].shape[1:]}"
        raise UsageError(f"the training and the test images of '{path}' differ in size", why)
