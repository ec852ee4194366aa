"""What looks wrong with the labelled images of a store: labels that the other images contradict, images there twice.

Both come from features alone, those of embeddings or of a run's network. What class an image is of, walks to the other
labels say (`trainer.functional.walks`), which have not seen its own one; confident learning doubts labels by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from networks import hardware
from stores import SplitStore
from stores.errors import StoreError, UsageError
from stores.system import aside
from trainer.data.embedded import EmbeddedSplit
from trainer.data.split import open_split
from trainer.evaluation import foreign
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.predictor import PoolPredictor
from trainer.functional import label_errors
from trainer.functional.walks import Walks
from trainer.inference.reevaluate import opened, require_fitting
from trainer.report import foreign_sheet
from trainer.runs import weights

COLUMNS = ("kind", "row", "file", "class", "score", "probably", "twin", "twin_file", "twin_class")
TOGETHER, OTHERS = 2000, 2000  # labelled images, and others, that are walked among at a time, at most
NEAR = 0.35  # of the median distance to the nearest neighbour, see `label_errors.duplicates`


@dataclass(frozen=True)
class Suspects:
    """What looks wrong.

    Attributes:
        store: the split store.
        rows: int64 [n], labelled images: rows of the dataset store's training images.
        wrong: (position in `rows`, class that it probably is, by how much more probably), the most certain first.
        twins: (labelled row, other row, certainty in (0, 1]) of pairs, the most alike first.
        features: "frozen" or "trained".
    """

    store: SplitStore
    rows: np.ndarray
    wrong: list[tuple[int, int, float]]
    twins: list[tuple[int, int, float]]
    features: str

    def table(self) -> list[dict[str, Any]]:
        """A line for each suspected label, then for each pair; keys as in COLUMNS, "" where one does not apply."""
        nothing: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        labels = [
            {**nothing, **self._image(int(self.rows[i])), "kind": "label", "score": round(more, 4)}
            | {"probably": self.store.class_names[label]}
            for i, label, more in self.wrong
        ]
        pairs = []
        for row, twin, alike in self.twins:
            other = self._image(twin)
            about = {"twin": twin, "twin_file": other["file"], "twin_class": other["class"]}
            pairs.append({**nothing, **self._image(row), "kind": "duplicate", "score": round(alike, 4), **about})
        return labels + pairs

    def summary(self) -> dict[str, Any]:
        """Numbers of labelled images, suspected labels and pairs, by how they are labelled."""
        return {
            "store": str(self.store.path),
            "labeled": len(self.rows),
            "labels": len(self.wrong),
            "duplicates": len(self.twins),
            "contradicting": sum(len({self._label(row) for row in pair[:2]} - {""}) == 2 for pair in self.twins),
            "features": self.features,
        }

    def sentence(self) -> str:
        """What was found, in one sentence."""
        found = self.summary()
        said = f"labelled images: {found['labeled']:,}; labels that look wrong: {found['labels']:,}; "
        said += f"pairs that look like the same picture: {found['duplicates']:,}"
        return said + (f", with different labels: {found['contradicting']:,}" if found["contradicting"] else "")

    @cached_property
    def _labeled(self) -> frozenset[int]:
        return frozenset(self.rows.tolist())

    def _label(self, row: int) -> str:
        """Name of an image's class; "" of an unlabelled one."""
        return self.store.class_names[self.store.train_labels[row]] if row in self._labeled else ""

    def _image(self, row: int) -> dict[str, Any]:
        files = self.store.dataset.train_files
        return {"row": row, "file": "" if files is None else files[row], "class": self._label(row)}


