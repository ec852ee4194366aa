"""Copies of an image compress against each other whatever the image's size, into frames that any zstd decodes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import tensorstore
import zarr
import zstandard

from stores.format import layout, shards
from stores.format.compression import compress, window_of
from stores.writer import write_file

DECODERS_LIMIT = 27  # log2 of the window that `zstd -d` accepts unasked
SAME_ZSTD = zstandard.ZSTD_VERSION == (1, 5, 7)  # another version may compress to other bytes


def copies_of_noise(images: int, copies: int, side: int) -> np.ndarray:
    """Copies of incompressible images, each with a box of one value: uint8 [images, copies, side, side, 3]."""
    rng = np.random.default_rng(side)
    out = np.repeat(rng.integers(0, 256, (images, 1, side, side, 3), np.uint8), copies, axis=1)
    for copy in out.reshape(-1, side, side, 3):
        top, left = rng.integers(0, side // 2, 2)
        copy[top : top + side // 2, left : left + side // 2] = 127
    return out


@pytest.mark.parametrize(("side", "copies"), [(32, 50), (96, 50), (224, 50), (400, 12)])
def test_a_copy_takes_a_small_part_of_its_image(side, copies):
    chunk = copies_of_noise(1, copies, side)
    frame = compress(chunk)
    image = side * side * 3
    assert len(frame) < image * (1 + 0.03 * copies)  # the image once, and the edges of each box
    assert (np.frombuffer(zstandard.ZstdDecompressor().decompress(frame), np.uint8).reshape(chunk.shape) == chunk).all()


@pytest.mark.parametrize("side", [1, 8, 32, 59, 60, 64, 224, 457, 1024, 4096, 65536])
def test_the_window_holds_the_siblings_and_decoders_accept_it(side):
    image = side * side * 3
    assert window_of(image) <= DECODERS_LIMIT
    siblings = layout.copies("copies/images", 1, 50, side, side).chunk[1]
    assert 1 << window_of(image) >= min(siblings * image, 64 << 20)


def test_small_images_and_tables_have_the_frames_of_the_first_version():
    rng = np.random.default_rng(0)
    arrays = [copies_of_noise(64, 50, 32), rng.integers(0, 9, 1000), rng.integers(0, 256, (9, 64, 64, 3), np.uint8)]
    digest = hashlib.sha256(b"".join(compress(array) for array in arrays)).hexdigest()
    if SAME_ZSTD:
        assert digest == "97430b4703d3b8431fc4ab744ba210e7cd32689c8f653e32b8596654b928015c"


def test_other_readers_of_zarr_decode_photographs(tmp_path):
    values = copies_of_noise(2, 50, 224)
    array = layout.copies("copies/images", *values.shape[:4]).create(tmp_path)
    write_file(tmp_path, array, 0, shards.encode(array, 0, values))
    place = str(tmp_path / "copies/images")
    assert (zarr.open_array(place, mode="r")[1, 40:] == values[1, 40:]).all()
    opened = tensorstore.open({"driver": "zarr3", "kvstore": f"file://{place}/"}).result()
    assert (opened[1, 49].read().result() == values[1, 49]).all()
