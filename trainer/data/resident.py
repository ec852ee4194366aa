"""Images resident in memory: read once from the store straight into place, then gathered by index.

The home is the computer's memory, the device's, or a scratch file mapped into memory: decoded once, that gives a
uniform shuffle over a pool larger than memory, whatever the store's chunks are. Nothing here chooses a home, or falls
back to a slower one by itself.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stores import ImageArray
from stores.errors import ResourceError
from stores.ffcv.reading import BetonArray

BLOCK_BYTES = 256 << 20  # what is decoded at a time on the way to a GPU


class Pool:
    """Uint8 images [n, H, W, 3] on `home`; with copies, sample i·K + j is copy j of row i.

    Args:
        array: [N, H, W, 3] or [N, A, H, W, 3].
        rows: int64 [m], rows of the array.
        copies: K, how many copies of each row; None for an array without copies.
        home: where the images live.
        scratch: folder for the file of a mapped pool on the computer; None: in memory. The file has no name, so it is
            gone with the process, however that ends.
    """

    def __init__(
        self, array: ImageArray | BetonArray, rows: np.ndarray, copies: int | None, home: torch.device,
        scratch: Path | None = None,
    ) -> None:  # fmt: skip
        shape = (len(rows), *((copies,) if copies else ()), *array.shape[-3:])
        self.image_shape = tuple(int(n) for n in array.shape[-3:])
        self.home = home
        image_bytes = int(np.prod(self.image_shape))
        if home.type == "cpu":
            images = np.empty(shape, np.uint8) if scratch is None else _scratch_file(shape, scratch)
            array.read(rows, copies=copies, out=images)
            self._flat = torch.from_numpy(images).view(-1, image_bytes)
            return
        self._flat = torch.empty((int(np.prod(shape[:-3])), image_bytes), dtype=torch.uint8, device=home)
        per_row = int(np.prod(shape[1:-3], dtype=np.int64))
        block = max(1, min(len(rows), BLOCK_BYTES // int(np.prod(shape[1:]))))
        buffers = [torch.empty((block, *shape[1:]), dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        copied = [torch.cuda.Event() for _ in buffers]
        for number, start in enumerate(range(0, len(rows), block)):  # one block is decoded while the last one is copied
            some = rows[start : start + block]
            part = buffers[number % 2][: len(some)]
            copied[number % 2].synchronize()
            array.read(some, copies=copies, out=part.numpy())
            place = slice(start * per_row, (start + len(part)) * per_row)
            self._flat[place].copy_(part.view(-1, image_bytes), non_blocking=True)
            copied[number % 2].record()
        torch.cuda.current_stream(home).synchronize()

    def __len__(self) -> int:
        return self._flat.shape[0]

    def take(self, samples: np.ndarray, pin: bool = False, out: Tensor | None = None) -> Tensor:
        """Gather: int64 [n] → uint8 [n, H, W, 3] on the pool's home; if that is the computer, page-locked if `pin`, or
        in `out`, contiguous uint8 [n, H, W, 3]."""
        flat = None if out is None else out.view(len(samples), -1)
        return gather(self._flat, samples, pin, flat).view(-1, *self.image_shape)


def gather(table: Tensor, rows: np.ndarray, pin: bool = False, out: Tensor | None = None) -> Tensor:
    """Rows of a table [m, k] as a tensor [n, k] beside it, on a GPU without waiting for it.

    On the computer NumPy gathers: torch would wake a second team of OpenMP threads in the feed's thread, to wait for
    the cores that the step computes on.
    """
    if table.device.type != "cpu":
        index = torch.from_numpy(rows).pin_memory().to(table.device, non_blocking=True)
        return table.index_select(0, index)
    out = empty((len(rows), table.shape[1]), table.numpy().dtype, pin) if out is None else out
    # "clip" writes straight into `out`; the default mode would make a copy first
    np.take(table.numpy(), rows, axis=0, out=out.numpy(), mode="clip")
    return out


def empty(shape: tuple[int, ...], dtype: np.dtype, pin: bool) -> Tensor:
    """Memory for a batch on the computer; NumPy's, where it need not be page-locked, is filled a third faster."""
    plain = np.empty(0 if pin else shape, dtype)
    return torch.empty(shape, dtype=torch.from_numpy(plain).dtype, pin_memory=True) if pin else torch.from_numpy(plain)


def _scratch_file(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """A mapped uint8 array in a file without a name, its space reserved."""
    size = int(np.prod(shape))
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        except OSError as error:
            raise ResourceError(
                f"no room for {size / 2**30:.2f} GiB of decoded images in '{folder}'", error.strerror or "",
                "--set scratch=FOLDER names another disk, --copies takes fewer copies of each image",
            ) from None  # fmt: skip
        return np.memmap(file, np.uint8, "r+", shape=shape)
