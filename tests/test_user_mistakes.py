"""What people get wrong: one clear error, its documented exit code, and nothing on disk changed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stores.format import manifest


@pytest.fixture
def here(tiny, tmp_path, monkeypatch):
    """A folder with both stores, a trained run, two folders of images and files of a user's own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny.parent, "stores")
    for name in ("good", "empty", "broken", "single"):
        for label in ("cat",) if name == "single" else ("cat", "dog"):
            Path("images", name, label).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (8, 8), (40 * i, 10, 50 if label == "cat" else 90)).save(
                    f"images/{name}/{label}/{i}.png"
                )
    shutil.rmtree("images/empty/dog")
    Path("images/empty/dog").mkdir()
    Path("images/broken/cat/3.png").write_bytes(Path("images/broken/cat/3.png").read_bytes()[:40])
    Path("mine.txt").write_text("not a store")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def command(monkeypatch, capfd):
    """Run a command line in this process: exit code and what it printed."""
    from pipeline import cli as data
    from trainer import cli as train

    def run(line: str) -> tuple[int, str]:
        program, *words = line.split()
        monkeypatch.setattr(sys, "argv", [program, *words])
        with pytest.raises(SystemExit) as left:
            {"realmix-data": data.main, "realmix-train": train.main}[program]()
        out, err = capfd.readouterr()
        return left.value.code or 0, out + err

    return run


SMALL = "--model wrn-10-1 --batch 4 --steps 2 --device cpu --threads 1 --set tensorboard=false"


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("realmix-data build cifar11", 2, "did you mean cifar10"),
        ("realmix-data build digits --copies 0", 2, "at least one copy"),
        ("realmix-data build digits --copies many", 2, "Invalid value for .--copies"),
        ("realmix-data build digits --recipe cutuot", 2, "did you mean cutout"),
        ("realmix-data build digits --recipe mine.yaml", 2, "mine.yaml"),
        ("realmix-data build digits --name tiny", 3, "holds another store"),
        ("realmix-data build digits --name ../outside", 2, "--name '../outside' cannot be the name"),
        ("realmix-data build digits --name= --copies 2", 2, "--name '' cannot be the name"),
        ("realmix-data plan digits --name .hidden", 2, "for example hidden"),
        ("realmix-data split stores/tiny --labels 20 --name a/b", 2, "for example a_b"),
        ("realmix-data build digits --drop-conflicts", 2, "takes no --drop-conflicts"),
        ('realmix-data split stores/tiny --labeled-classes "ant,bee', 2, "not a list of class names"),
        ("realmix-train --store stores/tiny_20 --name a/b", 2, "--name 'a/b' cannot be the name"),
        ("realmix-data build digits --labels ten", 2, "not a number of labels"),
        ("realmix-data build digits --dask nowhere", 2, "--dask nowhere: no address"),
        ("realmix-data build digits --dry-run --copies 0", 2, "at least one copy"),
        ("realmix-data plan cifar11", 2, "did you mean cifar10"),
        ("realmix-data plan digits --sample-from stores/nothing", 3, "is not a store"),
        ("realmix-data build folder", 2, "folder"),
        ("realmix-data build folder images/nowhere", 2, "images/nowhere"),
        ("realmix-data build folder images/empty", 2, "dog"),
        ("realmix-data build folder images/single", 2, "cat"),
        ("realmix-data build folder images/broken --copies 2", 4, r"images/broken/cat/3\.png"),
        ("realmix-data split stores/tiny --labels 5000", 2, "5,000 labels"),
        ("realmix-data split stores/tiny --labels 3", 2, "too few"),
        ("realmix-data split stores/tiny --mismatch 50", 2, "CIFAR-10"),
        ("realmix-data split stores/tiny --labeled-classes ant,bea --labels 4", 2, "did you mean bee"),
        ("realmix-data split stores/tiny", 2, "--labels"),
        ("realmix-data info mine.txt", 3, "is not a store"),
        ("realmix-data info stores/tini", 3, "tiny, tiny_20"),
        ("realmix-data verify images", 3, "is not a store"),
        ("realmix-train", 2, "--store is missing"),
        ("realmix-train --store stores/nothing", 3, "is not a store"),
        ("realmix-train --store stores/tiny", 3, "tiny_20"),
        ("realmix-train --store stores/tiny_20 --method realmx", 2, "did you mean realmix"),
        ("realmix-train --store stores/tiny_20 --set gama=0.5", 2, "did you mean gamma"),
        ("realmix-train --store stores/tiny_20 --set gamma=2", 2, "gamma"),
        ("realmix-train --store stores/tiny_20 --model resnet", 2, "resnet"),
        ("realmix-train --store stores/tiny_20 --copies 9", 2, "--copies 9"),
        ("realmix-train --resume runs/nothing", 3, "runs/nothing"),
        ("realmix-train methods realmx", 2, "did you mean realmix"),
    ],
)
def test_one_clear_error_and_nothing_changed(here, command, line, code, message):
    before = contents(here)
    got, said = command(line)
    assert got == code, said
    assert re.search(message, said), said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 12, "one error, not a listing"
    assert contents(here) == before


