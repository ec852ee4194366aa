"""Opening embeddings: by the name that they have beside their dataset store, or by their own location."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from stores.embeddings.content import layouts
from stores.errors import IntegrityError, StoreError, suggest
from stores.format import manifest, names
from stores.format.arrays import ImageArray
from stores.reader import DatasetStore, open_store
from stores.storage.location import Location, locate, stores_in

_EXPONENT = np.uint16(0x7C00)  # all ones in a float16 that is infinite or NaN


class EmbeddingArray(ImageArray):
    """An array of embeddings; what it reads is finite."""

    def read(
        self,
        rows: np.ndarray | range | None = None,
        copies: int | None = None,
        out: np.ndarray | None = None,
        workers: int | None = None,
    ) -> np.ndarray:
        """As `ImageArray.read`, float16 [n, D] or [n, copies, D].

        Raises:
            IntegrityError: also if a number is infinite or NaN.
        """
        found = super().read(rows, copies, out, workers)
        if not finite(found):
            raise IntegrityError(
                f"array '{self.layout.name}' of '{self.store}' is damaged",
                "a number in it is infinite or NaN",
                f"`realmix-data verify {self.store}` lists all damage",
            )
        return found


def finite(embeddings: np.ndarray) -> bool:
    """Whether no number of a float16 array is infinite or NaN; on integers, because float16 is slow."""
    return not ((np.ascontiguousarray(embeddings).view(np.uint16) & _EXPONENT) == _EXPONENT).any()


class EmbeddingStore:
    """Embeddings of base images, test images and copies under one frozen network. Open it with `open_embeddings`.

    Attributes:
        path: its location.
        name: what follows its dataset store's name and a dot in the name of its folder.
        manifest: see FORMAT.md.
        fingerprint: hex digest of the images, the network and the copies.
        backbone: name of the network, "timm:tf_efficientnet_lite0".
        weights_sha256: hex digest of the network's tensors.
        size: side in pixels that images are resized to.
        num_features: D, length of an embedding.
        num_copies: K, embedded copies of each training image; may be 0.
        num_strong: S, embedded strong copies of each training image; may be 0.
    """

    def __init__(self, path: Location, content: dict[str, Any]) -> None:
        self.path, self.manifest = path, content
        spec: dict[str, Any] = content["spec"]
        self.name = path.resolve().name.removeprefix(f"{content['dataset']['name']}.")
        self.fingerprint: str = content.get("fingerprint", "")
        self.backbone: str = spec["backbone"]
        self.weights_sha256: str = spec["weights_sha256"]
        self.size: int = spec["size"]
        self.num_features: int = content["num_features"]
        self.num_copies: int = spec["copies"]
        self.num_strong: int = 0 if spec["strong"] is None else spec["strong"]["copies"]

    @cached_property
    def train(self) -> EmbeddingArray:
        """Of the training images, float16 [N, D]; rows as in `DatasetStore.train_images`."""
        return self.array("train")

    @cached_property
    def test(self) -> EmbeddingArray:
        """Of the test images, float16 [M, D]."""
        return self.array("test")

    @cached_property
    def copies(self) -> EmbeddingArray | None:
        """Of the first K copies of each training image, float16 [N, K, D]; None if K is 0."""
        return self.array("copies") if self.num_copies else None

    @cached_property
    def strong(self) -> EmbeddingArray | None:
        """Of S strong copies of each training image, float16 [N, S, D]; None if S is 0."""
        return self.array("strong") if self.num_strong else None

    def array(self, name: str) -> EmbeddingArray:
        """The array "train", "test", "copies" or "strong"; the manifest must say that there is one."""
        expected = layouts(self.manifest)[name]
        array = EmbeddingArray(self.path, expected.name, self.manifest)
        if (array.layout.shape, array.layout.dtype) != (expected.shape, expected.dtype):
            raise StoreError(
                f"array '{expected.name}' of '{self.path}' is not what the store's manifest says",
                f"it has shape {array.shape}, type {array.dtype}",
                "`realmix-data verify` names what is damaged",
            )
        return array


def location(dataset: DatasetStore, name: str) -> Location:
    """Where the embeddings `name` of a dataset store are: "flowers12.lite0-160" beside "flowers12".

    Raises:
        UsageError: it is not a name.
    """
    path = dataset.path.resolve()
    return path.parent / names.require(f"{path.name}.{names.require(name, 'the embeddings')}", "the embeddings")


def names_of(dataset: DatasetStore) -> list[str]:
    """Names of the complete embeddings of a dataset store, sorted."""
    path = dataset.path.resolve()
    beside = [place for place in stores_in(path.parent) if place.name.startswith(f"{path.name}.")]
    return sorted(place.name[len(path.name) + 1 :] for place in beside if _belongs(place, dataset))


def _belongs(place: Location, dataset: DatasetStore) -> bool:
    try:
        content = manifest.read(place)
    except (StoreError, IntegrityError):
        return False
    return bool(content["kind"] == "embeddings" and content["spec"]["dataset"] == dataset.fingerprint)


def holds_embeddings(path: Location) -> bool:
    """Whether a store of embeddings is there, complete or not.

    Raises:
        StoreError: there is no store.
    """
    return bool(manifest.read(path, incomplete=True)["kind"] == "embeddings")


def open_embeddings(dataset: DatasetStore, name: str) -> EmbeddingStore:
    """Open the embeddings of a dataset store.

    Args:
        dataset: the dataset store; of a split store, its `dataset`.
        name: of the embeddings, "lite0-160".

    Raises:
        UsageError: it is not a name.
        StoreError: there are none of this name, they are incomplete, or of another dataset store.
    """
    path = location(dataset, name)
    if not path.is_dir():
        known = names_of(dataset)
        raise StoreError(
            f"'{dataset.path}' has no embeddings '{name}'",
            f"'{path}' does not exist",
            suggest(name, known) if known else f"`realmix-data embed {dataset.path} --backbone timm:NAME` makes some",
        )
    store = EmbeddingStore(path, _content(path))
    store.name = name  # the dataset store may have been renamed, with its embeddings
    _require_same(store, dataset)
    return store


def open_with_dataset(path: str | Location, *, incomplete: bool = False) -> tuple[EmbeddingStore, DatasetStore]:
    """Open embeddings by their own location, and the dataset store beside them that they were made from.

    Raises:
        StoreError: there are none, they are incomplete, or their dataset store was moved or changed.
    """
    path = locate(path)
    store = EmbeddingStore(path, _content(path, incomplete=incomplete))
    place = path.resolve().parent / store.manifest["dataset"]["name"]
    if not place.is_dir():
        raise StoreError(
            f"the dataset store of '{path}' is gone",
            f"'{place}' does not exist; embeddings and dataset lie side by side",
            f"move '{place.name}' back",
        )
    dataset = open_store(place)
    if not isinstance(dataset, DatasetStore):
        raise StoreError(f"'{place}' is a split store", f"'{path}' holds the embeddings of a dataset store")
    _require_same(store, dataset)
    return store, dataset


def _content(path: Location, *, incomplete: bool = False) -> dict[str, Any]:
    content = manifest.read(path, incomplete=incomplete)
    if content["kind"] != "embeddings":
        raise StoreError(f"'{path}' is a {content['kind']} store, a store of embeddings was expected")
    return content


def _require_same(store: EmbeddingStore, dataset: DatasetStore) -> None:
    content = store.manifest
    if content["spec"]["dataset"] != dataset.fingerprint:
        raise StoreError(
            f"'{store.path}' holds embeddings of another dataset store than '{dataset.path}'",
            f"its fingerprint is {dataset.fingerprint[:16]}…, the embeddings were made from "
            f"{content['spec']['dataset'][:16]}…",
            "bring the old dataset store back, or embed this one under another --name",
        )
    if (content["num_images"], content["num_test"]) != (dataset.num_images, dataset.manifest["num_test"]):
        raise StoreError(
            f"the manifest of '{store.path}' is damaged", "its numbers of images are not those of the dataset store"
        )
    if store.num_copies > dataset.num_copies:
        raise StoreError(
            f"the manifest of '{store.path}' is damaged",
            f"the dataset store has {dataset.num_copies} copies of each image",
        )
