"""A store of embeddings, from its request to its manifest. A job that was interrupted continues."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.building.cluster import cluster
from pipeline.building.executors import Pool
from pipeline.embedding.estimate import require_room
from pipeline.embedding.files import embed_files
from pipeline.embedding.frozen import Frozen, load_frozen, versions
from pipeline.embedding.pictures import Pictures, pictures_of
from pipeline.embedding.remote import EmbedFile
from pipeline.recipes import load_recipe
from stores import DatasetStore
from stores.embeddings import (
    EmbeddingStore,
    describe,
    fingerprint_of,
    layouts,
    location,
    open_embeddings,
)
from stores.errors import StoreError, UsageError
from stores.format import manifest, names
from stores.format.fields import MOST_STRONG
from stores.format.journal import Record
from stores.format.layout import ArrayLayout
from stores.storage.location import Location
from stores.writer import Target, open_target, write_file

Progress = Callable[[str, int, int], None]  # (what, done, of)
Report = Callable[[int, int], None]  # (done, of)
COPIES = 8  # of each image, or as many as there are
PARTS = {"train": "images", "test": "test images", "copies": "copies", "strong": "strong copies"}


@dataclass(frozen=True)
class Request:
    """Which embeddings of a dataset store.

    Attributes:
        backbone: "timm:NAME" or "torchvision:NAME".
        weights: "pretrained", "none" or a file.
        size: side in pixels that pictures are resized to; None: that of the weights.
        copies: K, first copies of each training image; None: 8, or as many as there are.
        recipe: of further copies, which are made and not stored; None: none.
        recipe_copies: S, of each training image; None: as many as K.
        weak: mirror and shift every copy, as training does with every view of pixels.
        device: "auto", "cpu" or "cuda".
        batch: pictures of one forward pass; None: by the device.
        name: of the embeddings; None: made from the network and the size.
    """

    backbone: str
    weights: str = "pretrained"
    size: int | None = None
    copies: int | None = None
    recipe: str | None = None
    recipe_copies: int | None = None
    weak: bool = True
    device: str = "auto"
    batch: int | None = None
    name: str | None = None


def embed(
    dataset: DatasetStore,
    request: Request,
    *,
    dask: str | None = None,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> tuple[EmbeddingStore, bool]:
    """Make embeddings, continue a job that was interrupted, or find them there.

    Args:
        dataset: the dataset store, which is not changed.
        request: which embeddings.
        dask: address of a Dask scheduler, whose workers embed instead of this machine.
        force: replace embeddings of another specification.
        progress: called with (what, pictures embedded, total).

    Returns:
        The embeddings, and whether anything was written.

    Raises:
        UsageError: the network or an option cannot be used.
        StoreError: the place holds something else, or another job is running there.
        IntegrityError: images or weights are damaged.
        ResourceError: they would not fit on the disk; nothing is changed.
    """
    here = replace(request, device="auto") if dask and request.device == "cuda" else request  # the workers have GPUs
    frozen, content = prepare(dataset, here)
    name = name_of(request, frozen)
    path = location(dataset, name)
    weights = str(Path(request.weights).absolute()) if content["weights"] == "file" else request.weights
    require_room(path, content)
    with open_target(path, content, force=force) as target:
        if target is None:
            return open_embeddings(dataset, name), False
        with cluster(dask, path.absolute()) if dask else nullcontext() as workers:
            for part, pictures in pictures_of(dataset, content["spec"]).items():
                array = layouts(content)[part].create(target.path)
                tell = partial(progress, PARTS[part])
                if workers is None:
                    _fill(target, array, frozen, pictures, dataset.image_size, tell)
                else:
                    task = EmbedFile(str(path.absolute()), part, weights, request.device, content["versions"])
                    _fill_remotely(target, array, workers, task, pictures.copies, tell)
        target.finish(fingerprint_of(content))
    return open_embeddings(dataset, name), True


def prepare(dataset: DatasetStore, request: Request) -> tuple[Frozen, dict[str, Any]]:
    """The network of a request, and the manifest of its embeddings without `complete`, `fingerprint` and `files`.

    Precision and batch are those of a job that was interrupted, if there is one.

    Raises:
        UsageError, StoreError, IntegrityError: as `embed`.
    """
    copies, strong = _copies(dataset, request)
    if request.name is not None:
        location(dataset, request.name)
    frozen = load_frozen(request.backbone, request.weights, request.size, device=request.device, batch=request.batch)
    begun = _begun(location(dataset, name_of(request, frozen)))
    if begun is not None:
        batch = request.batch or begun["batch"]
        frozen = replace(frozen, precision=begun["precision"], batch=batch)
    content = describe(
        dataset,
        frozen.network,
        copies=copies,
        strong=strong,
        weak=dict(dataset.weak) if request.weak and (copies or strong) else None,
        precision=frozen.precision,
        batch=frozen.batch,
        versions=versions(),
    )
    return frozen, content


def name_of(request: Request, frozen: Frozen) -> str:
    """The name asked for, or the usual one: "tf_efficientnet_lite0-160", "tf_efficientnet_lite0-160-strong"."""
    own, size = frozen.network.backbone.rpartition(":")[2], str(frozen.network.size)
    second = [Path(request.recipe).stem] if request.recipe else []
    return request.name or names.derive("-".join([own, size, *second]))


def _copies(dataset: DatasetStore, request: Request) -> tuple[int, tuple[dict[str, Any], int] | None]:
    """K, and the spec and number of the copies of a second recipe."""
    there = dataset.num_copies
    copies = min(COPIES, there) if request.copies is None else request.copies
    if not 0 <= copies <= there:
        raise UsageError(
            f"--copies {copies}: '{dataset.path}' has {there} of each image",
            hint=f"--copies 0 … {there}; --recipe makes further copies",
        )
    if request.recipe is None:
        if request.recipe_copies is not None:
            raise UsageError("--recipe-copies needs --recipe", hint="--recipe strong")
        return copies, None
    strong = request.recipe_copies or copies or COPIES
    if not 1 <= strong <= MOST_STRONG:
        raise UsageError(f"--recipe-copies {strong}: from 1 to {MOST_STRONG} of each image")
    recipe = load_recipe(request.recipe, dict(dataset.weak), dataset.image_size)
    return copies, (recipe.spec, strong)


def _begun(path: Location) -> dict[str, Any] | None:
    """Precision and batch of the embeddings there; None if there are none."""
    try:
        content = manifest.read(path, incomplete=True)
    except StoreError:  # whatever is there, `open_target` says what it is
        return None
    return content["arithmetic"] if content["kind"] == "embeddings" else None


def _fill(
    target: Target, array: ArrayLayout, frozen: Frozen, pictures: Pictures, size: tuple[int, int], report: Report
) -> None:
    """Write the files of an array that are not there yet."""
    missing, before, total = _left(target, array, pictures.copies)
    report(before, total)

    def write(index: int, data: bytes) -> None:
        target.record(write_file(target.path, array, index, data))

    if missing:
        embed_files(frozen, array, pictures, size, missing, write, lambda done: report(before + done, total))


def _fill_remotely(
    target: Target, array: ArrayLayout, workers: Pool, task: EmbedFile, copies: int, report: Report
) -> None:
    """Have the workers of a cluster write the files of an array that are not there yet."""
    missing, done, total = _left(target, array, copies)
    report(done, total)

    def finished(index: int, record: Record) -> None:
        nonlocal done
        target.record(record)
        start, stop = array.rows(index)
        done += copies * (stop - start)
        report(done, total)

    workers.run(task, missing, finished)


def _left(target: Target, array: ArrayLayout, copies: int) -> tuple[list[int], int, int]:
    """Files of an array that are not there yet; pictures that are embedded, and of all."""
    rows = [stop - start for start, stop in map(array.rows, range(array.num_files))]
    missing = [index for index in range(array.num_files) if array.key(index) not in target.done]
    total = copies * array.shape[0]
    return missing, total - copies * sum(rows[index] for index in missing), total
