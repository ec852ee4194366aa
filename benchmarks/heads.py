"""Training a head on embeddings: 1,000 steps of 64 + 2 × 64 rows, against the bare passes, and the whole command.

    python benchmarks/heads.py stores/flowers12_36 lite0-160 [--method mixmatch] [--steps 1000]

`bare` is forward, backward and Adam's step of the same linear layer on batches of the same size that lie ready; `steps`
are those of a run, from the loader to the averaged weights, without evaluations; `command` is `realmix-train` from its
start to its result, with ten evaluations, both as wall time and as processor time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from trainer import api
from trainer.data.split import open_split
from trainer.loop.assemble import assemble
from trainer.loop.parts import Parts
from trainer.loop.train_step import build_step


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time and processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def bare(rows: int, features: int, classes: int, steps: int) -> None:
    net = torch.nn.Linear(features, classes)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    x, y = torch.randn(rows, features), torch.randint(classes, (rows,))
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def train(parts: Parts) -> None:
    spec, state = parts.spec, parts.state
    step = build_step(state, spec.method, spec.settings, spec.run, parts.loader.schedule_names)
    with parts.loader as loader:
        for raw in loader:
            step(raw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("embeddings")
    parser.add_argument("--method", default="mixmatch")
    parser.add_argument("--steps", type=int, default=1000)
    asked = parser.parse_args()
    flags = {"method": asked.method, "embeddings": asked.embeddings, "steps": asked.steps}
    parts = assemble(api.configure(open_split(asked.store), [], flags))
    sizes = parts.loader.sizes
    rows = sizes.labeled + len(parts.loader.views.unlabeled) * sizes.unlabeled
    threads = torch.get_num_threads()
    print(f"{asked.method}: {asked.steps} steps of {rows} rows, D = {sizes.num_features}, {threads} thread(s)")
    times = {
        "bare": seconds(lambda: bare(rows, sizes.num_features, sizes.num_classes, asked.steps)),
        "steps": seconds(lambda: train(parts)),
    }
    with tempfile.TemporaryDirectory() as folder:
        words = ["--store", asked.store, "--embeddings", asked.embeddings, "--method", asked.method, "--quiet"]
        words += ["--steps", str(asked.steps), "--runs", folder]
        before, wall = os.times(), time.perf_counter()
        subprocess.run([Path(sys.executable).with_name("realmix-train"), *words], check=True)
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        times["command"] = (time.perf_counter() - wall, cpu)
    for name, (wall, cpu) in times.items():
        print(f"{name:8} {wall:6.2f} s wall, {cpu:6.2f} s of processor time")


if __name__ == "__main__":
    main()
