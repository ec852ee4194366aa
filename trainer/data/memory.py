"""How much memory is free, and the refusal of what does not fit, before anything is read."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from stores.errors import ResourceError

MARGIN = 0.9  # share of the free memory that images may take


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
