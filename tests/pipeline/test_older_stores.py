"""Stores whose chunks carry zstd's own checksum, as builds once wrote them: read, verified, continued, repaired."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import tensorstore
import zarr
from tiny_stores import build_stores

from pipeline.build import build as builds
from pipeline.check import repair as repairs
from pipeline.check.repair import repair
from stores import ImageArray, open_store
from stores.errors import IntegrityError
from stores.format import layout, manifest
from stores.format.compression import has_checksum
from stores.verify import verify

COPIES = "copies/images/c/0/0/0/0/0"


def codecs(store, name):
    found = json.loads((store / name / "zarr.json").read_text())["codecs"]
    inner = found[0]["configuration"].get("codecs", found) if found[0]["name"] == "sharding_indexed" else found
    return [codec["name"] for codec in inner]


@pytest.fixture
def older(tmp_path, source, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(layout, "CHECKSUM", "zstd")
        return build_stores(tmp_path, source)


def test_what_an_older_store_holds_is_the_same(older, tiny):
    assert codecs(older, "copies/images") == codecs(older, "train/labels") == ["bytes", "zstd"]
    assert codecs(tiny, "copies/images") == codecs(tiny, "train/labels") == ["bytes", "zstd", "crc32c"]
    assert has_checksum((older / COPIES).read_bytes())
    assert not has_checksum((tiny / COPIES).read_bytes())
    old, new = open_store(older), open_store(tiny)
    assert old.fingerprint == new.fingerprint
    np.testing.assert_array_equal(old.copies.read(), new.copies.read())
    np.testing.assert_array_equal(old.train_labels, new.train_labels)
    assert verify(older) == verify(older.with_name("tiny_20")) == []


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


def test_a_build_continues_an_array_as_it_was_begun(tmp_path, source, older, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(target, *_):
        raise Killed

    path = tmp_path / "interrupted"
    path.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(layout, "CHECKSUM", "zstd")
        patch.setattr(builds, "_write_copies", killed)
        with pytest.raises(Killed):
            build_stores(path, source)
    store = build_stores(path, source)
    assert codecs(store, "train/images") == ["bytes", "zstd"]
    assert codecs(store, "copies/images") == ["bytes", "zstd", "crc32c"]
    assert verify(store) == []
    assert open_store(store).fingerprint == open_store(older).fingerprint
    monkeypatch.setattr(layout, "CHECKSUM", "zstd")
    half = layout.copies("copies/images", 150, 5, 12, 12).create(tmp_path / "half")
    monkeypatch.undo()
    assert half.checksum == "zstd"
    assert layout.copies("copies/images", 150, 5, 12, 12).create(tmp_path / "half") == half


def test_repair_puts_back_what_was_there(older):
    split = older.with_name("tiny_20")
    lost = [
        *(older / name / "zarr.json" for name in ("copies/images", "copies", "train/labels", "train/source_index")),
        older / COPIES, older / "train/source_index/c/0", split / "unlabeled/c/0", split / "labeled/zarr.json",
    ]  # fmt: skip
    whole = [file.read_bytes() for file in lost]
    for file in lost:
        file.unlink()
    report = repair(split)
    assert report.lost == {}
    assert set(report.restored.values()) == {repairs.SAME}
    assert [file.read_bytes() for file in lost] == whole


def test_an_order_lost_with_metadata_of_another_zarr_is_drawn_again(older):
    """Nothing of the array is left, and its metadata was in other bytes: what its checksum was the others tell."""
    meta, file = older / "train/source_index/zarr.json", older / "train/source_index/c/0"
    whole, content = file.read_bytes(), manifest.read(older)
    written = json.dumps(json.loads(meta.read_text())).encode()
    content["files"]["train/source_index/zarr.json"] = {
        "bytes": len(written), "sha256": hashlib.sha256(written).hexdigest(),
    }  # fmt: skip
    meta.write_bytes(written)
    manifest.write(older, content)
    assert verify(older) == []
    meta.unlink()
    file.unlink()
    assert repair(older).lost == {}
    assert file.read_bytes() == whole
    assert verify(older) == []


def test_repair_needs_no_array_that_the_store_does_not_have(tiny_ffcv, tmp_path):
    """Of a store whose copies are FFCV's alone, the group of the copies."""
    store = tmp_path / "stores" / tiny_ffcv.name
    shutil.copytree(tiny_ffcv, store)
    assert not (store / "copies/images").exists()
    (store / "copies/zarr.json").write_bytes(b"{")
    assert repair(store).restored == {"copies/zarr.json": repairs.SAME}
    assert verify(store) == []


@pytest.mark.parametrize("kind", ["crc32c", "zstd"])
@pytest.mark.parametrize("left", [b"", b"{", None], ids=["empty", "torn", "none"])
def test_a_build_mends_the_metadata_of_what_it_continues(tmp_path, source, tiny, monkeypatch, kind, left):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(layout, "CHECKSUM", kind)
        patch.setattr(builds, "dataset_fingerprint", killed)  # all is written, the store is not complete
        with pytest.raises(Killed):
            build_stores(tmp_path, source)
    for name in ("train/images", "copies/images", "train/labels"):
        (tmp_path / "tiny" / name / "zarr.json").write_bytes(left or b"")
        if left is None:
            (tmp_path / "tiny" / name / "zarr.json").unlink()
    store = build_stores(tmp_path, source)
    assert codecs(store, "copies/images")[2:] == ([] if kind == "zstd" else ["crc32c"])
    assert verify(store) == []
    assert open_store(store).fingerprint == open_store(tiny).fingerprint
