"""The order of a streamed pool: which sample comes at which position, by arithmetic from (seed, width) alone.

Blocks of rows (a store's chunks) enter one after another in a random order, another one every epoch. `width` of them
are open at a time, and each hands out its samples evenly from when it enters until it leaves:

    tick        0     1     2     3     4     5         width 3: tick 4 mixes a third of each of the blocks 2, 3 and 4
    block 0     ▪     ▪     ▪
    block 1           ▪     ▪     ▪
    block 2                 ▪     ▪     ▪
    …

A block hands out one copy of each of its images before a second of any, and no tick takes more than that of a block (if
need be, several ticks pass between two entries). So no tick, and but for those across two ticks no batch, holds two
copies of one image; a uniform shuffle is not as even. The first tick needs one block only: that is why the first batch
is there at once, and why the mix takes `width` blocks to become as wide as it stays. Nothing here reads images.
"""

from __future__ import annotations

import bisect
import math
from functools import lru_cache

import numpy as np

from stores.draws import Generators, order

TICKS = 16  # whose order is computed at once: dear per call, cheap per sample


class Mixing:
    """An endless stream of samples.

    Args:
        counts: int64 [blocks], rows of each block, at least one; copies: of each row.
        width: blocks that are open at a time.
        seed: of the order.
    """

    def __init__(self, counts: np.ndarray, copies: int, width: int, seed: int) -> None:
        self._counts, self._copies, self._seed = counts, copies, seed
        self._pace = math.ceil(copies / width)  # ticks between two entries
        self._parts = self._pace * width  # ticks of a block
        self.width = width
        self._epoch = lru_cache(maxsize=3)(self._shuffle)
        self.together = min(TICKS, width)
        places, most = width + self.together, int(counts.max()) * copies
        self._entry = np.full(places, -1)  # what is open in any of them, each in the place entry mod places
        self._block, self._size = np.zeros(places, np.int64), np.zeros(places, np.int64)
        self._sample = np.zeros((places, most), np.int32)  # of each in its order, row · copies + copy
        self._of_tick, self._of_block = Generators(seed, "stream tick"), Generators(seed, "stream block")

    def block(self, entry: int) -> int:
        """Which block an entry is."""
        epoch, place = divmod(entry, len(self._counts))
        return int(self._epoch(epoch)[0][place])

    def open(self, tick: int) -> range:
        """The entries that a tick takes from, 1 … width of them."""
        last = tick // self._pace
        return range(max(0, last - self.width + 1), last + 1)

    def enters(self, entry: int) -> int:
        """The first tick that takes from an entry."""
        return entry * self._pace

    def through(self, tick: int) -> int:
        """Samples of all ticks up to and including this one; 0 for −1."""
        if tick < 0:
            return 0
        entries = np.array(self.open(tick))
        epochs, place = divmod(int(entries[0]), len(self._counts))
        whole = epochs * int(self._counts.sum()) + int(self._epoch(epochs)[1][place])
        parts = tick - entries * self._pace + 1
        return (whole * self._copies) + int((self._sizes(entries) * parts // self._parts).sum())

    def find(self, position: int) -> int:
        """The tick that holds the sample at a position."""
        epochs = position // (int(self._counts.sum()) * self._copies) + 1
        last = (epochs * len(self._counts)) * self._pace + self._parts
        return bisect.bisect_right(range(last), position, key=self.through)

    def samples(self, tick: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A tick's samples in their order: entry, its block, row within the block, and copy; int64 or int32 [n]."""
        entry, block, sample, _ = self.mix(tick, 1)
        return entry, block, sample // self._copies, sample % self._copies

    def mix(self, tick: int, ticks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The samples of some ticks, at most `together`, one after the other.

        Returns:
            entry, its block, and row · copies + copy within the block, int64 or int32 [n]; and where each tick ends,
            int64 [ticks].
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
        mixed = np.concatenate([
            self._of_tick[tick + i].permutation(count) + ends[i, -1] - count
            for i, count in enumerate(counts.tolist())
        ])  # fmt: skip
        of = np.repeat(np.arange(taken.size), taken.ravel())[mixed]
        at = mixed + (places * self._sample.shape[1] + first - ends + taken).ravel()[of]
        return entries.ravel()[of], self._block[places].ravel()[of], self._sample.ravel()[at], ends[:, -1]

    def _sizes(self, entries: np.ndarray) -> np.ndarray:
        return self._counts[[self.block(entry) for entry in entries.tolist()]] * self._copies

    def _open(self, entry: int) -> None:
        """Draw the order of an entry's samples: every row once, then every row once more …, with another copy."""
        place, block = entry % len(self._entry), self.block(entry)
        rows = int(self._counts[block])
        size = rows * self._copies
        rng = self._of_block[entry]
        copy = rng.permuted(np.broadcast_to(np.arange(self._copies), (rows, self._copies)), axis=1)
        of_a_row = rng.permutation(rows) * self._copies
        np.add(of_a_row, copy.T, out=self._sample[place, :size].reshape(self._copies, rows), casting="same_kind")
        self._entry[place], self._block[place], self._size[place] = entry, block, size

    def _shuffle(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's order of the blocks, and the rows before each: both int64 [blocks]."""
        blocks = order(self._seed, f"stream epoch {epoch}", len(self._counts))
        rows = self._counts[blocks]
        return blocks, np.cumsum(rows) - rows
