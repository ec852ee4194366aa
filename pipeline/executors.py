"""Where tasks run: threads for what NumPy and zstd do without the interpreter lock, processes for the rest.

Everything is written against `concurrent.futures.Executor`, so a task may not know which it is.
"""

from __future__ import annotations

from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from pipeline.recipes import Recipe


def executor(recipe: Recipe, workers: int) -> Executor:
    """An executor for making a recipe's copies; use it as a context manager.

    Processes are spawned, never forked: zarr and torch start threads, and a forked child inherits their locks.
    """
    if recipe.vectorised:
        return ThreadPoolExecutor(workers, thread_name_prefix="copies")
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
