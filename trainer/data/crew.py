"""Threads that work off jobs in the order they are given; who waits for a job does the next one, instead of nothing.

A processor each, the waiting thread's included: one thread more would only take turns with them. Jobs are handed over
by queues written in C; a pool's futures would cost as much as a tenth of a job, which decodes one chunk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue


class Crew:
    """Does `work(job)` for each job that is given.

    Args:
        threads: that work; one of them is the one that waits, if it `helps`.
    """

    def __init__(self, work: Callable[[int], None], threads: int, helps: bool, name: str) -> None:
        self._work, self._helps = work, helps
        self._todo: SimpleQueue[int | None] = SimpleQueue()  # None: a thread's end
        self._done: SimpleQueue[tuple[int | None, BaseException | None]] = SimpleQueue()  # None: everything's end
        self._results: dict[int, BaseException | None] = {}
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}_{i}", daemon=True) for i in range(threads - helps)
        ]
        for thread in self._threads:
            thread.start()

    def give(self, job: int) -> None:
        self._todo.put(job)

    def wait(self, job: int) -> None:
        """Return when a job is done, and forget it.

        Raises:
            CancelledError: the crew was stopped.
            BaseException: what the work raised.
        """
        while not self._is_done(job):
            if self._helps:
                self._help()
            self._collect(*self._done.get())
        error = self._results.pop(job)
        if error is not None:
            raise error

    def is_done(self, job: int) -> bool:
        """Whether `wait` would return at once; False if it would raise what the work raised.

        Raises:
            CancelledError: the crew was stopped.
        """
        return self._is_done(job) and self._results[job] is None

    def stop(self) -> None:
        """Drop what is not begun; any thread may call it, as often as it likes. A `wait` ends."""
        while self._take() is not None:
            pass
        for _ in self._threads:
            self._todo.put(None)
        self._done.put((None, None))

    def join(self) -> None:
        """Stop, and wait until the threads have ended."""
        self.stop()
        for thread in self._threads:
            thread.join()

    def _is_done(self, job: int) -> bool:
        while job not in self._results and not self._done.empty():
            self._collect(*self._done.get())
        return job in self._results

    def _collect(self, job: int | None, error: BaseException | None) -> None:
        if job is None:
            raise CancelledError
        self._results[job] = error

    def _help(self) -> None:
        job = self._take()
        error = None if job is None else self._do(job)
        if error is not None and not isinstance(error, Exception):  # Ctrl-C
            raise error

    def _take(self) -> int | None:
        """The next job, if there is one."""
        try:
            job = self._todo.get_nowait()
        except Empty:
            return None
        if job is None:
            self._todo.put(None)  # meant for a thread
        return job

    def _do(self, job: int) -> BaseException | None:
        """Work, and return what that raised."""
        failed: BaseException | None = None
        try:
            self._work(job)
        except BaseException as error:  # noqa: BLE001 - raised where the job is waited for; no thread ends by it
            failed = error
        self._done.put((job, failed))
        return failed

    def _run(self) -> None:
        for job in iter(self._todo.get, None):
            self._do(job)
