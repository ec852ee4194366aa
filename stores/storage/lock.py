"""The lock of a store: one build at a time.

In a folder `.lock` is a file with a kernel lock, which ends with its process. In a bucket `.lock` is an object created
only if there is none and rewritten every few seconds. A second build that finds it watches it: it is refused if the
object changes, and takes the lock over if it does not, or at once if the object names a process of this machine that is
gone. No clocks are compared. A build whose lock was taken over stops at its next write.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stores.errors import StorageError, StoreError
from stores.storage.bucket import BucketPath
from stores.storage.confine import require_inside
from stores.storage.location import Location

NAME = ".lock"
BEAT = 5.0  # seconds between rewrites of a lock in a bucket
PATIENCE = 6  # missed rewrites before the lock is taken over


@contextlib.contextmanager
def exclusive(store: Location) -> Iterator[Callable[[], None]]:
    """Hold the lock of a store.

    Yields:
        A function that checks that the lock is still held; call it before the store is marked complete.

    Raises:
        StoreError: another build holds the lock, or (from the check) has taken it over.
    """
    if isinstance(store, Path):
        with _locked_file(store):
            yield lambda: None
        return
    lease = _Lease(store)
    try:
        yield lease.check
    finally:
        lease.release()


@contextlib.contextmanager
def _locked_file(store: Path) -> Iterator[None]:
    path = store / NAME
    while True:
        require_inside(store, path)
        try:
            file = path.open("w")
        except FileNotFoundError:
            raise _busy(store, "it has just removed what it had begun there") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise _busy(store) from None
        if _is_same(file.fileno(), path):
            break
        file.close()  # its holder has just removed it, so that this lock would exclude nobody
    try:
        yield
    finally:
        if _is_same(file.fileno(), path):
            path.unlink(missing_ok=True)
        file.close()


def _is_same(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


class _Lease:
    """The lock of a store in a bucket, held until `release`."""

    def __init__(self, store: BucketPath) -> None:
        self._store, self._path = store, store / NAME
        self._owner = {**process_identity(os.getpid()), "pid": os.getpid(), "token": uuid.uuid4().hex}
        self._beats = 0
        self._tag = self._take()
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        if self._lost:
            raise StorageError(
                f"another build took over '{self._store}'",
                f"this one gave no sign of life for {BEAT * PATIENCE:.0f} s",
                "wait for it, then run this again",
            )

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(StorageError, FileNotFoundError):  # gone or unreachable: it will be taken over
            if not self._lost and self._token(self._path.read_bytes()) == self._owner["token"]:
                self._path.unlink()

    def _take(self) -> str:
        """Make the lock, or take over that of a dead build; returns the tag of the version written."""
        watched = over = ""
        since = time.monotonic()
        while True:
            tag = self._path.write_bytes(self._content(), instead_of=over)
            if tag is not None:
                return tag
            try:
                content, found = self._path.read_version()
            except FileNotFoundError:  # just released
                watched = over = ""
                continue
            owner = _parsed(content)
            if owner.get("token") == self._owner["token"]:  # written, but the answer was lost
                return found
            alive = _lives_here(owner)
            if alive or (watched and watched != found):
                raise _busy(self._store, f"process {owner.get('pid')} on {owner.get('host')} is writing it")
            if not watched:
                watched, since = found, time.monotonic()
            if alive is False or time.monotonic() - since > BEAT * PATIENCE:
                over = found
            else:
                time.sleep(BEAT / 4)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            self._beats += 1
            try:
                tag = self._path.write_bytes(self._content(), instead_of=self._tag)
                if tag is not None:
                    self._tag = tag
                    continue
                content, self._tag = self._path.read_version()  # ours if it was written but the answer was lost
                self._lost = self._token(content) != self._owner["token"]
            except FileNotFoundError:
                self._lost = True
            except StorageError:
                continue  # the next beat may get through
            if self._lost:
                return

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "host": platform.node(), "beats": self._beats}).encode()

    @staticmethod
    def _token(content: bytes) -> object:
        return _parsed(content).get("token")


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _lives_here(owner: dict[str, Any]) -> bool | None:
    """Whether the process that made a lock is alive; None if it ran on another machine."""
    machine = owner.get("machine")
    if not machine or machine != process_identity(os.getpid())["machine"]:
        return None
    return process_identity(owner.get("pid")) == {"machine": machine, "started": owner.get("started")}


def process_identity(pid: object) -> dict[str, str]:
    """What identifies a process: the boot and process namespace of the machine, and its start time."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if not isinstance(pid, int) or state[0] in "ZX":
            return {"machine": "", "started": ""}
        return {"machine": f"{boot} {Path('/proc/self/ns/pid').readlink()}", "started": state[19]}
    except OSError:  # no such process, or no Linux
        return {"machine": "", "started": ""}


def _busy(store: Location, why: str = "") -> StoreError:
    return StoreError(f"another build is running in '{store}'", why, "wait for it, or choose another --name")
