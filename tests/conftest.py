"""A small dataset store with two split stores, built once by the real pipeline, for every test that needs one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from tiny_stores import build_stores

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# how long an example takes says something of the machine and of what else it does, nothing of the code
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

collect_ignore = [] if Path("/dev/nvidiactl").exists() or "REALMIX_TEST_DEVICE" in os.environ else ["gpu"]

SIDE, TRAIN, TEST = 12, 150, 30


@pytest.fixture(autouse=True)
def import_path(monkeypatch) -> None:
    """A command that ran in this process kept the current folder out of its children's imports: the tests' need it."""
    monkeypatch.setenv("PYTHONSAFEPATH", "")


@pytest.fixture(scope="session")
def source():
    """150 + 30 colour images of 12 × 12 in five classes, sorted by class as real archives often are."""
    from pipeline.sources import Part, Source

    rng = np.random.default_rng(0)

    def part(count: int) -> Part:
        labels = np.sort(np.arange(count) % 5)
        y, x = np.mgrid[:SIDE, :SIDE]
        waves = np.sin((labels[:, None, None] + 1) * x / 4 + rng.uniform(0, 6, (count, 1, 1))) + np.cos(y / 3)
        pixels = 127 + 40 * waves[..., None] + rng.normal(0, 8, (count, SIDE, SIDE, 3))
        return Part(np.clip(pixels, 0, 255).astype(np.uint8), labels.astype(np.int64))

    return Source(
        name="arrays",
        train=part(TRAIN),
        test=part(TEST),
        class_names=["ant", "bee", "cow", "dog", "eel"],
        weak={"flip": True, "shift": 2},
        origin={"kind": "test", "count": TRAIN},
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, source) -> Path:
    """Path of the session's dataset store, for reading only; its split store lies beside it as tiny_20."""
    return build_stores(tmp_path_factory.mktemp("stores"), source)


@pytest.fixture(scope="session")
def tiny_both(tiny, tmp_path_factory) -> Path:
    """The same stores with FFCV's files beside the arrays, for reading only."""
    from pipeline.building.export_ffcv import export
    from stores import open_store

    root = tmp_path_factory.mktemp("both") / "stores"
    shutil.copytree(tiny.parent, root)
    assert export(open_store(root / "tiny"), lambda *_: None)
    return root / "tiny"


@pytest.fixture(scope="session")
def tiny_ffcv(source, tmp_path_factory) -> Path:
    """The same stores built with their copies in FFCV's files only, for reading only."""
    return build_stores(tmp_path_factory.mktemp("ffcv"), source, copies_format="ffcv")


@pytest.fixture
def tiny_copy(tiny, tmp_path) -> Path:
    """A private copy of both stores, to be damaged."""
    shutil.copytree(tiny.parent, tmp_path / "stores")
    return tmp_path / "stores" / "tiny"


@pytest.fixture
def source_of_few(source):
    """Forty training images and ten for testing, of `source`, in all five classes."""
    from dataclasses import replace

    from pipeline.sources import Part

    few = [Part(part.images[::step], part.labels[::step]) for part, step in ((source.train, 4), (source.test, 3))]
    return replace(source, train=few[0], test=few[1])
