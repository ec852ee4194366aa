"""Objects of an S3 bucket with the part of `pathlib.Path`'s interface that stores need.

Requests are retried with growing pauses. An object is written whole, in one request, or not at all. Credentials, region
and endpoint come from the usual AWS_* environment variables. Errors of the server or the network become a
`StorageError`. Needs the extra `cloud`, imported by the first request.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stores.errors import IntegrityError, StorageError, UsageError, install
from stores.storage.answers import wait_for

if TYPE_CHECKING:
    from obstore.store import S3Store

RETRIES = 8
FIRST_PAUSE, LONGEST_PAUSE, RETRY_SECONDS = 0.1, 10.0, 120.0  # pauses double; 8 retries are about 20 s
CONNECT_SECONDS, STALL_SECONDS, REQUEST_SECONDS = 5.0, 30.0, 600.0
TAIL_BYTES = 16 << 10  # fetched when an object is opened: its chunk index, or all of a small object
METADATA_SERVICE = "http://169.254.169.254"  # gives a cloud machine its credentials


@dataclass(frozen=True)
class BucketPath:
    """An object or a prefix of an S3 bucket, `s3://bucket/key`; its methods are those of `pathlib.Path`.

    Methods that make a request raise `StorageError` if the server does not answer, refuses, or has no such bucket.

    Attributes:
        bucket: name of the bucket.
        key: without a slash at either end; empty for the bucket itself.
    """

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str | PurePosixPath) -> BucketPath:
        return BucketPath(self.bucket, "/".join(part for part in (self.key, str(name).strip("/")) if part))

    def __lt__(self, other: BucketPath) -> bool:
        return (self.bucket, self.key) < (other.bucket, other.key)

    @property
    def name(self) -> str:
        return PurePosixPath(self.key).name or self.bucket

    @property
    def parent(self) -> BucketPath:
        return BucketPath(self.bucket, self.key.rpartition("/")[0])

    def resolve(self) -> BucketPath:
        return self

    def absolute(self) -> BucketPath:
        return self

    def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Do nothing: prefixes need not be made."""

    def is_file(self) -> bool:
        obstore = _library()
        try:
            with _request(self):
                wait_for(lambda: obstore.head_async(connect(self.bucket), self.key))
        except FileNotFoundError:
            return False
        return True

    def version(self) -> str:
        """The tag of this version of the object."""
        obstore = _library()
        with _request(self):
            return str(wait_for(lambda: obstore.head_async(connect(self.bucket), self.key))["e_tag"])

    def is_dir(self) -> bool:
        """Whether there is an object under this prefix."""
        return bool(self._below(first=True))

    def exists(self) -> bool:
        return self.is_dir() or self.is_file()

    def iterdir(self) -> Iterator[BucketPath]:
        """Objects and prefixes directly under this prefix."""
        obstore = _library()
        found = self._listed(lambda: obstore.list_with_delimiter_async(connect(self.bucket), self.key or None))
        keys = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        yield from sorted(BucketPath(self.bucket, key) for key in keys)

    def rglob(self, name: str) -> Iterator[BucketPath]:
        """Objects at any depth below this prefix that are called `name`, or all of them for "*"."""
        yield from (path for path in self._below() if name in ("*", path.name))

    def read_bytes(self) -> bytes:
        return self.read_version()[0]

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def read_version(self) -> tuple[bytes, str]:
        """The object's bytes and the tag of this version of it."""
        with _request(self):
            data, meta = wait_for(lambda: _get(self))
            return data, meta["e_tag"] or ""

    def write_bytes(self, data: bytes | memoryview, *, instead_of: str | None = None) -> str | None:
        """Write the whole object.

        Args:
            data: its content.
            instead_of: replace only the version with this tag; "": write only if there is no such object.

        Returns:
            Tag of the new version; None if the current version is not `instead_of`.
        """
        obstore = _library()
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "overwrite" if instead_of is None else {"e_tag": instead_of} if instead_of else "create"
        try:
            with _request(self):
                # in one request: an interrupted multipart upload leaves invisible parts that are paid for
                made = wait_for(
                    lambda: obstore.put_async(connect(self.bucket), self.key, data, mode=mode, use_multipart=False)
                )
        except (AlreadyExistsError, PreconditionError):
            return None
        except FileNotFoundError:  # the object to replace is gone
            return None
        return made["e_tag"] or ""

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete the object; S3 does not say whether there was one."""
        obstore = _library()
        with _request(self), contextlib.suppress(FileNotFoundError):
            wait_for(lambda: obstore.delete_async(connect(self.bucket), self.key))

    def _below(self, *, first: bool = False) -> list[BucketPath]:
        """Objects below this prefix, or only the first."""

        async def ask() -> Any:
            pages = _library().list(connect(self.bucket), f"{self.key}/" if self.key else None)
            return (await anext(pages, []))[:1] if first else await pages.collect_async()

        return [BucketPath(self.bucket, entry["path"]) for entry in self._listed(ask)]

    def _listed(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """A listing; retried if the connection breaks within the answer, which the library does for reads only."""
        for attempt in range(RETRIES):
            try:
                with _request(self, again=True):
                    return wait_for(ask)
            except _CutOff:
                time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt))
        with _request(self):
            return wait_for(ask)


class BucketFile:
    """An object opened for ranged reads; one request gets its size, version and last bytes."""

    def __init__(self, path: BucketPath) -> None:
        obstore = _library()
        from obstore.exceptions import GenericError

        self._path = path
        with _request(path):
            try:
                self._tail, meta = wait_for(lambda: _get(path, range={"suffix": TAIL_BYTES}))
                self.size, self._tag = meta["size"], meta["e_tag"]
            except GenericError:
                if wait_for(lambda: obstore.head_async(connect(path.bucket), path.key))["size"]:
                    raise
                self.size, self._tail, self._tag = 0, b"", None  # an empty object has no range
        self._tail_at = self.size - len(self._tail)

    def close(self) -> None:
        """Do nothing: connections are pooled, and the object may be read again."""

    def read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes; fewer only at the end of the object.

        Raises:
            IntegrityError: the object was replaced since it was opened.
        """
        _library()  # or the error that says how to install it
        from obstore.exceptions import PreconditionError

        if offset >= self._tail_at:
            return self._tail[offset - self._tail_at :][:length]
        part: Any = {"range": (offset, min(offset + length, self.size)), "if_match": self._tag}
        try:
            with _request(self._path):
                return wait_for(lambda: _get(self._path, **part))[0]
        except (PreconditionError, FileNotFoundError):
            raise IntegrityError(
                f"'{self._path}' was replaced or removed while it was read",
                "the store is not what it was",
                "`realmix-data verify` says what it is now",
            ) from None


