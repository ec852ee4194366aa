"""The contestants of reading.py: ways to read the same samples in random order, each as its users write it.

A contestant writes what it reads before the clock starts (`prepare`), then `open` returns its epochs: each yields
(images uint8 [batch, H, W, 3], rows [batch]), where the rows say which image every sample is a copy of.
"""

from __future__ import annotations

import atexit
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

Batches = Iterator[tuple[Any, Any]]
Epochs = Callable[[int], Batches]
WINDOW = 512 << 20  # bytes of memory of our stream, the trainer's default
EVERY = 1 << 62


@dataclass(frozen=True)
class Corpus:
    """The samples: sample i is copy i mod K of row i div K.

    Attributes:
        folder: holds `store`, our dataset store with K copies; `copies.npy`, uint8 [N·K, H, W, 3]; and other forms.
        copies: K.
        batch: samples a batch; an incomplete last batch is dropped.
        workers: threads or processes of every contestant that takes a number of them.
    """

    folder: Path
    copies: int
    batch: int
    workers: int

    def mapped(self) -> np.ndarray:
        return np.load(self.folder / "copies.npy", mmap_mode="r")

    def resident(self) -> np.ndarray:
        return np.load(self.folder / "copies.npy")


def prepare_arrays(images: np.ndarray, corpus: Corpus) -> None:
    """`store` and `copies.npy`, which the other forms are made from."""
    from corpus import build_stores

    from stores import DatasetStore, open_store

    build_stores(images, corpus.copies, corpus.folder, labels=min(250, len(images) // 20 * 10))
    store = open_store(corpus.folder / "store")
    assert isinstance(store, DatasetStore) and store.copies is not None
    shape = (store.num_images * corpus.copies, *images.shape[1:])
    flat = np.lib.format.open_memmap(corpus.folder / "copies.npy", "w+", np.uint8, shape)
    store.copies.read(out=flat.reshape(-1, corpus.copies, *images.shape[1:]))
    flat.flush()


# ---- the machine's limits


def memcpy(corpus: Corpus) -> Epochs:
    """The bytes of an epoch from memory to memory in their order: no shuffle, the upper limit of any reader."""
    images = corpus.resident()
    out = np.empty((corpus.batch, *images.shape[1:]), np.uint8)

    def epoch(_: int) -> Batches:
        for start in range(0, len(images) - corpus.batch + 1, corpus.batch):
            np.copyto(out, images[start : start + corpus.batch])
            yield out, np.arange(start, start + corpus.batch) // corpus.copies

    return epoch


def gather(corpus: Corpus, threads: int) -> Epochs:
    """An array in memory, one permutation an epoch, one gather a batch into the same memory; NumPy has one thread."""
    images = corpus.resident()
    out = np.empty((corpus.batch, *images.shape[1:]), np.uint8)
    table, place = (torch.from_numpy(array.reshape(len(array), -1)) for array in (images, out))

    def epoch(number: int) -> Batches:
        order = np.random.default_rng(number).permutation(len(images))
        for start in range(0, len(order) - corpus.batch + 1, corpus.batch):
            samples = order[start : start + corpus.batch]
            if threads > 1:
                torch.index_select(table, 0, torch.from_numpy(samples), out=place)
            else:
                np.take(images, samples, axis=0, out=out, mode="clip")
            yield out, samples // corpus.copies

    return epoch


# ---- ours


def ours(corpus: Corpus, kind: str, drawn: bool = False) -> Epochs:
    """The unlabelled images as the trainer's Loader reads them: in its order, in blocks of steps, by its threads."""
    from stores import open_store
    from trainer.data.placement import Placement, open_images
    from trainer.data.prefetch import Prefetch

    store: Any = open_store(corpus.folder / "store")
    size, scratch = (WINDOW if kind == "stream" else 0), (corpus.folder if kind == "mapped" else None)
    placement = Placement(kind, torch.device("cpu"), drawn, size, scratch)  # type: ignore[arg-type]
    images = open_images(store, np.arange(store.num_images), corpus.copies, placement, corpus.batch, seed=1)
    steps = len(images) // corpus.batch

    def prepare(step: int, count: int) -> list[tuple[Any, Any]]:
        samples, pixels = images.read(step, count)
        return list(zip(pixels.chunk(count), (samples // corpus.copies).reshape(count, -1), strict=True))

    batches = Prefetch(prepare, 0, EVERY, images.block, images.threads)
    for close in (batches.close, images.close, batches.stop):  # in the reverse order
        atexit.register(close)

    def epoch(_: int) -> Batches:
        yield from itertools.islice(batches, steps)

    return epoch


# ---- FFCV


def prepare_ffcv(corpus: Corpus, rows: int) -> None:
    """Pixels stored raw, as NDArray: nothing to decode."""
    from ffcv.fields import IntField, NDArrayField
    from ffcv.writer import DatasetWriter

    images = corpus.mapped()
    fields = {"image": NDArrayField(np.dtype("uint8"), images.shape[1:]), "row": IntField()}
    writer = DatasetWriter(str(corpus.folder / "copies.beton"), fields, num_workers=corpus.workers)
    writer.from_indexed_dataset(Samples(images, corpus.copies, rows), chunksize=500)


def ffcv(corpus: Corpus, order: str) -> Epochs:
    """FFCV's Loader; RANDOM from the operating system's cache, as its guide says for what fits into memory."""
    from ffcv.fields.decoders import IntDecoder, NDArrayDecoder
    from ffcv.loader import Loader, OrderOption

    loader = Loader(
        str(corpus.folder / "copies.beton"),
        batch_size=corpus.batch,
        num_workers=corpus.workers,
        order=OrderOption[order],
        os_cache=order == "RANDOM",
        drop_last=True,
        seed=1,
        pipelines={"image": [NDArrayDecoder()], "row": [IntDecoder()]},
    )

    def epoch(_: int) -> Batches:
        for images, rows in loader:
            yield images, rows[:, 0]

    return epoch


# ---- torch


class Samples(Dataset):
    """An indexed dataset of (image, row), one sample at a time."""

    def __init__(self, images: np.ndarray, copies: int, rows: int = EVERY, transform: Any = None) -> None:
        self.images, self.copies, self.rows, self.transform = images, copies, rows, transform

    def __len__(self) -> int:
        return min(len(self.images), self.rows * self.copies)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        return (image if self.transform is None else self.transform(image)), index // self.copies


class SamplesAtOnce(Samples):
    """The same, a batch at a time: DataLoader calls `__getitems__` where there is one."""

    def __getitems__(self, indices: list[int]) -> tuple[Any, Any]:
        samples = np.array(indices)
        return torch.from_numpy(self.images[samples]), torch.from_numpy(samples // self.copies)


def batch_is_made(batch: tuple[Any, Any]) -> tuple[Any, Any]:
    return batch


def data_loader(corpus: Corpus, workers: bool) -> Epochs:
    """DataLoader over an array in memory, item by item."""
    return loader_epochs(corpus, Samples(corpus.resident(), corpus.copies), workers)


def data_loader_at_once(corpus: Corpus) -> Epochs:
    """DataLoader over an array in memory, a batch at a time, without workers (with them it only gets slower)."""
    return loader_epochs(corpus, SamplesAtOnce(corpus.resident(), corpus.copies), False, collate_fn=batch_is_made)


def data_loader_augmented(corpus: Corpus) -> Epochs:
    """What most CIFAR code does: array → PIL → RandomCrop, RandomHorizontalFlip → tensor, item by item."""
    from torchvision import transforms

    weak = _weak(corpus.mapped().shape[1])
    dataset = Samples(corpus.resident(), corpus.copies, transform=transforms.Compose([transforms.ToPILImage(), *weak]))
    return loader_epochs(corpus, dataset, True, channels_first=True)


def prepare_png(corpus: Corpus, rows: int) -> None:
    """A folder of PNG files for every row."""
    from PIL import Image

    for index, (image, row) in enumerate(items(corpus, rows)):
        folder = corpus.folder / "png" / f"{row:08}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index % corpus.copies}.png")


def image_folder(corpus: Corpus) -> Epochs:
    """torchvision's ImageFolder over PNG files, with the same transforms."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    weak = _weak(corpus.mapped().shape[1])
    dataset = ImageFolder(str(corpus.folder / "png"), transform=transforms.Compose(weak))
    return loader_epochs(corpus, dataset, True, channels_first=True)


def _weak(side: int) -> list[Any]:
    from torchvision import transforms

    crop = transforms.RandomCrop(side, padding=side // 8, padding_mode="reflect")
    return [crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()]


def loader_epochs(
    corpus: Corpus, dataset: Dataset, workers: bool, channels_first: bool = False, collate_fn: Any = None
) -> Epochs:
    count = corpus.workers if workers else 0
    loader: DataLoader = DataLoader(
        dataset,
        corpus.batch,
        shuffle=True,
        drop_last=True,
        num_workers=count,
        persistent_workers=count > 0,
        collate_fn=collate_fn,
    )

    def epoch(_: int) -> Batches:
        for images, rows in loader:
            yield images.permute(0, 2, 3, 1) if channels_first else images, rows

    return epoch


# ---- formats of their own


def prepare_webdataset(corpus: Corpus, rows: int) -> None:
    """Tar files of .npy images, several times as many as there are workers."""
    import webdataset

    (corpus.folder / "tars").mkdir()
    total = rows * corpus.copies
    pattern = str(corpus.folder / "tars" / "%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=-(-total // (8 * corpus.workers)), verbose=0) as writer:
        for index, (image, row) in enumerate(items(corpus, rows)):
            writer.write({"__key__": f"{index:09}", "npy": image, "cls": row})


def webdataset_(corpus: Corpus) -> Epochs:
    """WebDataset as its guide says: shards shuffled, a buffer of 5,000 samples, batches made in the workers."""
    import webdataset

    urls = sorted(str(path) for path in (corpus.folder / "tars").glob("*.tar"))
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=1).shuffle(5000).decode().to_tuple("npy", "cls")
    loader = webdataset.WebLoader(dataset.batched(corpus.batch, partial=False), None, num_workers=corpus.workers)

    def epoch(_: int) -> Batches:
        yield from loader

    return epoch


def prepare_streaming(corpus: Corpus, rows: int) -> None:
    """MosaicML's shards, pixels stored raw."""
    from streaming import MDSWriter

    shape = ",".join(map(str, corpus.mapped().shape[1:]))
    columns = {"image": f"ndarray:uint8:{shape}", "row": "int"}
    with MDSWriter(out=str(corpus.folder / "mds"), columns=columns) as writer:
        for image, row in items(corpus, rows):
            writer.write({"image": image, "row": row})


def streaming_(corpus: Corpus) -> Epochs:
    """MosaicML's StreamingDataset from a local folder, shuffled as it does by default, in DataLoader's workers."""
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(corpus.folder / "mds"), shuffle=True, batch_size=corpus.batch)
    loader: DataLoader = DataLoader(dataset, corpus.batch, drop_last=True, num_workers=corpus.workers)

    def epoch(_: int) -> Batches:
        for batch in loader:
            yield batch["image"], batch["row"]

    return epoch


def zarr_samples(corpus: Corpus) -> Epochs:
    """zarr-python asked for a batch of random samples of our store: a uniform shuffle, most of what it decodes lost."""
    import zarr

    array: Any = zarr.open_array(corpus.folder / "store" / "copies" / "images", mode="r")

    def epoch(number: int) -> Batches:
        order = np.random.default_rng(number).permutation(array.shape[0] * corpus.copies)
        for start in range(0, len(order) - corpus.batch + 1, corpus.batch):
            rows, copies = np.divmod(order[start : start + corpus.batch], corpus.copies)
            yield array.oindex[rows][np.arange(corpus.batch), copies], rows

    return epoch


def zarr_chunks(corpus: Corpus) -> Epochs:
    """zarr-python reading whole chunks of our store in random order, shuffled within: fast, and hardly a shuffle."""
    import zarr

    array: Any = zarr.open_array(corpus.folder / "store" / "copies" / "images", mode="r")
    height = array.chunks[0]

    def epoch(number: int) -> Batches:
        rng = np.random.default_rng(number)
        kept, kept_rows = np.empty((0, *array.shape[2:]), np.uint8), np.empty(0, np.int64)
        for block in rng.permutation(-(-array.shape[0] // height)):
            chunk = array[block * height : (block + 1) * height]
            order = rng.permutation(chunk.shape[0] * corpus.copies)
            kept = np.concatenate([kept, chunk.reshape(-1, *array.shape[2:])[order]])
            kept_rows = np.concatenate([kept_rows, block * height + order // corpus.copies])
            while len(kept) >= corpus.batch:
                yield kept[: corpus.batch], kept_rows[: corpus.batch]
                kept, kept_rows = kept[corpus.batch :], kept_rows[corpus.batch :]

    return epoch


def items(corpus: Corpus, rows: int) -> Iterator[tuple[np.ndarray, int]]:
    for index, image in enumerate(corpus.mapped()[: rows * corpus.copies]):
        yield image, index // corpus.copies


@dataclass(frozen=True)
class Reader:
    """A contestant.

    Attributes:
        open: its epochs; the clock starts before.
        needs: modules imported before the clock starts.
        prepare: writes the first rows in its own form; None: the arrays of `prepare_arrays` are all.
        share: of the rows that it gets; those that are slow to write get fewer.
        batches: most batches of an epoch that are timed, for the slow ones.
        files: what it reads, in the corpus's folder.
    """

    open: Callable[[Corpus], Epochs]
    needs: tuple[str, ...] = ()
    prepare: Callable[[Corpus, int], None] | None = None
    share: float = 1.0
    batches: int = EVERY
    files: tuple[str, ...] = ("copies.npy",)


OURS = ("stores", "trainer.data.placement")
FFCV = ("ffcv.loader", "ffcv.fields.decoders")
REFERENCE = "FFCV RANDOM"
STORE, BETON = ("store",), ("copies.beton",)
READERS: dict[str, Reader] = {
    "memcpy in order (limit)": Reader(memcpy),
    "gather from memory, one thread (limit)": Reader(functools.partial(gather, threads=1)),
    "gather from memory, torch's threads (limit)": Reader(functools.partial(gather, threads=2)),
    "realmix, images and boxes": Reader(
        functools.partial(ours, kind="host", drawn=True), OURS, files=("store/train", "store/copies/params")
    ),
    "realmix, host": Reader(functools.partial(ours, kind="host"), OURS, files=STORE),
    "realmix, mapped": Reader(functools.partial(ours, kind="mapped"), OURS, files=STORE),
    "realmix, stream": Reader(functools.partial(ours, kind="stream"), OURS, files=STORE),
    REFERENCE: Reader(functools.partial(ffcv, order="RANDOM"), FFCV, prepare_ffcv, files=BETON),
    "FFCV QUASI_RANDOM": Reader(functools.partial(ffcv, order="QUASI_RANDOM"), FFCV, prepare_ffcv, files=BETON),
    "DataLoader, a batch at a time": Reader(data_loader_at_once),
    "DataLoader, item by item": Reader(functools.partial(data_loader, workers=False), batches=500),
    "DataLoader, item by item, workers": Reader(functools.partial(data_loader, workers=True), batches=500),
    "DataLoader + torchvision crop and flip, workers": Reader(data_loader_augmented, ("torchvision",), batches=40),
    "ImageFolder (PNG) + crop and flip, workers": Reader(
        image_folder, ("torchvision", "PIL.Image"), prepare_png, share=0.02, files=("png",)
    ),
    "zarr-python, random samples": Reader(zarr_samples, ("zarr",), batches=4, files=STORE),
    "zarr-python, random chunks": Reader(zarr_chunks, ("zarr",), files=STORE),
    "WebDataset (npy), workers": Reader(
        webdataset_, ("webdataset",), prepare_webdataset, share=0.1, batches=100, files=("tars",)
    ),
    "MosaicML Streaming (raw), workers": Reader(
        streaming_, ("streaming",), prepare_streaming, share=0.1, batches=100, files=("mds",)
    ),
}
