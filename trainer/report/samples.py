"""Images beside their copies, and the recipe, from the store that a run was trained from, if it is still there."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from stores import DatasetStore, SplitStore, open_store
from stores.errors import RealMixError
from stores.storage.bucket import BucketPath
from stores.storage.location import locate
from trainer.report.markup import Markup, el
from trainer.report.records import Record
from trainer.runs import png

ROWS, COPIES = 8, 8
BYTES = 1_200_000  # most bytes of pixels on a page
SIDE = 96  # pixels; larger images are scaled down


def open_split(record: Record) -> SplitStore | None:
    """The run's store; None if it is gone, damaged or replaced, or in object storage without `Record.remote`."""
    try:
        place = locate(record.store["path"])
        if isinstance(place, BucketPath) and not record.remote:
            return None
        store = open_store(place)
    except (RealMixError, OSError):
        return None
    if not isinstance(store, SplitStore):
        return None
    said = record.store
    if said.get("embedding") is None:
        return store if store.fingerprint == said["fingerprint"] else None
    # a run's fingerprint is of split and embeddings then
    counts = {name: len(getattr(store, name)) for name in said["counts"]}
    found = (store.dataset.fingerprint, store.protocol, store.seed, counts)
    same = found == (said["dataset_fingerprint"], said["protocol"], said["split_seed"], said["counts"])
    return store if same else None


def recipe(record: Record) -> str | None:
    """Name of the recipe and seed of the copies."""
    store = open_split(record)
    if store is None or not store.dataset.num_copies:
        return None
    spec: dict[str, Any] = store.dataset.manifest["spec"]
    return f"{spec['recipe']['name']}, seed {spec['seed']}"


def sheet(record: Record) -> Markup:
    """Images and their first copies, one image per row: labelled ones of each class in turn, then unlabelled ones."""
    store = open_split(record)
    if store is None:
        where = str(record.store["path"])
        said = f"The store is not at {where} any more, so its images are not shown."
        if "://" in where and not record.remote:  # a run may name any address, so nothing is contacted by default
            said = (
                f"The store is at {where}, which was not contacted; `realmix-train report --remote` reads its images."
            )
        return el("p", said, class_="note")
    dataset = store.dataset
    copies = min(COPIES, dataset.num_copies)
    row_bytes = (1 + copies) * int(np.prod([min(SIDE, side) for side in dataset.image_size])) * 3
    rows = _pick(store, max(2, min(ROWS, BYTES // row_bytes)))
    try:
        strips = _strips(dataset, rows, copies)
    except RealMixError as error:
        return el("p", f"The store's images cannot be read: {error.what}.", class_="note")
    labeled = set(store.labeled.tolist())
    body = []
    for row, strip in zip(rows.tolist(), strips, strict=True):
        label = dataset.train_labels[row]
        name = dataset.class_names[label] if label >= 0 else "no label"
        foreign = store.protocol == "mismatch" and store.train_labels[row] < 0
        kind = "labelled" if row in labeled else "foreign" if foreign else "unlabelled"
        images = [
            el(
                "img",
                src=data_uri(image),
                alt=f"{name}, copy {i}" if i else name,
                width=image.shape[1],
                height=image.shape[0],
            )
            for i, image in enumerate(strip)
        ]
        body.append([el("span", name, el("small", kind), class_="who"), images])
    height, width = dataset.image_size
    said = f"{width}×{height} pixels. Left the image, then its first {copies} of {dataset.num_copies} copies."
    if not copies:
        said = f"{width}×{height} pixels. The store holds no copies."
    return el("div", el("p", said, class_="note"), el("div", body, class_="sheet", style=f"--n:{1 + copies}"))


def _pick(store: SplitStore, count: int) -> np.ndarray:
    """Rows, int64 [≤ count]: half of them labelled, the others unlabelled, of the classes in turn."""
    half = min((count + 1) // 2, len(store.labeled)) if len(store.unlabeled) else count
    labels = store.dataset.train_labels
    first = _in_turn(np.sort(store.labeled), labels)[:half]
    return np.concatenate([first, _in_turn(np.sort(store.unlabeled)[:10_000], labels)[: count - len(first)]])


def _in_turn(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows in another order: the first of each class, then the second of each, and so on."""
    of = labels[rows]
    turn = np.empty(len(rows), np.int64)
    for label in np.unique(of):
        turn[of == label] = np.arange((of == label).sum())
    return rows[np.lexsort((of, turn))]


def _strips(dataset: DatasetStore, rows: np.ndarray, copies: int) -> list[list[np.ndarray]]:
    """The image and its copies for each row, each uint8 [h, w, 3]."""
    strips = [[image] for image in dataset.train_images.read(rows)]
    if copies and dataset.copies is not None:
        for strip, made in zip(strips, dataset.copies.read(rows, copies=copies), strict=True):
            strip.extend(made)
    return [[thumbnail(image) for image in strip] for strip in strips]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3], each pixel the mean of k × k ones, so that neither side is longer than SIDE."""
    k = -(-max(image.shape[:2]) // SIDE)
    if k == 1:
        return image
    total, count = image.astype(np.float64), np.ones((*image.shape[:2], 1))
    for axis in (0, 1):  # the last pixel of a side may be the mean of fewer
        starts = np.arange(0, image.shape[axis], k)
        total, count = (np.add.reduceat(part, starts, axis) for part in (total, count))
    return np.rint(total / count).astype(np.uint8)


def photo(image: np.ndarray, name: str, below: str, tip: str = "") -> Markup:
    """A figure of uint8 [H, W, 3] with a name and a line below it; `tip`: under the mouse, by default the name."""
    small = thumbnail(image)
    height, width, _ = small.shape
    kind = "pixels" if max(height, width) <= SIDE // 2 else None  # else a blur
    picture = el("img", src=data_uri(small), alt=name, width=width, height=height, class_=kind)
    return el("figure", picture, el("figcaption", el("span", name), el("small", below)), title=tip or name)


def data_uri(image: np.ndarray) -> str:
    """A PNG inside a page."""
    return "data:image/png;base64," + base64.b64encode(png.encode(np.ascontiguousarray(image))).decode()
