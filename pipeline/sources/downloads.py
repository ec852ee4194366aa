"""CIFAR-10, CIFAR-100, SVHN and STL-10, downloaded, unpacked and checked by torchvision.

Every file is compared with torchvision's MD5 before it is read, whether downloaded, cached or given with `--from`,
which never uses the network. STL-10's 100,000 unlabelled images stay on disk, memory-mapped.
"""

from __future__ import annotations

import errno
import http.client
import urllib.error
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.sources.source import Joined, Part, Source
from stores.errors import IntegrityError, RealMixError, StoreError, UsageError
from stores.system import aside

_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)  # errors of the disk, not of the network


def load(name: str, from_: Path | None, cache: Path, extra: bool) -> Source:
    """Open one of the four data sets; see `pipeline.sources.load`."""
    from torchvision import datasets

    with _turn(cache / name) if from_ is None else nullcontext():
        match name:
            case "cifar10":
                return _cifar(name, datasets.CIFAR10, from_, cache)
            case "cifar100":
                return _cifar(name, datasets.CIFAR100, from_, cache)
            case "svhn":
                return _svhn(datasets.SVHN, from_, cache, extra)
            case _:
                return _stl10(datasets.STL10, from_, cache)


def _cifar(name: str, kind: Any, from_: Path | None, cache: Path) -> Source:
    files = dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])
    root = _unpacked(name, kind, files, from_, cache)
    expected = {root / kind.base_folder / file: md5 for file, md5 in files.items()}
    archive = _Archive(root / kind.filename, kind.url, kind.tgz_md5)
    train, test = _sets(name, kind, expected, archive, from_ is None, [{"train": True}, {"train": False}])
    return Source(
        name=name,
        train=Part(train.data, np.asarray(train.targets, np.int64)),
        test=Part(test.data, np.asarray(test.targets, np.int64)),
        class_names=list(train.classes),
        weak={"flip": True, "shift": 4},
        origin=_origin(name, files, train, test),
        protocol=name,
    )


def _svhn(kind: Any, from_: Path | None, cache: Path, extra: bool) -> Source:
    splits = ["train", "test"] + ["extra"] * extra
    root = cache / "svhn" if from_ is None else from_ if from_.is_dir() else from_.parent
    files = {kind.split_list[split][1]: kind.split_list[split][2] for split in splits}
    sets = []
    for split in splits:
        url, file, md5 = kind.split_list[split]
        archive = _Archive(root / file, url, md5)
        sets += _sets("svhn", kind, {root / file: md5}, archive, from_ is None, [{"split": split}])
    train, test, *more = sets
    train_sets = [train, *more]
    images = [one.data.transpose(0, 2, 3, 1) for one in train_sets]
    return Source(
        name="svhn",
        train=Part(Joined(images), np.concatenate([one.labels for one in train_sets]).astype(np.int64)),
        test=Part(test.data.transpose(0, 2, 3, 1), test.labels.astype(np.int64)),
        class_names=[str(digit) for digit in range(10)],
        weak={"flip": False, "shift": 4},
        origin=_origin("svhn", files, train, test) | {"extra": len(more[0]) if more else 0},
        protocol="svhn",
    )


def _stl10(kind: Any, from_: Path | None, cache: Path) -> Source:
    files = dict([*kind.train_list, *kind.test_list])
    root = _unpacked("stl10", kind, files, from_, cache)
    folder = root / kind.base_folder
    expected = {folder / file: md5 for file, md5 in files.items()}
    archive = _Archive(root / kind.filename, kind.url, kind.tgz_md5)
    train, test = _sets("stl10", kind, expected, archive, from_ is None, [{"split": "train"}, {"split": "test"}])
    # the files are column-major: [n, channel, x, y]
    unlabeled = np.memmap(folder / kind.train_list[2][0], np.uint8, "r").reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
    labels = np.concatenate([train.labels.astype(np.int64), np.full(len(unlabeled), -1)])
    return Source(
        name="stl10",
        train=Part(Joined([train.data.transpose(0, 2, 3, 1), unlabeled]), labels),
        test=Part(test.data.transpose(0, 2, 3, 1), test.labels.astype(np.int64)),
        class_names=_lines(folder / kind.class_names_file),
        weak={"flip": True, "shift": 12},
        origin=_origin("stl10", files, train, test) | {"unlabeled": len(unlabeled)},
        folds=_folds(folder / kind.folds_list_file, len(train)),
        protocol="stl10",
    )


def _origin(name: str, files: dict[str, str], train: Any, test: Any) -> dict[str, Any]:
    return {"kind": name, "md5": files, "train": len(train), "test": len(test)}


