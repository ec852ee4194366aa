"""Opening stores: a `DatasetStore` holds the pixels, a `SplitStore` says which of them are labelled.

Everything read is compared with the manifest. Nothing here writes.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from stores.errors import IntegrityError, StoreError
from stores.format import file_names, manifest
from stores.format.arrays import ImageArray
from stores.storage.location import Location, locate

if TYPE_CHECKING:
    from stores.ffcv.reading import BetonArray


class DatasetStore:
    """Base images, labels, the test set, and the copies of every training image. Open it with `open_store`.

    Attributes:
        path: its location.
        name: of its folder.
        manifest: see FORMAT.md.
        fingerprint: hex digest of its content, independent of codec and chunks.
        num_images: N, number of training images.
        num_copies: A, stored copies of each training image; may be 0.
        image_size: (H, W).
        class_names: names of the source's classes.
        weak: {"flip": bool, "shift": pixels}, the dataset's weak augmentation.
    """

    def __init__(self, path: Location, content: dict[str, Any]) -> None:
        self.path, self.name, self.manifest = path, path.resolve().name, content
        self.fingerprint: str = content.get("fingerprint", "")
        self.num_images: int = content["num_images"]
        self.num_copies: int = content["num_copies"]
        self.image_size: tuple[int, int] = tuple(content["image_size"])
        self.class_names: list[str] = content["class_names"]
        self.weak: dict[str, Any] = content["weak"]

    @cached_property
    def train_images(self) -> ImageArray:
        """Training images, uint8 [N, H, W, 3]."""
        return self._array("train/images", self.num_images, *self.image_size, 3)

    @cached_property
    def test_images(self) -> ImageArray:
        """Test images, uint8 [M, H, W, 3]."""
        return self._array("test/images", self.manifest["num_test"], *self.image_size, 3)

    @cached_property
    def copies(self) -> ImageArray | BetonArray | None:
        """Stored copies, uint8 [N, A, H, W, 3]; None in a store without copies."""
        if self.num_copies and not self.has_zarr_copies:
            return self.beton()
        shape = (self.num_images, self.num_copies, *self.image_size, 3)
        return self._array("copies/images", *shape) if self.num_copies else None

    @property
    def has_zarr_copies(self) -> bool:
        """Whether the copies are in a zarr array; otherwise they are in FFCV's file only."""
        return self.num_copies > 0 and self.manifest.get("copies_format", "zarr") != "ffcv"

    def beton(self, *, base: bool = False) -> BetonArray:
        """The copies in FFCV's file, uint8 [N, A, H, W, 3].

        Args:
            base: the training images instead, uint8 [N, H, W, 3].

        Raises:
            StoreError: the store has no FFCV files.
        """
        from stores.ffcv.beton import COPIES, TRAIN, betons
        from stores.ffcv.reading import BetonArray

        made = {file.name: file for file in betons(self.num_images, self.num_copies, self.image_size)}
        name = TRAIN if base else COPIES
        if "ffcv" not in self.manifest or name not in made:
            raise StoreError(
                f"'{self.path}' has no FFCV files", hint=f"`realmix-data export {self.path} --format ffcv` writes them"
            )
        return BetonArray(self.path, made[name], self.manifest.get("files", {}).get(name, {}).get("sha256"))

    @cached_property
    def train_labels(self) -> np.ndarray:
        """Labels of the training images, int64 [N]; −1 = no label."""
        return self._labels("train/labels", self.num_images)

    @cached_property
    def test_labels(self) -> np.ndarray:
        """Labels of the test images, int64 [M]."""
        return self._labels("test/labels", self.manifest["num_test"])

    @cached_property
    def source_index(self) -> np.ndarray:
        """Index in the source of each training image, int64 [N]; rows are in a fixed random order."""
        return self._array("train/source_index", self.num_images, dtype="int64").read()

    @cached_property
    def train_files(self) -> list[str] | None:
        """The file that each training image came from, relative to its folder; None if the store does not know."""
        return self._files(file_names.TRAIN, self.num_images)

    @cached_property
    def test_files(self) -> list[str] | None:
        """The file that each test image came from, relative to its folder; None if the store does not know."""
        return self._files(file_names.TEST, self.manifest["num_test"])

    @cached_property
    def folds(self) -> np.ndarray | None:
        """Rows of predefined labelled folds (STL-10), int64 [F, n]; None for other datasets."""
        if not (self.path / "folds").is_dir():
            return None
        folds = self._array("folds", None, None, dtype="int64").read()
        if folds.size and not 0 <= folds.min() <= folds.max() < self.num_images:
            raise IntegrityError(f"array 'folds' of '{self.path}' is damaged", "its rows are not the store's")
        return folds

    def read_params(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Parameters drawn for each copy, int32 [n, A, P]; `manifest["recipe_columns"]` names the columns."""
        shape = (self.num_images, self.num_copies, len(self.manifest["recipe_columns"]))
        return self._array("copies/params", *shape, dtype="int32").read(rows)

    def _files(self, name: str, count: int) -> list[str] | None:
        if f"{name}/zarr.json" not in self.manifest.get("files", {}):
            return None
        array = self._array(name, None)
        try:
            return file_names.unpacked(array.read() if len(array) else np.empty(0, np.uint8), count)
        except ValueError as error:
            raise IntegrityError(f"array '{name}' of '{self.path}' is damaged", str(error)) from None

    def _labels(self, name: str, count: int) -> np.ndarray:
        labels = self._array(name, count, dtype="int64").read()
        if labels.size and not -1 <= labels.min() <= labels.max() < len(self.class_names):
            raise IntegrityError(
                f"array '{name}' of '{self.path}' is damaged", "some of its labels are not classes of the store"
            )
        return labels

    def _array(self, name: str, *shape: int | None, dtype: str = "uint8") -> ImageArray:
        return _array(self.path, self.manifest, name, shape, dtype)


class SplitStore:
    """Which images are labelled, unlabelled, for validation and for testing. Open it with `open_store`.

    Attributes:
        dataset: the dataset store that it points to.
        protocol: "labels", "mismatch" or "folds".
        seed: of the draw.
        gamma: suggested share of the unlabelled rows to mask as out of distribution.
        labeled: int64 rows of the dataset's training images.
        unlabeled: int64 rows of the dataset's training images, disjoint from `labeled`.
        valid: int64 rows of the dataset's training images, disjoint from both.
        test: int64 rows of the dataset's test images, all of classes trained on.
        foreign: int64 rows of the dataset's test images that are of other classes.
        class_names: names of the classes trained on.
        num_classes: their number.
        train_labels: int64 [N], labels of all training images as training classes; −1 = another class, or no label.
        test_labels: int64 [M], the same for the test images.
    """

    def __init__(self, path: Location, content: dict[str, Any]) -> None:
        self.path, self.name, self.manifest = path, path.resolve().name, content
        self.fingerprint: str = content["fingerprint"]
        self.protocol: str = content["protocol"]
        self.seed: int = content["seed"]
        self.gamma = float(content["gamma"])
        self.class_names: list[str] = content["class_names"]
        self.num_classes = len(self.class_names)
        self.dataset = self._open_dataset()
        self.labeled, self.unlabeled, self.valid, self.test = (
            self._rows(name, len(self.dataset.test_labels) if name == "test" else self.dataset.num_images)
            for name in ("labeled", "unlabeled", "valid", "test")
        )
        to_training = np.array([*content["class_map"], -1], np.int64)  # index −1 is the last: no label stays no label
        if len(to_training) != len(self.dataset.class_names) + 1 or to_training.max() >= self.num_classes:
            raise StoreError(f"the manifest of '{path}' is damaged", "class_map does not fit the classes")
        self.train_labels = to_training[self.dataset.train_labels]
        self.test_labels = to_training[self.dataset.test_labels]

    @property
    def unknown_pool(self) -> bool:
        """Whether any unlabelled image came without a label: nobody knows then whether it is of a training class."""
        return bool((self.dataset.train_labels[self.unlabeled] < 0).any())

    @cached_property
    def foreign(self) -> np.ndarray:
        """Test images of the classes that are not trained on, int64 [n], ascending."""
        return np.flatnonzero((self.dataset.test_labels >= 0) & (self.test_labels < 0))

    def _open_dataset(self) -> DatasetStore:
        asked = self.manifest["dataset"]
        path = self.path.resolve().parent / asked["name"]
        if not path.is_dir():
            raise StoreError(
                f"the dataset store of '{self.path}' is gone",
                f"'{path}' does not exist; split and dataset lie side by side",
                f"move '{asked['name']}' back, or make the split again: `realmix-data split DATASET …`",
            )
        dataset = DatasetStore(path, _content(path, "dataset"))
        if dataset.fingerprint != asked["fingerprint"]:
            raise StoreError(
                f"'{path}' is not the dataset store that '{self.path}' was made from",
                f"its fingerprint is {dataset.fingerprint[:16]}…, the split expects {str(asked['fingerprint'])[:16]}…",
                "bring the old dataset store back, or make the split again under another --name",
            )
        return dataset

    def _rows(self, name: str, limit: int) -> np.ndarray:
        count = self.manifest["counts"][name]
        rows = np.empty(0, np.int64)
        if count:
            rows = _array(self.path, self.manifest, name, (count,), "int64").read()
        if rows.size and not 0 <= rows.min() <= rows.max() < limit:
            raise IntegrityError(
                f"array '{name}' of '{self.path}' is damaged", "its indices do not fit the dataset store"
            )
        return rows


def open_store(path: str | Location, *, incomplete: bool = False) -> DatasetStore | SplitStore:
    """Open a store.

    Args:
        path: folder of a dataset store or split store, or `s3://bucket/prefix`.
        incomplete: also open a dataset store whose build has not finished.

    Raises:
        StoreError: it is missing, unfinished, of another version, or its dataset store was moved or changed.
        IntegrityError: a file that it needs is damaged.
    """
    path = locate(path)
    content = manifest.read(path, incomplete=incomplete)
    if content["kind"] == "embeddings":
        of = path.parent / content["dataset"]["name"]
        raise StoreError(
            f"'{path}' holds embeddings", "images and labels are in the dataset store beside it", f"name '{of}' instead"
        )
    return (DatasetStore if content["kind"] == "dataset" else SplitStore)(path, content)


def _content(path: Location, kind: str) -> dict[str, Any]:
    content = manifest.read(path)
    if content["kind"] != kind:
        raise StoreError(f"'{path}' is a {content['kind']} store, a {kind} store was expected")
    return content


def _array(
    store: Location, content: dict[str, Any], name: str, shape: tuple[int | None, ...], dtype: str
) -> ImageArray:
    """An array of a store; its metadata's checksum, shape and dtype are compared with the manifest."""
    array = ImageArray(store, name, content)
    same = len(array.shape) == len(shape) and all(said in (None, n) for said, n in zip(shape, array.shape, strict=True))
    if not same or array.dtype != dtype:
        raise StoreError(
            f"array '{name}' of '{store}' is not what the store's manifest says",
            f"it has shape {array.shape}, type {array.dtype}",
            "`realmix-data verify` names what is damaged",
        )
    return array
