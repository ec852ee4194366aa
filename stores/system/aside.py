"""Temporary files: a file or folder is written as `.NAME.realmix-TOKEN.tmp` and renamed to NAME when it is complete.

The writer holds a kernel lock (flock) on the temporary file, which ends with the process, however that ends. A
temporary file without a lock was left by a dead process; the next writer in the same folder removes it. On file systems
without locks nobody can tell, and such files stay.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stores.system import durable

_NAME = re.compile(r"\..+\.realmix-[0-9a-f]{12}\.tmp", re.DOTALL)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF, errno.EINVAL)
_LONGEST = 200  # bytes of NAME; the whole name may have 255


@dataclass(frozen=True)
class Claim:
    """A temporary file or folder of this process.

    Attributes:
        path: where it is.
        descriptor: open file descriptor; the lock is held until it and its duplicates are closed.
    """

    path: Path
    descriptor: int


def named(target: Path) -> Path:
    """A new temporary name for `target`."""
    name = os.fsdecode(os.fsencode(target.name)[:_LONGEST])
    return target.with_name(f".{name}.realmix-{uuid.uuid4().hex[:12]}.tmp")


@contextlib.contextmanager
def claim(target: Path, *, folder: bool = False) -> Iterator[Claim]:
    """Make an empty temporary file or folder beside `target`, to be filled and renamed within the block.

    It is removed at the end of the block if it has not been renamed. Before, what dead processes left is removed.

    Args:
        target: the final path.
        folder: make a folder, not a file.
    """
    clear(target)
    made = _made(target, folder)
    try:
        yield made
    finally:
        _remove(made.path)
        os.close(made.descriptor)


@contextlib.contextmanager
def file(target: Path) -> Iterator[IO[bytes]]:
    """Write a file atomically: it appears, synced to disk, when the block ends; not at all if the block raises."""
    with claim(target) as made:
        with os.fdopen(os.dup(made.descriptor), "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        made.path.replace(target)
    durable.sync_folder(target.parent)


@contextlib.contextmanager
def output(target: Path) -> Iterator[IO[bytes]]:
    """`file` for a path that a user gives: follows symbolic links; writes to a device or a pipe directly.

    Raises:
        IsADirectoryError: it is a folder; nothing has been written.
    """
    mode = target.stat().st_mode if target.exists() else stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    with file(target.resolve()) if stat.S_ISREG(mode) else target.open("wb") as out:
        yield out


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A private temporary folder in the system's temporary directory, removed at the end of the block."""
    with claim(Path(tempfile.gettempdir()) / "scratch", folder=True) as made:
        made.path.chmod(0o700)
        yield made.path


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder; waits until no other process holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _locked(descriptor)
        yield
    finally:
        os.close(descriptor)


def clear(target: Path) -> None:
    """Remove the temporary files that dead processes left beside `target`."""
    try:
        names = [entry.name for entry in os.scandir(target.parent) if entry.name[0] == "."]
    except OSError:  # the writer reports why the folder cannot be read
        return
    for name in filter(_NAME.fullmatch, names):
        _remove_if_dead(target.with_name(name))


def left_in(folder: Path) -> list[Path]:
    """Temporary files and folders anywhere below `folder`, of living and dead processes."""
    found = []
    for inner, folders, files in os.walk(folder):
        found += [Path(inner, name) for name in (*folders, *files) if _NAME.fullmatch(name)]
    return found


def sweep(folder: Path) -> None:
    """Remove the temporary files that dead processes left anywhere below `folder`."""
    for path in left_in(folder):
        _remove_if_dead(path)


def _made(target: Path, folder: bool) -> Claim:
    while True:
        path = named(target)
        try:
            if folder:
                path.mkdir()
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            else:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and target.parent.is_dir():
                continue  # another process removed the folder before it was locked
            error.filename = str(target)  # the name that the user knows
            raise
        _locked(descriptor)
        if _is_at(descriptor, path):
            return Claim(path, descriptor)
        os.close(descriptor)  # another process removed it before it was locked


def _remove_if_dead(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return
        # network file systems lock only files that are open for writing
        access = os.O_RDWR if stat.S_ISREG(mode) else os.O_RDONLY
        descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # removed meanwhile, or another user's
        return
    try:
        if _locked(descriptor, wait=False):
            _remove(path)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, *, wait: bool = True) -> bool:
    """Lock an open file or folder; False if another process holds the lock, or if the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # renamed or removed meanwhile, or another user's: harmless if it stays
        shutil.rmtree(path) if stat.S_ISDIR(path.lstat().st_mode) else path.unlink()
