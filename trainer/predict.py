"""What a trained network says of image files: class, probabilities, and how foreign each image looks.

Files are read as stage 1 reads them: any size, format and mode, cropped to the aspect of the training images and
resized to their size. The out-of-distribution score is 1 − the largest probability: 0 = sure, 1 − 1/K = no idea.
Nothing is written here.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from stores.errors import UsageError, suggest
from stores.threads import thread_pool
from trainer.assess import probabilities
from trainer.augment import scale
from trainer.scores import ood_score
from trainer.weights import Trained

BATCH = 256


@dataclass
class Prediction:
    """One image's.

    Attributes:
        path: the file, as it was named or found.
        class_name: of the largest probability, which is `confidence`.
        ood_score: 1 − confidence.
        probabilities: float64 [K], in the order of the network's classes.
    """

    path: str
    class_name: str
    confidence: float
    ood_score: float
    probabilities: np.ndarray


def image_files(paths: Sequence[Path]) -> list[str]:
    """The files themselves, and every image below the folders, in the order of `paths`.

    Raises:
        UsageError: a path that does not exist, a folder without images, Pillow is not installed.
    """
    files_below = _picture().files_below
    files: list[str] = []
    for path in paths:
        if path.is_dir():
            below = files_below(path)
            if not below:
                raise UsageError(f"'{path}' has no image")
            files += below
        elif path.exists():
            files.append(str(path))
        else:
            raise UsageError(f"there is no '{path}'", hint="give image files, or folders of them")
    return files


def predict(trained: Trained, files: Iterable[str], device: str) -> Iterator[Prediction]:
    """Predictions in the files' order; a few batches are in memory at a time.

    Args:
        device: "cpu" or "cuda".

    Raises:
        IntegrityError: a file that is no whole image; names it.
    """
    load, todo = _picture().load, iter(files)
    model = trained.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with thread_pool() as pool:
        while batch := list(islice(todo, BATCH)):
            images = np.stack(list(pool.map(lambda file: load(file, trained.image_size), batch)))
            with torch.no_grad():
                probs = probabilities(model(scale(torch.from_numpy(images).to(device))))
            for file, row, score in zip(batch, probs, ood_score(probs).tolist(), strict=True):
                best = int(row.argmax())
                yield Prediction(file, trained.class_names[best], float(row[best]), score, row)


def as_csv(predictions: Iterable[Prediction], class_names: Sequence[str]) -> Iterator[str]:
    """A header line, then path, class, confidence, ood_score and every class's probability `p_NAME`."""
    yield _row(["path", "class", "confidence", "ood_score", *(f"p_{name}" for name in class_names)])
    for said in predictions:
        numbers = (said.confidence, said.ood_score, *said.probabilities.tolist())
        yield _row([said.path, said.class_name, *(f"{number:.6f}" for number in numbers)])


def as_jsonl(predictions: Iterable[Prediction], class_names: Sequence[str]) -> Iterator[str]:
    """An object a line: path, class, confidence, ood_score, probabilities {name: p}."""
    for said in predictions:
        line = {
            "path": said.path,
            "class": said.class_name,
            "confidence": round(said.confidence, 6),
            "ood_score": round(said.ood_score, 6),
            "probabilities": {
                name: round(p, 6) for name, p in zip(class_names, said.probabilities.tolist(), strict=True)
            },
        }
        yield json.dumps(line) + "\n"


Writer = Callable[[Iterable[Prediction], Sequence[str]], Iterator[str]]
FORMATS: dict[str, Writer] = {"csv": as_csv, "jsonl": as_jsonl}


def writer(name: str) -> Writer:
    """The function that makes a format's lines.

    Raises:
        UsageError: no format has this name.
    """
    if name not in FORMATS:
        raise UsageError(f"unknown format '{name}'", hint=suggest(name, FORMATS))
    return FORMATS[name]


def _row(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _picture() -> ModuleType:
    try:
        return importlib.import_module("stores.picture")
    except ImportError:
        raise UsageError(
            "reading pictures needs the package Pillow", "it is not installed", "pip install 'realmix[predict]'"
        ) from None
