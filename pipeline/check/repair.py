"""`repair`: put back what a store has lost, as far as it follows from what is left.

Files of copies and their params follow from base images, seed and recipe; the images' order from the seed; the arrays'
metadata from the manifest; the indices of a split store from its request. Every file is made first, compared with the
manifest's checksum, written aside and renamed. Base images and labels follow from nothing: they are named, and left as
they are. What a store holds, and so its fingerprint, never changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.build.derive import copies_file, recipe_of
from pipeline.build.executors import local
from pipeline.check.deep_verify import check_file
from pipeline.recipes import Recipe
from pipeline.splits.draw import Split
from pipeline.splits.protocols import draw_again
from pipeline.splits.split_stores import ARRAYS
from stores import DatasetStore, ImageArray, open_store
from stores.draws import order
from stores.errors import IntegrityError, RealMixError, StoreError
from stores.format import layout, manifest
from stores.format.compression import frame_size
from stores.format.shards import encode
from stores.identity import dataset_fingerprint
from stores.storage.confine import require_inside
from stores.storage.location import Location
from stores.storage.lock import exclusive
from stores.system import durable
from stores.verify import Problem, verify
from stores.writer import clear_leftovers, encode_table

SAME = "as it was written, byte for byte"
ANEW = "the same content in other bytes (another version of zstd or zarr); its checksum in the manifest is new"
LATER = "can be derived again once the metadata is back"
RIGHT = "was right: its checksum in the manifest was not, and is new"
AGAIN = "build the store again from its source under another --name, or remove it and build it again"


@dataclass
class Report:
    """What was done, by file: how it came back, or what is lost with it and why nothing can bring it back."""

    restored: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


def repair(
    store: Location, *, dry_run: bool = False, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Report:
    """Restore a dataset store, or a split store and its dataset store (whose files are listed as `<name>/<file>`).

    Args:
        dry_run: only say what would be done.
        progress: called with (what, done, of).

    Raises:
        IntegrityError: the manifest is lost or damaged: nothing says what the files should be.
        StoreError: there is no store, its build has not finished, or its split is not of the dataset store there.
    """
    content = _manifest(store)
    if content["kind"] == "dataset":
        return _repair(store, content, dry_run, lambda work: _dataset(work, progress))
    dataset = store.resolve().parent / content["dataset"]["name"]
    inner = repair(dataset, dry_run=dry_run, progress=progress)
    report = _repair(store, content, dry_run, lambda work: _split(work, dataset, inner))
    for ours, theirs in ((report.restored, inner.restored), (report.lost, inner.lost)):
        ours.update({f"{dataset.name}/{key}": said for key, said in theirs.items()})
    return report


class _Work:
    """One store being repaired: what is damaged, what has come back, what the manifest is to say of it."""

    def __init__(self, store: Location, content: dict[str, Any], problems: list[Problem], dry_run: bool) -> None:
        self.store, self.content, self.dry_run = store, content, dry_run
        self.damaged = {problem.file: problem.what for problem in problems}
        self.report = Report()
        self._before: dict[str, bytes | None] = {}

    def expects(self, key: str, data: bytes) -> bool:
        """Whether these are the bytes that the manifest knows."""
        return self.content["files"].get(key, {}).get("sha256") == hashlib.sha256(data).hexdigest()

    def put(self, key: str, data: bytes) -> None:
        """Put a file back; the manifest learns its checksum if that is another one."""
        there = self.on_disk(key)
        how = SAME if self.expects(key, data) else RIGHT if there == data else ANEW
        self._before.setdefault(key, there)
        if not self.dry_run and there != data:
            require_inside(self.store, self.store / key)
            if isinstance(self.store, Path):
                durable.make_folder((self.store / key).parent)
            manifest.write_atomically(self.store / key, data)
        if how != SAME:
            self.content["files"][key] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            self.save()
        self.report.restored[key] = how

    def take_back(self, key: str, files: dict[str, Any]) -> None:
        """Leave a file as it was found: what was put there could not be shown to be right."""
        before = self._before[key]
        if not self.dry_run:
            if before is None:
                (self.store / key).unlink()
            else:
                manifest.write_atomically(self.store / key, before)
        self.content["files"] = files
        self.save()
        del self.report.restored[key]

    def lose(self, key: str, why: str) -> None:
        self.report.lost[key] = f"{self.damaged[key]}; {why}"

    def on_disk(self, key: str) -> bytes | None:
        try:
            return (self.store / key).read_bytes()
        except OSError:
            return None

    def save(self) -> None:
        if not self.dry_run:
            manifest.write(self.store, self.content)


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


def _repair(store: Location, content: dict[str, Any], dry_run: bool, work_on: Callable[[_Work], None]) -> Report:
    problems = verify(store)
    if not dry_run:
        clear_leftovers(store)
    if not problems:
        return Report()
    with exclusive(store):
        if (now := _manifest(store)) != content:  # another repair or build was there meanwhile
            content, problems = now, verify(store)
        work = _Work(store, content, problems, dry_run)
        work_on(work)
    for key in work.damaged.keys() - work.report.restored.keys() - work.report.lost.keys():
        again = f"`realmix-data export {store} --format ffcv` writes it again"
        work.lose(key, again if key.endswith(".beton") else "nothing it could be derived from")
    return work.report


def _dataset(work: _Work, progress: Callable[[str, int, int], None]) -> None:
    before = {key: dict(facts) for key, facts in work.content["files"].items()}
    _metadata(work, _arrays(work))
    _order(work)
    doubtful = [key for key, how in work.report.restored.items() if how != SAME]
    base = [key for key in work.damaged if key.startswith(("train/", "test/", "folds/")) and "/c/" in key]
    base = [key for key in base if key not in work.report.restored]
    if base or any(not key.startswith("copies/") for key in doubtful):
        proven = _is_what_the_fingerprint_says(work)
        for key in base:
            there, again = work.on_disk(key), _encoded_again(work, key)
            if again is not None and work.expects(key, again):
                work.put(key, again)
            elif proven and there is not None:
                work.put(key, there)
            else:
                work.lose(key, "images and labels follow from nothing else")
        for key in [] if proven else [k for k in doubtful if not k.startswith("copies/")]:
            work.take_back(key, before)
            work.lose(key, "written by another version of zarr, and the data cannot show what it was")
    _copies(work, before, progress)


def _arrays(work: _Work) -> list[list[layout.ArrayLayout]]:
    """Every array of a dataset store as a build lays it out; where the manifest leaves a shape open, each it may be."""
    content = work.content
    count, copies, (height, width) = content["num_images"], content["num_copies"], content["image_size"]
    pixels = layout.copies("copies/images", count, copies, height, width)
    arrays = [
        layout.images("train/images", count, height, width),
        layout.images("test/images", content["num_test"], height, width),
        pixels,
        layout.params("copies/params", pixels, len(content["recipe_columns"])),
        *(_table(name, count) for name in ("train/labels", "train/source_index")),
        _table("test/labels", content["num_test"]),
    ]
    size = frame_size(work.on_disk("folds/c/0/0") or b"") // 8
    folds = [_table("folds", n, size // n) for n in range(1, min(size, count) + 1) if size % n == 0]
    return [[array] for array in arrays] + [folds]


def _as_there(work: _Work, array: layout.ArrayLayout) -> layout.ArrayLayout:
    """With the kind of checksum that its metadata say, or those that the manifest knows, or the other arrays'."""
    key = f"{array.name}/zarr.json"
    if (kept := _kept_checksum(work, array.name)) is not None:
        return replace(array, checksum=kept)
    for kind in (array, replace(array, checksum="zstd")):
        if work.expects(key, kind.metadata()[key]):
            return kind
    others = (_kept_checksum(work, name.removesuffix("/zarr.json")) for name in work.content["files"])
    return replace(array, checksum=next(filter(None, others), array.checksum))


