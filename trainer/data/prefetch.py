"""Work of the next steps, done in one background thread while the current step computes.

At most `depth` steps lie ready. An exception of the thread is raised where its step is asked for; leaving the `with`
block ends the thread, whatever ended the block. The time that `take` waited is what a faster feed could save.

The two threads hand over by queues written in C: a pool's futures would cost a small batch more than its pixels do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """Nobody waits for a step any more."""


class Prefetch(Generic[T]):
    """Results of `prepare(step)` for each of `steps`, in their order.

    Attributes:
        waited: seconds that `take` has waited in all.
    """

    def __init__(self, prepare: Callable[[int], T], steps: Iterable[int], depth: int = 2) -> None:
        self._prepare, self._steps = prepare, steps
        self._ready: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()  # as many as results may be made
        self._ended = False
        self.waited = 0.0
        for _ in range(depth):
            self._room.put(None)
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def take(self) -> T:
        """The next step's result; waits for it if it is not ready.

        Raises:
            IndexError: there is no step left.
            Stopped: `stop` was called, and no result lies ready.
        """
        started = time.perf_counter()
        result, error = self._ready.get()
        self.waited += time.perf_counter() - started
        self._room.put(None)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def stop(self) -> None:
        """End a `take` that waits; from any thread, and from a signal's handler."""
        self._ready.put((None, Stopped()))

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._room.put(None)
        self._thread.join()

    def _run(self) -> None:
        steps = iter(self._steps)
        while True:
            self._room.get()
            if self._ended:
                return
            try:
                self._ready.put((self._prepare(next(steps)), None))
            except StopIteration:
                self._ready.put((None, IndexError("no step is left")))
            except BaseException as error:  # noqa: BLE001 - raised where the step is asked for
                self._ready.put((None, error))
