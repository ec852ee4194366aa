"""A short run of every method in float64, in one process or under torchrun: `train_every_method.py STORE RUNS`."""

from __future__ import annotations

import sys
from pathlib import Path

from rounding import in_float64

from trainer import api
from trainer.loop import loop
from trainer.methods import METHODS

# one small rate for all: FixMatch's own, .03, amplifies rounding a thousandfold in two steps
SETTINGS = ["lr=0.002", "precision=fp32", "tensorboard=false", "log_every=2", "eval_every=6", "engine=eager"]


def train_all(store: Path, runs: Path) -> list[str]:
    """Names of the run folders: every method, and RealMix with an estimated γ."""
    loop.ESTIMATE_EVERY = (2, 2)
    cases = {name: (name, SETTINGS) for name in METHODS} | {"realmix_auto": ("realmix", [*SETTINGS, "gamma=auto"])}
    with in_float64():
        for name, (method, settings) in cases.items():
            flags = {"store": str(store), "method": method, "model": "wrn-10-1", "steps": 6, "batch": 8}
            api.train(settings, flags | {"threads": 1, "device": "cpu"}, runs, name, quiet=True)
    return list(cases)


if __name__ == "__main__":
    train_all(Path(sys.argv[1]), Path(sys.argv[2]))
