"""What a GPU makes of a step: methods with the papers' batches, plain and compiled, in one table.

    python benchmarks/gpu.py                          # WRN-28-2, synthetic images
    python benchmarks/gpu.py --store stores/cifar10_250
    python benchmarks/gpu.py --tiny                   # the same on a CPU, small: shows that it works, not how fast

Every measurement has a process of its own. "bare" is the limit: the same calls of the same network, forward and
backward, without views, losses, optimizer, average and feed. Waiting for data is measured while the real feed runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from training import Parts, assemble

ENGINES = ("eager", "compiled")
FEEDS = ("device", "host", "mapped", "stream")


def synthetic_store(root: Path, images: int, copies: int, side: int) -> Path:
    """A split store of random images with 100 labels, built by `realmix-data`; there already if it was built before."""
    if not (root / "synthetic_100").is_dir():
        root.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (images + 100, side, side, 3), dtype=np.uint8)
        labels = np.arange(images + 100) % 10
        np.savez(
            root / "images.npz",
            x_train=pixels[:-100],
            y_train=labels[:-100],
            x_test=pixels[-100:],
            y_test=labels[-100:],
        )
        words = ["build", "arrays", str(root / "images.npz"), "--name", "synthetic", "--copies", str(copies)]
        program = str(Path(sys.executable).with_name("realmix-data"))
        subprocess.run([program, *words, "--labels", "100", "--root", str(root)], check=True, stderr=subprocess.DEVNULL)
    return root / "synthetic_100"


def build(options: argparse.Namespace) -> Parts:
    """The parts of a run of the chosen method, engine and feed."""
    long = [f"feed={options.feed}", "steps=100000", "log_every=10000"]
    return assemble(
        Path(options.store),
        options.model,
        options.batch,
        options.engine,
        "auto",
        None,
        name=options.method,
        assignments=long,
    )


def measure_step(options: argparse.Namespace) -> dict[str, Any]:
    """Steps a second of the whole step, of the bare network, and where the time goes."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    parts = build(options)
    run, state, loader, step = parts.run, parts.state, parts.loader, parts.step
    cuda, blocks = run.device == "cuda", 5

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    with loader:

        def one() -> None:
            raw = next(loader)
            state.telemetry.add(step(raw), raw.ood)

        began = time.perf_counter()
        one()
        wait()
        first = time.perf_counter() - began
        for _ in range(options.warm - 1):
            one()
        seconds, waited = [], loader.waited
        for _ in range(blocks):
            wait()
            began = time.perf_counter()
            for _ in range(options.steps):
                one()
            wait()
            seconds.append((time.perf_counter() - began) / options.steps)
        waited = (loader.waited - waited) / (blocks * options.steps)
        memory = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
        with profile(activities=activities) as recorded:
            for _ in range(5):
                one()
            wait()
    field = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = sorted(recorded.key_averages(), key=lambda event: -getattr(event, field))
    whole = sum(getattr(event, field) for event in events) or 1.0
    top = [(event.key[:60], getattr(event, field) / 5000, getattr(event, field) / whole) for event in events[:10]]
    bare = measure_bare(parts, options, wait)
    middle = statistics.median(seconds)
    return {
        "precision": run.precision,
        "engine": run.engine + (" + CUDA graph" if run.cuda_graph else ""),
        "steps_per_s": 1 / middle,
        "range": [1 / max(seconds), 1 / min(seconds)],
        "bare_steps_per_s": 1 / bare,
        "outside": 1 - bare / middle,
        "data_wait": waited / middle,
        "memory_gib": memory,
        "first_s": first,
        "top": top,
    }


def measure_bare(parts: Parts, options: argparse.Namespace, wait: Callable[[], None]) -> float:
    """Seconds of the network's own part of a step: the calls that the method makes, repeated with one backward pass."""
    import torch

    from trainer.augment.views import make_batch
    from trainer.loop.train_step import Recorded, build_learner

    method, settings, run, state, loader = parts.method, parts.settings, parts.run, parts.state, parts.loader
    declared, calls, device = method.views(settings), [], torch.device(run.device)
    learner = build_learner(state, declared, compiled=False)
    network = learner.model

    def noted(rows: Any, groups: int = 1, update: int | None = None, **more: Any) -> Any:
        calls.append((rows.detach(), groups, update, more, torch.is_grad_enabled()))
        return network(rows, groups, update, **more)

    learner.model = noted
    raw = loader.batch(0)
    compiled = run.engine == "compiled"
    batch = make_batch(raw, declared, loader.schedule_names, learner.state)
    with torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bf16"):
        method.loss(learner, batch, settings)
    state.model.joint = compiled or device.type == "cuda"

    def forward() -> Any:
        outputs = []
        for rows, groups, update, more, gradient in calls:
            with torch.set_grad_enabled(gradient):
                outputs.append(state.model(rows, groups, update, **more).float().square().mean())
        return sum(outputs)

    if compiled:
        forward = torch.compile(forward, fullgraph=True, dynamic=False)

    def once(_: Any = None) -> Any:
        state.optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bf16"):
            loss = forward()
        loss.backward()
        return loss

    work = Recorded(once) if run.cuda_graph else once
    for _ in range(options.warm):
        work(raw)
    seconds = []
    for _ in range(5):
        wait()
        began = time.perf_counter()
        for _ in range(options.steps):
            work(raw)
        wait()
        seconds.append((time.perf_counter() - began) / options.steps)
    return statistics.median(seconds)


