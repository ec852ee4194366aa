"""The order of a streamed store: which sample comes at which position, computed from (seed, width) alone.

Blocks of rows (a store's chunks) open one after another in a random order, a new one every epoch. `width` of them are
open at a time, and each contributes its samples evenly over the ticks from its opening to its closing:

    tick        0     1     2     3     4     5         width 3: tick 4 mixes a third of each of the blocks 2, 3 and 4
    block 0     ▪     ▪     ▪
    block 1           ▪     ▪     ▪
    block 2                 ▪     ▪     ▪
    …

A block contributes one copy of each of its images before a second copy of any, and no tick takes more than that from a
block (if necessary, several ticks pass between two openings). So no tick holds two copies of one image, and of the
batches only those across two ticks can: a uniform shuffle is not as even. The first tick needs one block only, so the
first batch is there at once, and the mix reaches its full width after `width` blocks. Nothing here reads images.
"""

from __future__ import annotations

import bisect
import math
from functools import lru_cache

import numpy as np

from stores.draws import Generators, order

TICKS = 16  # whose order is computed together: it costs much per call and little per sample


class Mixing:
    """An endless order of samples. An `entry` is the opening of a block: entry e of epoch 0, 1, … is another block.

    Args:
        counts: int64 [blocks], number of rows of each block, at least one.
        copies: number of copies of each row.
        width: number of blocks that are open at a time.
        seed: of the order.

    Attributes:
        copies, width: as given.
        together: largest number of ticks that `mix` computes at once.
    """

    def __init__(self, counts: np.ndarray, copies: int, width: int, seed: int) -> None:
        self._counts, self.copies, self._seed = counts, copies, seed
        self._pace = math.ceil(copies / width)  # ticks between two entries
        self._parts = self._pace * width  # ticks of a block
        self.width = width
        self._epoch = lru_cache(maxsize=3)(self._shuffle)
        self.together = min(TICKS, width)
        places, most = width + self.together, int(counts.max()) * copies
        self._entry = np.full(places, -1)  # what is open, each entry in the place `entry mod places`
        self._block, self._size = np.zeros(places, np.int64), np.zeros(places, np.int64)
        self._sample = np.zeros((places, most), np.int32)  # of each entry in its order, row · copies + copy
        self._of_tick, self._of_block = Generators(seed, "stream tick"), Generators(seed, "stream block")

    def block(self, entry: int) -> int:
        """The block that an entry opens."""
        epoch, place = divmod(entry, len(self._counts))
        return int(self._epoch(epoch)[0][place])

    def open(self, tick: int) -> range:
        """The entries that are open at a tick, 1 … width of them."""
        last = tick // self._pace
        return range(max(0, last - self.width + 1), last + 1)

    def enters(self, entry: int) -> int:
        """The tick at which an entry opens."""
        return entry * self._pace

    def through(self, tick: int) -> int:
        """Number of samples of all ticks up to and including this one; 0 for −1."""
        if tick < 0:
            return 0
        entries = np.array(self.open(tick))
        epochs, place = divmod(int(entries[0]), len(self._counts))
        whole = epochs * int(self._counts.sum()) + int(self._epoch(epochs)[1][place])
        parts = tick - entries * self._pace + 1
        return (whole * self.copies) + int((self._sizes(entries) * parts // self._parts).sum())

    def find(self, position: int) -> int:
        """The tick that holds the sample at a position."""
        epochs = position // (int(self._counts.sum()) * self.copies) + 1
        last = (epochs * len(self._counts)) * self._pace + self._parts
        return bisect.bisect_right(range(last), position, key=self.through)

    def mix(self, tick: int, ticks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The samples of some consecutive ticks.

        Args:
            tick: the first one.
            ticks: number of ticks, at most `together`.

        Returns:
            entry: int64 [n] of each sample.
            block: int64 [n].
            sample: int32 [n], row · copies + copy within the block.
            ends: int64 [ticks], where each tick ends among the n samples.
        """
        each = np.arange(tick, tick + ticks)[:, None]
        entries = each // self._pace + np.arange(1 - self.width, 1)  # [ticks, width]; before the first one: negative
        places = entries % len(self._entry)
        asked = np.arange(max(0, entries[0, 0]), entries[-1, -1] + 1)
        for entry in asked[self._entry[asked % len(self._entry)] != asked].tolist():
            self._open(entry)
        sizes, part = np.where(entries < 0, 0, self._size[places]), each - entries * self._pace
        first = sizes * part // self._parts
        taken = sizes * (part + 1) // self._parts - first
        ends, counts = np.cumsum(taken).reshape(taken.shape), taken.sum(axis=1)
        mixed = np.concatenate(
            [
                self._of_tick[tick + i].permutation(count) + ends[i, -1] - count
                for i, count in enumerate(counts.tolist())
            ]
        )
        of = np.repeat(np.arange(taken.size), taken.ravel())[mixed]
        at = mixed + (places * self._sample.shape[1] + first - ends + taken).ravel()[of]
        return entries.ravel()[of], self._block[places].ravel()[of], self._sample.ravel()[at], ends[:, -1]

    def _sizes(self, entries: np.ndarray) -> np.ndarray:
        return self._counts[[self.block(entry) for entry in entries.tolist()]] * self.copies

    def _open(self, entry: int) -> None:
        """Draw the order of an entry's samples: every row once, then once more with another copy, and so on."""
        place, block = entry % len(self._entry), self.block(entry)
        rows = int(self._counts[block])
        size = rows * self.copies
        rng = self._of_block[entry]
        copy = rng.permuted(np.broadcast_to(np.arange(self.copies), (rows, self.copies)), axis=1)
        of_a_row = rng.permutation(rows) * self.copies
        np.add(of_a_row, copy.T, out=self._sample[place, :size].reshape(self.copies, rows), casting="same_kind")
        self._entry[place], self._block[place], self._size[place] = entry, block, size

    def _shuffle(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the blocks in an epoch, and the number of rows before each: both int64 [blocks]."""
        blocks = order(self._seed, f"stream epoch {epoch}", len(self._counts))
        rows = self._counts[blocks]
        return blocks, np.cumsum(rows) - rows
