"""Embeddings in the place of images: the one place where the kind of store decides what a run reads.

An `EmbeddedSplit` is a split store whose images are given by their embeddings under a frozen backbone. Weak views of an
image are itself and distinct copies of it: of copies alone, a network would not learn the uncut images that it is for.
Strong views are copies of a strong recipe, or further copies where the store has none; nothing is left to augment. All
embeddings are standardised: each feature has mean 0 and variance 1 over the images that the run may look at, labelled
and unlabelled. Methods see float32 [n, D] where images would be [n, 3, H, W].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stores import SplitStore
from stores.draws import generator
from stores.embeddings import EmbeddingStore, open_embeddings
from stores.format import manifest
from trainer.config import RunConfig
from trainer.contract import Kind, Views
from trainer.data.memory import Buffers
from trainer.data.resident import gather
from trainer.data.sampler import Sampler

BLOCK_BYTES = 4 << 20  # of the embeddings that one call gathers
MOST_STEPS = 32
CHUNK = 4096  # rows read at a time for the statistics


class Readable(Protocol):
    """An array of samples: `read(rows)` gives [n, …]; all of them for None."""

    def read(self, rows: np.ndarray | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class Samples:
    """What a run reads of its store.

    Attributes:
        train: of the training images.
        test: of the test images.
        nbytes: of one sample.
    """

    train: Readable
    test: Readable
    nbytes: int


class EmbeddedSplit(SplitStore):
    """A split store that is read as embeddings.

    Args:
        store: the split store.
        name: of the embeddings beside its dataset store.

    Attributes:
        embeddings: the store of the embeddings.
        fingerprint: of both.

    Raises:
        StoreError: there are no such embeddings, or they are of another dataset store.
    """

    def __init__(self, store: SplitStore, name: str) -> None:
        super().__init__(store.path, store.manifest)
        self.embeddings: EmbeddingStore = open_embeddings(self.dataset, name)
        both = {"split": store.fingerprint, "embeddings": self.embeddings.fingerprint}
        self.fingerprint = manifest.fingerprint(both)

    def made_by(self) -> dict[str, Any]:
        """What made the embeddings, for a run's record and a network's file."""
        found = self.embeddings
        return {
            "name": found.name,
            "backbone": found.backbone,
            "weights": found.manifest["weights"],
            "weights_sha256": found.weights_sha256,
            "size": found.size,
            "num_features": found.num_features,
        }

    @cached_property
    def standard(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each feature over the run's images, float32 [D] each; a constant one has 1."""
        rows = np.union1d(self.labeled, self.unlabeled)
        parts = [self.embeddings.train.read(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK)]
        mean = sum(part.sum(0, dtype=np.float64) for part in parts) / len(rows)
        variance = sum(np.square(part - mean).sum(0) for part in parts) / len(rows)
        std = np.sqrt(variance)
        return mean.astype(np.float32), np.where(std > 1e-6, std, 1).astype(np.float32)


class Standardised:
    """An array of embeddings, float16 [N, D], read as float32 with the statistics of a run."""

    def __init__(self, array: Any, standard: tuple[np.ndarray, np.ndarray]) -> None:
        self._array, (self._mean, self._std) = array, standard

    def read(self, rows: np.ndarray | None = None) -> np.ndarray:
        return (self._array.read(rows).astype(np.float32) - self._mean) / self._std


def samples_of(store: SplitStore) -> Samples:
    """Images uint8 [n, H, W, 3] or, of an `EmbeddedSplit`, standardised embeddings float32 [n, D]."""
    if isinstance(store, EmbeddedSplit):
        found = store.embeddings
        train, test = (Standardised(array, store.standard) for array in (found.train, found.test))
        return Samples(train, test, 4 * found.num_features)
    height, width = store.dataset.image_size
    return Samples(store.dataset.train_images, store.dataset.test_images, 3 * height * width)


def features_of(store: SplitStore) -> int | None:
    """D of a store that is read as embeddings; None of one that is read as images."""
    return store.embeddings.num_features if isinstance(store, EmbeddedSplit) else None


def describe(store: EmbeddedSplit, views: Views) -> str:
    """What the views of a run are, for its header."""
    found = store.embeddings
    weak = (
        f"the image and {found.num_copies} copies" if found.num_copies else "no copies: every view is the image itself"
    )
    if "strong" not in (*views.labeled, *views.unlabeled, *views.second):
        strong = ""
    elif found.num_strong:
        strong = f", {found.num_strong} strong copies"
    else:
        strong = ", no strong copies: strong views are further copies"
    return f"{found.backbone} at {found.size} px, {found.num_features} features; {weak}{strong}"


