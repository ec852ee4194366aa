"""Where tasks run: threads for what NumPy and zstd do without the interpreter lock, processes for the rest.

Everything is written against `concurrent.futures.Executor`, so a task may not know which it is. Only a few tasks a
worker are handed out at a time: ten million images need no more memory than ten thousand.
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
AHEAD = 4  # tasks handed out for each worker: enough that none waits for the one who hands them out
POLL_S = 2.0
STOP_S = 0.5  # until a worker that was told to end is told again


@dataclass(frozen=True)
class Pool:
    """An executor and how it is used.

    Attributes:
        ahead: tasks handed out and not finished, at most.
        check: called when nothing has finished for a while; raises if nothing can any more.
        wrap: makes of a task what the executor is given.
        cancels: tasks that are not finished are cancelled when `run` ends early; if not, whoever made the pool does it.
    """

    executor: Executor
    ahead: int
    check: Callable[[], None] = lambda: None
    wrap: Callable[[Callable[[int], Any]], Callable[[int], Any]] = lambda task: task
    cancels: bool = True

    def run(self, task: Callable[[int], T], indices: Iterable[int], finished: Callable[[int, T], None]) -> None:
        """Run `task(index)` for each index; `finished(index, result)` is called here, in the order they finish.

        The first failure is raised, and what has not begun by then is cancelled.
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
    """Processes of this machine, spawned, never forked: zarr and torch start threads, whose locks a fork inherits.

    Raises:
        RealMixError: one of them died.
    """
    start_tracker()
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), follow_parent) as executor:
            try:
                # before Python 3.12 the pool's own thread fails when a worker's death meets a future that was cancelled
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
            "run the same command again: it continues; fewer --workers need less memory",
        ) from None


@contextmanager
def local(recipe: Recipe, workers: int) -> Iterator[Pool]:
    """What makes a recipe's copies fastest on this machine."""
    with threads(workers) if recipe.vectorised else processes(workers) as pool:
        yield pool


@dataclass(frozen=True)
class _Stoppable:
    """A task that SIGTERM interrupts, so that it leaves nothing half-written; between two tasks it ends the worker."""

    task: Callable[[int], Any]

    def __call__(self, index: int) -> Any:
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            return self.task(index)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(*_: object) -> None:
    raise Interrupted("interrupted")


def _stop_workers() -> None:
    """End the pool's workers now, not after the tasks that they have been given."""
    while workers := active_children():
        for worker in workers:
            worker.terminate()
        workers[0].join(STOP_S)


def start_tracker() -> None:
    """Start the process in which Python notes semaphores and shared memory, so that it outlives a terminal.

    It heeds neither Ctrl-C nor SIGTERM, but the SIGHUP of a terminal that closes: what it then removes is still in use.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # a child begins with it blocked
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def follow_parent() -> None:
    """In a worker: Ctrl-C and a closed terminal are the parent's business, and its death, even by kill -9, is ours."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
