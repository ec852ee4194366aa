"""Running tasks: in threads where NumPy and zstd release the GIL, in processes otherwise.

Both are a `concurrent.futures.Executor`. Only a few tasks per worker are submitted at a time, so that memory does not
grow with the number of images.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from typing import Any, TypeVar

from pipeline.recipes import Recipe
from stores.errors import Interrupted, RealMixError
from stores.system.threads import thread_pool

T = TypeVar("T")
AHEAD = 4  # tasks submitted per worker, so that no worker waits for the next one
POLL_S = 2.0
STOP_S = 0.5  # until a worker is told to end again


@dataclass(frozen=True)
class Pool:
    """An executor and how to use it.

    Attributes:
        executor: runs the tasks.
        ahead: maximum number of submitted, unfinished tasks.
        check: called when nothing has finished for a while; raises if nothing will finish any more.
        wrap: turns a task into the callable that is submitted.
        cancels: whether `run` cancels unfinished tasks when it ends early; otherwise the maker of the pool does.
    """

    executor: Executor
    ahead: int
    check: Callable[[], None] = lambda: None
    wrap: Callable[[Callable[[Any], Any]], Callable[[Any], Any]] = lambda task: task
    cancels: bool = True

    def run(self, task: Callable[[int], T], indices: Iterable[int], finished: Callable[[int, T], None]) -> None:
        """Run a task for each index; the first failure is raised, and tasks that have not begun are cancelled.

        Args:
            task: called with an index, in a worker.
            indices: the indices.
            finished: called in this thread with (index, result), in the order in which tasks finish.
        """
        left, running, wrapped = iter(indices), dict[Future[T], int](), self.wrap(task)
        try:
            while True:
                for index in islice(left, self.ahead - len(running)):
                    running[self.executor.submit(wrapped, index)] = index
                if not running:
                    return
                done, _ = wait(running, POLL_S, FIRST_COMPLETED)
                if not done:
                    self.check()
                for future in done:
                    finished(running.pop(future), future.result())
        finally:
            if self.cancels:
                for future in running:
                    future.cancel()


@contextmanager
def threads(workers: int) -> Iterator[Pool]:
    """Threads of this process."""
    with thread_pool(workers) as executor:
        yield Pool(executor, AHEAD * workers)


@contextmanager
def processes(workers: int) -> Iterator[Pool]:
    """Processes of this machine; spawned, because a fork would inherit locks of the threads of zarr and torch.

    Raises:
        RealMixError: one of them died.
    """
    start_tracker()
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), follow_parent) as executor:
            try:
                # before Python 3.12 the pool's thread fails if a worker dies while a future is cancelled
                yield Pool(executor, AHEAD * workers, wrap=_Stoppable, cancels=False)
            except Interrupted:
                _stop_workers()
                raise
            except BaseException:
                executor.shutdown(cancel_futures=True)
                raise
    except BrokenProcessPool:
        raise RealMixError(
            "a worker process died",
            "the system may have killed it for lack of memory",
            "run the same command again: it continues; fewer --workers need less memory. "
            'A script of your own must build under `if __name__ == "__main__":`, because the workers import it',
        ) from None


@contextmanager
def local(recipe: Recipe, workers: int) -> Iterator[Pool]:
    """The pool that makes a recipe's copies fastest on this machine."""
    with threads(workers) if recipe.vectorised else processes(workers) as pool:
        yield pool


@dataclass(frozen=True)
class _Stoppable:
    """A task that SIGTERM interrupts, so that temporary files are removed; between tasks SIGTERM ends the worker."""

    task: Callable[[Any], Any]

    def __call__(self, index: Any) -> Any:
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            return self.task(index)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(*_: object) -> None:
    raise Interrupted("interrupted")


def _stop_workers() -> None:
    """End the workers of the pool at once, not after their submitted tasks."""
    while workers := active_children():
        for worker in workers:
            worker.terminate()
        workers[0].join(STOP_S)


def start_tracker() -> None:
    """Start Python's resource tracker with SIGHUP blocked, so that it survives a closing terminal.

    It ignores Ctrl-C and SIGTERM, but on SIGHUP it would remove semaphores that are still in use.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # a child begins with it blocked
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def follow_parent() -> None:
    """Ignore Ctrl-C and SIGHUP, which the parent handles, and end when the parent dies, also by SIGKILL."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
