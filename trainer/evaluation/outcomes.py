"""What a finished run says of each test image and of unlabelled ones, kept beside its weights for reports.

`outcomes.safetensors` is written at the end of a run; result.json has its checksum. With it runs are compared image by
image, and the images are shown that a run is wrong or unsure about. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import safetensors
import safetensors.numpy

from stores import SplitStore
from stores.format import manifest
from trainer.runs.run_dir import Run, damaged, read_bytes

FILE = "outcomes.safetensors"
FOREIGN, UNKNOWN = -1, -2
INTEGERS, REALS = np.int32, np.float32


@dataclass(frozen=True)
class Outcomes:
    """Of n test images and m of the unlabelled ones, as the averaged weights see them.

    Attributes:
        test_rows: int32 [n], among the dataset's test images.
        test_labels, test_guesses: int32 [n], classes.
        test_confidences: float32 [n], probabilities of the guesses.
        pool_rows: int32 [m], among the dataset's training images.
        pool_labels: int32 [m], classes that the run was not told; FOREIGN: of none, UNKNOWN: nobody knows.
        pool_guesses: int32 [m].
        pool_confidences: float32 [m].
        pool_scores: float32 [m], how foreign they look, in [0, 1].
    """

    test_rows: np.ndarray
    test_labels: np.ndarray
    test_guesses: np.ndarray
    test_confidences: np.ndarray
    pool_rows: np.ndarray
    pool_labels: np.ndarray
    pool_guesses: np.ndarray
    pool_confidences: np.ndarray
    pool_scores: np.ndarray


NAMES = tuple(f.name for f in fields(Outcomes))


def test_rows(store: SplitStore) -> np.ndarray:
    """Rows of the test images that a run is evaluated on, int64 [n]."""
    rows: np.ndarray = store.test[store.test_labels[store.test] >= 0]
    return rows


def pool_labels(store: SplitStore, rows: np.ndarray) -> np.ndarray:
    """Classes of training images, int64 [m], see `Outcomes`: also where the run was not told."""
    known = store.dataset.train_labels[rows] >= 0
    return np.where(known, np.maximum(store.train_labels[rows], FOREIGN), UNKNOWN)


def write(folder: Run, outcomes: Outcomes) -> None:
    """Write the file into a run's directory, atomically."""
    arrays = {
        name: np.ascontiguousarray(getattr(outcomes, name), REALS if _is_real(name) else INTEGERS) for name in NAMES
    }
    manifest.write_atomically(folder.path / FILE, safetensors.numpy.save(arrays))


def read(folder: Run) -> Outcomes | None:
    """The outcomes of a finished run; None of runs that have none.

    Raises:
        IntegrityError: the file is damaged.
    """
    path = folder.path / FILE
    if not path.exists():
        return None
    folder.require_own(FILE)
    try:
        arrays = safetensors.numpy.load(read_bytes(path))
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise damaged(path, str(error)) from None
    if wrong := _wrong(arrays, len(folder.config["store"]["class_names"])):
        raise damaged(path, f"wrong or missing: {wrong}")
    return Outcomes(**arrays)


def _is_real(name: str) -> bool:
    return name.endswith(("confidences", "scores"))


def _wrong(arrays: dict[str, np.ndarray], classes: int) -> str:
    """The first array that is missing or not what it must be; "" if all are."""
    if arrays.keys() != set(NAMES):
        return ", ".join(sorted(arrays.keys() ^ set(NAMES)))
    lowest = {"rows": 0, "labels": UNKNOWN, "guesses": 0}
    for name, array in arrays.items():
        first = arrays[name.partition("_")[0] + "_rows"]
        if array.dtype != (REALS if _is_real(name) else INTEGERS) or array.ndim != 1 or len(array) != len(first):
            return name
        if _is_real(name):
            good = bool(((array >= 0) & (array <= 1)).all())  # NaN is neither
        else:
            kind = name.partition("_")[2]
            most = np.iinfo(INTEGERS).max if kind == "rows" else classes - 1
            good = bool(((array >= lowest[kind]) & (array <= most)).all())
        if not good:
            return name
    return ""
