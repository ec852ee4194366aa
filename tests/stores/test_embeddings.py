"""Embeddings beside their dataset store: read alike by three readers, refused when they are not its own, checked."""

from __future__ import annotations

import json
import random
import shutil

import hostile
import numpy as np
import pytest
import tensorstore
import zarr
from tiny_embeddings import content_of, write_embeddings

from stores import open_store
from stores.embeddings import fingerprint_of, location, names_of, open_embeddings, open_with_dataset
from stores.errors import IntegrityError, RealMixError, StoreError, UsageError
from stores.format import layout, manifest, shards
from stores.verify import verify
from stores.writer import open_target

D, K, S = 24, 3, 2


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + shape[0]).normal(size=shape).astype(np.float16)


@pytest.fixture
def made(tiny_copy):
    arrays = (numbers(150, D), numbers(30, D), numbers(150, K, D), numbers(150, S, D))
    return write_embeddings(tiny_copy, "net-32", *arrays), arrays


@pytest.fixture
def small_files(monkeypatch):
    """Several files per array."""
    monkeypatch.setattr(layout, "EMBEDDINGS_PER_FILE", 100)


def edit_manifest(path, change) -> None:
    content = json.loads((path / "zarr.json").read_text())["attributes"]["realmix"]
    change(content)
    manifest.write(path, content)


def test_three_readers_see_the_same_numbers(small_files, made):
    store, (train, test, copies, strong) = made
    expected = {"train": train, "test": test, "copies": copies, "strong": strong}
    plain = zarr.open_group(str(store.path), mode="r")
    for part, values in expected.items():
        ours = getattr(store, part)
        name = f"{part}/embeddings"
        kvstore = {"driver": "file", "path": str(store.path / name)}
        theirs = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result().read().result()
        assert ours.dtype == np.float16 and plain[name].dtype == np.float16 and theirs.dtype == np.float16
        np.testing.assert_array_equal(ours.read(), values)
        np.testing.assert_array_equal(theirs, values)
        np.testing.assert_array_equal(plain[name][:], values)
    assert store.train.layout.num_files == 2 and store.copies.layout.num_files == 5
    rows = np.array([149, 3, 3, 0, 77])
    np.testing.assert_array_equal(store.copies.read(rows), copies[rows])
    np.testing.assert_array_equal(store.copies.read(rows, copies=2), copies[rows, :2])
    np.testing.assert_array_equal(store.train.read(rows), train[rows])


def test_what_a_store_says_of_itself(made, tiny_copy):
    store, _ = made
    assert store.path == tiny_copy.with_name("tiny.net-32")
    assert (store.name, store.backbone, store.size, store.num_features) == ("net-32", "timm:none", 32, D)
    assert (store.num_copies, store.num_strong, store.weights_sha256) == (K, S, "0" * 64)
    assert store.fingerprint == fingerprint_of(store.manifest)
    again, dataset = open_with_dataset(store.path)
    assert (again.name, dataset.fingerprint) == ("net-32", open_store(tiny_copy).fingerprint)
    assert verify(store.path) == verify(tiny_copy) == []


def test_without_copies_there_are_none(tiny_copy):
    store = write_embeddings(tiny_copy, "bare", numbers(150, D), numbers(30, D))
    assert store.copies is None and store.strong is None
    assert (store.num_copies, store.num_strong) == (0, 0)
    assert verify(store.path) == []


def test_several_lie_side_by_side(made, tiny_copy):
    write_embeddings(tiny_copy, "a.b", numbers(150, 5), numbers(30, 5))
    dataset = open_store(tiny_copy)
    assert names_of(dataset) == ["a.b", "net-32"]
    with pytest.raises(StoreError, match="did you mean net-32"):
        open_embeddings(dataset, "net-23")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "-x", "x" * 250, "a\0"])
def test_a_name_stays_beside_the_store(tiny, name):
    with pytest.raises(UsageError):
        open_embeddings(open_store(tiny), name)


def test_without_any_the_command_is_named(tiny):
    with pytest.raises(StoreError, match="realmix-data embed"):
        open_embeddings(open_store(tiny), "net-32")


def test_embeddings_of_another_store_are_refused(made, tiny_copy):
    store, _ = made
    edit_manifest(tiny_copy, lambda m: m.update(fingerprint="f" * 64))
    with pytest.raises(StoreError, match="of another dataset store"):
        open_embeddings(open_store(tiny_copy), "net-32")
    with pytest.raises(StoreError, match="of another dataset store"):
        open_with_dataset(store.path)
    shutil.rmtree(tiny_copy)
    with pytest.raises(StoreError, match="is gone"):
        open_with_dataset(store.path)


