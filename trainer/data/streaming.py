"""Images streamed from the store: threads read and decode whole blocks ahead into a window of bounded memory.

`trainer.data.mixing` says which sample comes when, so a run can start at any step, and only the blocks that are open
at that step are read. The window is one array of places, each for one decoded block; batches are gathered from it by
index. All decoded images, and what the threads need to decode them, stay within `window` bytes, whatever the store's
size; the batches themselves come on top. Works on stores in object storage, and through FFCV's Loader on stores in its
format.
"""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
from torch import Tensor

from stores import ImageArray
from stores.errors import UsageError
from stores.ffcv.reading import BetonArray
from stores.storage.bucket import BucketPath
from stores.storage.location import parallel
from trainer.data.memory import Buffers
from trainer.data.mixing import Mixing
from trainer.data.prefetch import ReadAhead, Stopped

WHOLE = 0.75  # share of its rows from which on a block is decoded in place, together with the rows that are not needed
AHEAD = 6  # blocks that a thread reads ahead, if the window has room for them
OPEN = 0.75  # share of the window that open blocks take; the rest is for reading ahead


class Stream:
    """Endless batches in a mixed order that is a function of (seed, window).

    Args:
        array: [N, H, W, 3] or [N, A, H, W, 3].
        rows: int64 [m], ascending, none twice; sample i·K + j is copy j of row i.
        copies: K, how many copies of each row; None for an array without copies.
        batch: samples a step.
        seed: of the order.
        window: bytes of memory for all of it but the batches.
        block: largest number of steps read by one call.

    Attributes:
        image_shape: (H, W, 3).
        threads: how many threads should read at the same time: one, in the order of steps.
        block: as given.

    Raises:
        UsageError: the window is too small for the array's blocks.
    """

    threads = 1

    def __init__(
        self,
        array: ImageArray | BetonArray,
        rows: np.ndarray,
        copies: int | None,
        batch: int,
        seed: int,
        window: int,
        block: int = 1,
    ) -> None:
        self._array, self._rows, self._copies, self._batch, self.block = array, rows, copies, batch, block
        self._seed, self._window = seed, window
        self.image_shape = tuple(int(n) for n in array.shape[-3:])
        self._buffers = Buffers(block * batch * int(np.prod(self.image_shape)))
        blocks, first, counts = np.unique(rows // array.block, return_index=True, return_counts=True)
        self._first = np.append(first, len(rows))  # where each block's rows begin in `rows`
        self._start = blocks * array.block
        self._whole = copies in (None, array.shape[1]) and len(rows) >= WHOLE * len(blocks) * array.block
        self._gaps = len(rows) < rows[-1] - self._start[0] + 1  # a row's place in its block is not its place in `rows`
        self._held = int(array.block if self._whole else counts.max()) * (copies or 1)  # images of a place
        place = self._held * (int(np.prod(self.image_shape)) + 2 * np.dtype(np.int32).itemsize)
        self.budget = Budget(array, place, len(blocks), window)
        self._mixing = Mixing(counts, copies or 1, self.budget.width, seed)
        self._images = np.empty((self.budget.places, self._held, *self.image_shape), np.uint8)
        self._flat = self._images.reshape(self.budget.places * self._held, -1)
        self._ahead: ReadAhead[None] | None = None
        self._reading, self._closed = threading.Lock(), False
        self._next, self._there = 0, 0  # entries: the next one to submit; the first one that is not decoded
        self._tick, self._offset, self._position = 0, 0, -1  # of the sample that comes next
        self._mixed, self._ends = 0, np.empty(0, np.int64)  # the first tick that is mixed; where each of them ends
        self._samples = self._at = np.empty(0, np.int64)  # of those ticks, and where in the window they lie

    def __len__(self) -> int:
        return len(self._rows) * (self._copies or 1)

    def read(self, step: int, steps: int = 1, pin: bool = False) -> tuple[np.ndarray, Tensor]:
        """Samples and images of some consecutive steps.

        Calls in the order of steps are read ahead; any other step is a seek, which decodes the blocks open there.

        Args:
            steps: number of steps, at most `block`.
            pin: page-locked memory.

        Returns:
            int64 [steps · batch] and uint8 [steps · batch, H, W, 3] on the CPU.

        Raises:
            IntegrityError: a block that these steps need is missing or damaged; its file is named.
            Stopped: the stream is closed.
        """
        with self._reading:
            start, count = step * self._batch, steps * self._batch
            if start != self._position:
                self._seek(start)
            self._position = -1  # nowhere, should an error end this
            out = self._buffers.lend(count, *self.image_shape, pin=pin)
            samples, pixels, done = np.empty(count, np.int64), out.view(count, -1).numpy(), 0
            while done < count:
                end = min(self._offset + count - done, self._await())
                here, there = slice(done, done + end - self._offset), slice(self._offset, end)
                samples[here] = self._samples[there]
                np.take(self._flat, self._at[there], axis=0, out=pixels[here], mode="clip")
                done, self._offset = here.stop, end
                self._enter(self._mixed + int(np.searchsorted(self._ends, end, side="right")))
            self._position = start + count
            return samples, out

    def subset(self, positions: np.ndarray, _purpose: str) -> Stream:
        """A stream of some of the rows, with a window of the same size.

        Args:
            positions: int64 [m], ascending, none twice; sample i·K + j is copy j of row `rows[positions[i]]`.
        """
        rows = self._rows[positions]
        return Stream(self._array, rows, self._copies, self._batch, self._seed, self._window, self.block)

    def close(self) -> None:
        """End the threads. Blocks being decoded are finished; a `read` in another thread ends with `Stopped`."""
        self._closed = True
        ahead = self._ahead
        if ahead is not None:  # wakes a thread that waits for a block
            ahead.stop()
        with self._reading:
            self._drop()

    def _drop(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._ahead, self._position = None, -1

    def _seek(self, position: int) -> None:
        self._drop()
        tick = self._mixing.find(position)
        self._next = self._there = self._mixing.open(tick)[0]
        self._mixed, self._ends = tick, np.empty(0, np.int64)  # nothing
        self._enter(tick)
        self._offset += position - self._mixing.through(tick - 1)

    def _enter(self, tick: int) -> None:
        """Go to a tick: blocks that are closed there give their places to those that come next."""
        if self._closed:
            raise Stopped
        if self._ahead is None:
            self._ahead = ReadAhead(self.budget.threads, "stream", self.budget.helps)
        while self._next < self._mixing.open(tick)[0] + self.budget.places:
            self._ahead.submit(partial(self._decode, self._next))
            self._next += 1
        self._tick = tick
        if tick == self._mixed + len(self._ends):
            self._mix(tick)

    def _mix(self, tick: int) -> None:
        """Compute the order of some ticks from this one on."""
        entry, block, sample, self._ends = self._mixing.mix(tick, self._mixing.together)
        self._mixed, self._offset = tick, 0
        self._samples = self._first[block] * (self._copies or 1) + sample
        if self._whole and self._gaps:
            row, copy = np.divmod(self._samples, self._copies or 1)
            sample = (self._rows[row] - self._start[block]) * (self._copies or 1) + copy
        self._at = entry % self.budget.places * self._held + sample

    def _await(self) -> int:
        """Wait until every block that is open in this tick is decoded; the end of the samples that are there then.

        That may be several ticks, gathered together: a gather of few samples costs less than what is around it.
        """
        assert self._ahead is not None
        last = self._mixing.open(self._tick)[-1]
        while self._there <= last or self._ahead.ready():
            self._ahead.take()
            self._there += 1
        ticks = self._mixing.enters(self._there) - self._mixed
        return int(self._ends[min(ticks, len(self._ends)) - 1])

    def _decode(self, entry: int) -> None:
        """Decode a block into its place."""
        block, place = self._mixing.block(entry), entry % self.budget.places
        rows: np.ndarray | range
        if self._whole:
            start = int(self._start[block])
            rows = range(start, min(start + self._array.block, self._array.shape[0]))
        else:
            rows = self._rows[self._first[block] : self._first[block + 1]]
        shape = (len(rows), *((self._copies,) if self._copies else ()), *self.image_shape)
        out = self._images[place, : len(rows) * (self._copies or 1)].reshape(shape)
        self._array.read(rows, copies=self._copies, out=out, workers=1)


class Budget:
    """How a window is spent. The width of the mix follows from the window alone; the threads share what is left.

    Args:
        array: the images.
        place: bytes of a decoded block and its order.
        blocks: number of blocks in an epoch.
        window: bytes.

    Attributes:
        width: number of open blocks.
        places: number of decoded blocks, open ones and those read ahead.
        threads: number of threads that decode.
        helps: whether the thread that takes batches is one of them while it waits (see `ReadAhead`).

    Raises:
        UsageError: the window is too small.
    """

    def __init__(self, array: ImageArray | BetonArray, place: int, blocks: int, window: int) -> None:
        of_a_thread = 2 * array.block * int(np.prod(array.shape[1:]))  # a decoded chunk, and a compressed one at worst
        room = (window - of_a_thread - place) // place  # for open blocks, with one thread and one block ahead
        if room < 1:
            least = 2 * place + of_a_thread
            raise UsageError(
                f"a window of {window / 2**20:,.1f} MiB is too small for this store",
                f"two of its blocks and what it takes to read one are {least / 2**20:,.1f} MiB",
                "--window takes more",
            )
        self.width = max(1, min(blocks, room, int(OPEN * window / place)))
        left = window - self.width * place
        # FFCV reads in one thread of its own
        wanted = parallel(array.store) if isinstance(array, ImageArray) else 1
        threads = max(1, min(wanted, left // (of_a_thread + place)))
        self.helps = threads > 1 and isinstance(array, ImageArray) and not isinstance(array.store, BucketPath)
        self.threads = threads - self.helps
        self.places = self.width + min(AHEAD * threads, (left - threads * of_a_thread) // place)
