"""Every way a file of a store can be damaged, and what must come of it; used by the fault matrix and by `make soak`.

A damaged store is checked from outside: what `verify` names, what the reader gives, what `repair` puts back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.check.repair import repair
from stores import DatasetStore, open_store
from stores.errors import RealMixError
from stores.verify import verify

DERIVABLE = ("copies/",)  # and all metadata, and all of a split store


@dataclass(frozen=True)
class Fault:
    """One damaged file: `after` is None if the file is gone."""

    kind: str
    file: str
    at: int
    after: bytes | None = field(repr=False)


def files_of(store: Path) -> list[str]:
    return sorted(p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file())


def regions(data: bytes, key: str) -> list[int]:
    """One place in each region of a file: frame header, body and checksum of each chunk, its index entry, the CRC."""
    if key.endswith("zarr.json"):
        return list(range(0, len(data), max(1, len(data) // 8)))
    at = {0, 4, 5, 6, len(data) // 2, len(data) - 1, len(data) - 5}
    chunks = data.count(b"\x28\xb5\x2f\xfd")
    for chunk in range(1, min(chunks, 3)):
        start = [i for i in range(len(data) - 4) if data[i : i + 4] == b"\x28\xb5\x2f\xfd"][chunk]
        at |= {start - 2, start, start + 4, start + 9}
    at |= {len(data) - 4 - 16 * k + shift for k in range(1, chunks + 1) for shift in (0, 8, 15)}
    return sorted(place for place in at if 0 <= place < len(data))


def faults(store: Path, key: str, places: Callable[[bytes, str], list[int]] = regions) -> Iterator[Fault]:
    good = (store / key).read_bytes()
    yield Fault("removed", key, 0, None)
    yield Fault("emptied", key, 0, b"") if good else Fault("appended to", key, 0, b"\0")
    if not good:
        return
    yield Fault("appended to", key, len(good), good + b"\0")
    yield Fault("zeroed", key, 0, bytes(len(good)))
    for at in places(good, key):
        yield Fault("flipped", key, at, good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        if at and (places is regions or at % 8 == 0):
            yield Fault("truncated", key, at, good[:at])


def content(store: Path) -> dict[str, Any]:
    """All that a reader can get out of a store, and of the split stores beside it."""
    opened = open_store(store)
    assert isinstance(opened, DatasetStore)
    return {**_arrays(opened), "manifest": opened.manifest}


def _arrays(opened: DatasetStore) -> dict[str, np.ndarray]:
    assert opened.copies is not None
    return {
        "train": opened.train_images.read(),
        "test": opened.test_images.read(),
        "copies": opened.copies.read(),
        "params": opened.read_params(),
        "labels": opened.train_labels,
        "test labels": opened.test_labels,
        "source": opened.source_index,
    }


def split_content(store: Path) -> dict[str, Any]:
    split = open_store(store)
    return {name: getattr(split, name) for name in ("labeled", "unlabeled", "valid", "test", "manifest")}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        np.array_equal(a[name], b[name]) if isinstance(a[name], np.ndarray) else a[name] == b[name] for name in a
    )


def inflict(store: Path, fault: Fault, read: Callable[[Path], dict[str, Any]], whole: dict[str, Any]) -> Counter[str]:
    """Damage one file of a sound store, check what follows, and put it back. Returns what there was to count."""
    file = store / fault.file
    good = file.read_bytes()
    file.unlink() if fault.after is None else file.write_bytes(fault.after)
    try:
        return _check(store, fault, read, whole, good)
    finally:
        file.write_bytes(good)


def _check(
    store: Path, fault: Fault, read: Callable[[Path], dict[str, Any]], whole: dict[str, Any], good: bytes
) -> Counter[str]:
    seen = Counter({"cases": 1, fault.kind: 1})
    file = store / fault.file
    try:
        named = [problem.file for problem in verify(store)]
        assert named == [fault.file], (fault, named)
        seen["named by verify"] += 1
    except RealMixError as refusal:  # only the manifest itself may keep verify from its work
        if fault.file != "zarr.json" or str(store) not in str(refusal):
            raise
        seen["refused by verify"] += 1
    readable = False
    try:
        assert same(read(store), whole), (fault, "read other content without an error")
        seen["read right"] += 1
        readable = True
    except RealMixError:
        seen["refused by the reader"] += 1
    readable = readable or _same_whatever_the_files(store, read, whole)
    try:
        report = repair(store)
        follows = whole.get("train") is None or fault.file.endswith("zarr.json") or fault.file.startswith("copies/")
        follows = (follows or readable or fault.file == "train/source_index/c/0") and fault.file != "zarr.json"
        assert bool(report.restored) == follows, (fault, report)
        assert bool(report.lost) == (not follows), (fault, report)
        if follows:
            assert file.read_bytes() == good, (fault, "came back as other bytes")
            assert verify(store) == [], fault
    except RealMixError:
        assert fault.file == "zarr.json", fault
        follows = False
    if not follows:
        left = file.read_bytes() if file.exists() else None
        assert left == fault.after, (fault, "was touched, and cannot be derived")
    seen["restored by repair" if follows else "named as lost"] += 1
    return seen


def _same_whatever_the_files(store: Path, read: Callable[[Path], dict[str, Any]], whole: dict[str, Any]) -> bool:
    """Whether the content is what it was, in files that are not those of the manifest: a bit that says nothing."""
    if whole.get("train") is None or not (store / "zarr.json").is_file():
        return False
    reader = DatasetStore(store, {name: value for name, value in whole["manifest"].items() if name != "files"})
    try:
        return same(_arrays(reader), {name: value for name, value in whole.items() if name != "manifest"})
    except RealMixError:
        return False


def edit(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as a hostile hand would: with a checksum that fits."""
    from stores.format import manifest

    found = json.loads((store / "zarr.json").read_text())["attributes"]["realmix"]
    change(found)
    manifest.write(store, found)
