"""Batches of a resident pool: one uniform permutation of it after another, a function of (seed, step) alone."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stores.draws import shuffled
from trainer.drawn import Drawn
from trainer.pool import Pool

BLOCK = 64  # steps whose order is computed at once: permuting is dear per call, cheap per element


class Shuffled:
    """Batches of `size` samples. No sample comes twice before all came once.

    Args:
        purpose: names the order; two purposes have nothing to do with each other.
    """

    def __init__(self, pool: Pool | Drawn, size: int, seed: int, purpose: str) -> None:
        self.pool, self._size, self._seed, self._purpose = pool, size, seed, purpose
        self.home, self.image_shape = pool.home, pool.image_shape
        self._known = (-1, np.empty((0, 0), np.int64))  # a block of steps and its order; one tuple, for any thread

    def __len__(self) -> int:
        return len(self.pool)

    def samples(self, step: int) -> np.ndarray:
        """int64 [size], samples of the pool."""
        block, offset = divmod(step, BLOCK)
        known, order = self._known
        if known != block:
            positions = np.arange(block * BLOCK * self._size, (block + 1) * BLOCK * self._size)
            order = shuffled(positions, len(self.pool), self._seed, self._purpose).reshape(BLOCK, self._size)
            self._known = block, order
        return order[offset]

    def take(self, step: int, pin: bool = False) -> tuple[np.ndarray, Tensor]:
        """A step's samples, int64 [size], and their pixels, uint8 [size, H, W, 3] on the pool's home, page-locked if
        `pin`."""
        samples = self.samples(step)
        return samples, self.pool.take(samples, pin)

    def close(self) -> None:
        """A resident pool has no threads."""
