"""The contract between the two stages: what a store is, how one is read, and how one is checked.

    from stores import open_store
    split = open_store("stores/cifar10_250")

`pipeline` writes through `stores.writer`, `trainer` reads through `open_store`; they never import each other. Built
stores lie in sub-folders of this folder by default and are ignored by git. The format is in FORMAT.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["DatasetStore", "ImageArray", "SplitStore", "open_store"]

if TYPE_CHECKING:
    from stores.format.arrays import ImageArray
    from stores.reader import DatasetStore, SplitStore, open_store


def __getattr__(name: str) -> Any:
    """Import the reader when it is first asked for: `--help` needs none of it."""
    if name in __all__:
        from stores import reader

        return getattr(reader, name)
    raise AttributeError(f"module 'stores' has no attribute {name!r}")
