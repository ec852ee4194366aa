"""Whole files of embeddings, one after another: pictures are prepared ahead, files are written behind the network.

A file is a function of its rows, the network and the batch: its pictures are divided into the same batches whatever was
computed before. So a job that was killed continues to the same bytes, on the same machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from math import prod

import numpy as np
import torch

from pipeline.embedding.ahead import ahead, pool
from pipeline.embedding.frozen import Frozen
from pipeline.embedding.pictures import Pictures
from stores.embeddings import finite
from stores.errors import RealMixError
from stores.format.layout import ArrayLayout
from stores.format.shards import encode
from stores.system.threads import thread_pool

TASK_BYTES = 16 << 20  # raw bytes of the pictures that a worker prepares at a time
BEHIND = 2  # files that wait to be written

Write = Callable[[int, bytes], None]  # (number of the file, its bytes)
Made = Callable[[int], None]  # (pictures embedded so far)


def embed_files(
    frozen: Frozen,
    array: ArrayLayout,
    pictures: Pictures,
    size: tuple[int, int],
    indices: Sequence[int],
    write: Write,
    made: Made = lambda _: None,
) -> None:
    """Embed files of an array and write each when it is whole.

    Args:
        frozen: the network.
        array: of embeddings.
        pictures: what is embedded.
        size: (H, W) of the pictures.
        indices: numbers of the files.
        write: called with a file's number and bytes, in a thread.
        made: called with the number of pictures embedded so far.

    Raises:
        RealMixError: an embedding is not finite in float16.
    """

    def finish(index: int, embeddings: torch.Tensor) -> None:
        write(index, encoded(array, index, embeddings))

    blocks = {index: list(row_blocks(array, pictures.copies, size, index, frozen.batch)) for index in indices}
    every = [rows for index in indices for rows in blocks[index]]
    behind, done = deque[Future[None]](), 0
    with pool(pictures.in_processes) as workers, thread_pool(1) as writer:
        most = max(2, workers.ahead // 2)
        prepared = ahead(workers, pictures, every, most)
        for index in indices:
            parts = []
            for rows in blocks[index]:
                parts.append(frozen(next(prepared)))
                done += len(rows) * pictures.copies
                made(done)
            behind.append(writer.submit(finish, index, torch.cat(parts)))
            while len(behind) > BEHIND or (behind and behind[0].done()):
                behind.popleft().result()
        while behind:
            behind.popleft().result()


def row_blocks(array: ArrayLayout, copies: int, size: tuple[int, int], index: int, batch: int) -> Iterator[range]:
    """The rows of a file, in blocks whose pictures are prepared together: several whole batches."""
    most = max(1, TASK_BYTES // prod((*size, 3)) // batch)
    rows = max(1, most * batch // copies)
    start, stop = array.rows(index)
    for first in range(start, stop, rows):
        yield range(first, min(first + rows, stop))


def encoded(array: ArrayLayout, index: int, embeddings: torch.Tensor) -> bytes:
    """The bytes of a file.

    Args:
        array: of embeddings.
        index: number of the file.
        embeddings: float16 [pictures, D], of all pictures of its rows, on any device.

    Raises:
        RealMixError: a number is not finite.
    """
    start, stop = array.rows(index)
    numbers: np.ndarray = embeddings.cpu().numpy().reshape(stop - start, *array.shape[1:])
    if not finite(numbers):
        raise RealMixError(
            f"an embedding of rows {start}–{stop - 1} of {array.name} is not finite",
            "the network gave a number that is no float16",
            "its weights may be damaged, or its features larger than 65,504",
        )
    return encode(array, index, numbers)