class Table:
    """The embeddings that views are taken from, standardised float32, in memory or on a GPU.

    Args:
        store: where they are.
        rows: int64 [m], training images of the dataset store.
        kinds: of all views that will be asked for.
        copies: how many copies of each image to use; None: all.
        device: that holds them.

    Attributes:
        weak, strong: which of an image's embeddings are weak views, its own the first, and which are strong ones.
    """

    def __init__(
        self, store: EmbeddedSplit, rows: np.ndarray, kinds: tuple[Kind, ...], copies: int | None, device: torch.device
    ) -> None:
        found, (mean, std) = store.embeddings, store.standard
        most = copies or found.num_copies
        arrays: list[Any] = [found.train, *([found.copies] if found.num_copies else [])]
        self.weak = self.strong = np.arange(1 + most)
        self._apart = "strong" in kinds and found.strong is not None
        if self._apart:
            arrays.append(found.strong)
            self.strong = 1 + most + np.arange(found.num_strong)
        self.num_features, self._per_row = found.num_features, int(self.strong[-1]) + 1
        held = np.empty((len(rows), self._per_row, self.num_features), np.float32)
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            parts = [array.read(some).reshape(len(some), -1, self.num_features) for array in arrays]
            if found.num_copies:
                parts[1] = parts[1][:, :most]
            np.subtract(np.concatenate(parts, axis=1), mean, out=held[start : start + len(some)])
        held /= std
        self._flat = torch.from_numpy(held).view(-1, self.num_features).to(device)
        self._buffers: dict[int, Buffers] = {}

    def choose(self, rng: np.random.Generator, count: int, kinds: tuple[Kind, ...]) -> np.ndarray:
        """Which embedding of its image each view of `count` samples is: int64 [count, views].

        Views of one sample are distinct as long as there are enough; strong views take strong embeddings if
        there are some.
        """
        groups = [kind if self._apart else "weak" for kind in kinds]
        columns: dict[int, np.ndarray] = {}
        for group in dict.fromkeys(groups):
            known = self.strong if group == "strong" else self.weak
            order = known[rng.random((count, len(known))).argsort(1)]
            places = [place for place, own in enumerate(groups) if own == group]
            columns |= {place: order[:, i % len(known)] for i, place in enumerate(places)}
        return np.stack([columns[place] for place in range(len(kinds))], 1)

    def take(self, images: np.ndarray, chosen: np.ndarray, pin: bool) -> Tensor:
        """Gather embeddings: images int64 [n], `chosen` int64 [n, views] to float32 [n, views, D]."""
        index = (images[:, None] * self._per_row + chosen).ravel()
        shape = (*chosen.shape, self.num_features)
        if self._flat.device.type != "cpu":
            return gather(self._flat, index).view(shape)
        size = 4 * len(index) * self.num_features
        buffers = self._buffers.setdefault(size, Buffers(size))
        out = buffers.lend(size, pin=pin).view(torch.float32).view(len(index), -1)
        return gather(self._flat, index, out).view(shape)


class EmbeddedViews:
    """Endless shuffled batches of the views of some images, as `trainer.data.resident.Shuffled` of their pixels.

    Which copies a step takes is a function of (seed, step).

    Args:
        table: the embeddings.
        positions: int64 [m], images of the table.
        kinds: of the views of a sample.
        second: of the views of a sample of `subset`.
        batch: samples a step.
        seed, purpose: of the order.

    Attributes:
        threads: how many threads should read at the same time.
        block: largest number of steps read by one call.
    """

    threads = 1

    def __init__(
        self,
        table: Table,
        positions: np.ndarray,
        kinds: tuple[Kind, ...],
        second: tuple[Kind, ...],
        batch: int,
        seed: int,
        purpose: str,
    ) -> None:
        self._table, self._positions, self._kinds, self._second = table, positions, kinds, second
        self._batch, self._seed, self._purpose = batch, seed, purpose
        self._sampler = Sampler(len(positions), batch, seed, purpose)
        self.block = max(1, min(MOST_STEPS, BLOCK_BYTES // (4 * batch * len(kinds) * table.num_features)))

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, step: int, steps: int = 1, pin: bool = False) -> tuple[np.ndarray, Tensor]:
        """Samples and views of some consecutive steps; from any thread.

        Returns:
            int64 [steps · batch], and float32 [steps · batch, views, D] on the device of the table.
        """
        samples = self._sampler.samples(step, steps)
        draws = (generator(self._seed, f"copies {self._purpose}", step + i) for i in range(steps))
        chosen = np.concatenate([self._table.choose(rng, self._batch, self._kinds) for rng in draws])
        return samples, self._table.take(self._positions[samples], chosen, pin)

    def subset(self, positions: np.ndarray, purpose: str) -> EmbeddedViews:
        """Batches of the second stream's views of some of the images; nothing is read again."""
        kinds = self._second
        return EmbeddedViews(self._table, self._positions[positions], kinds, (), self._batch, self._seed, purpose)

    def close(self) -> None:
        """Nothing to end."""


def open_views(
    store: EmbeddedSplit,
    rows: np.ndarray,
    kinds: tuple[Kind, ...],
    batch: int,
    run: RunConfig,
    purpose: str,
    device: torch.device,
    second: tuple[Kind, ...] = (),
) -> EmbeddedViews:
    """Read the embeddings of some images, and give batches of their views; arguments as of the classes above."""
    table = Table(store, rows, kinds + second, run.copies, device)
    return EmbeddedViews(table, np.arange(len(rows)), kinds, second, batch, run.seed, purpose)


def views_bytes(store: EmbeddedSplit, rows: int, kinds: tuple[Kind, ...], copies: int | None) -> int:
    """Bytes that a `Table` of so many rows will hold."""
    found = store.embeddings
    each = 1 + (copies or found.num_copies) + (found.num_strong if "strong" in kinds else 0)
    return 4 * rows * each * found.num_features
