"""Building: the same bytes whatever happens, and nothing of anybody's lost."""

from __future__ import annotations

import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_stores import build_stores

from pipeline.building import build as builds
from pipeline.building.build import build
from pipeline.check.deep_verify import check_copies
from pipeline.recipes import load_recipe
from pipeline.sources import Part
from stores import open_store
from stores.errors import StoreError, UsageError
from stores.format import manifest
from stores.verify import verify


def bytes_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def make(path, source, name="cutout", **options):
    options = {"copies": 5, "seed": 1, "workers": 2} | options
    return build(path, source, load_recipe(name, source.weak, source.train.images.shape[1:3]), **options)


def quiet(*_):
    pass


def test_one_worker_and_many_write_the_same_bytes(tiny, source, tmp_path):
    make(tmp_path / "one", source, workers=1)
    make(tmp_path / "four", source, workers=4)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "four") == bytes_of(tiny)


def test_fewer_copies_are_the_first_of_many(tiny, source, tmp_path):
    few, _ = make(tmp_path / "few", source, copies=2)
    many = open_store(tiny)
    assert (few.copies.read() == many.copies.read(copies=2)).all()
    assert few.fingerprint != many.fingerprint


def test_another_seed_is_another_store(tiny, source, tmp_path):
    other, _ = make(tmp_path / "other", source, seed=2)
    ours = open_store(tiny)
    assert (other.source_index != ours.source_index).any()
    assert (other.read_params() != ours.read_params()).any()
    assert other.fingerprint != ours.fingerprint


def test_building_again_changes_nothing(tiny_copy, source):
    before = {p: p.stat().st_mtime_ns for p in tiny_copy.rglob("*")}
    store, new = make(tiny_copy, source)
    assert not new
    assert {p: p.stat().st_mtime_ns for p in tiny_copy.rglob("*")} == before
    assert store.num_copies == 5


def test_another_specification_is_refused_and_named(tiny_copy, source):
    before = bytes_of(tiny_copy)
    with pytest.raises(StoreError, match=r"copies \(5 there, 6 asked for\)"):
        make(tiny_copy, source, copies=6)
    with pytest.raises(StoreError, match=r"recipe\.kind"):
        make(tiny_copy, source, "erase")
    with pytest.raises(StoreError, match="split store"):
        make(tiny_copy.with_name("tiny_20"), source)
    assert bytes_of(tiny_copy) == before


def test_force_replaces_a_store_but_never_a_folder_of_something_else(tiny_copy, source, tmp_path):
    store, new = make(tiny_copy, source, copies=2, force=True)
    assert new
    assert store.num_copies == 2
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "cat.jpg").write_text("meow")
    with pytest.raises(StoreError, match="not a store"):
        make(precious, source, force=True)
    assert (precious / "cat.jpg").read_text() == "meow"


def test_killed_before_torn_and_after_every_write(tmp_path):
    script = Path(__file__).with_name("killed_builds.py")
    command = [sys.executable, "-W", "error", str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 24


def test_a_full_disk_leaves_a_build_that_continues(tiny, source, tmp_path, monkeypatch):
    plain, left = manifest.write_atomically, [6]

    def full(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        plain(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            make(tmp_path / "store", source)
    with pytest.raises(StoreError, match="not complete"):
        open_store(tmp_path / "store")
    make(tmp_path / "store", source)
    assert bytes_of(tmp_path / "store") == bytes_of(tiny)


class Broken:
    """Images that cannot be read beyond the hundredth."""

    def __init__(self, images):
        self._images, self.shape = images, images.shape

    def __getitem__(self, rows):
        if np.max(rows) >= 100:
            raise UsageError("'cat/17.jpg' is no image")
        return self._images[rows]


def test_an_unusable_source_leaves_nothing_behind(source, tmp_path):
    broken = replace(source, train=Part(Broken(source.train.images), source.train.labels))
    with pytest.raises(UsageError, match=r"cat/17\.jpg"):
        make(tmp_path / "store", broken)
    assert list(tmp_path.iterdir()) == []


def test_two_builds_at_once_one_is_told(source, tmp_path):
    told = []

    def meanwhile(what, done, of):
        if not told:
            with pytest.raises(StoreError, match="another build is running") as error:
                make(tmp_path / "store", source)
            told.append(error)

    _, new = make(tmp_path / "store", source, progress=meanwhile)
    assert new
    assert told
    assert verify(tmp_path / "store") == []


@pytest.mark.parametrize("name", ["cutout", "erase", "simple", "color"])
def test_copies_are_what_their_params_say(source, tmp_path, name):
    few = replace(source, train=Part(source.train.images[::15], source.train.labels[::15]))
    store, _ = make(tmp_path / "store", few, name, copies=3)
    assert check_copies(store, quiet) == []
    base = store.train_images.read()
    assert (store.copies.read() != base[:, None]).any()


def named(store: Path, record: dict) -> None:
    """Let the manifest name the file that was written."""
    content = manifest.read(store)
    content["files"][record["key"]] = {"bytes": record["bytes"], "sha256": record["sha256"]}
    manifest.write(store, content)


def test_deep_verification_names_what_is_not_derived(source, tmp_path, monkeypatch):
    """A store whose files are sound, but whose copies, params or images are not what the manifest promises."""
    from stores.format import layout, shards
    from stores.writer import write_file

    path = build_stores(tmp_path, source)
    store = open_store(path)
    for name, values, message in [
        ("copies/images", store.copies.read(), "copies/images: row 7, copy 2"),
        ("copies/params", store.read_params(), "copies/params: row 7, copy 2"),
    ]:
        array = layout.load(path, name)
        good = (path / array.key(0)).read_bytes()
        values[7, 2] ^= 1
        named(path, write_file(path, array, 0, shards.encode(array, 0, values)))
        assert any(p.startswith(message) for p in check_copies(open_store(path), quiet))
        named(path, write_file(path, array, 0, good))
    array = layout.load(path, "train/images")
    images = store.train_images.read()
    images[3] ^= 1
    named(path, write_file(path, array, 0, shards.encode(array, 0, images)))
    assert any("fingerprint" in p for p in check_copies(open_store(path), quiet))


@pytest.mark.parametrize("left", [b"", b"{", None], ids=["empty", "torn", "none"])
def test_a_build_mends_the_metadata_of_what_it_continues(tmp_path, source, tiny, monkeypatch, left):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(builds, "dataset_fingerprint", killed)  # all is written, the store is not complete
        with pytest.raises(Killed):
            build_stores(tmp_path, source)
    for name in ("train/images", "copies/images", "train/labels"):
        (tmp_path / "tiny" / name / "zarr.json").write_bytes(left or b"")
        if left is None:
            (tmp_path / "tiny" / name / "zarr.json").unlink()
    store = build_stores(tmp_path, source)
    assert verify(store) == []
    assert open_store(store).fingerprint == open_store(tiny).fingerprint