class _Archive(NamedTuple):
    """An archive that torchvision downloads: its path, URL and MD5."""

    path: Path
    url: str
    md5: str


def _sets(
    name: str, kind: Any, expected: dict[Path, str], archive: _Archive, download: bool, splits: list[dict[str, Any]]
) -> list[Any]:
    """torchvision's data set of each of `splits`, with its files checked; its errors become ours."""
    from torchvision.datasets.utils import check_integrity

    hint = f"try again, or fetch it yourself and give it with --from: {archive.url}"
    try:
        with _old_formats():
            return [kind(str(archive.path.parent), download=download, **split) for split in splits]
    except (OSError, http.client.HTTPException, RecursionError) as error:  # RecursionError: endless redirects
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        if not download or getattr(error, "errno", None) in _OURS:
            raise
        raise StoreError(f"cannot download {name} from {archive.url}", str(error), hint) from error
    except RuntimeError as error:  # torchvision's error for a wrong checksum
        if not download or check_integrity(archive.path, archive.md5):
            raise _damaged(name, expected) from error
        archive.path.unlink(missing_ok=True)  # so that it is not taken for a download later
        why = "the transfer broke off, or the server holds another file"
        raise IntegrityError(f"wrong checksum of the downloaded '{archive.path}'", why, hint) from error


def _damaged(name: str, expected: dict[Path, str]) -> RealMixError:
    """The error that names the first missing or damaged file."""
    from torchvision.datasets.utils import check_integrity

    missing = [file for file in expected if not file.exists()]
    if missing:
        hint = "give the whole archive with --from"
        return UsageError(f"'{missing[0]}' is missing", f"{name} is not complete without it", hint)
    return _wrong(*next((file, md5) for file, md5 in expected.items() if not check_integrity(file, md5)))


def _wrong(file: Path, md5: str) -> IntegrityError:
    return IntegrityError(f"wrong checksum of '{file}'", f"its MD5 must be {md5}", "delete it and get it again")


def _unpacked(name: str, kind: Any, files: dict[str, str], from_: Path | None, cache: Path) -> Path:
    """The folder with torchvision's `base_folder`: in the cache, or given with `--from`."""
    from torchvision.datasets.utils import check_integrity, extract_archive

    root = cache / name
    if from_ is None:
        return root
    if (from_ / kind.base_folder).is_dir():
        return from_
    if from_.is_dir() and from_.name == kind.base_folder:
        return from_.parent
    archive = from_ / kind.filename if from_.is_dir() else from_
    if not archive.is_file():
        why = f"looked for {kind.filename} and {kind.base_folder}/"
        raise UsageError(f"'{from_}' holds no {name}", why, "give the archive, or the folder that holds it")
    if not check_integrity(archive, kind.tgz_md5):
        raise _wrong(archive, kind.tgz_md5)
    with _turn(root):
        if not all(check_integrity(root / kind.base_folder / file, md5) for file, md5 in files.items()):
            with aside.scratch() as scratch, _old_formats():
                link = scratch / kind.filename  # torchvision derives the format from the name
                link.symlink_to(archive.resolve())
                extract_archive(str(link), str(root))
    return root


@contextmanager
def _turn(root: Path) -> Iterator[None]:
    """Lock a folder of the cache, so that of two processes that need the same files only one downloads them."""
    root.mkdir(parents=True, exist_ok=True)
    with aside.turn(root):
        yield


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except FileNotFoundError as error:
        raise IntegrityError(f"'{file}' is missing", hint="unpack the archive again") from error


def _folds(file: Path, num_labeled: int) -> np.ndarray:
    """STL-10's predefined folds, int64 [10, 1000]: indices of the labelled images, one line per fold in the file."""
    _lines(file)
    rows = [np.array(line.split(), np.int64) for line in file.read_text().splitlines() if line.strip()]
    if len({len(row) for row in rows}) != 1 or np.max(rows) >= num_labeled or np.min(rows) < 0:
        why = "it must hold folds of equal length within the labelled images"
        raise IntegrityError(f"'{file}' is damaged", why, "unpack the archive again")
    return np.stack(rows)


@contextmanager
def _old_formats() -> Iterator[None]:
    """Ignore warnings of NumPy and tarfile about the formats of these old archives."""
    with warnings.catch_warnings():
        old_pickle = np.exceptions.VisibleDeprecationWarning  # CIFAR was pickled by Python 2: align=0
        warnings.filterwarnings("ignore", r"dtype\(\): align should be passed", old_pickle)
        warnings.filterwarnings("ignore", r"Python 3.14 will, by default, filter", DeprecationWarning)
        yield
