"""Blocks of steps read at once are the steps read one by one; their memory is reused, but never while it is in use."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stores import open_store
from trainer.data.memory import Buffers
from trainer.data.prefetch import Prefetch
from trainer.data.resident import Resident, Shuffled
from trainer.data.sampler import BLOCK
from trainer.data.streaming import Stream

CPU = torch.device("cpu")
SIZE = 7


def shuffled(block: int = 1) -> Shuffled:
    """Of 100 images, image i full of the value i."""

    def read(rows, copies, out):
        out[...] = rows[:, None, None, None]

    array = SimpleNamespace(shape=(100, 2, 2, 3), read=read)
    return Shuffled(Resident(array, np.arange(100), None, CPU), None, SIZE, 1, "x", block)


def read_ahead(images, start: int, end: int, threads: int) -> list[tuple[np.ndarray, torch.Tensor]]:
    """Batches as the loader reads them."""

    def prepare(step, steps):
        samples, pixels = images.read(step, steps)
        return list(zip(samples.reshape(steps, -1), pixels.chunk(steps), strict=True))

    made = Prefetch(prepare, start, end, images.block, threads)
    batches = list(made)
    made.close()
    return batches


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("start", [0, 3, BLOCK - 1])
def test_resident_batches_are_the_same_in_blocks_of_any_size(threads, start):
    single = shuffled()
    for block in (1, 5, 32):
        for step, (samples, pixels) in enumerate(read_ahead(shuffled(block), start, start + 150, threads), start):
            expected, images = single.read(step)
            np.testing.assert_array_equal(samples, expected)
            assert torch.equal(pixels, images)
            assert (pixels == torch.from_numpy(samples)[:, None, None, None]).all()
            assert (samples.dtype, pixels.dtype, pixels.shape) == (np.int64, torch.uint8, (SIZE, 2, 2, 3))


@pytest.mark.parametrize("start", [0, 5, 33])
def test_streamed_batches_are_the_same_in_blocks_of_any_size(tiny, start):
    array, rows = open_store(tiny).copies, np.arange(150)
    plain, blocks = Stream(array, rows, 5, SIZE, 1, 1 << 21), Stream(array, rows, 5, SIZE, 1, 1 << 21, block=6)
    for step, (samples, pixels) in enumerate(read_ahead(blocks, start, start + 90, 1), start):
        expected, images = plain.read(step)
        np.testing.assert_array_equal(samples, expected)
        assert torch.equal(pixels, images)
    plain.close()
    blocks.close()


def test_an_epoch_has_every_sample_once():
    images = shuffled(4)
    samples = np.concatenate([images.read(step, 4)[0] for step in range(0, 100, 4)])
    assert (np.bincount(samples) == 7).all()
    assert len(images) == 100


def test_a_subset_shows_its_images_alone_in_an_order_of_its_own():
    images, chosen = shuffled(), np.array([3, 50, 98])
    some = images.subset(chosen, "some")
    samples, pixels = some.read(0, 1)
    assert len(some) == 3
    assert (pixels == torch.from_numpy(chosen[samples])[:, None, None, None]).all()
    assert set(samples.tolist()) == {0, 1, 2}
    assert not np.array_equal(some.read(0)[0], images.subset(chosen, "others").read(0)[0])


def test_a_batch_stays_as_it_is_while_it_is_kept():
    kept = read_ahead(shuffled(5), 0, 200, 2)
    for step, (samples, pixels) in enumerate(kept):
        np.testing.assert_array_equal(samples, shuffled().read(step)[0])
        assert (pixels == torch.from_numpy(samples)[:, None, None, None]).all()


def test_memory_is_used_again_when_no_view_of_it_is_left():
    buffers = Buffers(100)
    whole = buffers.lend(100)
    part, array, address = whole[10:20].view(2, 5), whole[50:].numpy(), whole.data_ptr()
    del whole
    assert buffers.lend(5, 20).data_ptr() != address
    del part
    gc.collect()
    assert address not in [buffers.lend(100).data_ptr() for _ in range(3)]
    del array
    assert address in [piece.data_ptr() for piece in [buffers.lend(10) for _ in range(4)]]


def test_memory_ends_with_its_last_user():
    buffers = Buffers(100)
    lent, owner = buffers.lend(100), weakref.ref(buffers)
    lent.fill_(3)
    del buffers
    assert owner() is None
    assert (lent == 3).all()
