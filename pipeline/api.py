"""Stores from Python: what `realmix-data build`, `split` and `embed` do, with the same options.

Nothing heavy is imported before a function is called.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from stores.errors import UsageError, install, suggest
from stores.format import names
from stores.storage.location import Location, locate

if TYPE_CHECKING:
    from pipeline.splits.protocols import Request
    from stores import DatasetStore, SplitStore
    from stores.embeddings import EmbeddingStore

CACHE = Path("~/.cache/realmix")
FORMATS = ("zarr", "ffcv")
Listed = str | int | Iterable[str | int] | None  # as on a command line, "250,4000"; one; or several


@dataclass(frozen=True)
class Built:
    """What `build` made.

    Attributes:
        store: the dataset store.
        splits: its split stores, each ready to be trained from.
        left_out: why some of the usual splits were not made.
        new: whether anything had to be written.
    """

    store: DatasetStore
    splits: list[SplitStore]
    left_out: list[str]
    new: bool


@contextlib.contextmanager
def _with_extra() -> Iterator[None]:
    """A package that is missing is a user's mistake."""
    try:
        yield
    except ModuleNotFoundError as missing:
        why = f"the Python package '{missing.name}' is not installed"
        raise UsageError("stores cannot be built here", why, install("data")) from None


@_with_extra()
def build(
    source: str,
    path: str | Path | None = None,
    *,
    copies: int = 50,
    recipe: str = "cutout",
    root: str | Path = "stores",
    name: str | None = None,
    seed: int = 1,
    workers: int | None = None,
    dask: str | None = None,
    labels: Listed = None,
    mismatch: Listed = None,
    labeled_classes: Listed = None,
    unlabeled_classes: Listed = None,
    split_seed: int = 1,
    valid: int | None = None,
    protocol: str | None = None,
    shares: str | float | Iterable[float] | None = None,
    from_: str | Path | None = None,
    extra: bool = False,
    unlabeled: str | Path | None = None,
    test: str | Path | None = None,
    size: int | None = None,
    range_: tuple[float, float] | None = None,
    max_pixels: int | None = None,
    flip: bool | None = None,
    drop_conflicts: bool = False,
    skip_broken: bool = False,
    labels_from: str | Path | None = None,
    cache: str | Path = CACHE,
    format_: str = "zarr",
    force: bool = False,
    check_space: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
    notes: Callable[[tuple[str, ...]], None] | None = None,
) -> Built:
    """Make a dataset store with augmented copies of every training image, and its split stores.

    An interrupted build continues; one that is there already is found. The images, labels and copies depend on the
    source, the recipe and the seed alone.

        >>> built = build("digits", copies=5, root=folder)
        >>> [split.name for split in built.splits]
        ['digits_20', 'digits_50', 'digits_100']

    Args:
        source: "digits", "cifar10", "cifar100", "svhn", "stl10", "folder", "arrays" or "imagenet32".
        path: the folder or file of the last three.
        copies: copies of every training image.
        recipe: how a copy is made: "cutout", "erase", "simple", "color", "strong", or an albumentations file.
        root: folder that holds the stores, or "s3://bucket/prefix".
        name: of the store; None: made from the source.
        seed: of the copies and of the images' order.
        workers: parallel workers; None: one a processor.
        dask: address of a Dask scheduler whose workers make the copies.
        labels: numbers of labelled images, one split each, in total or a class ("4/class"), or "all"; None: the usual
            ones.
        mismatch: per cent of the unlabelled classes that are foreign, one split each (CIFAR-10).
        labeled_classes: names of the classes that are trained on; None: all.
        unlabeled_classes: names of the classes of the unlabelled images; None: all.
        split_seed: of the draw of the labelled images.
        valid: images held out for validation; None: of one's own images a tenth of the labels, where every class has
            20 or more.
        protocol: an open-set protocol: "openmatch", "iomatch", "oliver" or "fixed-known".
        shares: of the foreign images, one split each ("fixed-known").
        from_: local archive of the dataset, instead of a download.
        extra: svhn: add its extra images.
        unlabeled: folder: another folder, of images without labels.
        test: folder: the test images; None: a sixth is held out.
        size: folder: side in pixels that images are resized to.
        range_: folder: the numbers that are black and white in pictures of more than 8 bits.
        max_pixels: folder: the largest picture that is decoded.
        flip: whether mirroring keeps the class; None: as the source says.
        drop_conflicts: folder: leave out pictures of two classes, or both trained and tested on.
        skip_broken: folder: leave out files that are no whole images.
        labels_from: folder: CSV file with the columns file and label, instead of class folders.
        cache: where downloads are kept.
        format_: how copies are kept: "zarr" or "ffcv".
        force: replace a store of another specification.
        check_space: refuse to begin what will not fit on the disk.
        progress: called as (what, done, of how many).
        notes: called with what a person should know about the images.

    Raises:
        UsageError: an option that is wrong, or an extra that is not installed.
        StoreError: the place holds something else, another build is at work there, or a download failed.
        IntegrityError: a file of the source is damaged.
        ResourceError: it would not fit on the disk.
    """
    copies, seed = whole("copies", copies), whole("seed", seed)
    split_seed, held = whole("split_seed", split_seed), None if valid is None else whole("valid", valid)
    require_copies(copies)
    where = target(root, name, source, path, extra)
    if require_format(format_) == "ffcv":
        from stores.ffcv.beton import require_ffcv

        require_ffcv()  # before a download
    from pipeline.building.build import build as build_store
    from pipeline.building.facts import told
    from pipeline.recipes import load_recipe
    from pipeline.sources import load
    from pipeline.splits.split_stores import write_all, write_standard

    requests = _requests(labels, mismatch, labeled_classes, unlabeled_classes, split_seed, held or 0, protocol, shares)
    data = load(
        source,
        _path(path),
        from_=_path(from_),
        cache=Path(cache),
        extra=extra,
        size=size,
        unlabeled=_path(unlabeled),
        test=_path(test),
        range_=range_,
        max_pixels=max_pixels,
        flip=flip,
        drop_conflicts=drop_conflicts,
        skip_broken=skip_broken,
        labels_from=_path(labels_from),
        progress=progress,
    )
    if notes is not None:
        notes(told(data))
    height, width = data.train.images.shape[1:3]
    store, new = build_store(
        where,
        data,
        load_recipe(recipe, dict(data.weak), (height, width)),
        copies=copies,
        seed=seed,
        workers=workers,
        dask=dask,
        force=force,
        copies_format=format_,
        check_space=check_space,
        progress=progress,
    )
    paths, left_out = (write_all(store, requests), []) if requests else write_standard(store, split_seed, held)
    return Built(store, [_split(place) for place in paths], left_out, new)


