"""Builds on a bad day: another one at work, a target that cannot be written, a source that goes away."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.building.build import build
from pipeline.recipes import load_recipe
from stores import open_store
from stores.errors import StoreError
from stores.format import manifest
from stores.verify import verify

PROGRAM = Path(sys.executable).with_name("realmix-data")


def test_two_builds_of_two_processes_into_one_target(tmp_path):
    """One wins, the other is told at once; started again it finds the store built."""
    images = np.random.default_rng(0).integers(0, 256, (6000, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(6000) % 4)
    command = [PROGRAM, "build", "arrays", "noise.npz", "--copies", "30", "--quiet", "--workers", "1"]
    both = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    # the slower one may also arrive when all is done: then it finds the store built
    assert codes in ([0, 3], [0, 0]), said
    if codes == [0, 3]:
        assert "another build is running" in "".join(said)
    assert "Traceback" not in "".join(said)
    assert verify(tmp_path / "stores/noise") == []
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0


@pytest.fixture
def command(monkeypatch, capfd):
    from pipeline import cli

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["realmix-data", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0, "".join(capfd.readouterr())

    return run


@pytest.fixture
def photos(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (8, 8), (20 * i, 10, 50 if label == "cat" else 90)).save(
                tmp_path / f"photos/{label}/{i}.png"
            )
    return tmp_path / "photos"


@pytest.mark.parametrize("writes", [0, 1, 5])
def test_a_target_that_becomes_read_only(photos, tmp_path, command, monkeypatch, writes):
    """As file systems become after an error of their disk: one message, and the build continues."""
    plain, left = manifest.write_atomically, [writes]

    def frozen(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        plain(path, data)

    line = ("build", "folder", photos, "--copies", 2, "--root", tmp_path / "stores", "--quiet")
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write_atomically", frozen)
        code, said = command(*line)
    assert code == 3, said
    assert "no permission for" in said
    assert "Read-only file system" in said
    assert "Traceback" not in said
    assert command(*line)[0] == 0
    assert verify(tmp_path / "stores/photos") == []


def test_a_target_where_nobody_may_make_a_folder(photos, command):
    """/proc takes no folders, not even from root."""
    code, said = command("build", "folder", photos, "--copies", 2, "--root", "/proc/self", "--quiet")
    assert code in (1, 3, 5), said  # 5: it has no free space either
    assert "/proc/self" in said
    assert "Traceback" not in said


class Vanishing:
    """Images that are gone after the first few reads, as on a stick that is pulled."""

    def __init__(self, images: np.ndarray, reads: int) -> None:
        self._images, self.shape, self._left = images, images.shape, reads

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        self._left -= 1
        if self._left < 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "stick/cat/7.png")
        return self._images[rows]


def test_a_source_that_vanishes_in_the_middle(tiny, source, tmp_path, monkeypatch):
    from dataclasses import replace

    from pipeline.sources import Part
    from stores.format import layout

    monkeypatch.setattr(layout, "BASE_CHUNK_BYTES", 16 * 12 * 12 * 3)
    monkeypatch.setattr(layout, "CHUNKS_PER_FILE", 1)
    gone = replace(source, train=Part(Vanishing(source.train.images, 3), source.train.labels))
    recipe = load_recipe("cutout", source.weak, (12, 12))
    with pytest.raises(OSError, match="stick"):
        build(tmp_path / "tiny", gone, recipe, copies=5, workers=1)
    with pytest.raises(StoreError, match="not complete"):
        open_store(tmp_path / "tiny")
    store, new = build(tmp_path / "tiny", source, recipe, copies=5, workers=1)
    assert new
    assert store.fingerprint == open_store(tiny).fingerprint
    assert verify(tmp_path / "tiny") == []


def test_a_folder_that_is_removed_while_it_is_read(photos, tmp_path, command, monkeypatch):
    from pipeline.sources import folder

    plain, backup = folder.load, tmp_path / "backup"
    shutil.copytree(photos, backup)

    def listed_then_gone(*words):
        found = plain(*words)
        shutil.rmtree(photos)
        return found

    line = ("build", "folder", photos, "--copies", 2, "--root", tmp_path / "stores", "--quiet")
    with monkeypatch.context() as patch:
        patch.setattr(folder, "load", listed_then_gone)
        code, said = command(*line)
    # small folders are held in memory once they are read: then there is nothing left to miss
    assert code == 0 or str(photos) in said, said
    assert "Traceback" not in said
    shutil.copytree(backup, photos, dirs_exist_ok=True)
    assert command(*line)[0] == 0
    assert verify(tmp_path / "stores/photos") == []
