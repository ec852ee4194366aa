"""Batches of a shuffled order, several read at once and ahead: a small batch is gathered faster than it is handed over.

Threads read slabs, some batches one after the other in one piece of memory, and a batch is a view of its slab. The
first slab is one batch, each next one twice as large until `limit`, so the first batch does not wait for others. Which
sample comes when is the source's, whatever the slabs are: a run may start at any step, in the middle of a former slab.

Memory is used again when no batch of its slab is left, and not before: a batch may be kept as long as one likes.
Page-locked batches, which a GPU copies while others are made, are read one by one: theirs is the system's to free.
"""

from __future__ import annotations

import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

# Bytes of a slab, `threads` + 1 of which are read ahead: what is written more than once stays in the processor's cache.
LIMIT = 4 << 20


class Source(Protocol):
    """What slabs are read from: `trainer.data.sampler.Shuffled`, `trainer.data.streaming.Stream`.

    Attributes:
        size: samples of a batch. image_shape: (H, W, 3).
    """

    size: int
    image_shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def take(self, step: int, pin: bool = False) -> tuple[np.ndarray, Tensor]: ...

    def read(self, step: int, out: Tensor) -> np.ndarray: ...

    def close(self) -> None: ...


class _Slab(NamedTuple):
    """A slab in the making: `steps` batches, the first one that of `step`; their samples and pixels."""

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
        self._batch = source.size * int(np.prod(source.image_shape))  # bytes
        self.most = max(1, limit // self._batch)  # steps of a slab
        self._memory = Memory(self.most * self._batch)
        self._threads: ThreadPoolExecutor | None = None
        self._coming: deque[_Slab] = deque()
        self._next, self._steps = 0, 1  # where the next slab begins, and how long it is
        self._first, self._end = 0, 0  # steps of the slab that batches come from
        self._slab: tuple[np.ndarray, tuple[Tensor, ...]] | None = None  # its samples, and the pixels of each batch

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
        samples, batches = self._slab
        place = step - self._first
        return samples[place * self._size : (place + 1) * self._size], batches[place]

    def close(self) -> None:
        """End the threads; what they have not begun is dropped."""
        running = [slab.made for slab in self._coming if not slab.made.cancel()]
        self._source.close()
        while wait(running, timeout=0.05).not_done:  # it had hardly begun
            self._source.close()
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
        samples, pixels = slab.made.result()
        self._slab = samples, pixels.split(self._size)
        self._first, self._end = step, step + slab.steps

    def _await(self, step: int) -> _Slab:
        if not self._coming or self._coming[0].step != step:
            self._drop()
            self._next, self._steps = step, 1
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="slab")
        while len(self._coming) <= self._count:
            made = self._threads.submit(self._read, self._next, self._steps)
            self._coming.append(_Slab(self._next, self._steps, made))
            self._next, self._steps = self._next + self._steps, min(2 * self._steps, self.most)
        wait([self._coming[0].made])
        return self._coming.popleft()

    def _drop(self) -> None:
        """Forget what is read ahead."""
        wait([slab.made for slab in self._coming if not slab.made.cancel()])
        self._coming.clear()

    def _read(self, step: int, steps: int) -> tuple[np.ndarray, Tensor]:
        pixels = self._memory.lend()[: steps * self._batch].view(-1, *self._source.image_shape)
        return self._source.read(step, pixels), pixels


class Memory:
    """Pieces of memory, each lent again when no tensor is left that it was lent as: fresh pages cost as a gather does.

    Attributes:
        free: those that are not lent, uint8 [size].
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.free: list[np.ndarray] = []

    def lend(self) -> Tensor:
        """uint8 [size]"""
        try:
            piece = self.free.pop()
        except IndexError:
            piece = np.empty(self._size, np.uint8)
        lent = piece.data  # a memoryview that lives as long as the tensor's storage, which all its views share
        weakref.finalize(lent, self.free.append, piece).atexit = False
        return torch.frombuffer(lent, dtype=torch.uint8)
