"""The zarr.json of every array is what zarr-python writes, and other readers of zarr check the same checksums."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorstore
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from stores import ImageArray
from stores.errors import IntegrityError, StoreError
from stores.format import layout

COPIES = layout.copies("copies/images", 7, 120, 40, 30)


@pytest.mark.parametrize(
    "array",
    [
        COPIES,
        layout.params("copies/params", COPIES, 5),
        layout.images("train/images", 3000, 9, 9),
        layout.table("folds", np.zeros((2, 3), np.int64)),
        layout.table("labeled", np.zeros(0, np.int64)),
    ],
    ids=lambda array: array.name,
)
def test_metadata_is_zarrs_own(array):
    theirs = {}
    zarr.create_array(
        store=zarr.storage.MemoryStore(theirs),
        name=array.name,
        shape=array.shape,
        chunks=array.chunk,
        shards=array.file if array.sharded else None,
        dtype=array.dtype,
        compressors=[ZstdCodec(level=1, checksum=False), Crc32cCodec()],
        fill_value=0,
        dimension_names={4: ("image", "y", "x", "channel"), 5: ("image", "copy", "y", "x", "channel")}.get(
            len(array.shape)
        ),
    )
    zarr.create_group(store=zarr.storage.MemoryStore(theirs), path="group", zarr_format=3)
    ours = array.metadata()
    key = f"{array.name}/zarr.json"
    assert json.loads(ours[key]) == json.loads(theirs[key].to_bytes())
    for group in ours.keys() - {key}:
        assert json.loads(ours[group]) == json.loads(theirs["group/zarr.json"].to_bytes())


def test_an_array_with_other_codecs_is_refused(tiny_copy):
    file = tiny_copy / "train/labels/zarr.json"
    meta = json.loads(file.read_text())
    meta["codecs"] = meta["codecs"][:2]
    file.write_text(json.dumps(meta))
    with pytest.raises(StoreError, match="not laid out as a realmix store"):
        layout.load(tiny_copy, "train/labels")


@pytest.mark.parametrize("name", ["copies/images", "train/labels"])
def test_other_readers_see_the_checksum_of_a_chunk_fail(tiny_copy, name):
    """Ours is a codec of zarr's: whoever else reads the store is warned too."""
    file = next(path for path in (tiny_copy / name / "c").rglob("*") if path.is_file())
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(str(tiny_copy / name), mode="r")[:]
    kvstore = {"driver": "file", "path": str(tiny_copy / name)}
    theirs = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
    with pytest.raises(ValueError, match="Digest mismatch"):
        theirs.read().result()
    with pytest.raises(IntegrityError, match="checksum of a chunk"):
        ImageArray(tiny_copy, name).read()