def test_a_store_renamed_with_its_embeddings_keeps_them(made, tiny_copy):
    store, (train, *_) = made
    other = tiny_copy.rename(tiny_copy.with_name("other"))
    store.path.rename(other.with_name("other.net-32"))
    np.testing.assert_array_equal(open_embeddings(open_store(other), "net-32").train.read(), train)


def test_other_kinds_are_refused(made, tiny_copy):
    store, _ = made
    with pytest.raises(StoreError, match="holds embeddings"):
        open_store(store.path)
    tiny_copy.with_name("tiny_20").rename(tiny_copy.with_name("tiny.split"))
    with pytest.raises(StoreError, match="split store"):
        open_embeddings(open_store(tiny_copy), "split")
    content = content_of(open_store(tiny_copy), D, 0, None)
    with pytest.raises(StoreError, match="is a split store"), open_target(tiny_copy.with_name("tiny.split"), content):
        pass


def test_an_unfinished_one_says_how_to_go_on(made, tiny_copy):
    store, _ = made
    edit_manifest(store.path, lambda m: m.update(complete=False))
    with pytest.raises(StoreError, match="realmix-data embed"):
        open_embeddings(open_store(tiny_copy), "net-32")
    assert names_of(open_store(tiny_copy)) == []


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_found(small_files, made, wrong):
    store, (train, *_) = made
    damaged = train[100:].copy()
    damaged[7, 5] = wrong
    hostile.put_file(store.path, "train/embeddings/c/1/0", shards.encode(store.train.layout, 1, damaged))
    assert [p.file for p in verify(store.path)] == ["train/embeddings/c/1/0"]
    assert "rows 100–149 of train/embeddings" in str(verify(store.path)[0])
    opened, _ = open_with_dataset(store.path)
    np.testing.assert_array_equal(opened.train.read(np.arange(100)), train[:100])
    with pytest.raises(IntegrityError, match="infinite or NaN"):
        opened.train.read()


def test_damage_to_any_file_is_named(made):
    store, _ = made
    for file in sorted(p for p in store.path.rglob("*") if p.is_file() and p.parent != store.path):
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert [p.file for p in verify(store.path)] == [file.relative_to(store.path).as_posix()]
        file.write_bytes(good)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_features", 25),
        ("num_features", 2**40),
        ("num_images", 151),
        ("num_test", 2**40),
        ("arithmetic", {"precision": "int8", "batch": 64}),
        ("dataset", {"name": "../tiny"}),
        ("weights", "elsewhere"),
        ("copies", 6),
        ("strong", {"recipe": {}, "copies": 2**20}),
        ("weak", {"flip": 1, "shift": -1}),
    ],
)
def test_a_manifest_that_lies_is_refused(made, field, value):
    store, _ = made
    edit_manifest(
        store.path, lambda m: m.update({field: value} if field in m else {"spec": m["spec"] | {field: value}})
    )
    with pytest.raises(RealMixError):
        read_all(store.path)


def test_any_part_of_the_manifest_may_be_wrong(made):
    store, _ = made
    sound = (store.path / "zarr.json").read_bytes()
    content = json.loads(sound)["attributes"]["realmix"]
    for seed in range(150):
        rng = random.Random(seed)
        hostile.put_manifest(store.path, hostile.mutated(content, rng, rng.choice([1, 2, 4])), sealed=True)
        for attempt in (lambda: verify(store.path), lambda: read_all(store.path)):
            try:
                attempt()
            except RealMixError as error:
                str(error).encode()
    (store.path / "zarr.json").write_bytes(sound)
    assert verify(store.path) == []


def read_all(path) -> None:
    store, _ = open_with_dataset(path)
    for array in (store.train, store.test, store.copies, store.strong):
        if array is not None:
            array.read()


def test_a_mark_of_another_specification_is_found(made):
    store, _ = made
    edit_manifest(store.path, lambda m: m["spec"].update(size=33))
    assert [p.file for p in verify(store.path)] == ["zarr.json"]


def test_the_place_is_the_name_after_a_dot(tiny):
    assert location(open_store(tiny), "net-32") == tiny.with_name("tiny.net-32")
