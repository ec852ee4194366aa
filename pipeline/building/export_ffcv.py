"""Writing the `.beton` files of a store with FFCV's DatasetWriter.

FFCV's writer gives samples to worker processes, and waits forever for one that died. Here one process does their work
and the caller watches it: if it dies or stalls, the caller raises one clear error and the store stays as it was.
Written in order by one process, the same samples also give the same bytes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import numpy as np

from pipeline.building.derive import recipe_of
from pipeline.building.executors import follow_parent
from stores import DatasetStore, ImageArray, open_store
from stores.errors import RealMixError, ResourceError, UsageError
from stores.ffcv.beton import (
    BASE,
    COPIES,
    Beton,
    betons,
    describe,
    import_ffcv,
    require_ffcv,
    require_local,
    require_space,
)
from stores.format import manifest
from stores.format.journal import Record
from stores.storage.location import sha256_of
from stores.storage.lock import exclusive
from stores.system import aside, durable
from stores.writer import Target

Progress = Callable[[str, int, int], None]  # (what, done, of)
NOT_IMPORTABLE = 2  # exit code of the writing process
STALL_S = 300.0  # without a byte written; a page takes milliseconds
BLOCK_BYTES = 10 << 20  # raw bytes of copies read at a time


def export(store: DatasetStore, progress: Progress) -> bool:
    """Add FFCV's files to a complete store, unless they are there and intact. The fingerprint does not change.

    Args:
        store: the store.
        progress: called with (what, samples written, total).

    Returns:
        Whether anything was written.

    Raises:
        UsageError: FFCV is not installed, or the store is in object storage.
        ResourceError: the files do not fit on the disk.
        StoreError: another build is running in the store.
        RealMixError: FFCV's writer died; the store is unchanged.
    """
    path = require_local(store.path)
    require_ffcv()
    made = betons(store.num_images, store.num_copies, store.image_size)
    with exclusive(path):
        aside.sweep(path)
        content = manifest.read(path)
        if "ffcv" in content and all(_is_sound(path, beton, content["files"]) for beton in made):
            return False
        require_space(path, made)
        files = {r["key"]: {"bytes": r["bytes"], "sha256": r["sha256"]} for r in write_betons(path, made, progress)}
        manifest.write(path, {**content, "files": content["files"] | files, "ffcv": describe(made)})
    return True


def replace_copies(target: Target, progress: Progress) -> dict[str, Any]:
    """In a build whose arrays are written, write FFCV's files and remove the zarr array of copies.

    Returns:
        Further fields of the manifest.
    """
    store = open_store(target.path, incomplete=True)
    assert isinstance(store, DatasetStore)
    made = betons(store.num_images, store.num_copies, store.image_size)
    if COPIES not in target.done:
        target.record(*write_betons(require_local(target.path), made, progress))
    target.drop("copies/images")
    return {"ffcv": describe(made)}


def write_betons(store: Path, made: list[Beton], progress: Progress) -> list[Record]:
    """Write the betons of a store whose arrays are written; the caller holds the store's lock.

    Returns:
        Records of the files.

    Raises:
        RealMixError: the writer died or stalled; its files are removed.
    """
    with contextlib.ExitStack() as claims:
        # the log holds the output of FFCV and its process
        *files, log = (claims.enter_context(aside.claim(store / n)).path for n in (*(b.name for b in made), "ffcv.log"))
        child = multiprocessing.get_context("spawn").Process(target=_write, args=(store, made, files, log))
        child.start()
        try:
            _watch(child, made, files, log, progress)
        finally:
            _end(child)
        records = []
        for beton, file in zip(made, files, strict=True):
            size, digest = sha256_of(file)
            assert size == beton.bytes, (beton, size)
            file.replace(store / beton.name)
            records.append({"key": beton.name, "bytes": size, "sha256": digest})
    durable.sync_folder(store)
    return records


def copies_of(store: DatasetStore, rows: np.ndarray) -> np.ndarray:
    """The copies of these rows, uint8 [n, A, H, W, 3], from the zarr array or, if the store has none, made again."""
    if store.has_zarr_copies or not store.manifest["complete"]:
        return ImageArray(store.path, "copies/images", store.manifest).read(rows, workers=1)
    out = np.empty((len(rows), store.num_copies, *store.image_size, 3), np.uint8)
    recipe_of(store).apply(store.train_images.read(rows, workers=1), store.read_params(rows), out)
    return out


def block_rows(store: DatasetStore) -> int:
    """Rows to read at a time, at least a chunk of copies."""
    return max(64, BLOCK_BYTES // max(1, store.num_copies * store.image_size[0] * store.image_size[1] * 3))


class Samples:
    """The samples of a beton, read from the store in blocks; FFCV's writer iterates over them."""

    def __init__(self, store: Path, beton: Beton) -> None:
        opened = open_store(store, incomplete=True)
        assert isinstance(opened, DatasetStore)
        self._store, self._beton = opened, beton
        self._first, self._block = 0, np.empty(0, np.uint8)

    def __getitem__(self, sample: int) -> tuple[np.ndarray, int, int, int]:
        """Image uint8 [H, W, 3], row, copy and CRC32C of a sample."""
        row, copy = divmod(int(sample), self._beton.copies or 1)
        if not self._first <= row < self._first + len(self._block):
            self._read(row)
        image = self._block[row - self._first]
        if self._beton.copies:
            return image[copy], row, copy, google_crc32c.value(image[copy].tobytes())
        return image, row, BASE, google_crc32c.value(image.tobytes())

    def _read(self, first: int) -> None:
        rows = np.arange(first, min(first + block_rows(self._store), self._beton.rows))
        copies = self._beton.copies
        self._block = copies_of(self._store, rows) if copies else self._store.train_images.read(rows, workers=1)
        self._first = first


