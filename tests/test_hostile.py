"""Stores as hostile input: opened, read, verified and repaired, or refused; never more than that."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import faults
import hostile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_stores import build_stores

from pipeline.recipes import from_spec
from pipeline.sources import Part
from stores import open_store
from stores.errors import IntegrityError, RealMixError, StoreError, UsageError
from stores.format import manifest
from stores.verify import verify

CASES = 60


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.fixture
def victim(tmp_path, source_of_few):
    return build_stores(tmp_path / "stores", source_of_few, copies=3)


def test_mutations_whose_checksums_fit(victim, traced):
    seen = Counter(hostile.attack(victim, victim.with_name("tiny_20"), seed) for seed in range(CASES))
    assert sum(seen.values()) == CASES
    assert {outcome.partition(":")[0] for outcome in seen} == {"manifest", "metadata", "index", "frame", "recipe"}
    assert verify(victim) == verify(victim.with_name("tiny_20")) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_for_a_manifest(tmp_path, data):
    (tmp_path / "zarr.json").write_bytes(data)
    with pytest.raises(StoreError):
        open_store(tmp_path)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(spec=JSON, kind=st.sampled_from(["cutout", "erase", "simple", "albumentations"]))
def test_any_json_for_a_recipe(spec, kind):
    with pytest.raises(StoreError):
        from_spec(spec)
    with pytest.raises(StoreError):
        from_spec(
            (spec if isinstance(spec, dict) else {})
            | {"kind": kind, "name": "x", "version": 1, "side": None, "p": -1, "shift": 0.5j}
        )


@pytest.mark.parametrize(
    "transform",
    [
        {"__class_fullname__": "os.system", "command": "true", "p": 1},
        {"__class_fullname__": "albumentations.core.composition.os.system", "p": 1},
        {"__class_fullname__": "Lambda", "__name__": "x", "p": 1},
        {"__class_fullname__": "HistogramMatching", "reference_images": ["/etc/passwd"], "p": 1},
        {"__class_fullname__": "TextImage", "font_path": "/etc/passwd", "p": 1},
        {"__class_fullname__": "Resize", "height": 10**9, "width": 10**9, "p": 1},
        {"__class_fullname__": "RandomScale", "scale_limit": [0, 10**4], "p": 1},
        {"__class_fullname__": "Compose", "p": 1, "transforms": [{"__class_fullname__": "subprocess.run", "p": 1}]},
        {"__class_fullname__": "Compose", "p": 1, "transforms": "HorizontalFlip"},
        {"__class_fullname__": "Compose", "p": 1, "transforms": hostile.DEEP},
        {"__class_fullname__": "BasicTransform", "p": float("nan")},
        [],
        None,
        "HorizontalFlip",
    ],
)
def test_a_stored_pipeline_builds_albumentations_own_transforms_alone(transform):
    import albumentations

    spec = {"kind": "albumentations", "name": "x", "version": 1, "albumentations": albumentations.__version__}
    with pytest.raises(StoreError):
        from_spec(spec | {"transform": transform})


def test_a_version_does_not_become_a_command():
    spec = {"kind": "albumentations", "name": "x", "version": 1, "albumentations": "2; rm -rf ~", "transform": {}}
    with pytest.raises(StoreError) as caught:
        from_spec(spec)
    assert "rm" not in str(caught.value)


def test_rectangles_that_never_fit_end(victim):
    spec = {"kind": "erase", "name": "e", "version": 1, "p": 1, "area": [1, 1], "ratio": [900, 1000]}
    with pytest.raises(RealMixError, match="no rectangle"):
        from_spec(spec).draw(1, np.arange(3), 2, (12, 12))


@pytest.mark.parametrize("what", ["train/images/c/0/0/0/0", "train/labels/zarr.json", "train", "zarr.json"])
def test_a_link_out_of_the_store_is_refused(victim, tmp_path, what):
    target = victim / what
    target.rename(tmp_path / "outside")
    target.symlink_to(tmp_path / "outside")
    with pytest.raises(IntegrityError, match="leads out of its store"):
        open_store(victim).train_labels.sum() + open_store(victim).train_images.read().sum()
    if what != "zarr.json":
        assert all("leads out of its store" in problem.what for problem in verify(victim))


def test_a_store_may_itself_be_reached_through_a_link(victim, tmp_path):
    (tmp_path / "elsewhere").symlink_to(victim.parent)
    assert verify(tmp_path / "elsewhere" / "tiny") == []
    assert open_store(tmp_path / "elsewhere" / "tiny_20").dataset.train_images.read().any()


@pytest.mark.parametrize("key", ["train/images/c/0/0/0/0", "train/labels/zarr.json", "zarr.json"])
def test_a_pipe_makes_nobody_wait(victim, key):
    (victim / key).unlink()
    os.mkfifo(victim / key)
    with pytest.raises(IntegrityError, match="not a regular file"):
        open_store(victim).train_labels.sum() + open_store(victim).train_images.read().sum()
    if key != "zarr.json":
        assert [problem.file for problem in verify(victim)] == [key]


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../outside", "", ".", "a//b", "x\0y", "zarr.json"])
def test_no_file_of_a_manifest_lies_outside(victim, key):
    content = json.loads((victim / "zarr.json").read_text())["attributes"]["realmix"]
    content["files"][key] = {"bytes": 1, "sha256": "0" * 64}
    manifest.write(victim, content)
    for use in (open_store, verify):
        with pytest.raises((StoreError, UsageError), match="files"):
            use(victim)


def test_a_number_in_a_file_takes_no_gigabytes(victim, traced):
    """Manifest and metadata agree on 2^40 images; the files are those of forty."""
    for name in ("train/images", "copies/images"):
        meta = json.loads((victim / name / "zarr.json").read_text())
        meta["shape"][0] = 2**40
        hostile.put_file(victim, f"{name}/zarr.json", json.dumps(meta).encode())
    content = json.loads((victim / "zarr.json").read_text())["attributes"]["realmix"]
    manifest.write(victim, content | {"num_images": 2**40})
    store = open_store(victim)
    for read in (store.train_images.read, lambda: store.copies.read(), lambda: store.train_labels):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(RealMixError):
            read()
        assert tracemalloc.get_traced_memory()[1] - before < 1 << 20


@pytest.mark.parametrize("name", [".lock", ".journal.jsonl", "copies"])
def test_continuing_a_build_writes_nothing_through_links(victim, source_of_few, tmp_path, name):
    """Someone else's unfinished store: its lock, its journal or a folder of it are links to what is mine."""
    manifest.write(victim, manifest.read(victim) | {"complete": False})
    mine = tmp_path / "mine"
    (shutil.copytree if name == "copies" else shutil.copyfile)(
        victim / (name if name == "copies" else "zarr.json"), mine
    )
    before = {p: p.read_bytes() for p in [mine, *mine.rglob("*")] if p.is_file()}
    if name == "copies":
        shutil.rmtree(victim / name)
    (victim / name).symlink_to(mine)
    with pytest.raises(IntegrityError, match="leads out of its store"):
        build_stores(victim.parent, source_of_few, copies=3)
    assert {p: p.read_bytes() for p in [mine, *mine.rglob("*")] if p.is_file()} == before


