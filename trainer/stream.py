"""Images streamed from the store: threads read and decode whole blocks ahead into a window of bounded memory.

Which sample comes when says `trainer.mixing`, so a run may start at any step, and only the blocks that are open there
are read. The window is one array of places, each holding one decoded block; batches are gathered from it by index.
Everything that is decoded, and what the threads need to decode it, stays within `window` bytes, whatever the store's
size; what batches are gathered into is the caller's. Works on stores in object storage, and through FFCV's Loader on
stores in its format.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from stores import ImageArray
from stores.errors import UsageError
from stores.ffcv import BetonArray
from stores.storage import parallel
from trainer.mixing import Mixing
from trainer.pool import empty

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
        self._threads: ThreadPoolExecutor | None = None
        self._taking, self._closing = threading.Lock(), False
        self._coming: deque[tuple[int, Future[None]]] = deque()
        self._next = 0  # entry that is to be read next
        self._tick, self._last, self._offset, self._position = 0, 0, 0, -1  # of the sample that comes next
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
                stop = int(self._ends[self._tick - self._mixed])
                end = min(self._offset + count - done, stop)
                if end > self._offset:
                    here, there = slice(done, done + end - self._offset), slice(self._offset, end)
                    self._await()
                    samples[here] = self._samples[there]
                    np.take(self._flat, self._at[there], axis=0, out=pixels[here], mode="clip")
                    done, self._offset = here.stop, end
                if end == stop:
                    self._enter(self._tick + 1)
            self._position = start + count
            return samples

    def close(self) -> None:
        """End the threads, and what another thread takes; what is being decoded is finished, what waits is dropped."""
        self._closing = True
        threads = self._threads
        if threads is not None:  # wakes a thread that waits for a block
            threads.shutdown(wait=False, cancel_futures=True)
        with self._taking:
            self._restart()
            self._closing = False

    def _restart(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._threads, self._position = None, -1
        self._coming.clear()

    def _seek(self, position: int) -> None:
        self._restart()
        tick = self.mixing.find(position)
        self._next = int(self.mixing.open(tick)[0])
        self._enter(tick)
        self._offset += position - self.mixing.through(tick - 1)

    def _enter(self, tick: int) -> None:
        """Go to a tick: blocks that are closed give their places to those that come next."""
        if self._closing:
            raise CancelledError
        entries = self.mixing.open(tick)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.plan.threads, thread_name_prefix="stream")
        while self._next < entries[0] + self.plan.places:
            reading = self._threads.submit(self._read, self.mixing.block(self._next), self._next % self.plan.places)
            self._coming.append((self._next, reading))
            self._next += 1
        self._tick, self._last = tick, int(entries[-1])
        if not self._mixed <= tick < self._mixed + len(self._ends):
            self._mix(tick)
        self._offset = int(self._ends[tick - self._mixed - 1]) if tick > self._mixed else 0

    def _mix(self, tick: int) -> None:
        """The order of some ticks from this one on."""
        entry, block, sample, self._ends = self.mixing.mix(tick, self.mixing.together)
        self._mixed = tick
        self._samples = self._first[block] * (self._copies or 1) + sample
        if self._whole and self._gaps:
            row, copy = np.divmod(self._samples, self._copies or 1)
            sample = (self._rows[row] - self._start[block]) * (self._copies or 1) + copy
        self._at = entry % self.plan.places * self._held + sample

    def _await(self) -> None:
        """Wait until every block is decoded that is open in this tick."""
        while self._coming and self._coming[0][0] <= self._last:
            self._coming[0][1].result()
            self._coming.popleft()

    def _read(self, block: int, place: int) -> None:
        """Decode a block into its place."""
        start = self._start[block]
        if self._whole:
            rows = np.arange(start, min(start + self._array.block, self._array.shape[0]))
        else:
            rows = self._rows[self._first[block] : self._first[block + 1]]
        shape = (len(rows), *((self._copies,) if self._copies else ()), *self.image_shape)
        out = self._images[place, : len(rows) * (self._copies or 1)].reshape(shape)
        self._array.read(rows, copies=self._copies, out=out, workers=1)


class Plan:
    """How a window is spent: the width of the mix follows from the window alone, the threads share what is left.

    Attributes:
        width: blocks that are open. places: decoded blocks, open ones and those read ahead. threads: that read.
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
        self.places = self.width + min(AHEAD * self.threads, (left - self.threads * of_a_thread) // place)
