"""Image files as an array: decoded when they are asked for, in several threads if they are large."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.sources.scan import broken_images
from stores.errors import IntegrityError
from stores.images import picture
from stores.system.threads import thread_pool

_EVERY, _EVERY_LARGE = 256, 16  # images that a thread decodes between reports of progress
_TOGETHER = 2048  # images decoded in one call to find the broken ones


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


def broken_among(images: ImageFiles, report: Callable[[str, int, int], None]) -> dict[str, IntegrityError]:
    """Decode all files and keep none of them: the errors of broken ones, by file."""
    block = _block(images)
    for start in range(0, len(images.files), block):
        report("look for broken files", start, len(images.files))
        with contextlib.suppress(IntegrityError):  # kept in `broken`
            images[np.arange(start, min(start + block, len(images.files)))]
    report("look for broken files", len(images.files), len(images.files))
    return {images.files[row]: error for row, error in images.broken.items()}


def _block(images: ImageFiles) -> int:
    """Images whose pixels are kept in memory together, though nobody needs them."""
    return max(1, min(_TOGETHER, (64 << 20) // int(np.prod(images.shape[1:]))))


def examine(parts: Sequence[ImageFiles], report: Callable[[str, int, int], None]) -> None:
    """If an image is broken, decode all others too, so that one error names every broken one.

    Raises:
        IntegrityError: an image is broken.
    """
    if not any(images.broken for images in parts):
        return
    left = [(images, row) for images in parts for row in np.flatnonzero(~images.seen).tolist()]
    block = _block(parts[0])
    for start in range(0, len(left), block):
        report("look for others", start, len(left))
        for images in parts:
            rows = np.array([row for of, row in left[start : start + block] if of is images], np.int64)
            with contextlib.suppress(IntegrityError):  # kept in `broken`
                images[rows]
    raise broken_images([images.broken[row] for images in parts for row in sorted(images.broken)])
