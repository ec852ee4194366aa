"""Plans: close to what a build then takes, nothing written, and builds that cannot fit refused."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import archives
import numpy as np
import pytest

from pipeline.building import plan as planning
from pipeline.building import sample
from pipeline.building.build import build
from pipeline.building.plan import make_plan
from pipeline.building.sample import drawn, of_request, of_source
from pipeline.recipes import load_recipe
from pipeline.sources import Part
from stores import open_store
from stores.errors import ResourceError, StoreError, UsageError

Usage = namedtuple("Usage", "total used free")
OPTIONS = {
    "from_": None,
    "extra": False,
    "flip": None,
    "size": None,
    "unlabeled": None,
    "test": None,
    "progress": None,
    "drop_conflicts": False,
    "skip_broken": False,
}


@pytest.fixture
def photographs(source):
    """A source of 700 + 100 smooth pictures, more than a sample holds."""
    images = drawn(800, 32)
    labels = np.arange(800) % 5
    return replace(source, train=Part(images[:700], labels[:700]), test=Part(images[700:], labels[700:]))


def recipe_for(source, name="cutout"):
    return load_recipe(name, source.weak, source.train.images.shape[1:3])


def make(path, source, copies=20, **options):
    return build(path, source, recipe_for(source), copies=copies, workers=1, **options)


def on_disk(path: Path) -> list[int]:
    return [file.stat().st_size for file in path.rglob("*") if file.is_file()]


@pytest.mark.parametrize(("name", "small"), [("cutout", True), ("cutout", False), ("simple", False), ("erase", True)])
def test_bytes_and_files_are_those_of_the_build(source, photographs, tmp_path, name, small):
    source, copies = (source, 5) if small else (photographs, 7)
    plan = make_plan(of_source(source, 1), recipe_for(source, name), tmp_path / "store", copies=copies, budget_s=0.0)
    assert list(tmp_path.iterdir()) == []
    build(tmp_path / "store", source, recipe_for(source, name), copies=copies, workers=1)
    made = on_disk(tmp_path / "store")
    assert plan.files == len(made) - 1  # the root's zarr.json lists the others
    assert plan.copies_bytes == pytest.approx(sum(on_disk(tmp_path / "store/copies/images/c")), rel=0.05)
    assert plan.total_bytes == pytest.approx(sum(made), rel=0.1)
    assert plan.needed_bytes == int(1.05 * plan.total_bytes)
    assert plan.fits


def test_one_thread_stands_for_every_worker_process(photographs, tmp_path):
    subject, threads = of_source(photographs, 1), recipe_for(photographs)
    processes = replace(threads, vectorised=False)
    one, other = (make_plan(subject, r, tmp_path / "s", copies=4, workers=2, budget_s=0) for r in (threads, processes))
    assert other.copies_bytes == pytest.approx(one.copies_bytes, rel=0.1)
    assert other.memory_bytes > one.memory_bytes + 2 * (200 << 20)


def test_ffcv_files_are_counted(source, tmp_path):
    subject, recipe = of_source(source, 1), recipe_for(source)
    zarr, ffcv = (make_plan(subject, recipe, tmp_path / "s", copies=5, copies_format=f) for f in ("zarr", "ffcv"))
    assert zarr.ffcv_bytes == 0
    assert ffcv.total_bytes - ffcv.ffcv_bytes == pytest.approx(zarr.total_bytes, rel=0.05)
    assert ffcv.ffcv_bytes > 150 * 6 * 12 * 12 * 3


def test_published_data_sets_are_planned_without_a_download(tmp_path):
    for name, (train, test, side) in sample.KNOWN.items():
        subject = of_request(name, None, None, seed=1, cache=tmp_path / "cache", **OPTIONS)
        assert (subject.train, subject.test, subject.size) == (train, test, (side, side))
        assert "drawn" in subject.what
    extra = of_request("svhn", None, None, seed=1, cache=tmp_path, **OPTIONS | {"extra": True, "flip": True})
    assert (extra.train, extra.weak) == (604_388, {"flip": True, "shift": 4})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="takes no --size"):
        of_request("cifar10", None, None, seed=1, cache=tmp_path, **OPTIONS | {"size": 8})


def test_an_archive_is_measured_and_leaves_no_trace(tmp_path, monkeypatch):
    from test_sources_downloads import trust
    from torchvision import datasets

    archive = archives.cifar10(tmp_path)
    trust(monkeypatch, datasets.CIFAR10, archive)
    before = sorted(tmp_path.rglob("*"))
    options = {"seed": 1, "cache": tmp_path / "cache", **OPTIONS, "from_": archive.path}
    subject = of_request("cifar10", None, None, **options)
    assert "as they are" in subject.what
    assert subject.train == len(archive.train[0])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_may_be_the_sample(tmp_path, tiny, source):
    np.savez(tmp_path / "a.npz", images=np.zeros((30, 12, 12, 3), np.uint8), labels=np.arange(30) % 2)
    options = {"seed": 1, "cache": tmp_path / "cache", **OPTIONS}
    subject = of_request("arrays", tmp_path / "a.npz", tiny, **options)
    assert (subject.images == open_store(tiny).train_images.read(np.arange(len(subject.images)))).all()
    assert subject.train == 26
    with pytest.raises(UsageError, match="12×12 and 32×32"):
        of_request("cifar10", None, tiny, **options)


def test_a_build_that_cannot_fit_is_refused_and_leaves_nothing(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 1_000_000))
    with pytest.raises(ResourceError, match=r"about \d\.\d MB") as error:
        make(tmp_path / "stores/big", photographs)
    assert "1.0 MB are free" in error.value.why
    assert list(tmp_path.iterdir()) == []
    make(tmp_path / "stores/big", photographs, check_space=False)
    make(tmp_path / "stores/big", photographs)  # it is there: nothing to refuse


def test_what_is_already_written_needs_no_room(photographs, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(what, done, of):
        if what == "test/images" and done:
            raise Stop

    with pytest.raises(Stop):
        make(tmp_path / "store", photographs, progress=stop)
    there = sum(on_disk(tmp_path / "store"))
    plan = make_plan(of_source(photographs, 1), recipe_for(photographs), tmp_path / "new", copies=20)
    for free, fits in ((plan.needed_bytes - there + plan.total_bytes // 10, True), (plan.copies_bytes // 2, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(10**12, 0, free))
        if fits:
            assert make_plan(of_source(photographs, 1), recipe_for(photographs), tmp_path / "store", copies=20).fits
            continue
        with pytest.raises(ResourceError, match="would not fit") as error:
            make(tmp_path / "store", photographs)
        assert "already written" in error.value.why
        assert sum(on_disk(tmp_path / "store")) == there


def test_where_raw_copies_fit_nothing_is_measured(source, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "make_plan", None)
    make(tmp_path / "store", source, copies=2)
    with pytest.raises(StoreError, match="copies"):
        make(tmp_path / "store", source, copies=3)


def test_the_commands_print_the_same_and_write_nothing(tmp_path, monkeypatch, capsys):
    from typer.testing import CliRunner

    from pipeline.cli import app

    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", images=np.zeros((300, 8, 8, 3), np.uint8), labels=np.arange(300) % 2)
    request = ["arrays", "a.npz", "--copies", "9", "--root", "s"]
    one, other = (
        CliRunner().invoke(app, words + ["--json"]) for words in (["plan", *request], ["build", *request, "--dry-run"])
    )
    measured = ("seconds", "memory_bytes", "free_bytes")
    one, other = ({k: v for k, v in json.loads(r.stdout).items() if k not in measured} for r in (one, other))
    assert one == other
    assert one["images"] * one["copies"] == 250 * 9
    shown = CliRunner().invoke(app, ["plan", *request, "--workers", "3"]).stdout
    assert "2,250  (9 of each training image, cutout)" in shown
    assert "3 workers" in shown
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
