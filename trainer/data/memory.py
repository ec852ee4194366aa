"""Memory: how much is free, a check before images are read, and buffers for batches."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stores.errors import ResourceError

MARGIN = 0.9  # share of the free memory that images may take


def require_memory(size: int, device: torch.device, hint: str = "") -> None:
    """Raise a ResourceError if `size` bytes do not fit into the free memory of `device`."""
    free = free_memory(device)
    if size > MARGIN * free:
        where = "GPU" if device.type == "cuda" else "computer"
        raise ResourceError(
            f"the images take {size / 2**30:.2f} GiB, the {where} has {free / 2**30:.2f} GiB of memory free", hint=hint
        )


def free_memory(device: torch.device) -> int:
    """Free bytes on the device; on the CPU those of the machine or of the container's limit, whichever is less."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if not meminfo.is_file():  # not Linux: nobody says what is free, so half of all
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    free = _field(meminfo, "MemAvailable:") * 1024
    limit = (group / "memory.max").read_text().strip() if (group / "memory.max").is_file() else "max"
    if limit != "max":  # the page cache counts as used, but is given up when memory is needed
        used = int((group / "memory.current").read_text()) - _field(group / "memory.stat", "inactive_file")
        free = min(free, int(limit) - used)
    return free


def _field(table: Path, name: str) -> int:
    """The number beside `name` in a file of "name number" lines; 0 if there is none."""
    lines = (line.split() for line in table.read_text().splitlines())
    return next((int(words[1]) for words in lines if words[0] == name), 0)


class Buffers:
    """Reusable memory for batches: writing to fresh pages takes as long as the gather itself.

    A buffer is reused once no tensor or array shares its memory any more, so a batch may be kept for any time.

    Args:
        size: bytes of a buffer.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[np.ndarray] = []

    def lend(self, *shape: int, pin: bool = False) -> Tensor:
        """Return a uint8 tensor of this shape with undefined content, of at most `size` bytes.

        Args:
            pin: return page-locked memory instead, which torch's caching host allocator reuses by itself.
        """
        if pin:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(self._size, np.uint8)
        view = buffer.data  # a memoryview that lives as long as the tensor's storage, which all its views share
        weakref.finalize(view, self._free.append, buffer).atexit = False
        return torch.frombuffer(view, dtype=torch.uint8)[: int(np.prod(shape))].view(shape)
