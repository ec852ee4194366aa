"""Writing stores: files are atomic, finished files are journaled, one writer at a time, nothing else is overwritten.

A dataset store is written in place; its manifest says `complete: false` until the last file is written. The journal
lists finished files with their checksums, so that an interrupted build continues. A split store is small: in a folder
it is written to a temporary folder and renamed, in a bucket its manifest is written last. In a bucket only objects that
belong to a store are deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stores.errors import IntegrityError, StorageError, StoreError, UsageError
from stores.format import fields, journal, layout, manifest, shards
from stores.format.journal import Record
from stores.storage import lock
from stores.storage.bucket import BucketPath
from stores.storage.confine import require_inside
from stores.storage.location import Location, inside
from stores.system import aside, durable

# what a store's folder may hold: metadata, files of arrays, lock and journal
OURS = re.compile(
    r"(?:(?:train|test|copies|strong)(?:/\w+)?/|(?:folds|labeled|unlabeled|valid|test)/)?zarr\.json"
    r"|(?:(?:train|test|copies|strong)/\w+|folds|labeled|unlabeled|valid|test)/c(?:/\d+)+"
    r"|(?:train|copies)\.beton"
    rf"|{re.escape(lock.NAME)}|{re.escape(journal.NAME)}(?:/\w+)?"
)
KINDS = {"dataset": "a dataset store", "split": "a split store", "embeddings": "a store of embeddings"}


def write_file(store: Location, array: layout.ArrayLayout, index: int, data: bytes) -> Record:
    """Write one file of an array; returns its record for the journal."""
    path = store / array.key(index)
    require_inside(store, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_atomically(path, data)
    return {"key": array.key(index), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_table(store: Location, name: str, array: np.ndarray) -> Record:
    """Write the metadata and the single file of a small array; returns the file's record."""
    table = layout.table(name, array).create(store)
    return write_file(store, table, 0, encode_table(table, array))


def encode_table(table: layout.ArrayLayout, array: np.ndarray) -> bytes:
    """The single file of a small array; empty for an array without rows, which has no chunk."""
    return shards.encode(table, 0, array) if array.shape[0] else b""


class Target:
    """A dataset store being built. Use `open_target`."""

    def __init__(self, path: Location, content: dict[str, Any], still_held: Callable[[], None]) -> None:
        self.path = path
        self.done = journal.read(path)
        self._content = content
        self._still_held = still_held

    def record(self, *records: Record) -> None:
        """Record finished files; a continued build will not write them again."""
        self._still_held()
        journal.append(self.path, records)
        self.done |= {record["key"]: record for record in records}

    def drop(self, name: str) -> None:
        """Remove a temporary array; if this is interrupted, the continued build removes the rest."""
        assert isinstance(self.path, Path)
        if (self.path / name).exists():
            shutil.rmtree(self.path / name)
        self.done = {key: record for key, record in self.done.items() if not key.startswith(f"{name}/")}

    def finish(self, fingerprint: str, **more: Any) -> None:
        """Write the complete manifest; after this the store can be opened.

        Args:
            fingerprint: of the store.
            more: further fields of the manifest.
        """
        files = {key: {"bytes": r["bytes"], "sha256": r["sha256"]} for key, r in self.done.items()}
        # the arrays' and groups' own metadata is part of the store: a changed shape there would misread every pixel
        metas: list[Location] = [*self.path.rglob("zarr.json")]
        for meta in metas:
            if meta.parent != self.path:
                data = meta.read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                files[inside(meta, self.path)] = {"bytes": len(data), "sha256": digest}
        if isinstance(self.path, Path):
            aside.sweep(self.path)
            durable.sync_tree(self.path)  # the files must survive a power cut before the manifest lists them
        self._still_held()
        manifest.write(
            self.path, {**self._content, **more, "complete": True, "fingerprint": fingerprint, "files": files}
        )
        journal.remove(self.path)


