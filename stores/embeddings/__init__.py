"""Embeddings of a dataset store's images and copies under a frozen network, in a store of their own beside it.

    from stores.embeddings import open_embeddings
    embeddings = open_embeddings(open_store("stores/flowers12"), "lite0-160")

`realmix-data embed` writes them. FORMAT.md describes the format.
"""

from stores.embeddings.check import check_embeddings
from stores.embeddings.content import Network, describe, fingerprint_of, layouts
from stores.embeddings.reader import (
    EmbeddingArray,
    EmbeddingStore,
    finite,
    holds_embeddings,
    location,
    names_of,
    open_embeddings,
    open_with_dataset,
)

__all__ = [
    "EmbeddingArray",
    "EmbeddingStore",
    "Network",
    "check_embeddings",
    "describe",
    "fingerprint_of",
    "finite",
    "holds_embeddings",
    "layouts",
    "location",
    "names_of",
    "open_embeddings",
    "open_with_dataset",
]
