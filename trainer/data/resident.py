"""Images resident in memory: read once from the store, then gathered by index.

They are held in the computer's memory, in the GPU's, or in a scratch file that is memory-mapped. Decoded once, such a
file allows a uniform shuffle of more images than fit into memory, whatever the store's chunks are.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stores import ImageArray
from stores.errors import ResourceError
from stores.ffcv.reading import BetonArray
from stores.system import process
from trainer.data.memory import Buffers
from trainer.data.sampler import Sampler

BLOCK_BYTES = 256 << 20  # decoded at a time on the way to a GPU
THREADS = min(2, process.cores())  # that gather: memory is hardly faster for more


class Pool(Protocol):
    """What `Shuffled` gathers from: `Resident`, `trainer.data.parametric.Drawn`, `Subset`.

    Attributes:
        image_shape: (H, W, 3).
        device: where the gathered images are.
    """

    image_shape: tuple[int, ...]
    device: torch.device

    def __len__(self) -> int: ...

    def take(self, samples: np.ndarray, out: Tensor | None = None) -> Tensor: ...


class Resident:
    """Images uint8 [n, H, W, 3] on `device`; with copies, sample i·K + j is copy j of row i.

    Args:
        array: [N, H, W, 3] or [N, A, H, W, 3].
        rows: int64 [m], rows of the array.
        copies: K, how many copies of each row; None for an array without copies.
        device: where the images are held.
        scratch: folder of the scratch file, for images that are memory-mapped; None: in memory. The file has no name,
            so it is gone with the process, however that ends.

    Raises:
        ResourceError: there is no room for the scratch file.
    """

    def __init__(
        self,
        array: ImageArray | BetonArray,
        rows: np.ndarray,
        copies: int | None,
        device: torch.device,
        scratch: Path | None = None,
    ) -> None:
        shape = (len(rows), *((copies,) if copies else ()), *array.shape[-3:])
        self.image_shape = tuple(int(n) for n in array.shape[-3:])
        self.device = device
        image_bytes = int(np.prod(self.image_shape))
        if device.type == "cpu":
            images = np.empty(shape, np.uint8) if scratch is None else _scratch_file(shape, scratch)
            array.read(rows, copies=copies, out=images)
            self._flat = torch.from_numpy(images).view(-1, image_bytes)
            return
        self._flat = torch.empty((int(np.prod(shape[:-3])), image_bytes), dtype=torch.uint8, device=device)
        per_row = int(np.prod(shape[1:-3], dtype=np.int64))
        block = max(1, min(len(rows), BLOCK_BYTES // int(np.prod(shape[1:]))))
        buffers = [torch.empty((block, *shape[1:]), dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        copied = [torch.cuda.Event() for _ in buffers]
        for number, start in enumerate(range(0, len(rows), block)):  # decode one block while the last one is copied
            some = rows[start : start + block]
            part = buffers[number % 2][: len(some)]
            copied[number % 2].synchronize()
            array.read(some, copies=copies, out=part.numpy())
            place = slice(start * per_row, (start + len(part)) * per_row)
            self._flat[place].copy_(part.view(-1, image_bytes), non_blocking=True)
            copied[number % 2].record()
        torch.cuda.current_stream(device).synchronize()

    def __len__(self) -> int:
        return self._flat.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._flat.numel()

    def take(self, samples: np.ndarray, out: Tensor | None = None) -> Tensor:
        """Gather images.

        Args:
            samples: int64 [n].
            out: contiguous uint8 [n, H, W, 3] to write to, on the CPU; None: new memory.

        Returns:
            uint8 [n, H, W, 3] on `device`.
        """
        flat = None if out is None else out.view(len(samples), -1)
        return gather(self._flat, samples, flat).view(-1, *self.image_shape)


def gather(table: Tensor, rows: np.ndarray, out: Tensor | None = None) -> Tensor:
    """Rows of a table [m, k] as a tensor [n, k] on the same device, on a GPU without waiting for it.

    On the CPU NumPy gathers: torch would wake another team of OpenMP threads, to compete with the training step.
    """
    if table.device.type != "cpu":
        index = torch.from_numpy(rows).pin_memory().to(table.device, non_blocking=True)
        return table.index_select(0, index)
    out = torch.empty((len(rows), table.shape[1]), dtype=table.dtype) if out is None else out
    # "clip" writes straight into `out`; the default mode would make a copy first
    np.take(table.numpy(), rows, axis=0, out=out.numpy(), mode="clip")
    return out


class Subset:
    """Some images of a pool: sample i·K + j is copy j of the pool's image `positions[i]`.

    Args:
        positions: int64 [m], images of the pool.
        copies: K; 1 for images without copies.
    """

    def __init__(self, pool: Pool, positions: np.ndarray, copies: int) -> None:
        self._pool, self._positions, self._copies = pool, positions, copies
        self.image_shape, self.device = pool.image_shape, pool.device

    def __len__(self) -> int:
        return len(self._positions) * self._copies

    def take(self, samples: np.ndarray, out: Tensor | None = None) -> Tensor:
        """Gather images, as `Resident.take`."""
        image, copy = np.divmod(samples, self._copies)
        return self._pool.take(self._positions[image] * self._copies + copy, out)


class Shuffled:
    """Endless shuffled batches of a pool.

    Args:
        pool: the images.
        copies: K of the pool; None for images without copies.
        batch: samples a step.
        seed, purpose: of the order, see `Sampler`.
        block: largest number of steps read by one call.

    Attributes:
        threads: how many threads should read at the same time.
        block: as given.
    """

    threads = THREADS

    def __init__(self, pool: Pool, copies: int | None, batch: int, seed: int, purpose: str, block: int = 1) -> None:
        self._pool, self._copies, self.block = pool, copies, block
        self._sampler = Sampler(len(pool), batch, seed, purpose)
        self._buffers = Buffers(block * batch * int(np.prod(pool.image_shape)))

    def __len__(self) -> int:
        return len(self._pool)

    def read(self, step: int, steps: int = 1, pin: bool = False) -> tuple[np.ndarray, Tensor]:
        """Samples and images of some consecutive steps; from any thread.

        Args:
            steps: number of steps, at most `block`.
            pin: page-locked memory, if the pool is on the CPU.

        Returns:
            int64 [steps · batch] and uint8 [steps · batch, H, W, 3] on the pool's device.
        """
        samples = self._sampler.samples(step, steps)
        if self._pool.device.type != "cpu":
            return samples, self._pool.take(samples)
        return samples, self._pool.take(samples, self._buffers.lend(len(samples), *self._pool.image_shape, pin=pin))

    def subset(self, positions: np.ndarray, purpose: str) -> Shuffled:
        """Batches of some of the pool's images, in an order of their own; nothing is read again.

        Args:
            positions: int64 [m], images of the pool; sample i·K + j is copy j of image `positions[i]`.
        """
        some = Subset(self._pool, positions, self._copies or 1)
        return Shuffled(some, self._copies, self._sampler.batch, self._sampler.seed, purpose, self.block)

    def close(self) -> None:
        """Nothing to end."""


def _scratch_file(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """A memory-mapped uint8 array in a file without a name, with its space reserved."""
    size = int(np.prod(shape))
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
            else:  # not Linux: the space is there or not when it is written
                file.truncate(max(size, 1))
        except OSError as error:
            raise ResourceError(
                f"no room for {size / 2**30:.2f} GiB of decoded images in '{folder}'",
                error.strerror or "",
                "--set scratch=FOLDER names another disk, --copies takes fewer copies of each image",
            ) from None
        return np.memmap(file, np.uint8, "r+", shape=shape)