def _kept_checksum(work: _Work, name: str) -> str | None:
    """The kind of checksum of an array whose metadata is sound."""
    with contextlib.suppress(RealMixError):
        return None if f"{name}/zarr.json" in work.damaged else layout.load(work.store, name).checksum
    return None


def _table(name: str, *shape: int) -> layout.ArrayLayout:
    return layout.table(name, np.broadcast_to(np.int64(0), shape))


def _metadata(work: _Work, arrays: list[list[layout.ArrayLayout]]) -> None:
    """Write the damaged zarr.json of arrays and groups as a build would."""
    wanted = {key for key in work.damaged if key.endswith("/zarr.json")}
    for shapes in arrays:
        for array in shapes:
            own = f"{array.name}/zarr.json"
            if not wanted & {own, f"{array.name.partition('/')[0]}/zarr.json"}:
                continue
            made = _as_there(work, array).metadata()
            if len(shapes) > 1 and own in wanted and not work.expects(own, made[own]):
                continue  # of the shapes that are possible, the one with the checksum
            for key in sorted(wanted & made.keys() - work.report.restored.keys()):
                work.put(key, made[key])


def _order(work: _Work) -> None:
    """Draw the order of the images again."""
    name = "train/source_index"
    if f"{name}/c/0" not in work.damaged:
        return
    table = order(work.content["spec"]["seed"], "order", work.content["num_images"])
    data = encode(_as_there(work, layout.table(name, table)), 0, table)
    if work.expects(f"{name}/c/0", data):
        work.put(f"{name}/c/0", data)


def _encoded_again(work: _Work, key: str) -> bytes | None:
    """The rows of a damaged file that can still be read, as they are written: a bit that says nothing may be wrong."""
    try:
        array = ImageArray(work.store, key.partition("/c/")[0])
        index = _file_number(key)
        return encode(array.layout, index, array.read(np.arange(*array.layout.rows(index))))
    except RealMixError:
        return None


