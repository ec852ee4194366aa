"""`--labels-from`: labels from a CSV file as people and spreadsheets write it; each mistake is one error.

And the names of files, whatever they are: in the store, `info` and `preview`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.building.build import build
from pipeline.building.facts import dataset_facts, file_lines
from pipeline.check.deep_verify import check_copies
from pipeline.check.repair import repair
from pipeline.recipes import load_recipe
from pipeline.sources import load
from stores import open_store
from stores.errors import IntegrityError, UsageError
from stores.format import file_names, manifest
from stores.verify import verify
from stores.writer import write_table


def picture(file: Path, seed: int, size: tuple[int, int] = (8, 8), **options) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(file, **options)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve pictures: a/0.png … a/5.png, and b, c.png; 6.png … 11.png beside them."""
    for i in range(6):
        picture(tmp_path / "photos" / "a" / f"{i}.png", i)
    for i in range(6, 11):
        picture(tmp_path / "photos" / f"{i}.png", i)
    picture(tmp_path / "photos" / "b, c.png", 11)
    return tmp_path / "photos"


@pytest.fixture
def labels(tmp_path):
    """Writes labels.csv: text, or lines of cells."""

    def write(content: str | bytes | list[tuple[str, ...]]) -> Path:
        if isinstance(content, list):
            out = io.StringIO()
            csv.writer(out).writerows([("file", "label"), *content])
            content = out.getvalue()
        (tmp_path / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "labels.csv"

    return write


GOOD = [*((f"a/{i}.png", "cat") for i in range(4)), *((f"{i}.png", "dog") for i in range(6, 9)), ("b, c.png", "dog")]


def of(source, name: str) -> str | None:
    """The class of a file, or None; with its pixels checked."""
    for part in (source.train, source.test):
        if name in part.files:
            row = part.files.index(name)
            with Image.open(of.root / name) as image:
                np.testing.assert_array_equal(part.images[np.array([row])][0], np.asarray(image))
            return source.class_names[part.labels[row]] if part.labels[row] >= 0 else None
    raise AssertionError(name)


def test_listed_images_have_labels_and_all_others_none(photos, labels):
    source = load("folder", photos, labels_from=labels([*GOOD, ("a/4.png", "")]))
    assert source.class_names == ["cat", "dog"]
    of.root = photos
    assert {name: of(source, name) for name, _ in GOOD} == dict(GOOD)
    assert [of(source, name) for name in ("a/4.png", "a/5.png", "9.png", "10.png")] == [None] * 4
    assert np.bincount(source.test.labels).tolist() == [1, 1], "held out, only of labelled ones"
    assert any("labels 8 of 12 images" in note for note in source.notes)


def test_other_folders_join(photos, labels, tmp_path):
    picture(tmp_path / "pool" / "x.png", 50)
    picture(tmp_path / "test" / "cat" / "y.png", 51)
    source = load("folder", photos, labels_from=labels(GOOD), unlabeled=tmp_path / "pool", test=tmp_path / "test")
    assert source.train.files[-1] == "x.png"
    assert list(source.test.files) == ["cat/y.png"]
    assert source.origin["unlabeled"] == 5


def spreadsheet(text: str) -> str:
    """Semicolons, another order of columns, a further one."""
    rows = list(csv.reader(io.StringIO(text)))[1:]
    return " Label ;notes;File\n" + "".join(f'{label};"a;b";{name}\n' for name, label in rows)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\r\n", "\n"),
        lambda text: text.replace("\r\n", "\r"),
        spreadsheet,
        lambda text: text.replace("file,label\r\n", "file,label\r\n\r\n,\r\n") + "\r\n",
        lambda text: text.replace("a/0", "./a/0").replace("a/1", "a\\1"),
    ],
)
def test_spreadsheets_write_it_in_many_ways(photos, labels, change):
    plain = load("folder", photos, labels_from=labels(GOOD))
    path = labels(GOOD)
    again = load("folder", photos, labels_from=labels(change(path.read_bytes().decode())))
    assert again.origin == plain.origin
    np.testing.assert_array_equal(again.train.labels, plain.train.labels)
    reverse = load("folder", photos, labels_from=labels(GOOD[::-1]))
    assert reverse.origin == plain.origin
    other = load("folder", photos, labels_from=labels([*GOOD[:-1], ("b, c.png", "cat")]))
    assert other.origin != plain.origin


