"""Work of the next steps, done in one background thread while the current step computes.

At most `depth` steps lie ready. An exception of the thread is raised where its step is asked for; leaving the `with`
block ends the thread, whatever ended the block. The time that `take` waited is what a faster feed could save.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Results of `prepare(step)` for each of `steps`, in their order.

    Attributes:
        waited: seconds that `take` has waited in all.
    """

    def __init__(self, prepare: Callable[[int], T], steps: Iterable[int], depth: int = 2) -> None:
        self._prepare, self._steps = prepare, iter(steps)
        self._ready: deque[Future[T]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self.waited = 0.0
        for _ in range(depth):
            self._submit()

    def take(self) -> T:
        """The next step's result; waits for it if it is not ready."""
        started = time.perf_counter()
        result = self._ready.popleft().result()
        self.waited += time.perf_counter() - started
        self._submit()
        return result

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _submit(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._ready.append(self._thread.submit(self._prepare, step))
