"""Small archives in the true on-disk formats of CIFAR, SVHN, STL-10 and ImageNet-32, with the pixels that they hold."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass
class Archive:
    """What was written, and what a reader must find: images uint8 NHWC, labels from 0; md5 of every file."""

    path: Path
    md5: dict[str, str]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    more: np.ndarray | None = None  # STL-10's unlabelled images

    @property
    def tar_md5(self) -> str:
        return _md5(self.path.read_bytes())


def random_images(rng: np.random.Generator, n: int, side: int) -> np.ndarray:
    return rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def cifar10(folder: Path, per_batch: int = 10) -> Archive:
    """cifar-10-python.tar.gz: five training batches and one test batch, pickled by Python 2."""
    rng = np.random.default_rng(10)
    batches = [(random_images(rng, per_batch, 32), np.arange(per_batch) % 10) for _ in range(6)]
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    files = {
        name: python2_pickle(
            {"batch_label": name, "labels": labels.tolist(), "data": planar(images), "filenames": ["a.png"]}
        )
        for name, (images, labels) in zip(names, batches, strict=True)
    }
    files["batches.meta"] = python2_pickle(
        {"num_cases_per_batch": per_batch, "label_names": CIFAR10_NAMES, "num_vis": 3072}
    )
    train = np.concatenate([images for images, _ in batches[:5]]), np.concatenate([labels for _, labels in batches[:5]])
    return _archive(folder / "cifar-10-python.tar.gz", "cifar-10-batches-py", files, train, batches[5])


def cifar100(folder: Path) -> Archive:
    """cifar-100-python.tar.gz: one training and one test batch with fine and coarse labels."""
    rng = np.random.default_rng(100)
    parts = [(random_images(rng, n, 32), np.arange(n) % 100) for n in (100, 20)]
    files = {
        name: python2_pickle(
            {
                "fine_labels": labels.tolist(),
                "coarse_labels": (labels // 5).tolist(),
                "data": planar(images),
                "filenames": [],
            }
        )
        for name, (images, labels) in zip(("train", "test"), parts, strict=True)
    }
    names = [f"fine{i:02d}" for i in range(100)]
    files["meta"] = python2_pickle({"fine_label_names": names, "coarse_label_names": names[:20]})
    return _archive(folder / "cifar-100-python.tar.gz", "cifar-100-python", files, *parts)


def stl10(folder: Path) -> Archive:
    """stl10_binary.tar.gz: raw columns-first pixels, labels from 1, folds as lines of indices."""
    rng = np.random.default_rng(96)
    train, test = ((random_images(rng, n, 96), np.arange(n) % 10) for n in (20, 10))
    unlabeled = random_images(rng, 6, 96)
    files = {}
    for name, (images, labels) in (("train", train), ("test", test)):
        files[f"{name}_X.bin"] = images.transpose(0, 3, 2, 1).tobytes()
        files[f"{name}_y.bin"] = (labels + 1).astype(np.uint8).tobytes()
    files["unlabeled_X.bin"] = unlabeled.transpose(0, 3, 2, 1).tobytes()
    folds = [" ".join(str((fold + i) % 20) for i in range(8)) + " " for fold in range(10)]
    files["fold_indices.txt"] = "\n".join(folds).encode() + b"\n"
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    files["class_names.txt"] = "\n".join(names).encode() + b"\n"
    return _archive(folder / "stl10_binary.tar.gz", "stl10_binary", files, train, test, unlabeled)


def svhn(folder: Path) -> dict[str, Archive]:
    """train_32x32.mat, test_32x32.mat, extra_32x32.mat: X [32, 32, 3, n], y [n, 1] with 10 for the digit 0."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    archives = {}
    for split, n in (("train", 20), ("test", 10), ("extra", 15)):
        images, labels = random_images(rng, n, 32), np.arange(n) % 10
        path = folder / f"{split}_32x32.mat"
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": y}, do_compression=True)
        archives[split] = Archive(path, {path.name: _md5(path.read_bytes())}, (images, labels), (images, labels))
    return archives


def python2_pickle(value: Any) -> bytes:
    """`value` as Python 2's cPickle.dumps(value, 2) wrote it with the NumPy of 2009."""
    return b"\x80\x02" + _encode(value) + b"."


def _encode(value: Any) -> bytes:
    match value:
        case dict():
            return b"}(" + b"".join(_encode(key) + _encode(item) for key, item in value.items()) + b"u"
        case list():
            return b"](" + b"".join(map(_encode, value)) + b"e"
        case str() | bytes():
            data = value.encode() if isinstance(value, str) else value
            return (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data
        case int():
            return b"J" + struct.pack("<i", value)
        case np.ndarray():
            empty = (
                b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
                + _encode(0)
                + b"\x85"
                + _encode("b")
                + b"\x87R"
            )
            dtype = b"cnumpy\ndtype\n" + _encode("u1") + _encode(0) + _encode(1) + b"\x87R("
            dtype += _encode(3) + _encode("|") + b"NNN" + _encode(-1) + _encode(-1) + _encode(0) + b"tb"
            shape = b"(" + b"".join(map(_encode, value.shape)) + b"t"
            return empty + b"(" + _encode(1) + shape + dtype + b"\x89" + _encode(value.tobytes()) + b"tb"
    raise TypeError(type(value))


def planar(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def _archive(path: Path, base: str, files: dict[str, bytes], train: Any, test: Any, more: Any = None) -> Archive:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{base}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return Archive(path, {name: _md5(data) for name, data in files.items()}, train, test, more)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
