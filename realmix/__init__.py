"""Semi-supervised learning when the unlabelled data is messy: stores of augmented copies, and training from them.

    import realmix

    built = realmix.build("digits", copies=10)  # a dataset store and its splits, in ./stores
    run = realmix.train(built.splits[0], method="realmix", steps=500, model="wrn-10-1")
    print(f"{run.error:.1f} % of the test images are taken for another class")
    said = realmix.load_model(run).predict(built.store.test_images.read([0, 1, 2]))
    print(said.classes, said.probabilities, said.ood_scores)

stores    `build` makes one, `split` says which of its images are labelled, `embed` embeds them with a frozen network,
          `open_store` reads it
training  `train` and `resume` give a `Run`, `Loader` the batches alone, for a training loop of one's own
questions `compare`: do the unlabelled images help, with which method? `foreign`: which of them belong to no class?
methods   `list_methods` names them, `register_method` adds one
use       `load_model` gives a `Model`, whose `predict` takes arrays, Pillow images and files; `predict` does both

Importing this package imports neither torch nor zarr: each name is imported from its home when it is first used.
Building stores needs the extra `data`. Errors that a user can mend are `realmix.RealMixError`s.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from realmix import siblings

siblings.claim()

from stores import __version__  # noqa: E402 of the package that was claimed

if TYPE_CHECKING:
    from pipeline.api import Built, build, embed, split
    from realmix.loading import Loader
    from realmix.training import Run, predict, resume, train
    from realmix.unlabeled import compare, foreign
    from stores import DatasetStore, SplitStore, open_store
    from stores.errors import RealMixError
    from trainer.inference.model import Model, Predictions, load_model
    from trainer.methods import list_methods, register_method

HOMES = {
    "pipeline.api": ("Built", "build", "embed", "split"),
    "realmix.loading": ("Loader",),
    "realmix.training": ("Run", "predict", "resume", "train"),
    "realmix.unlabeled": ("compare", "foreign"),
    "stores": ("DatasetStore", "SplitStore", "open_store"),
    "stores.errors": ("RealMixError",),
    "trainer.inference.model": ("Model", "Predictions", "load_model"),
    "trainer.methods": ("list_methods", "register_method"),
}

__all__ = [
    "Built",
    "DatasetStore",
    "Loader",
    "Model",
    "Predictions",
    "RealMixError",
    "Run",
    "SplitStore",
    "__version__",
    "build",
    "compare",
    "embed",
    "foreign",
    "list_methods",
    "load_model",
    "open_store",
    "predict",
    "register_method",
    "resume",
    "split",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a name from its home when it is first used."""
    for home, found in HOMES.items():
        if name in found:
            value = globals()[name] = getattr(importlib.import_module(home), name)
            return value
    raise AttributeError(f"module 'realmix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
