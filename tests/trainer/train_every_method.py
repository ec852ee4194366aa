"""A short run of every method, in one process or under torchrun: `train_every_method.py STORE RUNS`."""

from __future__ import annotations

import sys
from pathlib import Path

from trainer import launch
from trainer.methods import METHODS

# one small rate for all: FixMatch's own, .03, amplifies rounding a thousandfold in two steps
SETTINGS = ["lr=0.002", "precision=fp32", "tensorboard=false", "log_every=2", "eval_every=6", "engine=eager"]


def train_all(store: Path, runs: Path) -> list[str]:
    """Names of the run folders."""
    for name in METHODS:
        flags = {"store": str(store), "method": name, "model": "wrn-10-1", "steps": 6, "batch": 8}
        launch.start(SETTINGS, flags | {"threads": 1, "device": "cpu"}, runs, name, quiet=True)
    return list(METHODS)


if __name__ == "__main__":
    train_all(Path(sys.argv[1]), Path(sys.argv[2]))