def _is_what_the_fingerprint_says(work: _Work) -> bool:
    try:
        # whatever their files are: what is in them is compared
        content = {name: value for name, value in work.content.items() if name != "files"}
        return dataset_fingerprint(DatasetStore(work.store, content)) == work.content["fingerprint"]
    except RealMixError:
        return False


def _copies(work: _Work, before: dict[str, Any], progress: Callable[[str, int, int], None]) -> None:
    """Derive every damaged file of copies or params again."""
    keys = [key for key in work.damaged if key.startswith("copies/") and "/c/" in key]
    doubtful = [key for key, how in work.report.restored.items() if key.startswith("copies/") and how != SAME]
    if not keys and not doubtful:
        return
    try:
        recipe = recipe_of(DatasetStore(work.store, work.content))
    except RealMixError as error:  # made with another version of albumentations, say
        for key in doubtful:
            work.take_back(key, before)
        for key in [*keys, *doubtful]:
            work.lose(key, error.what)
        return
    indices = sorted({_file_number(key) for key in keys})
    if work.dry_run and any(key.endswith("zarr.json") for key in work.report.restored):
        work.report.restored.update(dict.fromkeys(keys, LATER))
        return
    holds = _recipe_holds(work, recipe)
    for key in [] if holds else doubtful:
        work.take_back(key, before)
        work.lose(key, "written by another version of zarr, and the data cannot show what it was")
    done = 0

    def finished(index: int, made: tuple[bytes, bytes] | str) -> None:
        nonlocal done
        done += 1
        progress("files derived again", done, len(indices))
        for key in keys:
            if _file_number(key) != index:
                continue
            if isinstance(made, str):
                work.lose(key, f"what it is derived from is damaged: {made}")
                continue
            data = made[0] if key.startswith("copies/params/") else made[1]
            if work.expects(key, data) or holds:
                work.put(key, data)
            else:
                work.lose(key, "the recipe no longer makes what it made: another version of its libraries")

    with local(recipe, len(os.sched_getaffinity(0))) as pool:
        pool.run(partial(_derive, work.store), indices, finished)


def _derive(store: Location, index: int) -> tuple[bytes, bytes] | str:
    """A task: what `copies_file` gives, or in words why it gives nothing."""
    opened = open_store(store)
    assert isinstance(opened, DatasetStore)
    try:
        return copies_file(opened, recipe_of(opened), index)
    except (IntegrityError, StoreError) as error:
        return error.what


def _file_number(key: str) -> int:
    return int(key.partition("/c/")[2].partition("/")[0])


def _recipe_holds(work: _Work, recipe: Recipe) -> bool:
    """Whether copies made today are those of the build: a sound file shows it; where there is none, NumPy's do."""
    try:
        pixels = layout.load(work.store, "copies/images")
        params = layout.load(work.store, "copies/params")
    except RealMixError:
        return False
    sound = (i for i in range(pixels.num_files) if not {pixels.key(i), params.key(i)} & work.damaged.keys())
    witness = next(sound, None)
    try:
        return recipe.vectorised if witness is None else not check_file(str(work.store), witness)
    except RealMixError:
        return False


def _split(work: _Work, dataset: Location, inner: Report) -> None:
    """Draw the indices again; they are right if the fingerprint, which covers them, is the manifest's."""
    try:
        opened = open_store(dataset)
        assert isinstance(opened, DatasetStore)
        if opened.fingerprint != work.content["dataset"]["fingerprint"]:
            raise StoreError(f"'{dataset}' is not the dataset store that '{work.store}' was made from")
        drawn = draw_again(opened, work.content)
        found = next((split for split in drawn if _fingerprint(work, split) == work.content["fingerprint"]), None)
    except (RealMixError, KeyError, TypeError, ValueError) as error:
        for key in work.damaged:
            work.lose(key, f"its rows cannot be drawn again: {error}")
        return
    for key in work.damaged if found is None else ():
        work.lose(key, "its rows cannot be drawn again")
    if found is None:
        return
    files: dict[str, bytes] = {}
    for name in ARRAYS:
        table = getattr(found, name).astype(np.int64)
        array = _as_there(work, layout.table(name, table))
        files |= {**array.metadata(), array.key(0): encode_table(array, table)}
    for key in sorted(work.damaged.keys() & files.keys()):
        work.put(key, files[key])


def _fingerprint(work: _Work, split: Split) -> str:
    """Of the split store that this split would make with the manifest that is there."""
    content = {name: value for name, value in work.content.items() if name not in ("complete", "fingerprint", "files")}
    digests = {name: hashlib.sha256(getattr(split, name).astype("<i8").tobytes()).hexdigest() for name in ARRAYS}
    return manifest.fingerprint(content, digests)
