"""Copies that are not stored in memory but drawn: a base image with its box filled when a batch is taken.

For the recipes `cutout` and `erase` (`stores.copies`) the base images and a few bytes a copy stand for all copies, bit
for bit. CIFAR-10 × 50 takes 0.15 GiB and half a second to load instead of 7.1 GiB and 5 to 15 seconds; in exchange a
sample costs a core 1.4 µs instead of 0.7, which is little beside a training step. So drawing is the default.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stores import DatasetStore
from stores.copies import are_valid, boxes_of
from stores.errors import IntegrityError
from trainer.data.resident import Resident, gather

SMALL = 48  # pixels of the longer side up to which `fill_rows` is faster than `fill_slices`; its tables stay small too


class Drawn:
    """Copies of rows, equal to a `Resident` of the stored ones: sample i·K + j is copy j of row i.

    Args:
        store: a dataset store whose manifest `stores.copies.is_drawable`.
        rows, copies, device, scratch: as of `trainer.data.resident.Resident`; a scratch file holds the images only.

    Raises:
        IntegrityError: the store's params are not boxes within its images.
    """

    def __init__(
        self, store: DatasetStore, rows: np.ndarray, copies: int, device: torch.device, scratch: Path | None = None
    ) -> None:
        self._base = Resident(store.train_images, rows, None, device, scratch)
        self._copies, self.device = copies, device
        self.image_shape = height, width, channels = self._base.image_shape
        params = store.read_params(rows)[:, :copies].reshape(-1, len(store.manifest["recipe_columns"]))
        if not are_valid(params, (height, width)):
            raise IntegrityError(
                f"array 'copies/params' of '{store.path}' is damaged",
                "a box lies outside its image",
                "`realmix-data repair` mends it",
            )
        boxes, values = boxes_of(store.manifest["spec"]["recipe"], params)
        word = np.int64 if width * channels % 8 == 0 else np.uint8  # an image's row is filled in such words
        self._fill: Callable[..., None]
        if device.type != "cpu":
            self._fill, made = fill_boxes, box_tables(height, width, channels, word)
        elif max(height, width) <= SMALL:
            self._fill, made = fill_rows, row_tables(width, channels, word)
        else:
            self._fill, made = fill_slices, ()

        def tensor(array: Any, dtype: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, dtype)).to(device)

        self._boxes = tensor(boxes, _narrow(height, width))
        self._values = tensor(np.reshape(values, (-1, 1)), np.uint8)  # one for all, or one a copy
        self._tables = [tensor(table, table.dtype) for table in made]

    def __len__(self) -> int:
        return len(self._base) * self._copies

    @property
    def nbytes(self) -> int:
        """Bytes held, small tables left out."""
        values = self._values.numel() if len(self._values) > 1 else 0
        return self._base.nbytes + self._boxes.numel() * self._boxes.element_size() + values

    def take(self, samples: np.ndarray, out: Tensor | None = None) -> Tensor:
        """Gather images and fill their boxes, as `Resident.take`."""
        images = self._base.take(samples // self._copies, out)
        boxes = gather(self._boxes, samples)
        one = len(self._values) == 1
        values = self._values.expand(len(samples), 1) if one else gather(self._values, samples)
        arrays: list[Any] = [images.view(len(samples), images.shape[1], -1), boxes, values, *self._tables]
        if self.device.type == "cpu":
            arrays = [array.numpy() for array in arrays]
        self._fill(*arrays)
        return images


def drawn_bytes(store: DatasetStore, rows: int, copies: int) -> int:
    """Bytes that a `Drawn` of so many rows and copies will hold."""
    height, width = store.image_size
    values = len(store.manifest["recipe_columns"]) - 4
    return rows * (height * width * 3 + copies * (4 * np.dtype(_narrow(height, width)).itemsize + values))


def row_tables(width: int, channels: int, word: Any) -> tuple[np.ndarray, ...]:
    """The last three arguments of `fill_rows`, for images W pixels wide handled in words of dtype `word`."""
    right = np.repeat(np.arange(width), channels) >= np.arange(width + 1)[:, None]
    right_of, left_of = (np.where(side, np.uint8(255), np.uint8(0)).view(word) for side in (right, ~right))
    return right_of, left_of, _ones(word)


def box_tables(height: int, width: int, channels: int, word: Any) -> tuple[np.ndarray, ...]:
    """The last five arguments of `fill_boxes`, for images H × W handled in words of dtype `word`."""
    rows, columns = (np.arange(n, dtype=_narrow(height, width)) for n in (height, width))
    full = np.full(np.dtype(word).itemsize, 255, np.uint8).view(word)
    return rows, np.repeat(columns, channels), np.array([255], np.uint8), full, _ones(word)


def _narrow(height: int, width: int) -> Any:
    """Dtype of a box's edges."""
    return np.uint8 if max(height, width) <= 255 else np.int32


