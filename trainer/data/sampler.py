"""Batches of a resident pool: one uniform permutation of it after another, a function of (seed, step) alone."""

from __future__ import annotations

import threading

import numpy as np
from torch import Tensor

from stores.draws import shuffled
from trainer.data.parametric import Drawn
from trainer.data.resident import Pool

BLOCK = 64  # steps whose order is computed at once: permuting is dear per call, cheap per element


class Shuffled:
    """Batches of `size` samples. No sample comes twice before all came once.

    Args:
        purpose: names the order; two purposes have nothing to do with each other.
    """

    def __init__(self, pool: Pool | Drawn, size: int, seed: int, purpose: str) -> None:
        self.pool, self.size, self._seed, self._purpose = pool, size, seed, purpose
        self.home, self.image_shape = pool.home, pool.image_shape
        self._known: dict[int, np.ndarray] = {}  # orders of the latest blocks of steps
        self._one_at_a_time = threading.Lock()

    def __len__(self) -> int:
        return len(self.pool)

    def samples(self, step: int, steps: int = 1) -> np.ndarray:
        """int64 [steps · size], samples of the pool."""
        first, last = step // BLOCK, (step + steps - 1) // BLOCK
        orders = [self._order(block) for block in range(first, last + 1)]
        start = (step - first * BLOCK) * self.size
        return (np.concatenate(orders) if len(orders) > 1 else orders[0])[start : start + steps * self.size]

    def take(self, step: int, pin: bool = False) -> tuple[np.ndarray, Tensor]:
        """A step's samples, int64 [size], and their pixels, uint8 [size, H, W, 3] on the pool's home, page-locked if
        `pin`."""
        samples = self.samples(step)
        return samples, self.pool.take(samples, pin)

    def read(self, step: int, out: Tensor) -> np.ndarray:
        """Put the pixels of as many steps as it holds into `out`, uint8 [steps · size, H, W, 3] in the computer's
        memory; their samples, int64 [steps · size]. From any thread."""
        samples = self.samples(step, len(out) // self.size)
        self.pool.take(samples, out=out)
        return samples

    def close(self) -> None:
        """A resident pool has no threads."""

    def _order(self, block: int) -> np.ndarray:
        """Samples of a block of steps, int64 [BLOCK · size]."""
        with self._one_at_a_time:
            if block not in self._known:
                positions = np.arange(block * BLOCK * self.size, (block + 1) * BLOCK * self.size)
                order = shuffled(positions, len(self.pool), self._seed, self._purpose)
                self._known = {block: order, **dict(list(self._known.items())[:1])}
            return self._known[block]
