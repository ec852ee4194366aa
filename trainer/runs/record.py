"""What a run is, with every choice made, and what its config.json says about it."""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zarr

import stores
from stores import DatasetStore, SplitStore
from trainer import config, hardware
from trainer.config import Resolved
from trainer.contract import Method

if TYPE_CHECKING:
    from _typeshed import DataclassInstance as Settings

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
    """

    store: SplitStore
    method: Method
    settings: Settings
    run: Resolved
    deviations: tuple[str, ...] = ()
    backbone: Backbone | None = None

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
        """As the function of this name."""
        values = {"run": dataclasses.asdict(self.run), "settings": dataclasses.asdict(self.settings)}
        return identity({**values, "store": {"fingerprint": self.store.fingerprint}})


def identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run this one and no other, from the content of its config.json; its checkpoints hold it too."""
    return {
        "store": record["store"]["fingerprint"],
        "run": config.without(record["run"], "on_resume"),
        "settings": record["settings"],
    }


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
