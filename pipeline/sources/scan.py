"""Reading every file of a data set once: image sizes, digests, and files that are not images."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stores.errors import IntegrityError, UsageError
from stores.format.fields import LARGEST_SIDE, SMALLEST_SIDE
from stores.images import jpeg, picture

MIXED_SIZES = (32, 32)  # (H, W) for images of different sizes, unless --size says otherwise
PHOTOGRAPH = 256  # pixels of the longer side above which most images are photographs
PHOTOGRAPHS = (128, 128)  # (H, W) for photographs, unless --size says otherwise
NEARLY_ALL = 0.9  # share of images of one size from which the others are resized to it
LARGEST_FILE = 1 << 30  # bytes
LISTED = 50  # broken files in one error
_EVERY_S = 0.1  # seconds between reports of progress


@dataclass
class Scan:
    """What was found in the files.

    Attributes:
        sizes: number of images of each (height, width).
        jpeg_sizes: the (height, width) of JPEGs.
        mean_bytes: mean size of a file.
        digests: S32 [n], SHA-256 of each file.
        digest: SHA-256 (hex) of the part, relative path and content of each file; independent of where the folders are.
        broken: the errors of files that cannot be read or are not images, by file; they count nowhere else.
    """

    sizes: Counter[tuple[int, int]]
    jpeg_sizes: set[tuple[int, int]]
    mean_bytes: float
    digests: np.ndarray
    digest: str
    broken: dict[str, IntegrityError]


def scan(groups: list[tuple[str, Path, list[str]]], report: Callable[[str, int, int], None]) -> Scan:
    """Read every file once.

    Args:
        groups: (part, root folder, files) of each part.
        report: called with (what, files read, total).
    """
    sizes: Counter[tuple[int, int]] = Counter()
    jpeg_sizes: set[tuple[int, int]] = set()
    total, read, broken = hashlib.sha256(), 0, dict[str, IntegrityError]()
    done, count = 0, sum(len(files) for _, _, files in groups)
    digests = np.zeros(count, "S32")
    said = -_EVERY_S
    for part, root, files in groups:
        prefix = len(str(root)) + 1
        for file in files:
            if time.monotonic() - said >= _EVERY_S:
                report("scan", done, count)
                said = time.monotonic()
            try:
                data = _contents(file)
                size = picture.size(data)
                sizes[size] += 1
                jpeg_sizes |= {size} if jpeg.is_jpeg(data) else set()
            except picture.BrokenImage as error:
                broken[file] = picture.broken(file, error)
            except IntegrityError as error:
                broken[file] = error
            else:
                total.update(f"{part}/{file[prefix:]}\0".encode(errors="surrogateescape"))
                digests[done] = digest = hashlib.sha256(data).digest()
                total.update(digest)
                read += len(data)
            done += 1
    report("scan", done, count)
    return Scan(sizes, jpeg_sizes, read / max(1, sizes.total()), digests, total.hexdigest(), broken)


def _contents(file: str) -> bytes:
    """The content of a file; huge files, such as videos or disk images, are refused unread."""
    with contextlib.suppress(OSError):  # `picture.contents` reports what is wrong
        size = os.stat(file).st_size  # noqa: PTH116
        if size > LARGEST_FILE:
            raise picture.BrokenImage(f"it has {size / 2**30:,.1f} GiB")
    return picture.contents(file)


def common_size(sizes: Counter[tuple[int, int]], notes: list[str]) -> tuple[int, int]:
    """The (H, W) to resize all images to.

    Args:
        sizes: number of images of each size.
        notes: gets a note if some images have another size.

    Raises:
        UsageError: the common size is too small or too large for a store.
    """
    (most, count), total = sizes.most_common(1)[0], sizes.total()
    if count < NEARLY_ALL * total:
        what, shape = f"the images have {len(sizes):,} sizes", MIXED_SIZES
        if _median_side(sizes) >= PHOTOGRAPHS[0]:
            what, shape = f"the photographs have {len(sizes):,} sizes", PHOTOGRAPHS
        notes.append(f"{what}: all are brought to {shape[1]}×{shape[0]}; --size says otherwise")
        return shape
    height, width = most
    if max(most) > PHOTOGRAPH and min(most) >= PHOTOGRAPHS[0]:
        shape = PHOTOGRAPHS
        notes.append(
            f"the photographs have {width}×{height} pixels: all are brought to {shape[1]}×{shape[0]}; --size 224 keeps "
            "more of them, --size 32 trains faster"
        )
        return shape
    if min(most) < SMALLEST_SIDE or max(most) > LARGEST_SIDE:
        limits = f"a side has {SMALLEST_SIDE} to {LARGEST_SIDE:,} pixels"
        raise UsageError(f"the images have {width}×{height} pixels", limits, "--size 32 resizes them")
    if count < total:
        what = "1 image of another size is" if total - count == 1 else f"{total - count:,} images of other sizes are"
        notes.append(
            f"{count:,} of {total:,} images have {width}×{height} pixels: {what} brought to it; --size says otherwise"
        )
    return most


def _median_side(sizes: Counter[tuple[int, int]]) -> int:
    """The median of the images' shorter sides."""
    sides, counts = np.array([min(size) for size in sizes]), np.array(list(sizes.values()))
    ascending = np.argsort(sides)
    middle = int(np.searchsorted(np.cumsum(counts[ascending]), counts.sum() / 2))
    return int(sides[ascending][middle])


def broken_images(errors: Sequence[IntegrityError]) -> IntegrityError:
    """One error for all broken files."""
    if len(errors) == 1:
        return IntegrityError(errors[0].what, errors[0].why, f"{errors[0].hint}, or leave it out with --skip-broken")
    lines = [f"  {error.what}: {error.why}" for error in errors[:LISTED]]
    lines += [f"  … and {len(errors) - LISTED:,} more"] * (len(errors) > LISTED)
    hint = "fix or remove them, or leave them out with --skip-broken"
    return IntegrityError(f"{len(errors):,} broken images", "\n".join(lines), hint)


def broken_notes(errors: Sequence[IntegrityError]) -> list[str]:
    """Notes about broken files that were left out."""
    named = [f"left out {error.what}: {error.why}" for error in errors[:LISTED]]
    return [*named, f"left out {len(errors) - LISTED:,} more broken files"] if len(errors) > LISTED else named
