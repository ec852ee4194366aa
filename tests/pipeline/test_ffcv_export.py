"""FFCV's files: the pixels of the zarr arrays, whatever dies while they are written; one error for each mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.building import export_ffcv
from pipeline.building.build import build
from pipeline.building.export_ffcv import copies_of, export
from pipeline.building.facts import size
from pipeline.check.deep_verify import check_copies
from pipeline.recipes import load_recipe
from pipeline.sources import Part, Source
from stores import open_store
from stores.errors import RealMixError, ResourceError, StoreError, UsageError
from stores.format import manifest
from stores.verify import verify


def bytes_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def quiet(*_):
    pass


def children(pid: int) -> list[int]:
    try:
        tasks = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it ended meanwhile
        return []
    return [int(child) for found in tasks for child in found.split()]


def writer_of(pid: int, store: Path) -> int:
    """The process that writes, at work on the copies: a child that has the log open, once their file has grown."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        begun = any(size_of(file) > 0 for file in store.glob(".copies.beton.*"))
        for child in children(pid) if begun else []:
            if is_writer(child):
                return child
        time.sleep(0.002)
    raise AssertionError("nothing writes the copies")


def is_writer(pid: int) -> bool:
    """FFCV opens the files themselves only for each page that it writes."""
    return any(".ffcv.log" in file for file in open_files(pid))


def size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # it was put in its place meanwhile
        return 0


def open_files(pid: int) -> list[str]:
    try:
        return [str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:  # it, or the file, was closed meanwhile
        return []


@pytest.fixture(scope="module")
def slow(tmp_path_factory) -> Path:
    """A store that takes FFCV's writer long enough to be killed at it."""
    rng = np.random.default_rng(0)

    def part(count: int) -> Part:
        return Part(rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8), np.arange(count) % 3)

    source = Source(
        name="arrays",
        train=part(4000),
        test=part(3),
        class_names=["a", "b", "c"],
        weak={"flip": True, "shift": 1},
        origin={"kind": "test"},
    )
    path = tmp_path_factory.mktemp("slow") / "slow"
    build(path, source, load_recipe("cutout", source.weak, (12, 12)), copies=10, workers=1)
    return path


def at_work(store: Path, harm: Callable[[int], object]) -> threading.Thread:
    """Do harm to the process that writes for this one, once it is at work."""

    def wait_and_harm() -> None:
        harm(writer_of(os.getpid(), store))

    thread = threading.Thread(target=wait_and_harm, daemon=True)
    thread.start()
    return thread


def test_nothing_hangs_or_is_left_behind_whoever_dies(slow):
    """The writer, then the exporting process; after each the store is as it was, and the next export does the work."""
    before = bytes_of(slow)
    shared = set(Path("/dev/shm").glob("psm_*"))
    store = open_store(slow)
    alone = []

    def kill(writer: int) -> None:
        alone.append(children(writer))
        os.kill(writer, signal.SIGKILL)

    killer = at_work(slow, kill)
    with pytest.raises(RealMixError, match="FFCV's writer died") as error:
        export(store, quiet)
    killer.join(60)
    assert "killed by signal 9" in str(error.value)
    assert alone == [[]], "nobody else to wait for: FFCV's own writer does not notice that a worker of its died"
    assert bytes_of(slow) == before
    assert set(Path("/dev/shm").glob("psm_*")) == shared

    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("ffcv_export.py")), str(slow)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as exporting:
        writer = writer_of(exporting.pid, slow)
        exporting.kill()
    end = time.monotonic() + 60
    while is_writer(writer):
        assert time.monotonic() < end, "the writer outlived the exporting process"
        time.sleep(0.05)
    assert manifest.read(slow) == store.manifest
    assert {k: v for k, v in bytes_of(slow).items() if not k.startswith(".")} == before

    assert export(store, quiet)
    assert verify(slow) == []
    assert not [p for p in slow.iterdir() if p.name.startswith(".")]
    exported = open_store(slow)
    assert exported.fingerprint == store.fingerprint
    assert (exported.beton().read() == store.copies.read()).all()


