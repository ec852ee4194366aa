"""Images resident in memory: read once from the store straight into place, then gathered by index.

The home is the computer's memory, the device's, or a scratch file mapped into memory: decoded once, that gives a
uniform shuffle over a pool larger than memory, whatever the store's chunks are. `require_memory` refuses what does not
fit before anything is read; nothing here falls back to a slower home by itself.
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
from stores.ffcv import BetonArray

MARGIN = 0.9  # share of the free memory that a pool may take
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
        if home.type == "cpu":
            images = np.empty(shape, np.uint8) if scratch is None else _scratch_file(shape, scratch)
            array.read(rows, copies=copies, out=images)
            self._flat = torch.from_numpy(images).view(-1, int(np.prod(self.image_shape)))
        else:
            self._flat = torch.empty(
                (int(np.prod(shape[:-3])), int(np.prod(self.image_shape))), dtype=torch.uint8, device=home
            )
            per_row = int(np.prod(shape[1:-3], dtype=np.int64))
            block = max(1, BLOCK_BYTES // int(np.prod(shape[1:])))
            for start in range(0, len(rows), block):
                part = torch.from_numpy(array.read(rows[start : start + block], copies=copies))
                place = slice(start * per_row, (start + len(part)) * per_row)
                self._flat[place].copy_(part.view(-1, self._flat.shape[1]))

    def __len__(self) -> int:
        return self._flat.shape[0]

    @property
    def home(self) -> torch.device:
        return self._flat.device

    def take(self, samples: Tensor, pin: bool = False) -> Tensor:
        """Gather: int64 [n] on the pool's home → uint8 [n, H, W, 3], page-locked if `pin`."""
        out = torch.empty((len(samples), self._flat.shape[1]), dtype=torch.uint8, device=self.home, pin_memory=pin)
        torch.index_select(self._flat, 0, samples, out=out)
        return out.view(-1, *self.image_shape)


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


def require_memory(size: int, home: torch.device, hint: str = "") -> None:
    """Raises ResourceError if `size` bytes do not fit into what is free on `home`."""
    free = free_memory(home)
    if size > MARGIN * free:
        where = "GPU" if home.type == "cuda" else "computer"
        raise ResourceError(
            f"the images take {size / 2**30:.2f} GiB, the {where} has {free / 2**30:.2f} GiB of memory free", hint=hint
        )


def free_memory(home: torch.device) -> int:
    """Bytes free on the device; on the computer, what it or the container's limit leaves, whichever is less."""
    if home.type == "cuda":
        return torch.cuda.mem_get_info(home)[0]
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if not meminfo.is_file():  # no Linux: what is not in use right now
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = _field(meminfo, "MemAvailable:") * 1024
    limit = (group / "memory.max").read_text().strip() if (group / "memory.max").is_file() else "max"
    if limit != "max":  # the page cache counts as used, and is given up when memory is asked for
        used = int((group / "memory.current").read_text()) - _field(group / "memory.stat", "inactive_file")
        free = min(free, int(limit) - used)
    return free


def _field(table: Path, name: str) -> int:
    """The number beside `name` in a file of "name number" lines; 0 if there is none."""
    lines = (line.split() for line in table.read_text().splitlines())
    return next((int(words[1]) for words in lines if words[0] == name), 0)
