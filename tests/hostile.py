"""Stores made by an enemy: mutations of manifests, metadata, chunk indices and frames whose checksums all fit.

Whatever a store holds, opening, reading, verifying and repairing it either works or raises a `RealMixError`; it takes
no more memory than the files can fill, and touches nothing outside the store's folder. Used by the tests and the soak.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from pipeline.check.deep_verify import check_copies
from pipeline.check.repair import repair
from stores import DatasetStore, open_store
from stores.errors import RealMixError
from stores.format import layout, manifest
from stores.format.shards import MISSING
from stores.verify import verify

ALLOWANCE = 64 << 20  # bytes beyond what the sound store takes
DEEP: list[Any] = []
for _ in range(900):
    DEEP = [DEEP]
VALUES: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    7,
    255,
    2**16,
    2**31,
    2**32,
    2**40,
    2**53,
    2**60,
    2**63,
    2**64,
    -(2**63),
    10**30,
    10**4000,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "..",
    "../../outside",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "x" * 5000,
    "uint8",
    "int64",
    "float64",
    "dataset",
    "split",
    [],
    {},
    [0],
    [[]],
    [None],
    [-1, 2**60],
    {"": 1},
    DEEP,
]


def survives(store: Path, split: Path, rng: random.Random) -> str:
    """Do to a store all that the commands do. Returns "read" or the name of the error it was refused with."""
    outcome = "read"
    for attempt in (
        lambda: verify(store),
        lambda: verify(split),
        lambda: _read(store, rng),
        lambda: open_store(split),
        lambda: repair(store, dry_run=True),
        lambda: repair(split),
        lambda: repair(store),
    ):
        try:
            attempt()
        except RealMixError as error:
            str(error).encode()  # it can be printed
            outcome = type(error).__name__
    return outcome


def _read(store: Path, rng: random.Random) -> None:
    opened = open_store(store)
    assert isinstance(opened, DatasetStore)
    reads: list[Callable[[], object]] = [
        lambda: opened.train_images.read(),
        lambda: opened.train_images.read(np.array([0, 3])),
        lambda: opened.test_images.read(),
        lambda: opened.train_labels,
        lambda: opened.test_labels,
        lambda: opened.source_index,
        lambda: opened.folds,
        lambda: opened.read_params(),
        lambda: opened.copies and opened.copies.read(copies=1),
        lambda: opened.copies and opened.copies.read(),
    ]
    refused = None
    for read in reads:
        try:
            read()
        except RealMixError as error:
            refused = error
    if refused:
        raise refused
    if rng.random() < 0.3:
        check_copies(opened, lambda *_: None)


def within_bounds(case: Callable[[], str]) -> str:
    """Run a case; its peak of memory must stay within the allowance."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    outcome = case()
    taken = tracemalloc.get_traced_memory()[1] - before
    assert taken < ALLOWANCE, f"{taken >> 20} MiB taken"
    return outcome


def mutated(value: Any, rng: random.Random, times: int) -> Any:
    """A copy of a JSON value with a few of its parts replaced, removed, renamed or swapped."""
    value = copy.deepcopy(value)
    for _ in range(times):
        holders = list(_holders(value))
        holder, key = rng.choice(holders)
        match rng.randrange(6):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(["../../outside", "/etc/passwd", "zarr.json", "", "a\0b", "\ud800", "c"])] = (
                    holder.pop(key)
                )
            case 2:
                other, at = rng.choice(holders)
                holder[key] = copy.deepcopy(other[at]) if at in _keys(other) else None
            case 3 if isinstance(holder[key], int):
                holder[key] = holder[key] + rng.choice([-1, 1, 2**20, 2**33, 2**50])
            case _:
                holder[key] = rng.choice(VALUES)
    return value


def _keys(holder: Any) -> Any:
    return holder.keys() if isinstance(holder, dict) else range(len(holder))


def _holders(value: Any) -> Any:
    for key in list(_keys(value)):
        yield value, key
        if (
            isinstance(value[key], dict | list)
            and len(str(type(value[key])))
            and value[key] is not DEEP
            and _shallow(value[key])
        ):
            yield from _holders(value[key])


def _shallow(value: Any) -> bool:
    depth = 0
    while isinstance(value, list) and len(value) == 1 and depth < 20:
        value, depth = value[0], depth + 1
    return depth < 20


def put_manifest(store: Path, content: Any, *, sealed: bool) -> None:
    """Write a manifest whatever it holds, with its own checksum if that can be made."""
    attributes: dict[str, Any] = {"realmix": content}
    if sealed:
        with contextlib.suppress(ValueError):  # NaN has none
            attributes["realmix_sha256"] = manifest.fingerprint(content)
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (store / "zarr.json").write_text(json.dumps(group, indent=1, sort_keys=True))


def put_file(store: Path, key: str, data: bytes) -> None:
    """Replace a file and make the manifest agree."""
    content = json.loads((store / "zarr.json").read_text())["attributes"]["realmix"]
    content["files"][key] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (store / key).write_bytes(data)
    put_manifest(store, content, sealed=True)


def hostile_manifest(store: Path, rng: random.Random) -> None:
    content = json.loads((store / "zarr.json").read_text())["attributes"]["realmix"]
    changed = mutated(content, rng, rng.choice([1, 1, 2, 4]))
    put_manifest(store, changed, sealed=rng.random() < 0.8)


