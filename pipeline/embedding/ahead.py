"""Preparing pictures ahead of the network that embeds them, in order, in threads or processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from pipeline.building.executors import Pool, processes, threads
from stores.system import process

T = TypeVar("T")
A = TypeVar("A")
THREADS = 4  # on the CPU they share its cores with the network, which needs little from them


@contextmanager
def pool(in_processes: bool) -> Iterator[Pool]:
    """The workers that prepare pictures."""
    cores = process.cores()
    with processes(cores) if in_processes else threads(min(THREADS, cores)) as made:
        yield made


def ahead(workers: Pool, task: Callable[[A], T], arguments: Iterable[A], most: int) -> Generator[T, None, None]:
    """Results of a task for each argument, in order; up to `most` are being computed or wait.

    Closing the iterator cancels what has not begun.
    """
    left, running = iter(arguments), deque[Future[T]]()
    wrapped = workers.wrap(task)
    try:
        while True:
            running.extend(workers.executor.submit(wrapped, one) for one in islice(left, most - len(running)))
            if not running:
                return
            yield running.popleft().result()
    finally:
        if workers.cancels:
            for future in running:
                future.cancel()
