"""Images streamed from the store: threads read and decode whole blocks ahead into a window of bounded memory.

`trainer.data.mixing` says which sample comes when, so a run may start at any step, and only the blocks that are open
there are read. The window is one array of places, each with one decoded block; batches are gathered from it by index.
Everything that is decoded, and what the threads need to decode it, stays within `window` bytes, whatever the store's
size; what batches are gathered into is the caller's. Works on stores in object storage, and through FFCV's Loader on
stores in its format.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError

import numpy as np
import torch
from torch import Tensor

from stores import ImageArray
from stores.errors import UsageError
from stores.ffcv.reading import BetonArray
from stores.storage.bucket import BucketPath
from stores.storage.location import parallel
from trainer.data.crew import Crew
from trainer.data.mixing import Mixing
from trainer.data.resident import empty

WHOLE = 0.75  # share of its rows from which on a block is decoded in place, the other rows with it
AHEAD = 6  # blocks that a thread reads ahead, if the window has room for them: decoding does not wait for the mix
OPEN = 0.75  # share of the window that open blocks take; the rest is for reading ahead


class Stream:
    """Batches of uint8 images [size, H, W, 3] in memory, in a mixed order that is a function of (seed, window).

    Args:
        array: [N, H, W, 3] or [N, A, H, W, 3].
        rows: int64 [m], ascending, none twice; sample i·K + j is copy j of row i.
        copies: K, how many copies of each row; None for an array without copies.
        size: samples of a batch.
        window: bytes of memory that all of it may take.

    Raises:
        UsageError: the window is too small for the array's blocks.
    """

    home = torch.device("cpu")

    def __init__(
        self, array: ImageArray | BetonArray, rows: np.ndarray, copies: int | None, size: int, seed: int, window: int
    ) -> None:
        self._array, self._rows, self._copies, self.size = array, rows, copies, size
        self.image_shape = tuple(int(n) for n in array.shape[-3:])
        block, first, counts = np.unique(rows // array.block, return_index=True, return_counts=True)
        self._first = np.append(first, len(rows))  # where each block's rows begin in `rows`
        self._start = block * array.block
        self._whole = copies in (None, array.shape[1]) and len(rows) >= WHOLE * len(block) * array.block
        self._gaps = len(rows) < rows[-1] - self._start[0] + 1  # a row's place in its block is not its place in `rows`
        self._held = int(array.block if self._whole else counts.max()) * (copies or 1)  # images of a place
        place = self._held * (int(np.prod(self.image_shape)) + 2 * np.dtype(np.int32).itemsize)
        self.plan = Plan(array, place, len(block), window)
        self.mixing = Mixing(counts, copies or 1, self.plan.width, seed)
        self._images = np.empty((self.plan.places, self._held, *self.image_shape), np.uint8)
        self._flat = self._images.reshape(self.plan.places * self._held, -1)
        self._crew: Crew | None = None
        self._taking, self._closing = threading.Lock(), False
        self._next, self._there = 0, 0  # entries: which the crew is to be given next; before which all are decoded
        self._tick, self._offset, self._position = 0, 0, -1  # of the sample that comes next
        self._mixed, self._ends = 0, np.empty(0, np.int64)  # the first tick of those that are mixed; where each ends
        self._samples = self._at = np.empty(0, np.int64)  # of those ticks, and where in the window they lie

    def __len__(self) -> int:
        return len(self._rows) * (self._copies or 1)

    def take(self, step: int, pin: bool = False) -> tuple[np.ndarray, Tensor]:
        """A step's samples, int64 [size], and their pixels, uint8 [size, H, W, 3], page-locked if `pin`.

        One step after the other is what is prepared for; any other one starts anew.

        Raises:
            IntegrityError: a block that this step needs is missing or damaged; its file is named.
        """
        out = empty((self.size, *self.image_shape), self._flat.dtype, pin)
        return self.read(step, out), out

    def read(self, step: int, out: Tensor) -> np.ndarray:
        """Put the pixels of as many steps as it holds into `out`, uint8 [steps · size, H, W, 3]; their samples, int64
        [steps · size].

        Raises:
            IntegrityError: as of `take`.
            CancelledError: another thread has closed the stream.
        """
        with self._taking:
            start, count = step * self.size, len(out)
            if start != self._position:
                self._seek(start)
            self._position = -1  # nowhere, should an error end this
            samples, pixels, done = np.empty(count, np.int64), out.view(count, -1).numpy(), 0
            while done < count:
                end = min(self._offset + count - done, self._await())
                here, there = slice(done, done + end - self._offset), slice(self._offset, end)
                samples[here] = self._samples[there]
                np.take(self._flat, self._at[there], axis=0, out=pixels[here], mode="clip")
                done, self._offset = here.stop, end
                self._enter(self._mixed + int(np.searchsorted(self._ends, end, side="right")))
            self._position = start + count
            return samples

    def close(self) -> None:
        """End the threads, and what another thread takes; what is being decoded is finished, what waits is dropped."""
        self._closing = True
        crew = self._crew
        if crew is not None:  # wakes a thread that waits for a block
            crew.stop()
        with self._taking:
            self._restart()
            self._closing = False

    def _restart(self) -> None:
        if self._crew is not None:
            self._forgotten.detach()
            self._crew.join()
        self._crew, self._position = None, -1

    def _seek(self, position: int) -> None:
        self._restart()
        tick = self.mixing.find(position)
        self._next = self._there = self.mixing.open(tick)[0]
        self._mixed, self._ends = tick, np.empty(0, np.int64)  # nothing
        self._enter(tick)
        self._offset += position - self.mixing.through(tick - 1)

    def _enter(self, tick: int) -> None:
        """Go to a tick: blocks that are closed give their places to those that come next."""
        if self._closing:
            raise CancelledError
        if self._crew is None:
            read = weakref.WeakMethod(self._read)  # a stream that nobody holds ends its threads
            self._crew = Crew(lambda entry: _call(read(), entry), self.plan.threads, self.plan.helps, "stream")
            self._forgotten = weakref.finalize(self, self._crew.stop)
        while self._next < self.mixing.open(tick)[0] + self.plan.places:
            self._crew.give(self._next)
            self._next += 1
        self._tick = tick
        if tick == self._mixed + len(self._ends):
            self._mix(tick)

    def _mix(self, tick: int) -> None:
        """The order of some ticks from this one on."""
        entry, block, sample, self._ends = self.mixing.mix(tick, self.mixing.together)
        self._mixed, self._offset = tick, 0
        self._samples = self._first[block] * (self._copies or 1) + sample
        if self._whole and self._gaps:
            row, copy = np.divmod(self._samples, self._copies or 1)
            sample = (self._rows[row] - self._start[block]) * (self._copies or 1) + copy
        self._at = entry % self.plan.places * self._held + sample

    def _await(self) -> int:
        """Wait until every block is decoded that is open in this tick; where the mixed samples end that then are there.

        As many ticks as are there are gathered at once: a gather of few samples takes less time than what is around it.
        """
        assert self._crew is not None
        last = self.mixing.open(self._tick)[-1]
        while self._there <= last or self._crew.is_done(self._there):
            self._crew.wait(self._there)
            self._there += 1
        ticks = self.mixing.enters(self._there) - self._mixed
        return int(self._ends[min(ticks, len(self._ends)) - 1])

    def _read(self, entry: int) -> None:
        """Decode a block into its place."""
        block, place = self.mixing.block(entry), entry % self.plan.places
        rows: np.ndarray | range
        if self._whole:
            start = int(self._start[block])
            rows = range(start, min(start + self._array.block, self._array.shape[0]))
        else:
            rows = self._rows[self._first[block] : self._first[block + 1]]
        shape = (len(rows), *((self._copies,) if self._copies else ()), *self.image_shape)
        out = self._images[place, : len(rows) * (self._copies or 1)].reshape(shape)
        self._array.read(rows, copies=self._copies, out=out, workers=1)


def _call(read: Callable[[int], None] | None, entry: int) -> None:
    if read is not None:
        read(entry)


class Plan:
    """How a window is spent: the width of the mix follows from the window alone, the threads share what is left.

    Attributes:
        width: blocks that are open. places: decoded blocks, open ones and those read ahead. threads: that read.
        helps: one of the threads is that which takes batches, while it waits: where reading is work of a processor.
    """

    def __init__(self, array: ImageArray | BetonArray, place: int, blocks: int, window: int) -> None:
        """place: bytes of a decoded block and its order. blocks: of an epoch."""
        of_a_thread = 2 * array.block * int(np.prod(array.shape[1:]))  # a compressed chunk, at worst as large; decoded
        room = (window - of_a_thread - place) // place  # for open blocks, with one thread and one block ahead
        if room < 1:
            least = 2 * place + of_a_thread
            raise UsageError(
                f"a window of {window / 2**20:,.1f} MiB is too small for this store",
                f"two of its blocks and what it takes to read one are {least / 2**20:,.1f} MiB", "--window takes more",
            )  # fmt: skip
        self.width = max(1, min(blocks, room, int(OPEN * window / place)))
        left = window - self.width * place
        # FFCV reads in one thread of its own
        wanted = parallel(array.store) if isinstance(array, ImageArray) else 1
        self.threads = max(1, min(wanted, left // (of_a_thread + place)))
        self.helps = self.threads > 1 and isinstance(array, ImageArray) and not isinstance(array.store, BucketPath)
        self.places = self.width + min(AHEAD * self.threads, (left - self.threads * of_a_thread) // place)
