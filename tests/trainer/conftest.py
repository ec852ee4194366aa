"""A split store in memory, with the attributes that `open_store` promises, and the parts of a small run on it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

SIDE, CLASSES, IMAGES, TESTS, COPIES = 8, 3, 40, 30, 4


class FakeArray:
    """ImageArray's surface over an array in memory."""

    block = 8

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def read(
        self,
        rows: np.ndarray | None = None,
        copies: int | None = None,
        out: np.ndarray | None = None,
        workers: int | None = None,
    ) -> np.ndarray:
        chosen = self.values if rows is None else self.values[rows]
        chosen = chosen if copies is None else chosen[:, :copies]
        if out is None:
            return chosen.copy()
        out[...] = chosen
        return out


@dataclass
class FakeDataset:
    """DatasetStore's surface; pixel (0, 0) holds an image's row and its copy + 1, the rest shows its class."""

    path: Path = Path("memory/fake")
    name: str = "fake"
    fingerprint: str = "d" * 64
    manifest: dict[str, Any] = field(default_factory=lambda: {"protocol": None, "spec": {}})
    num_images: int = IMAGES
    num_copies: int = COPIES
    image_size: tuple[int, int] = (SIDE, SIDE)
    weak: dict[str, Any] = field(default_factory=lambda: {"flip": False, "shift": 1})

    def __post_init__(self) -> None:
        rng = np.random.default_rng(7)
        self.train_labels = np.arange(IMAGES) % CLASSES
        self.test_labels = np.arange(TESTS) % CLASSES
        base = self._paint(rng, self.train_labels)
        base[:, 0, 0, 0] = np.arange(IMAGES)
        base[:, 0, 0, 1] = 0
        copies = np.repeat(base[:, None], COPIES, axis=1)
        copies[:, :, 0, 0, 1] = np.arange(COPIES) + 1
        self.train_images = FakeArray(base)
        self.copies = FakeArray(copies) if self.num_copies else None
        self.test_images = FakeArray(self._paint(rng, self.test_labels))

    @staticmethod
    def _paint(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
        """Noise with a bright third: which one is the class."""
        images = rng.integers(0, 120, (len(labels), SIDE, SIDE, 3), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, label * 3 : label * 3 + 2] += 100
        return images


@dataclass
class FakeSplit:
    """SplitStore's surface: rows 0–5 labelled, 6–33 unlabelled, 34–39 held out."""

    path: Path = Path("memory/fake_6")
    name: str = "fake_6"
    fingerprint: str = "5" * 64
    protocol: str = "labels"
    seed: int = 1
    gamma: float = 0.0
    dataset: FakeDataset = field(default_factory=FakeDataset)
    labeled: np.ndarray = field(default_factory=lambda: np.arange(6))
    unlabeled: np.ndarray = field(default_factory=lambda: np.arange(6, 34))
    valid: np.ndarray = field(default_factory=lambda: np.arange(34, 40))
    test: np.ndarray = field(default_factory=lambda: np.arange(TESTS))
    ood: tuple[int, ...] = ()  # classes that are not trained on; the last ones

    def __post_init__(self) -> None:
        self.num_classes = CLASSES - len(self.ood)
        self.class_names = ["left", "middle", "right"][: self.num_classes]
        to_training = np.array([-1 if c in self.ood else c for c in range(CLASSES)])
        self.train_labels = to_training[self.dataset.train_labels]
        self.test_labels = to_training[self.dataset.test_labels]
        self.labeled = self.labeled[self.train_labels[self.labeled] >= 0]
        self.unknown_pool = False
        self.foreign = np.flatnonzero(self.test_labels < 0)


@pytest.fixture
def store() -> FakeSplit:
    return FakeSplit()


@pytest.fixture
def make_store() -> Callable[..., FakeSplit]:
    return FakeSplit


@pytest.fixture
def no_copies() -> FakeSplit:
    return FakeSplit(dataset=FakeDataset(num_copies=0))


@pytest.fixture(autouse=True)
def one_seed_and_few_threads() -> None:
    """Tiny tensors gain nothing from threads, and lose much where test runs share the cores; `make test-isa` asks."""
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory) -> Path:
    """A folder with stores/tiny, its mismatch split stores/strange, and three runs on it, for reading only.

    Known are ant, bee and cow; the unlabelled images are of cow, dog and eel.
    """
    from pipeline.splits.protocols import Request
    from pipeline.splits.split_stores import write_all
    from stores import open_store
    from trainer import api

    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(tiny.parent, root / "stores")
    classes = {"labeled_classes": ("ant", "bee", "cow"), "unlabeled_classes": ("cow", "dog", "eel")}
    write_all(open_store(root / "stores" / "tiny"), [Request(labels=12, valid=6, **classes)], "strange")
    settings = ["eval_every=3", "log_every=2", "batch=4", "precision=fp32", "eval_raw=true", "tensorboard=false"]
    flags = {"store": str(root / "stores" / "strange"), "model": "wrn-10-1", "steps": 6, "threads": 1, "device": "cpu"}
    for name, method, seed in (("first", "realmix", 1), ("second", "realmix", 2), ("plain", "supervised", 1)):
        api.train(settings, {**flags, "method": method, "seed": seed}, root / "runs", name, quiet=True)
    return root


@pytest.fixture
def command(monkeypatch, capfd) -> Callable[..., tuple[int, str, str]]:
    """Run `realmix-train` in this process: exit code, stdout, stderr."""
    from trainer import cli

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["realmix-train", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        return left.value.code or 0, out, err

    return run
