"""The manifest: what a store is, and the checksum of every file, in the root group's attributes under `realmix`.

It is written last and atomically: a store is complete exactly when its manifest says so. It holds no time and no
absolute path, so a build gives the same bytes anywhere. `stores/FORMAT.md` describes every field.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from stores.errors import StoreError
from stores.format import fields
from stores.storage.bucket import BucketPath
from stores.storage.confine import read_inside
from stores.storage.location import Location, stores_in
from stores.system import aside

FORMAT = "realmix-store"
FORMAT_VERSION = 1
SEAL = "realmix_sha256"  # checksum of the manifest, beside it in the attributes


def write(store: Location, manifest: dict[str, Any]) -> None:
    """Replace the root group's zarr.json atomically; the files it refers to must be on disk before."""
    write_atomically(store / "zarr.json", _file(manifest))


def is_as_written(store: Location) -> bool:
    """Whether the root group's zarr.json has the bytes that `write` makes of its manifest."""
    data = _read_file(store)
    return data == _file(_parsed(store, data))


def _file(manifest: dict[str, Any]) -> bytes:
    attributes = {"realmix": manifest, SEAL: fingerprint(manifest)}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(group, indent=1, sort_keys=True).encode()


def read(store: Location, *, incomplete: bool = False) -> dict[str, Any]:
    """The manifest of a store.

    Args:
        store: its location.
        incomplete: also accept a store whose build has not finished.

    Raises:
        StoreError: there is not a store, its format is newer, its build has not finished, or its manifest is damaged.
    """
    manifest = _parsed(store, _read_file(store))
    _check_fields(store, manifest)
    if not manifest["complete"] and not incomplete:
        command = "embed" if manifest["kind"] == "embeddings" else "build"
        raise StoreError(
            f"'{store}' is not complete",
            "its build was interrupted",
            f"run the same `realmix-data {command}` again: it continues",
        )
    return manifest


def _read_file(store: Location) -> bytes:
    path = store / "zarr.json"
    try:
        return read_inside(store, path)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"'{store}' is not a store", f"there is no '{path}'", _hint_beside(store)) from None


def _parsed(store: Location, data: bytes) -> dict[str, Any]:
    """The manifest in a zarr.json, of a version that this code knows and with the right checksum."""
    path = store / "zarr.json"
    try:
        group = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"the manifest '{path}' is damaged", str(error), "build the store again") from None
    attributes = group.get("attributes") if isinstance(group, dict) else None
    attributes = attributes if isinstance(attributes, dict) else {}
    manifest = attributes.get("realmix")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"'{store}' is a zarr group, but no realmix store", "its attributes lack `realmix`")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreError(
            f"'{store}' has store format {_short(version)}",
            f"this realmix reads format {FORMAT_VERSION}",
            "install a newer realmix, or build the store again with this one",
        )
    try:
        sealed = attributes.get(SEAL) == fingerprint(manifest)
    except (ValueError, RecursionError):  # NaN and infinity are no JSON
        sealed = False
    if not sealed:
        raise StoreError(
            f"the manifest of '{store}' is damaged", "it is not what its own checksum says", "build the store again"
        )
    return manifest


def fingerprint(*parts: object) -> str:
    """SHA-256 (hex) of the canonical JSON of these parts."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Location, data: bytes | memoryview) -> None:
    """Write a file or object completely or, if interrupted, not at all; it is durable when this returns."""
    if isinstance(path, BucketPath):
        path.write_bytes(data)
        return
    with aside.file(path) as out:
        out.write(data)


def _check_fields(store: Location, manifest: dict[str, Any]) -> None:
    wrong = fields.wrong(manifest)
    if wrong:
        raise StoreError(
            f"the manifest of '{store}' is damaged", f"wrong or missing: {', '.join(wrong)}", "build it again"
        )


def _short(version: object) -> str:
    return f"{version!r:.40}" if isinstance(version, int | str) else f"({type(version).__name__})"


def _hint_beside(store: Location) -> str:
    """The stores in the same folder, as a hint."""
    folder = store.parent
    found = [store.name for store in stores_in(folder)[:12]]
    return f"stores in '{folder}': {', '.join(found)}" if found else "`realmix-data build` makes one"
