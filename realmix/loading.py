"""The batches of a method without its training: for a loop of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from stores import SplitStore
from trainer import api, hardware
from trainer.augment.views import make_batch
from trainer.contract import Batch
from trainer.data.loader import Feed
from trainer.data.prefetch import Prefetch


class Loader:
    """Iterate over the batches that a method trains on, in the order of a run: a function of seed and step.

        >>> loader = Loader(built.splits[0], "fixmatch", batch=8, steps=3)
        >>> [(tuple(batch.x.shape), len(batch.u)) for batch in loader]
        [((8, 3, 8, 8), 2), ((8, 3, 8, 8), 2), ((8, 3, 8, 8), 2)]

    Args:
        store: a split store, or where it is.
        method: whose views are made.
        start: the first step; the batches are those of a run that is resumed there.
        settings: of the run or of the method, as `train` takes them: batch, steps, seed, copies, device, feed, …

    Raises:
        UsageError: a setting is unknown or wrong.
        StoreError: there is no such store, or it lacks what the method needs.
        ResourceError: the images do not fit into memory.
    """

    def __init__(
        self,
        store: str | PathLike[str] | SplitStore,
        method: str = "realmix",
        *,
        start: int = 0,
        **settings: object,
    ) -> None:
        place = store if isinstance(store, SplitStore | str) else Path(store)
        self._spec = api.configure(api.open_split(place), [], {**settings, "method": method})
        self._start = start

    def __len__(self) -> int:
        """Steps that are left."""
        return max(0, self._spec.run.steps - self._start)

    def __iter__(self) -> Iterator[Batch]:
        """Each time from the first step; a new set of tensors each step, on the training device."""
        spec, device = self._spec, hardware.device(self._spec.run)
        feed = Feed(spec.store, spec.method, spec.settings, spec.run, device)
        own = spec.method.init_state(spec.store.num_classes, spec.settings)
        state = {name: tensor.to(device) for name, tensor in own.items()}
        with feed, Prefetch(feed.prepare, range(self._start, spec.run.steps)) as ahead:
            for _ in range(len(self)):
                yield make_batch(feed.batch(ahead.take()), feed.views, feed.schedule_names, state)