def measure_feed(options: argparse.Namespace) -> dict[str, Any]:
    """Images a second that the loader delivers to the device by itself, and the seconds to its first batch."""
    import torch

    began = time.perf_counter()
    parts = build(options)
    cuda, steps = parts.run.device == "cuda", 20 * options.steps
    with parts.loader as loader:
        raw = next(loader)
        if cuda:
            torch.cuda.synchronize()
        ready = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(steps):
            raw = next(loader)
        if cuda:
            torch.cuda.synchronize()
        rate = steps * (len(raw.x) + len(raw.u)) / (time.perf_counter() - began)
    return {"images_per_s": rate, "ready_s": ready}


def in_a_process(*words: object) -> dict[str, Any]:
    """Run this script once more for one measurement."""
    done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", help="split store with copies; default: a synthetic one")
    parser.add_argument("--tiny", action="store_true", help="small net, few steps: for a CPU")
    parser.add_argument("--only", choices=("step", "feed"), help=argparse.SUPPRESS)
    parser.add_argument("--methods", default="realmix,fixmatch", help="by comma; mixmatch and remixmatch too")
    parser.add_argument("--method", default="realmix", help=argparse.SUPPRESS)
    parser.add_argument("--engine", choices=ENGINES, default="eager", help=argparse.SUPPRESS)
    parser.add_argument("--feed", default="auto", help=argparse.SUPPRESS)
    parser.add_argument("--model", default=None)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None, help="steps of each of five timed blocks")
    options = parser.parse_args()
    options.model = options.model or ("wrn-10-1" if options.tiny else "wrn-28-2")
    options.batch = options.batch or (8 if options.tiny else 64)
    options.steps = options.steps or (2 if options.tiny else 100)
    options.warm = 5 if options.tiny else 20
    if options.only:
        print(json.dumps({"step": measure_step, "feed": measure_feed}[options.only](options)))
        return
    import torch

    cuda = torch.cuda.is_available()
    if options.store is None:
        size = (300, 4, 16) if options.tiny else (20_000, 50, 32)
        options.store = str(synthetic_store(Path(tempfile.gettempdir()) / f"realmix-gpu-{size[0]}-{size[2]}", *size))
    where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{where} · torch {torch.__version__} · {options.model}, batch {options.batch} · {options.store}\n", flush=True
    )
    common = ["--store", options.store, "--model", options.model, "--batch", options.batch, "--steps", options.steps]
    common += ["--tiny"] * options.tiny
    columns = "precision", "steps/s, median [min–max]", "bare", "outside it", "data wait", "GPU memory", "first step"
    print("| | " + " | ".join(columns) + " |\n" + "|---" * 8 + "|", flush=True)
    tops = {}
    for method in options.methods.split(","):
        for engine in ENGINES:
            said = in_a_process("--only", "step", "--method", method, "--engine", engine, *common)
            if "failed" in said:
                print(f"| {method}, {engine} | {said['failed']} |" + " |" * 6, flush=True)
                continue
            low, high = said["range"]
            rate = f"{said['steps_per_s']:.1f} [{low:.1f}–{high:.1f}]"
            print(
                f"| {method}, {said['engine']} | {said['precision']} | {rate} "
                f"| {said['bare_steps_per_s']:.1f} | {100 * said['outside']:.0f} % | {100 * said['data_wait']:.1f} % "
                f"| {said['memory_gib']:.2f} GiB | {said['first_s']:.1f} s |",
                flush=True,
            )
            tops[method, engine] = said["top"]
    print("\n| feed | images/s | first batch, everything opened |\n|---|---|---|", flush=True)
    for feed in FEEDS if cuda else FEEDS[1:]:
        said = in_a_process("--only", "feed", "--feed", feed, *common)
        text = said.get("failed") or f"{said['images_per_s']:,.0f} | {said['ready_s']:.2f} s"
        print(f"| {feed} | {text} |", flush=True)
    for (method, engine), top in tops.items():
        print(f"\n{method}, {engine}: the ten operations that take most of the {'GPU' if cuda else 'CPU'}\n")
        print("| | ms a step | share |\n|---|---|---|")
        for name, milliseconds, share in top:
            print(f"| `{name.replace('|', ' ')}` | {milliseconds:.3f} | {100 * share:.0f} % |")


if __name__ == "__main__":
    main()