def test_a_hostile_journal_is_no_journal(victim, source_of_few, tmp_path):
    whole = {p: p.read_bytes() for p in victim.rglob("*") if p.is_file()}
    manifest.write(victim, manifest.read(victim) | {"complete": False})
    lines = [[], 5, {"key": 5}, {"key": "../../outside", "bytes": 1, "sha256": "0" * 64}, {"key": "a", "bytes": "x"}]
    text = "\n".join([*map(json.dumps, lines), "[" * 100_000]).encode() + b"\n\xff\n"
    (victim / ".journal.jsonl").write_bytes(text)
    build_stores(victim.parent, source_of_few, copies=3)
    assert {p: p.read_bytes() for p in victim.rglob("*") if p.is_file()} == whole


def test_params_of_another_recipe_than_the_manifest_says(victim, source_of_few):
    from pipeline.check.deep_verify import check_copies
    from pipeline.check.repair import repair

    content = manifest.read(victim)
    content["spec"]["recipe"] = {"kind": "simple", "name": "simple", "version": 1, "flip": 0.5, "shift": 2}
    manifest.write(victim, content)
    with pytest.raises(StoreError, match="params"):
        check_copies(open_store(victim), lambda *_: None)
    (victim / "copies/params/c/0/0/0").unlink()
    (victim / "copies/zarr.json").unlink()
    report = repair(victim)
    assert report.restored.keys() == {"copies/zarr.json"}
    assert report.lost.keys() == {"copies/params/c/0/0/0"}


# ---- what a terminal, a spreadsheet and a browser get of it ----

NAMES = ["[/a]", "do\x1b]0;x\x07g", "<img src=x onerror=alert(1)>|`", "\u202egnp\n# new", "=" * 5000]


