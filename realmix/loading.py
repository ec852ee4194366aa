"""The batches of a method without its training: for a loop of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from realmix.training import by_name
from stores import SplitStore
from stores.errors import UsageError
from trainer import api, hardware
from trainer.augment.views import make_batch
from trainer.contract import Batch
from trainer.data import loader
from trainer.data.split import open_split


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
        if type(start) is not int or start < 0:
            raise UsageError(f"start={start!r} is no step", hint="the first step is 0")
        place = store if isinstance(store, SplitStore | str) else Path(store)
        self._spec = api.configure(open_split(place), [], {**by_name(settings), "method": method})
        self._start = start

    def __len__(self) -> int:
        """Steps that are left."""
        return max(0, self._spec.run.steps - self._start)

    def __iter__(self) -> Iterator[Batch]:
        """Each time from the first step; a new set of tensors each step, on the training device."""
        spec, device = self._spec, hardware.device(self._spec.run)
        given = (spec.store, spec.method, spec.settings, spec.run, device, self._start, spec.placement)
        with loader.Loader(*given) as batches:
            own = spec.method.init_state(batches.sizes, spec.settings)
            state = {name: tensor.to(device) for name, tensor in own.items()}
            if batches.views.second:
                batches.replace_second(state["second"], self._start)
            for raw in batches:
                yield make_batch(raw, batches.views, batches.schedule_names, state)
