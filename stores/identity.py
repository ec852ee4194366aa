"""The fingerprint of a dataset store: of its content, independent of machine, codec, chunk shape and number of workers.

It covers the specification (source, recipe, seed, number of copies) and the decoded base images, labels and order. The
copies are a pure function of these, so they need not be hashed; `verify --deep` checks them.
"""

from __future__ import annotations

import hashlib

import numpy as np

from stores.format import manifest
from stores.format.arrays import ImageArray
from stores.reader import DatasetStore

BLOCK_BYTES = 8 << 20


def dataset_fingerprint(store: DatasetStore) -> str:
    """Fingerprint (hex) of a dataset store, which needs its base arrays only.

    Raises:
        IntegrityError: a base array is missing or damaged.
    """
    tables = [store.train_labels, store.source_index, store.test_labels]
    tables += [] if store.folds is None else [store.folds]
    digests = [hashlib.sha256(np.ascontiguousarray(table, "<i8").tobytes()).hexdigest() for table in tables]
    digests += [_digest(store.train_images), _digest(store.test_images)]
    return manifest.fingerprint(manifest.FORMAT_VERSION, store.manifest["spec"], digests)


def _digest(images: ImageArray) -> str:
    """SHA-256 (hex) of the shape and all pixels in row order, read in blocks."""
    rows = max(1, BLOCK_BYTES // images.layout.row_bytes)
    digest = hashlib.sha256(str(images.shape).encode())
    block = np.empty((min(rows, len(images)), *images.shape[1:]), images.dtype)
    for start in range(0, len(images), rows):
        stop = min(start + rows, len(images))
        digest.update(images.read(np.arange(start, stop), out=block[: stop - start]).data)
    return digest.hexdigest()
