"""Facts about a store, printed by `info` and at the end of a build."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.sources import Source
from pipeline.splits.split_stores import OWN
from stores import DatasetStore, SplitStore
from stores.embeddings import EmbeddingStore
from stores.errors import UsageError
from stores.format import file_names
from stores.system.text import csv_line, print_table, spelled

NAMED = 20  # classes that are named with their counts


def told(source: Source) -> tuple[str, ...]:
    """The notes about a source; of one's own images also what they were taken for: classes, counts, size."""
    if source.name not in ("folder", "arrays"):
        return source.notes
    labels, (count, height, width, _) = source.train.labels, source.train.images.shape
    each = np.bincount(labels[labels >= 0], minlength=len(source.class_names)).tolist()
    named = [f"{name} {n:,}" for name, n in zip(spelled(source.class_names[:NAMED]), each, strict=False)]
    more = f", … (from {min(each):,} to {max(each):,} a class)" if len(each) > NAMED else ""
    held = ", held out of the labelled ones" if "held_out" in source.origin else ""
    unlabeled = f"{count - sum(each):,}" if count > sum(each) else "no"
    return (
        f"{sum(each):,} labelled images of {len(each)} classes: {', '.join(named)}{more}",
        f"{unlabeled} unlabelled images; {len(source.test.labels):,} test images{held}; {width}×{height} pixels each",
        *source.notes,
    )


def held_out(store: DatasetStore, splits: Sequence[SplitStore]) -> str:
    """What there is to choose settings by, of one's own images; "" of others."""
    if store.manifest["source"] not in OWN or not splits:
        return ""
    if count := len(splits[0].valid):
        return f"validation: {count:,} labelled images of each split, to choose settings by"
    cross = shlex.join(["realmix-data", "split", str(store.path), "--folds", "5"])
    return f"validation: none, a class has few labels; `{cross}` makes splits for cross-validation"


def dataset_facts(store: DatasetStore) -> dict[str, Any]:
    """What `info` says of a dataset store."""
    files = store.manifest["files"]
    kept = "copies/" if store.has_zarr_copies else ("copies/", "copies.beton")
    formats = ["zarr"] * store.has_zarr_copies + ["ffcv"] * ("ffcv" in store.manifest)
    copies = sum(f["bytes"] for key, f in files.items() if key.startswith(kept))
    return {
        "store": str(store.path),
        "kind": "dataset",
        "images": store.num_images,
        "test_images": len(store.test_labels),
        "size": "×".join(map(str, store.image_size)),
        "copies": store.num_copies,
        "copies_kept_as": formats,
        "recipe": store.manifest["spec"]["recipe"]["name"],
        "seed": store.manifest["spec"]["seed"],
        "classes": store.class_names,
        "file_names": f"{file_names.TRAIN}/zarr.json" in files,
        "left_out_broken": store.manifest["spec"]["source"].get("broken", []),
        "weak": store.weak,
        "bytes": sum(f["bytes"] for f in files.values()),
        "bytes_per_copy": round(copies / max(1, store.num_images * store.num_copies), 1),
        "files": len(files),
        "fingerprint": store.fingerprint,
    }


def split_facts(store: SplitStore) -> dict[str, Any]:
    """What `info` says of a split store."""
    of_pool = store.train_labels[store.unlabeled]
    return {
        "store": str(store.path),
        "kind": "split",
        "dataset": store.dataset.name,
        "protocol": store.protocol,
        "seed": store.seed,
        "classes": store.class_names,
        "labeled": len(store.labeled),
        "labeled_per_class": np.bincount(store.train_labels[store.labeled], minlength=store.num_classes).tolist(),
        "unlabeled": len(store.unlabeled),
        "copies": store.dataset.num_copies,
        "unlabeled_of_other_classes_or_unknown": int((of_pool < 0).sum()),
        "valid": len(store.valid),
        "test": len(store.test),
        "gamma": store.gamma,
        "labeled_in_unlabeled": store.manifest["labeled_in_unlabeled"],
        "fingerprint": store.fingerprint,
        "dataset_fingerprint": store.dataset.fingerprint,
    }


def file_lines(store: DatasetStore | SplitStore) -> Iterator[str]:
    """CSV: part, row, class and file of each image; parts are train and test, of a split store those of the split.

    For people and spreadsheets: what does not print is an escape, what a spreadsheet would compute has an apostrophe.

    Raises:
        UsageError: the store does not know which files its images came from.
    """
    dataset = store if isinstance(store, DatasetStore) else store.dataset
    train, test = dataset.train_files, dataset.test_files
    if train is None or test is None:
        why = "its images were no files of their own, or an older version built it"
        raise UsageError(f"'{dataset.path}' does not say which files its images came from", why)
    parts = {"train": np.arange(len(train)), "test": np.arange(len(test))}
    if isinstance(store, SplitStore):
        parts = {name: getattr(store, name) for name in ("labeled", "unlabeled", "valid", "test")}
    yield "part,row,class,file\n"
    for part, rows in parts.items():
        files, labels = (test, dataset.test_labels) if part == "test" else (train, dataset.train_labels)
        for row in rows.tolist():
            class_ = dataset.class_names[labels[row]] if labels[row] >= 0 else ""
            yield csv_line([part, str(row), class_, files[row]])


def embedding_facts(store: EmbeddingStore) -> dict[str, Any]:
    """What `info` says of embeddings."""
    content, files = store.manifest, store.manifest["files"]
    images, strong = content["num_images"], content["spec"]["strong"]
    return {
        "store": str(store.path),
        "kind": "embeddings",
        "dataset": content["dataset"]["name"],
        "name": store.name,
        "backbone": store.backbone,
        "weights": content["weights"],
        "weights_sha256": store.weights_sha256,
        "size": store.size,
        "preprocessing": content["spec"]["preprocessing"],
        "features": store.num_features,
        "images": images,
        "test_images": content["num_test"],
        "copies": store.num_copies,
        "strong_copies": store.num_strong,
        "strong_recipe": None if strong is None else strong["recipe"].get("name"),
        "weak": content["spec"]["weak"],
        "embeddings": images * (1 + store.num_copies + store.num_strong) + content["num_test"],
        **content["arithmetic"],
        "versions": content["versions"],
        "bytes": sum(f["bytes"] for f in files.values()),
        "files": len(files),
        "fingerprint": store.fingerprint,
        "dataset_fingerprint": content["spec"]["dataset"],
    }


def show(facts: dict[str, Any]) -> None:
    """Print facts as a table."""
    print_table([(field.replace("_", " "), _shown(field, value)) for field, value in facts.items()])


def _shown(field: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(spelled(map(str, value)) if field == "classes" else map(str, value))
    if isinstance(value, dict):
        return json.dumps(value)
    return size(value) if field == "bytes" else str(value)


def size(num_bytes: float) -> str:
    """A number of bytes with its unit: "131 bytes", "518.0 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError
