"""Check that the bytes of a store are the bytes that were written: every file there, of its size, with its checksum.

Works on files alone, so it is as fast as reading them. Whether the copies are what the recipe makes of the base
images is the pipeline's `verify --deep`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stores import layout, manifest
from stores.errors import IntegrityError, StoreError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the file's path inside the store, and what is lost with it."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def verify(store: Path, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Compare every file of a complete store with its manifest.

    Args:
        progress: called with (bytes checked so far, bytes in all).

    Returns:
        What is wrong, in the order of the files; empty if nothing is.

    Raises:
        StoreError: the manifest itself cannot be read.
    """
    content = manifest.read(store)
    files: dict[str, dict[str, object]] = content["files"]
    total, seen = sum(int(str(f.get("bytes", 0))) for f in files.values()), 0
    problems = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for key, found in zip(files, pool.map(lambda k: _check(store, k, files[k]), files), strict=True):
            problems += [Problem(key, found)] if found else []
            seen += int(str(files[key].get("bytes", 0)))
            if progress:
                progress(seen, total)
    return problems or _unlisted(store, files)


def require_sound(store: Path) -> None:
    """Raise an `IntegrityError` naming the first problems of a store, if it has any."""
    if problems := verify(store):
        listed = "\n".join(f"  {p}" for p in problems[:10]) + ("\n  …" if len(problems) > 10 else "")
        raise IntegrityError(
            f"'{store}' has {len(problems)} damaged or missing file(s)", listed, "build it again to mend it"
        )


def _check(store: Path, key: str, expected: dict[str, object]) -> str:
    if Path(key).is_absolute() or ".." in Path(key).parts:
        return "the manifest points outside the store"
    try:
        data = (store / key).read_bytes()
    except OSError as error:
        return f"missing{_rows_of(store, key)}" if isinstance(error, FileNotFoundError) else str(error.strerror)
    if len(data) != expected.get("bytes"):
        return f"{len(data)} bytes instead of {expected.get('bytes')}{_rows_of(store, key)}"
    if hashlib.sha256(data).hexdigest() != expected.get("sha256"):
        return f"its SHA-256 is not the manifest's{_rows_of(store, key)}"
    return ""


def _rows_of(store: Path, key: str) -> str:
    """Which rows a damaged file held, as far as the metadata still says."""
    name, chunk, tail = key.partition("/c/")
    if not chunk:
        return ""
    try:
        start, stop = layout.load(store, name).rows(int(tail.split("/")[0]))
    except StoreError:  # the metadata is damaged too, and listed as its own problem
        return ""
    return f" (rows {start}–{stop - 1} of {name})"


def _unlisted(store: Path, files: dict[str, dict[str, object]]) -> list[Problem]:
    """Files that an array needs but the manifest does not know: a manifest that was cut or edited."""
    problems = []
    for meta in sorted(store.rglob("zarr.json")):
        name = meta.parent.relative_to(store).as_posix()
        if name == "." or '"array"' not in meta.read_text():
            continue
        needed = list(layout.load(store, name).keys())
        problems += [Problem(key, "needed, but not in the manifest") for key in needed if key not in files]
    return problems
