"""What strong views cost: RandAugment and CTAugment at the papers' batch, against the step they belong to.

A FixMatch step has 64 labelled and 7 × 64 unlabelled images, each of these as a weak and as a strong view. Timed in a
process each, in rounds: all views of a step, and the network's forward and backward pass of the 960 rows; and, beside
them, torchvision's RandAugment of the 448 images one by one in one thread, as data loaders' workers do it.

    python benchmarks/policies.py --images stores/cifar10
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import rounds
import torch
from build import load
from corpus import build_stores, shrink
from training import Parts, assemble, seconds, time_views

CASES = {
    "MixMatch, weak views only": ("mixmatch", []),
    "FixMatch, RandAugment": ("fixmatch", ["policy=randaugment"]),
    "FixMatch, CTAugment": ("fixmatch", ["policy=ctaugment"]),
    "UDA, RandAugment": ("uda", []),
}
RIVAL = "torchvision RandAugment, image by image"


def time_network(parts: Parts, steps: int) -> float:
    """Forward and backward pass of all rows that learn, with gradient; median seconds."""
    declared, sizes = parts.method.views(parts.settings), parts.loader.sizes
    rows = sizes.labeled + sizes.unlabeled * len([kind for kind in declared.unlabeled if kind != "probe"])
    net, device = parts.state.model, next(parts.state.model.parameters()).device
    images = torch.randn(rows, 3, parts.side, parts.side, device=device).to(memory_format=torch.channels_last)
    groups = 3 if parts.method.NAME == "mixmatch" else 1  # BatchNorm's statistics of each batch, or of all rows

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=parts.run.precision == "bf16"):
            loss = net(images, groups=groups, update=0).square().mean()
        loss.backward()

    return statistics.median([seconds(step) for _ in range(steps + 1)][1:])


def time_torchvision(images: np.ndarray, rows: int) -> float:
    """Seconds for RandAugment of `rows` images, flip and crop included."""
    from PIL import Image
    from torchvision.transforms import Compose, PILToTensor, RandAugment, RandomCrop, RandomHorizontalFlip

    side = images.shape[1]
    transform = Compose(
        [RandomHorizontalFlip(), RandomCrop(side, 4, padding_mode="reflect"), RandAugment(), PILToTensor()]
    )
    pictures = [Image.fromarray(images[i % len(images)]) for i in range(rows)]
    return statistics.median(seconds(lambda: [transform(picture) for picture in pictures]) for _ in range(3))


def measure(name: str, options: argparse.Namespace) -> rounds.Result:
    """Time one case here, in this process."""
    torch.set_num_threads(options.threads)
    if name == RIVAL:
        result = {"views": time_torchvision(np.load(options.cache / "images.npy"), 7 * options.batch), "network": None}
    else:
        method, assignments = CASES[name]
        parts = assemble(
            options.cache / "split",
            options.model,
            options.batch,
            "eager",
            "fp32",
            options.threads,
            name=method,
            assignments=assignments,
        )
        result = {"views": time_views(parts), "network": time_network(parts, options.steps)}
    return result | {"note": f"{1000 * result['views']:.1f} ms"}


def compare(options: argparse.Namespace) -> None:
    """Build the store, run the rounds, print the table."""
    images = shrink(load(options.images)[: options.pool], options.side)
    np.save(options.cache / "images.npy", images)
    build_stores(images, 2, options.cache)
    words = rounds.words(options, "model", "batch", "threads", "steps", "cache")
    results = rounds.run(__file__, [*CASES, RIVAL], options.rounds, words)
    print(
        f"\n{rounds.machine(('torch', 'torchvision'))}. {options.model}, batches of {options.batch}, images of "
        f"{images.shape[1:]}, {options.threads} threads, {options.rounds} rounds."
    )
    lines = []
    for name, runs in results.items():
        views = [1000 * run["views"] for run in runs]
        cells = ["–", "–"]
        if name != RIVAL:
            network = [1000 * run["network"] for run in runs]
            share = [100 * a / (a + b) for a, b in zip(views, network, strict=True)]
            cells = [rounds.spread(network), f"{rounds.spread(share, 2)} %"]
        lines.append([name, rounds.spread(views, 1), *cells])
    rounds.table(["", "all views of a step, ms", "its network, forward and backward, ms", "views' share"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="dataset store or .npy file; default: synthetic images")
    parser.add_argument("--pool", type=int, default=10_000, help="images taken of them")
    parser.add_argument("--side", type=int, default=32, help="pixels cut out of each, and their side")
    parser.add_argument("--model", default="wrn-28-2")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed passes of the network")
    parser.add_argument("--only", help="run one case once, from a prepared --cache, and print JSON")
    parser.add_argument("--cache", type=Path, help="folder with the prepared store, of --only")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-policies-") as folder:
        options.cache = Path(folder)
        compare(options)


if __name__ == "__main__":
    main()
