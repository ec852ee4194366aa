"""The name of the file that each image came from, as an array of bytes that any reader of zarr opens.

Names are relative to the folder that was read, with "/" between their parts, one for each row, each ended by a zero
byte. They are the bytes that the file system has: UTF-8 nearly always. A store may come from anywhere, and so may its
names: they are shown to people, as `stores.system.text` shows text from outside, and no file is opened by them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TRAIN, TEST = "train/files", "test/files"
END = b"\0"


def packed(names: Sequence[str]) -> np.ndarray:
    r"""The array of some names, uint8 [bytes].

    >>> bytes(packed(["cat/1.jpg", "dog/7.jpg"]))
    b'cat/1.jpg\x00dog/7.jpg\x00'
    """
    return np.frombuffer(b"".join(name.encode(errors="surrogateescape") + END for name in names), np.uint8)


def unpacked(array: np.ndarray, count: int) -> list[str]:
    r"""The `count` names of an array.

    >>> unpacked(packed(["cat/1.jpg", "caf\xe9.jpg"]), 2)
    ['cat/1.jpg', 'café.jpg']

    Raises:
        ValueError: it holds another number of names.
    """
    names = array.tobytes().split(END)
    if names.pop() or len(names) != count:
        raise ValueError(f"it holds {len(names)} names for {count} rows")
    return [name.decode(errors="surrogateescape") for name in names]