@_with_extra()
def split(
    store: str | Location | DatasetStore | SplitStore,
    *,
    labels: Listed = None,
    mismatch: Listed = None,
    labeled_classes: Listed = None,
    unlabeled_classes: Listed = None,
    split_seed: int = 1,
    valid: int | None = None,
    protocol: str | None = None,
    shares: str | float | Iterable[float] | None = None,
    folds: int | None = None,
    name: str | None = None,
) -> list[SplitStore]:
    """Add split stores to a dataset store: which images are labelled, as index arrays, without pixels.

        >>> built = build("digits", copies=5, root=folder)
        >>> [one.name for one in split(built.store, labels=(30, 60), split_seed=3)]
        ['digits_30_seed3', 'digits_60_seed3']

    Args:
        store: the dataset store, or a split store of it.
        labels: numbers of labelled images, one split each, in total or a class ("4/class"), or "all".
        mismatch: per cent of the unlabelled classes that are foreign, one split each (CIFAR-10).
        labeled_classes: names of the classes that are trained on; None: all.
        unlabeled_classes: names of the classes of the unlabelled images; None: all.
        split_seed: of the draw of the labelled images; STL-10: its predefined fold.
        valid: images held out for validation, taken from the unlabelled ones; None: none.
        protocol: an open-set protocol: "openmatch", "iomatch", "oliver" or "fixed-known".
        shares: of the foreign images, one split each ("fixed-known").
        folds: of a cross-validation over all labels, one split each; alone.
        name: of the split store; None: made from what it is.

    Raises:
        UsageError: the store has too few images for it, or nothing is asked for.
        StoreError: it is no store, or there is another one in the place of the split.
    """
    from pipeline.splits.split_stores import write_all
    from stores import DatasetStore, SplitStore

    split_seed, held = whole("split_seed", split_seed), 0 if valid is None else whole("valid", valid)
    several = None if folds is None else whole("folds", folds)
    requests = _requests(
        labels, mismatch, labeled_classes, unlabeled_classes, split_seed, held, protocol, shares, several
    )
    place = store.path if isinstance(store, DatasetStore | SplitStore) else store
    if not requests:
        raise UsageError(
            "split needs --labels, --mismatch, --labeled-classes, --protocol or --folds",
            hint=f"realmix-data split {place} --labels 40",
        )
    return [_split(path) for path in write_all(_dataset(store), requests, name)]


