"""Which unlabelled images of a run's store belong to no training class: a list, a page to look at, a cleaned split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from networks import hardware
from stores import SplitStore
from stores.errors import StoreError, UsageError
from stores.format import names
from stores.storage.location import Location
from stores.system import aside
from stores.writer import write_split
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.foreign import Judged, judge
from trainer.evaluation.predictor import PoolPredictor
from trainer.functional.foreign import share_told
from trainer.inference.reevaluate import opened, require_fitting
from trainer.report import foreign_sheet
from trainer.runs import weights

COLUMNS = ("rank", "row", "file", "class", "confidence", "score", "foreign")
KEPT = ("spec", "protocol", "seed", "class_names", "class_map", "labeled_in_unlabeled", "counts", "dataset")


@dataclass(frozen=True)
class Found:
    """Unlabelled images, those that look most foreign first.

    Attributes:
        run: the run's folder.
        store: the split store.
        rows: int64 [m], rows of the dataset store's training images.
        judged: what was found of them, in another order: image i is `judged`'s `order[i]`.
        order: int64 [m].
    """

    run: Path
    store: SplitStore
    rows: np.ndarray
    judged: Judged
    order: np.ndarray

    def files(self) -> list[str]:
        """The file that each image came from; "" where the store does not know."""
        known = self.store.dataset.train_files
        return [""] * len(self.rows) if known is None else [known[row] for row in self.rows]

    def table(self) -> list[dict[str, Any]]:
        """A line for each image; keys as in COLUMNS."""
        one, classes = self.judged, self.store.class_names
        guesses, confidence = one.seen.guesses, one.confidence
        return [
            {
                "rank": rank + 1,
                "row": int(row),
                "file": file,
                "class": classes[guesses[i]],
                "confidence": round(float(confidence[i]), 4),
                "score": round(float(one.score[i]), 4),
                "foreign": bool(one.foreign[i]),
            }
            for rank, (i, row, file) in enumerate(zip(self.order, self.rows, self.files(), strict=True))
        ]

    def summary(self) -> dict[str, Any]:
        """Numbers of images, the share that is foreign and its interval, in [0, 1], and what the scores are from.

        The share is None where the labels cannot tell.
        """
        one = self.judged
        return {
            "run": str(self.run),
            "store": str(self.store.path),
            "images": len(self.rows),
            "foreign": int(one.foreign.sum()),
            "share": one.share,
            "interval": one.interval,
            "features": one.features,
        }

    def sentence(self) -> str:
        """What was found, in one sentence."""
        return share_told(self.judged.share, self.judged.interval, f"the {len(self.rows):,}")


def find(path: Path, store_path: str | None, device: str) -> Found:
    """Judge the unlabelled images of a run's store with the run's averaged weights.

    Args:
        path: the run's folder.
        store_path: another split store of the same classes; None: the run's own.
        device: "auto", "cpu" or "cuda".

    Raises:
        StoreError: the store has no unlabelled or no labelled images, or is not one for this run.
        UsageError: the run's own store is in object storage and was not named.
    """
    run, store = opened(path, store_path)
    kind = hardware.usable(device)
    trained = weights.of_run(run, averaged=True)
    require_fitting(trained, store)
    bf16 = run.config["run"]["precision"] == "bf16" and hardware.multiplies_bf16(kind)
    model = trained.model.to(kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
    evaluator = Evaluator(store, model, torch.device(kind), bf16)
    judged = judge(PoolPredictor(store, store.unlabeled, evaluator, 0))
    if judged is None:
        raise StoreError(f"'{store.path}' has no unlabelled images, or no labelled ones to compare them with")
    order = np.argsort(-judged.score, kind="stable")
    return Found(path, store, store.unlabeled[judged.seen.positions[order]], judged, order)


def write_sheet(found: Found, output: Path) -> None:
    """Write a page of the most and the least foreign images and those at the border.

    Raises:
        UsageError: its folder does not exist.
    """
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"'{output}' cannot be written", "it must be a file in a folder that exists")
    one, rows = found.judged, found.table()
    kinds = foreign_sheet.chosen(one.score[found.order], one.foreign[found.order])
    shown = {}
    for heading, places in kinds.items():
        images = found.store.dataset.train_images.read(found.rows[places])
        lines = [(rows[i]["file"] or f"row {rows[i]['row']}", _below(rows[i])) for i in places.tolist()]
        shown[heading] = [(image, *line) for image, line in zip(images, lines, strict=True)]
    said = [
        f"{found.sentence()[0].upper()}{found.sentence()[1:]}.",
        f"Scores from {one.features} features of the run {found.run}.",
    ]
    with aside.output(output) as out:
        out.write(foreign_sheet.sheet(f"Foreign images of {found.store.name}", said, shown).encode())


def _below(row: dict[str, Any]) -> str:
    kind = "foreign" if row["foreign"] else row["class"]
    return f"{row['score']:.2f} · {kind}"


def write_cleaned(found: Found, name: str) -> Location:
    """Write a split store without the foreign images, beside the run's: index arrays only.

    Raises:
        StoreError: there is another store of this name.
        UsageError: the name cannot be a folder's; nothing would be left.
    """
    store = found.store
    dropped = found.rows[found.judged.foreign[found.order]]
    unlabeled = np.setdiff1d(store.unlabeled, dropped, assume_unique=False)
    if not len(unlabeled):
        raise UsageError(f"no unlabelled image would be left in '{name}'", "all of them look foreign")
    content = {key: store.manifest[key] for key in KEPT if key in store.manifest}
    cleaned = {"split": store.fingerprint, "dropped": len(dropped), "run": found.run.name}
    content |= {
        "spec": {**store.manifest["spec"], "cleaned": cleaned},
        "gamma": 0.0,
        "counts": {**store.manifest["counts"], "unlabeled": len(unlabeled)},
    }
    path = store.path.parent / names.require(name, "--split")
    arrays = {"labeled": store.labeled, "unlabeled": unlabeled, "valid": store.valid, "test": store.test}
    write_split(path, content, arrays)
    return path