def _is_sound(store: Path, beton: Beton, files: dict[str, Any]) -> bool:
    listed = files.get(beton.name)
    if listed is None or not (store / beton.name).is_file():
        return False
    return sha256_of(store / beton.name) == (listed.get("bytes"), listed.get("sha256"))


def _watch(child: SpawnProcess, made: list[Beton], files: list[Path], log: Path, progress: Progress) -> None:
    """Wait for the writing process; raise if it fails or stalls."""
    of, size, since = sum(beton.samples for beton in made), -1, time.monotonic()
    total = sum(beton.bytes for beton in made)
    while child.exitcode is None:
        child.join(0.1)
        now = sum(file.stat().st_size for file in files if file.exists())
        if now != size:
            size, since = now, time.monotonic()
            progress("ffcv", min(of, of * size // total), of)
        elif time.monotonic() - since > STALL_S:
            raise RealMixError(
                "FFCV's writer stopped writing", f"nothing came for {STALL_S:.0f} s; {_last_line(log)}", "run it again"
            )
    if child.exitcode == 0:
        return
    if child.exitcode == NOT_IMPORTABLE:
        import_ffcv()  # raises the same here
    if shutil.disk_usage(log.parent).free < 2 * made[0].page:
        raise ResourceError(f"the disk is full: '{log.parent}'", hint="free some space and run the same command again")
    died = f"it was killed by signal {-child.exitcode}" if child.exitcode < 0 else _last_line(log)
    raise RealMixError(
        "FFCV's writer died",
        died,
        "the store is as it was; free some memory if it was killed, and run the command again",
    )


def _last_line(log: Path) -> str:
    """The last line of the writer's output, which is the error of a traceback."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _end(child: SpawnProcess) -> None:
    """Kill the writing process."""
    child.kill()
    child.join()


# ---- in the writing process ----


def _write(store: Path, made: list[Beton], files: list[Path], log: Path) -> None:
    """Write every beton; errors are reported in `log` and by the exit code."""
    follow_parent()
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # writing needs no decoders, whose compilation takes most of FFCV's import
    said = log.open("r+", buffering=1)  # missing if the parent died and another export has removed it
    if sys.stderr is not None:  # None: closed
        os.dup2(said.fileno(), sys.stderr.fileno())
    sys.stderr = said
    try:
        import_ffcv()
    except UsageError:
        sys.exit(NOT_IMPORTABLE)
    _share_nothing()
    for beton, path in zip(made, files, strict=True):
        _write_one(Samples(store, beton), beton, path)


def _share_nothing() -> None:
    """Replace FFCV's shared memory by plain memory: there are no workers, and its names would outlive a kill."""
    import ffcv.memory_allocator
    import ffcv.writer

    ffcv.writer.shared_memory = SimpleNamespace(SharedMemory=lambda create, size: SimpleNamespace(buf=bytearray(size)))
    ffcv.memory_allocator.Value = lambda kind, value: SimpleNamespace(value=value, get_lock=contextlib.nullcontext)


def _write_one(samples: Samples, beton: Beton, path: Path) -> None:
    """Do the work of FFCV's `DatasetWriter.from_indexed_dataset` and its worker without processes and queues."""
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import DatasetWriter, handle_sample

    writer = DatasetWriter(str(path), beton.fields(), page_size=beton.page, num_workers=1)
    writer.num_samples = beton.samples
    writer.prepare()
    table = np.frombuffer(writer.metadata_sm.buf, writer.metadata_type)
    allocator = MemoryAllocator(str(path), writer.data_region_start, beton.page)
    with allocator:
        for index in range(beton.samples):
            handle_sample(samples[index], index, table.dtype.names, table, allocator, writer.fields)
    writer.finalize(allocator.allocations)
    with path.open("rb") as file:
        os.fsync(file.fileno())
