"""The store as others see it: read alike by its own reader, zarr-python and tensorstore, refused when it is not one."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tensorstore
import zarr

from stores import DatasetStore, SplitStore, open_store
from stores.errors import IntegrityError, StoreError
from stores.format import manifest, shards


def edit_manifest(path, change) -> None:
    content = json.loads((path / "zarr.json").read_text())["attributes"]["realmix"]
    change(content)
    manifest.write(path, content)


def test_three_readers_see_the_same_arrays(tiny):
    ours = open_store(tiny)
    plain = zarr.open_group(str(tiny), mode="r")
    arrays = {
        "train/images": ours.train_images.read(),
        "test/images": ours.test_images.read(),
        "copies/images": ours.copies.read(),
        "copies/params": ours.read_params(),
        "train/labels": ours.train_labels,
        "test/labels": ours.test_labels,
        "train/source_index": ours.source_index,
    }
    for name, values in arrays.items():
        kvstore = {"driver": "file", "path": str(tiny / name)}
        theirs = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result().read().result()
        assert values.any(), name
        assert (theirs == values).all(), name
        assert (plain[name][:] == values).all(), name
    assert plain.attrs["realmix"]["fingerprint"] == ours.fingerprint


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("copies", [5, 3])
@pytest.mark.parametrize("rows", ["0:150", "0:64", "64:128", "10:140", "149:150", "128:64:-1", "::7"])
def test_rows_are_decoded_in_place(tiny, rows, copies, workers):
    """Whole chunks without a copy in between, parts of chunks with one; only the rows asked for are written."""
    store = open_store(tiny)
    chosen = np.arange(150)[slice(*(int(n) if n else None for n in rows.split(":")))]
    expected = zarr.open_group(tiny, mode="r")["copies/images"][:][chosen, :copies]
    room = np.full((len(chosen) + 2, *expected.shape[1:]), 7, np.uint8)
    store.copies.read(chosen, copies=copies, out=room[1:-1], workers=workers)
    np.testing.assert_array_equal(room[1:-1], expected)
    assert (room[[0, -1]] == 7).all()


def test_a_files_index_is_read_once_until_the_file_changes(tiny_copy, monkeypatch):
    array, reads = open_store(tiny_copy).copies, []
    read_index = shards.read_index
    monkeypatch.setattr(shards, "read_index", lambda *args: reads.append(args[3]) or read_index(*args))
    expected = array.read(np.arange(64))
    np.testing.assert_array_equal(array.read(np.arange(64)), expected)
    assert len(reads) == 1
    path = reads[0]
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        array.read(np.arange(64))
    path.write_bytes(data[:-1])
    with pytest.raises(IntegrityError, match="is damaged"):
        array.read(np.arange(64))
    path.write_bytes(data)
    np.testing.assert_array_equal(array.read(np.arange(64)), expected)
    elsewhere = tiny_copy.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match="leads out of its store"):
        array.read(np.arange(64))


def test_a_split_store_opens_in_zarr_and_tensorstore(tiny):
    path = tiny.with_name("tiny_20")
    split = open_store(path)
    for name in ("labeled", "unlabeled", "test"):
        kvstore = {"driver": "file", "path": str(path / name)}
        theirs = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result().read().result()
        assert (theirs == getattr(split, name)).all()
        assert (zarr.open_group(str(path), mode="r")[name][:] == getattr(split, name)).all()


def test_rows_are_the_source_in_a_fixed_random_order(tiny, source):
    store = open_store(tiny)
    assert isinstance(store, DatasetStore)
    assert (store.train_images.read() == source.train.images[store.source_index]).all()
    assert (store.train_labels == source.train.labels[store.source_index]).all()
    assert sorted(store.source_index.tolist()) == list(range(len(source.train.labels)))
    assert (np.diff(store.train_labels) != 0).mean() > 0.6, "a class-sorted source must not stay sorted"
    assert (store.test_images.read() == source.test.images).all()


def test_split_store_attributes(tiny):
    split = open_store(tiny.with_name("tiny_20"))
    assert isinstance(split, SplitStore)
    assert split.num_classes == 5
    assert np.bincount(split.train_labels[split.labeled]).tolist() == [4] * 5
    assert not set(split.labeled) & set(split.unlabeled)
    assert sorted([*split.labeled, *split.unlabeled]) == list(range(150))
    assert (split.train_labels == split.dataset.train_labels).all()
    assert split.manifest["labeled_in_unlabeled"] is False


def test_both_stores_may_move_together(tiny_copy, tmp_path):
    shutil.move(tiny_copy.parent, tmp_path / "elsewhere")
    assert open_store(tmp_path / "elsewhere" / "tiny_20").dataset.num_copies == 5


def test_a_moved_dataset_store_is_named(tiny_copy):
    tiny_copy.rename(tiny_copy.with_name("other"))
    with pytest.raises(StoreError, match=r"dataset store of .*tiny_20' is gone"):
        open_store(tiny_copy.with_name("tiny_20"))


def test_a_changed_dataset_store_is_refused_with_both_fingerprints(tiny_copy):
    expected = open_store(tiny_copy).fingerprint
    edit_manifest(tiny_copy, lambda m: m.update(fingerprint="f" * 64))
    with pytest.raises(StoreError) as caught:
        open_store(tiny_copy.with_name("tiny_20"))
    assert "f" * 16 in str(caught.value)
    assert expected[:16] in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=2), "has store format 2"),
        (lambda m: m.update(complete=False), "is not complete"),
        (lambda m: m.pop("num_images"), "num_images"),
        (lambda m: m.update(kind="other"), "kind"),
        (lambda m: m.update(format="zip"), "no realmix store"),
        (lambda m: m.update(class_names="abc"), "class_names"),
    ],
)
def test_manifests_that_are_refused(tiny_copy, change, message):
    edit_manifest(tiny_copy, change)
    with pytest.raises(StoreError, match=message):
        open_store(tiny_copy)


@pytest.mark.parametrize("name", ["../../etc", "/etc", "a/b", "", ".."])
def test_a_split_never_leaves_its_folder(tiny_copy, name):
    split = tiny_copy.with_name("tiny_20")
    edit_manifest(split, lambda m: m["dataset"].update(name=name))
    with pytest.raises(StoreError, match=r"dataset\.name"):
        open_store(split)


def test_paths_that_are_no_store(tmp_path, tiny_copy):
    with pytest.raises(StoreError, match="is not a store"):
        open_store(tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"stores in .*tiny, tiny_20"):
        open_store(tiny_copy.parent / "typo")
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        open_store(tmp_path)
    (tmp_path / "zarr.json").write_text("[1]")
    with pytest.raises(StoreError, match="no realmix store"):
        open_store(tmp_path)


def test_indices_beyond_the_dataset_are_refused(tiny_copy):
    split = tiny_copy.with_name("tiny_20")
    other = zarr.open_group(str(split), mode="r+")["unlabeled"]
    other[0] = 10**6
    with pytest.raises(IntegrityError, match="unlabeled"):
        open_store(split)