def test_a_writer_that_stops_writing_is_ended(slow, tmp_path, monkeypatch):
    """As on a disk that no longer answers."""
    path = Path(shutil.copytree(slow, tmp_path / "slow", ignore=shutil.ignore_patterns("*.beton", ".*")))
    content = manifest.read(path)
    if content.pop("ffcv", None):
        content["files"] = {name: file for name, file in content["files"].items() if not name.endswith(".beton")}
        manifest.write(path, content)
    before = bytes_of(path)

    def freeze(writer: int) -> None:
        os.kill(writer, signal.SIGSTOP)
        monkeypatch.setattr(export_ffcv, "STALL_S", 0.3)

    freezer = at_work(path, freeze)
    with pytest.raises(RealMixError, match="FFCV's writer stopped writing") as error:
        export(open_store(path), quiet)
    freezer.join(60)
    assert "nothing came for 0 s" in str(error.value)
    assert bytes_of(path) == before


@pytest.fixture
def both(tiny_both) -> Path:
    return tiny_both


def test_the_manifest_describes_the_files_and_a_second_export_leaves_them(both, tiny):
    content = manifest.read(both)
    assert content["ffcv"]["samples"] == {"train.beton": 150, "copies.beton": 750}
    for name in ("train.beton", "copies.beton"):
        assert content["files"].pop(name)["bytes"] == (both / name).stat().st_size
    del content["ffcv"]
    assert content == manifest.read(tiny)
    before = {p: p.stat().st_mtime_ns for p in both.rglob("*") if p.is_file()}
    assert not export(open_store(both), quiet)
    assert {p: p.stat().st_mtime_ns for p in both.rglob("*") if p.is_file()} == before
    assert verify(both) == []


def test_a_store_built_for_ffcv_is_the_zarr_store_in_another_form(both, tiny, tiny_ffcv, source):
    recipe = load_recipe("cutout", source.weak, (12, 12))
    path, store, twin = tiny_ffcv, open_store(tiny_ffcv), open_store(tiny)
    assert not (path / "copies" / "images").exists()
    assert store.fingerprint == twin.fingerprint
    assert (store.read_params() == twin.read_params()).all()
    assert (path / "copies.beton").read_bytes() == (both / "copies.beton").read_bytes(), "the same bytes either way"
    assert (store.copies.read() == twin.copies.read()).all()
    assert (copies_of(store, np.arange(150)) == twin.copies.read()).all(), "made again, should the file be lost"
    assert verify(path) == []
    assert check_copies(store, quiet) == []
    assert not build(path, source, recipe, copies=5, workers=2, copies_format="ffcv")[1]
    with pytest.raises(StoreError, match=r'format \("ffcv" there, "zarr" asked for\)'):
        build(path, source, recipe, copies=5, workers=2)


def test_a_build_killed_before_its_manifest_continues(both, source, tmp_path, monkeypatch):
    """Killed when FFCV's files are written and the zarr copies half removed: nothing is written again."""
    recipe = load_recipe("cutout", source.weak, (12, 12))
    path = tmp_path / "tiny"

    def written_once(store, made, progress):  # the real thing, without FFCV's start-up
        return [_copied(both, store, beton.name) for beton in made]

    def killed(target, name):
        next((target.path / name).rglob("0")).rename(tmp_path / "lost")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export_ffcv, "write_betons", written_once)
        patch.setattr("stores.writer.Target.drop", killed)
        with pytest.raises(KeyboardInterrupt):
            build(path, source, recipe, copies=5, workers=2, copies_format="ffcv")
    with pytest.raises(StoreError, match="not complete"):
        open_store(path)
    monkeypatch.setattr(export_ffcv, "write_betons", None)
    store, new = build(path, source, recipe, copies=5, workers=2, copies_format="ffcv")
    assert new
    assert not (path / "copies" / "images").exists()
    assert verify(path) == []
    assert store.fingerprint == open_store(both).fingerprint


def _copied(source: Path, store: Path, name: str) -> dict:
    shutil.copy(source / name, store / name)
    return {"key": name, **manifest.read(source)["files"][name]}


