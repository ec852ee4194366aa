"""What survives a power cut: a new or renamed file is there afterwards only if its folder was synced too.

A file's own bytes are synced by whoever writes it. In a bucket an object is durable once it is written.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

# what file systems answer that cannot sync a folder, or may not open it for reading: nothing more can be done there
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)


def sync_folder(folder: Path) -> None:
    """Wait until what was last made, renamed or removed in a folder is on the disk."""
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        if descriptor is not None:
            os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync_folder` for a folder and all below it."""
    for inner, _, _ in os.walk(folder):
        sync_folder(Path(inner))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, so that they stay."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)
