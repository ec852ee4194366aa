"""A training step: ours against the bare forward and backward passes of the same shapes, and a public PyTorch port.

One step of RealMix, which computes what MixMatch does: 64 labelled and 2 × 64 unlabelled images, two forward passes
for the guesses and three with gradient. Contestants, each in a process of its own, in rounds, eager and compiled:

    realmix     the engine as a run uses it: loader, views, loss, backward, optimizer, decay, average, telemetry
    the limit   the five forward passes and the backward pass of the same network in the same memory format, no more
    port        the training loop of a checkout of github.com/YU1ut/MixMatch-pytorch that `--port` names, as it is

bf16 only where the processor multiplies in it. Prints two Markdown tables: seconds a step, and where ours go; and, in
each precision, what no engine could beat that multiplies as often: the passes' multiplications and additions at the
rate of one large matrix product.

    python benchmarks/step.py --port MixMatch-pytorch
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rounds
import torch
from build import load
from corpus import build_stores, shrink
from torch.utils.flop_counter import FlopCounterMode
from training import PARTS, Parts, assemble, clock, seconds, trained

from networks import hardware

WARM_UP = 2  # steps after the first; a GPU also records its graph in them
Steps = Iterator[object]  # one step each time it is asked


def limit(parts: Parts) -> Steps:
    """The network alone, called as the method calls it, on images that are there."""
    net, run, size = parts.state.model, parts.run, parts.loader.sizes.labeled
    device = next(net.parameters()).device
    images = torch.randn(3 * size, 3, parts.side, parts.side, device=device).to(memory_format=torch.channels_last)

    def passes(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            guessed = net(x[size:], groups=2)
        return net(x, groups=3, update=0).square().mean() + guessed.mean()

    if run.engine == "compiled":
        passes = torch.compile(passes, fullgraph=True, dynamic=False)
    while True:
        with torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bf16"):
            loss = passes(images)
        net.zero_grad(set_to_none=True)
        loss.backward()
        yield


def count_operations(parts: Parts) -> int:
    """Floating-point operations of the limit's passes, a multiplication and its addition counted as two."""
    steps = limit(parts)
    with FlopCounterMode(display=False) as counter:
        next(steps)
    return counter.get_total_flops()


def time_product(parts: Parts) -> float:
    """Seconds a floating-point operation takes inside a product of two matrices of 4,096 × 4,096."""
    device, rows = next(parts.state.model.parameters()).device, 4096
    dtype = torch.bfloat16 if parts.run.precision == "bf16" else torch.float32
    matrix = torch.randn(rows, rows, device=device, dtype=dtype)
    return statistics.median(seconds(lambda: matrix @ matrix) for _ in range(5)) / (2 * rows**3)


OURS, LIMIT, PORT = "realmix", "the limit", "port"
CONTESTANTS: dict[str, Callable[[Parts], Steps]] = {OURS: trained, LIMIT: limit}


def measure(name: str, options: argparse.Namespace) -> rounds.Result:
    """Time one contestant here, in this process."""
    who, _, how = name.partition(", ")
    torch.set_num_threads(options.threads)
    if who == PORT:
        from port import clock_port

        result = clock_port(options.port, load(str(options.cache / "images.npy")), options, WARM_UP)
    else:
        engine, precision = how.split(" ")
        parts = assemble(options.cache / "split", options.model, options.batch, engine, precision, options.threads)
        steps = CONTESTANTS[who](parts)
        with contextlib.closing(steps):
            result = clock(steps, WARM_UP, options.steps)
        if who == LIMIT and engine == "eager":
            operations, each = count_operations(parts), time_product(parts)
            result |= {"gigaflop": operations / 1e9, "floor": operations * each}
        if who == OURS:
            result |= {part: time_part(parts) for part, time_part in PARTS.items()}
    return result | {"note": f"{result['seconds']:.3f} s a step, the first {result['first']:.1f} s"}


def contestants(options: argparse.Namespace) -> list[str]:
    precisions = ["fp32"] + ["bf16"] * hardware.multiplies_bf16(hardware.kind("auto"))
    names = [
        f"{who}, {engine} {precision}"
        for precision in precisions
        for engine in options.engines.split(",")
        for who in CONTESTANTS
    ]
    return names + [f"{PORT}, its own loop"] * (options.port is not None)


def compare(options: argparse.Namespace) -> None:
    """Build the store, run the rounds, print the tables."""
    images = shrink(load(options.images)[: options.pool], options.side)
    np.save(options.cache / "images.npy", images)
    build_stores(images, 2, options.cache)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(options.cache / "compiled")  # the first round's first step is cold
    words = rounds.words(options, "model", "batch", "threads", "steps", "cache", "port")
    results = rounds.run(__file__, contestants(options), options.rounds, words)
    print(
        f"\n{rounds.machine(('torch', 'numpy'))}. {options.model}, {options.batch} + 2 × {options.batch} "
        f"images of {images.shape[1:]}, {options.threads} threads, {options.rounds} rounds of {options.steps} steps."
    )
    port = next((runs for name, runs in results.items() if name.startswith(PORT)), None)
    lines = []
    for name, runs in results.items():
        how = name.partition(", ")[2]
        times = [run["seconds"] for run in runs]
        first = [run["first"] for run in runs]
        lines.append(
            [
                name,
                rounds.spread(times, 3),
                rounds.ratio(runs, results.get(f"{LIMIT}, {how}"), "seconds"),
                rounds.ratio(port, runs, "seconds") if port else "–",
                f"{first[0]:.1f}" + (f" / {statistics.median(first[1:]):.1f}" if len(first) > 1 else ""),
            ]
        )
    columns = [
        "",
        "seconds a step, median [min–max]",
        "× the limit's time",
        "times as fast as the port",
        "first step: cold / with the compiler's cache, s",
    ]
    rounds.table(columns, lines)
    for name, runs in results.items():
        if "floor" in runs[0]:
            floor = [run["floor"] for run in runs]
            faster = rounds.spread([run["seconds"] / least for run, least in zip(port or runs, floor, strict=True)], 2)
            print(
                f"\n{name.split()[-1]}: {runs[0]['gigaflop']:,.1f} gigaflop, at the rate of a large matrix product "
                f"{rounds.spread(floor, 3)} s: {faster} times as fast as {PORT if port else LIMIT}."
            )
    shares = []
    for name, runs in results.items():
        if name.startswith(OURS):
            whole = statistics.median(run["seconds"] for run in runs)
            times = {part: statistics.median(run[part] for run in runs) for part in PARTS}
            shares.append([name, *(f"{1000 * t:.1f} ({t / whole:.1%})" for t in times.values())])
    rounds.table(["milliseconds a step (of its time)", *PARTS], shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="dataset store or .npy file; default: 10,000 synthetic images")
    parser.add_argument("--pool", type=int, default=10_000, help="images taken of them")
    parser.add_argument("--side", type=int, default=32, help="pixels cut out of each, and their side")
    parser.add_argument("--model", default="wrn-28-2")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", default="eager,compiled")
    parser.add_argument("--port", type=Path, help="checkout of the PyTorch port; without it, no port")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a round")
    parser.add_argument("--only", help="run one contestant once, from a prepared --cache, and print JSON")
    parser.add_argument("--cache", type=Path, help="folder with the prepared store, of --only")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-step-") as folder:
        options.cache = Path(folder)
        compare(options)


if __name__ == "__main__":
    main()