def hostile_metadata(store: Path, rng: random.Random) -> None:
    key = rng.choice([p.relative_to(store).as_posix() for p in sorted(store.rglob("zarr.json")) if p.parent != store])
    meta = json.loads((store / key).read_text())
    text = json.dumps(mutated(meta, rng, rng.choice([1, 1, 2, 4])))
    put_file(store, key, text.encode())
    if rng.random() < 0.5:  # the manifest tells the same lie
        shape = json.loads(text, parse_constant=str)
        shape = shape.get("shape") if isinstance(shape, dict) else None
        content = json.loads((store / "zarr.json").read_text())["attributes"]["realmix"]
        if key == "copies/images/zarr.json" and isinstance(shape, list) and len(shape) == 5:
            content |= {"num_images": shape[0], "num_copies": shape[1], "image_size": shape[2:4]}
        elif key == "train/images/zarr.json" and isinstance(shape, list) and len(shape) == 4:
            content |= {"num_images": shape[0], "image_size": shape[1:3]}
        put_manifest(store, content, sealed=True)


def hostile_index(store: Path, rng: random.Random) -> None:
    """Chunk index entries that point anywhere, under a CRC that fits."""
    key = rng.choice(["copies/images/c/0/0/0/0/0", "train/images/c/0/0/0/0", "test/images/c/0/0/0/0"])
    data = bytearray((store / key).read_bytes())
    entries = rng.choice([1, 1, 2])
    value = rng.choice([0, 1, 2**31, 2**40, 2**62, 2**63, 2**64 - 1, 2**64 - 2, len(data), len(data) - 20])
    at = len(data) - 4 - 16 * entries + rng.choice([0, 8])
    data[at : at + 8] = struct.pack("<Q", value)
    table = bytes(data[-4 - 16 * entries : -4])
    data[-4:] = struct.pack("<I", google_crc32c.value(table))
    put_file(store, key, bytes(data))


def hostile_frame(store: Path, rng: random.Random) -> None:
    """A frame that states another size, or with bytes at random places, under checksums that fit."""
    keys = [p.relative_to(store).as_posix() for p in sorted(store.rglob("*")) if p.is_file() and p.name != "zarr.json"]
    key = rng.choice(keys)
    data, array = (store / key).read_bytes(), layout.load(store, key.partition("/c/")[0])
    entries = 16 * math.prod(array.chunk_grid) if array.sharded else 0
    table = np.frombuffer(data[len(data) - entries - 4 : -4], "<u8").reshape(-1, 2).copy() if entries else None
    length = len(data) if table is None else int(table[0, 1])
    frame = bytearray(data[: length - 4])
    if rng.random() < 0.5:
        claimed = rng.choice([0, 1, 2**20, 2**31, 2**40, 2**63])
        frame[4:5] = bytes([0b11100000])  # single segment, content size in eight bytes
        frame[5:5] = struct.pack("<Q", claimed)
    else:
        for _ in range(rng.choice([1, 3, 10])):
            frame[rng.randrange(len(frame))] = rng.randrange(256)
    made = bytes(frame) + struct.pack("<I", google_crc32c.value(bytes(frame)))
    if table is not None:
        made += data[length : len(data) - entries - 4]
        table[0, 1] += len(frame) + 4 - length
        later = (table[:, 0] > 0) & (table[:, 0] != MISSING)
        table[later, 0] += len(frame) + 4 - length
        made += table.tobytes() + struct.pack("<I", google_crc32c.value(table.tobytes()))
    put_file(store, key, made)


def hostile_recipe(store: Path, rng: random.Random) -> None:
    content = json.loads((store / "zarr.json").read_text())["attributes"]["realmix"]
    specs = [
        content["spec"]["recipe"],
        {"kind": "erase", "name": "erase", "version": 1, "p": 0.3, "area": [0.02, 0.4], "ratio": [0.3, 3.3]},
        {"kind": "simple", "name": "simple", "version": 1, "flip": 0.5, "shift": 2},
    ]
    content["spec"]["recipe"] = mutated(rng.choice(specs), rng, rng.choice([1, 2]))
    put_manifest(store, content, sealed=True)


ATTACKS = (hostile_manifest, hostile_metadata, hostile_index, hostile_frame, hostile_recipe)


def attack(store: Path, split: Path, seed: int) -> str:
    """One seeded attack on one of two sound stores, which are put back afterwards."""
    rng = random.Random(seed)
    action = ATTACKS[seed % len(ATTACKS)]
    files = {p: p.read_bytes() for folder in (store, split) for p in folder.rglob("*") if p.is_file()}
    aim = split if action in (hostile_manifest, hostile_metadata) and rng.random() < 0.3 else store
    beside = sorted(store.parent.iterdir())
    try:
        action(aim, rng)
        outcome = within_bounds(lambda: survives(store, split, rng))
        assert sorted(store.parent.iterdir()) == beside, "something was written beside the store"
        return f"{action.__name__.removeprefix('hostile_')}: {outcome}"
    finally:
        for path in [p for folder in (store, split) for p in folder.rglob("*") if p.is_file()]:
            if path not in files:
                path.unlink()
        for path, data in files.items():
            if not path.exists() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
