"""Locations of stores: folders, and prefixes of S3 buckets, with the same few operations.

`locate` turns what a user types into a `Location`: a `pathlib.Path`, or a `BucketPath` for `s3://bucket/prefix`.
Nothing here writes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from stores.errors import IntegrityError, UsageError
from stores.storage.bucket import BucketFile, BucketPath
from stores.system import process

REQUESTS = 16  # in parallel: they wait for the network, not for a processor

Location = Path | BucketPath


def locate(place: str | Location) -> Location:
    """The folder or the prefix of a bucket that a user names.

    Raises:
        UsageError: a URL of another kind, or without a bucket.
    """
    if not isinstance(place, str):
        assert isinstance(place, BucketPath) or place.parts[:1] != ("s3:",), "a Path cannot hold a URL: pass its text"
        return place
    if "://" not in place:
        return Path(place)
    scheme, bucket, key, query, fragment = urlsplit(place)
    parts = [part for part in key.split("/") if part]
    if scheme != "s3" or not bucket or query or fragment or {".", ".."} & set(parts):
        raise UsageError(
            f"'{place}' cannot be the location of a store",
            "a store is in a folder, or at s3://bucket/prefix",
            "other object storage: give its S3 endpoint in AWS_ENDPOINT_URL",
        )
    return BucketPath(bucket, "/".join(parts))


def inside(path: Location, folder: Location) -> str:
    """The path of `path` relative to `folder`: "train/images/zarr.json"."""
    if isinstance(path, BucketPath) or isinstance(folder, BucketPath):
        return str(path).removeprefix(f"{folder}/")
    return path.relative_to(folder).as_posix()


def parallel(place: Location) -> int:
    """How many parallel reads make sense there."""
    cores = process.cores()
    return max(REQUESTS, cores) if isinstance(place, BucketPath) else cores


def stores_in(folder: Location) -> list[Location]:
    """The stores in a folder, sorted."""
    if isinstance(folder, BucketPath):
        return [path for path in folder.iterdir() if (path / "zarr.json").is_file()]
    return sorted(path.parent for path in folder.glob("*/zarr.json"))


def identity(found: os.stat_result) -> tuple[int, ...]:
    """A value that differs between two files, and changes when a file is written to."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def version(path: Location) -> object:
    """A value that changes when a file or object is written again.

    Raises:
        FileNotFoundError: it does not exist.
    """
    return path.version() if isinstance(path, BucketPath) else identity(path.stat())


class LocalFile:
    """A file opened for reads at any offset."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe must not block
        found = os.fstat(self._fd)
        self.size, self.identity = found.st_size, identity(found)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._fd)
            raise IntegrityError(f"'{path}' is not a regular file", "a store holds nothing but files and folders")

    def close(self) -> None:
        os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes; fewer only at the end of the file."""
        return os.pread(self._fd, length, offset)


def open_file(path: Location) -> LocalFile | BucketFile:
    """Open a file or an object for reads at any offset.

    Raises:
        FileNotFoundError: it does not exist.
    """
    return BucketFile(path) if isinstance(path, BucketPath) else LocalFile(path)


def sha256_of(path: Location) -> tuple[int, str]:
    """Size in bytes and SHA-256 (hex) of a file or object; files may be larger than memory.

    Raises:
        FileNotFoundError: it does not exist.
    """
    if isinstance(path, BucketPath):
        data = path.read_bytes()
        return len(data), hashlib.sha256(data).hexdigest()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest
