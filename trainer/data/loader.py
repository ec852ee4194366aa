"""The batches of a run: which images, which views, which random numbers. Each is a function of (seed, step).

There is no generator and no position to save: step 1,000 of a resumed run is step 1,000 of an uninterrupted one,
wherever the images are held. Batches are prepared by threads ahead of the step, which ask the GPU for what they need on
a stream of its own; neither they nor the training thread ever wait for the GPU.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stores import SplitStore
from stores.draws import generator
from trainer import distributed
from trainer.augment import ctaugment, flip_shift, randaugment
from trainer.augment.views import Raw
from trainer.config import Resolved, RunConfig
from trainer.contract import Kind, Method, Options, Policy, Sizes, Views
from trainer.data.embedded import EmbeddedSplit, features_of, open_views
from trainer.data.memory import require_memory
from trainer.data.placement import Images, Placement, num_copies, open_images, place, unlabeled_rows
from trainer.data.prefetch import Prefetch, Stopped
from trainer.data.resident import Resident, Shuffled
from trainer.data.to_device import Transfer
from trainer.functional import schedules

Ready = tuple[Raw, torch.cuda.Event | None]  # a batch, and when it has arrived on the GPU; None on a CPU


class Loader:
    """Iterator over the batches of steps `start` … `run.steps` − 1, prepared ahead. A context manager.

    Args:
        store: the split store.
        method: the method's module.
        settings: the method's settings.
        run: a resolved configuration.
        device: where the batches are to be.
        start: the first step.
        placement: where the unlabelled images are held; None: `place` decides.

    Attributes:
        views: what the method declared.
        placement: where the unlabelled images are held. The labelled ones are resident, on the same device.
        copies: number of copies of each unlabelled image; None: the images themselves.
        num_unlabeled: number of unlabelled images; 0 if the method needs none.
        sizes: of a step.
        schedule_names: names of the method's schedule, in the order of `Raw.schedule`.
        images_per_step: number of images that a step learns from: all views but probes.
        step: the step whose batch comes next.

    Raises:
        StoreError: the method needs copies or unlabelled images that the store does not hold.
        UsageError: more copies asked for than stored; a placement or a window that cannot be.
        ResourceError: the images do not fit into memory.
    """

    def __init__(
        self,
        store: SplitStore,
        method: Method,
        settings: Options,
        run: Resolved,
        device: torch.device,
        start: int = 0,
        placement: Placement | None = None,
    ) -> None:
        self._method, self._settings, self._run, self.step = method, settings, run, start
        self.views = views = method.views(settings)
        rows, self.copies = unlabeled_rows(store, views), num_copies(store, views, run)
        self.sizes = sizes_of(store, views, run)
        self.num_unlabeled, unlabeled = len(rows), self.sizes.unlabeled
        for count, what in ((run.batch, "labelled images"), (unlabeled, "unlabelled images")):
            distributed.require_divisible(count, what)
        learnt = [kind for kind in views.labeled if kind != "probe"]
        self.images_per_step = len(learnt) * run.batch + (len(views.unlabeled) + len(views.second)) * unlabeled
        self.schedule_names = tuple(method.schedule(0, run.scheduled, store.num_classes, settings))
        self.placement = placement or place(store, views, run, device)
        if self.placement.kind in ("device", "host"):
            hint = "--feed stream reads them as they are needed, --copies takes fewer of each image"
            require_memory(self.placement.size, self.placement.device, hint)
        self._unlabeled: Images | None = None
        self._second: Images | None = None
        self._positions = np.arange(self.num_unlabeled)
        block, threads = 1, 1
        if unlabeled:
            where = self.placement
            if views.second and where.kind == "stream":  # two streams share the window
                where = dataclasses.replace(where, size=where.size // 2)
            if isinstance(store, EmbeddedSplit):
                given = (unlabeled, run, "order unlabeled", where.device)
                self._unlabeled = open_views(store, rows, views.unlabeled, *given, views.second)
            else:
                self._unlabeled = open_images(store.dataset, rows, self.copies, where, unlabeled, run.seed)
            if views.second:
                self._second = self._unlabeled.subset(self._positions, "order second")
            block, threads = self._unlabeled.block, self._unlabeled.threads
        self._block, self._threads = (1, 1) if device.type == "cuda" else (block, threads)
        self._labeled = self._open_labeled(store, block)
        self._labels = store.train_labels[store.labeled]
        self._is_ood = store.train_labels[rows] < 0 if store.protocol == "mismatch" and unlabeled else None
        self._transfer, self._pin = Transfer(device), device.type == "cuda"
        self._ahead: Prefetch[Ready] | None = None
        self._waited, self._stopped = 0.0, False

    def __len__(self) -> int:
        """Number of batches that are left."""
        return max(0, self._run.steps - self.step)

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Raw:
        """The next step's batch, on the device, for the calling thread's next work.

        Raises:
            IntegrityError, OSError: this step's images could not be read.
            Stopped: `stop` or `close` was called, and the batch is not ready.
        """
        if self._ahead is None:
            if self._stopped:
                raise Stopped
            self._ahead = Prefetch(self._prepare, self.step, self._run.steps, self._block, self._threads)
            if self._stopped:  # meanwhile, by a signal
                self._ahead.stop()
        raw, arrived = next(self._ahead)
        self.step = self._ahead.step
        return self._transfer.receive(raw, arrived)

    @property
    def waited(self) -> float:
        """Seconds that the iteration has waited for batches in total."""
        return self._waited + (self._ahead.waited if self._ahead is not None else 0.0)

    def batch(self, step: int) -> Raw:
        """The batch of any step, prepared now and in this thread. Slow for a stream, which has to seek."""
        [(raw, arrived)] = self._prepare(step, 1)
        return self._transfer.receive(raw, arrived)

    def replace_second(self, images: np.ndarray | Tensor, step: int) -> None:
        """From a step on, draw the second unlabelled stream from these images; continue the iteration at that step.

        Batches prepared for later steps are dropped, so what a step gets depends on `images` alone.

        Args:
            images: bool [N_u], True for the chosen ones, or int64 [m], their positions in the run's unlabelled index
                array, whose order and repetitions do not matter; at least one.
            step: the step whose batch comes next.

        Raises:
            ValueError: the method declared no second stream, or there are no such images.
        """
        chosen = images.cpu().numpy() if isinstance(images, Tensor) else images
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else np.unique(chosen).astype(np.int64)
        if self._unlabeled is None or self._second is None:
            raise ValueError("the method declares no second unlabelled stream")
        if not len(chosen) or chosen[0] < 0 or chosen[-1] >= self.num_unlabeled:
            raise ValueError(f"{len(chosen)} positions, not all among the {self.num_unlabeled} unlabelled images")
        self._end_prefetch()
        self._second.close()
        self._second, self._positions = self._unlabeled.subset(chosen, "order second"), chosen
        self.step = step

    def stop(self) -> None:
        """Wake an iteration that waits for a batch; from any thread or signal handler."""
        self._stopped = True
        if self._ahead is not None:
            self._ahead.stop()

    def close(self) -> None:
        """End all threads."""
        self.stop()
        for images in (self._unlabeled, self._second):
            if images is not None:  # first: a thread may wait for a stream
                images.close()
        self._end_prefetch()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_labeled(self, store: SplitStore, block: int) -> Images:
        run, device = self._run, self.placement.device
        if isinstance(store, EmbeddedSplit):
            return open_views(store, store.labeled, self.views.labeled, run.batch, run, "order labeled", device)
        images = Resident(store.dataset.train_images, store.labeled, None, device)
        return Shuffled(images, None, run.batch, run.seed, "order labeled", block)

    def _end_prefetch(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._waited += self._ahead.waited
            self._ahead = None

    def _prepare(self, step: int, steps: int) -> list[Ready]:
        """The batches of some consecutive steps: pixels for all of them at once, the rest step by step."""
        with self._transfer.aside():
            x = self._read(self._labeled, step, steps)
            u = self._read(self._unlabeled, step, steps)
            second = self._read(self._second, step, steps)
            return [self._transfer.send(self._raw(step + i, x[i], u[i], second[i])) for i in range(steps)]

    def _read(self, images: Images | None, step: int, steps: int) -> list[tuple[np.ndarray, Tensor | None]]:
        """Samples and pixels of each step; empty and None where there are no images."""
        if images is None:
            return [(np.empty(0, np.int64), None)] * steps
        samples, pixels = images.read(step, steps, self._pin)
        return list(zip(samples.reshape(steps, -1), pixels.chunk(steps), strict=True))

    def _raw(self, step: int, x: Any, u: Any, second: Any) -> Raw:
        run, sizes = self._run, self.sizes
        views = []
        for purpose, kinds, count in (
            ("labeled", self.views.labeled, sizes.labeled),
            ("unlabeled", self.views.unlabeled, sizes.unlabeled),
            ("second", self.views.second, sizes.unlabeled),
        ):
            rng = generator(run.seed, f"views {purpose}", step)
            views += [self._draw_view(rng, kind, count) for kind in kinds if sizes.num_features is None]
        draws = self._method.draw(generator(run.seed, "method", step), sizes, self._settings)
        schedule = self._method.schedule(step, run.scheduled, sizes.num_classes, self._settings)
        lr = schedules.learning_rate(run.lr_schedule, run.lr, step, run.scheduled, run.warmup)
        backbone = float(step >= run.head_first)
        (labeled, x_pixels), (unlabeled, u_pixels), (chosen, second_pixels) = x, u, second
        u_id = unlabeled // (self.copies or 1)
        return Raw(
            x=x_pixels,
            y=_tensor(self._labels[labeled]),
            u=u_pixels,
            u_id=None if u_pixels is None else _tensor(u_id),
            second=second_pixels,
            second_id=None if second_pixels is None else _tensor(self._positions[chosen // (self.copies or 1)]),
            views=tuple({name: _tensor(values) for name, values in view.items()} for view in views),
            draws={name: _tensor(values) for name, values in draws.items()},
            schedule=_tensor(np.array([*(schedule[name] for name in self.schedule_names), backbone, lr], np.float32)),
            ood=None if self._is_ood is None else _tensor(self._is_ood[u_id]),
        )

    def _draw_view(self, rng: np.random.Generator, kind: Kind, count: int) -> dict[str, np.ndarray]:
        """The random numbers of one view of `count` samples."""
        weak = {"weak": flip_shift.draw_weak(rng, count, self._run.flip, self._run.shift)}
        return weak | draw_policy(rng, kind, self.views.policy, count, self.sizes.image_size)


def sizes_of(store: SplitStore, views: Views, run: RunConfig) -> Sizes:
    """The sizes of a run of a method with these views."""
    unlabeled = run.batch * views.ratio if views.unlabeled else 0
    rows, size = unlabeled_rows(store, views), store.dataset.image_size
    return Sizes(run.batch, unlabeled, store.num_classes, size, len(rows), len(store.valid), features_of(store))


def draw_policy(
    rng: np.random.Generator, kind: Kind, policy: Policy | None, count: int, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The random numbers of one view of `count` images of size (H, W), beyond its flip and shift."""
    if kind == "weak":
        return {}
    if kind == "probe":
        return ctaugment.draw_probe(rng, count, size)
    if policy == "ctaugment":
        return ctaugment.draw(rng, count, size)
    return randaugment.draw(rng, count, size, "uda" if policy == "uda" else "fixmatch")


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
