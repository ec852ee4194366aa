"""Duplicate images, found by the SHA-256 of their files.

A test image that is also a training image would make the test error a training error: it is an error, or the training
image is left out if the user asks for that. An image in two classes is kept and reported, or left out as well. Further
duplicates in the training part are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from stores.errors import UsageError

LISTED = 8  # pairs in an error
_HINT = "remove one of each pair, or leave such pictures out with --drop-conflicts"
_SAID = {
    "under_two_classes": "left out {}: the same picture under two classes",
    "also_in_test": "left out {} of the training part: the same picture in the test part",
    "copies": "left out {}: a further copy of a picture of the training part",
}


@dataclass
class Pictures:
    """The image files of a part.

    Attributes:
        files: paths.
        labels: int64 [n]; −1 = none.
        digests: S32 [n], SHA-256 of each file.
    """

    files: Sequence[str]
    labels: np.ndarray
    digests: np.ndarray

    def __getitem__(self, rows: np.ndarray, /) -> Pictures:
        """The images of int64 rows, or of a boolean mask."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Pictures([self.files[row] for row in rows.tolist()], self.labels[rows], self.digests[rows])

    def without(self, files: Collection[str]) -> Pictures:
        """The images of all other files."""
        return self[np.array([file not in files for file in self.files], bool)]


@dataclass
class Settled:
    """The parts after duplicates were handled.

    Attributes:
        train: training images.
        test: test images.
        left_out: number of files left out, by reason.
        kept: number of duplicates kept, by kind.
        notes: a sentence for the user about each.
    """

    train: Pictures
    test: Pictures
    left_out: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def settle(train: Pictures, test: Pictures, drop: bool) -> Settled:
    """Find duplicates, and leave them out or refuse them.

    Args:
        train: labelled images, followed by those without label.
        test: empty if the test set will be held out of `train`.
        drop: leave out images in two classes, and training images that are test images.

    Raises:
        UsageError: an image is in both parts, unless `drop`.
    """
    groups = np.unique(np.concatenate([train.digests, test.digests]), return_inverse=True)[1].reshape(-1)
    ours, tests = np.split(groups, [len(train.files)])
    if groups.max(initial=-1) + 1 == len(groups):
        return Settled(train, test)
    contrary, contrary_test = _contrary(ours, train.labels), _contrary(tests, test.labels)
    tested = np.isin(ours, tests)
    count_contrary = int(np.count_nonzero(contrary) + np.count_nonzero(contrary_test))
    notes, kept = [], {}
    if not drop:
        _refuse_tested(train, test, ours, tests, tested)
        if count_contrary:
            part, group, bad = (train, ours, contrary) if contrary.any() else (test, tests, contrary_test)
            kept["under_two_classes"] = count_contrary
            said = f"{_files(count_contrary)}: the same picture under two classes, as {_example(part, group, bad)}"
            notes.append(f"{said}; they stay, --drop-conflicts leaves them out")
        contrary, contrary_test = np.zeros_like(contrary), np.zeros_like(contrary_test)
    tested &= ~contrary
    rows = np.flatnonzero(~(contrary | tested))
    copies = _copies(ours[rows], train.labels[rows])
    counts = {
        "under_two_classes": count_contrary if drop else 0,
        "also_in_test": int(np.count_nonzero(tested)),
        "copies": int(np.count_nonzero(copies)),
    }
    left_out = {why: count for why, count in counts.items() if count}
    notes += [_SAID[why].format(_files(count)) for why, count in left_out.items()]
    repeated = len(tests) - len(np.unique(tests))
    if repeated:
        notes.append(f"{_files(repeated)} of the test part: a further copy of a test picture; it stays")
    return Settled(train[rows[~copies]], test[~contrary_test], left_out, kept, notes)


def digests_of(images: np.ndarray) -> np.ndarray:
    """Digests of images uint8 [N, H, W, 3], S16 [N]; equal for equal pixels."""
    return np.array([hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images], "S16")


def alone(digests: np.ndarray) -> np.ndarray:
    """Whether each digest occurs only once, bool [N]."""
    _, group, count = np.unique(digests, return_inverse=True, return_counts=True)
    return count[group.reshape(-1)] == 1


def told(digests: np.ndarray, labels: np.ndarray, tested: np.ndarray) -> list[str]:
    """Notes about duplicates that are kept.

    Args:
        digests: of the training images.
        labels: of the training images.
        tested: digests of the test images.
    """
    repeated = int(np.count_nonzero(~alone(digests)))
    contrary = int(np.count_nonzero(_contrary(np.unique(digests, return_inverse=True)[1].reshape(-1), labels)))
    also = int(np.count_nonzero(np.isin(tested, digests)))
    notes = []
    if repeated:
        notes.append(f"training images that occur more than once: {repeated:,}")
    if contrary:
        notes.append(f"training images that are also under another class: {contrary:,}")
    if also:
        notes.append(f"test images that are also training images: {also:,}; the test error will be too low")
    return notes


def _contrary(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which labelled images also have another label, bool [n]."""
    size = groups.max(initial=-1) + 1
    low, high = np.full(size, np.iinfo(np.int64).max), np.full(size, -1)
    labelled = labels >= 0
    np.minimum.at(low, groups[labelled], labels[labelled])
    np.maximum.at(high, groups[labelled], labels[labelled])
    return (low < high)[groups] & labelled


def _copies(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """All but the first of equal images with equal labels, and unlabelled ones equal to a labelled one: bool [n]."""
    first = np.unique(np.stack([groups, labels]), axis=1, return_index=True)[1]
    copies = np.ones(len(groups), bool)
    copies[first] = False
    return copies | ((labels < 0) & np.isin(groups, groups[labels >= 0]))


def _example(part: Pictures, groups: np.ndarray, contrary: np.ndarray) -> str:
    rows = np.flatnonzero(contrary & (groups == groups[contrary][0]))
    other = rows[part.labels[rows] != part.labels[rows[0]]][0]
    return f"'{part.files[rows[0]]}' and '{part.files[other]}'"


def _refuse_tested(train: Pictures, test: Pictures, ours: np.ndarray, tests: np.ndarray, tested: np.ndarray) -> None:
    rows = np.flatnonzero(tested)
    if not len(rows):
        return
    pairs = [(test.files[int(np.flatnonzero(tests == ours[row])[0])], train.files[row]) for row in rows[:LISTED]]
    count = "one training picture is" if len(rows) == 1 else f"{len(rows):,} training pictures are"
    why = f"the test error would be a training error\n{_listed(pairs, len(rows))}"
    raise UsageError(f"{count} also in the test part", why, _HINT)


def _listed(pairs: list[tuple[str, str]], count: int) -> str:
    lines = [f"  '{one}' is '{other}'" for one, other in pairs]
    return "\n".join(lines + [f"  … and {count - len(pairs):,} more"] * (count > len(pairs)))


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
