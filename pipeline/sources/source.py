"""A source: images and labels in two parts (train, test), and what the pipeline must know about them.

Images are anything that supports `images[rows]`: an array, a memory map, a lazy reader. `Joined` concatenates several
without copying them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from stores import draws


class Images(Protocol):
    """Images uint8 [N, H, W, 3]; `images[rows]` with int64 [n] rows in any order returns uint8 [n, H, W, 3]."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Part:
    """The training or the test part.

    Attributes:
        images: N images.
        labels: int64 [N]; −1 = none.
        files: the file that each image came from, relative to its folder; None: they are no files of their own.
    """

    images: Images
    labels: np.ndarray
    files: Sequence[str] | None = None

    def __post_init__(self) -> None:
        assert len(self.images.shape) == 4
        assert self.images.shape[3] == 3
        assert self.labels.dtype == np.int64
        assert self.labels.shape == self.images.shape[:1]
        assert self.files is None or len(self.files) == len(self.labels)


@dataclass(frozen=True)
class Source:
    """A data set that a store can be built from.

    Attributes:
        name: family of sources, as in `realmix-data build NAME`.
        train: training part.
        test: test part.
        class_names: of the C classes.
        weak: {"flip": bool, "shift": int}: the weak augmentation of the data set, shift in pixels.
        origin: JSON that identifies the data, independent of where it is (no path, no time).
        folds: rows of predefined labelled folds (STL-10), int64 [F, n], or None.
        protocol: data set whose standard splits apply: "cifar10", "cifar100", "svhn", "stl10", "digits" or None.
        notes: what the user should know about the data.
        examine: called with a progress function after an image was broken; raises one IntegrityError that names all
            broken images.
    """

    name: str
    train: Part
    test: Part
    class_names: list[str]
    weak: dict[str, Any]
    origin: dict[str, Any]
    folds: np.ndarray | None = None
    protocol: str | None = None
    notes: tuple[str, ...] = ()
    examine: Callable[[Callable[[str, int, int], None]], None] | None = None

    def __post_init__(self) -> None:
        assert self.train.images.shape[1:] == self.test.images.shape[1:], "train and test images differ in size"
        for part in (self.train, self.test):
            assert part.labels.min(initial=0) >= -1
            assert part.labels.max(initial=-1) < len(self.class_names)


class Joined:
    """The concatenation of several `Images`."""

    def __init__(self, pieces: Sequence[Images]) -> None:
        assert len({piece.shape[1:] for piece in pieces}) == 1, "images of different sizes"
        self.pieces = list(pieces)
        self.starts = np.cumsum([0] + [piece.shape[0] for piece in pieces])
        self.shape = (int(self.starts[-1]), *pieces[0].shape[1:])

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        piece_of = np.searchsorted(self.starts, rows, side="right") - 1
        for i in np.unique(piece_of):
            mine = piece_of == i
            out[mine] = self.pieces[i][rows[mine] - self.starts[i]]
        return out


def hold_out(
    labels: np.ndarray, counts: Sequence[int], purpose: str, alone: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a test set, always the same images.

    Args:
        labels: int64 [N]; −1 = none.
        counts: number of test images of each class.
        purpose: name of the draw.
        alone: bool [N], images without duplicates, which are preferred.

    Returns:
        int64 rows of the training part, which has all unlabelled images, and of the test part, both ascending.
    """
    chosen = []
    for class_, count in enumerate(counts):
        rows = np.flatnonzero(labels == class_)
        drawn = rows[draws.order(0, f"{purpose} class {class_}", len(rows))]
        if alone is not None:
            drawn = np.concatenate([drawn[alone[drawn]], drawn[~alone[drawn]]])
        chosen.append(drawn[:count])
    test = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), test), test


def one_in(labels: np.ndarray, num_classes: int, n: int) -> list[int]:
    """Number of images that are one n-th of each class: at least one of a class with two, none of a class with one."""
    sizes = np.bincount(labels[labels >= 0], minlength=num_classes)
    return [int(max(1, round(size / n))) if size > 1 else 0 for size in sizes]


def shift_of(height: int, width: int) -> int:
    """The default weak shift in pixels: an eighth of the shorter side, as 4 of CIFAR's 32."""
    return max(1, round(min(height, width) / 8))
