"""Where stores lie: folders of the file system, and prefixes of an S3 bucket behind the same few operations.

`locate` makes a `Location` of what a user types: a `pathlib.Path`, or for `s3://bucket/prefix` a `BucketPath`, which
knows the part of Path's interface that stores need. Nothing here writes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from stores.errors import IntegrityError, UsageError
from stores.storage.bucket import BucketFile, BucketPath

REQUESTS = 16  # at once: they wait for the network, not for a processor

Location = Path | BucketPath


def locate(place: str | Location) -> Location:
    """The folder or the bucket's prefix that a user names.

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
            f"'{place}' is no place for a store",
            "a store lies in a folder, or in s3://bucket/prefix",
            "other object storage: give its S3 endpoint in AWS_ENDPOINT_URL",
        )
    return BucketPath(bucket, "/".join(parts))


def inside(path: Location, folder: Location) -> str:
    """The path from `folder` to `path`, which lies in it: "train/images/zarr.json"."""
    if isinstance(path, BucketPath) or isinstance(folder, BucketPath):
        return str(path).removeprefix(f"{folder}/")
    return path.relative_to(folder).as_posix()


def parallel(place: Location) -> int:
    """How many reads at once make sense there."""
    cores = len(os.sched_getaffinity(0))
    return max(REQUESTS, cores) if isinstance(place, BucketPath) else cores


def stores_in(folder: Location) -> list[Location]:
    """Stores that lie in a folder, sorted."""
    if isinstance(folder, BucketPath):
        return [path for path in folder.iterdir() if (path / "zarr.json").is_file()]
    return sorted(path.parent for path in folder.glob("*/zarr.json"))


def identity(found: os.stat_result) -> tuple[int, ...]:
    """Differs between two files, and between what a file was before and after it was written to."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def version(path: Location) -> object:
    """What differs between a file or an object and what it was before it was written again.

    Raises:
        FileNotFoundError: it is not there.
    """
    return path.version() if isinstance(path, BucketPath) else identity(path.stat())


class LocalFile:
    """A file of the file system opened for reading parts of it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not make anybody wait
        found = os.fstat(self._fd)
        self.size, self.identity = found.st_size, identity(found)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._fd)
            raise IntegrityError(f"'{path}' is no regular file", "a store holds nothing but files and folders")

    def close(self) -> None:
        os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """Fewer bytes than `length` only at the file's end."""
        return os.pread(self._fd, length, offset)


def open_file(path: Location) -> LocalFile | BucketFile:
    """Open a file or an object for reading.

    Raises:
        FileNotFoundError: it is not there.
    """
    return BucketFile(path) if isinstance(path, BucketPath) else LocalFile(path)


def sha256_of(path: Location) -> tuple[int, str]:
    """Bytes and SHA-256 (hex) of a file or object; a file may be larger than memory.

    Raises:
        FileNotFoundError: it is not there.
    """
    if isinstance(path, BucketPath):
        data = path.read_bytes()
        return len(data), hashlib.sha256(data).hexdigest()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest
