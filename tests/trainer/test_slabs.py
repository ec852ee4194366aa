"""Slabs change when batches are read, never what they are; their memory is bounded, and reused when nobody looks."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stores import open_store
from stores.errors import IntegrityError
from trainer.data import slabs
from trainer.data.resident import Pool
from trainer.data.sampler import BLOCK, Shuffled
from trainer.data.slabs import Memory, Slabs
from trainer.data.streaming import Stream

CPU = torch.device("cpu")
SIZE, IMAGE = 7, 2 * 2 * 3
BATCH = SIZE * IMAGE  # bytes


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("slab", "stream"))]


@pytest.fixture
def closing():
    """Slabs that are closed with the test."""
    made = []

    def add(one: Slabs) -> Slabs:
        made.append(one)
        return one

    yield add
    for each in made:
        each.close()


def shuffled(seed: int = 1) -> Shuffled:
    """Of 100 images, image i full of the value i."""

    def read(rows, copies, out):
        out[...] = rows[:, None, None, None]

    return Shuffled(Pool(SimpleNamespace(shape=(100, 2, 2, 3), read=read), np.arange(100), None, CPU), SIZE, seed, "x")


class Recorded:
    """A source that writes a batch's step into its pixels, and down what it was asked for."""

    size, image_shape = SIZE, (2, 2, 3)

    def __init__(self, broken: int = 1 << 62) -> None:
        self.broken, self.asked, self.closed = broken, [], False

    def __len__(self) -> int:
        return 100

    def take(self, step, pin=False):
        self.asked.append((step, pin))
        return np.full(SIZE, step), torch.full((SIZE, 2, 2, 3), step, dtype=torch.uint8)

    def read(self, step, out):
        steps = len(out) // SIZE
        self.asked.append((step, steps))
        out.view(steps, -1)[:] = torch.arange(step, step + steps, dtype=torch.uint8)[:, None]
        if step <= self.broken < step + steps:
            raise IntegrityError(f"step {self.broken}")
        return np.repeat(np.arange(step, step + steps), SIZE)

    def close(self):
        self.closed = True


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("start", [0, 3, 6, BLOCK - 1])
def test_batches_are_the_sources_wherever_a_slab_begins(closing, threads, start):
    """Slabs of 1, 2, 4, 5, 5 … batches, read from the beginning, from the middle of a former slab, after jumps."""
    source, made = shuffled(), closing(Slabs(shuffled(), threads, 5 * BATCH + 1))
    assert made.most == 5
    assert len(made) == 100
    for step in (*range(start, start + 80), 2, 3, start, 41, 40):
        for found, expected in zip(made.take(step), source.take(step), strict=True):
            np.testing.assert_array_equal(found, expected)
        samples, pixels = made.take(step)
        assert (samples.dtype, samples.shape) == (np.int64, (SIZE,))
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (SIZE, 2, 2, 3))


@pytest.mark.parametrize("start", [0, 5, 33])
def test_a_stream_in_slabs_is_the_stream(tiny, closing, start):
    array, rows = open_store(tiny).copies, np.arange(150)
    plain, made = Stream(array, rows, 5, SIZE, 1, 1 << 21), closing(Slabs(Stream(array, rows, 5, SIZE, 1, 1 << 21)))
    for step in (*range(start, start + 90), 4):
        for found, expected in zip(made.take(step), plain.take(step), strict=True):
            np.testing.assert_array_equal(found, expected)
    plain.close()


def test_the_first_slab_is_one_batch_and_none_is_larger_than_the_limit(closing):
    source = Recorded()
    made = closing(Slabs(source, 1, 6 * BATCH))
    for step in range(30):
        made.take(step)
    assert source.asked[:5] == [(0, 1), (1, 2), (3, 4), (7, 6), (13, 6)]
    single = closing(Slabs(Recorded(), 1, BATCH - 1))
    assert single.most == 1, "a batch that is larger than the limit is a slab of its own"


def test_memory_is_bounded_and_a_kept_batch_stays_as_it_is(closing):
    for threads in (1, 2):
        made = closing(Slabs(Recorded(), threads, 4 * BATCH))
        pieces = set()
        for step in range(200):
            _, pixels = made.take(step)
            pieces.add(pixels.untyped_storage().data_ptr())
            assert (pixels == step).all()
        assert len(pieces) <= threads + 3, "read ahead, the current one, and the one that `pixels` still held"
    kept = [made.take(step)[1] for step in range(100)]
    assert all((pixels == step).all() for step, pixels in enumerate(kept))


def test_a_piece_of_memory_is_lent_again_when_no_view_is_left():
    memory = Memory(100)
    whole = memory.lend()
    part, array = whole[10:20].view(2, 5), whole[50:].numpy()
    address = whole.data_ptr()
    del whole
    assert memory.free == []
    del part
    assert memory.free == []
    del array
    assert len(memory.free) == 1
    again = memory.lend()
    assert again.data_ptr() == address
    assert memory.lend().data_ptr() != address


def test_an_error_comes_at_its_step_and_every_time(closing):
    made = closing(Slabs(Recorded(broken=10), 1, 6 * BATCH))
    for step in range(10):
        assert (made.take(step)[1] == step).all()
    for _ in range(3):
        with pytest.raises(IntegrityError, match="step 10"):
            made.take(10)
    assert (made.take(11)[1] == 11).all()


def test_page_locked_batches_are_the_sources_own():
    source = Recorded()
    made = Slabs(source)
    made.take(5, pin=True)
    made.take(6, pin=True)
    assert source.asked == [(5, True), (6, True)]
    made.close()
    assert source.closed


def test_closing_does_not_wait_for_a_slab(tiny, monkeypatch):
    """A slab of many blocks, each of them slow."""
    array = open_store(tiny).copies
    read = array.read

    def slow(*args, **options):
        time.sleep(0.05)
        return read(*args, **options)

    monkeypatch.setattr(array, "read", slow)
    made = Slabs(Stream(array, np.arange(150), 5, SIZE, 1, 1 << 21), 1, slabs.LIMIT)
    for step in range(1 + 2 + 4 + 8 + 16):
        made.take(step)
    began = time.perf_counter()
    made.close()
    assert time.perf_counter() - began < 1
    made.take(3)  # a closed one may be asked again
    made.close()
