"""`repair`: restore the damaged and missing files of a store that follow from what is left.

    copies/images, copies/params   from the base images, the seed and the recipe
    train/source_index             from the seed
    zarr.json of arrays and groups from the manifest
    index arrays of a split store  from the request in its manifest

Every file is made in memory, compared with the checksum in the manifest, and written atomically. Copies and indices may
come back compressed to other bytes by another version of zstd; they are accepted if their content is proven, copies by
an intact file of copies that the recipe still reproduces, splits by their fingerprint. Base images, labels and folds
follow from nothing else: they are reported and left as they are. The fingerprint of a store never changes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.building.derive import copies_file, recipe_of
from pipeline.building.executors import local
from pipeline.check.deep_verify import check_file
from pipeline.check.embeddings import restore
from pipeline.recipes import Recipe
from pipeline.splits.draw import Split
from pipeline.splits.protocols import draw_again
from pipeline.splits.split_stores import ARRAYS
from stores import DatasetStore, open_store
from stores.draws import order
from stores.errors import IntegrityError, RealMixError, StoreError
from stores.format import file_names, layout, manifest
from stores.format.compression import frame_size
from stores.format.shards import encode
from stores.storage.confine import read_inside, require_inside
from stores.storage.location import Location
from stores.storage.lock import exclusive
from stores.system import durable, process
from stores.verify import verify
from stores.writer import clear_leftovers, encode_table

SAME = "same bytes as before"
ANEW = "same content, compressed by another version of zstd; the manifest has its new checksum"
LATER = "can be derived again once the metadata is back"
AGAIN = "build the store again from its source under another --name, or remove it and build it again"
_Progress = Callable[[str, int, int], None]  # (what, done, of)


@dataclass
class Report:
    """What was done to each damaged file.

    Attributes:
        restored: how it was restored, by file.
        lost: what is lost and why it cannot be restored, by file.
    """

    restored: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


def repair(
    store: Location, *, dry_run: bool = False, weights: str | None = None, progress: _Progress = lambda *_: None
) -> Report:
    """Restore a dataset store, or a split store together with its dataset store (listed as `<name>/<file>`).

    Args:
        store: the dataset store or split store, or embeddings.
        dry_run: only report what would be done.
        weights: of embeddings, the file that they came from.
        progress: called with (what, done, of).

    Raises:
        IntegrityError: the manifest is lost or damaged, so that nothing says what the files should be.
        StoreError: there is not a store, its build has not finished, or the split is not of the dataset store there.
    """
    content = _manifest(store)
    if content["kind"] == "dataset":
        return _repair(store, content, dry_run, lambda work: _dataset(work, progress))
    if content["kind"] == "embeddings":
        return _repair(store, content, dry_run, lambda work: restore(work, weights, progress))
    dataset = store.resolve().parent / content["dataset"]["name"]
    inner = repair(dataset, dry_run=dry_run, progress=progress)
    report = _repair(store, content, dry_run, lambda work: _split(work, dataset))
    for ours, theirs in ((report.restored, inner.restored), (report.lost, inner.lost)):
        ours.update({f"{dataset.name}/{key}": said for key, said in theirs.items()})
    return report


@dataclass
class Work:
    """One store under repair: its manifest, and what is damaged, restored and lost so far."""

    store: Location
    content: dict[str, Any]
    damaged: dict[str, str]  # what is wrong, by file
    dry_run: bool
    report: Report = field(default_factory=Report)

    def expects(self, key: str, data: bytes) -> bool:
        """Whether the manifest has the checksum of these bytes."""
        return bool(self.content["files"].get(key, {}).get("sha256") == hashlib.sha256(data).hexdigest())

    def restore(self, key: str, data: bytes) -> None:
        """Write a file; if its bytes are not those of the manifest, the manifest gets their checksum."""
        same = self.expects(key, data)
        if not self.dry_run:
            require_inside(self.store, self.store / key)
            if isinstance(self.store, Path):
                durable.make_folder((self.store / key).parent)
            manifest.write_atomically(self.store / key, data)
            if not same:
                self.content["files"][key] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                manifest.write(self.store, self.content)
        self.report.restored[key] = SAME if same else ANEW

    def restore_same(self, files: dict[str, bytes]) -> None:
        """Write those of these files that are damaged and whose bytes are the manifest's."""
        for key in sorted(self.damaged.keys() & files.keys() - self.report.restored.keys()):
            if self.expects(key, files[key]):
                self.restore(key, files[key])

    def lose(self, key: str, why: str) -> None:
        """Report a file that cannot be restored."""
        self.report.lost[key] = f"{self.damaged[key]}; {why}"


