"""Temporary names: what has to appear whole is made aside, as `.NAME.realmix-TOKEN.tmp`, and renamed when it is done.

The owner of such a file or folder holds the kernel's lock on it, which ends with the process however that ends; no
process number or clock is asked. Two writers never share a name. What nobody holds was left by a dead process, and is
removed by the next one that makes something in the same folder. Where the file system has no locks nobody can tell
who lives, and what is left stays.
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
_LONGEST = 200  # bytes of NAME: with the rest a file's name may have 255


@dataclass(frozen=True)
class Claim:
    """A temporary file or folder of this process: locked until `descriptor` and its duplicates are closed."""

    path: Path
    descriptor: int


def named(target: Path) -> Path:
    """A temporary name for `target`, never given before."""
    name = os.fsdecode(os.fsencode(target.name)[:_LONGEST])
    return target.with_name(f".{name}.realmix-{uuid.uuid4().hex[:12]}.tmp")


@contextlib.contextmanager
def claim(target: Path, *, folder: bool = False) -> Iterator[Claim]:
    """An empty file or folder beside `target`, to be filled and renamed; removed at the end if it still has its name.

    Removes first what dead processes have left in that folder.
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
    """Write a file that appears whole, and on the disk, when the block ends, and not at all if it raises."""
    with claim(target) as made:
        with os.fdopen(os.dup(made.descriptor), "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        made.path.replace(target)
    durable.sync_folder(target.parent)


@contextlib.contextmanager
def output(target: Path) -> Iterator[IO[bytes]]:
    """`file` for a name that a user gives: what it links to is written, and a device or a pipe as it is.

    Raises:
        IsADirectoryError: it is a folder; before anything is done.
    """
    mode = target.stat().st_mode if target.exists() else stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    with file(target.resolve()) if stat.S_ISREG(mode) else target.open("wb") as out:
        yield out


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what is needed only on the way, in the system's place for that; nobody else may read it."""
    with claim(Path(tempfile.gettempdir()) / "scratch", folder=True) as made:
        made.path.chmod(0o700)
        yield made.path


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait until no other process has its turn in this folder; within, it is ours."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _locked(descriptor)
        yield
    finally:
        os.close(descriptor)


def clear(target: Path) -> None:
    """Remove what dead processes have left in `target`'s folder; never a living one's."""
    try:
        names = [entry.name for entry in os.scandir(target.parent) if entry.name[0] == "."]
    except OSError:  # whoever writes there will say why it cannot be read
        return
    for name in filter(_NAME.fullmatch, names):
        _remove_if_dead(target.with_name(name))


def left_in(folder: Path) -> list[Path]:
    """Temporary files and folders anywhere below `folder`, whoever made them."""
    found = []
    for inner, folders, files in os.walk(folder):
        found += [Path(inner, name) for name in (*folders, *files) if _NAME.fullmatch(name)]
    return found


def sweep(folder: Path) -> None:
    """Remove what dead processes have left anywhere below a folder whose lock the caller holds."""
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
                continue  # taken for a dead one's before it was locked
            error.filename = str(target)  # the name that the user knows
            raise
        _locked(descriptor)
        if _is_at(descriptor, path):
            return Claim(path, descriptor)
        os.close(descriptor)  # the same, a moment later


def _remove_if_dead(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return
        # for writing, as locks across a network ask for it
        access = os.O_RDWR if stat.S_ISREG(mode) else os.O_RDONLY
        descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone by now, or another user's
        return
    try:
        if _locked(descriptor, wait=False):
            _remove(path)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, *, wait: bool = True) -> bool:
    """Lock an open file or folder; False if somebody else holds it, or if there are no locks here."""
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
    with contextlib.suppress(OSError):  # renamed or removed by now, or another user's: what stays harms nobody
        shutil.rmtree(path) if stat.S_ISDIR(path.lstat().st_mode) else path.unlink()
