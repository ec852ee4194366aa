"""The sources without a download: digits, arrays, ImageNet-32; and which options each source takes."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from types import SimpleNamespace

import archives
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from pipeline.sources import NAMES, imagenet32, load
from pipeline.sources.source import Joined, hold_out, one_in
from stores.errors import IntegrityError, ResourceError, UsageError

# ---- which options ----


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("cifar11", {}, "unknown source 'cifar11'"),
        ("digits", {"path": "."}, "'digits' takes no PATH"),
        ("cifar10", {"path": "."}, "'cifar10' takes no PATH"),
        ("folder", {}, "'folder' needs a PATH"),
        ("arrays", {"path": "absent.npz"}, "absent.npz' does not exist"),
        ("folder", {"path": ".", "from_": "."}, "'folder' takes no --from"),
        ("cifar10", {"from_": "absent"}, "absent' does not exist"),
        ("stl10", {"extra": True}, "'stl10' takes no --extra"),
        ("svhn", {"size": 32}, "'svhn' takes no --size"),
        ("arrays", {"path": ".", "range_": (0, 9)}, "'arrays' takes no --range"),
        ("digits", {"max_pixels": 9}, "'digits' takes no --max-pixels"),
        ("digits", {"unlabeled": "."}, "'digits' takes no --unlabeled"),
        ("arrays", {"path": ".", "test": "."}, "'arrays' takes no --test"),
        ("digits", {"drop_conflicts": True}, "'digits' takes no --drop-conflicts"),
        ("folder", {"path": ".", "size": 3}, "--size 3 is too small"),
    ],
)
def test_misplaced_options(name, options, match, tmp_path):
    paths = {key: tmp_path / value if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(UsageError, match=match):
        load(name, **paths, cache=tmp_path / "cache")


def test_hints_say_what_was_meant(tmp_path):
    with pytest.raises(UsageError) as caught:
        load("cifar11")
    assert "cifar10" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        load(str(tmp_path))
    assert f"folder {tmp_path}" in caught.value.hint


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError) as caught:
        load("digits")
    assert "realmix[data]" in caught.value.hint


def test_importing_the_sources_imports_nothing_heavy():
    code = "import sys, pipeline.sources; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "torchvision", "sklearn", "scipy", "PIL", "cv2"} & set(done.stdout.split())
    assert "pipeline" in done.stdout


# ---- digits ----


def test_digits():
    source = load("digits")
    bunch = load_digits()
    assert source.train.images.shape == (1437, 8, 8, 3)
    np.testing.assert_array_equal(np.bincount(source.test.labels), [36] * 10)
    pixels = np.concatenate([part.images[np.arange(len(part.labels))] for part in (source.train, source.test)])
    labels = np.concatenate([source.train.labels, source.test.labels])
    found = sorted((image.tobytes(), label) for image, label in zip(pixels[..., 0], labels, strict=True))
    scaled = [[[round(v * 255 / 16) for v in line] for line in image] for image in bunch.images]
    expected = sorted((bytes(np.uint8(image)), label) for image, label in zip(scaled, bunch.target, strict=True))
    assert found == expected
    np.testing.assert_array_equal(pixels[..., 1], pixels[..., 2])
    assert (pixels.dtype, pixels.min(), pixels.max()) == (np.uint8, 0, 255)
    assert (source.weak, source.protocol) == ({"flip": False, "shift": 1}, "digits")
    assert source.origin == load("digits").origin == json.loads(json.dumps(source.origin))


# ---- arrays ----


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


IMAGES = np.random.default_rng(0).integers(0, 256, (24, 6, 10, 3), dtype=np.uint8)
LABELS = np.arange(24) % 2


def test_arrays_in_four_parts(tmp_path):
    labels = np.where(np.arange(20) < 5, -1, LABELS[:20])
    path = npz(tmp_path / "a.npz", x_train=IMAGES[:20], y_train=labels, x_test=IMAGES[20:], y_test=LABELS[20:, None])
    source = load("arrays", path)
    np.testing.assert_array_equal(source.train.images[np.arange(20)], IMAGES[:20])
    np.testing.assert_array_equal(source.train.labels, labels)
    np.testing.assert_array_equal(source.test.images[np.array([3, 0])], IMAGES[[23, 20]])
    np.testing.assert_array_equal(source.test.labels, LABELS[20:])
    assert (source.class_names, source.weak) == (["0", "1"], {"flip": True, "shift": 1})


@pytest.mark.parametrize("shape", [(24, 6, 10), (24, 6, 10, 1)])
def test_grey_arrays_with_names_hold_out_a_sixth(shape, tmp_path):
    grey = IMAGES[..., 0].reshape(shape)
    labels = np.where(np.arange(24) < 6, -1, LABELS)
    path = npz(tmp_path / "a.npz", images=grey, labels=labels.astype(np.int8), class_names=np.array(["even", "odd"]))
    source = load("arrays", path)
    assert source.class_names == ["even", "odd"]
    np.testing.assert_array_equal(np.bincount(source.test.labels), [2, 2])  # round(9 / 6) of each
    assert (source.train.labels == -1).sum() == 6
    both = np.concatenate([part.images[np.arange(len(part.labels))] for part in (source.train, source.test)])
    assert sorted(map(bytes, both[..., 2])) == sorted(map(bytes, IMAGES[..., 0]))
    other = npz(tmp_path / "b.npz", images=grey, labels=labels, class_names=np.array(["even", "odd"]))
    assert load("arrays", other).origin["sha256"] != source.origin["sha256"]


def test_twins_among_arrays_are_told_and_not_held_out(tmp_path):
    images, labels = np.concatenate([IMAGES, IMAGES[:9], IMAGES[:1]]), np.concatenate([LABELS, LABELS[:9], [1]])
    source = load("arrays", npz(tmp_path / "a.npz", images=images, labels=labels))
    trained = {image.tobytes() for image in source.train.images}
    assert not [image for image in source.test.images if image.tobytes() in trained]
    assert source.notes == (
        "training images that occur more than once: 19",
        "training images that are also under another class: 3",
    )
    assert "held_out" in source.origin
    alone = load("arrays", npz(tmp_path / "b.npz", images=IMAGES, labels=LABELS))
    assert ("held_out" in alone.origin, alone.notes) == (False, ())
    parts = {"x_train": IMAGES[:20], "y_train": LABELS[:20], "x_test": IMAGES[18:], "y_test": LABELS[18:]}
    (note,) = load("arrays", npz(tmp_path / "c.npz", **parts)).notes
    assert "also training images: 2" in note


def test_where_all_are_twins_some_are_held_out_nevertheless(tmp_path):
    source = load("arrays", npz(tmp_path / "a.npz", images=np.zeros_like(IMAGES), labels=LABELS))
    assert len(source.test.labels) == 4
    assert "test images that are also training images: 4" in source.notes[-1]


def test_a_class_name_that_no_store_can_hold_is_refused(tmp_path):
    path = npz(tmp_path / "a.npz", images=IMAGES, labels=LABELS, class_names=np.array(["a", "\ud800"]))
    with pytest.raises(UsageError, match="surrogate"):
        load("arrays", path)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"x": IMAGES}, "unknown key 'x'"),
        ({"images": IMAGES}, "lacks images and labels"),
        ({"images": IMAGES / 255, "labels": LABELS}, "'images' of .* is float64"),
        ({"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS}, "has the shape"),
        ({"images": IMAGES[..., :2], "labels": LABELS}, "has the shape"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "has the shape"),
        ({"images": IMAGES, "labels": LABELS[:-1]}, r"'labels' of .* is int64 \[23\]"),
        ({"images": IMAGES, "labels": LABELS * 1.0}, "is float64"),
        ({"images": IMAGES, "labels": LABELS - 2}, "label -2"),
        ({"images": IMAGES, "labels": np.where(LABELS > 0, LABELS, -1).astype(np.uint32)}, "label 4294967295"),
        ({"images": IMAGES, "labels": LABELS.astype(np.uint64) + 2**63}, "label 92233720368547758"),
        ({"images": IMAGES, "labels": np.where(np.arange(24) < 23, LABELS, 20_000_000)}, "label 20000000"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS + 10**9}, "'y_test' .* label"),
        ({"images": IMAGES, "labels": np.where(LABELS > 0, LABELS, np.nan)}, "is float64"),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array(["", "a", "b"])}, "an empty name"),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array([b"a", b"\xff", b"b"])}, "is not UTF-8"),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array([0.5, 1, 2])}, "is float64"),
        ({"images": IMAGES[:, :3], "labels": LABELS}, r"images are 3×\d+ pixels"),
        ({"images": IMAGES, "labels": LABELS * 2}, "class 1 .* has no training image"),
        ({"images": IMAGES, "labels": LABELS * 0}, "has 1 class"),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array(["a", "a"])}, "a class twice"),
        ({"images": IMAGES, "labels": LABELS + 1, "class_names": np.array(["a", "b"])}, "label 2"),
        ({"images": IMAGES[:2], "labels": LABELS[:2]}, "no image to spare"),
        ({"images": IMAGES, "labels": np.array([{}] * 24)}, "something else than plain arrays"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS - 1}, "test image without label"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:, 1:], "y_test": LABELS}, "differ in size"),
    ],
)
def test_arrays_that_are_not_as_they_should_be(arrays, match, tmp_path):
    with pytest.raises(UsageError, match=match):
        load("arrays", npz(tmp_path / "a.npz", **arrays))


def test_class_names_as_bytes_are_text(tmp_path):
    names = np.array(["cat", "größer", "dog"])
    as_bytes = np.array([name.encode() for name in names])
    path = npz(tmp_path / "a.npz", images=IMAGES, labels=np.arange(24) % 3, class_names=as_bytes)
    assert load("arrays", path).class_names == list(names)


def test_arrays_that_would_not_fit_in_memory_or_are_none(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 32, 32, 3), }"
    header += b" " * (117 - len(header)) + b"\n"
    labels = io.BytesIO()
    np.save(labels, LABELS)
    for content, expected in (
        (b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header, ResourceError),
        (b"no array", UsageError),
    ):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as packed:
            packed.writestr("images.npy", content)
            packed.writestr("labels.npy", labels.getvalue())
        with pytest.raises(expected, match=r"a\.npz'"):
            load("arrays", tmp_path / "a.npz")


def test_arrays_in_a_damaged_file(tmp_path):
    path = npz(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"a\.npz' is damaged"):
        load("arrays", path)
    path.write_bytes(data[:1000])
    with pytest.raises(UsageError, match=r"no \.npz file"):
        load("arrays", path)


# ---- ImageNet-32 ----


def imagenet(folder, kind, per_batch=3):
    """Ten batches and val_data as .npz, or pickled by Python 2, or by Python 3 with protocol 2 or 5."""
    folder.mkdir()
    rng = np.random.default_rng(32)
    images = archives.random_images(rng, 11 * per_batch, 32)
    labels = rng.integers(1, 1001, 11 * per_batch)
    for i, name in enumerate([*imagenet32.BATCHES, "val_data"]):
        mine = slice(i * per_batch, (i + 1) * per_batch)
        entry = {
            "data": archives.planar(images[mine]),
            "labels": labels[mine].tolist(),
            "mean": np.zeros(3072, np.uint8),
        }
        if kind == "npz":
            np.savez(folder / f"{name}.npz", **entry)
        elif kind == "python2":
            (folder / name).write_bytes(archives.python2_pickle(entry))
        else:
            entry["labels"] = list(labels[mine]) if kind == 2 else entry["labels"]  # NumPy scalars, too
            (folder / name).write_bytes(pickle.dumps(entry, kind))
    return images, labels - 1


@pytest.mark.parametrize("kind", ["npz", "python2", 2, 5])
def test_imagenet32(kind, tmp_path):
    images, labels = imagenet(tmp_path / "in", kind)
    source = load("imagenet32", tmp_path / "in", cache=tmp_path / "cache")
    rows = np.random.default_rng(0).permutation(30)
    np.testing.assert_array_equal(source.train.images[rows], images[rows])
    np.testing.assert_array_equal(source.train.labels, labels[:30])
    np.testing.assert_array_equal(source.test.images[np.arange(3)], images[30:])
    np.testing.assert_array_equal(source.test.labels, labels[30:])
    assert isinstance(source.train.images, np.memmap)
    assert len(source.class_names) == 1000


def test_imagenet32_unpacks_once_and_names_a_truncated_scratch_file(tmp_path, monkeypatch):
    images, _ = imagenet(tmp_path / "in", "npz")
    first = load("imagenet32", tmp_path / "in", cache=tmp_path / "cache")
    del first
    pixels = next((tmp_path / "cache").rglob("*.u8"))
    made = pixels.stat().st_mtime_ns
    again = load("imagenet32", tmp_path / "in", cache=tmp_path / "cache")
    np.testing.assert_array_equal(again.train.images[np.arange(30)], images[:30])
    assert pixels.stat().st_mtime_ns == made
    assert len(list(pixels.parent.iterdir())) == 2
    del again
    os.truncate(pixels, 5000)
    with pytest.raises(IntegrityError, match="truncated"):
        load("imagenet32", tmp_path / "in", cache=tmp_path / "cache")


def test_imagenet32_without_room(tmp_path, monkeypatch):
    imagenet(tmp_path / "in", "npz")
    monkeypatch.setattr(imagenet32.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match="no room"):
        load("imagenet32", tmp_path / "in", cache=tmp_path / "cache")
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps({"data": Bomb(), "labels": []}),
        pickle.dumps({"data": np.array([Bomb()], object), "labels": []}),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
    ],
)
def test_a_pickle_that_would_run_code_is_refused(payload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    imagenet(tmp_path / "in", 5)
    (tmp_path / "in" / "train_data_batch_4").write_bytes(payload)
    with pytest.raises(IntegrityError, match="train_data_batch_4"):
        load("imagenet32", tmp_path / "in", cache=tmp_path / "cache")
    assert not (tmp_path / "exploded").exists()


@given(st.binary(max_size=60), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_a_damaged_pickle_gives_arrays_or_one_clear_error(tmp_path_factory, noise, cut):
    file = tmp_path_factory.mktemp("batch") / "train_data_batch_1"
    whole = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1]}, 2)
    file.write_bytes(whole[:cut] + noise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a backslash in a damaged string is only worth a warning
        try:
            images, labels = imagenet32.read_batch(file)
        except (IntegrityError, UsageError):
            return
    assert images.shape == (len(labels), 32, 32, 3)


def test_imagenet32_that_is_not_as_it_should_be(tmp_path):
    imagenet(tmp_path / "in", "npz")
    batch = tmp_path / "in" / "train_data_batch_7.npz"

    def refused(match, error=UsageError):
        with pytest.raises(error, match=match) as caught:
            load("imagenet32", tmp_path / "in", cache=tmp_path / "cache")
        return caught.value

    np.savez(batch, data=np.zeros((2, 12288), np.uint8), labels=[1, 2])
    refused("train_data_batch_7")
    np.savez(batch, data=np.zeros((2, 3072), np.uint8), labels=[0, 1])
    refused("labels of .*train_data_batch_7")
    np.savez(batch, data=np.zeros((2, 3072), np.uint8))
    refused("has no 'labels")
    batch.write_bytes(b"PK\x03\x04 not a zip")
    refused("train_data_batch_7.npz' is damaged", IntegrityError)
    batch.unlink()
    (tmp_path / "in" / "Imagenet32_train_npz.zip").touch()
    assert "Imagenet32_train_npz.zip" in refused("no train_data_batch_7").hint


# ---- the pieces ----


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_joined_is_concatenate(sizes, random):
    pieces = [
        np.full((n, 2, 2, 3), i, np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
        for i, n in enumerate(sizes)
    ]
    joined, whole = Joined(pieces), np.concatenate(pieces)
    rows = np.array([random.randrange(len(whole)) for _ in range(6) if len(whole)], np.int64)
    assert joined.shape == whole.shape
    np.testing.assert_array_equal(joined[rows], whole[rows])


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=60))
def test_hold_out_is_balanced_and_loses_nothing(labels):
    labels = np.array(labels, np.int64)
    counts = one_in(labels, 4, 6)
    train, test = hold_out(labels, counts, "test")
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(labels)))
    np.testing.assert_array_equal(np.bincount(labels[test], minlength=4), counts)
    for class_ in range(4):
        size = int((labels == class_).sum())
        assert counts[class_] == (max(1, round(size / 6)) if size > 1 else 0)


def test_names_are_all_there():
    assert NAMES == ("digits", "cifar10", "cifar100", "svhn", "stl10", "folder", "arrays", "imagenet32")
