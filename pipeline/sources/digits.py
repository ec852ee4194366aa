"""The default data set: 1,797 handwritten digits of 8×8 pixels that come with scikit-learn, without a download.

36 images of each class (360 in all) are the test set, always the same.
"""

from __future__ import annotations

import hashlib

import numpy as np

from pipeline.sources.source import Part, Source, hold_out


def load() -> Source:
    """Open the data set; values v in 0 … 16 become round(255 v / 16), uint8 [N, 8, 8, 3]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    train, test = hold_out(labels, [36] * 10, "digits test")
    digest = hashlib.sha256(grey.tobytes() + labels.tobytes()).hexdigest()
    return Source(
        name="digits",
        train=Part(in_colour(grey[train]), labels[train]),
        test=Part(in_colour(grey[test]), labels[test]),
        class_names=[str(digit) for digit in range(10)],
        weak={"flip": False, "shift": 1},
        origin={"kind": "digits", "sha256": digest, "train": len(train), "test": len(test)},
        protocol="digits",
    )


def in_colour(grey: np.ndarray) -> np.ndarray:
    """A view of [N, H, W] as [N, H, W, 3]."""
    return np.broadcast_to(grey[..., None], (*grey.shape, 3))
