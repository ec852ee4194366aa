"""The sample of images that a plan is measured on: the source's if it is on this machine, a store's, or synthetic ones.

Nothing is downloaded, and nothing is left on the disk: archives are unpacked to a temporary folder, and only one batch
of ImageNet-32 is read. The sample describes itself, because a plan is only as good as its sample.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from pipeline.building.facts import told
from pipeline.sources import Options, Progress, Source, cache_folder, check, load
from stores import DatasetStore, open_store
from stores.draws import generator, order
from stores.errors import IntegrityError, UsageError
from stores.storage.location import Location
from stores.system import aside

SAMPLE_BYTES = 512 * 32 * 32 * 3  # raw bytes: 512 images of CIFAR's size
FEWEST = 64
# training images, test images and side of the published data sets
KNOWN = {
    "cifar10": (50_000, 10_000, 32),
    "cifar100": (50_000, 10_000, 32),
    "svhn": (73_257, 26_032, 32),
    "stl10": (105_000, 8_000, 96),
    "imagenet32": (1_281_167, 50_000, 32),
}
SVHN_EXTRA = 531_131
WEAK = {"svhn": {"flip": False, "shift": 4}, "stl10": {"flip": True, "shift": 12}}


@dataclass(frozen=True)
class Subject:
    """The data set to be built, and a sample of it.

    Attributes:
        train: number of training images.
        test: number of test images.
        size: (H, W).
        weak: as `Source.weak`.
        images: the sample, uint8 [n, H, W, 3], n ≤ train.
        what: description of the sample.
        read_s: seconds to open the source, and to read an image in one thread.
        notes: as `facts.told`.
    """

    train: int
    test: int
    size: tuple[int, int]
    weak: dict[str, Any]
    images: np.ndarray
    what: str
    read_s: tuple[float, float] = (0.0, 0.0)
    notes: tuple[str, ...] = ()


def of_source(source: Source, seed: int, opened_s: float = 0.0) -> Subject:
    """The sample of a source: the images that a build with this seed writes first."""
    train, height, width, _ = source.train.images.shape
    count = _sample_size(train, height, width)
    began = time.monotonic()
    images = np.ascontiguousarray(source.train.images[order(seed, "order", train)[:count]])
    each = (time.monotonic() - began) / count
    what = f"{count:,} of its images, as they are"
    return Subject(
        train, len(source.test.labels), (height, width), source.weak, images, what, (opened_s, each), told(source)
    )


def of_request(
    name: str,
    path: Path | None,
    sample_from: Location | None,
    *,
    seed: int,
    cache: Path,
    flip: bool | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Subject:
    """What `build` would read, without downloading anything or leaving anything on the disk.

    Args:
        name: of the source.
        path: its folder or file, if it has one.
        sample_from: a dataset store whose images are the sample; None: the source's own.
        seed: of the images' order.
        cache: where downloads are kept.
        flip: overrides whether the weak augmentation flips.
        progress: called with (what, done, of).
        options: as for `pipeline.sources.load`.

    Raises:
        UsageError: as `pipeline.sources.load`; or the images of `sample_from` have another size.
        StoreError, IntegrityError: as `pipeline.sources.load`.
    """
    check(name, path, **options)
    from_ = options.get("from_")

    def opened(from_: Path | None, cache: Path) -> Subject:
        began = time.monotonic()
        asked: Options = {**options, "from_": from_}
        source = load(name, path, cache=cache, progress=progress, **asked)
        return of_source(source, seed, time.monotonic() - began)

    if name not in KNOWN:
        subject = opened(None, cache)
    elif from_ is not None:
        with aside.scratch() as scratch:  # for unpacking an archive
            subject = opened(from_, scratch)
    elif name == "imagenet32":
        subject = _imagenet32(path)
    else:
        try:
            subject = opened(cache_folder(cache) / name, cache)
        except (UsageError, IntegrityError):  # not downloaded, or incomplete
            subject = _published(name, options.get("extra", False))
    if flip is not None:
        subject = replace(subject, weak=subject.weak | {"flip": flip})
    return subject if sample_from is None else _from_store(subject, sample_from)


def _published(name: str, extra: bool = False) -> Subject:
    """A published data set, with synthetic images."""
    train, test, side = KNOWN[name]
    images = drawn(_sample_size(train, side, side), side)
    what = f"{len(images):,} drawn images with the spectrum of photographs, as the data set is not here"
    weak = WEAK.get(name, {"flip": True, "shift": 4})
    return Subject(train + SVHN_EXTRA * extra, test, (side, side), weak, images, what)


def _imagenet32(path: Path | None) -> Subject:
    """ImageNet-32, with one of its ten batches as the sample."""
    from pipeline.sources import imagenet32

    published = _published("imagenet32")
    if path is None:
        return published
    images, _ = imagenet32.first_batch(path)
    count = _sample_size(len(images), *published.size)
    sample = np.ascontiguousarray(images[order(0, "plan", len(images))[:count]])
    return replace(published, images=sample, what=f"{count:,} images of its first batch, as they are")


def _from_store(subject: Subject, place: Location) -> Subject:
    store = open_store(place)
    dataset = store if isinstance(store, DatasetStore) else store.dataset
    if dataset.image_size != subject.size:
        sides = " and ".join("×".join(map(str, size)) for size in (dataset.image_size, subject.size))
        raise UsageError(f"the images of '{place}' cannot be the sample for this build", f"their sizes are {sides}")
    count = min(_sample_size(dataset.num_images, *subject.size), subject.train)
    images = dataset.train_images.read(np.arange(count))
    return replace(subject, images=images, what=f"{count:,} images of '{place}'")


def drawn(count: int, side: int) -> np.ndarray:
    """Synthetic images that zstd compresses about as well as photographs: random phases, amplitude 1/f (Field 1987).

    Returns:
        uint8 [count, side, side, 3].
    """
    rng = generator(0, "plan")
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    amplitude = 1 / np.maximum(frequency, 1 / side)
    white = np.fft.rfft2(rng.standard_normal((count, 4, side, side)))
    grey, *colours = np.moveaxis(np.fft.irfft2(white * amplitude, (side, side)), 1, 0)
    planes = np.stack([grey + 0.35 * colour for colour in colours], axis=-1)
    planes /= planes.std((1, 2, 3), keepdims=True)
    contrast = rng.uniform(20, 80, (count, 1, 1, 1))
    return np.clip(128 + contrast * planes, 0, 255).astype(np.uint8)


def _sample_size(images: int, height: int, width: int) -> int:
    return min(images, max(FEWEST, SAMPLE_BYTES // (height * width * 3)))
