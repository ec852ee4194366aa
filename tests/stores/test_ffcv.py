"""FFCV's Loader gives the pixels of the zarr arrays, all of them; and no file makes it read out of bounds."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from stores import open_store
from stores.errors import IntegrityError, RealMixError, StoreError
from stores.ffcv.reading import BetonLoader
from stores.format import manifest


@pytest.fixture(scope="module")
def stored(tiny_both):
    return open_store(tiny_both)


@pytest.fixture(scope="module")
def copies(stored):
    return stored.beton()


def ffcv_threads() -> list[str]:
    return [type(thread).__name__ for thread in threading.enumerate() if "Epoch" in type(thread).__name__]


def test_every_pixel_of_every_copy_and_image_is_the_same(stored, copies):
    assert copies.shape == stored.copies.shape
    assert (copies.read() == stored.copies.read()).all()
    assert (stored.beton(base=True).read() == stored.train_images.read()).all()


def test_rows_come_as_asked_for(stored, copies):
    rows = np.random.default_rng(0).integers(0, 150, 400)  # more than there are: repeated, and longer than an epoch
    assert (copies.read(rows, copies=3) == stored.copies.read(rows, copies=3)).all()
    out = np.zeros((2, 5, 12, 12, 3), np.uint8)
    assert copies.read(np.array([149, 0]), out=out) is out
    assert (out == stored.copies.read(np.array([149, 0]))).all()
    assert copies.read(np.empty(0, np.int64)).shape == (0, 5, 12, 12, 3)
    with pytest.raises(StoreError, match="150 rows"):
        copies.read(np.array([150]))


def test_random_order_is_a_permutation_of_the_split(stored):
    """Each copy of each row of the split once, with its own pixels; another order every epoch, the same for a seed."""
    rows = open_store(stored.path.with_name("tiny_20")).unlabeled
    expected, orders = stored.copies.read(), []
    loader = BetonLoader(stored.beton(), rows, 64, seed=3)
    assert len(loader) == -(-len(rows) * 5 // 64)
    for _ in range(2):
        seen = []
        for images, row, copy in loader:
            assert (images == expected[row, copy]).all()
            seen += zip(row.tolist(), copy.tolist(), strict=True)
        assert sorted(seen) == [(row, copy) for row in sorted(rows.tolist()) for copy in range(5)]
        orders.append(seen)
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])
    first = [
        pair for _, row, copy in BetonLoader(stored.beton(), rows, 64, seed=3) for pair in zip(row, copy, strict=True)
    ]
    assert first == orders[0]


def test_images_themselves_in_order_and_fewer_copies(stored):
    rows = np.array([5, 2, 90])
    [(images, row, copy)] = BetonLoader(stored.beton(base=True), rows, 8, order="sequential")
    assert (images == stored.train_images.read(rows)).all()
    assert (row.tolist(), copy.tolist()) == ([5, 2, 90], [-1, -1, -1])
    [(_, row, copy)] = BetonLoader(stored.beton(), rows, 4, copies=2, order="sequential", drop_last=True)
    assert list(zip(row, copy, strict=True)) == [(5, 0), (5, 1), (2, 0), (2, 1)]


def test_an_epoch_left_early_leaves_no_thread_and_torch_keeps_its_threads(stored, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for _ in BetonLoader(stored.beton(), None, 16):
        assert ffcv_threads() == ["EpochIterator"]
        assert asked[-1] == 7
        break
    assert ffcv_threads() == []
    short = BetonLoader(stored.beton(), np.arange(3), 5)  # all its batches wait in FFCV's queue
    next(iter(short))
    assert ffcv_threads() == []


def test_a_dead_reading_thread_is_an_error_not_a_wait(stored, monkeypatch):
    loader = BetonLoader(stored.beton(), None, 16)
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    monkeypatch.setattr("ffcv.loader.epoch_iterator.EpochIterator.run_pipeline", lambda *_: 1 / 0)
    with pytest.raises(RealMixError, match="FFCV stopped reading"):
        list(loader)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (0, "header"),
        (4, "header"),
        (8, "header"),
        (30, "header"),
        (24 + 4 * 1041, "where its images lie"),
        (24 + 4 * 1041 + 8, "the ids"),
        (24 + 4 * 1041 + 16, "the ids"),
        (-8, "where its images lie"),
        (-16, "where its images lie"),
    ],
)
def test_numbers_that_ffcv_would_follow_are_checked_first(stored, tmp_path, where, says):
    """A changed version, page size, count, field, image pointer, id, or entry of the table of allocations."""
    damaged = copy_of(stored, tmp_path)
    data = bytearray((damaged / "copies.beton").read_bytes())
    data[where] ^= 0x55
    (damaged / "copies.beton").write_bytes(data)
    with pytest.raises(IntegrityError, match=says):
        open_store(damaged).beton().read()


@pytest.mark.parametrize("size", [0, 10, 5000, -1])
def test_a_truncated_or_missing_file_is_named(stored, tmp_path, size):
    damaged = copy_of(stored, tmp_path)
    file = damaged / "copies.beton"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(IntegrityError, match=r"copies\.beton' is damaged\n\d+ bytes instead of"):
        open_store(damaged).beton().read()
    file.unlink()
    with pytest.raises(IntegrityError, match=r"copies\.beton' is missing"):
        BetonLoader(open_store(damaged).beton(), None, 8)


def test_a_flipped_pixel_or_checksum_never_becomes_an_image(stored, tmp_path):
    damaged = copy_of(stored, tmp_path)
    file = damaged / "copies.beton"
    good = file.read_bytes()
    pixel = good.index(stored.copies.read(np.array([60]))[0, 2].tobytes()) + 100
    checksum = 24 + 4 * 1041 + (60 * 5 + 2) * 32 + 24
    for place in (pixel, checksum):
        file.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(IntegrityError, match="not the file that the manifest names"):
            open_store(damaged).beton().read(np.array([3, 60]))
        content = manifest.read(damaged)
        content["files"]["copies.beton"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        manifest.write(damaged, content)
        with pytest.raises(IntegrityError, match="row 60, copy 2"):
            open_store(damaged).beton().read(np.array([3, 60]))
    assert ffcv_threads() == []


def test_a_store_without_the_files_says_how_to_get_them(tiny):
    with pytest.raises(StoreError, match=r"has no FFCV files\n→ `realmix-data export"):
        BetonLoader(open_store(tiny).beton(), None, 8)


def copy_of(stored, folder: Path) -> Path:
    return Path(shutil.copytree(stored.path, folder / "tiny"))


def test_reading_leaves_torch_its_threads(tiny_ffcv):
    """FFCV sets them to one when it is imported; in a process of its own, for here it is imported already."""
    code = (
        "import sys, torch\nfrom stores import open_store\ntorch.set_num_threads(3)\n"
        "open_store(sys.argv[1]).copies.read()\nassert torch.get_num_threads() == 3, torch.get_num_threads()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny_ffcv)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
