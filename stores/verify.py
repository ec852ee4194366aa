"""Verifying a store: every file exists, with the size and the checksum in the manifest.

This only reads the files. Whether the copies are what the recipe makes of the base images is checked by
`realmix-data verify --deep`, in the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import filterfalse, islice
from typing import Any

from stores.embeddings import check_embeddings
from stores.errors import IntegrityError, StorageError, StoreError
from stores.ffcv.beton import COPIES, TRAIN
from stores.format import layout, manifest
from stores.storage.confine import read_inside, require_inside
from stores.storage.location import Location, inside, parallel, sha256_of
from stores.system.threads import thread_pool


@dataclass(frozen=True)
class Problem:
    """A damaged or missing file.

    Attributes:
        file: path inside the store.
        what: what is wrong, and which rows are lost with it.
    """

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def verify(store: Location, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Compare every file of a complete store with its manifest.

    Args:
        store: its location.
        progress: called with (bytes checked, bytes in total).

    Returns:
        What is wrong, in the order of the files; empty if nothing is.

    Raises:
        StoreError: the manifest itself cannot be read.
    """
    content = manifest.read(store)
    files: dict[str, dict[str, object]] = content["files"]
    total, seen = sum(int(str(f.get("bytes", 0))) for f in files.values()), 0
    problems = [] if manifest.is_as_written(store) else [Problem("zarr.json", "it is not as it was written")]
    with thread_pool(parallel(store)) as pool:
        for key, found in zip(files, pool.map(lambda k: _check(store, k, files[k]), files), strict=True):
            problems += [Problem(key, found)] if found else []
            seen += int(str(files[key].get("bytes", 0)))
            if progress:
                progress(seen, total)
    problems = problems or _unlisted(store, content)
    if not problems and content["kind"] == "embeddings":
        problems = [Problem(key, what) for key, what in check_embeddings(store, content).items()]
    return problems


def _check(store: Location, key: str, expected: dict[str, object]) -> str:
    try:
        require_inside(store, store / key)
        size, digest = sha256_of(store / key)
    except IntegrityError as error:
        return error.what
    except OSError as error:
        return f"missing{_rows_of(store, key)}" if isinstance(error, FileNotFoundError) else str(error.strerror)
    if size != expected.get("bytes"):
        return f"{size} bytes instead of {expected.get('bytes')}{_rows_of(store, key)}"
    if digest != expected.get("sha256"):
        return f"its SHA-256 is not the manifest's{_rows_of(store, key)}"
    return ""


def _rows_of(store: Location, key: str) -> str:
    """The rows that a damaged file held, if the metadata still says so."""
    name, chunk, tail = key.partition("/c/")
    if not chunk:
        return ""
    try:
        start, stop = layout.load(store, name).rows(int(tail.split("/")[0]))
    except StorageError:
        raise
    except (StoreError, IntegrityError, ValueError):  # the metadata is damaged too, which is listed separately
        return ""
    return f" (rows {start}–{stop - 1} of {name})"


def _unlisted(store: Location, content: dict[str, Any]) -> list[Problem]:
    """Files that an array or FFCV needs but the manifest does not list: it was truncated or edited."""
    files = content["files"]
    betons = [TRAIN, *([COPIES] if content.get("num_copies") else [])] if "ffcv" in content else []
    problems = [Problem(key, "needed, but not in the manifest") for key in betons if key not in files]
    metas: list[Location] = [*store.rglob("zarr.json")]
    for meta in sorted(metas, key=str):
        name = inside(meta.parent, store)
        if meta.parent == store:
            continue
        if f"{name}/zarr.json" not in files:
            problems.append(Problem(f"{name}/zarr.json", "needed, but not in the manifest"))
        elif b'"array"' in read_inside(store, meta):
            needed = filterfalse(files.__contains__, layout.load(store, name).keys())
            problems += [Problem(key, "needed, but not in the manifest") for key in islice(needed, 20)]
    return problems