@contextlib.contextmanager
def open_target(path: Location, content: dict[str, Any], *, force: bool = False) -> Iterator[Target | None]:
    """Open `path` for building.

    If the block raises a user's error (a broken image, say), what this call created is removed; an interruption keeps
    it.

    Args:
        path: location of the store.
        content: the manifest of a dataset store, or with its `kind` of embeddings, without `complete`, `fingerprint`
            and `files`; `content["spec"]` is the specification.
        force: replace a store of another specification.

    Yields:
        The target to write to; None if exactly this store is already complete.

    Raises:
        StoreError: something else is there, or another build is running.
    """
    content = {"format": manifest.FORMAT, "format_version": manifest.FORMAT_VERSION, "kind": "dataset", **content}
    _require_readable(content)
    if _is_complete(path, content, force):
        clear_leftovers(path)
        yield None
        return
    if isinstance(path, Path):
        durable.make_folder(path)
    with lock.exclusive(path) as still_held:
        if _is_complete(path, content, force):  # another build has finished it meanwhile
            journal.remove(path)
            yield None
            return
        existing = _existing(path, content["kind"])
        if existing is not None and _asked(existing) != _asked(content):
            _empty(path)
            existing = None
        if existing is None:
            manifest.write(path, {**content, "complete": False})
        target = Target(path, content, still_held)
        try:
            yield target
        except StorageError:
            raise
        except (UsageError, StoreError, IntegrityError):
            if existing is None:
                _remove(path)
            raise


def _require_readable(content: dict[str, Any]) -> None:
    """Check that readers accept the manifest, before anything is written."""
    wrong = fields.wrong({**content, "complete": False})
    assert not wrong, f"a manifest whose {', '.join(wrong)} no reader accepts"


def _is_complete(path: Location, content: dict[str, Any], force: bool) -> bool:
    """Whether exactly this store is complete at `path`; False if it can be built or continued there."""
    existing = _existing(path, content["kind"])
    if existing is None:
        return False
    if _asked(existing) != _asked(content):
        if force:
            return False
        raise StoreError(
            f"'{path}' holds another store",
            f"it differs in: {', '.join(_differences(_asked(existing), _asked(content)))}",
            "choose another --name, or replace it with --force",
        )
    return bool(existing["complete"])