@pytest.mark.parametrize("name", ["train.beton", "copies.beton"])
def test_verification_names_damage_and_deep_verification_wrong_pixels(both, tmp_path, name):
    path = Path(shutil.copytree(both, tmp_path / "tiny"))
    good = (path / name).read_bytes()
    (path / name).write_bytes(good[: len(good) // 2])
    assert [str(p) for p in verify(path)] == [f"{name}: {len(good) // 2} bytes instead of {len(good)}"]
    (path / name).unlink()
    assert [str(p) for p in verify(path)] == [f"{name}: missing"]
    (path / name).write_bytes(good)
    content = manifest.read(path)
    del content["files"][name]
    manifest.write(path, content)
    assert [str(p) for p in verify(path)] == [f"{name}: needed, but not in the manifest"]


def test_deep_verification_compares_every_pixel(both, tiny, source, tmp_path):
    """FFCV's files of another store: sound in themselves, not this store's."""
    assert check_copies(open_store(both), quiet) == []
    other = Path(shutil.copytree(both, tmp_path / "other"))
    base, copies = open_store(tiny).train_images.read(), open_store(tiny).copies.read()
    base[7] ^= 1
    copies[9, 3] ^= 1
    for array, values in (("train/images", base), ("copies/images", copies)):
        from stores.format import layout, shards
        from stores.writer import write_file

        laid = layout.load(other, array)
        record = write_file(other, laid, 0, shards.encode(laid, 0, values))
        content = manifest.read(other)
        content["files"][record["key"]] = {"bytes": record["bytes"], "sha256": record["sha256"]}
        manifest.write(other, content)
    problems = check_copies(open_store(other), quiet)
    assert "train.beton: row 7 (and 0 more) is not the store's" in problems
    assert "copies.beton: row 9, copy 3 (and 0 more) is not the store's" in problems


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tiny_copy, source, monkeypatch):
    before = bytes_of(tiny_copy)
    full = shutil.disk_usage(tiny_copy)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(ResourceError, match=r"the FFCV files take 0\.0\d GB, .* has 0\.00 GB free"):
        export(open_store(tiny_copy), quiet)
    assert bytes_of(tiny_copy) == before
    new = tiny_copy.with_name("new")
    with pytest.raises(ResourceError, match="the FFCV files take"):
        build(new, source, load_recipe("cutout", source.weak, (12, 12)), copies=5, copies_format="ffcv")
    assert not new.exists()


@pytest.fixture
def command(monkeypatch, capfd):
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["realmix-data", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        return left.value.code or 0, out, err

    return run


@pytest.fixture
def no_ffcv(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "ffcv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ffcv", None)


def test_without_ffcv_the_error_says_what_to_install(no_ffcv, command, both, tmp_path):
    for words in (["export", both], ["build", "digits", "--format", "ffcv", "--root", tmp_path / "new"]):
        code, _, err = command(*words)
        assert code == UsageError.exit_code
        assert "pip install 'realmix[ffcv]'" in err
        assert "apt-get install -y pkg-config libturbojpeg0-dev libopencv-dev" in err
    assert not (tmp_path / "new").exists()
    assert open_store(both).copies.read().any(), "the zarr copies need no FFCV"


def test_an_ffcv_that_does_not_load_is_told_like_a_missing_one(tiny_copy, monkeypatch, tmp_path):
    """Its package is there, a system library of it is not."""
    (tmp_path / "ffcv").mkdir()
    (tmp_path / "ffcv" / "__init__.py").write_text("raise ImportError('libopencv_core.so.406: cannot open')")
    before = bytes_of(tiny_copy)
    for name in [name for name in sys.modules if name.partition(".")[0] == "ffcv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)  # spawned processes get the same path
    with pytest.raises(UsageError, match=r"libopencv_core\.so\.406: cannot open\n→ apt-get install"):
        export(open_store(tiny_copy), quiet)
    assert bytes_of(tiny_copy) == before


def test_the_commands(command, both):
    code, out, err = command("export", both.with_name("tiny_20"), "--json")
    facts = json.loads(out)
    assert f"note: FFCV's files hold every copy as it is: {size(sum(facts['bytes'].values()))} beside" in err
    assert (code, facts["exported"]) == (0, False)
    assert facts["bytes"] == {str(both / n): (both / n).stat().st_size for n in ("train.beton", "copies.beton")}
    assert "already exported and sound" in command("export", both)[1]
    assert json.loads(command("info", both, "--json")[1])["copies_kept_as"] == ["zarr", "ffcv"]
    code, _, err = command("export", both, "--format", "fcv")
    assert code == UsageError.exit_code
    assert "did you mean ffcv?" in err
    assert command("export", both, "--format", "zarr")[0] == UsageError.exit_code
