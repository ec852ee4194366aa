"""The contract between the two stages: what a store is, and how it is read, written and checked.

    from stores import open_store
    split = open_store("stores/cifar10_250")

`pipeline` writes with `stores.writer`, `trainer` reads with `open_store`; they never import each other. By default
built stores are sub-folders of this folder, ignored by git. FORMAT.md describes the format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["DatasetStore", "ImageArray", "SplitStore", "open_store"]

if TYPE_CHECKING:
    from stores.format.arrays import ImageArray
    from stores.reader import DatasetStore, SplitStore, open_store


def __getattr__(name: str) -> Any:
    """Import the reader on first use: `--help` does not need it."""
    if name in __all__:
        from stores import reader

        return getattr(reader, name)
    raise AttributeError(f"module 'stores' has no attribute {name!r}")
