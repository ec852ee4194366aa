"""Syncing folders: a new or renamed file survives a power cut only if its folder was synced too.

The writer of a file syncs its contents. Objects in a bucket are durable once they are written.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

# errors of file systems that cannot sync a folder, and of folders that may not be opened; there is nothing left to do
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder: files made, renamed or removed in it."""
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
    """`sync_folder` for a folder and all folders below it."""
    for inner, _, _ in os.walk(folder):
        sync_folder(Path(inner))


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, and sync them."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)
