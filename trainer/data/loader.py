"""Batches of a run: which images, which views, which random numbers — all of it a function of (seed, step).

There is no generator and no position to save: step 1,000 of a resumed run is step 1,000 of an uninterrupted one,
whichever home the images have. `prepare` runs in a thread ahead of the step and asks the device for what it needs on a
stream of its own; `batch` only makes the step come after that. Neither ever waits for the device.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stores import SplitStore
from stores.draws import generator
from stores.errors import StoreError, UsageError
from trainer import distributed
from trainer.augment import ctaugment, flip_shift, randaugment
from trainer.augment.views import Raw
from trainer.config import RunConfig
from trainer.contract import Kind, Method, Policy, Sizes, Views
from trainer.data.memory import require_memory
from trainer.data.placement import Home, choose, open_images
from trainer.data.resident import Pool
from trainer.data.sampler import Shuffled
from trainer.data.slabs import Slabs
from trainer.data.to_device import Transfer
from trainer.functional import schedules


@dataclass
class Prepared:
    """One step's inputs, on their way to the training device, and whose images they are.

    Attributes:
        raw: the inputs. ready: when they are there; None on a CPU.
        x_rows, u_rows: int64 [B] and [U], the dataset store's rows of the samples; u_copies: int64 [U], which copy of
            the row each is (−1 = the image itself).
    """

    raw: Raw
    ready: torch.cuda.Event | None
    x_rows: np.ndarray
    u_rows: np.ndarray
    u_copies: np.ndarray


class Feed:
    """The images of a run, and its batches. A context: the threads of a stream end with it.

    Attributes:
        home: where the unlabelled images live, and the labelled ones unless those are streamed or mapped.

    Raises:
        StoreError: the method needs copies or unlabelled images that the store lacks.
        UsageError: more copies asked for than stored; a home or a window that cannot be.
        ResourceError: the images do not fit into memory.
    """

    def __init__(self, store: SplitStore, method: Method, settings: Any, run: RunConfig, device: torch.device) -> None:
        self._store, self._method, self._settings, self._run = store, method, settings, run
        self.views = method.views(settings)
        self._rows, self.copies = pool_rows(store, self.views), _num_copies(store, self.views, run.copies)
        self.sizes = sizes_of(store, self.views, run)
        unlabeled = self.sizes.unlabeled
        for count, what in ((run.batch, "labelled images"), (unlabeled, "unlabelled images")):
            distributed.require_divisible(count, what)
        self.num_unlabeled = len(self._rows)
        self.home: Home = _home(store, self.views, run, device)
        if self.home.kind in ("device", "host"):
            hint = "--feed stream reads them as they are needed, --copies takes fewer of each image"
            require_memory(self.home.size, self.home.device, hint)
        self._unlabeled: Shuffled | Slabs | None = None
        if unlabeled:
            self._unlabeled = open_images(store.dataset, self._rows, self.copies, self.home, unlabeled, run.seed)
        labeled = Pool(store.dataset.train_images, store.labeled, None, self.home.device)
        self._labeled = Shuffled(labeled, run.batch, run.seed, "order labeled")
        self._labels = store.train_labels[store.labeled]
        self._is_ood = store.train_labels[self._rows] < 0 if store.protocol == "mismatch" and unlabeled else None
        self.schedule_names = tuple(method.schedule(0, run.steps, store.num_classes, settings))
        self._transfer = Transfer(device)
        self._pin = device.type == "cuda"

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        if self._unlabeled is not None:
            self._unlabeled.close()

    @property
    def images_per_step(self) -> int:
        """Images that a step learns from: every view of the labelled and of the unlabelled ones."""
        learnt = [kind for kind in self.views.labeled if kind != "probe"]
        return len(learnt) * self.sizes.labeled + len(self.views.unlabeled) * self.sizes.unlabeled

    def prepare(self, step: int) -> Prepared:
        """A step's samples, pixels and random numbers; best one step after the other, from one thread.

        Raises:
            IntegrityError: a file that this step's images are streamed from is missing or damaged; it is named.
        """
        run, sizes = self._run, self.sizes
        rng_x, rng_u = generator(run.seed, "views labeled", step), generator(run.seed, "views unlabeled", step)
        views = [self._draw_view(rng_x, kind, sizes.labeled) for kind in self.views.labeled]
        views += [self._draw_view(rng_u, kind, sizes.unlabeled) for kind in self.views.unlabeled]
        draws = self._method.draw(generator(run.seed, "method", step), sizes, self._settings)
        schedule = self._method.schedule(step, run.steps, sizes.num_classes, self._settings)
        lr = schedules.learning_rate(run.lr_schedule, run.lr, step, run.steps)
        with self._transfer.aside():
            labeled, x = self._labeled.take(step, self._pin)
            unlabeled, u = np.empty(0, np.int64), None
            if self._unlabeled is not None:
                unlabeled, u = self._unlabeled.take(step, self._pin)
            image, copy = np.divmod(unlabeled, self.copies or 1)
            raw = Raw(
                x=x,
                y=_tensor(self._labels[labeled]),
                u=u,
                views=tuple({name: _tensor(values) for name, values in view.items()} for view in views),
                draws={name: _tensor(values) for name, values in draws.items()},
                schedule=_tensor(np.array([*(schedule[name] for name in self.schedule_names), lr], np.float32)),
                ood=None if self._is_ood is None else _tensor(self._is_ood[image]),
            )
            raw, ready = self._transfer.send(raw)
        return Prepared(
            raw, ready, self._store.labeled[labeled], self._rows[image], copy if self.copies else np.full_like(copy, -1)
        )

    def batch(self, prepared: Prepared) -> Raw:
        """A step's inputs, for the training thread's next work on the device."""
        return self._transfer.receive(prepared.raw, prepared.ready)

    def _draw_view(self, rng: np.random.Generator, kind: Kind, count: int) -> dict[str, np.ndarray]:
        """What one view of `count` samples draws."""
        assert self._run.flip is not None, "a resolved configuration"
        assert self._run.shift is not None
        weak = {"weak": flip_shift.draw_weak(rng, count, self._run.flip, self._run.shift)}
        return weak | draw_policy(rng, kind, self.views.policy, count, self._store.dataset.image_size)


def settle(store: SplitStore, views: Views, run: RunConfig, device: torch.device) -> RunConfig:
    """`feed=auto` as "resident" or "stream": what decides the order must not change when a run is resumed.

    Of several processes, one that has to stream makes all of them stream.
    """
    if run.feed != "auto":
        return run
    streams = distributed.agree(_home(store, views, run, device).kind == "stream")
    return dataclasses.replace(run, feed="stream" if streams else "resident")


def _home(store: SplitStore, views: Views, run: RunConfig, device: torch.device) -> Home:
    rows, copies = pool_rows(store, views), _num_copies(store, views, run.copies)
    return choose(run, store.dataset, len(rows), copies, device, others=len(store.labeled))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


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


def sizes_of(store: SplitStore, views: Views, run: RunConfig) -> Sizes:
    """Sizes of a run of a method with these views."""
    unlabeled = run.batch * views.ratio if views.unlabeled else 0
    rows, size = pool_rows(store, views), store.dataset.image_size
    return Sizes(run.batch, unlabeled, store.num_classes, size, len(rows), len(store.valid))


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
