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
NEARLY_ALL = 0.9  # share of images of one size from which the others are resized to it
LARGEST_FILE = 1 << 30  # bytes
LISTED = 8  # broken files in one error
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
    """

    sizes: Counter[tuple[int, int]]
    jpeg_sizes: set[tuple[int, int]]
    mean_bytes: float
    digests: np.ndarray
    digest: str


def scan(groups: list[tuple[str, Path, list[str]]], report: Callable[[str, int, int], None]) -> Scan:
    """Read every file once.

    Args:
        groups: (part, root folder, files) of each part.
        report: called with (what, files read, total).

    Raises:
        IntegrityError: files cannot be read or are not images; all are named.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    jpeg_sizes: set[tuple[int, int]] = set()
    total, read, broken = hashlib.sha256(), 0, []
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
                broken.append(picture.broken(file, error))
            except IntegrityError as error:
                broken.append(error)
            else:
                total.update(f"{part}/{file[prefix:]}\0".encode(errors="surrogateescape"))
                digests[done] = digest = hashlib.sha256(data).digest()
                total.update(digest)
                read += len(data)
            done += 1
    report("scan", done, count)
    if broken:
        raise broken_images(broken)
    return Scan(sizes, jpeg_sizes, read / count, digests, total.hexdigest())


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
        height, width = MIXED_SIZES
        notes.append(
            f"the images have {len(sizes):,} sizes: all are brought to {width}×{height}; --size says otherwise"
        )
        return MIXED_SIZES
    height, width = most
    if min(most) < SMALLEST_SIDE or max(most) > LARGEST_SIDE:
        limits = f"a side has {SMALLEST_SIDE} to {LARGEST_SIDE:,} pixels"
        raise UsageError(f"the images have {width}×{height} pixels", limits, "--size 32 resizes them")
    if count < total:
        what = "1 image of another size is" if total - count == 1 else f"{total - count:,} images of other sizes are"
        notes.append(
            f"{count:,} of {total:,} images have {width}×{height} pixels: {what} brought to it; --size says otherwise"
        )
    return most


def broken_images(errors: Sequence[IntegrityError]) -> IntegrityError:
    """One error for all broken files."""
    if len(errors) == 1:
        return errors[0]
    lines = [f"  {error.what}: {error.why}" for error in errors[:LISTED]]
    lines += [f"  … and {len(errors) - LISTED:,} more"] * (len(errors) > LISTED)
    return IntegrityError(f"{len(errors):,} broken images", "\n".join(lines), "fix or remove them")
