"""`verify --deep` and `repair` of embeddings: computing them again with the network that the manifest describes.

Another processor rounds otherwise, so numbers are compared within a tolerance: embeddings of one picture in fp32 and in
bf16 are a few per cent apart, those of two pictures tens of per cent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from pipeline.embedding.files import embed_files
from pipeline.embedding.frozen import Frozen, load_again
from pipeline.embedding.pictures import Pictures, pictures_of
from stores import DatasetStore
from stores.embeddings import EmbeddingStore, layouts, open_with_dataset
from stores.errors import RealMixError
from stores.format.layout import ArrayLayout

if TYPE_CHECKING:
    from pipeline.check.repair import Work

TOLERANCE = 0.15  # distance between two embeddings of one picture, as a share of their length
SAMPLE = 256  # pictures of each array that are embedded again
LEAST_ROWS = 8

Progress = Callable[[str, int, int], None]  # (what, done, of)


def check_sample(store: EmbeddingStore, dataset: DatasetStore, frozen: Frozen, progress: Progress) -> list[str]:
    """Embed a sample of each array's pictures again, at least one row of each file up to `SAMPLE` pictures.

    Returns:
        What differs, with the rows; empty if nothing does.

    Raises:
        IntegrityError: a file of the embeddings or of the images is damaged.
    """
    problems: list[str] = []
    sources = pictures_of(dataset, store.manifest["spec"])
    for done, (part, array) in enumerate(layouts(store.manifest).items(), 1):
        rows = sample_rows(array.shape[0], prod(array.shape[1:-1]))
        stored = store.array(part).read(rows)
        for row, wrong in zip(rows.tolist(), far(_embed_rows(frozen, sources[part], rows), stored), strict=True):
            if wrong:
                problems.append(f"{array.name}: row {row} is not what the network makes of its picture")
        progress("arrays embedded again", done, len(sources))
    return problems


def sample_rows(count: int, copies: int) -> np.ndarray:
    """Rows spread over an array of `count`, int64 [n]."""
    some = min(count, max(LEAST_ROWS, SAMPLE // copies))
    return np.unique(np.linspace(0, count - 1, some).astype(np.int64)) if count else np.empty(0, np.int64)


def far(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Whether a row's embeddings differ by more than rounding: bool [n] of two float16 [n, …, D]."""
    if not len(ours):
        return np.zeros(0, bool)
    ours, theirs = (part.astype(np.float32).reshape(len(ours), -1, ours.shape[-1]) for part in (ours, theirs))
    lengths = np.linalg.norm(theirs, axis=-1)
    apart = np.linalg.norm(ours - theirs, axis=-1) > TOLERANCE * np.maximum(lengths, np.median(lengths))
    return np.asarray(apart.any(-1))


def _embed_rows(frozen: Frozen, pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Float16 [n, copies, D]."""
    made = [pictures(range(row, row + 1)) for row in rows.tolist()]
    if not made:
        return np.empty((0, pictures.copies, frozen.network.num_features), np.float16)
    embeddings: np.ndarray = frozen(np.concatenate(made)).cpu().numpy()
    return embeddings.reshape(len(rows), pictures.copies, -1)


def restore(work: Work, weights: str | None, progress: Progress) -> None:
    """Repair a store of embeddings: metadata from the manifest, damaged files by embedding their pictures again.

    A file whose bytes are not the manifest's is accepted if the network still makes what intact files hold.
    """
    for array in layouts(work.content).values():
        work.restore_same(array.metadata())
    if not any("/c/" in key for key in work.damaged):
        return
    try:
        store, dataset = open_with_dataset(work.store)
        arrays = {part: store.array(part).layout for part in layouts(work.content)}
        frozen = load_again(work.content, weights)
        holds = _network_holds(work, store, dataset, frozen)
        for part, array in arrays.items():
            indices = [index for index in range(array.num_files) if array.key(index) in work.damaged]
            pictures = pictures_of(dataset, work.content["spec"])[part]
            total = pictures.copies * sum(stop - start for start, stop in map(array.rows, indices))
            put, made = partial(_put, work, array, holds), partial(_tell, progress, part, total)
            embed_files(frozen, array, pictures, dataset.image_size, indices, put, made)
    except RealMixError as error:
        for key in work.damaged.keys() - work.report.restored.keys() - work.report.lost.keys():
            work.lose(key, " ".join(filter(None, (error.what, error.hint))))


def _put(work: Work, array: ArrayLayout, holds: bool, index: int, data: bytes) -> None:
    key = array.key(index)
    if holds or work.expects(key, data):
        work.restore(key, data)
    else:
        work.lose(key, "the network now gives other numbers than the files that are intact hold, or none is intact")


def _tell(progress: Progress, part: str, total: int, done: int) -> None:
    progress(part, done, total)


def _network_holds(work: Work, store: EmbeddingStore, dataset: DatasetStore, frozen: Frozen) -> bool:
    """Whether the network makes what an intact file holds."""
    for part, pictures in pictures_of(dataset, work.content["spec"]).items():
        array = store.array(part)
        intact = [index for index in range(array.layout.num_files) if array.layout.key(index) not in work.damaged]
        if intact:
            start, stop = array.layout.rows(intact[0])
            rows = np.arange(start, min(stop, start + LEAST_ROWS))
            return not far(_embed_rows(frozen, pictures, rows), array.read(rows)).any()
    return False
