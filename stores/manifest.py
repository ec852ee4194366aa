"""The manifest: what a store is and the checksum of every file in it, in the root group's attributes under `realmix`.

It is written last and aside, then renamed: a store is complete exactly when its manifest says so. It holds no time
and no absolute path, so the same build gives the same bytes anywhere. `stores/FORMAT.md` describes every field.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from stores.errors import StoreError

FORMAT = "realmix-store"
FORMAT_VERSION = 1
_REQUIRED: dict[str, dict[str, Any]] = {
    "dataset": {
        "spec": dict, "class_names": list, "weak": dict, "num_images": int, "num_test": int, "image_size": list,
        "num_copies": int,
    },
    "split": {
        "spec": dict, "protocol": str, "seed": int, "gamma": (int, float), "class_names": list, "class_map": list,
        "labeled_in_unlabeled": bool, "counts": dict, "dataset": dict,
    },
}  # fmt: skip


def write(store: Path, manifest: dict[str, Any]) -> None:
    """Replace the root group's zarr.json atomically; everything it refers to is on disk before it is."""
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"realmix": manifest}}
    write_atomically(store / "zarr.json", json.dumps(group, indent=1, sort_keys=True).encode())


def read(store: Path, *, incomplete: bool = False) -> dict[str, Any]:
    """The manifest of the store at `store`.

    Args:
        incomplete: also accept a store whose build has not finished.

    Raises:
        StoreError: no store there, one of a newer format, an unfinished one, or a manifest that lacks a field.
    """
    path = store / "zarr.json"
    try:
        group = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"'{store}' is no store", f"there is no '{path}'", _hint_beside(store)) from None
    except ValueError as error:
        raise StoreError(f"the manifest '{path}' is damaged", str(error), "build the store again") from None
    attributes = group.get("attributes") if isinstance(group, dict) else None
    manifest = attributes.get("realmix") if isinstance(attributes, dict) else None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"'{store}' is a zarr group, but no realmix store", "its attributes lack `realmix`")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreError(
            f"'{store}' has store format {version!r}", f"this realmix reads format {FORMAT_VERSION}",
            "install a newer realmix, or build the store again with this one",
        )  # fmt: skip
    _check_fields(store, manifest)
    if not manifest["complete"] and not incomplete:
        raise StoreError(
            f"'{store}' is not complete",
            "its build was interrupted",
            "run the same `realmix-data build` again: it continues",
        )
    return manifest


def fingerprint(*parts: object) -> str:
    """SHA-256 (hex) of JSON-able parts in canonical form."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that after a crash it is there whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _check_fields(store: Path, manifest: dict[str, Any]) -> None:
    required = {"complete": bool, "kind": str, **_REQUIRED.get(str(manifest.get("kind")), {})}
    wrong = [name for name, kind in required.items() if not isinstance(manifest.get(name), kind)]
    if manifest.get("kind") not in _REQUIRED:
        wrong.append("kind")
    if manifest.get("complete") is True:
        wrong += [n for n, k in (("files", dict), ("fingerprint", str)) if not isinstance(manifest.get(n), k)]
    if manifest.get("kind") == "split" and not wrong:
        name = manifest["dataset"].get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.\-]*", name):
            wrong.append("dataset.name")
    if wrong:
        raise StoreError(
            f"the manifest of '{store}' is damaged", f"wrong or missing: {', '.join(wrong)}", "build it again"
        )


def _hint_beside(store: Path) -> str:
    """The stores that lie where this one was looked for."""
    folder = store.parent
    found = sorted(p.parent.name for p in folder.glob("*/zarr.json"))[:12] if folder.is_dir() else []
    return f"stores in '{folder}': {', '.join(found)}" if found else "`realmix-data build` makes one"
