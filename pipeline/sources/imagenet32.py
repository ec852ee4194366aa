"""Downsampled ImageNet, 32×32 (Chrabaszcz, Loshchilov & Hutter 2017): a folder with ten training batches and val_data.

Both published formats are read, .npz and pickle; pickles with an unpickler that can only make arrays. The training
images (3.9 GB) are written once to a file in the cache and memory-mapped, so that they need not fit in memory.
"""

from __future__ import annotations

import codecs
import hashlib
import pickle
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.sources.source import Part, Source
from stores.errors import IntegrityError, ResourceError, UsageError
from stores.system import aside, durable

# errors of reading a damaged file; MemoryError for a length of terabytes
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, TypeError, AttributeError, IndexError),
    *(OverflowError, MemoryError, RuntimeError),
)
BATCHES = tuple(f"train_data_batch_{i}" for i in range(1, 11))
_IMAGE = 3 * 32 * 32
_LABELS = frozenset(range(1, 1001))


def load(path: Path, cache: Path, progress: Callable[[str, int, int], None] | None) -> Source:
    """Open the data set; labels 1 … 1000 of the files become 0 … 999, and class names are the numbers of the files.

    Raises:
        UsageError: a batch is missing, is of another size, or is not this data set.
        IntegrityError: a damaged file, or a pickle that holds something else than arrays.
        ResourceError: no room for the scratch file.
    """
    files = [_find(path, stem) for stem in (*BATCHES, "val_data")]
    report = progress or (lambda *_: None)
    digests = {}
    for i, file in enumerate(files):
        digests[file.stem] = _sha256(file)
        report("check", i + 1, len(files))
    name = hashlib.sha256("".join(digests[stem] for stem in BATCHES).encode()).hexdigest()[:16]
    images, labels = _scratch(files[:-1], cache / "imagenet32" / name, report)
    test_images, test_labels = read_batch(files[-1])
    return Source(
        name="imagenet32",
        train=Part(images, labels),
        test=Part(test_images, test_labels),
        class_names=[str(i) for i in range(1, 1001)],
        weak={"flip": True, "shift": 4},
        origin={"kind": "imagenet32", "sha256": digests, "train": len(labels), "test": len(test_labels)},
    )


def first_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The first of the ten training batches: images uint8 [n, 32, 32, 3], labels int64 [n]."""
    return read_batch(_find(path, BATCHES[0]))


def _find(path: Path, stem: str) -> Path:
    for file in (path / f"{stem}.npz", path / stem):
        if file.is_file():
            return file
    packed = sorted(file.name for pattern in ("*.zip", "*.tar*") for file in path.glob(pattern))
    hint = f"unpack {packed[0]} there first" if packed else "give the folder with the unpacked batches"
    why = "imagenet32 is ten training batches and val_data"
    raise UsageError(f"'{path}' has no {stem}.npz and no {stem}", why, hint)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _scratch(files: list[Path], stem: Path, report: Callable[[str, int, int], None]) -> tuple[np.ndarray, np.ndarray]:
    """All training images, memory-mapped uint8 [N, 32, 32, 3], and labels int64 [N]; unpacked once for these files."""
    pixels, labels_file = stem.with_suffix(".u8"), stem.with_suffix(".npy")
    durable.make_folder(stem.parent)
    with aside.turn(stem.parent):  # one process unpacks, others wait
        if not (pixels.exists() and labels_file.exists()):  # the labels are written last
            need, free = 0, shutil.disk_usage(stem.parent).free
            labels = []
            with aside.file(pixels) as out:
                for i, file in enumerate(files):
                    images, batch_labels = read_batch(file)
                    need = need or images.nbytes * len(files)
                    if need > free:
                        what = f"no room for the {need / 1e9:.1f} GB scratch file in '{stem.parent}'"
                        raise ResourceError(what, f"{free / 1e9:.1f} GB are free", "choose another --cache")
                    np.ascontiguousarray(images).tofile(out)
                    labels.append(batch_labels)
                    report("unpack", i + 1, len(files))
            with aside.file(labels_file) as out:
                np.save(out, np.concatenate(labels))
    all_labels = np.load(labels_file, allow_pickle=False)
    if pixels.stat().st_size != len(all_labels) * _IMAGE:
        raise IntegrityError(f"'{pixels}' is truncated", hint="delete it: it is made again")
    return np.memmap(pixels, np.uint8, "r", shape=(len(all_labels), 32, 32, 3)), all_labels


def read_batch(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] (a view of the planar rows) and labels int64 [n] from 0."""
    data, labels = _read(file)
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _IMAGE:
        raise UsageError(f"'{file}' holds {data.dtype} {list(data.shape)}", f"32×32 images are uint8 [n, {_IMAGE}]")
    if labels.dtype.kind not in "iu" or labels.shape != data.shape[:1] or not set(labels.tolist()) <= _LABELS:
        raise UsageError(f"the labels of '{file}' are not those of ImageNet", "one of 1 … 1000 for each image")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels.astype(np.int64) - 1


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    damaged = "write or fetch it again"
    try:
        if file.suffix == ".npz":
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return arrays["data"], arrays["labels"]
        with file.open("rb") as opened, warnings.catch_warnings():
            old_pickle = np.exceptions.VisibleDeprecationWarning  # pickled by Python 2: align=0
            warnings.filterwarnings("ignore", r"dtype\(\): align should be passed", old_pickle)
            entry = ArrayUnpickler(opened, encoding="latin1").load()
        return np.asarray(entry["data"]), np.asarray(entry["labels"])
    except KeyError as error:
        raise UsageError(f"'{file}' has no {error}", "a batch holds data and labels") from error
    except pickle.UnpicklingError as error:
        raise IntegrityError(f"'{file}' is not a pickle of arrays", str(error), damaged) from error
    except _BROKEN as error:
        raise IntegrityError(f"'{file}' is damaged", str(error), damaged) from error


# the functions that NumPy's pickles call, found without naming its private modules
_MAKERS = {
    "_reconstruct": np.empty(0).__reduce__()[0],
    "scalar": np.int64(0).__reduce__()[0],
    "_frombuffer": np.empty(1).__reduce_ex__(5)[0],
}


class ArrayUnpickler(pickle.Unpickler):
    """Makes numbers, strings, lists, dicts and NumPy arrays, and refuses every other name, so that no code runs."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module.startswith(("numpy.core.", "numpy._core.")) and name in _MAKERS:
            return _MAKERS[name]
        if (module, name) == ("_codecs", "encode"):  # used for bytes in older pickle protocols
            return codecs.encode
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")
