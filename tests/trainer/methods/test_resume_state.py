"""What a method has learned by itself is in its checkpoint: killed and resumed, a run equals an uninterrupted one."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import SETTINGS, assert_equal, die

from stores.format import manifest
from trainer import api
from trainer.functional import mismatch_share
from trainer.methods import realmix
from trainer.runs import checkpoint

STEPS = 10
LEARNING = {
    "remixmatch": ["strong_views=1", "rampup_steps=4"],
    "fixmatch": ["policy=ctaugment", "ratio=2", "threshold=0.2"],
    "uda": ["ratio=2", "threshold=0.2", "tsa=linear"],
    "realmix": ["gamma=auto", "rampup_steps=4"],
    "openmatch": ["fewest=1"],
    "iomatch": ["ratio=2", "align=true", "history=4"],
    "uasd": ["gate_share=0", "rampup_share=0", "threshold=0.2"],
}


def estimate_often(replace: Callable[[Any, str, Any], None]) -> None:
    """γ every second step, from the features: a store as small as this one tells nothing of itself."""
    replace(realmix, "EVERY", (2, 2))
    replace(mismatch_share, "estimate", lambda x, *_: float(abs(x).sum()) % 0.8)


def start(split: Path, runs: Path, method: str) -> Path:
    flags = {"store": str(split), "method": method, "model": "wrn-10-1", "steps": STEPS, "threads": 1, "device": "cpu"}
    return api.train([*SETTINGS, *LEARNING[method]], flags, runs, "run", quiet=True)[0]


def start_and_die(split: Path, runs: Path, method: str) -> None:
    """In a process of its own: die while the second checkpoint, after five steps, has just been replaced."""
    write, checkpoints = manifest.write_atomically, iter((False, True))

    def write_and_die(path: Path, data: bytes) -> None:
        write(path, data)
        if path.name == checkpoint.FILE and next(checkpoints):
            die()

    manifest.write_atomically = write_and_die
    estimate_often(setattr)
    start(split, runs, method)


@pytest.mark.parametrize("method", LEARNING)
def test_killed_and_resumed(method: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimate_often(monkeypatch.setattr)
    split = tiny.with_name("tiny_20")
    plain = start(split, tmp_path / "plain", method)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.api", "torch._dynamo"])
    process = context.Process(target=start_and_die, args=(split, tmp_path / "killed", method))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    path, result = api.resume(tmp_path / "killed" / "run", quiet=True)
    assert result["steps"] == STEPS
    assert_equal(path, plain)
    states: list[dict[str, Any]] = [
        torch.load(folder / checkpoint.FILE, weights_only=True)["method"] for folder in (path, plain)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
