"""`realmix-data repair`: what follows from the rest comes back byte for byte; what does not is named and left alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_stores import build_stores

from pipeline.check import repair as repairs
from pipeline.check.repair import repair
from pipeline.splits.protocols import Request
from pipeline.splits.split_stores import write_all
from stores import open_store
from stores.errors import IntegrityError, Interrupted, StoreError
from stores.format import arrays, layout, manifest, shards
from stores.system import aside
from stores.verify import verify
from stores.writer import write_file


def bytes_of(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("recipe", ["cutout", "erase", "simple"])
def test_all_that_follows_comes_back_at_once(tmp_path, source, recipe):
    store = build_stores(tmp_path, source, recipe)
    whole = bytes_of(tmp_path)
    for folder in (store, store.with_name("tiny_20")):
        for file in [p for p in folder.rglob("*") if p.is_file()]:
            base = folder == store and file.parts[-2] != "source_index" and "copies" not in file.parts
            if file.name != "zarr.json" and not base:
                file.write_bytes(file.read_bytes()[:7])
            elif file.parent != folder and file.name == "zarr.json":
                file.unlink()
    report = repair(store.with_name("tiny_20"))
    assert report.lost == {}
    assert {key for key in report.restored if key.startswith("tiny/copies/")} == {
        "tiny/copies/images/zarr.json",
        "tiny/copies/params/zarr.json",
        "tiny/copies/zarr.json",
        "tiny/copies/images/c/0/0/0/0/0",
        "tiny/copies/params/c/0/0/0",
    }
    assert set(report.restored.values()) == {repairs.SAME}
    assert bytes_of(tmp_path) == whole


def test_copies_by_worker_processes_come_back(tmp_path, source_of_few):
    store = build_stores(tmp_path, source_of_few, "color", copies=2)
    whole = bytes_of(tmp_path)
    (store / "copies/images/c/0/0/0/0/0").unlink()
    assert repair(store).restored == {"copies/images/c/0/0/0/0/0": repairs.SAME}
    assert bytes_of(tmp_path) == whole


def test_killed_at_any_moment_and_run_again_it_leaves_nothing(tiny_copy):
    script = Path(__file__).with_name("killed_repairs.py")
    words = [sys.executable, "-W", "error", str(script), str(tiny_copy)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 6, "two files: a sync of each, a rename of each, and the lock"


def test_what_a_killed_repair_left_goes(tiny_copy):
    """Beside files that are sound by now."""
    whole = bytes_of(tiny_copy)
    aside.named(tiny_copy / "copies/images/c/0/0/0/0/0").write_bytes(b"half")
    (tiny_copy / ".lock").touch()
    assert repair(tiny_copy, dry_run=True) == repairs.Report()
    assert bytes_of(tiny_copy) != whole
    assert repair(tiny_copy) == repairs.Report()
    assert bytes_of(tiny_copy) == whole


def test_two_repairs_know_of_each_other(tiny_copy, monkeypatch):
    """What the other one wrote into the manifest while this one was still looking is not undone."""
    whole = bytes_of(tiny_copy)
    for file in ("copies/images/c/0/0/0/0/0", "copies/params/c/0/0/0"):
        (tiny_copy / file).unlink()
    edited = manifest.read(tiny_copy)
    edited["files"]["copies/params/c/0/0/0"] = {"bytes": 1, "sha256": "0" * 64}
    manifest.write(tiny_copy, edited)
    look, other = repairs.verify, [repair]

    def slow(store):
        found = look(store)
        if other:
            other.pop()(store)
        return found

    monkeypatch.setattr(repairs, "verify", slow)
    repair(tiny_copy)
    assert bytes_of(tiny_copy) == whole


def test_a_sound_store_is_left_alone(tiny):
    assert repair(tiny) == repair(tiny.with_name("tiny_20")) == repairs.Report()


def test_a_dry_run_says_the_same_and_changes_nothing(tiny_copy):
    (tiny_copy / "copies/params/c/0/0/0").unlink()
    (tiny_copy / "train/labels/zarr.json").unlink()
    (tiny_copy / "test/labels/c/0").write_bytes(b"")
    before = bytes_of(tiny_copy)
    said = repair(tiny_copy, dry_run=True)
    assert bytes_of(tiny_copy) == before
    assert said.lost.keys() == {"test/labels/c/0"}
    assert said.restored.keys() == repair(tiny_copy).restored.keys()


def test_base_images_are_lost_by_name_and_so_are_the_copies_made_of_them(tiny_copy):
    for key in ("train/images/c/0/0/0/0", "copies/images/c/0/0/0/0/0"):
        (tiny_copy / key).unlink()
    before = bytes_of(tiny_copy)
    report = repair(tiny_copy)
    assert "rows 0–149 of train/images" in report.lost["train/images/c/0/0/0/0"]
    assert "rows 0–149 of copies/images" in report.lost["copies/images/c/0/0/0/0/0"]
    assert report.restored == {}
    assert bytes_of(tiny_copy) == before


def other_bytes(store, key, level=9):
    """The same content as another version of zstd might write it, and a manifest that knows those bytes."""
    from numcodecs import zstd

    array = layout.load(store, "copies/images")
    data = shards.encode(array, 0, open_store(store).copies.read())
    values = open_store(store).copies.read()
    plain = shards.compress
    shards.compress = lambda chunk: zstd.compress(chunk, level)
    try:
        other = shards.encode(array, 0, values)
    finally:
        shards.compress = plain
    assert other != data
    record = write_file(store, array, 0, other)
    content = manifest.read(store)
    content["files"][key] = {"bytes": record["bytes"], "sha256": record["sha256"]}
    manifest.write(store, content)


def test_copies_compressed_by_another_version_come_back_in_other_bytes(tiny_copy):
    key = "copies/images/c/0/0/0/0/0"
    other_bytes(tiny_copy, key)
    assert verify(tiny_copy) == []
    store = open_store(tiny_copy)
    fingerprint, pixels = store.fingerprint, store.copies.read()
    (tiny_copy / key).unlink()
    assert repair(tiny_copy).restored == {key: repairs.ANEW}
    assert verify(tiny_copy) == []
    assert open_store(tiny_copy).fingerprint == fingerprint
    assert (open_store(tiny_copy).copies.read() == pixels).all()


def test_copies_that_the_recipe_may_make_differently_now_are_not_replaced(tmp_path, source_of_few):
    """Of albumentations, with no intact file of copies to compare with."""
    store, key = build_stores(tmp_path, source_of_few, "color", copies=2), "copies/images/c/0/0/0/0/0"
    other_bytes(store, key)
    (store / key).unlink()
    assert "makes other copies" in repair(store).lost[key]
    assert not (store / key).exists()


@pytest.mark.parametrize("damage", [lambda m: m.unlink(), lambda m: m.write_bytes(b"{"), lambda m: m.write_bytes(b"")])
def test_without_its_manifest_nothing_can_be_told(tiny_copy, damage):
    damage(tiny_copy / "zarr.json")
    before = bytes_of(tiny_copy)
    with pytest.raises(IntegrityError, match="manifest"):
        repair(tiny_copy)
    assert bytes_of(tiny_copy) == before


def test_what_is_no_store_or_not_complete_is_no_business_of_repair(tmp_path, tiny_copy):
    with pytest.raises(StoreError, match="not a store"):
        repair(tmp_path / "nothing")
    manifest.write(tiny_copy, manifest.read(tiny_copy) | {"complete": False})
    with pytest.raises(StoreError, match="not complete"):
        repair(tiny_copy)


REQUESTS = [
    Request(labels=15, seed=3, valid=10),
    Request(labels=20, seed=0),
    Request(labels=8, labeled_classes=("ant", "cow"), unlabeled_classes=("cow", "eel")),
    Request(labels=9, labeled_classes=("ant", "bee", "cow"), valid=6),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_rows_of_any_split_are_drawn_again(tiny_copy, request_):
    [split] = write_all(open_store(tiny_copy), [request_], "mine")
    whole = bytes_of(split)
    for file in [p for p in split.rglob("*") if p.is_file() and p.parent != split]:
        file.unlink()
    assert repair(split).lost == {}
    assert bytes_of(split) == whole


def test_stl10s_folds_get_their_metadata_and_splits_back(tmp_path, source):
    from dataclasses import replace

    store = build_stores(tmp_path, replace(source, folds=np.arange(30).reshape(3, 10) * 5))
    [split] = write_all(open_store(store), [Request(labels=10, seed=2)])
    whole = bytes_of(tmp_path)
    (store / "folds/zarr.json").unlink()
    (split / "labeled/c/0").unlink()
    assert repair(split).lost == {}
    assert bytes_of(tmp_path) == whole


def test_a_split_of_another_dataset_store_is_not_drawn_again(tiny_copy):
    split = tiny_copy.with_name("tiny_20")
    content = manifest.read(split)
    content["dataset"]["fingerprint"] = "0" * 64
    manifest.write(split, content)
    (split / "labeled/c/0").unlink()
    assert "not the dataset store" in repair(split).lost["labeled/c/0"]


def test_the_command(tiny_copy, monkeypatch, capsys):
    from pipeline import cli

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["realmix-data", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0, capsys.readouterr()

    (tiny_copy / "copies/params/c/0/0/0").unlink()
    code, said = run("verify", tiny_copy)
    assert code == 4
    assert f"realmix-data repair {tiny_copy}" in said.err
    code, said = run("repair", tiny_copy, "--dry-run")
    assert code == 0
    assert "would restore copies/params/c/0/0/0" in said.out
    code, said = run("repair", tiny_copy, "--json")
    assert code == 0
    assert json.loads(said.out)["restored"] == {"copies/params/c/0/0/0": repairs.SAME}
    assert run("verify", tiny_copy)[0] == 0
    (tiny_copy / "train/labels/c/0").unlink()
    code, said = run("repair", tiny_copy)
    assert code == 4
    assert "rows 0–149 of train/labels" in said.err
    assert "build the store again" in said.err
    assert run("repair", tiny_copy, "--json")[0] == 4


def test_an_interruption_is_never_taken_for_damage(tmp_path, source, monkeypatch):
    """Interrupted wherever it reads or writes a file, it says so, and what follows is put back by the next one."""
    store = build_stores(tmp_path, source)
    whole = bytes_of(tmp_path)
    calls = [0]

    def interrupted_at(moment, function):
        def counted(*args, **kwargs):
            calls[0] += 1
            if calls[0] == moment:
                raise Interrupted("now")
            return function(*args, **kwargs)

        return counted

    moment = 0
    while not moment or calls[0] >= moment:
        moment, calls[0] = moment + 1, 0
        for file in ("copies/images/c/0/0/0/0/0", "train/labels/zarr.json", "train/source_index/c/0"):
            (store / file).write_bytes(whole[f"tiny/{file}"][:-1])
        flipped = bytearray(whole["tiny/train/images/c/0/0/0/0"])
        flipped[4] ^= 1  # of a frame's head: what it holds can be read all the same, or not
        (store / "train/images/c/0/0/0/0").write_bytes(flipped)
        with monkeypatch.context() as patch:
            for module, name in ((arrays, "open_file"), (layout, "load"), (manifest, "write_atomically")):
                patch.setattr(module, name, interrupted_at(moment, getattr(module, name)))
            try:
                done = repair(store)
            except Interrupted:
                done = None
        assert (done is None) == (calls[0] >= moment)
    (store / "train/images/c/0/0/0/0").write_bytes(whole["tiny/train/images/c/0/0/0/0"])
    assert repair(store).lost == {}
    assert bytes_of(tmp_path) == whole
    assert moment > 10


def test_repair_needs_no_array_that_the_store_does_not_have(tiny_ffcv, tmp_path):
    """Of a store whose copies are FFCV's alone, the group of the copies."""
    store = tmp_path / "stores" / tiny_ffcv.name
    shutil.copytree(tiny_ffcv, store)
    assert not (store / "copies/images").exists()
    (store / "copies/zarr.json").write_bytes(b"{")
    assert repair(store).restored == {"copies/zarr.json": repairs.SAME}
    assert verify(store) == []
