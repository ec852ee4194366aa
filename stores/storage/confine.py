"""Keeping reads and writes inside a store's folder: stores may come from anywhere and are not trusted.

The folder itself may be a symbolic link. Links inside it that lead out of it are refused, and so is everything that is
not a regular file (reading a pipe would hang). Buckets have neither.
"""

from __future__ import annotations

import contextlib
import os
import stat

from stores.errors import IntegrityError
from stores.storage.bucket import BucketPath
from stores.storage.location import Location, open_file


def require_inside(store: Location, path: Location) -> None:
    """Check the path of a file of a store.

    Raises:
        IntegrityError: it leads out of the store through a symbolic link, or is not a regular file.
    """
    if isinstance(store, BucketPath) or isinstance(path, BucketPath):
        return
    real = os.path.realpath(path)
    if not real.startswith(os.path.realpath(store).rstrip("/") + "/"):
        raise IntegrityError(
            f"'{path}' leads out of its store",
            "a store holds no symbolic links to other places",
            "copy what it points to into its place",
        )
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(os.stat(real).st_mode):  # noqa: PTH116
            raise IntegrityError(f"'{path}' is not a regular file", "a store holds nothing but files and folders")


def read_inside(store: Location, path: Location) -> bytes:
    """Read a small file of a store.

    Raises:
        FileNotFoundError: it does not exist.
        IntegrityError: it is not a regular file, or leads out of the store.
    """
    require_inside(store, path)
    if isinstance(path, BucketPath):
        return path.read_bytes()
    file = open_file(path)
    try:
        return file.read(0, file.size)
    finally:
        file.close()
