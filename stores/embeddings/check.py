"""What `verify` looks for in embeddings beyond checksums: numbers that are not finite, and arrays of other shapes."""

from __future__ import annotations

from typing import Any

import numpy as np

from stores.embeddings.content import fingerprint_of, layouts
from stores.embeddings.reader import finite
from stores.errors import IntegrityError, StoreError
from stores.format import layout
from stores.format.arrays import ImageArray
from stores.storage.location import Location


def check_embeddings(store: Location, content: dict[str, Any]) -> dict[str, str]:
    """What is wrong with the arrays of a store of embeddings whose files have the manifest's checksums.

    Returns:
        What is wrong, by file; empty if nothing is.
    """
    wrong: dict[str, str] = {}
    if content["fingerprint"] != fingerprint_of(content):
        wrong["zarr.json"] = "its fingerprint is not that of its specification"
    for expected in layouts(content).values():
        try:
            found = layout.load(store, expected.name)
        except (StoreError, IntegrityError) as error:
            wrong[f"{expected.name}/zarr.json"] = error.what
            continue
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            wrong[f"{expected.name}/zarr.json"] = "the array is not what the manifest says"
            continue
        array = ImageArray(store, expected.name)
        for index in range(found.num_files):
            start, stop = found.rows(index)
            try:
                if not finite(array.read(np.arange(start, stop), workers=1)):
                    wrong[found.key(index)] = f"a number is infinite or NaN (rows {start}–{stop - 1} of {found.name})"
            except IntegrityError as error:
                wrong[found.key(index)] = error.why or error.what
    return wrong