def edit(path: Path, **fields: object) -> None:
    content = json.loads((path / "zarr.json").read_text())["attributes"]["realmix"]
    manifest.write(path, content | fields)


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (lambda: Path("stores/tiny").rename("stores/moved"), 3, "dataset store of 'stores/tiny_20' is gone"),
        (lambda: edit(Path("stores/tiny"), fingerprint="0" * 64), 3, "is not the dataset store"),
        (lambda: edit(Path("stores/tiny_20"), format_version=2), 3, "store format 2"),
        (lambda: edit(Path("stores/tiny"), format_version=9), 3, "store format 9"),
        (lambda: edit(Path("stores/tiny"), complete=False), 3, "not complete"),
        (lambda: Path("stores/tiny/train/images/c/0/0/0/0").unlink(), 4, "is missing"),
        (lambda: Path("stores/tiny/copies/params/c/0/0/0").unlink(), 4, "is missing"),
    ],
)
def test_stores_that_training_refuses(here, command, damage, code, message):
    damage()
    before = contents(here)
    got, said = command(f"realmix-train --store stores/tiny_20 {SMALL}")
    assert got == code, said
    assert message in said
    assert contents(here) == before


def test_a_truncated_checkpoint(here, command):
    assert command(f"realmix-train --store stores/tiny_20 {SMALL} --name one")[0] == 0
    run = Path("runs/one")
    (run / "result.json").unlink()  # as if it had been killed before its end
    whole = (run / "checkpoint.pt").read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        (run / "checkpoint.pt").write_bytes(whole[:length])
        before = contents(here)
        got, said = command("realmix-train --resume runs/one")
        assert got == 4, said
        assert "runs/one/checkpoint.pt" in said
        assert "Traceback" not in said
        assert contents(here) == before


def test_a_full_disk_is_one_message_and_the_build_continues(here, command, monkeypatch):
    from stores.format import manifest

    plain, left = manifest.write_atomically, [8]

    def full(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        plain(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write_atomically", full)
        got, said = command("realmix-data build folder images/good --copies 3 --name good --quiet")
    assert got == 5, said
    assert "the disk is full" in said
    assert "Traceback" not in said
    assert command("realmix-data build folder images/good --copies 3 --name good --quiet")[0] == 0
    assert command("realmix-data verify stores/good --deep --quiet")[0] == 0


def test_a_file_size_limit_of_the_real_kernel(here):
    """The kernel refuses the writes of a real process; the message names the cause and the exit code is documented."""
    np.savez(
        "noise.npz",
        images=np.random.default_rng(0).integers(0, 256, (400, 16, 16, 3), np.uint8),
        labels=np.arange(400) % 2,
    )
    program = Path(sys.executable).with_name("realmix-data")
    limited = f"ulimit -f 64; exec {program} build arrays noise.npz --copies 2 --quiet"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "file size limit" in done.stderr
    assert "Traceback" not in done.stderr
    unlimited = [program, "build", "arrays", "noise.npz", "--copies", "2", "--quiet"]
    assert subprocess.run(unlimited, capture_output=True, check=False).returncode == 0


def test_a_store_is_never_written_over_files_of_the_user(here, command):
    Path("stores/photos").mkdir()
    Path("stores/photos/cat.txt").write_text("meow")
    before = contents(here)
    for force in ("", " --force"):
        got, said = command(f"realmix-data build digits --name photos{force}")
        assert got == 3
        assert "not a store" in said
    assert contents(here) == before
