"""What a run is, with every choice made, and what its config.json says about it."""

from __future__ import annotations

import dataclasses
import platform
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zarr

import stores
from stores import DatasetStore, SplitStore
from trainer import hardware
from trainer.config import Resolved
from trainer.contract import Method, Options
from trainer.data.embedded import EmbeddedSplit
from trainer.data.placement import Placement
from trainer.runs import checkpoint
from trainer.runs.transfer import Backbone


@dataclass(frozen=True)
class Spec:
    """A run before anything is built.

    Attributes:
        store: the split store to train from.
        method: the module; settings: of the method.
        run: the settings that every method has.
        deviations: from the papers' values, for a person to read.
        backbone: the trained network that it starts from; a run that is resumed no longer needs it.
        placement: where the unlabelled images are held; None: decided when the loader is made.
    """

    store: SplitStore
    method: Method
    settings: Options
    run: Resolved
    deviations: tuple[str, ...] = ()
    backbone: Backbone | None = None
    placement: Placement | None = None

    def record(self) -> dict[str, Any]:
        """Content of config.json."""
        return {
            "command": sys.argv,
            "run": dataclasses.asdict(self.run),
            "settings": dataclasses.asdict(self.settings),
            "deviations": list(self.deviations),
            "init": None if self.backbone is None else self.backbone.describe(),
            "store": describe(self.store),
            "device": hardware.describe(self.run),
            "versions": versions(),
        }

    @property
    def identity(self) -> dict[str, Any]:
        """See `trainer.runs.checkpoint.identity`."""
        values = {"run": dataclasses.asdict(self.run), "settings": dataclasses.asdict(self.settings)}
        return checkpoint.identity({**values, "store": {"fingerprint": self.store.fingerprint}})


def describe(store: SplitStore) -> dict[str, Any]:
    """What a run's record says about its store."""
    return {
        "path": str(store.path.resolve()),
        "name": store.name,
        "fingerprint": store.fingerprint,
        "dataset": store.dataset.name,
        "dataset_fingerprint": store.dataset.fingerprint,
        "protocol": store.protocol,
        "split_seed": store.seed,
        "class_names": store.class_names,
        "image_size": list(store.dataset.image_size),
        "gamma": store.gamma,
        "counts": {name: len(getattr(store, name)) for name in ("labeled", "unlabeled", "valid", "test")},
        "num_copies": store.dataset.num_copies,
        "embedding": store.made_by() if isinstance(store, EmbeddedSplit) else None,
        **({} if (range_ := range_of(store.dataset)) is None else {"range": list(range_)}),
    }


def range_of(dataset: DatasetStore) -> tuple[float, float] | None:
    """The numbers that are black and white in its pictures of more than 8 bits, if the build was told."""
    source = dataset.manifest["spec"].get("source")
    found = source.get("range") if isinstance(source, dict) else None
    return None if found is None else (found[0], found[1])


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "realmix": stores.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "zarr": zarr.__version__,
    }
