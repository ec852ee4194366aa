"""A store is data of whoever made it: what lies in it never makes anybody read or write outside its folder, or wait.

The folder itself may be reached through a symbolic link; a link inside it that leads elsewhere is refused, and so is
what is no regular file. A bucket has neither.
"""

from __future__ import annotations

import contextlib
import os
import stat

from stores.errors import IntegrityError
from stores.storage.bucket import BucketPath
from stores.storage.location import Location, open_file


def require_inside(store: Location, path: Location) -> None:
    """Refuse the path of a store's file if it leaves its folder through a symbolic link, or is no regular file.

    Raises:
        IntegrityError: it does, or is.
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
            raise IntegrityError(f"'{path}' is no regular file", "a store holds nothing but files and folders")


def read_inside(store: Location, path: Location) -> bytes:
    """A whole small file of a store.

    Raises:
        FileNotFoundError: it is not there.
        IntegrityError: it is no regular file, or leads out of the store.
    """
    require_inside(store, path)
    if isinstance(path, BucketPath):
        return path.read_bytes()
    file = open_file(path)
    try:
        return file.read(0, file.size)
    finally:
        file.close()
