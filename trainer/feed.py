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
from trainer import augment, distributed, schedules
from trainer.config import RunConfig
from trainer.methods.contract import Kind, Method, Policy, Sizes, Views
from trainer.policies import ctaugment, randaugment
from trainer.pool import MARGIN, Pool, free_memory, require_memory
from trainer.views import Raw

BLOCK = 64  # steps whose order is computed at once: permuting is dear per call, cheap per element
DEVICE_SHARE = 0.6  # of the GPU's free memory that a pool may take unasked


@dataclass
class HostWork:
    """What the host prepares for one step; page-locked on the way to a GPU.

    Attributes:
        x, u: images uint8 [n, H, W, 3] from a pool on the host, or samples int64 [n] of a pool on the device.
        y, views, draws, schedule, ood: as in `trainer.views.Raw`.
        x_rows, u_rows: int64 [B] and [U], the dataset store's rows of the samples; u_copies: int64 [U], which copy of
            the row each is (−1 = the image itself).
    """

    x: Tensor
    y: Tensor
    u: Tensor | None
    views: tuple[dict[str, Tensor], ...]
    draws: dict[str, Tensor]
    schedule: Tensor
    ood: Tensor | None
    x_rows: np.ndarray
    u_rows: np.ndarray
    u_copies: np.ndarray


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
        unlabeled = run.batch * self.views.ratio if self.views.unlabeled else 0
        self.sizes = Sizes(run.batch, unlabeled, store.num_classes, store.dataset.image_size)
        for count, what in ((run.batch, "labelled images"), (unlabeled, "unlabelled images")):
            distributed.require_divisible(count, what)
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
        self._rows = rows
        self._is_ood = store.train_labels[rows] < 0 if store.protocol == "mismatch" and unlabeled else None
        self._block = -1  # whose order is in _order_x and _order_u
        self.schedule_names = tuple(method.schedule(0, run.steps, store.num_classes, settings))

    @property
    def images_per_step(self) -> int:
        """Images that a step learns from: every view of the labelled and of the unlabelled ones."""
        learnt = [kind for kind in self.views.labeled if kind != "probe"]
        return len(learnt) * self.sizes.labeled + len(self.views.unlabeled) * self.sizes.unlabeled

    def prepare(self, step: int) -> HostWork:
        """The host's work for a step: its samples, its random numbers and, from a pool on the host, its pixels."""
        run, sizes = self._run, self.sizes
        labeled, unlabeled = self.samples(step)
        rng_x, rng_u = generator(run.seed, "views labeled", step), generator(run.seed, "views unlabeled", step)
        views = [self._draw_view(rng_x, kind, sizes.labeled) for kind in self.views.labeled]
        views += [self._draw_view(rng_u, kind, sizes.unlabeled) for kind in self.views.unlabeled]
        draws = self._method.draw(generator(run.seed, "method", step), sizes, self._settings)
        schedule = self._method.schedule(step, run.steps, sizes.num_classes, self._settings)
        lr = schedules.learning_rate(run.lr_schedule, run.lr, step, run.steps)
        u = ood = None
        image, copy = np.divmod(unlabeled, self.copies or 1)
        if self._unlabeled is not None:
            u = self._gather(self._unlabeled, unlabeled)
            if self._is_ood is not None:
                ood = self._host(self._is_ood[image])
        return HostWork(
            x=self._gather(self._labeled, labeled),
            y=self._host(self._labels[labeled]),
            u=u,
            views=tuple({name: self._host(values) for name, values in view.items()} for view in views),
            draws={name: self._host(values) for name, values in draws.items()},
            schedule=self._host(np.array([*(schedule[name] for name in self.schedule_names), lr], np.float32)),
            ood=ood,
            x_rows=self._store.labeled[labeled],
            u_rows=self._rows[image],
            u_copies=copy if self.copies else np.full_like(copy, -1),
        )

    def batch(self, work: HostWork) -> Raw:
        """The device's work for a step: its images and numbers there."""
        return Raw(
            x=self._pixels(self._labeled, work.x),
            y=self._move(work.y),
            u=self._pixels(self._unlabeled, work.u) if self._unlabeled is not None and work.u is not None else None,
            views=tuple({name: self._move(values) for name, values in view.items()} for view in work.views),
            draws={name: self._move(values) for name, values in work.draws.items()},
            schedule=self._move(work.schedule),
            ood=None if work.ood is None else self._move(work.ood),
        )

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

    def _draw_view(self, rng: np.random.Generator, kind: Kind, count: int) -> dict[str, np.ndarray]:
        """What one view of `count` samples draws."""
        assert self._run.flip is not None, "a resolved configuration"
        assert self._run.shift is not None
        weak = {"weak": augment.draw_weak(rng, count, self._run.flip, self._run.shift)}
        return weak | draw_policy(rng, kind, self.views.policy, count, self._store.dataset.image_size)

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
    if not views.unlabeled:
        return np.empty(0, np.int64)
    rows = np.union1d(store.unlabeled, store.labeled) if views.labeled_in_unlabeled else np.sort(store.unlabeled)
    if not len(rows):
        raise StoreError(f"'{store.path}' has no unlabelled images", hint="--method supervised trains without any")
    return rows


def draw_policy(
    rng: np.random.Generator, kind: Kind, policy: Policy | None, count: int, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """What a view of images of this height and width draws beyond its flip and shift."""
    if kind == "weak":
        return {}
    if kind == "probe":
        return ctaugment.draw_probe(rng, count, size)
    if policy == "ctaugment":
        return ctaugment.draw(rng, count, size)
    return randaugment.draw(rng, count, size, "uda" if policy == "uda" else "fixmatch")


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
    if not views.unlabeled or views.source == "base":
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
