"""Which files below a folder are pictures, whatever else lies there."""

from __future__ import annotations

import os

import pytest

from stores.errors import UsageError
from stores.images.walk import files_below, told


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def below(root):
    return [os.path.relpath(file, root) for file in files_below(root).files]


def test_files_of_any_depth_come_sorted_and_what_is_no_picture_is_counted(tmp_path):
    make(tmp_path, "b.png", "a/deep/er/x", "a/.hidden/y.png", "notes.TXT", "Desktop.INI", "@eaDir/t.jpg", ".z")
    assert below(tmp_path) == ["a/deep/er/x", "b.png"]
    assert told(files_below(tmp_path).passed) == ("passed over: 2 hidden, 1 system file, 1 system folder, 1 text file")
    assert told(files_below(tmp_path / "a" / "deep").passed) == ""


def test_each_folder_counts_once_however_many_links_lead_to_it(tmp_path):
    make(tmp_path / "root", "a/1.png", "b/2.png")
    make(tmp_path, "elsewhere/3.png")
    (tmp_path / "root" / "a" / "b").symlink_to("../b")
    (tmp_path / "root" / "b" / "a").symlink_to("../a")
    (tmp_path / "root" / "up").symlink_to(tmp_path)
    (tmp_path / "root" / "more").symlink_to(tmp_path / "elsewhere")
    assert sorted(map(os.path.basename, below(tmp_path / "root"))) == ["1.png", "2.png", "3.png"]
    many = tmp_path / "many"
    for i in range(12):  # each links to every other: 12! ways through them
        make(many, f"{i}/{i}.png")
        for j in range(12):
            (many / str(i) / f"to{j}").symlink_to(f"../{j}")
    assert len(below(many)) == 12


def test_a_link_to_nothing_is_a_picture_that_is_missing(tmp_path):
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "round.png").symlink_to("round.png")
    assert below(tmp_path) == ["gone.png", "round.png"]


def test_stores_and_runs_are_ours(tmp_path):
    make(
        tmp_path,
        "stores/mine/zarr.json",
        "stores/mine/train/images/c/0/0/0/0",
        "runs/a/config.json",
        "x.png",
        "runs/a/checkpoint.pt",
        "other/config.json",
        "other/y.png",
    )
    found = files_below(tmp_path)
    assert below(tmp_path) == ["other/y.png", "x.png"]
    assert sorted(found.ours) == [str(tmp_path / "runs" / "a"), str(tmp_path / "stores" / "mine")]


def test_any_bytes_are_a_name(tmp_path):
    make(tmp_path, os.fsdecode(b"caf\xe9.png"))
    assert os.fsencode(files_below(tmp_path).files[0]).endswith(b"caf\xe9.png")


def test_what_is_no_folder_is_refused(tmp_path):
    make(tmp_path, "x.png")
    for path in (tmp_path / "x.png", tmp_path / "nothing"):
        with pytest.raises(UsageError, match="is not a folder"):
            files_below(path)
