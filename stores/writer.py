"""Writing stores: files aside then renamed, a journal of what is done, one writer at a time, nothing overwritten.

A dataset store grows in place: its manifest says `complete: false` until the last file is on disk. `.journal.jsonl`
lists the finished files with their checksums, so an interrupted build continues where it was. A split store is small:
it is written beside its place and renamed into it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stores import layout, manifest, shards
from stores.errors import IntegrityError, StoreError, UsageError

JOURNAL = ".journal.jsonl"
LOCK = ".lock"
Record = dict[str, Any]  # {"key": path inside the store, "bytes": int, "sha256": hex}


def write_file(store: Path, array: layout.ArrayLayout, index: int, data: bytes) -> Record:
    """Write one file of an array and say what was written."""
    path = store / array.key(index)
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_atomically(path, data)
    return {"key": array.key(index), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_table(store: Path, name: str, array: np.ndarray) -> Record:
    """Write a small array whole: its metadata and its single file."""
    table = layout.table(name, array)
    table.create(store)
    if array.shape[0] == 0:  # an empty array has no chunk; its file stands for "nothing is missing"
        return write_file(store, table, 0, b"")
    return write_file(store, table, 0, shards.encode(table, 0, array))


class Target:
    """A dataset store being built. Use `open_target`."""

    def __init__(self, path: Path, content: dict[str, Any], created: bool) -> None:
        self.path = path
        self.done: dict[str, Record] = {}
        self._content = content
        self._created = created
        self._read_journal()
        self._journal = (path / JOURNAL).open("a")

    def _read_journal(self) -> None:
        """Keep the journal's entries whose file is there with the bytes it had; a torn last line is no entry."""
        journal = self.path / JOURNAL
        if not journal.exists():
            return
        for line in journal.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            file = self.path / record["key"]
            if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == record["sha256"]:
                self.done[record["key"]] = record

    def record(self, *records: Record) -> None:
        """Note finished files; after this a killed build will not write them again."""
        for record in records:
            self.done[record["key"]] = record
            self._journal.write(json.dumps(record) + "\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def finish(self, fingerprint: str, **more: Any) -> None:
        """Write the complete manifest; from here on the store can be opened."""
        files = {key: {"bytes": r["bytes"], "sha256": r["sha256"]} for key, r in self.done.items()}
        # the arrays' and groups' own metadata is part of the store: a changed shape there would misread every pixel
        for meta in sorted(self.path.rglob("zarr.json")):
            if meta.parent != self.path:
                data = meta.read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                files[meta.relative_to(self.path).as_posix()] = {"bytes": len(data), "sha256": digest}
        for stale in self.path.rglob(".*.tmp"):  # left by a killed writer
            stale.unlink()
        manifest.write(
            self.path, {**self._content, **more, "complete": True, "fingerprint": fingerprint, "files": files}
        )
        self._journal.close()
        (self.path / JOURNAL).unlink(missing_ok=True)

    def close(self, *, failed: bool) -> None:
        self._journal.close()
        if failed and self._created:
            shutil.rmtree(self.path)


@contextlib.contextmanager
def open_target(path: Path, content: dict[str, Any], *, force: bool = False) -> Iterator[Target | None]:
    """Open `path` for building; yields None if exactly this store is already complete there.

    A user's mistake met while building (a broken image, say) removes what this call created; an interruption keeps it.

    Args:
        content: the manifest without `complete`, `fingerprint` and `files`; `content["spec"]` says what is asked for.
        force: replace a store of another specification.

    Raises:
        StoreError: something else is there, or another build is at work in it.
    """
    content = {"format": manifest.FORMAT, "format_version": manifest.FORMAT_VERSION, "kind": "dataset", **content}
    existing = _existing(path)
    if existing is not None and existing["spec"] != content["spec"]:
        if not force:
            raise StoreError(
                f"'{path}' holds another store",
                f"it differs in: {', '.join(_differences(existing['spec'], content['spec']))}",
                "choose another --name, or replace it with --force",
            )
        with _lock(path):
            shutil.rmtree(path)
        existing = None
    if existing is not None and existing["complete"]:
        for left in (JOURNAL, LOCK):  # of a build killed between its manifest and its end
            (path / left).unlink(missing_ok=True)
        yield None
        return
    created = existing is None
    path.mkdir(parents=True, exist_ok=True)
    with _lock(path):
        if created:
            manifest.write(path, {**content, "complete": False})
        target = Target(path, content, created)
        failed = False
        try:
            yield target
        except (UsageError, StoreError, IntegrityError):
            failed = True
            raise
        finally:
            target.close(failed=failed)


def write_split(path: Path, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """Write a split store; returns its fingerprint. An equal one that is there already is left alone.

    Args:
        content: the manifest without `complete`, `fingerprint` and `files`.
        arrays: int64 index arrays by name.

    Raises:
        StoreError: `path` holds something else.
    """
    content = {"format": manifest.FORMAT, "format_version": manifest.FORMAT_VERSION, "kind": "split", **content}
    digests = {name: hashlib.sha256(array.astype("<i8").tobytes()).hexdigest() for name, array in arrays.items()}
    fingerprint = manifest.fingerprint(content, digests)
    if path.exists():
        found = manifest.read(path)
        if found.get("fingerprint") != fingerprint:
            raise StoreError(
                f"'{path}' holds another store", "its split or its dataset store differs",
                "choose another --name, or remove it first",
            )  # fmt: skip
        return fingerprint
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.mkdir(parents=True)
    try:
        manifest.write(aside, {**content, "complete": False})
        target = Target(aside, content, created=True)
        target.record(*(write_table(aside, name, array.astype("int64")) for name, array in arrays.items()))
        target.finish(fingerprint)
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return fingerprint


def _existing(path: Path) -> dict[str, Any] | None:
    if not path.exists() or (path.is_dir() and all(_is_ours(p) for p in path.iterdir())):
        return None
    try:
        found = manifest.read(path, incomplete=True)
    except StoreError as error:
        raise StoreError(
            f"'{path}' exists and is not a store this build could continue", str(error), "choose another --name"
        ) from None
    if found["kind"] != "dataset":
        raise StoreError(f"'{path}' is a split store", "a dataset store was to be built there", "choose another --name")
    return found


def _is_ours(path: Path) -> bool:
    """What a build killed before its first manifest leaves."""
    return path.name == LOCK or (path.name.startswith(".zarr.json.") and path.name.endswith(".tmp"))


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    out: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            out += _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            out.append(f"{prefix}{name} ({_short(a)} there, {_short(b)} asked for)")
    return out


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "…"


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One build at a time; the lock dies with its process."""
    file = (path / LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise StoreError(
            f"another build is at work in '{path}'", hint="wait for it, or choose another --name"
        ) from None
    try:
        yield
    finally:
        (path / LOCK).unlink(missing_ok=True)
        file.close()
