"""The order of resident images: one uniform permutation after another, a function of (seed, step) alone."""

from __future__ import annotations

import threading

import numpy as np

from stores.draws import shuffled

BLOCK = 64  # steps whose order is computed together: a permutation costs much per call and little per element


class Sampler:
    """The samples of each step. No sample comes a second time before all came once. Safe to share between threads.

    Args:
        count: number of samples to shuffle.
        batch: samples a step.
        seed: of the order.
        purpose: name of the order; orders of different names are independent.
    """

    def __init__(self, count: int, batch: int, seed: int, purpose: str) -> None:
        self.batch, self.seed = batch, seed
        self._count, self._purpose = count, purpose
        self._known: dict[int, np.ndarray] = {}  # the latest blocks of steps
        self._lock = threading.Lock()

    def samples(self, step: int, steps: int = 1) -> np.ndarray:
        """Samples of some consecutive steps: int64 [steps · batch], each in [0, count)."""
        first, last = step // BLOCK, (step + steps - 1) // BLOCK
        orders = [self._order(block) for block in range(first, last + 1)]
        start = (step - first * BLOCK) * self.batch
        return (np.concatenate(orders) if len(orders) > 1 else orders[0])[start : start + steps * self.batch]

    def _order(self, block: int) -> np.ndarray:
        """Samples of a block of steps: int64 [BLOCK · batch]."""
        with self._lock:
            if block not in self._known:
                positions = np.arange(block * BLOCK * self.batch, (block + 1) * BLOCK * self.batch)
                order = shuffled(positions, self._count, self.seed, self._purpose)
                self._known = {block: order, **dict(list(self._known.items())[:1])}
            return self._known[block]
