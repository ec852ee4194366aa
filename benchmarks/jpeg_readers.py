"""Contestants of reading.py that decode: the samples as JPEG files, and FFCV's field for images, JPEG or raw.

They read other pixels than the rest, as JPEG loses some; quality 90, 4:2:0 chroma, as FFCV's guide has it.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from readers import Corpus, Epochs, Reader, Samples, items, loader_epochs

QUALITY = 90


def prepare_jpeg(corpus: Corpus, rows: int) -> None:
    """A folder of JPEG files for every row."""
    for index, (image, row) in enumerate(items(corpus, rows)):
        folder = corpus.folder / "jpeg" / f"{row:08}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index % corpus.copies}.jpg").write_bytes(_jpeg(image))


def image_folder(corpus: Corpus) -> Epochs:
    """torchvision's ImageFolder over the JPEG files, in DataLoader's workers, without augmentation."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(corpus.folder / "jpeg"), transform=transforms.PILToTensor())
    return loader_epochs(corpus, dataset, True, channels_first=True)


def prepare_webdataset_jpeg(corpus: Corpus, rows: int) -> None:
    """Tar files of JPEGs, several times as many as there are workers."""
    import webdataset

    (corpus.folder / "jpeg-tars").mkdir()
    each = -(-rows * corpus.copies // (8 * corpus.workers))
    with webdataset.ShardWriter(str(corpus.folder / "jpeg-tars" / "%06d.tar"), maxcount=each, verbose=0) as writer:
        for index, (image, row) in enumerate(items(corpus, rows)):
            writer.write({"__key__": f"{index:09}", "jpg": _jpeg(image), "cls": row})


def webdataset_jpeg(corpus: Corpus) -> Epochs:
    """WebDataset as its guide says, decoding to uint8 arrays."""
    import webdataset

    urls = sorted(str(path) for path in (corpus.folder / "jpeg-tars").glob("*.tar"))
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=1).shuffle(1000).decode("rgb8")
    batched = dataset.to_tuple("jpg", "cls").batched(corpus.batch, partial=False)
    loader = webdataset.WebLoader(batched, None, num_workers=corpus.workers)

    def epoch(_: int) -> Any:
        yield from loader

    return epoch


def prepare_ffcv_jpeg(corpus: Corpus, rows: int) -> None:
    """FFCV's image field, every image a JPEG."""
    _write_ffcv(corpus, rows, "jpg")


def prepare_ffcv_raw(corpus: Corpus, rows: int) -> None:
    """FFCV's image field, pixels raw."""
    _write_ffcv(corpus, rows, "raw")


def _write_ffcv(corpus: Corpus, rows: int, mode: str) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode=mode, jpeg_quality=QUALITY), "row": IntField()}
    writer = DatasetWriter(str(corpus.folder / f"rgb-{mode}.beton"), fields, num_workers=corpus.workers)
    writer.from_indexed_dataset(Samples(corpus.mapped(), corpus.copies, rows), chunksize=100)


def ffcv_images(corpus: Corpus, mode: str) -> Epochs:
    """FFCV's Loader in RANDOM order from the operating system's cache."""
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    loader = Loader(
        str(corpus.folder / f"rgb-{mode}.beton"),
        batch_size=corpus.batch,
        num_workers=corpus.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        seed=1,
        pipelines={"image": [SimpleRGBImageDecoder()], "row": [IntDecoder()]},
    )

    def epoch(_: int) -> Any:
        for images, rows in loader:
            yield images, rows[:, 0]

    return epoch


def _jpeg(image: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


FFCV = ("ffcv.loader", "ffcv.fields.decoders", "ffcv.fields")
JPEG_READERS: dict[str, Reader] = {
    "FFCV RGB raw, RANDOM": Reader(
        functools.partial(ffcv_images, mode="raw"), FFCV, prepare_ffcv_raw, files=("rgb-raw.beton",)
    ),
    "FFCV RGB JPEG, RANDOM": Reader(
        functools.partial(ffcv_images, mode="jpg"), FFCV, prepare_ffcv_jpeg, files=("rgb-jpg.beton",), batches=100
    ),
    "ImageFolder (JPEG), workers": Reader(
        image_folder, ("torchvision", "PIL.Image"), prepare_jpeg, files=("jpeg",), share=0.2, batches=40
    ),
    "WebDataset (JPEG), workers": Reader(
        webdataset_jpeg, ("webdataset",), prepare_webdataset_jpeg, files=("jpeg-tars",), share=0.2, batches=40
    ),
}