def _manifest(store: Location) -> dict[str, Any]:
    try:
        return manifest.read(store)
    except StoreError as error:
        left = [name for name in ("train", "copies", "labeled") if (store / name).exists()]
        if not left or "not complete" in error.what or "store format" in error.what:
            raise
        raise IntegrityError(
            f"the manifest of '{store}' is lost or damaged: nothing says what its files should be", str(error), AGAIN
        ) from None


def _repair(store: Location, content: dict[str, Any], dry_run: bool, work_on: Callable[[Work], None]) -> Report:
    problems = verify(store)
    if not dry_run:
        clear_leftovers(store)
    if not problems:
        return Report()
    with exclusive(store):
        if (now := _manifest(store)) != content:  # another repair or build has changed it meanwhile
            content, problems = now, verify(store)
        work = Work(store, content, {problem.file: problem.what for problem in problems}, dry_run)
        work_on(work)
    for key in work.damaged.keys() - work.report.restored.keys() - work.report.lost.keys():
        again = f"`realmix-data export {store} --format ffcv` writes it again"
        work.lose(key, again if key.endswith(".beton") else "it cannot be derived from anything else")
    return work.report


def _dataset(work: Work, progress: _Progress) -> None:
    for array in _arrays(work.content, work.store):
        work.restore_same(array.metadata())
    if "train/source_index/c/0" in work.damaged:
        rows = order(work.content["spec"]["seed"], "order", work.content["num_images"])
        index = layout.table("train/source_index", rows)
        work.restore_same({index.key(0): encode(index, 0, rows)})
    _copies(work, progress)


