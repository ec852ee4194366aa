"""A short run of every method in float64, in one process or under torchrun: `train_every_method.py STORE RUNS`."""

from __future__ import annotations

import sys
from pathlib import Path

from rounding import in_float64

from trainer import api
from trainer.methods import METHODS, realmix

# one small rate for all: FixMatch's own, .03, amplifies rounding a thousandfold in two steps
SETTINGS = ["lr=0.002", "precision=fp32", "tensorboard=false", "log_every=2", "eval_every=6", "engine=eager"]


def train_all(store: Path, runs: Path) -> list[str]:
    """Names of the run folders: every method, and RealMix with an estimated γ."""
    realmix.EVERY = (2, 2)
    cases = {name: (name, SETTINGS) for name in METHODS} | {"realmix_auto": ("realmix", [*SETTINGS, "gamma=auto"])}
    with in_float64():
        for name, (method, settings) in cases.items():
            flags = {"store": str(store), "method": method, "model": "wrn-10-1", "steps": 6, "batch": 8}
            api.train(settings, flags | {"threads": 1, "device": "cpu"}, runs, name, quiet=True)
    return list(cases)


def train_on_embeddings(store: Path, runs: Path) -> list[str]:
    """Names of the run folders, in float32: three methods that make steps, two that are fitted at once."""
    made = []
    for method in ("mixmatch", "realmix", "fixmatch", "probe", "label_spreading"):
        stepped = ["optimizer=sgd", "lr=0.01", "batch=8"] if method in METHODS else []
        flags = {"store": str(store), "embeddings": "clusters", "method": method, "device": "cpu", "threads": 1}
        flags |= {"steps": 6} if stepped else {}
        made.append(api.train(stepped, flags, runs, f"{method}_on_embeddings", quiet=True)[0].name)
    return made


if __name__ == "__main__":
    for train in (train_all, train_on_embeddings):
        train(Path(sys.argv[1]), Path(sys.argv[2]))
