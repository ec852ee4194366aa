"""Work done ahead of time in background threads. The loader has no other threads than those of `ReadAhead`.

A `ReadAhead` runs jobs in threads and returns their results in the order of submission. It is used twice: `Prefetch`
prepares blocks of consecutive steps with it, and a stream decodes its chunks. Both therefore end in the same way
(`stop` from any thread or signal handler, `close` to wait for the threads) and report errors in the same way (raised by
the call that asks for the failed result).

Jobs are passed through queues written in C: the futures of `concurrent.futures` cost a tenth of the time that it takes
to decode a chunk. A block has several steps because a small batch is gathered faster than it is handed over.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
PATIENCE = 10.0  # seconds to wait for a thread when the interpreter exits


class Stopped(Exception):
    """Raised by a call that waits for a result, or asks for one that was never made, after `stop`."""


class ReadAhead(Generic[T]):
    """Runs jobs in threads; `take` returns their results in the order of submission.

    The threads end with `stop` or `close`, and when nobody holds this object any more.

    Args:
        threads: number of threads.
        name: prefix of their names.
        helps: whether a thread that waits in `take` runs jobs meanwhile. Where the work is the processor's (decoding),
            this is as good as one thread more and spares the switches between them; where it is waiting (network,
            disk), leave it off.
    """

    def __init__(self, threads: int, name: str, helps: bool = False) -> None:
        self._jobs: SimpleQueue[_Job[T] | None] = SimpleQueue()  # None ends a thread
        self._submitted: deque[_Job[T]] = deque()
        self._helps, self._stopped = helps, False
        self._threads = [
            threading.Thread(target=_work, args=(self._jobs,), name=f"{name}_{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        weakref.finalize(self, _end, self._jobs, self._submitted, self._threads)

    def __len__(self) -> int:
        """Number of jobs whose results have not been taken."""
        return len(self._submitted)

    def submit(self, work: Callable[[], T]) -> None:
        """Run `work()` after the jobs submitted before."""
        job = _Job(work)
        self._submitted.append(job)
        if self._stopped:
            job.done.put(None)
        else:
            self._jobs.put(job)

    def take(self) -> T:
        """Return the result of the earliest job that was not taken yet, waiting for it if necessary.

        Raises:
            IndexError: all results have been taken.
            Stopped: `stop` was called before the job was done.
            BaseException: whatever the job raised.
        """
        job = self._submitted[0]
        while self._helps and job.done.empty() and self._help():
            pass
        job.done.get()
        self._submitted.popleft()
        if job.error is not None:
            raise job.error
        return job.result

    def ready(self) -> bool:
        """Whether `take` would return a result at once."""
        return bool(self._submitted) and not self._submitted[0].done.empty() and self._submitted[0].error is None

    def stop(self) -> None:
        """Drop the jobs that have not begun and wake whoever waits in `take`. Safe in a signal handler."""
        self._stopped = True
        _end(self._jobs, self._submitted, self._threads)

    def close(self) -> None:
        """Stop, and wait until the threads have finished their current jobs and ended."""
        self.stop()
        for thread in self._threads:
            thread.join()

    def _help(self) -> bool:
        """Run the next job in the calling thread; False if there is none."""
        try:
            job = self._jobs.get_nowait()
        except Empty:
            return False
        if job is None:
            self._jobs.put(None)  # meant for a thread
            return False
        job.run()
        if job.error is not None and not isinstance(job.error, Exception):  # Ctrl-C is the caller's, not the job's
            raise job.error
        return True


class _Job(Generic[T]):
    """A job and its outcome; `done` holds an item when there is one."""

    result: T

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work
        self.error: BaseException | None = Stopped()  # until it has run
        self.done: SimpleQueue[None] = SimpleQueue()

    def run(self) -> None:
        assert self._work is not None, "a job runs once"
        work, self._work = self._work, None  # a finished job must not keep the work's owner alive
        try:
            self.result, self.error = work(), None
        except BaseException as error:  # noqa: BLE001 - raised by `take`; it must not end the thread
            self.error = error
        self.done.put(None)


def _work(jobs: SimpleQueue[_Job[Any] | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        job = None  # while it waits, a thread must not keep the work's owner alive


def _end(jobs: SimpleQueue[_Job[Any] | None], submitted: deque[_Job[Any]], threads: list[threading.Thread]) -> None:
    """Empty the queue, let the threads end and wake whoever waits."""
    try:
        while True:
            jobs.get_nowait()
    except Empty:
        for _ in threads:
            jobs.put(None)
    for job in tuple(submitted):
        job.done.put(None)
    if not threading.main_thread().is_alive():  # at exit: the interpreter must not end under a thread in C++ code
        for thread in threads:
            thread.join(PATIENCE)


class Prefetch(Generic[T]):
    """Iterator over the results of steps `start` … `end` − 1, prepared ahead in blocks of consecutive steps.

    The first block is one step, each later one twice as long up to `block` steps, so the first result does not wait
    for others. `threads` + 1 blocks are prepared ahead.

    Args:
        prepare: (step, steps) → the results of `steps` steps from `step` on; called from several threads.
        start, end: the range of steps.
        block: largest number of steps prepared by one call.
        threads: number of threads.

    Attributes:
        step: the step whose result comes next.
        waited: seconds that `next` has waited in total.
    """

    def __init__(
        self, prepare: Callable[[int, int], list[T]], start: int, end: int, block: int = 1, threads: int = 1
    ) -> None:
        self.step, self.waited = start, 0.0
        self._prepare, self._end, self._block, self._limit = prepare, end, block, threads + 1
        self._ahead: ReadAhead[list[T | _Failure]] = ReadAhead(threads, "loader")
        self._made: deque[T | _Failure] = deque()
        self._from, self._steps = start, 1  # the block that is submitted next
        self._submit()

    def __iter__(self) -> Prefetch[T]:
        return self

    def __next__(self) -> T:
        """Return the next step's result, waiting for it if necessary.

        Raises:
            Stopped: `stop` was called and the result is not ready.
            BaseException: what `prepare` raised for this step; results of the steps before are not affected.
        """
        if self.step >= self._end:
            raise StopIteration
        if not self._made:
            began = time.perf_counter()
            try:
                self._made.extend(self._ahead.take())
            finally:
                self.waited += time.perf_counter() - began
            self._submit()
        result = self._made[0]
        if isinstance(result, _Failure):
            raise result.error
        self._made.popleft()
        self.step += 1
        return result

    def stop(self) -> None:
        """Wake a `next` that waits; from any thread or signal handler."""
        self._ahead.stop()

    def close(self) -> None:
        """End the threads."""
        self._ahead.close()

    def _submit(self) -> None:
        """Keep `threads` + 1 blocks in preparation."""
        while len(self._ahead) < self._limit and self._from < self._end:
            steps = min(self._steps, self._end - self._from)
            self._ahead.submit(partial(self._prepare_block, self._from, steps))
            self._from, self._steps = self._from + steps, min(2 * self._steps, self._block)

    def _prepare_block(self, step: int, steps: int) -> list[T | _Failure]:
        """The results of a block; if that fails, those of the steps before the one that fails, and its error."""
        made: list[T | _Failure] = []
        try:
            made += self._prepare(step, steps)
        except Exception as error:  # noqa: BLE001 - raised at its step
            if steps == 1:
                return [_Failure(error)]
            for single in range(step, step + steps):
                made += self._prepare_block(single, 1)
                if isinstance(made[-1], _Failure):
                    break
        return made


class _Failure:
    def __init__(self, error: Exception) -> None:
        self.error = error
