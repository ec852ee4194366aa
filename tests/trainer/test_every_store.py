"""Every method trains from every kind of store; continued from its checkpoint it ends with the same weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_resume import assert_equal

from stores import open_store
from trainer import api
from trainer.methods import METHODS
from trainer.runs import checkpoint

SETTINGS = ["checkpoint_every=2", "eval_every=4", "batch=4", "precision=fp32", "tensorboard=false", "log_every=2"]
LESS = {"remixmatch": ["strong_views=1"], "fixmatch": ["ratio=2"], "uda": ["ratio=2"], "openmatch": ["fewest=1"]}


@pytest.fixture(scope="module")
def folder_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The split store of a folder of pictures in two classes, with more pictures that have no label."""
    root, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(1)
    for name, count in (("labelled/ant", 9), ("labelled/bee", 9), ("rest", 14), ("test/ant", 3), ("test/bee", 3)):
        folder = root / "photos" / name
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (9 + i % 3, 11, 3), np.uint8)).save(folder / f"{i}.png")
    words = ["build", "folder", "photos/labelled", "--unlabeled", "photos/rest", "--test", "photos/test", "--size", "8"]
    program = Path(sys.executable).with_name("realmix-data")
    subprocess.run([program, *words, "--copies", "3", "--name", "mine", "--quiet"], cwd=root, check=True)
    return root / "stores" / "mine_all"


@pytest.fixture(params=["labels", "mismatch", "folder", "ffcv"])
def split(request: pytest.FixtureRequest) -> Path:
    """A split store of each kind."""
    if request.param == "folder":
        return request.getfixturevalue("folder_store")
    if request.param == "mismatch":
        return request.getfixturevalue("trained") / "stores" / "strange"
    return request.getfixturevalue("tiny_ffcv" if request.param == "ffcv" else "tiny").with_name("tiny_20")


@pytest.mark.parametrize("name", METHODS)
def test_trains_and_resumes(split: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, stopped = checkpoint.save, tmp_path / "stopped" / "run"

    def save_and_copy(folder: Path, state: checkpoint.State, identity: dict[str, Any]) -> None:
        save(folder, state, identity)
        if state.step == 2 and not stopped.exists():  # what a kill at this moment would have left
            shutil.copytree(folder, stopped)

    monkeypatch.setattr(checkpoint, "save", save_and_copy)
    flags = {"store": str(split), "method": name, "model": "wrn-10-1", "steps": 4, "threads": 1, "device": "cpu"}
    whole, result = api.train([*SETTINGS, *LESS.get(name, [])], flags, tmp_path / "runs", "run", quiet=True)
    assert 0 <= result["error_last"] <= 100
    assert result["class_names"] == open_store(split).class_names
    resumed, again = api.resume(stopped, quiet=True)
    assert again["steps"] == result["steps"] == 4
    assert_equal(resumed, whole)
