"""Copies that are not kept but drawn: a base image, and the box that its recipe stored, filled when a batch is taken.

For the recipes `cutout` and `erase` a copy is its image with one rectangle of one value, so the images and a few bytes
a copy stand for all of them, bit for bit (tests compare every stored copy). CIFAR-10 × 50 takes 0.15 GiB and half a
second to load instead of 7.1 GiB and 5 to 15; in exchange a sample costs a core 1.4 µs instead of 0.7, little beside a
training step. So drawing is the default. Nothing here reads stored copies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stores import DatasetStore
from stores.errors import IntegrityError
from trainer.data.resident import Pool, gather

BOX = ["top", "bottom", "left", "right"]  # half-open: rows top … bottom−1, columns left … right−1
WIDEST = 1024  # pixels of a row; `row_tables` grow with its square: 6 MiB
COLUMNS = {"cutout": BOX, "erase": [*BOX, "fill"]}  # parameters of a copy, by the kind of recipe


class Drawn:
    """Copies of rows, as a `Pool` of the stored ones gives them: sample i·K + j is copy j of row i.

    Args:
        store: a dataset store that `can_draw`.
        rows, copies, home, scratch: as of `trainer.data.resident.Pool`; a scratch file holds the images only.

    Raises:
        IntegrityError: the store's parameters are no boxes of its images.
    """

    def __init__(
        self, store: DatasetStore, rows: np.ndarray, copies: int, home: torch.device, scratch: Path | None = None
    ) -> None:
        self._base = Pool(store.train_images, rows, None, home, scratch)
        self._copies, self.home = copies, home
        self.image_shape = height, width, channels = self._base.image_shape
        params = store.read_params(rows)[:, :copies].reshape(-1, len(store.manifest["recipe_columns"]))
        limits = [height, height, width, width, 255][: params.shape[1]]
        if params.size and (params.min() < 0 or (params > limits).any()):
            raise IntegrityError(
                f"array 'copies/params' of '{store.path}' is damaged", "a box lies outside its image",
                "`realmix-data repair` mends it",
            )  # fmt: skip
        word = np.int64 if width * channels % 8 == 0 else np.uint8  # an image's row is filled in such words

        def tensor(values: Any, dtype: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, dtype)).to(home)

        self._boxes = tensor(params[:, :4], _narrow(height, width))
        self._values = tensor(params[:, 4:], np.uint8) if params.shape[1] > 4 else None
        self._value = tensor([store.manifest["spec"]["recipe"].get("fill", 0)], np.uint8)
        self._by_rows = home.type == "cpu" and width <= WIDEST
        made = row_tables(width, channels, word) if self._by_rows else box_tables(height, width, channels, word)
        self._tables = [tensor(table, table.dtype) for table in made]

    def __len__(self) -> int:
        return len(self._base) * self._copies

    def take(self, samples: np.ndarray, pin: bool = False, out: Tensor | None = None) -> Tensor:
        """Gather and fill: int64 [n] → uint8 [n, H, W, 3] on the pool's home, page-locked if `pin`, or in `out`."""
        images = self._base.take(samples // self._copies, pin, out)
        boxes = gather(self._boxes, samples)
        values = self._value.expand(len(samples), 1) if self._values is None else gather(self._values, samples)
        arrays: list[Any] = [images.view(len(samples), images.shape[1], -1), boxes, values, *self._tables]
        if self.home.type == "cpu":
            arrays = [array.numpy() for array in arrays]
        (fill_rows if self._by_rows else fill_boxes)(*arrays)
        return images


def row_tables(width: int, channels: int, word: Any) -> tuple[np.ndarray, ...]:
    """`right_of`, `left_of` and `spread` of `fill_rows`."""
    right = np.repeat(np.arange(width), channels) >= np.arange(width + 1)[:, None]
    right_of, left_of = (np.where(side, np.uint8(255), np.uint8(0)).view(word) for side in (right, ~right))
    return right_of, left_of, _spread(word)


def box_tables(height: int, width: int, channels: int, word: Any) -> tuple[np.ndarray, ...]:
    """`rows`, `columns`, `byte`, `ones` and `spread` of `fill_boxes`; the first two of the boxes' dtype."""
    rows, columns = (np.arange(n, dtype=_narrow(height, width)) for n in (height, width))
    ones = np.full(np.dtype(word).itemsize, 255, np.uint8).view(word)
    return rows, np.repeat(columns, channels), np.array([255], np.uint8), ones, _spread(word)


def _narrow(height: int, width: int) -> Any:
    """What holds a place in an image."""
    return np.uint8 if max(height, width) <= 255 else np.int32


def _spread(word: Any) -> np.ndarray:
    """Times a byte: that byte throughout the word."""
    return np.ones(np.dtype(word).itemsize, np.uint8).view(word)


def fill_rows(
    images: np.ndarray, boxes: np.ndarray, values: np.ndarray, right_of: np.ndarray, left_of: np.ndarray,
    spread: np.ndarray,
) -> None:  # fmt: skip
    """Overwrite one box of each image in place: the computer's half, which touches the rows of the boxes alone.

    Args:
        images: uint8 [n, H, W·3]. boxes: [n, 4] as `BOX`. values: uint8 [n, 1].
        right_of, left_of: words [W + 1, words of an image's row], all bits of the bytes from a column on; before it.
        spread: word [1], of bytes 1.
    """
    height, word = images.shape[1], right_of.dtype
    inside = right_of.take(boxes[:, 2], axis=0)
    inside &= left_of.take(boxes[:, 3], axis=0)
    filled = inside & (values * spread)
    outside = np.invert(inside, out=inside)
    top, bottom = boxes[:, 0].astype(np.intp), boxes[:, 1].astype(np.intp)
    heights = np.maximum(bottom - top, 0)
    ends = np.cumsum(heights)
    first = np.arange(0, height * len(images), height) + top - ends + heights
    at = np.repeat(first, heights)  # of each of the boxes' rows, its place among the rows of all images
    at += np.arange(len(at))
    of = np.repeat(np.arange(len(images)), heights)
    words = images.view(word).reshape(height * len(images), -1)
    rows = words.take(at, axis=0)
    rows &= outside.take(of, axis=0)
    rows |= filled.take(of, axis=0)
    whole = np.dtype((np.void, words.shape[1] * word.itemsize))  # a row as one element: put back at once
    np.put(words.view(whole)[:, 0], at, rows.view(whole)[:, 0])


def fill_boxes(
    images: Any, boxes: Any, values: Any, rows: Any, columns: Any, byte: Any, ones: Any, spread: Any
) -> None:
    """Overwrite one box of each image in place: a GPU's half, which does not wait for how many rows the boxes have.

    An image's row is handled in words of eight bytes, which is several times faster. Written in operators that torch
    tensors and NumPy arrays share.

    Args:
        images: uint8 [n, H, W·3]. boxes: [n, 4] as `BOX`. values: uint8 [n, 1].
        rows, columns: the row of each of H pixels and the column of each of W·3 bytes, of the boxes' dtype.
        byte: uint8 [1], 255. ones, spread: [1], all bits of a word; a word of bytes 1.
    """
    down = ((rows >= boxes[:, 0:1]) & (rows < boxes[:, 1:2])) * ones
    across = (((columns >= boxes[:, 2:3]) & (columns < boxes[:, 3:4])) * byte).view(ones.dtype)
    words = images.view(ones.dtype)
    mask = down[:, :, None] & across[:, None, :]
    mask &= words ^ (values * spread)[:, :, None]
    words ^= mask


def can_draw(store: DatasetStore) -> bool:
    """Whether the store's copies are boxes on its images, by a recipe of the version that this code knows."""
    recipe = store.manifest.get("spec", {}).get("recipe", {})
    kind, fill = str(recipe.get("kind")), recipe.get("fill")
    known = kind in COLUMNS and recipe.get("version") == 1 and store.manifest.get("recipe_columns") == COLUMNS[kind]
    return store.num_copies > 0 and known and (kind == "erase" or (type(fill) is int and 0 <= fill <= 255))


def drawn_bytes(store: DatasetStore, rows: int, copies: int) -> int:
    """Memory of a `Drawn`."""
    height, width = store.image_size
    box = len(store.manifest["recipe_columns"]) if max(height, width) <= 255 else 17
    return rows * (height * width * 3 + copies * box)
