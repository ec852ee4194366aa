"""Methods that are fitted at once: their network, and a run of one step around it."""

from __future__ import annotations

import torch

from networks.embedded.linear import OnEmbeddings, of_tensors
from stores import SplitStore
from stores.errors import UsageError
from trainer.contract import Examples, Method, Options
from trainer.data.embedded import EmbeddedSplit, samples_of
from trainer.loop.parts import Parts
from trainer.loop.recorder import Recorder


def require_embeddings(store: SplitStore, method: Method) -> None:
    """Raises UsageError if the store is not read as embeddings."""
    if not isinstance(store, EmbeddedSplit):
        raise UsageError(
            f"'{method.NAME}' is fitted to embeddings",
            f"'{store.path}' is read as images",
            "--embeddings NAME, which `realmix-data embed` makes",
        )


def fit(store: EmbeddedSplit, method: Method, settings: Options, seed: int) -> OnEmbeddings:
    """The network of a method with `fit`."""
    assert method.fit is not None
    train = samples_of(store).train
    examples = Examples(
        torch.from_numpy(train.read(store.labeled)),
        torch.from_numpy(store.train_labels[store.labeled]),
        lambda: torch.from_numpy(train.read(store.unlabeled)),
        store.num_classes,
        seed,
    )
    return of_tensors(method.NETWORK, method.fit(examples, settings))


def run(parts: Parts, recorder: Recorder) -> None:
    """The one step of a network that is fitted already: its evaluation and its checkpoint."""
    parts.state.step = parts.spec.run.steps
    recorder.evaluate()
    recorder.save()