def audit(path: Path, store_path: str | None, embeddings: str | None, device: str) -> Suspects:
    """Look through the labelled images of a store.

    Args:
        path: a run's folder, or a split store with `embeddings`.
        store_path: of a run, another split store of the same classes; None: its own.
        embeddings: name of those whose features are compared.
        device: "auto", "cpu" or "cuda", for the network of a run.

    Raises:
        StoreError: it is neither, or has fewer than two labelled classes, or is not one for this run.
        UsageError: embeddings are not named, or a run's own store is in object storage and was not named.
    """
    if (path / "config.json").is_file():
        if embeddings is not None:
            raise UsageError("--embeddings goes with a store", "a run has features of its own")
        store, x, u, features = _of_run(path, store_path, device)
    else:
        if store_path is not None:
            raise UsageError("--store goes with a run", f"'{path}' is a store itself")
        if embeddings is None:
            raise UsageError(
                "features are needed to compare images by", "a store has none", "--embeddings NAME, or name a run"
            )
        store, features = open_split(str(path), embeddings), "frozen"
        assert isinstance(store, EmbeddedSplit)
        others = np.setdiff1d(store.unlabeled, store.labeled)
        x, u = (
            (rows, store.embeddings.train.read(rows).astype(np.float64)) for rows in (np.unique(store.labeled), others)
        )
    (rows, x_features), (others, u_features) = x, u
    labels = store.train_labels[rows]
    if len(np.unique(labels)) < 2:
        raise StoreError(f"'{store.path}' has labelled images of fewer than two classes")
    probs = _guesses(x_features, labels, u_features, store.num_classes)
    found, classes = label_errors.suspects(probs, labels)
    more = probs[found, classes] - probs[found, labels[found]]
    wrong = list(zip(found.tolist(), classes.tolist(), more.tolist(), strict=True))
    every, all_rows = np.concatenate([x_features, u_features]), np.concatenate([rows, others])
    pairs = label_errors.duplicates(x_features, rows, every, all_rows, NEAR)
    known = set(rows.tolist())
    twins = [(*((one, other) if one in known else (other, one)), 1 - apart / NEAR) for one, other, apart in pairs]
    return Suspects(store, rows, wrong, twins, features)


Images = tuple[np.ndarray, np.ndarray]


def _of_run(path: Path, store_path: str | None, device: str) -> tuple[SplitStore, Images, Images, str]:
    """The store, its labelled and its other unlabelled images as rows and features, and what kind of features."""
    run, store = opened(path, store_path)
    kind = hardware.usable(device)
    trained = weights.of_run(run)
    require_fitting(trained, store)
    model = trained.model.to(kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
    predictor = PoolPredictor(store, store.unlabeled, Evaluator(store, model, torch.device(kind), False), 0)
    x, u = foreign.labeled(predictor), foreign.unlabeled(predictor)
    of_x, of_u = (store.labeled[x.positions], x.features), (store.unlabeled[u.positions], u.features)
    return store, of_x, of_u, "frozen" if predictor.frozen else "trained"


def _guesses(x: np.ndarray, y: np.ndarray, u: np.ndarray, num_classes: int) -> np.ndarray:
    """Probabilities of the labelled images by the other labels, float64 [n, K]; many are walked among in parts."""
    probs = np.zeros((len(x), num_classes))
    some = u[np.linspace(0, len(u) - 1, min(len(u), OTHERS)).astype(np.int64)]
    parts = -(-len(x) // TOGETHER)
    order = np.random.default_rng(0).permutation(len(x))
    for part in range(parts):
        rows = order[part::parts]
        guesses = Walks(x[rows], y[rows], some).guesses()
        probs[rows, : guesses.shape[1]] = guesses
    return probs


def write_sheet(found: Suspects, output: Path) -> None:
    """Write a page of the most suspicious labels and pairs.

    Raises:
        UsageError: its folder does not exist.
    """
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"'{output}' cannot be written", "it must be a file in a folder that exists")
    rows = found.table()
    labels = [row for row in rows if row["kind"] == "label"][: foreign_sheet.EACH]
    pairs = [row for row in rows if row["kind"] == "duplicate"][: foreign_sheet.EACH // 2]
    kinds = {
        "Labels that look wrong": [
            _shown(row["row"], row["file"], f"{row['class']}, or {row['probably']}?") for row in labels
        ],
        "Pairs that look like the same picture": [
            _shown(row[name], row[f"{prefix}file"], row[f"{prefix}class"] or "unlabelled")
            for row in pairs
            for name, prefix in (("row", ""), ("twin", "twin_"))
        ],
    }
    with_images = {}
    for heading, images in kinds.items():
        if images:
            pixels = found.store.dataset.train_images.read(np.array([row for row, *_ in images]))
            with_images[heading] = [(image, *said[1:]) for image, said in zip(pixels, images, strict=True)]
    said = [f"{found.sentence()[0].upper()}{found.sentence()[1:]}.", f"By {found.features} features."]
    with aside.output(output) as out:
        out.write(foreign_sheet.sheet(f"Labelled images of {found.store.name}", said, with_images, "audit").encode())


def _shown(row: int, file: str, below: str) -> tuple[int, str, str]:
    return row, file or f"row {row}", below
