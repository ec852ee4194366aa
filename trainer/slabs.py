"""Batches of a shuffled order, several read at once and ahead: a small batch is gathered faster than it is handed over.

Threads read slabs, some batches one after the other in one piece of memory, and a batch is a view of its slab. The
first slab is one batch, each next one twice as large until `limit`, so the first batch does not wait for others. Which
sample comes when is the source's, whatever the slabs are: a run may start at any step, in the middle of what was a slab.

A slab's memory is written once, so a batch may be kept as long as one likes. Page-locked batches, which a GPU copies
while others are made, are read one by one: what they wait for is not the hand-over.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

LIMIT = 8 << 20  # bytes of a slab: `threads` + 1 of them, and the one that batches come from, are in memory


class Source(Protocol):
    """What slabs are read from: `trainer.shuffled.Shuffled`, `trainer.stream.Stream`.

    Attributes:
        size: samples of a batch. image_shape: (H, W, 3).
    """

    size: int
    image_shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def take(self, step: int, pin: bool = False, steps: int = 1) -> tuple[np.ndarray, Tensor]:
        """The samples of `steps` steps, int64 [steps · size], and their pixels, uint8 [steps · size, H, W, 3]."""

    def close(self) -> None:
        """End the threads, and soon what another thread takes."""


class _Slab(NamedTuple):
    """A slab in the making: `steps` batches, the first one that of `step`."""

    step: int
    steps: int
    made: Future[tuple[np.ndarray, Tensor]]


class Slabs:
    """The batches of a source in the computer's memory; `take` and `close` as the source has them.

    Args:
        threads: that read slabs at a time; 1 for a source that is read in its order.
        limit: bytes of a slab; a batch that is larger is a slab of its own.
    """

    def __init__(self, source: Source, threads: int = 1, limit: int = LIMIT) -> None:
        self._source, self._count, self._size = source, threads, source.size
        self.most = max(1, limit // (source.size * int(np.prod(source.image_shape))))  # steps of a slab
        self._threads: ThreadPoolExecutor | None = None
        self._coming: deque[_Slab] = deque()
        self._next, self._steps = 0, 1  # where the next slab begins, and how long it is
        self._first, self._end = 0, 0  # steps of the slab that batches come from
        self._slab: tuple[np.ndarray, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._source)

    def take(self, step: int, pin: bool = False) -> tuple[np.ndarray, Tensor]:
        """A step's samples, int64 [size], and their pixels, uint8 [size, H, W, 3], page-locked if `pin`.

        One step after the other is what is read ahead; any other one starts anew.

        Raises:
            IntegrityError: as the source, at the step that it would.
        """
        if pin:
            return self._source.take(step, pin)
        if not self._first <= step < self._end:
            self._enter(step)
        assert self._slab is not None
        samples, pixels = self._slab
        part = slice((step - self._first) * self._size, (step - self._first + 1) * self._size)
        return samples[part], pixels[part]

    def close(self) -> None:
        """End the threads; what they have not begun is dropped."""
        for slab in self._coming:
            slab.made.cancel()
        self._source.close()
        if self._threads is not None:
            self._threads.shutdown(wait=True)
        self._threads, self._slab, self._first, self._end = None, None, 0, 0
        self._coming.clear()

    def _enter(self, step: int) -> None:
        """Go to the slab that begins with a step."""
        self._slab, self._first, self._end = None, 0, 0  # none, should an error end this
        slab = self._await(step)
        if slab.steps > 1 and slab.made.exception() is not None:
            self._drop()  # the batches before the one that failed are good: one by one
            slab = self._await(step)
        self._slab = slab.made.result()
        self._first, self._end = step, step + slab.steps

    def _await(self, step: int) -> _Slab:
        if not self._coming or self._coming[0].step != step:
            self._drop()
            self._next, self._steps = step, 1
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="slab")
        while len(self._coming) <= self._count:
            made = self._threads.submit(self._source.take, self._next, False, self._steps)
            self._coming.append(_Slab(self._next, self._steps, made))
            self._next, self._steps = self._next + self._steps, min(2 * self._steps, self.most)
        wait([self._coming[0].made])
        return self._coming.popleft()

    def _drop(self) -> None:
        """Forget what is read ahead."""
        wait([slab.made for slab in self._coming if not slab.made.cancel()])
        self._coming.clear()