def test_accents_match_however_they_are_composed(photos, labels):
    picture(photos / "cafe\u0301.png", 90)
    source = load("folder", photos, labels_from=labels([*GOOD, ("caf\xe9.png", "cat")]))
    of.root = photos
    assert of(source, "cafe\u0301.png") == "cat"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no columns 'file' and 'label'"),
        (b"a/0.png,cat\na/1.png,dog\n", "no columns 'file' and 'label'"),
        (b"file,name\na/0.png,cat\n", "no columns"),
        (b"file,label\na/0.png,caf\xe9\n", "is not UTF-8"),
        ("file,label\na/0.png,cat\n".encode("utf-16"), "is not UTF-8"),
        (b"file,label\na/0.png\0,cat\n", "zero bytes"),
        (b'file,label\n"a/0.png,cat\n', "is not CSV"),
        (b"file,label\n", "labels no image"),
        (b"file,label\na/0.png,cat\na/1.png,\n", "the one label 'cat'"),
        ([*GOOD, ("gone.png", "cat")], "line 10: 'gone.png' is not in the folder"),
        ([*GOOD, ("a/0.png", "cat")], "line 10: 'a/0.png' is also in line 2"),
        ([*GOOD, (".\\a\\0.png", "cat")], "is also in line 2"),
        ([*GOOD, ("../photos/9.png", "cat")], "leads out of the folder"),
        ([*GOOD, ("/etc/passwd", "cat")], "a whole path"),
        ([*GOOD, ("C:\\me\\1.png", "cat")], "a whole path"),
        ([*GOOD, ("a", "cat")], "not read as an image"),
        ([*GOOD, ("", "cat")], "names no file"),
        ([*GOOD, ("9.png", "c\nat")], "does not print"),
        ([*GOOD, ("9.png", "caf\xe9"), ("10.png", "cafe\u0301")], "look the same"),
    ],
)
def test_each_mistake_is_one_error(photos, labels, content, said):
    with pytest.raises(UsageError) as caught:
        load("folder", photos, labels_from=labels(content))
    assert said in str(caught.value)


def test_a_long_list_of_mistakes_is_shortened(photos, labels):
    with pytest.raises(UsageError, match="300 lines") as caught:
        load("folder", photos, labels_from=labels([*GOOD, *((f"x{i}.png", "cat") for i in range(300))]))
    assert "and 292 more" in caught.value.why


def test_the_file_must_exist_and_belong_to_a_folder(photos, tmp_path, labels):
    with pytest.raises(UsageError, match="does not exist"):
        load("folder", photos, labels_from=tmp_path / "nowhere.csv")
    with pytest.raises(UsageError, match="cannot read"):
        load("folder", photos, labels_from=tmp_path)
    with pytest.raises(UsageError, match="--labels-from"):
        load("digits", labels_from=labels(GOOD))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no image"):
        load("folder", tmp_path / "empty", labels_from=labels(GOOD))


# ---- names in the store


ODD = ["=1+1.png", "a\nb.png", "\u202egnp.png", os.fsdecode(b"caf\xe9.png"), "x" * 200 + ".png", "<b>&.png", "日本.png"]


@pytest.fixture
def odd(tmp_path) -> Path:
    """A store of pictures with odd names."""
    for i, name in enumerate(ODD):
        picture(tmp_path / "odd" / "cat" / name, i)
        picture(tmp_path / "odd" / "dog" / "deep" / name, 100 + i)
    source = load("folder", tmp_path / "odd")
    return build(tmp_path / "store", source, load_recipe("cutout", source.weak, (8, 8)), copies=2)[0].path


def test_every_row_knows_its_file(odd, tmp_path):
    store = open_store(odd)
    assert len(store.train_files) == store.num_images == 12
    assert sorted([*store.train_files, *store.test_files]) == sorted(
        f"{folder}/{name}" for folder in ("cat", "dog/deep") for name in ODD
    )
    for files, images in ((store.train_files, store.train_images), (store.test_files, store.test_images)):
        for file, pixels in zip(files, images.read(), strict=True):
            with Image.open(tmp_path / "odd" / file) as image:
                np.testing.assert_array_equal(pixels, np.asarray(image))
    assert verify(odd) == check_copies(store, lambda *_: None) == []


def test_names_are_shown_without_their_tricks(odd):
    rows = list(csv.reader(io.StringIO("".join(file_lines(open_store(odd))))))
    assert rows[0] == ["part", "row", "class", "file"]
    assert len(rows) == 15
    assert all(cell.isprintable() and cell.encode() for row in rows for cell in row)
    assert any(row[3].endswith("a\\nb.png") for row in rows)
    words = [Path(sys.executable).with_name("realmix-data"), "preview", odd, "-o", odd.parent / "sheet.png"]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_a_store_without_names_says_so(tiny):
    store = open_store(tiny)
    assert store.train_files is store.test_files is None
    with pytest.raises(UsageError, match="does not say which files"):
        list(file_lines(store))
    assert dataset_facts(store)["file_names"] is False


def test_damaged_names_are_an_error_and_their_metadata_is_repaired(odd):
    (odd / "train/files/zarr.json").unlink()
    assert [problem.file for problem in verify(odd)] == ["train/files/zarr.json"]
    assert list(repair(odd).restored) == ["train/files/zarr.json"]
    assert verify(odd) == []
    data = (odd / "train/files/c/0").read_bytes()
    (odd / "train/files/c/0").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        open_store(odd).train_files  # noqa: B018
    assert list(repair(odd).lost) == ["train/files/c/0"]


def test_a_wrong_number_of_names_is_an_error(odd, tmp_path):
    array = file_names.packed(open_store(odd).train_files[:-1])
    content = manifest.read(odd)
    write_table(odd, file_names.TRAIN, array)
    for key in ("train/files/zarr.json", "train/files/c/0"):
        data = (odd / key).read_bytes()
        content["files"][key] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write(odd, content)
    with pytest.raises(IntegrityError, match="11 names for 12 rows"):
        open_store(odd).train_files  # noqa: B018