async def _get(path: BucketPath, **options: Any) -> tuple[bytes, Any]:
    """An object's bytes, or a part of them, and what the server says of it."""
    found = await _library().get_async(connect(path.bucket), path.key, options=options or None)
    return bytes(await found.bytes_async()), found.meta


class _CutOff(Exception):
    """A connection broke within an answer."""


@contextlib.contextmanager
def _request(path: BucketPath, *, again: bool = False) -> Iterator[None]:
    """Turn what the server or the network answers into one clear error; a missing object is a FileNotFoundError."""
    from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except (BaseError, FileNotFoundError) as error:
        said = str(error).partition("\n\nDebug source")[0].strip()
        if again and "response body" in said:
            raise _CutOff from None
        if "NoSuchBucket" in said:
            raise StorageError(
                f"there is no bucket '{path.bucket}'", f"at {_endpoint()}", "create it first, or fix the name"
            ) from None
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
        said = said.partition("\n<Error>")[0].partition("<?xml")[0].strip()[:300]
        if isinstance(error, PermissionDeniedError) or "InvalidAccessKeyId" in str(error) or " 403 " in said:
            raise StorageError(
                f"no permission for '{path}'",
                said,
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
            ) from None
        raise StorageError(
            f"'{path}' could not be reached",
            said,
            f"check the network and AWS_ENDPOINT_URL ({_endpoint()}), then run the same command again",
        ) from None


def _library() -> ModuleType:
    try:
        import obstore
    except ImportError:
        raise UsageError(
            "s3:// needs the package obstore", "stores in object storage are an extra", install("cloud")
        ) from None
    return obstore


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or "Amazon S3"


def connect(bucket: str) -> S3Store:
    """The connection pool of a bucket: one for each process and setting of the environment."""
    return _connected(bucket, os.getpid(), tuple(sorted(item for item in os.environ.items() if item[0][:4] == "AWS_")))


@functools.lru_cache(maxsize=16)
def _connected(bucket: str, pid: int, environment: tuple[tuple[str, str], ...]) -> S3Store:
    from obstore.store import S3Store

    given = dict(environment)
    _require_credentials(bucket, given)
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=STALL_SECONDS),
        "timeout": timedelta(seconds=REQUEST_SECONDS),
    }
    if _endpoint().startswith("http://"):  # the user has asked for it
        client["allow_http"] = True
    return S3Store(
        bucket,
        client_options=client,  # type: ignore[arg-type]  # a TypedDict
        retry_config={
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_PAUSE),
                "max_backoff": timedelta(seconds=LONGEST_PAUSE),
                "base": 2,
            },
        },
    )


def _require_credentials(bucket: str, given: dict[str, str]) -> None:
    """Check that there are credentials: in the environment, or from the metadata service of a cloud machine."""
    known = (
        "AWS_ACCESS_KEY_ID",
        "AWS_SKIP_SIGNATURE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    )
    if any(given.get(name) for name in known):
        return
    service = urlsplit(given.get("AWS_METADATA_ENDPOINT") or METADATA_SERVICE)
    try:
        socket.create_connection((service.hostname or "", service.port or 80), timeout=1).close()
    except OSError:
        raise StorageError(
            f"no credentials for s3://{bucket}",
            "AWS_ACCESS_KEY_ID is not set, and this machine has no role",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; AWS_SKIP_SIGNATURE=true for a public bucket",
        ) from None