def _ones(word: Any) -> np.ndarray:
    """A word whose bytes are 1: times a byte, it is that byte throughout."""
    return np.ones(np.dtype(word).itemsize, np.uint8).view(word)


def fill_rows(
    images: np.ndarray,
    boxes: np.ndarray,
    values: np.ndarray,
    right_of: np.ndarray,
    left_of: np.ndarray,
    ones: np.ndarray,
) -> None:
    """Fill one box of each small image in place, on the CPU: all rows that boxes cover, by a few operations.

    Args:
        images: uint8 [n, H, W·3].
        boxes: [n, 4] as `stores.copies.BOX`.
        values: uint8 [n, 1].
        right_of: words [W + 1, words of an image's row]; entry c has all bits set from column c on.
        left_of: the same, with all bits set before column c.
        ones: word [1] whose bytes are 1.
    """
    height, word = images.shape[1], right_of.dtype
    inside = right_of.take(boxes[:, 2], axis=0)
    inside &= left_of.take(boxes[:, 3], axis=0)
    filled = inside & (values * ones)
    outside = np.invert(inside, out=inside)
    top, bottom = boxes[:, 0].astype(np.intp), boxes[:, 1].astype(np.intp)
    heights = np.maximum(bottom - top, 0)
    ends = np.cumsum(heights)
    first = np.arange(0, height * len(images), height) + top - ends + heights
    at = np.repeat(first, heights)  # for each row of a box, its place among the rows of all images
    at += np.arange(len(at))
    of = np.repeat(np.arange(len(images)), heights)
    words = images.view(word).reshape(height * len(images), -1)
    rows = words.take(at, axis=0)
    rows &= outside.take(of, axis=0)
    rows |= filled.take(of, axis=0)
    whole = np.dtype((np.void, words.shape[1] * word.itemsize))  # a row as one element: one `put` for all
    np.put(words.view(whole)[:, 0], at, rows.view(whole)[:, 0])


def fill_slices(images: np.ndarray, boxes: np.ndarray, values: np.ndarray) -> None:
    """Fill one box of each large image in place, on the CPU: a box is written once, at a fixed cost for each image.

    Args:
        images: uint8 [n, H, W·3].
        boxes: [n, 4] as `stores.copies.BOX`.
        values: uint8 [n, 1].
    """
    pixels = images.reshape(*images.shape[:2], -1, 3)
    for image, (top, bottom, left, right), value in zip(pixels, boxes.tolist(), values[:, 0].tolist(), strict=True):
        image[top:bottom, left:right] = value


def fill_boxes(
    images: Tensor,
    boxes: Tensor,
    values: Tensor,
    rows: Tensor,
    columns: Tensor,
    byte: Tensor,
    full: Tensor,
    ones: Tensor,
) -> None:
    """Fill one box of each image in place, on a GPU: shapes do not depend on the boxes, so the host never waits.

    Rows are handled in words of eight bytes where their length allows it, which is several times faster.

    Args:
        images: uint8 [n, H, W·3].
        boxes: [n, 4] as `stores.copies.BOX`.
        values: uint8 [n, 1].
        rows: [H], 0 … H−1 in the boxes' dtype.
        columns: [W·3], the column of each byte of a row, in the boxes' dtype.
        byte: uint8 [1], 255.
        full: word [1] with all bits set.
        ones: word [1] whose bytes are 1.
    """
    down = ((rows >= boxes[:, 0:1]) & (rows < boxes[:, 1:2])) * full
    across = (((columns >= boxes[:, 2:3]) & (columns < boxes[:, 3:4])) * byte).view(full.dtype)
    words = images.view(full.dtype)
    mask = down[:, :, None] & across[:, None, :]
    mask &= words ^ (values * ones)[:, :, None]
    words ^= mask
