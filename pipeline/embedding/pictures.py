"""The pictures behind each array of embeddings: read from the dataset store, or made as a build makes copies.

Copies of recipes that NumPy applies are made from base images, which is faster than reading them; others are read. The
copies of a second recipe are always made, and never stored. All draws are those of a build: functions of the dataset
store's seed, the recipe, the row and the copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.building.derive import recipe_of
from pipeline.recipes import Recipe, from_spec
from stores import DatasetStore, open_store
from stores.copies import is_drawable
from stores.errors import StoreError


@dataclass(frozen=True)
class Pictures:
    """The pictures of one array; a picklable task for a worker.

    Attributes:
        store: location of the dataset store.
        fingerprint: of the dataset store.
        part: "train", "test", "copies" or "strong".
        copies: pictures of each row; 1 for base and test images.
        recipe: spec of the recipe that makes them; None: they are read.
        weak: spec of the recipe that then mirrors and shifts each; None: nothing does.
    """

    store: str
    fingerprint: str
    part: str
    copies: int = 1
    recipe: dict[str, Any] | None = None
    weak: dict[str, Any] | None = None

    @property
    def in_processes(self) -> bool:
        """Whether making them holds Python's lock, so that threads would not help."""
        return self.recipe is not None and not from_spec(self.recipe).vectorised

    def __call__(self, rows: range) -> np.ndarray:
        """The pictures of consecutive rows, uint8 [n · copies, H, W, 3]; copies of a row are adjacent.

        Raises:
            IntegrityError: the images that they are read or made from are damaged.
        """
        store = _opened(self.store, self.fingerprint)
        if self.part == "test":
            return store.test_images.read(rows, workers=1)
        if self.part == "train":
            return store.train_images.read(rows, workers=1)
        if self.recipe is None:
            assert store.copies is not None
            made = store.copies.read(rows, copies=self.copies, workers=1)
        else:
            made = _made(store, from_spec(self.recipe), rows, self.copies)
        return self._moved(store, rows, made.reshape(-1, *made.shape[2:]))

    def _moved(self, store: DatasetStore, rows: range, pictures: np.ndarray) -> np.ndarray:
        """The pictures, each mirrored and shifted by its own draw."""
        if self.weak is None:
            return pictures
        weak, seed = from_spec(self.weak), store.manifest["spec"]["seed"]
        params = weak.draw(seed, np.asarray(rows), self.copies, store.image_size)
        out = np.empty_like(pictures)
        weak.apply(pictures, params.reshape(-1, 1, params.shape[-1]), out[:, None])
        return out


def pictures_of(dataset: DatasetStore, spec: dict[str, Any]) -> dict[str, Pictures]:
    """The pictures of each array of embeddings.

    Args:
        dataset: the dataset store.
        spec: of the store of embeddings.

    Raises:
        StoreError: a recipe cannot make copies here.
    """
    place = str(dataset.path.absolute())
    found = {part: Pictures(place, dataset.fingerprint, part) for part in ("train", "test")}
    if spec["copies"]:
        made = is_drawable(dataset.manifest) or not dataset.has_zarr_copies
        recipe = recipe_of(dataset).spec if made else None
        kind = dataset.manifest["spec"]["recipe"].get("kind")
        weak = _weak(spec["weak"], kind, "weak copies")
        found["copies"] = Pictures(place, dataset.fingerprint, "copies", spec["copies"], recipe, weak)
    if spec["strong"] is not None:
        recipe = from_spec(spec["strong"]["recipe"]).spec
        weak = _weak(spec["weak"], recipe["kind"], "weak strong copies")
        found["strong"] = Pictures(place, dataset.fingerprint, "strong", spec["strong"]["copies"], recipe, weak)
    return found


def _weak(weak: dict[str, Any] | None, kind: Any, name: str) -> dict[str, Any] | None:
    """The recipe of a random flip and shift, whose draws follow from `name`; None for copies that have had one."""
    if weak is None or kind == "simple":
        return None
    return {"kind": "simple", "name": name, "version": 1, "flip": 0.5 * weak["flip"], "shift": weak["shift"]}


def _made(store: DatasetStore, recipe: Recipe, rows: range, copies: int) -> np.ndarray:
    out = np.empty((len(rows), copies, *store.image_size, 3), np.uint8)
    params = recipe.draw(store.manifest["spec"]["seed"], np.asarray(rows), copies, store.image_size)
    recipe.apply(store.train_images.read(rows, workers=1), params, out)
    return out


@lru_cache(maxsize=2)
def _opened(place: str, fingerprint: str) -> DatasetStore:
    """A dataset store, opened once in a process."""
    store = open_store(place)
    if not isinstance(store, DatasetStore) or store.fingerprint != fingerprint:
        raise StoreError(f"'{place}' was replaced while it was read", "its fingerprint has changed")
    return store