@_with_extra()
def embed(
    store: str | Location | DatasetStore | SplitStore,
    backbone: str,
    *,
    weights: str | Path = "pretrained",
    size: int | None = None,
    copies: int | None = None,
    recipe: str | None = None,
    recipe_copies: int | None = None,
    weak: bool = True,
    name: str | None = None,
    device: str = "auto",
    batch: int | None = None,
    dask: str | None = None,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> EmbeddingStore:
    """Embed the images and copies of a store with a frozen network, for `train` and `compare` in seconds.

    An interrupted job continues; embeddings that are there already are found.

        >>> made = embed(built.store, "timm:test_efficientnet", weights="none", size=16, copies=2, device="cpu")
        >>> made.name, made.train.shape[0] == built.store.num_images
        ('test_efficientnet-16', True)

    Args:
        store: the dataset store, or a split store of it.
        backbone: "timm:NAME" or "torchvision:NAME".
        weights: "pretrained", "none" (random), or a .safetensors or .pth file.
        size: side in pixels of the network's input; None: that of the weights.
        copies: stored copies of each image to embed; None: 8, or as many as there are.
        recipe: also embed copies by this recipe, without storing them.
        recipe_copies: how many of those; None: as many as `copies`.
        weak: mirror and shift every copy, as training does with pixels.
        name: of the embeddings; None: the network's, and the size.
        device: "auto", "cpu" or "cuda".
        batch: pictures of one forward pass; None: 64, on a GPU 256.
        dask: address of a Dask scheduler whose workers embed.
        force: replace embeddings of another specification.
        progress: called as (what, done, of how many).

    Raises:
        UsageError: the network or an option cannot be used, or an extra is not installed.
        StoreError: there is no such store, the place holds something else, or another job is at work there.
        IntegrityError: images or weights are damaged.
        ResourceError: they would not fit on the disk.
    """
    from pipeline.embedding.job import Request
    from pipeline.embedding.job import embed as embed_store

    request = Request(backbone, str(weights), size, copies, recipe, recipe_copies, weak, device, batch, name)
    report = progress or (lambda *_: None)
    return embed_store(_dataset(store), request, dask=dask, force=force, progress=report)[0]


def target(root: str | Path, name: str | None, source: str, path: str | Path | None, extra: bool) -> Location:
    """Where a store goes: under its name, or one made from the source."""
    place = locate(root if isinstance(root, str) else Path(root))
    if name is not None:
        return place / names.require(name, "--name")
    whole = Path(path).resolve() if path else Path(source)
    return place / ((names.derive(whole.stem if whole.is_file() else whole.name) or source) + "_extra" * extra)


def require_format(name: str) -> str:
    """The name of a format of copies; raises UsageError if there is none of this name."""
    if name not in FORMATS:
        raise UsageError(f"--format {name}: there is no such format", hint=suggest(name, FORMATS))
    return name


def require_copies(copies: int) -> None:
    """Raises UsageError for fewer than one."""
    if copies < 1:
        raise UsageError(
            f"--copies {copies}: a store needs at least one copy of each image", hint="the paper uses --copies 50"
        )


def _requests(
    labels: Listed,
    mismatch: Listed,
    labeled: Listed,
    unlabeled: Listed,
    seed: int,
    valid: int,
    protocol: str | None,
    shares: str | float | Iterable[float] | None,
    folds: int | None = None,
) -> list[Request]:
    from pipeline.splits.split_stores import requests_for

    words = (_words(labels), _words(mismatch), _words(labeled), _words(unlabeled))
    if shares is not None and not isinstance(shares, str):
        shares = ",".join(map(str, [shares] if isinstance(shares, int | float) else shares))
    return requests_for(*words, seed, valid, protocol, shares, folds)


def _words(listed: Listed) -> str | None:
    """A list as a command line has it, names that hold a comma in quotes."""
    if listed is None or isinstance(listed, str):
        return listed
    given: list[object] = list(listed) if isinstance(listed, Iterable) else [listed]
    for one in given:
        if isinstance(one, bool) or not isinstance(one, str | Integral):
            raise UsageError(f"{one!r} is neither a number of images nor a name")
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(given)
    return line.getvalue()


def whole(name: str, value: object) -> int:
    """The option as an int; raises UsageError if it is no whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"{name}={value!r} is no whole number")
    return int(value)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _split(path: Location) -> SplitStore:
    from stores import SplitStore, open_store

    opened = open_store(path)
    assert isinstance(opened, SplitStore)
    return opened


def _dataset(store: str | Location | DatasetStore | SplitStore) -> DatasetStore:
    """The dataset store that is meant: itself, or the one that a split store points to."""
    from stores import DatasetStore, SplitStore, open_store

    opened = store if isinstance(store, DatasetStore | SplitStore) else open_store(store)
    return opened.dataset if isinstance(opened, SplitStore) else opened
