"""Folders of images: what becomes of sizes, modes and formats, what is held out, and what each mistake is told."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from pipeline.building.build import build
from pipeline.recipes import load_recipe
from pipeline.sources import folder, image_files, load, twins
from pipeline.sources.scan import LISTED
from pipeline.sources.twins import Pictures
from stores.errors import IntegrityError, UsageError
from stores.images import jpeg, picture

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def save(file: Path, pixels: np.ndarray, **options) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)


def noise(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], -1).astype(np.uint8)


@pytest.fixture
def pets(tmp_path) -> Path:
    """Two classes of seven and five 8×8 PNG files: pets/cat/0.png …, pets/dog/0.png …"""
    for i in range(7):
        save(tmp_path / "pets" / "cat" / f"{i}.png", noise(i))
    for i in range(5):
        save(tmp_path / "pets" / "dog" / f"{i}.png", noise(100 + i))
    return tmp_path / "pets"


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ---- what a folder becomes ----


def test_classes_are_sorted_and_every_image_is_in_one_part(pets):
    source = load("folder", pets)
    assert source.class_names == ["cat", "dog"]
    np.testing.assert_array_equal(np.bincount(source.test.labels), [1, 1])  # a sixth of seven and of five
    np.testing.assert_array_equal(np.bincount(source.train.labels), [6, 4])
    expected = {noise(i).tobytes(): 0 for i in range(7)} | {noise(100 + i).tobytes(): 1 for i in range(5)}
    found = {}
    for part in (source.train, source.test):
        for image, label in zip(part.images[np.arange(len(part.labels))], part.labels, strict=True):
            found[image.tobytes()] = label
    assert found == expected
    assert source.weak == {"flip": True, "shift": 1}
    assert source.protocol is None


def test_the_held_out_images_are_always_the_same(pets, tmp_path):
    first = load("folder", pets)
    shutil.copytree(pets, tmp_path / "elsewhere" / "copy")
    again = load("folder", tmp_path / "elsewhere" / "copy")
    np.testing.assert_array_equal(first.test.images[np.arange(2)], again.test.images[np.arange(2)])
    assert first.origin == again.origin
    assert json.loads(json.dumps(first.origin)) == first.origin


def test_the_origin_changes_with_a_pixel_a_name_and_a_role(pets):
    save(pets.parent / "pool" / "x.png", noise(50))
    pool = load("folder", pets, unlabeled=pets.parent / "pool").origin["sha256"]
    origins = [load("folder", pets).origin["sha256"], pool]
    save(pets / "dog" / "3.png", noise(999))
    origins.append(load("folder", pets).origin["sha256"])
    (pets / "dog" / "3.png").rename(pets / "dog" / "three.png")
    origins.append(load("folder", pets).origin["sha256"])
    assert len(set(origins)) == 4


def test_test_folder_with_fewer_classes_and_deep_files(pets, tmp_path):
    save(tmp_path / "test" / "dog" / "deep" / "er" / "x.png", noise(70))
    source = load("folder", pets, test=tmp_path / "test")
    np.testing.assert_array_equal(source.test.labels, [1])
    np.testing.assert_array_equal(source.test.images[np.array([0])][0], noise(70))
    assert len(source.train.labels) == 12


def test_unlabelled_images_of_any_depth_join_the_training_part(pets, tmp_path):
    save(tmp_path / "pool" / "a.png", noise(50))
    save(tmp_path / "pool" / "b" / "c" / "d.png", noise(51))
    source = load("folder", pets, unlabeled=tmp_path / "pool")
    np.testing.assert_array_equal(source.train.labels[-3:], [1, -1, -1])
    np.testing.assert_array_equal(source.train.images[np.array([-1, -2]) + 12], [noise(51), noise(50)])
    assert source.origin["unlabeled"] == 2


def test_hidden_files_and_notes_are_passed_over(pets):
    plain = load("folder", pets)
    for name in (
        ".DS_Store",
        "cat/.thumb.png",
        "cat/labels.json",
        "README.md",
        ".git/x",
        "dog/.cache/y",
        "dog/Thumbs.db",
    ):
        (pets / name).parent.mkdir(exist_ok=True)
        (pets / name).write_text("no image")
    assert load("folder", pets).origin == plain.origin


def test_cifar10_is_recognised_by_its_class_names(tmp_path):
    for i, name in enumerate(CIFAR10):
        for j in range(2):
            save(tmp_path / name / f"{j}.png", noise(10 * i + j, 32, 32))
    source = load("folder", tmp_path)
    assert (source.name, source.protocol, source.weak) == ("folder", "cifar10", {"flip": True, "shift": 4})
    assert load("folder", tmp_path, flip=False).weak == {"flip": False, "shift": 4}


def test_sizes_kept_when_equal_else_32_else_as_told(pets):
    assert load("folder", pets).train.images.shape[1:] == (8, 8, 3)
    assert load("folder", pets).notes == ()
    assert load("folder", pets, size=20).train.images.shape[1:] == (20, 20, 3)
    save(pets / "cat" / "wide.png", noise(70, 8, 12))
    odd = load("folder", pets)
    assert odd.train.images.shape[1:] == (8, 8, 3), "one odd image of thirteen changes the size of none but itself"
    assert "12 of 13 images have 8×8 pixels: 1 image of another size" in odd.notes[0]
    save(pets / "cat" / "tall.png", noise(71, 12, 8))
    mixed = load("folder", pets)
    assert mixed.train.images.shape[1:] == (32, 32, 3)
    assert "the images have 3 sizes: all are brought to 32×32" in mixed.notes[0]
    assert load("folder", pets, size=20).notes == ()
    for i, file in enumerate(sorted(pets.glob("*/*.png"))):
        save(file, noise(i, 8, 12))
    source = load("folder", pets)
    assert source.train.images.shape[1:] == (8, 12, 3)
    np.testing.assert_array_equal(source.train.images[np.array([0])][0], noise(0, 8, 12))


def test_photographs_are_brought_to_a_size_of_their_own(tmp_path):
    for i in range(4):
        save(tmp_path / "set" / ("cat", "dog")[i % 2] / f"{i}.png", noise(i, 240, 320))
    source = load("folder", tmp_path / "set")
    assert source.train.images.shape[1:] == (128, 128, 3)
    assert "the photographs have 320×240 pixels: all are brought to 128×128" in source.notes[0]
    save(tmp_path / "set" / "cat" / "4.png", noise(4, 320, 240))
    source = load("folder", tmp_path / "set")
    assert source.train.images.shape[1:] == (128, 128, 3)
    assert "the photographs have 2 sizes: all are brought to 128×128" in source.notes[0]
    assert load("folder", tmp_path / "set", size=32).notes == ()


def test_a_size_that_no_store_can_have_is_refused(pets):
    for i, file in enumerate(sorted(pets.glob("*/*.png"))):
        save(file, noise(i, 2, 3))
    with pytest.raises(UsageError, match="the images have 3×2 pixels") as caught:
        load("folder", pets)
    assert "--size" in caught.value.hint
    assert load("folder", pets, size=4).train.images.shape[1:] == (4, 4, 3)


def test_lazy_and_at_once_are_the_same_pixels(pets, monkeypatch):
    save(pets / "dog" / "large.png", noise(3, 90, 70))  # above the size from which threads decode
    at_once = load("folder", pets, size=16)
    monkeypatch.setattr(folder, "IN_MEMORY", 0)
    monkeypatch.setattr(folder, "_LARGE_FILE", 0)
    lazy = load("folder", pets, size=16)
    assert isinstance(at_once.train.images, np.ndarray)
    assert isinstance(lazy.train.images, folder.ImageFiles)
    rows = np.array([8, 0, 3, 3, 1, 9, 2, 5, 4, 7, 6])
    np.testing.assert_array_equal(lazy.train.images[rows], at_once.train.images[rows])
    assert lazy.train.images[rows[:0]].shape == (0, 16, 16, 3)


def test_a_range_is_part_of_the_origin_and_twelve_bits_in_sixteen_are_noticed(tmp_path):
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8)
    for i in range(8):
        save(tmp_path / "deep" / "ab"[i % 2] / f"{i}.png", grey * 62 + i)
    dark = load("folder", tmp_path / "deep")
    [note] = dark.notes
    assert "up to 3913: they become nearly black" in note
    assert "--range 0,4095" in note
    assert "range" not in dark.origin
    bright = load("folder", tmp_path / "deep", range_=(0, 4095))
    assert (bright.origin["range"], bright.notes) == ([0, 4095], ())
    rows = np.arange(len(bright.train.labels))
    assert dark.train.images[rows].max() < 16
    assert bright.train.images[rows].max() > 240


def test_a_set_of_eight_bits_is_read_without_a_word(pets):
    for i, file in enumerate(sorted(pets.glob("*/*.png"))):
        save(file, np.full((8, 8, 3), i, np.uint8))  # nearly black is what they are
    assert load("folder", pets).notes == ()


def test_progress_reaches_the_end(pets):
    seen = {}
    load("folder", pets, progress=lambda what, done, total: seen.update({what: (done, total)}))
    assert seen == {"scan": (12, 12), "decode": (10, 10), "decode test": (2, 2)}


def test_progress_is_there_before_the_first_file_is_read(pets, monkeypatch):
    seen = []
    monkeypatch.setattr(picture, "contents", lambda file: pytest.fail(f"{file} is read and nothing was said: {seen}"))
    with pytest.raises(pytest.fail.Exception):
        load("folder", pets, progress=lambda *said: seen.append(said))
    assert seen == [("scan", 0, 12)]


# ---- what lies among the pictures ----


def test_what_systems_leave_behind_is_no_picture_and_is_counted(pets):
    plain = load("folder", pets)
    folders = (
        "@eaDir/0.png",
        "cat/@eaDir/0.png",
        "__MACOSX/cat",
        "$RECYCLE.BIN",
        "#recycle",
        "lost+found",
        "System Volume Information",
    )
    for name in folders:
        save(pets / name / "SYNOPHOTO_THUMB_XL.jpg", noise(40))
    for name in ("desktop.ini", "cat/desktop.ini", "cat/Thumbs.db", "dog/0.png:Zone.Identifier", "dog/.DS_Store"):
        (pets / name).write_text("no image")
    found = load("folder", pets)
    assert (found.origin, found.class_names) == (plain.origin, ["cat", "dog"])
    assert found.notes == ("passed over: 1 hidden, 3 system files, 7 system folders, 1 text file",)


def test_links_that_lead_round_in_a_circle_end(pets):
    plain = load("folder", pets)
    (pets / "cat" / "again").symlink_to(pets / "cat")
    (pets / "cat" / "up").symlink_to(pets)
    (pets / "dog" / "far_up").symlink_to("/")
    (pets / "all").symlink_to(pets)
    found = load("folder", pets)
    assert found.origin == plain.origin
    assert found.notes == ("passed over: 4 folders reached twice",)


def test_pipes_and_devices_make_nobody_wait(pets):
    plain = load("folder", pets)
    os.mkfifo(pets / "cat" / "pipe.png")
    (pets / "dog" / "endless.png").symlink_to("/dev/zero")
    found = load("folder", pets)
    assert found.origin == plain.origin
    assert found.notes == ("passed over: 2 pipes or devices",)


def test_stores_and_runs_in_the_folder_of_pictures_are_left_out(pets, tiny):
    plain = load("folder", pets)
    shutil.copytree(tiny.parent, pets / "stores")
    save(pets / "runs" / "one" / "export" / "confusion.png", noise(41))
    for name in ("config.json", "metrics.jsonl", "model.safetensors"):
        (pets / "runs" / "one" / name).write_text("{}")
    (pets / "runs" / "report.html").write_text("")
    found = load("folder", pets)
    assert found.origin == plain.origin
    assert "left out stores and runs of realmix: " in found.notes[-1]
    (pets / "runs").rename(pets / "cat" / "runs")
    with pytest.raises(UsageError, match="cat' holds more than pictures"):
        load("folder", pets)


@pytest.mark.parametrize(
    ("folders", "command"),
    [
        (["train/cat", "train/dog", "test/cat"], "build folder {}/train --test {}/test"),
        (["Train/cat", "Train/dog", "Val/cat", "README.md/"], "build folder {}/Train --test {}/Val"),
        (["train/cat", "train/dog", "valid/dog", "test/cat"], "build folder {}/train --test {}/test"),
        (["train/cat", "train/dog", "unlabelled/a"], "build folder {}/train --unlabeled {}/unlabelled"),
        (["train/cat", "train/dog", "test/cat", "extra/x"], "build folder {}/train --test {}/test"),
        (["train", "test"], "a folder for each class"),
        (["photos/cat", "photos/dog"], "build folder {}/photos"),
        (["labelled/cat", "labelled/dog", "rest", "test/cat"], "{}/labelled --test {}/test --unlabeled {}/rest"),
        (["cat", "dog", "unlabelled"], "build folder {} --unlabeled {}/unlabelled"),
        (["cat", "dog", "No Labels/a", "test/cat"], "build folder {} --test {}/test --unlabeled {}/No Labels"),
    ],
)
def test_a_folder_of_parts_is_no_folder_of_classes(folders, command, tmp_path):
    for i, name in enumerate(folders):
        save(tmp_path / "my set" / name / "0.png", noise(i))
    with pytest.raises(UsageError) as caught:
        load("folder", tmp_path / "my set")
    said = caught.value.hint.replace(f"{tmp_path}/my set", "{}").replace("'", "")
    assert command in said


def test_a_class_may_be_called_train(tmp_path):
    for i, name in enumerate(["train/steam", "train/diesel", "bus/old", "test/track"] * 2):
        save(tmp_path / name / f"{i}.png", noise(i))
    assert load("folder", tmp_path).class_names == ["bus", "test", "train"]


def test_parts_may_lie_beside_the_classes_if_they_are_named(pets, tmp_path):
    shutil.copytree(pets, tmp_path / "all")
    save(tmp_path / "unlabelled" / "deep" / "0.png", noise(50))
    save(tmp_path / "test" / "cat" / "0.png", noise(60))
    apart = load("folder", tmp_path / "all", test=tmp_path / "test", unlabeled=tmp_path / "unlabelled")
    for part in ("unlabelled", "test"):
        (tmp_path / part).rename(pets / part)
    beside = load("folder", pets, test=pets / "test", unlabeled=pets / "unlabelled")
    assert (beside.class_names, beside.origin) == (apart.class_names, apart.origin)
    assert beside.train.files == apart.train.files
    (tmp_path / "labels.csv").write_text("file,label\ncat/0.png,a\ncat/1.png,b\n")
    with pytest.raises(UsageError, match="lies in"):
        load("folder", pets, test=pets / "test", labels_from=tmp_path / "labels.csv")


def test_a_class_with_the_name_of_a_heap_is_pointed_out(pets):
    assert load("folder", pets).notes == ()
    for i in range(2):
        save(pets / "Unknown" / f"{i}.png", noise(30 + i))
        save(pets / "rest" / f"{i}.png", noise(40 + i))
    (note,) = load("folder", pets).notes
    assert note.startswith("'Unknown', 'rest' are classes like any other")


def test_folders_of_the_same_folders_are_pointed_out(tmp_path):
    for i, name in enumerate(["2019/cat", "2019/dog", "2020/cat", "2020/dog"] * 2):
        save(tmp_path / name / f"{i}.png", noise(i))
    (note,) = load("folder", tmp_path).notes
    assert note.startswith("every class has the same sub-folders: 'cat', 'dog'")


def test_any_class_name_stays_as_it_is(tmp_path):
    names = ["a, b", "[bold]x", "cat & dog", "été", "犬", "v1.1", "v1.2"]
    for i, name in enumerate([*names, *names]):
        save(tmp_path / name / f"{i}.png", noise(i))
    strange = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(strange)).mkdir()
    for i in range(2):
        save(Path(os.fsdecode(strange + b"/\xff%d.png" % i)), noise(50 + i))
    source = load("folder", tmp_path)
    assert sorted(source.class_names) == sorted([*names, r"caf\xe9"])
    save(tmp_path / r"caf\xe9" / "0.png", noise(60))
    with pytest.raises(UsageError, match="two class folders"):
        load("folder", tmp_path)


# ---- the same picture twice ----


def all_images(source) -> list[tuple[bytes, int]]:
    return [
        (image.tobytes(), label)
        for part in (source.train, source.test)
        for image, label in zip(part.images[np.arange(len(part.labels))], part.labels.tolist(), strict=True)
    ]


def test_copies_within_a_class_and_among_the_unlabelled_are_left_out(pets, tmp_path):
    save(tmp_path / "pool" / "new.png", noise(50))
    plain = load("folder", pets, unlabeled=tmp_path / "pool")
    assert "left_out" not in plain.origin
    for file in sorted(pets.rglob("*.png")):
        shutil.copy(file, file.with_name(f"{file.stem} (1).png"))
    shutil.copy(pets / "cat" / "0.png", tmp_path / "pool" / "seen.png")
    shutil.copy(tmp_path / "pool" / "new.png", tmp_path / "pool" / "new again.png")
    source = load("folder", pets, unlabeled=tmp_path / "pool")
    assert source.origin["left_out"] == {"copies": 14}
    assert [note for note in source.notes if "14 files" in note]
    assert sorted(all_images(source)) == sorted(all_images(plain)), "each picture is there once, on one side"


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 2)), min_size=1, max_size=24), st.integers(0, 6))
def test_no_training_picture_is_left_with_a_twin(pictures, num_test):
    def part(some):
        digests = np.array([bytes([65 + content]) for content, _ in some], "S32")
        return Pictures([str(i) for i in range(len(some))], np.array([c for _, c in some], np.int64), digests)

    labelled = sorted(((content, label) for content, label in pictures[num_test:]), key=lambda p: p[1] < 0)
    test = [(content, max(label, 0)) for content, label in pictures[:num_test]]
    settled = twins.settle(part(labelled), part(test), drop=True)
    left, tested = settled.train.digests.tolist(), settled.test.digests.tolist()
    assert len(set(left)) == len(left)
    assert not set(left) & set(tested)
    assert len(left) + len(tested) + sum(settled.left_out.values()) == len(pictures)
    known = {(content, label) for content, label in labelled if label >= 0}
    contrary = {content for content, label in known if any((content, other) in known for other in {0, 1, 2} - {label})}
    labels = dict(zip(left, settled.train.labels.tolist(), strict=True))
    for content, label in known:
        if content not in contrary and bytes([65 + content]) in labels:
            assert labels[bytes([65 + content])] == label, "of a labelled and an unlabelled copy the labelled one stays"
    untouched = twins.settle(settled.train, settled.test, drop=False)
    assert (untouched.left_out, untouched.kept, untouched.train.files) == ({}, {}, settled.train.files)
    if not {content for content, _ in labelled} & {content for content, _ in test}:
        kept = twins.settle(part(labelled), part(test), drop=False)
        pairs = list(zip(kept.train.digests.tolist(), kept.train.labels.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)
        assert {(ord(digest) - 65, label) for digest, label in pairs if label >= 0} == known
        assert not {d for d, label in pairs if label < 0} & {d for d, label in pairs if label >= 0}


def test_one_picture_under_two_classes_is_told_or_left_out(pets):
    shutil.copy(pets / "cat" / "0.png", pets / "dog" / "is a cat.png")
    kept = load("folder", pets)
    [note] = kept.notes
    assert note.startswith("2 files: the same picture under two classes, as")
    assert "cat/0.png' and '" in note
    assert "dog/is a cat.png'" in note
    assert kept.origin["kept"] == {"under_two_classes": 2}
    assert len(all_images(kept)) == 13
    held = {image.tobytes() for image in kept.test.images[np.arange(len(kept.test.labels))]}
    assert noise(0).tobytes() not in held, "others can be tested on"
    source = load("folder", pets, drop_conflicts=True)
    assert source.origin["left_out"] == {"under_two_classes": 2}
    assert noise(0).tobytes() not in [image for image, _ in all_images(source)]
    assert len(all_images(source)) == 11


def test_a_test_picture_that_is_trained_on_is_refused_or_left_out_of_training(pets, tmp_path):
    for name in ("cat", "dog"):
        save(tmp_path / "test" / name / "new.png", noise(60 + len(name) + ord(name[0])))
    save(tmp_path / "pool" / "a.png", noise(50))
    shutil.copy(pets / "cat" / "0.png", tmp_path / "test" / "cat" / "copy.png")
    shutil.copy(tmp_path / "test" / "dog" / "new.png", tmp_path / "pool" / "b.png")
    folders = {"test": tmp_path / "test", "unlabeled": tmp_path / "pool"}
    with pytest.raises(UsageError, match="2 training pictures are also in the test part") as caught:
        load("folder", pets, **folders)
    assert "test/cat/copy.png' is '" in caught.value.why
    assert "--drop-conflicts" in caught.value.hint
    source = load("folder", pets, **folders, drop_conflicts=True)
    assert source.origin["left_out"] == {"also_in_test": 2}
    assert (source.origin["train"], source.origin["unlabeled"], source.origin["test"]) == (11, 1, 3)
    trained = {image.tobytes() for image in source.train.images[np.arange(12)]}
    assert not trained & {image.tobytes() for image in source.test.images[np.arange(3)]}


# ---- one picture ----


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    quality=st.integers(1, 100),
    subsampling=st.integers(0, 2),
    grey=st.booleans(),
    progressive=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_plain_jpeg_has_pillow_s_bytes(height, width, quality, subsampling, grey, progressive, seed):
    image = Image.fromarray(noise(seed, height, width)).convert("L" if grey else "RGB")
    data = encode(image, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    assert jpeg.plain_size(data) == (height, width) == picture.size(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(picture.pixels(data, (height, width)), expected)


def test_special_jpegs_are_left_to_pillow():
    image = Image.fromarray(smooth(8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (
        encode(image, "JPEG", exif=exif),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image, "JPEG", icc_profile=profile),
        encode(image, "PNG"),
    ):
        assert jpeg.plain_size(data) is None
        assert picture.pixels(data, (8, 8)).shape == (8, 8, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation(orientation, kind):
    upright = smooth(12, 20)
    # How a camera stores an upright picture under each orientation (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    assert picture.size(data) == (12, 20)
    np.testing.assert_allclose(picture.pixels(data, (12, 20)).astype(int), upright.astype(int), atol=4)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_a_picture_with_an_alpha_channel_is_turned_upright_too(kind):
    upright = smooth(12, 20)
    opaque = np.dstack([np.rot90(upright, 1), np.full((20, 12), 255, np.uint8)])
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(np.ascontiguousarray(opaque)), kind, exif=exif, **options)
    assert picture.size(data) == (12, 20)
    np.testing.assert_array_equal(picture.pixels(data, (12, 20)), upright)


def test_modes():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    rgb = np.stack([grey] * 3, -1)

    def decoded(image, kind="PNG"):
        return picture.pixels(encode(image, kind), (8, 8))

    np.testing.assert_array_equal(decoded(Image.fromarray(grey)), rgb)
    np.testing.assert_array_equal(decoded(Image.fromarray(grey.astype(np.uint16) * 257)), rgb)
    np.testing.assert_array_equal(decoded(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"), rgb)
    np.testing.assert_array_equal(decoded(Image.fromarray(grey > 99)), np.where(rgb > 99, 255, 0))
    np.testing.assert_array_equal(decoded(Image.fromarray(rgb).quantize(256)), rgb)
    np.testing.assert_array_equal(decoded(Image.fromarray(rgb), "GIF"), rgb)
    np.testing.assert_array_equal(decoded(Image.fromarray(rgb), "BMP"), rgb)
    np.testing.assert_allclose(decoded(Image.fromarray(smooth(8, 8)).convert("CMYK"), "TIFF"), smooth(8, 8), atol=1)


def test_transparency_is_laid_over_mid_grey():
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 0], rgba[:4, :, 3], rgba[4, :, 3] = 200, 255, 51  # opaque above, a row of one fifth, clear below
    found = picture.pixels(encode(Image.fromarray(rgba), "PNG"), (8, 8))
    np.testing.assert_array_equal(found[:4], np.broadcast_to([200, 0, 0], (4, 8, 3)))
    np.testing.assert_allclose(found[4], np.broadcast_to([0.2 * 200 + 0.8 * 127, 0.8 * 127, 0.8 * 127], (8, 3)), atol=1)
    np.testing.assert_array_equal(found[5:], 127)
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([9] * 768)
    np.testing.assert_array_equal(picture.pixels(encode(palette, "PNG", transparency=3), (8, 8)), 127)


def test_resizing_crops_the_middle_and_keeps_the_picture():
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = [10, 200, 30]
    np.testing.assert_array_equal(picture.pixels(encode(Image.fromarray(wide), "PNG"), (32, 32)), wide[:, 32:64])
    large = smooth(256, 256)
    for kind in ("PNG", "JPEG"):  # a JPEG this large is decoded at a smaller scale first
        found = picture.pixels(encode(Image.fromarray(large), kind, quality=95), (16, 16)).astype(int)
        expected = large.reshape(16, 16, 16, 16, 3).mean((1, 3))
        np.testing.assert_allclose(found, expected, atol=5)


@given(
    height=st.integers(100, 400), width=st.integers(100, 400), side=st.integers(16, 60), orientation=st.integers(1, 8)
)
@settings(max_examples=40, deadline=None)
def test_a_large_jpeg_is_decoded_at_a_smaller_scale_without_being_moved(height, width, side, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    blobs = Image.fromarray(np.random.default_rng(height * width).integers(0, 256, (5, 5, 3), np.uint8))
    image = blobs.resize((width, height), Image.Resampling.BICUBIC)
    data = encode(image, "JPEG", quality=95, subsampling=0, exif=exif)
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = np.asarray(ImageOps.fit(whole, (side, side), Image.Resampling.LANCZOS)).astype(int)
    wrong = picture.pixels(data, (side, side)) - expected
    assert np.sqrt((wrong**2).mean()) < 2.3, "a PSNR of 41 dB"


def test_the_origin_says_how_large_jpegs_are_decoded(tmp_path):
    def fit(name: str, side: int) -> str:
        for class_ in "ab":
            for i in range(2):
                save(tmp_path / f"{name}{side}" / class_ / f"{i}.{name}", noise(ord(class_) + i, side, side))
        return load("folder", tmp_path / f"{name}{side}", size=8).origin["fit"]

    assert fit("png", 64) == fit("jpg", 23) == "crop, lanczos, 1"
    assert fit("jpg", 24) == "crop, lanczos, 2"


def test_decoding_is_reported_from_the_first_images_on(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_LARGE_FILE", 0)
    for i in range(40):
        save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.jpg", noise(i))
    said = []
    load("folder", tmp_path / "photos", progress=lambda *now: said.append(now))
    decoded = [done for what, done, _ in said if what == "decode"]
    assert len(decoded) > 1
    assert decoded == sorted(decoded)


# ---- mistakes ----


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_truncated_image_is_named(kind, lazy, pets, monkeypatch):
    monkeypatch.setattr(folder, "IN_MEMORY", 0 if lazy else 1 << 20)
    data = encode(Image.fromarray(noise(1, 64, 64)), kind)
    (pets / "dog" / "half").write_bytes(data[: len(data) // 2])

    def read_all():
        source = load("folder", pets, test=pets.parent / "test", size=8)
        return source.train.images[np.arange(len(source.train.labels))]

    save(pets.parent / "test" / "cat" / "0.png", noise(70))
    with pytest.raises(IntegrityError, match="dog/half"):
        read_all()


@pytest.mark.parametrize("lazy", [False, True])
def test_all_broken_images_are_named_at_once(lazy, pets, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "IN_MEMORY", 0 if lazy else 1 << 20)
    monkeypatch.setattr(image_files, "_TOGETHER", 2)
    data = encode(Image.fromarray(noise(1, 64, 64)), "JPEG")
    for i in range(5):
        (pets / "dog" / f"half{i}").write_bytes(data[: len(data) // 2 + i])
    save(tmp_path / "test" / "cat" / "0.png", noise(70))
    (tmp_path / "test" / "cat" / "half5").write_bytes(data[: len(data) // 3])
    decoded, plain = [], picture.load
    monkeypatch.setattr(picture, "load", lambda file, *how: (decoded.append(file), plain(file, *how))[1])

    def build_all():
        source = load("folder", pets, test=tmp_path / "test", size=8)
        build(tmp_path / "store", source, load_recipe("cutout", source.weak, (8, 8)), copies=1, workers=2)

    with pytest.raises(IntegrityError, match="6 broken images") as caught:
        build_all()
    assert [f"half{i}" for i in range(6) if f"half{i}" not in caught.value.why] == []
    assert len(decoded) == len(set(decoded)) == 19, "each file is decoded once"
    assert not (tmp_path / "store").exists()


def test_all_files_that_are_no_images_are_named_by_the_scan(pets):
    for i in range(LISTED + 3):
        (pets / "cat" / f"text{i:02}.png").write_text(f"not a picture {i}")
    (pets / "dog" / "gone.png").symlink_to(pets / "nowhere.png")
    with pytest.raises(IntegrityError, match=f"{LISTED + 4} broken images") as caught:
        load("folder", pets)
    assert "text00.png" in caught.value.why
    assert "and 4 more" in caught.value.why
    assert len(caught.value.why.splitlines()) == LISTED + 1


def break_some(pets: Path) -> list[str]:
    """Break files of a folder in every way: no image, empty, cut short, a link to nowhere. Their names."""
    (pets / "cat" / "text.png").write_text("not a picture")
    (pets / "cat" / "empty.png").write_bytes(b"")
    data = encode(Image.fromarray(noise(1, 64, 64)), "JPEG")
    (pets / "dog" / "half.jpg").write_bytes(data[: len(data) // 2])
    (pets / "dog" / "gone.png").symlink_to(pets / "nowhere.png")
    return ["cat/empty.png", "cat/text.png", "dog/gone.png", "dog/half.jpg"]


@pytest.mark.parametrize("lazy", [False, True])
def test_broken_files_of_every_kind_are_named_at_once(lazy, pets, monkeypatch):
    monkeypatch.setattr(folder, "IN_MEMORY", 0 if lazy else 1 << 20)
    names = break_some(pets)
    with pytest.raises(IntegrityError, match="4 broken images") as caught:
        load("folder", pets)
    assert [name for name in names if name not in caught.value.why] == []
    assert "it is empty" in caught.value.why
    assert "--skip-broken" in caught.value.hint


def test_broken_files_are_left_out_if_asked_and_the_others_are_what_they_were(pets, tmp_path):
    plain = load("folder", pets, size=8)
    assert "broken" not in load("folder", pets, size=8, skip_broken=True).origin
    assert load("folder", pets, size=8, skip_broken=True).origin == plain.origin
    names = break_some(pets)
    source = load("folder", pets, size=8, skip_broken=True)
    assert source.origin["broken"] == names
    assert len([note for note in source.notes if "left out" in note]) == 4
    assert all_images(source) == all_images(plain)
    assert source.train.files == plain.train.files


def test_a_folder_of_nothing_but_broken_files_is_refused_even_then(pets):
    for file in pets.glob("*/*"):
        file.write_bytes(b"broken")
    with pytest.raises(IntegrityError, match="12 broken images"):
        load("folder", pets, skip_broken=True)
    save(pets / "dog" / "a.png", noise(1))
    save(pets / "dog" / "b.png", noise(2))
    with pytest.raises(UsageError, match="no image of the class 'cat'") as caught:
        load("folder", pets, skip_broken=True)
    assert "broken" in caught.value.why


def test_a_film_among_the_pictures_is_not_read(pets, monkeypatch):
    with (pets / "cat" / "film.mov").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(IntegrityError, match=r"film\.mov") as caught:
        load("folder", pets)
    assert "1,024.0 GiB" in caught.value.why


def test_a_file_that_is_no_image_is_named_by_the_scan(pets, monkeypatch):
    monkeypatch.setattr(folder, "IN_MEMORY", 0)
    (pets / "cat" / "notes.png").write_text("not a picture")
    with pytest.raises(IntegrityError, match=r"cat/notes\.png"):
        load("folder", pets)


def test_floating_point_pixels_are_refused(pets):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(pets / "cat" / "float.tiff")
    with pytest.raises(IntegrityError, match=r"float\.tiff") as caught:
        load("folder", pets)
    assert "8 or 16 bits" in caught.value.why


def test_a_file_that_vanishes_before_it_is_decoded_is_named(pets, monkeypatch):
    monkeypatch.setattr(folder, "IN_MEMORY", 0)
    source = load("folder", pets)
    shutil.rmtree(pets / "dog")
    with pytest.raises(IntegrityError, match="dog/"):
        source.train.images[np.arange(10)]


def test_mistakes_in_the_folders(pets, tmp_path):
    def refused(match, path=pets, **options):
        with pytest.raises(UsageError, match=match):
            load("folder", path, **options)

    save(tmp_path / "flat" / "0.png", noise(0))
    (tmp_path / "nothing").mkdir()
    save(tmp_path / "single" / "cat" / "0.png", noise(0))
    save(tmp_path / "test" / "mouse" / "0.png", noise(0))
    save(tmp_path / "lonely" / "cat" / "0.png", noise(0))
    save(tmp_path / "lonely" / "dog" / "0.png", noise(1))
    refused("has images but no class folders", tmp_path / "flat")
    refused("no class folders", tmp_path / "nothing")
    refused("the one class 'cat'", tmp_path / "single")
    refused("is not a folder", pets / "cat" / "0.png")
    refused("unknown class 'mouse'", test=tmp_path / "test")
    save(pets / "dog" / "pool" / "0.png", noise(60))
    for options in ({"test": pets}, {"unlabeled": pets}, {"test": tmp_path / "test", "unlabeled": tmp_path / "test"}):
        refused("is also that of --", **options)
    (tmp_path / "link").symlink_to(pets)
    for inner in ("unlabeled", "test"):
        refused("lies in '.*pets', that of the labelled images", **{inner: pets / "dog" / "pool"})
        refused("is also that of --", **{inner: tmp_path / "link"})
    refused("lies in '.*', that of --unlabeled", unlabeled=tmp_path)
    refused("has no image", unlabeled=tmp_path / "nothing")
    refused("no image to spare", tmp_path / "lonely")
    save(pets / "stray.png", noise(0))
    refused(r"stray\.png' belongs to no class")
    (pets / "stray.png").unlink()
    (pets / "empty").mkdir()
    (pets / "empty" / "readme.txt").write_text("soon")
    refused("class folder '.*empty' has no image")
