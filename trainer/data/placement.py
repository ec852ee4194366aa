"""Where the unlabelled images of a run live: chosen from their size and the memory that is free, or as `--feed` says.

    device, host, mapped   resident: on the GPU, in memory, in a scratch file mapped into memory. Any sample at any
                           time, so all three have one order, and a resumed run may have another home.
    stream                 read from the store as it is needed, in an order of its own, within `--window` bytes.

A resident pool of copies holds them as they were stored, or the images and boxes from which they are drawn
(`trainer.data.parametric`): the same pixels for a fiftieth of the memory, there in a second. That is the default
wherever the recipe allows it, except for stores whose copies are in FFCV's format alone: whoever made those wants FFCV
to read them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from stores import DatasetStore
from stores.errors import UsageError
from trainer.config import RunConfig, parse_size
from trainer.data.memory import MARGIN, free_memory
from trainer.data.parametric import Drawn, can_draw, drawn_bytes
from trainer.data.resident import Pool
from trainer.data.sampler import Shuffled
from trainer.data.slabs import LIMIT, Slabs
from trainer.data.streaming import Stream

DEVICE_SHARE = 0.6  # of the GPU's free memory that a pool may take unasked
STORED = 16 << 20  # bytes of a slab of stored copies, and at most a 32nd of a stream's window
THREADS = 2  # that gather from a resident pool: memory is not much faster for more

Kind = Literal["device", "host", "mapped", "stream"]


@dataclass(frozen=True)
class Home:
    """Where a pool lives.

    Attributes:
        kind: as above. device: that holds the pool; of a stream and of a mapped pool the computer.
        drawn: copies are drawn when a batch is taken, not held.
        size: bytes of the pool, of a stream its window.
        scratch: folder of a mapped pool's file.
    """

    kind: Kind
    device: torch.device
    drawn: bool
    size: int
    scratch: Path | None = None

    def __str__(self) -> str:
        """`copies drawn from images in memory (155.2 MiB)`"""
        amount = f"({self.size / 2**30:.2f} GiB)" if self.size >= 1 << 30 else f"({self.size / 2**20:.1f} MiB)"
        if self.kind == "stream":
            return f"streamed from the store through a window {amount}"
        where = {"device": "GPU memory", "host": "memory", "mapped": "a mapped scratch file"}[self.kind]
        if self.kind == "device" and self.device.type == "cpu":
            where = "memory"
        return f"copies drawn from images in {where} {amount}" if self.drawn else f"in {where} {amount}"


def choose(
    run: RunConfig, store: DatasetStore, rows: int, copies: int | None, device: torch.device, others: int = 0
) -> Home:
    """The home of a pool.

    Args:
        run: its `feed`, `pool`, `window` and `scratch`.
        rows, copies: how many images, and how many copies of each; None: the images themselves.
        device: of the network.
        others: how many more images there will be beside the pool.

    Raises:
        UsageError: copies are to be drawn that cannot be, or streamed.
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
        return Home("stream", host, False, parse_size(run.window))
    return Home(kind, device if kind == "device" else host, drawn, size, scratch if kind == "mapped" else None)


def open_images(
    store: DatasetStore, rows: np.ndarray, copies: int | None, home: Home, size: int, seed: int,
    purpose: str = "order unlabeled",
) -> Shuffled | Slabs:  # fmt: skip
    """Endless shuffled batches of a pool: `take(step)` gives samples and pixels, `close()` ends the threads.

    Args:
        rows: int64 [m], ascending, of the store's training images.
        copies: K; sample i·K + j is copy j of row i. None: the images themselves.
        size: of a batch.
    """
    array = store.copies if copies else store.train_images
    if home.kind == "stream":
        assert array is not None
        return Slabs(Stream(array, rows, copies, size, seed, home.size), limit=min(STORED, home.size // 32))
    if home.drawn:
        assert copies is not None
        pool: Pool | Drawn = Drawn(store, rows, copies, home.device, home.scratch)
    else:
        assert array is not None
        pool = Pool(array, rows, copies, home.device, home.scratch)
    images = Shuffled(pool, size, seed, purpose)
    if home.device.type != "cpu":
        return images
    return Slabs(images, min(THREADS, len(os.sched_getaffinity(0))), LIMIT if home.drawn else STORED)


def _size(run: RunConfig, store: DatasetStore, rows: int, copies: int | None) -> tuple[int, bool]:
    """Bytes of a resident pool, and whether its copies are drawn."""
    possible = copies is not None and can_draw(store)
    if run.pool == "drawn" and copies is not None:
        if not possible:
            raise UsageError(
                f"copies of the recipe '{store.manifest['spec']['recipe']['name']}' cannot be drawn",
                "cutout's and erase's can", "--set pool=stored takes them as they were stored",
            )  # fmt: skip
        if run.feed == "stream":
            raise UsageError("a stream takes copies as they were stored", hint="--set pool=drawn needs another --feed")
    images = rows * (copies or 1) * int(np.prod(store.image_size)) * 3
    drawn = possible and (run.pool == "drawn" or (run.pool == "auto" and store.has_zarr_copies))
    return (drawn_bytes(store, rows, copies), True) if drawn and copies else (images, False)
