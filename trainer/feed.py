"""Batches of a run: which images, which views, which random numbers — all of it a function of (seed, step).

There is no generator and no position to save: step 1,000 of a resumed run is step 1,000 of an uninterrupted one,
whichever home the images have. `prepare` is the host's work and runs in a thread ahead of the step; `batch` is the
device's work and never waits for it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stores import SplitStore
from stores.draws import generator, shuffled
from stores.errors import StoreError, UsageError
from trainer import augment
from trainer.config import RunConfig
from trainer.methods.contract import Batch, Method, Sizes, Views
from trainer.pool import MARGIN, Pool, free_memory, require_memory

BLOCK = 64  # steps whose order is computed at once: permuting is dear per call, cheap per element
DEVICE_SHARE = 0.6  # of the GPU's free memory that a pool may take unasked


@dataclass
class HostWork:
    """What the host prepares for one step; page-locked on the way to a GPU.

    Attributes:
        x, u: images uint8 [n, H, W, 3] from a pool on the host, or samples int64 [n] of a pool on the device.
        y: int64 [B].
        weak: draws of the weak views, of x and then of each view of u.
        draws: the method's.
        schedule: float32 [number of entries], in the order of the names in `Feed.schedule_names`.
        ood: bool [U], samples of no training class; None unless the store is a mismatch store.
    """

    x: Tensor
    y: Tensor
    u: Tensor | None
    weak: list[Tensor]
    draws: dict[str, Tensor]
    schedule: Tensor
    ood: Tensor | None


class Feed:
    """The images of a run, in memory, and its batches.

    Raises:
        StoreError: the method needs copies or unlabelled images that the store lacks.
        UsageError: more copies asked for than stored.
        ResourceError: the images do not fit into memory.
    """

    def __init__(self, store: SplitStore, method: Method, settings: Any, run: RunConfig, device: torch.device) -> None:
        self._store, self._method, self._settings, self._run, self._device = store, method, settings, run, device
        self.views = method.views(settings)
        rows = pool_rows(store, self.views)
        self.copies = _num_copies(store, self.views, run.copies)
        unlabeled = run.batch * self.views.ratio if self.views.unlabeled != "none" else 0
        self.sizes = Sizes(run.batch, unlabeled, store.num_classes)
        self.num_unlabeled = len(rows) if unlabeled else 0
        images = len(store.labeled) + self.num_unlabeled * (self.copies or 1)
        size = images * int(np.prod(store.dataset.image_size)) * 3
        self.home, mapped = choose_home(run.feed, device, size)
        self.scratch = Path(run.scratch or tempfile.gettempdir()) if mapped else None
        if not mapped:
            require_memory(size, self.home, "--copies takes fewer of each image, --feed mapped a scratch file")
        dataset = store.dataset
        self._labeled = Pool(dataset.train_images, store.labeled, None, self.home)
        self._labels = store.train_labels[store.labeled]
        self._unlabeled: Pool | None = None
        if unlabeled:
            array = dataset.copies if self.copies else dataset.train_images
            assert array is not None
            self._unlabeled = Pool(array, rows, self.copies, self.home, self.scratch)
        self._is_ood = store.train_labels[rows] < 0 if store.protocol == "mismatch" and unlabeled else None
        self._block = -1  # whose order is in _order_x and _order_u
        self.schedule_names = list(method.schedule(0, run.steps, store.num_classes, settings))

    @property
    def images_per_step(self) -> int:
        """Images that a step learns from: labelled ones and every view of the unlabelled ones."""
        return self.sizes.labeled + self.views.weak_u * self.sizes.unlabeled

    def prepare(self, step: int) -> HostWork:
        """The host's work for a step: its samples, its random numbers and, from a pool on the host, its pixels."""
        run, sizes = self._run, self.sizes
        labeled, unlabeled = self.samples(step)
        rng_x, rng_u = generator(run.seed, "weak labeled", step), generator(run.seed, "weak unlabeled", step)
        weak = [self._draw_weak(rng_x, sizes.labeled)]
        weak += [self._draw_weak(rng_u, sizes.unlabeled) for _ in range(self.views.weak_u if sizes.unlabeled else 0)]
        draws = self._method.draw(generator(run.seed, "method", step), sizes, self._settings)
        schedule = self._method.schedule(step, run.steps, sizes.num_classes, self._settings)
        u = ood = None
        if self._unlabeled is not None:
            u = self._gather(self._unlabeled, unlabeled)
            if self._is_ood is not None:
                ood = self._host(self._is_ood[unlabeled // (self.copies or 1)])
        return HostWork(
            x=self._gather(self._labeled, labeled),
            y=self._host(self._labels[labeled]),
            u=u,
            weak=[self._host(view) for view in weak],
            draws={name: self._host(values) for name, values in draws.items()},
            schedule=self._host(np.array([schedule[name] for name in self.schedule_names], np.float32)),
            ood=ood,
        )

    def batch(self, work: HostWork) -> tuple[Batch, Tensor | None]:
        """The device's work for a step: pixels and numbers moved there, weak views made; and which samples are OOD."""
        weak = [self._move(view) for view in work.weak]
        x = self._pixels(self._labeled, work.x)
        u = self._pixels(self._unlabeled, work.u) if self._unlabeled is not None and work.u is not None else None
        schedule = self._move(work.schedule)
        batch = Batch(
            x=augment.weak(x, weak[0]),
            y=self._move(work.y),
            u=tuple(augment.weak(u, view) for view in weak[1:]) if u is not None else (),
            draws={name: self._move(values) for name, values in work.draws.items()},
            schedule={name: schedule[i] for i, name in enumerate(self.schedule_names)},
        )
        return batch, None if work.ood is None else self._move(work.ood)

    def samples(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples of a step: int64 [B] of `store.labeled`, int64 [U] of the pool's (image, copy) pairs.

        Both are endless streams of permutations, independent of each other: no image comes twice before all came once.
        """
        block, offset = divmod(step, BLOCK)
        if self._block != block:
            self._block = block
            self._order_x = self._stream(block, self.sizes.labeled, len(self._labeled), "order labeled")
            pool = len(self._unlabeled) if self._unlabeled is not None else 0
            self._order_u = self._stream(block, self.sizes.unlabeled, pool, "order unlabeled")
        return self._order_x[offset], self._order_u[offset]

    def _stream(self, block: int, size: int, pool: int, purpose: str) -> np.ndarray:
        """int64 [BLOCK, size]: a block's samples of one stream."""
        positions = np.arange(block * BLOCK * size, (block + 1) * BLOCK * size)
        return shuffled(positions, max(pool, 1), self._run.seed, purpose).reshape(BLOCK, size)

    def _draw_weak(self, rng: np.random.Generator, count: int) -> np.ndarray:
        assert self._run.flip is not None, "a resolved configuration"
        assert self._run.shift is not None
        return augment.draw_weak(rng, count, self._run.flip, self._run.shift)

    def _gather(self, pool: Pool, samples: np.ndarray) -> Tensor:
        if pool.home.type != "cpu":
            return self._host(samples)
        return pool.take(torch.from_numpy(samples), pin=self._device.type == "cuda")

    def _host(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def _pixels(self, pool: Pool, work: Tensor) -> Tensor:
        return pool.take(self._move(work)) if pool.home.type != "cpu" else self._move(work)


def pool_rows(store: SplitStore, views: Views) -> np.ndarray:
    """Rows of the dataset store that the method's unlabelled pool holds: int64, ascending, none twice.

    MixMatch and RealMix leave the labelled images out; ReMixMatch and FixMatch use them unlabelled as well.
    """
    if views.unlabeled == "none":
        return np.empty(0, np.int64)
    rows = np.union1d(store.unlabeled, store.labeled) if views.labeled_in_unlabeled else np.sort(store.unlabeled)
    if not len(rows):
        raise StoreError(f"'{store.path}' has no unlabelled images", hint="--method supervised trains without any")
    return rows


def choose_home(feed: str, device: torch.device, size: int) -> tuple[torch.device, bool]:
    """Where `size` bytes of images live, and whether in a mapped scratch file.

    As `feed` says; if "auto", on the GPU when that leaves it enough memory, else in the computer's memory, else mapped.
    """
    host = torch.device("cpu")
    if feed == "auto":
        if device.type == "cuda" and size <= DEVICE_SHARE * free_memory(device):
            return device, False
        return host, size > MARGIN * free_memory(host)
    return (device, False) if feed == "device" else (host, feed == "mapped")


def _num_copies(store: SplitStore, views: Views, asked: int | None) -> int | None:
    if views.unlabeled != "copies":
        return None
    stored = store.dataset.num_copies
    if not stored:
        raise StoreError(
            f"'{store.dataset.path}' holds no copies", "the method trains on stored copies of the unlabelled images",
            "`realmix-data build … --copies 50` makes them",
        )  # fmt: skip
    if asked is not None and asked > stored:
        raise UsageError(
            f"--copies {asked} is more than '{store.dataset.path}' holds", f"it holds {stored} of each image"
        )
    return asked or stored