def _asked(content: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for a build to continue a store: the specification, and what decides about the same bytes."""
    how = {"format": content.get("copies_format", "zarr")} if content["kind"] == "dataset" else content["arithmetic"]
    return {**content["spec"], **how}


def clear_leftovers(path: Location) -> None:
    """Remove what killed processes left in a complete store: a journal, a lock, temporary files."""
    if any((path / name).exists() for name in (journal.NAME, lock.NAME)) or (
        isinstance(path, Path) and aside.left_in(path)
    ):
        with contextlib.suppress(StoreError), lock.exclusive(path):  # if it is locked, its holder will do it
            journal.remove(path)
            if isinstance(path, Path):
                aside.sweep(path)


def write_split(path: Location, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """Write a split store, unless it is already there.

    Args:
        path: location of the store.
        content: the manifest without `complete`, `fingerprint` and `files`.
        arrays: int64 index arrays by name.

    Returns:
        Its fingerprint.

    Raises:
        StoreError: `path` holds something else.
    """
    content = {"format": manifest.FORMAT, "format_version": manifest.FORMAT_VERSION, "kind": "split", **content}
    _require_readable(content)
    digests = {name: hashlib.sha256(array.astype("<i8").tobytes()).hexdigest() for name, array in arrays.items()}
    fingerprint = manifest.fingerprint(content, digests)
    if isinstance(path, Path):
        aside.clear(path)
    if _holds_split(path, fingerprint, content):
        clear_leftovers(path)
        return fingerprint
    if isinstance(path, BucketPath):
        with lock.exclusive(path) as still_held:
            if not _holds_split(path, fingerprint, content):
                _fill_split(path, content, arrays, fingerprint, still_held)
        return fingerprint
    durable.make_folder(path.parent)
    with aside.claim(path, folder=True) as made:
        _fill_split(made.path, content, arrays, fingerprint, lambda: None)
        try:
            made.path.rename(path)
        except OSError:
            if not _holds_split(path, fingerprint, content):  # else another process has just written it
                raise
    durable.sync_folder(path.parent)
    return fingerprint


def _holds_split(path: Location, fingerprint: str, content: dict[str, Any]) -> bool:
    """Whether exactly this split store, of this manifest, is at `path`."""
    if not path.exists():
        return False
    if isinstance(path, BucketPath):
        if all(_is_ours(child) for child in path.iterdir()):
            return False
        found = manifest.read(path, incomplete=True)
        if found["kind"] == "split" and not found["complete"]:  # an interrupted write, which no reader has opened
            return False
    found = manifest.read(path)
    if found.get("fingerprint") != fingerprint:
        raise StoreError(
            f"'{path}' holds another store",
            f"it differs in: {', '.join(_of_split(found, content)) or 'which images it takes'}",
            "choose another --name, or remove it first",
        )
    return True


def _of_split(found: dict[str, Any], content: dict[str, Any]) -> list[str]:
    """What a store has otherwise than a split that is to be written in its place."""
    if found["kind"] != "split":
        return [f"its kind: it is a store of the kind '{found['kind']}'"]
    old, new = ({**one["spec"], **{key: one[key] for key in ("seed", "gamma", "dataset")}} for one in (found, content))
    return _differences(old, new)


def _fill_split(
    path: Location,
    content: dict[str, Any],
    arrays: dict[str, np.ndarray],
    fingerprint: str,
    still_held: Callable[[], None],
) -> None:
    manifest.write(path, {**content, "complete": False})
    target = Target(path, content, still_held)
    target.record(*(write_table(path, name, array.astype("int64")) for name, array in arrays.items()))
    target.finish(fingerprint)


def _empty(path: Location) -> None:
    """Mark a locked store as incomplete and remove everything but its manifest."""
    manifest.write(path, {**manifest.read(path, incomplete=True), "complete": False})
    if isinstance(path, BucketPath):
        _delete_objects(path)
    else:
        _remove_entries(path)


def _remove(path: Location) -> None:
    """Remove an incomplete store that this process created and holds the lock of."""
    if isinstance(path, BucketPath):
        _delete_objects(path)
        (path / "zarr.json").unlink()
        return
    _remove_entries(path)
    for name in ("zarr.json", lock.NAME):  # in this order: without a lock another build may begin
        (path / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another build has begun
        path.rmdir()


def _remove_entries(path: Path) -> None:
    """Remove everything in a store's folder but its manifest and its lock."""
    for child in path.iterdir():
        if child.name not in ("zarr.json", lock.NAME):
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()


def _delete_objects(path: BucketPath) -> None:
    """Delete the objects of a store in a bucket, but not its manifest, its lock, or objects that are not a store's."""
    for entry in path.rglob("*"):
        key = inside(entry, path)
        if key not in ("zarr.json", lock.NAME) and OURS.fullmatch(key):
            entry.unlink()


def _existing(path: Location, kind: str) -> dict[str, Any] | None:
    if not path.exists() or (path.is_dir() and all(_is_ours(p) for p in path.iterdir())):
        return None
    try:
        found = manifest.read(path, incomplete=True)
    except StoreError as error:
        raise StoreError(
            f"'{path}' exists and is not a store this build could continue", str(error), "choose another --name"
        ) from None
    if found["kind"] != kind:
        raise StoreError(f"'{path}' exists and is {KINDS[found['kind']]}", hint="choose another --name")
    return found


def _is_ours(path: Location) -> bool:
    """Whether this is a file left by a build that was killed before its first manifest."""
    return path.name == lock.NAME or (path.name.startswith(".zarr.json.") and path.name.endswith(".tmp"))


_DIGEST = re.compile("[0-9a-f]{64}")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    out: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            out += _differences(a, b, f"{prefix}{name}.")
        elif a != b and any(_DIGEST.fullmatch(str(value)) for value in (a, b)):
            out.append(f"{prefix}{name.replace('sha256', 'content')}")
        elif a != b:
            out.append(f"{prefix}{name} ({_short(a)} there, {_short(b)} asked for)")
    return out


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "…"
