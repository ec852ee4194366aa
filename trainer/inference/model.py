"""A trained network from Python: `load_model(run).predict(images)`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Union, cast

import numpy as np

from networks import hardware
from stores.errors import UsageError
from trainer.evaluation import scorer
from trainer.functional.scorer import Scorer
from trainer.inference.embedding import from_images
from trainer.inference.predict import Picture, pictures, predict
from trainer.runs.weights import Trained, find

if TYPE_CHECKING:
    from stores.images.picture import PillowImage

Images = Union[str, Path, np.ndarray, "PillowImage", Iterable["str | Path | np.ndarray | PillowImage"]]


class HasPath(Protocol):
    """A run, as `realmix.train` returns it."""

    @property
    def path(self) -> Path: ...


@dataclass(frozen=True)
class Predictions:
    """What a network says of n images, in their order.

    Attributes:
        class_names: of the K classes, in the order of the columns of `probabilities`.
        classes: n names, each of the most probable class.
        labels: int64 [n], their positions in `class_names`.
        probabilities: float64 [n, K].
        confidences: float64 [n], the largest probability.
        ood_scores: float64 [n] in [0, 1]: the higher, the less an image looks like one of any class; None of a network
            without "foreign.safetensors", as early versions wrote them: 1 − confidence can be no better than chance.
        paths: n files; "" of an image that is no file.
    """

    class_names: list[str]
    classes: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    ood_scores: np.ndarray | None
    paths: list[str]

    @property
    def confidences(self) -> np.ndarray:
        """float64 [n], the largest probability."""
        largest: np.ndarray = self.probabilities.max(1, initial=0)
        return largest

    def __len__(self) -> int:
        return len(self.classes)


class Model:
    """The averaged weights of a run; `load_model` makes one.

    Attributes:
        class_names: of the K classes.
        image_size: (H, W) of the images that it was trained on; others are cropped to their aspect and resized.
        network: torch module, in evaluation mode: float32 [n, 3, H, W] in [−1, 1] to logits [n, K].
    """

    def __init__(self, trained: Trained, device: str = "auto", scorer: Scorer | None = None) -> None:
        self._trained, self._device, self._scorer = trained, hardware.usable(device), scorer
        self.class_names, self.image_size, self.network = trained.class_names, trained.image_size, trained.model

    def predict(self, images: Images) -> Predictions:
        """Classify images.

            >>> model = load_model(run)
            >>> said = model.predict(test_images[:3])  # uint8 [3, H, W, 3]
            >>> len(said), said.probabilities.shape, said.ood_scores.shape
            (3, (3, 10), (3,))

        Args:
            images: uint8 arrays [n, H, W, 3] or [H, W, 3], RGB; Pillow images; files, or folders of them; stores, whose
                pool or training images they stand for; one, or any iterable. Files and Pillow images of any mode are
                read as stage 1 reads them.

        Raises:
            IntegrityError: a file that is no whole image.
            UsageError: there is no such file, an array is no image, or Pillow is not installed.
        """
        said = list(predict(self._trained, _listed(images), self._device, scorer=self._scorer))
        probabilities = np.array([one.probabilities for one in said]).reshape(len(said), len(self.class_names))
        labels = probabilities.argmax(1)
        classes, paths = [one.class_name for one in said], [one.path for one in said]
        scores = None if self._scorer is None else np.array([one.ood_score for one in said], np.float64)
        return Predictions(self.class_names, classes, labels, probabilities, scores, paths)


def load_model(
    run: str | PathLike[str] | HasPath, device: str = "auto", weights: str | PathLike[str] | None = None
) -> Model:
    """Load a trained network.

    Args:
        run: what `train` returned, a run's directory, finished or not, an export of one, or its model.safetensors.
        device: "auto", "cpu" or "cuda".
        weights: of the backbone below a network that was trained on embeddings, a file; None: timm's or torchvision's.

    Raises:
        StoreError: there is no run, or it has nothing to load yet.
        IntegrityError: a file of it is damaged.
        UsageError: there is no such device.
    """
    path = Path(run) if isinstance(run, str | PathLike) else run.path
    trained = from_images(find(path), None if weights is None else str(weights))
    return Model(trained, device, scorer.find(path))


def _listed(images: Images) -> Iterable[Picture]:
    """One by one, folders as the files in them."""
    if isinstance(images, str | Path):
        yield from pictures([Path(images)])[1]
    elif isinstance(images, np.ndarray):
        yield from images if images.ndim == 4 else [images]
    elif hasattr(images, "__array__"):  # a tensor
        yield from _listed(np.asarray(images))
    elif hasattr(images, "mode"):  # a Pillow image
        yield cast("PillowImage", images)
    elif isinstance(images, Iterable):
        for image in images:
            yield from _listed(image)
    else:
        raise UsageError(
            f"{type(images).__name__} is no image",
            hint="uint8 arrays [n, H, W, 3] or [H, W, 3], Pillow images, or paths of files and folders",
        )
