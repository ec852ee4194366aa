"""`realmix-data` as a user runs it: what it makes, what it prints, and that a machine can read it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from stores import open_store

PROGRAM = Path(sys.executable).with_name("realmix-data")
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def test_digits_from_build_to_preview(command):
    out = command("build digits --copies 3")
    assert "splits: digits_20, digits_50, digits_100" in out
    assert "next: realmix-train --store stores/digits_20" in out
    split = open_store("stores/digits_20")
    assert np.bincount(split.train_labels[split.labeled]).tolist() == [2] * 10

    again = command("build digits --copies 3")
    assert "already built" in again

    facts = json.loads(command("info stores/digits --json"))
    assert (facts["images"], facts["test_images"], facts["copies"], facts["size"]) == (1437, 360, 3, "8×8")
    files = [p for p in Path("stores/digits").rglob("*") if p.is_file() and p != Path("stores/digits/zarr.json")]
    assert (facts["bytes"], facts["files"]) == (sum(p.stat().st_size for p in files), len(files))
    told = json.loads(command("info stores/digits_20 --json"))
    assert (told["labeled"], told["unlabeled"], told["dataset"]) == (20, 1417, "digits")
    assert facts["fingerprint"] == told["dataset_fingerprint"]
    assert "fingerprint" in command("info stores/digits_20")

    checked = json.loads(command("verify stores/digits_20 --deep --json"))
    assert (checked["problems"], checked["deep"]) == ([], True)
    assert "sound" in command("verify stores/digits")

    assert command("preview stores/digits_20 -o sheet.png --rows 3 --copies 2").strip() == "sheet.png"
    with Image.open("sheet.png") as sheet:
        assert sheet.size[0] > 100

    assert (
        command("split stores/digits --labels 40 --split-seed 3 --valid 10").strip() == "stores/digits_40_seed3_valid10"
    )
    assert len(open_store("stores/digits_40_seed3_valid10").valid) == 10
    named = command("split stores/digits --labeled-classes 1,2,3 --unlabeled-classes 3,4 --labels 9 --name odd --json")
    assert json.loads(named) == ["stores/odd"]
    odd = open_store("stores/odd")
    assert odd.class_names == ["1", "2", "3"]
    assert set(odd.dataset.train_labels[odd.unlabeled]) == {3, 4}
    assert (odd.train_labels[odd.unlabeled] < 0).mean() > 0.4


def test_whatever_has_cifar10_s_classes_gets_its_splits(command, tmp_path):
    labels = np.arange(10 * 450) % 10
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "small.npz", images=pixels, labels=labels, class_names=CIFAR10)
    facts = json.loads(command("build arrays small.npz --copies 1 --name cifar10 --json --seed 2"))
    # of 3,750 training images: the mismatch levels need 400 of each class, and there are 375
    assert [Path(p).name for p in facts["splits"]] == [f"cifar10_{n}" for n in (250, 500, 1000, 2000)]
    assert len(facts["splits_left_out"]) == 6
    for level, gamma in ((0, 0.0), (25, 0.2), (50, 0.4), (75, 0.6), (100, 0.85)):
        command(f"split stores/cifar10 --mismatch {level} --labels 60")
        split = open_store(f"stores/cifar10_mismatch{level}_60")
        assert split.gamma == gamma
        assert split.class_names == CIFAR10[2:8]
        assert (split.train_labels[split.unlabeled] < 0).mean() == level / 100
        assert len(split.unlabeled) == 4 * 365


def test_chosen_splits_replace_the_standard_ones(command):
    facts = json.loads(
        command("build digits --copies 1 --labels 30,60 --split-seed 2 --valid 20 --root elsewhere --name d --json")
    )
    assert facts["splits"] == ["elsewhere/d_30_seed2_valid20", "elsewhere/d_60_seed2_valid20"]
    assert facts["built"] is True


def pictures(folder: Path, *classes: str, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / name / f"{i}.png")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My Photos (2)", "My_Photos_2"), ("[a] & b, c", "a_b_c"), ("v1.2", "v1.2"), (os.fsdecode(b"\xe9t\xe9"), "t")],
)
def test_a_store_is_called_like_its_folder_and_can_be_read_back(command, tmp_path, folder, name):
    pictures(tmp_path / folder, "cat, tabby", "dog")
    out = command(f"build folder {shlex.quote(folder)} --copies 1 --labels 4")
    assert f"next: realmix-train --store stores/{name}_4\n" in out
    assert json.loads(command(f"info stores/{name}_4 --json"))["dataset"] == name
    (path,) = command(f"""split stores/{name} --labeled-classes '"cat, tabby",DOG' --labels 2 --name x""").splitlines()
    assert open_store(path).class_names == ["cat, tabby", "dog"]


def test_a_name_may_hold_spaces_and_the_next_command_can_be_pasted(command, tmp_path):
    out = command("build digits --copies 1 --labels 20 --name 'My digits & more'")
    assert "next: realmix-train --store 'stores/My digits & more_20'" in out
    assert open_store(tmp_path / "stores" / "My digits & more_20").dataset.name == "My digits & more"


def test_a_split_lies_beside_its_dataset_whatever_way_leads_there(command, tmp_path, monkeypatch):
    command("build digits --copies 1 --labels 20 --root far/away")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far" / "away" / "digits")
    (path,) = command("split near/link --labels 30").splitlines()
    assert open_store(path).dataset.name == "digits"
    monkeypatch.chdir(tmp_path / "far" / "away" / "digits")
    (path,) = command("split . --labels 40").splitlines()
    assert open_store(path).dataset.name == "digits"
    assert {p.name for p in (tmp_path / "far" / "away").iterdir()} == {f"digits{n}" for n in ("", "_20", "_30", "_40")}


def test_a_store_in_the_folder_of_its_pictures_is_found_again(command, tmp_path, monkeypatch):
    pictures(tmp_path / "photos", "cat", "dog")
    monkeypatch.chdir(tmp_path / "photos")
    assert ": built in" in command("build folder . --copies 1 --labels 4")
    assert ": already built in" in command("build folder . --copies 1 --labels 4")


def test_what_happened_to_the_pictures_is_said_quiet_or_not(tmp_path):
    pictures(tmp_path / "photos", "cat", "dog")
    Image.new("RGB", (9, 8)).save(tmp_path / "photos/cat/odd.png")
    (tmp_path / "photos/cat/0 (1).png").write_bytes((tmp_path / "photos/cat/0.png").read_bytes())
    words = [PROGRAM, "build", "folder", "photos", "--copies", "1", "--quiet", "--json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["images"] == 14
    assert done.stderr.splitlines() == [
        "note: 14 labelled images of 2 classes: cat 7, dog 7",
        "note: no unlabelled images; 3 test images, held out of the labelled ones; 8×8 pixels each",
        "note: 17 of 18 images have 8×8 pixels: 1 image of another size is brought to it; --size says otherwise",
        "note: left out 1 file: a further copy of a picture of the training part",
    ]


def test_the_version_is_said(command):
    assert command("--version").startswith("realmix ")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_build_says_how_to_continue_and_continues_to_the_same_bytes(tmp_path, stop):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3000, 24, 24, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=pixels, labels=np.arange(3000) % 2)
    words = [PROGRAM, "build", "arrays", "noise.npz", "--copies", "60", "--workers", "1", "--quiet"]
    whole = subprocess.run([*words, "--root", "whole"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "built" in whole.stdout

    running = subprocess.Popen([*words, "--root", "stopped"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "stopped/noise/.journal.jsonl"
    while running.poll() is None and not (journal.exists() and "copies/images" in journal.read_text()):
        time.sleep(0.005)
    running.send_signal(stop)
    _, err = running.communicate(timeout=60)
    assert running.returncode == (-signal.SIGKILL if stop == signal.SIGKILL else 130)
    if stop != signal.SIGKILL:
        assert "run the same command again" in err
        assert "Traceback" not in err
    assert not (tmp_path / "stopped/noise_8").exists()
    subprocess.run([*words, "--root", "stopped"], cwd=tmp_path, capture_output=True, check=True)

    def contents(root: str) -> dict[str, bytes]:
        return {
            os.path.relpath(p, tmp_path / root): p.read_bytes() for p in (tmp_path / root).rglob("*") if p.is_file()
        }

    assert contents("stopped") == contents("whole")


def test_a_name_that_is_taken_is_told_by_what_differs_and_no_digest(command, tmp_path, capfd, monkeypatch):
    pictures(tmp_path / "photos", "cat", "dog")
    pictures(tmp_path / "others", "cat", "dog", seed=1)
    command("build folder photos --copies 1 --name pets --labels 4")
    command("split stores/pets --labels 6 --name mine")
    for words, said in {
        "build folder others --copies 1 --name pets --labels 4": "it differs in: source.content\n",
        "build folder photos --copies 2 --name pets": "it differs in: copies (1 there, 2 asked for)\n",
        "split stores/pets --labels 8 --name mine": "it differs in: labels (6 there, 8 asked for)\n",
        "split stores/pets --labels 3/class --name mine": "it differs in: per_class (null there, 3 asked for)\n",
        "split stores/pets --labels 6 --name pets": "it is a store of the kind 'dataset'\n",
    }.items():
        monkeypatch.setattr(sys, "argv", ["realmix-data", *shlex.split(words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        err = capfd.readouterr().err
        assert (left.value.code, "holds another store" in err) == (3, True)
        assert said in err
        assert not re.search("[0-9a-f]{20}", err)
