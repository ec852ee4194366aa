"""The public PyTorch MixMatch of step.py, imported from a checkout that the user names; none of its code is here.

Its `train` function runs as it is, with its own network, augmentation, optimizer and average, on the same images. What
is patched from outside, none of it in a step: `sys.argv` while it reads its options; `iterator.next()`, which torch
took away from DataLoader's iterators; images given instead of downloaded; the progress bar draws nowhere but still
counts. Without a GPU it needs no patch for CUDA: `train` takes `use_cuda`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import Result
from torch.utils.data import DataLoader, dataloader

LABELED, CLASSES = 250, 10


def clock_port(path: Path, images: np.ndarray, options: argparse.Namespace, warm_up: int) -> Result:
    """Seconds of its first step and the median of `options.steps` ones after `warm_up` more.

    Args:
        path: its checkout, which needs the packages `progress` and `tensorboardX`.
        images: uint8 [n, 32, 32, 3]; its last pooling takes no other size.
    """
    assert images.shape[1:] == (32, 32, 3), "the port takes images of 32 × 32"
    count = 1 + warm_up + options.steps
    words = [
        "train.py",
        "--batch-size",
        str(options.batch),
        "--train-iteration",
        str(count),
        "--gpu",
        os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
    ]
    kept, sys.argv = sys.argv, words
    for name in ("utils", "models", "dataset", "train"):
        assert name not in sys.modules
    sys.path.insert(0, str(path))
    import train as port  # type: ignore[import-not-found]

    sys.argv = kept
    dataloader._BaseDataLoaderIter.next = dataloader._BaseDataLoaderIter.__next__
    use_cuda = torch.cuda.is_available()
    labeled, unlabeled = loaders(port, images, options.batch)
    depth, width = map(int, re.fullmatch(r"wrn-(\d+)-(\d+)", options.model).groups())
    model, average = (port.models.WideResNet(CLASSES, depth, width) for _ in range(2))
    if use_cuda:
        model, average = model.cuda(), average.cuda()
    for parameter in average.parameters():
        parameter.detach_()
    optimizer = torch.optim.Adam(model.parameters(), lr=port.args.lr)
    averaging = port.WeightEMA(model, average, alpha=port.args.ema_decay)
    ends: list[float] = []

    class Ends:
        """Its average, which is a step's last work, and when that was done."""

        def step(self) -> None:
            averaging.step()
            if use_cuda:
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    began = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        port.train(labeled, unlabeled, model, optimizer, Ends(), port.SemiLoss(), 0, use_cuda)
    seconds = np.diff([began, *ends]).tolist()
    assert len(seconds) == count
    return {"first": seconds[0], "seconds": statistics.median(seconds[1 + warm_up :])}


def loaders(port: Any, images: np.ndarray, batch: int) -> tuple[DataLoader, DataLoader]:
    """Its datasets, with its transforms, in the loaders that its `main` makes; the images are not downloaded."""
    data = port.dataset
    transform = port.transforms.Compose([data.RandomPadandCrop(32), data.RandomFlip(), data.ToTensor()])

    def dataset(kind: type, some: np.ndarray, transform: Any) -> Any:
        made = kind.__new__(kind)
        made.data, made.targets = data.transpose(data.normalize(some)), np.arange(len(some)) % CLASSES
        made.transform, made.target_transform = transform, None
        return made

    labeled = dataset(data.CIFAR10_labeled, images[:LABELED], transform)
    unlabeled = dataset(data.CIFAR10_unlabeled, images[LABELED:], data.TransformTwice(transform))
    left, right = (
        DataLoader(some, batch_size=batch, shuffle=True, num_workers=0, drop_last=True) for some in (labeled, unlabeled)
    )
    return left, right
