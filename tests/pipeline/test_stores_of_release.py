"""Stores in `fixtures/stores_0.1.0.tar.xz`, built by realmix 0.1.0, stay usable by every later version.

The archive holds `pictures/`, 24 PNG files in three classes; `stores/old` with its split store `old_6`, built by
`realmix-data build folder pictures --copies 3 --size 12 --labels 6`; and `stores/unfinished`, the same build killed
before its first file of copies. Never rebuild it with newer code: it is what users have on their disks.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import zstandard

from pipeline.building.build import build
from pipeline.check.deep_verify import check_copies
from pipeline.check.repair import repair
from pipeline.recipes import load_recipe
from pipeline.sources import Part, Source
from stores import open_store
from stores.format import compression, layout
from stores.verify import verify

ARCHIVE = Path(__file__).parents[1] / "fixtures/stores_0.1.0.tar.xz"
DATASET = "18649c0c314c90e8c1015a06fdf5f9044feb47ca565113c1fc5135830d177ae2"
SPLIT = "854553e6e4b53297fc875c0950dfe8ec4bede28c230b288e8f66e54d77fbaedd"
PIXELS = "394618212265570aaaa3bb74c4cf66c3289c0a51a1e6c918cf34d6f9eab3e76b"  # SHA-256 of the copies
BUILD = "build folder pictures --copies 3 --root stores --labels 6 --size 12 --quiet"
SAME_ZSTD = zstandard.ZSTD_VERSION == (1, 5, 7)  # another version may compress to other bytes


@pytest.fixture
def unpacked(tmp_path, monkeypatch) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(line: str) -> str:
    """Run `realmix-data` or `realmix-train` as a user does; returns its output, which must report success."""
    program, *words = shlex.split(line)
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_it_opens_and_verifies(unpacked):
    split = open_store("stores/old_6")
    assert (split.fingerprint, split.dataset.fingerprint) == (SPLIT, DATASET)
    assert split.class_names == ["ant", "bee", "cow"]
    copies = split.dataset.copies.read()
    assert (copies.shape, hashlib.sha256(copies.tobytes()).hexdigest()) == ((21, 3, 12, 12, 3), PIXELS)
    assert np.bincount(split.train_labels[split.labeled]).tolist() == [2, 2, 2]
    assert "sound" in command("realmix-data verify stores/old_6 --deep --quiet")


@pytest.mark.parametrize(
    "lost",
    [
        "old/copies/images/c/0/0/0/0/0",
        "old/copies/params/c/0/0/0",
        "old/train/source_index/c/0",
        "old_6/unlabeled/c/0",
        "old/copies/images/zarr.json",
        "old_6/labeled/zarr.json",
    ],
)
def test_a_lost_file_is_repaired_to_the_same_bytes(unpacked, lost):
    whole = bytes_of(unpacked / "stores")
    (unpacked / "stores" / lost).unlink()
    command("realmix-data repair stores/old_6 --quiet")
    if SAME_ZSTD:
        assert bytes_of(unpacked / "stores") == whole
    assert "sound" in command("realmix-data verify stores/old_6 --deep --quiet")
    assert open_store("stores/old_6").fingerprint == SPLIT


@pytest.mark.parametrize("name", ["old", "unfinished"])
def test_a_build_finds_it_or_continues_it(unpacked, name):
    images = unpacked / "stores" / name / "train/images/c/0/0/0/0"
    written = images.stat().st_mtime_ns
    out = command(f"realmix-data {BUILD} --name {name}")
    assert ("already built" in out) == (name == "old")
    assert images.stat().st_mtime_ns == written
    split = open_store(f"stores/{name}_6")
    assert split.dataset.fingerprint == DATASET
    assert hashlib.sha256(split.dataset.copies.read().tobytes()).hexdigest() == PIXELS
    assert "sound" in command(f"realmix-data verify stores/{name}_6 --deep --quiet")


def test_new_splits_are_drawn_from_it(unpacked):
    command("realmix-data split stores/old --labels 6 --name again")
    (one, other) = (open_store(f"stores/{name}") for name in ("old_6", "again"))
    assert one.fingerprint == other.fingerprint
    command("realmix-data split stores/old --labeled-classes ant,bee --unlabeled-classes bee,cow --labels 4 --name odd")
    assert open_store("stores/odd").class_names == ["ant", "bee"]


def test_a_run_trains_from_it(unpacked):
    line = "--store stores/old_6 --model wrn-10-1 --steps 2 --batch 4 --device cpu --threads 1 --seed 1 --quiet"
    command(f"realmix-train {line} --name first --set tensorboard=false")
    assert SPLIT in Path("runs/first/config.json").read_text()


@pytest.fixture
def photographs() -> Source:
    """Images so large that version 0.1.0 spread the copies of one over two chunks."""
    images = np.random.default_rng(0).integers(0, 256, (21, 300, 300, 3), np.uint8)
    train, test = Part(images[:18], np.arange(18) % 2), Part(images[18:], np.arange(3) % 2)
    weak = {"flip": True, "shift": 4}
    return Source("arrays", train, test, class_names=["ant", "bee"], weak=weak, origin={"kind": "test"})


def make(path: Path, source: Source, progress=None):
    recipe = load_recipe("cutout", source.weak, source.train.images.shape[1:3])
    return build(path, source, recipe, copies=41, workers=1, progress=progress)[0]


def test_photographs_of_release_are_continued_and_repaired(photographs, tmp_path, monkeypatch):
    def stop_after_a_file(what, done, of):
        if what == "copies" and 0 < done < of:
            raise KeyboardInterrupt

    new = make(tmp_path / "new", photographs)
    with monkeypatch.context() as release:
        release.setattr(layout, "copies", partial(layout.copies, largest=layout.CHUNK_BYTES))
        release.setattr(compression, "window_of", lambda _: compression.SMALL_WINDOW)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "old", photographs, stop_after_a_file)
    begun = (tmp_path / "old/copies/images/c/0/0/0/0/0").read_bytes()
    old = make(tmp_path / "old", photographs)
    assert old.fingerprint == new.fingerprint
    assert (old.copies.layout.chunk[1], new.copies.layout.chunk[1]) == (38, 41)
    assert (tmp_path / "old/copies/images/c/0/0/0/0/0").read_bytes() == begun
    assert (old.copies.read() == new.copies.read()).all()

    for lost in ("copies/images/zarr.json", "copies/images/c/0/0/0/0/0", "copies/params/c/0/0/0"):
        (tmp_path / "old" / lost).unlink()
    assert not repair(tmp_path / "old").lost
    assert verify(tmp_path / "old") == []
    assert check_copies(open_store(tmp_path / "old"), lambda *_: None) == []