@pytest.fixture(scope="module")
def shown(tmp_path_factory, source):
    """A folder with a store, its split and a finished run whose class names and recipe do what they can."""
    from trainer import api

    root = tmp_path_factory.mktemp("shown")
    few = replace(source, train=Part(source.train.images[::4], source.train.labels[::4]))
    store = build_stores(root / "stores", few, copies=2)
    for place in (store, store.with_name("tiny_20")):
        faults.edit(place, lambda found: found.update(class_names=NAMES))
    faults.edit(store, lambda found: found["spec"]["recipe"].update(name="[bold]\x1b[2Jcutout"))
    flags = {"store": str(root / "stores/tiny_20"), "model": "wrn-10-1", "steps": 2, "threads": 1, "device": "cpu"}
    api.train(["batch=4", "tensorboard=false"], {**flags, "method": "supervised"}, root / "runs", "r", quiet=True)
    for name in ("=cmd\x1b[2J.png", "[red]\udcff.png"):
        Image.new("RGB", (8, 8)).save(root / name, "PNG")
    (root / "mine.toml").write_text(
        'title = "[/t]<b>"\nsteps = 2\nmodel = "wrn-10-1"\nseeds = [1]\nset = {batch = 4}\n'
        '[columns]\n"[/20]\\u001b" = "tiny_20"\n[[rows]]\nname = "[/ours]|=\\u001b[2J"\nmethod = "supervised"\n'
    )
    return root


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("realmix-data info stores/tiny", 0),
        ("realmix-data info stores/tiny_20", 0),
        ("realmix-data verify stores/tiny_20", 0),
        ("realmix-data repair --dry-run stores/tiny", 0),
        ("realmix-data split stores/tiny --labels 10 --labeled-classes \x1b[2J", 2),
        ("realmix-data split stores/tiny --labels 3", 2),
        ("realmix-data plan digits --sample-from stores/tiny", 2),
        ("realmix-data preview stores/tiny -o sheet.png", 0),
        ("realmix-data info no\x1b[2Jstore", 3),
        ("realmix-train eval runs/r --threads 1", 0),
        ("realmix-train predict runs/r {}", 0),
        ("realmix-train predict runs/r {} --format jsonl", 0),
        ("realmix-train predict runs/r {} -o said.csv", 0),
        ("realmix-train export runs/r", 0),
        ("realmix-train report runs/r", 0),
        ("realmix-train reproduce mine.toml --dry-run", 0),
        ("realmix-train reproduce mine.toml --show", 0),
        ("realmix-train reproduce mine.toml --row \x1b[2J", 2),
        ("realmix-train --store stores/tiny_20 --method \x1b[2J", 2),
    ],
)
def test_names_command_no_terminal(shown, line, code, monkeypatch, capfd):
    from pipeline import cli as data
    from trainer import cli as train

    monkeypatch.chdir(shown)
    files = [str(path) for path in sorted(Path().glob("*.png")) if path.name != "sheet.png"]
    program, *words = line.split()
    monkeypatch.setattr(sys, "argv", [program, *(one for word in words for one in (files if word == "{}" else [word]))])
    with pytest.raises(SystemExit) as left:
        {"realmix-data": data.main, "realmix-train": train.main}[program]()
    out, err = capfd.readouterr()
    assert (left.value.code or 0) == code, err
    assert [part for part in (out + err).split("\n") if not part.isprintable()] == []
    if line.startswith("realmix-data info stores"):
        assert "[/a], do\\x1b]0;x\\x07g" in " ".join(out.split())


def test_names_are_text_in_every_file_that_is_written(shown, monkeypatch, capfd):
    from trainer.cli import main

    monkeypatch.chdir(shown)
    for words in (
        ["export", "runs/r", "-o", "out"],
        ["report", "runs/r", "-o", "page.html"],
        ["reproduce", "mine.toml", "--show"],
    ):
        monkeypatch.setattr(sys, "argv", ["realmix-train", *words])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
    capfd.readouterr()
    made = [Path("out/README.md"), Path("page.html"), *Path("runs/reproduce").rglob("mine.*")]
    assert len(made) == 5
    for path in made:
        text = path.read_text(encoding="utf-8")
        assert all(part.isprintable() for part in text.split("\n")), path
        assert not re.search(r"(?<!\\)(<img src=x|\[/t\]<b>)", text), path
    (table,) = (path.read_text(encoding="utf-8") for path in made if path.suffix == ".csv")
    rows = list(csv.reader(table.splitlines()))
    assert rows[1][1:3] == [r"[/ours]|=\x1b[2J", r"[/20]\x1b"]