def _arrays(content: dict[str, Any], store: Location) -> list[layout.ArrayLayout]:
    """Every array that a dataset store with this manifest may have.

    The manifest does not say how the rows of predefined folds are divided: every shape that fits their file is listed.
    How long the names of files are, their own file says.
    """
    count, copies, tests = content["num_images"], content["num_copies"], content["num_test"]
    height, width = content["image_size"]
    made = [
        layout.copies("copies/images", count, copies, height, width, largest)
        for largest in layout.CHUNKS_OF_LARGE_IMAGES
    ]
    arrays = [
        layout.images("train/images", count, height, width),
        layout.images("test/images", tests, height, width),
        *made,
        *(layout.params("copies/params", pixels, len(content["recipe_columns"])) for pixels in made),
        _table("train/labels", count),
        _table("train/source_index", count),
        _table("test/labels", tests),
    ]
    size = _content_size(store, "folds/c/0/0") // 8
    arrays += [_table("folds", n, size // n) for n in range(1, min(size, count) + 1) if size % n == 0]
    named = {name: _content_size(store, f"{name}/c/0") for name in (file_names.TRAIN, file_names.TEST)}
    return arrays + [_table(name, max(size, 0), dtype=np.uint8) for name, size in named.items()]


def _content_size(store: Location, key: str) -> int:
    """Bytes that the single chunk of an array decodes to; 0 or less if it is not there, empty or damaged."""
    with contextlib.suppress(OSError, IntegrityError):
        return frame_size(read_inside(store, store / key))
    return 0


def _table(name: str, *shape: int, dtype: type = np.int64) -> layout.ArrayLayout:
    return layout.table(name, np.broadcast_to(dtype(0), shape))


def _copies(work: Work, progress: _Progress) -> None:
    """Derive every damaged file of copies or params again."""
    keys = [key for key in work.damaged if key.startswith("copies/") and "/c/" in key]
    if not keys:
        return
    if work.dry_run and any(key.endswith("zarr.json") for key in work.report.restored):
        work.report.restored.update(dict.fromkeys(keys, LATER))
        return
    try:
        recipe = recipe_of(DatasetStore(work.store, work.content))
    except RealMixError as error:  # made with another version of albumentations, say
        for key in keys:
            work.lose(key, error.what)
        return
    holds = _recipe_holds(work, recipe)
    indices = sorted({_file_number(key) for key in keys})
    done = 0

    def finished(index: int, made: dict[str, bytes] | str) -> None:
        nonlocal done
        done += 1
        progress("files derived again", done, len(indices))
        for key in (key for key in keys if _file_number(key) == index):
            if isinstance(made, str):
                work.lose(key, f"what it is derived from is damaged: {made}")
            elif (data := made[key.rpartition("/c/")[0]]) and (holds or work.expects(key, data)):
                work.restore(key, data)
            else:
                work.lose(key, "the recipe now makes other copies: a library it uses has another version")

    with local(recipe, process.cores()) as pool:
        pool.run(partial(_derive, work.store), indices, finished)


def _derive(store: Location, index: int) -> dict[str, bytes] | str:
    """A task: the `index`-th file of each array of copies, or why it cannot be derived."""
    opened = open_store(store)
    assert isinstance(opened, DatasetStore)
    try:
        params, images = copies_file(opened, recipe_of(opened), index)
    except (IntegrityError, StoreError) as error:
        return error.what
    return {"copies/params": params, "copies/images": images}


def _file_number(key: str) -> int:
    return int(key.partition("/c/")[2].partition("/")[0])


def _recipe_holds(work: Work, recipe: Recipe) -> bool:
    """Whether the recipe still makes the copies of the build.

    An intact file of copies shows it. If there is none, recipes in NumPy are taken to do so, others are not.
    """
    try:
        pixels = layout.load(work.store, "copies/images")
        params = layout.load(work.store, "copies/params")
        intact = (i for i in range(pixels.num_files) if not {pixels.key(i), params.key(i)} & work.damaged.keys())
        index = next(intact, None)
        return recipe.vectorised if index is None else not check_file(str(work.store), index)
    except RealMixError:
        return False


def _split(work: Work, dataset: Location) -> None:
    """Draw the rows again; they are right if they give the fingerprint in the manifest, which covers them."""
    try:
        opened = open_store(dataset)
        assert isinstance(opened, DatasetStore)
        if opened.fingerprint != work.content["dataset"]["fingerprint"]:
            raise StoreError(f"'{dataset}' is not the dataset store that '{work.store}' was made from")
        drawn = draw_again(opened, work.content)
        found = next(split for split in drawn if _fingerprint(work, split) == work.content["fingerprint"])
    except (RealMixError, KeyError, TypeError, ValueError, StopIteration) as error:
        for key in work.damaged:
            work.lose(key, f"its rows cannot be drawn again: {error}".removesuffix(": "))
        return
    for name in ARRAYS:
        rows = getattr(found, name).astype(np.int64)
        array = layout.table(name, rows)
        work.restore_same(array.metadata())
        if array.key(0) in work.damaged:
            work.restore(array.key(0), encode_table(array, rows))


def _fingerprint(work: Work, split: Split) -> str:
    """Fingerprint of the split store that these rows would make with the manifest that is there."""
    content = {name: value for name, value in work.content.items() if name not in ("complete", "fingerprint", "files")}
    digests = {name: hashlib.sha256(getattr(split, name).astype("<i8").tobytes()).hexdigest() for name in ARRAYS}
    return manifest.fingerprint(content, digests)
