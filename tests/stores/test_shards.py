"""One file of an array: what is written is what zarr-python reads, and damage is never read as pixels."""

from __future__ import annotations

import re

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.errors import IntegrityError, StoreError
from stores.format import layout, shards
from stores.reader import ImageArray
from stores.writer import write_file


def write(path, array: layout.ArrayLayout, values: np.ndarray) -> None:
    array.create(path)
    for index in range(array.num_files):
        start, stop = array.rows(index)
        write_file(path, array, index, shards.encode(array, index, values[start:stop]))


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 70),
    copies=st.integers(1, 7),
    chunk=st.integers(1, 9),
    per_chunk=st.integers(1, 4),
    chunks=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_layout_reads_back_in_zarr_and_here(tmp_path_factory, count, copies, chunk, per_chunk, chunks, seed):
    path = tmp_path_factory.mktemp("array")
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (count, copies, 3, 2, 3), dtype=np.uint8)
    wide = -(-copies // per_chunk) * per_chunk
    array = layout.ArrayLayout(
        "copies/images", values.shape, "uint8", (chunk, per_chunk, 3, 2, 3), (chunk * chunks, wide, 3, 2, 3), True
    )
    write(path, array, values)
    assert layout.load(path, "copies/images") == array
    assert (zarr.open_array(str(path / "copies/images"), mode="r")[:] == values).all()
    rows = rng.integers(0, count, 2 * count)
    some = int(rng.integers(1, copies + 1))
    ours = ImageArray(path, "copies/images")
    assert (ours.read() == values).all()
    assert (ours.read(rows, copies=some) == values[rows, :some]).all()


def test_layouts_keep_siblings_together_and_chunks_small():
    cifar = layout.copies("copies/images", 50_000, 50, 32, 32)
    assert cifar.chunk == (64, 50, 32, 32, 3)
    assert cifar.file == (1024, 50, 32, 32, 3)
    for side, copies in ((8, 50), (96, 50), (224, 120), (32, 1)):
        array = layout.copies("copies/images", 3000, copies, side, side)
        raw = np.prod(array.chunk)
        assert raw <= layout.CHUNK_BYTES or array.chunk[0] == 1
        assert array.file[1] >= copies


@pytest.fixture
def array(tmp_path, request):
    values = np.random.default_rng(1).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    shape = values.shape[1:]
    array = layout.ArrayLayout("train/images", values.shape, "uint8", (8, *shape), (24, *shape), True)
    write(tmp_path, array, values)
    return tmp_path, array, values


def test_every_flipped_byte_of_a_file_is_noticed(array):
    path, spec, _ = array
    file = path / spec.key(0)
    good = file.read_bytes()
    for at in range(0, len(good), 7):
        bad = bytearray(good)
        bad[at] ^= 0x40
        file.write_bytes(bad)
        with pytest.raises(IntegrityError, match=re.escape(str(file))):
            ImageArray(path, "train/images").read(np.arange(24))


def test_every_truncation_is_noticed(array):
    path, spec, _ = array
    file = path / spec.key(0)
    good = file.read_bytes()
    for length in range(0, len(good), 11):
        file.write_bytes(good[:length])
        with pytest.raises(IntegrityError, match="damaged"):
            ImageArray(path, "train/images").read(np.arange(24))


def test_a_missing_file_is_an_error_not_zeros(array):
    path, spec, _ = array
    (path / spec.key(1)).unlink()
    assert ImageArray(path, "train/images").read(np.arange(24)).any()
    with pytest.raises(IntegrityError, match="is missing"):
        ImageArray(path, "train/images").read(np.array([30]))


def test_a_chunk_marked_missing_is_an_error_not_zeros(array):
    path, spec, values = array
    encoder = shards.Encoder(spec, 0)
    encoder.add(values[:8])
    (path / spec.key(0)).write_bytes(encoder.finish())
    with pytest.raises(IntegrityError, match="a chunk is missing"):
        ImageArray(path, "train/images").read(np.array([9]))


def test_a_frame_of_another_size_is_refused(array):
    path, spec, _ = array
    short = layout.ArrayLayout("train/images", (8, 4, 4, 3), "uint8", (4, 4, 4, 3), (24, 4, 4, 3), True)
    encoder = shards.Encoder(short, 0)
    encoder.add(np.full((4, 4, 4, 3), 9, np.uint8))
    file = encoder.finish()
    frame = file[: int.from_bytes(file[8 + len(file) - 4 - 6 * 16 : 16 + len(file) - 4 - 6 * 16], "little")]
    with pytest.raises(IntegrityError, match="does not hold"):
        shards.decode_chunk(spec, frame, path, lambda: np.empty(spec.chunk, np.uint8))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"uint8"', '"float64"'),
        ('"zstd"', '"gzip"'),
        ('"sharding_indexed"', '"transpose"'),
        ("[\n    40,", "[\n    -4,"),
    ],
)
def test_foreign_metadata_is_refused(array, old, new):
    path, *_ = array
    meta = path / "train/images/zarr.json"
    text = meta.read_text()
    assert old in text
    meta.write_text(text.replace(old, new))
    with pytest.raises(StoreError, match="train/images"):
        ImageArray(path, "train/images")
