"""Images that say something about a run: confident mistakes, the least confident guesses, the most foreign-looking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stores import DatasetStore
from stores.errors import RealMixError
from trainer.evaluation.outcomes import UNKNOWN
from trainer.report.markup import Markup, el
from trainer.report.records import Record
from trainer.report.samples import open_split, photo

EACH = 12  # images of a kind


def shown(record: Record) -> list[Markup]:
    """A heading and images for each kind there is; nothing if the store is not there."""
    store, said = open_split(record), record.outcomes
    if store is None or said is None:
        return []
    names = record.store["class_names"]
    wrong = np.flatnonzero(said.test_guesses != said.test_labels)
    wrong = wrong[np.argsort(-said.test_confidences[wrong], kind="stable")][:EACH]
    unsure = np.argsort(said.pool_confidences, kind="stable")[:EACH]
    foreign = np.argsort(-said.pool_scores, kind="stable")[:EACH]
    test = [
        (f"{names[said.test_labels[i]]} → {names[said.test_guesses[i]]}", f"confidence {said.test_confidences[i]:.2f}")
        for i in wrong
    ]
    kinds = [_kind("Wrong and most confident: test images", store.dataset, True, said.test_rows[wrong], test)]
    for heading, chosen, what in (
        ("Least confident: unlabelled images", unsure, "confidence {0:.2f}"),
        ("Most foreign-looking: unlabelled images", foreign, "score {1:.2f}"),
    ):
        captions = [
            (
                f"{_true(names, said.pool_labels[i])} → {names[said.pool_guesses[i]]}",
                what.format(said.pool_confidences[i], said.pool_scores[i]),
            )
            for i in chosen
        ]
        kinds.append(_kind(heading, store.dataset, False, said.pool_rows[chosen], captions))
    note = el("p", "Below each image its true class → the guess.", class_="note")
    found = [kind for kind in kinds if kind is not None]
    return [note, *found] if found else []


def _true(names: Sequence[str], label: int) -> str:
    return "?" if label == UNKNOWN else "foreign" if label < 0 else names[label]


def _kind(
    heading: str, dataset: DatasetStore, of_test: bool, rows: np.ndarray, captions: Sequence[tuple[str, str]]
) -> Markup | None:
    """A heading and its images; None without images."""
    if not len(rows):
        return None
    array, files = (dataset.test_images, dataset.test_files) if of_test else (dataset.train_images, dataset.train_files)
    try:
        images = array.read(rows)
    except (RealMixError, IndexError) as error:
        return el("p", f"The store's images cannot be read: {error}.", class_="note")
    figures = [
        photo(image, name, below, f"row {row}" if files is None else files[row])
        for image, (name, below), row in zip(images, captions, rows.tolist(), strict=True)
    ]
    return el("div", el("h4", heading), el("div", figures, class_="photos named"))
