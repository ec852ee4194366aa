"""What a trained network says of images: class, probabilities, and how foreign each image looks.

Files are read as stage 1 reads them: any size, format and mode, cropped to the aspect of the training images and
resized to their size. Images of a store are read from it, under the names of the files that they came from. How foreign
an image looks is told by its features among those of the run's images, see `trainer.evaluation.scorer`. Without those,
as of runs of early versions, 1 − confidence stands there under this name: it says how sure the network is, which for
foreign images can be as sure as for others. Nothing is written here.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
import torch
from torch import nn

from stores.errors import IntegrityError, UsageError, install, suggest
from stores.images import walk
from stores.system.text import csv_line
from stores.system.threads import thread_pool
from trainer.augment.flip_shift import scale
from trainer.evaluation.assess import probabilities
from trainer.functional.scorer import Scorer
from trainer.inference.stored import Stored, images_of, is_store
from trainer.runs.weights import Trained

if TYPE_CHECKING:
    from stores.images.picture import PillowImage

Picture = Union[str, Path, Stored, np.ndarray, "PillowImage"]
BATCH = 256
BATCH_BYTES = 256 << 20  # of pixels
SCORE = {True: "ood_score", False: "one_minus_confidence"}  # column, by whether foreign images are scored


@dataclass
class Prediction:
    """One image's.

    Attributes:
        path: the file, as it was named or found, or as a store names it; "" of an image that is no file.
        class_name: of the largest probability, which is `confidence`.
        ood_score: in [0, 1], high means foreign; None where nothing scores it.
        probabilities: float64 [K], in the order of the network's classes.
    """

    path: str
    class_name: str
    confidence: float
    ood_score: float | None
    probabilities: np.ndarray

    @property
    def foreignness(self) -> float:
        """`ood_score`, or 1 − confidence where there is none."""
        return 1 - self.confidence if self.ood_score is None else self.ood_score


def image_files(paths: Sequence[Path]) -> tuple[list[str], str]:
    """The files themselves, and every image below the folders, in the order of `paths`; and what was passed over.

    Raises:
        UsageError: a path that does not exist, a folder without images, no file; Pillow is not installed.
    """
    require_pictures()  # before anything is looked through
    files: list[str] = []
    passed: Counter[str] = Counter()
    for path in paths:
        if path.is_dir():
            below = walk.files_below(path)
            if not below.files:
                raise UsageError(f"'{path}' has no image", walk.told(below.passed))
            files += below.files
            passed += below.passed
        elif path.is_file():
            files.append(str(path))
        elif path.exists():
            raise UsageError(f"'{path}' is neither a file nor a folder", hint="give image files, or folders of them")
        else:
            raise UsageError(f"there is no '{path}'", hint="give image files, or folders of them")
    return files, walk.told(passed)


def pictures(paths: Sequence[Path]) -> tuple[int, Iterable[Picture], str]:
    """How many images there are in files, folders and stores, the images in this order, and what was passed over.

    Raises:
        UsageError: as `image_files`.
        StoreError, IntegrityError: a store cannot be read.
    """
    count, found, notes = 0, list[Iterable[Picture]](), list[str]()
    for in_stores, some in groupby(paths, is_store):
        if in_stores:
            for number, stored in map(images_of, some):
                count, found = count + number, [*found, stored]
        else:
            files, passed = image_files(list(some))
            count, found, notes = count + len(files), [*found, files], notes + [passed] * bool(passed)
    return count, chain.from_iterable(found), "; ".join(notes)


@dataclass
class Failed:
    """An image file that could not be read, in the place of its prediction.

    Attributes:
        path: as of a `Prediction`.
        why: one line.
    """

    path: str
    why: str


def predict_all(
    trained: Trained,
    images: Iterable[Picture],
    device: str,
    max_pixels: int | None = None,
    scorer: Scorer | None = None,
) -> Iterator[Prediction | Failed]:
    """Predictions in the images' order; a few batches are in memory at a time.

    Args:
        trained: the network.
        images: files, images of stores, Pillow images, or arrays uint8 [H, W, 3].
        device: "cpu" or "cuda".
        max_pixels: of the largest picture that is decoded; it holds for the whole process.
        scorer: scores foreign images.

    Raises:
        UsageError: an array of another kind; Pillow is needed and not installed.
    """
    todo = iter(images)
    if max_pixels is not None:
        require_pictures()
        from stores.images import picture

        picture.allow(max_pixels)
    model = trained.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with thread_pool() as pool:
        size = max(1, min(BATCH, BATCH_BYTES // (3 * trained.image_size[0] * trained.image_size[1])))
        while batch := list(islice(todo, size)):
            read = list(pool.map(lambda image: _pixels_or_error(image, trained), batch))
            pixels = [one for one in read if not isinstance(one, IntegrityError)]
            found = iter(_classified(model, np.stack(pixels), device, scorer) if pixels else ())
            for image, one in zip(batch, read, strict=True):
                name = _name(image)
                if isinstance(one, IntegrityError):
                    yield Failed(name, "; ".join(part for part in (one.why or one.what, one.hint) if part))
                    continue
                row, score = next(found)
                best = int(row.argmax())
                yield Prediction(name, trained.class_names[best], float(row[best]), score, row)


def noting(said: Iterable[Prediction | Failed], failed: list[str]) -> Iterator[Prediction | Failed]:
    """The same; a line about each failure is appended to `failed`."""
    for one in said:
        if isinstance(one, Failed):
            failed.append(f"'{one.path}': {one.why}")
        yield one


def _classified(
    model: nn.Module, pixels: np.ndarray, device: str, scorer: Scorer | None
) -> Iterator[tuple[np.ndarray, float | None]]:
    """Probabilities float64 [K] and the foreign score, if there is one, of each of some images."""
    with torch.no_grad():
        said = model(scale(torch.from_numpy(pixels).to(device)), heads=("features", "classes"))
    probs, scores = probabilities(said["classes"]), list[float | None]([None] * len(pixels))
    if scorer is not None:
        scores = scorer.score(said["features"].double().cpu().numpy()).tolist()
    return zip(probs, scores, strict=True)


def _pixels_or_error(image: Picture, trained: Trained) -> np.ndarray | IntegrityError:
    try:
        return pixels_of(image, trained)
    except IntegrityError as error:
        return error


def predict(
    trained: Trained,
    images: Iterable[Picture],
    device: str,
    max_pixels: int | None = None,
    scorer: Scorer | None = None,
) -> Iterator[Prediction]:
    """As `predict_all`, for callers who need every image.

    Raises:
        IntegrityError: a file that is no whole image; names it.
        UsageError: an array of another kind; Pillow is needed and not installed.
    """
    for said in predict_all(trained, images, device, max_pixels, scorer):
        if isinstance(said, Failed):
            raise IntegrityError(f"broken image '{said.path}'", said.why)
        yield said


def _name(image: Picture) -> str:
    if isinstance(image, Stored):
        return image.name
    return str(image) if isinstance(image, str | Path) else ""


def pixels_of(image: Picture, trained: Trained) -> np.ndarray:
    """uint8 [H, W, 3] of the network's size: what stage 1 would have made of the image.

    Raises:
        IntegrityError, UsageError: as `predict`.
    """
    if isinstance(image, Stored):
        image = image.pixels
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            what = f"an array of {image.dtype} {list(image.shape)} is no image"
            raise UsageError(what, hint="an image is uint8 [H, W, 3], RGB, 0 to 255")
        if image.shape[:2] == trained.image_size:
            return image
    require_pictures()
    from stores.images import picture

    if isinstance(image, str | Path):
        return picture.load(str(image), trained.image_size, trained.range)
    return picture.fitted(image, trained.image_size, trained.range)


def as_csv(predictions: Iterable[Prediction | Failed], class_names: Sequence[str], scored: bool) -> Iterator[str]:
    """A header line, then path, class, confidence, ood_score, every class's probability `p_NAME`, and error.

    A file that could not be read has a path and an error, and nothing else. Where nothing scores foreign images,
    `one_minus_confidence` stands in the place of `ood_score`.
    For people and spreadsheets: what does not print is an escape, what a spreadsheet would compute has an apostrophe
    before it. `as_jsonl` has the names themselves.
    """
    yield csv_line(["path", "class", "confidence", SCORE[scored], *(f"p_{name}" for name in class_names), "error"])
    for said in predictions:
        if isinstance(said, Failed):
            yield csv_line([said.path, *[""] * (3 + len(class_names)), said.why])
            continue
        numbers = (said.confidence, said.foreignness, *said.probabilities.tolist())
        yield csv_line([said.path, said.class_name, *(f"{number:.6f}" for number in numbers), ""])


def as_jsonl(predictions: Iterable[Prediction | Failed], class_names: Sequence[str], scored: bool) -> Iterator[str]:
    """An object a line: path, class, confidence, ood_score (or one_minus_confidence), probabilities {name: p}.

    Of a file that could not be read: path and error.
    """
    for said in predictions:
        if isinstance(said, Failed):
            yield json.dumps({"path": said.path, "error": said.why}) + "\n"
            continue
        line = {
            "path": said.path,
            "class": said.class_name,
            "confidence": round(said.confidence, 6),
            SCORE[scored]: round(said.foreignness, 6),
            "probabilities": {
                name: round(p, 6) for name, p in zip(class_names, said.probabilities.tolist(), strict=True)
            },
        }
        yield json.dumps(line) + "\n"


Writer = Callable[[Iterable[Prediction | Failed], Sequence[str], bool], Iterator[str]]
FORMATS: dict[str, Writer] = {"csv": as_csv, "jsonl": as_jsonl}


def writer(name: str) -> Writer:
    """The function that makes a format's lines.

    Raises:
        UsageError: no format has this name.
    """
    if name not in FORMATS:
        raise UsageError(f"unknown format '{name}'", hint=suggest(name, FORMATS))
    return FORMATS[name]


def require_pictures() -> None:
    """Raises UsageError if a package that reads pictures is not installed."""
    try:
        importlib.import_module("stores.images.picture")
    except ModuleNotFoundError as missing:
        raise UsageError(
            f"reading pictures needs the Python package '{missing.name}'",
            "it is not installed",
            install("predict"),
        ) from None
