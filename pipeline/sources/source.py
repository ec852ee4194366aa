"""What a source is: two parts (train, test) of images and labels, and what the rest of the pipeline must know of them.

Images are anything that answers `images[rows]`: an array, a memory map, a lazy reader. A part never holds more in
memory than its family must; `Joined` puts several behind one another without copying them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from stores import draws


class Images(Protocol):
    """uint8 images [N, H, W, 3]; `images[rows]` with int64 [n] rows in any order gives uint8 [n, H, W, 3]."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Part:
    """Train or test. labels: int64 [N], −1 = none."""

    images: Images
    labels: np.ndarray

    def __post_init__(self) -> None:
        assert len(self.images.shape) == 4
        assert self.images.shape[3] == 3
        assert self.labels.dtype == np.int64
        assert self.labels.shape == self.images.shape[:1]


@dataclass(frozen=True)
class Source:
    """A data set before it is a store.

    Attributes:
        name: the family, as in `realmix-data build NAME`.
        weak: {"flip": bool, "shift": int}: the weak augmentation of the data set, shift in pixels.
        origin: JSON-able; the same for the same data wherever it lies (no path, no time), another one when they change.
        folds: int64 [F, n] source rows of predefined labelled sets (STL-10), or None.
        protocol: whose standard splits apply: "cifar10", "cifar100", "svhn", "stl10", "digits" or None.
        notes: what the user should know of the data, a line each.
        examine: called with a function for progress once an image turned out to be broken: raises one IntegrityError
            that names every broken one.
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
    """Several images behind one another, as one."""

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
    """Set `counts[c]` images of every class c aside as test set, the same ones each time.

    Args:
        alone: bool [N], images of which there is no copy in another row: as long as there are any, they are taken.

    Returns:
        int64 rows of the train part (the unlabelled ones are all there) and of the test part, both ascending.
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
    """How many images of each class make one n-th of it: at least one where a class has two, none of a lonely image."""
    sizes = np.bincount(labels[labels >= 0], minlength=num_classes)
    return [int(max(1, round(size / n))) if size > 1 else 0 for size in sizes]


def shift_of(height: int, width: int) -> int:
    """Pixels of the weak shift where nobody prescribes them: an eighth of the short side, as 4 of CIFAR's 32."""
    return max(1, round(min(height, width) / 8))
