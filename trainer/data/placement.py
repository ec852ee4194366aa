"""Where the unlabelled images of a run are held: decided once, from their size and the free memory or by `--feed`.

    device, host, mapped   resident: on the GPU, in memory, in a memory-mapped scratch file. Any sample at any time, so
                           all three have one order, and a resumed run may use another one of them.
    stream                 read from the store as needed, in an order of its own, within `--window` bytes.

Resident copies are held as they were stored, or as the images and boxes from which they are drawn
(`trainer.data.parametric`): the same pixels in a fiftieth of the memory, loaded in a second. That is the default where
the recipe allows it, except for stores whose copies are in FFCV's format only: they were made to be read with FFCV.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from stores import DatasetStore, SplitStore
from stores.copies import is_drawable
from stores.errors import StoreError, UsageError
from trainer import distributed
from trainer.config import RunConfig, parse_size
from trainer.contract import Views
from trainer.data.embedded import EmbeddedSplit, EmbeddedViews, views_bytes
from trainer.data.memory import MARGIN, free_memory
from trainer.data.parametric import Drawn, drawn_bytes
from trainer.data.resident import Pool, Resident, Shuffled
from trainer.data.streaming import Stream

DEVICE_SHARE = 0.6  # of the GPU's free memory that images may take unasked
# Bytes gathered by one call. What is written twice, as drawn copies are, should stay in the processor's cache.
DRAWN_BLOCK, STORED_BLOCK = 4 << 20, 16 << 20
MOST_STEPS = 32  # of a block, however small its batches are

Images = Shuffled | Stream | EmbeddedViews
Kind = Literal["device", "host", "mapped", "stream"]


@dataclass(frozen=True)
class Placement:
    """Where the unlabelled images are held.

    Attributes:
        kind: as above.
        device: that holds them; the CPU for "mapped" and "stream".
        drawn: copies are drawn when a batch is taken, not held.
        size: bytes held; of a stream its window.
        scratch: folder of the scratch file, if "mapped".
    """

    kind: Kind
    device: torch.device
    drawn: bool
    size: int
    scratch: Path | None = None

    @property
    def feed(self) -> Literal["resident", "stream"]:
        """What decides the order of samples, and must therefore stay when a run is resumed: a value of `--feed`."""
        return "stream" if self.kind == "stream" else "resident"

    def __str__(self) -> str:
        """Say it in words: `copies drawn from images in memory (155.2 MiB)`."""
        amount = f"({self.size / 2**30:.2f} GiB)" if self.size >= 1 << 30 else f"({self.size / 2**20:.1f} MiB)"
        if self.kind == "stream":
            return f"streamed from the store through a window {amount}"
        where = {"device": "GPU memory", "host": "memory", "mapped": "a mapped scratch file"}[self.kind]
        if self.kind == "device" and self.device.type == "cpu":
            where = "memory"
        return f"copies drawn from images in {where} {amount}" if self.drawn else f"in {where} {amount}"


def place(store: SplitStore, views: Views, run: RunConfig, device: torch.device) -> Placement:
    """Decide where a run's images are held. Of several processes, one that has to stream makes all of them stream.

    Args:
        views: of the method.
        run: its `feed`, `pool`, `copies`, `window` and `scratch`.
        device: of the network.

    Raises:
        StoreError: the method needs copies or unlabelled images that the store does not hold.
        UsageError: more copies asked for than stored; copies are to be drawn that cannot be, or that are streamed.
    """
    rows, copies = unlabeled_rows(store, views), num_copies(store, views, run)
    if isinstance(store, EmbeddedSplit):
        return _embedded(store, len(rows), views, run, device)
    chosen = choose(run, store.dataset, len(rows), copies, device, others=len(store.labeled))
    if run.feed == "auto" and distributed.agree(chosen.kind == "stream"):
        return _stream(run)
    return chosen


def choose(
    run: RunConfig, store: DatasetStore, rows: int, copies: int | None, device: torch.device, others: int = 0
) -> Placement:
    """The placement for this process alone.

    Args:
        rows: number of images.
        copies: number of copies of each; None: the images themselves.
        others: number of images that are held beside them.

    Raises:
        UsageError: as `place`.
    """
    size, drawn = _size(run, store, rows, copies)
    size += others * int(np.prod(store.image_size)) * 3
    host, scratch = torch.device("cpu"), Path(run.scratch or tempfile.gettempdir())
    kind: Kind
    if run.feed != "auto" and run.feed != "resident":
        kind = run.feed
    elif device.type == "cuda" and size <= DEVICE_SHARE * free_memory(device):
        kind = "device"
    elif size <= MARGIN * free_memory(host):
        kind = "host"
    elif run.feed == "resident" or size <= MARGIN * shutil.disk_usage(scratch).free:
        kind = "mapped"
    else:
        kind = "stream"
    if kind == "stream":
        return _stream(run)
    return Placement(kind, device if kind == "device" else host, drawn, size, scratch if kind == "mapped" else None)


def open_images(
    store: DatasetStore,
    rows: np.ndarray,
    copies: int | None,
    placement: Placement,
    batch: int,
    seed: int,
    purpose: str = "order unlabeled",
) -> Images:
    """Load images where the placement says, or open their stream.

    Args:
        rows: int64 [m], ascending, none twice: training images of the store.
        copies: K; sample i·K + j is copy j of row i. None: the images themselves.
        batch: samples a step.
        seed, purpose: of the order; the order of a stream has no name.

    Returns:
        endless shuffled batches: `read(step, steps)`, `close()`.

    Raises:
        IntegrityError: a file is missing or damaged; it is named.
        ResourceError: there is no room for a scratch file.
        UsageError: the window is too small.
    """
    array = store.copies if copies else store.train_images
    step_bytes = batch * int(np.prod(store.image_size)) * 3
    if placement.kind == "stream":
        assert array is not None
        block = _block(step_bytes, min(STORED_BLOCK, placement.size // 32))
        return Stream(array, rows, copies, batch, seed, placement.size, block)
    if placement.drawn:
        assert copies is not None
        pool: Pool = Drawn(store, rows, copies, placement.device, placement.scratch)
    else:
        assert array is not None
        pool = Resident(array, rows, copies, placement.device, placement.scratch)
    block = _block(step_bytes, DRAWN_BLOCK if placement.drawn else STORED_BLOCK)
    return Shuffled(pool, copies, batch, seed, purpose, block)


def unlabeled_rows(store: SplitStore, views: Views) -> np.ndarray:
    """The run's unlabelled index array: int64 rows of the dataset store, ascending, none twice.

    MixMatch and RealMix leave the labelled images out; ReMixMatch and FixMatch use them unlabelled as well.

    Raises:
        StoreError: the store has no unlabelled images, and the method needs some.
    """
    if not views.unlabeled:
        return np.empty(0, np.int64)
    rows = np.union1d(store.unlabeled, store.labeled) if views.labeled_in_unlabeled else np.sort(store.unlabeled)
    if not len(rows):
        raise StoreError(f"'{store.path}' has no unlabelled images", hint="--method supervised trains without any")
    return rows


def num_copies(store: SplitStore, views: Views, run: RunConfig) -> int | None:
    """Number of copies of each unlabelled image that the run uses; None: the images themselves.

    Raises:
        StoreError: the store holds no copies.
        UsageError: more copies asked for than stored.
    """
    if not views.unlabeled or views.source == "base" or isinstance(store, EmbeddedSplit):
        return None  # a sample is an image, also where its views are embeddings of different copies
    stored = store.dataset.num_copies
    if not stored:
        raise StoreError(
            f"'{store.dataset.path}' holds no copies",
            "the method trains on stored copies of the unlabelled images",
            "`realmix-data build … --copies 50` makes them",
        )
    if run.copies is not None and run.copies > stored:
        raise UsageError(
            f"--copies {run.copies} is more than '{store.dataset.path}' holds", f"it holds {stored} of each image"
        )
    return run.copies or stored


def _embedded(store: EmbeddedSplit, rows: int, views: Views, run: RunConfig, device: torch.device) -> Placement:
    if views.pixels:
        raise UsageError("the method cannot train on embeddings with these settings", views.pixels)
    if run.feed not in ("auto", "resident", "host", "device"):
        raise UsageError(f"embeddings cannot be '{run.feed}'", "they are held in memory", "--feed auto")
    if run.copies is not None and run.copies > store.embeddings.num_copies:
        known, what = store.embeddings.num_copies, f"--copies {run.copies} is more than '{store.embeddings.path}' has"
        raise UsageError(what, f"they are of {known} of each image")
    size = views_bytes(store, rows, views.unlabeled + views.second, run.copies)
    kind: Kind = "device" if device.type == "cuda" and run.feed != "host" else "host"
    return Placement(kind, device if kind == "device" else torch.device("cpu"), False, size)


def _stream(run: RunConfig) -> Placement:
    return Placement("stream", torch.device("cpu"), False, parse_size(run.window))


def _block(step_bytes: int, limit: int) -> int:
    """Number of steps that are gathered by one call."""
    return max(1, min(MOST_STEPS, limit // step_bytes))


def _size(run: RunConfig, store: DatasetStore, rows: int, copies: int | None) -> tuple[int, bool]:
    """Bytes of resident images, and whether their copies are drawn."""
    possible = copies is not None and is_drawable(store.manifest)
    if run.pool == "drawn" and copies is not None:
        if not possible:
            raise UsageError(
                f"copies of the recipe '{store.manifest['spec']['recipe']['name']}' cannot be drawn",
                "cutout's and erase's can",
                "--set pool=stored takes them as they were stored",
            )
        if run.feed == "stream":
            raise UsageError("a stream takes copies as they were stored", hint="--set pool=drawn needs another --feed")
    images = rows * (copies or 1) * int(np.prod(store.image_size)) * 3
    drawn = possible and (run.pool == "drawn" or (run.pool == "auto" and store.has_zarr_copies))
    return (drawn_bytes(store, rows, copies), True) if drawn and copies else (images, False)
