"""The stream: the store's pixels in an order that is a function of (seed, window), bounded memory, threads that end."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stores import open_store
from stores.errors import IntegrityError, Interrupted, UsageError
from stores.format.layout import ArrayLayout
from trainer import api
from trainer.data import streaming
from trainer.data.prefetch import Stopped
from trainer.data.streaming import Budget, Stream
from trainer.loop import loop
from trainer.runs import checkpoint, weights

BLOCK = 64 * 5 * 12 * 12 * 3  # a chunk of the tiny store
WINDOW = 8 * BLOCK


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("stream", "loader"))]


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    assert ours() == []


@pytest.fixture
def opened():
    """Streams that end with the test."""
    made = []

    def make(array, rows, copies=5, size=7, seed=1, window=WINDOW) -> Stream:
        made.append(Stream(array, rows, copies, size, seed, window))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def split(tiny):
    return open_store(tiny.with_name("tiny_20"))


@pytest.mark.parametrize("copies", [5, 2, None])
@pytest.mark.parametrize("rows", ["most", "unlabeled", "few"])
def test_pixels_are_the_stores(split, opened, copies, rows):
    """Whole blocks in place, blocks with gaps, fewer copies than stored, and images without any."""
    rows = {
        "most": np.delete(np.arange(150), [0, 80]),
        "unlabeled": np.sort(split.unlabeled),
        "few": np.array([0, 3, 70, 71, 149]),
    }[rows]
    array = split.dataset.copies if copies else split.dataset.train_images
    made = opened(array, rows, copies, window=1 << 21)
    everything, seen = array.read(rows, copies=copies).reshape(-1, 12, 12, 3), []
    for step in range(2 * len(made) // 7 + 1):
        samples, images = made.read(step)
        np.testing.assert_array_equal(images, everything[samples])
        seen += samples.tolist()
    assert set(seen) == set(range(len(made)))
    assert images.dtype == torch.uint8


@pytest.mark.parametrize("start", [0, 1, 5, 40, 333])
def test_a_stream_may_start_at_any_step_and_jump(split, opened, start):
    rows = np.sort(split.unlabeled)
    whole = opened(split.dataset.copies, rows)
    orders = [whole.read(step)[0] for step in range(335)]
    fresh = opened(split.dataset.copies, rows)
    for step in (start, start + 1, 2, start):
        np.testing.assert_array_equal(fresh.read(step)[0], orders[step])
    assert len({tuple(order) for order in orders}) == len(orders)


def test_the_order_depends_on_seed_and_window_alone(split, opened, monkeypatch):
    rows = np.sort(split.unlabeled)
    array = split.dataset.copies

    def orders(**options):
        made = opened(array, rows, **options)
        return [made.read(step)[0].tolist() for step in range(60)]

    first = orders()
    monkeypatch.setattr(streaming, "parallel", lambda place: 1)
    assert orders() == first
    monkeypatch.setattr(streaming, "parallel", lambda place: 64)
    assert orders() == first
    narrow, wide = opened(array, rows), opened(array, rows, window=2 * WINDOW)
    assert narrow.budget.width <= wide.budget.width == 3
    assert orders(seed=2) != first


@settings(deadline=None)
@given(st.integers(0, 1 << 31), st.integers(1, 64), st.integers(1, 60), st.integers(1, 64), st.integers(1, 1000))
def test_a_window_is_never_exceeded(window, side, copies, cores, blocks):
    """Decoded blocks, and for each thread a decoded and a compressed one, fit; or the window is refused."""
    shape = (blocks * 8, copies, side, side, 3)
    made = ArrayLayout("x", shape, "uint8", (8, *shape[1:]), (8, *shape[1:]), sharded=True)
    array = streaming.ImageArray.__new__(streaming.ImageArray)
    array.layout, array.shape, array.block, array.store = made, shape, 8, None
    raw = 8 * copies * side * side * 3
    place = raw + 8 * 8 * copies
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "parallel", lambda store: cores)
        try:
            budget = Budget(array, place, blocks, window)
        except UsageError:
            assert window < 2 * (raw + place) + place
            return
    decoding = budget.threads + budget.helps
    assert budget.places * place + decoding * 2 * raw <= window
    assert 1 <= budget.width <= min(blocks, budget.places - 1)
    assert 1 <= budget.threads <= decoding <= cores


def test_the_first_batch_needs_one_block_only(split, opened, monkeypatch):
    """The others are read meanwhile: here they never come."""
    array, release = split.dataset.copies, threading.Event()
    read, lock, calls = array.read, threading.Lock(), []

    def slow(*args, **options):
        with lock:
            calls.append(None)
            first = len(calls) == 1
        if not first:
            release.wait(20)
        return read(*args, **options)

    monkeypatch.setattr(array, "read", slow)
    made = opened(array, np.sort(split.unlabeled))
    made.read(0)
    release.set()


def test_a_stream_that_nobody_holds_ends_its_threads(split):
    made = Stream(split.dataset.copies, np.sort(split.unlabeled), 5, 7, 1, WINDOW)
    made.read(0)
    stream = weakref.ref(made)
    assert ours()
    del made
    gc.collect()
    ends = time.monotonic() + 20
    while ours() and time.monotonic() < ends:
        time.sleep(0.001)
    assert stream() is None


def test_a_damaged_file_is_named_before_anything_of_it_is_used_and_every_time(tiny_copy, opened):
    split = open_store(tiny_copy.with_name("tiny_20"))
    file = tiny_copy / "copies/images/c/0/0/0/0/0"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    made = opened(split.dataset.copies, np.sort(split.unlabeled))
    for _ in range(3):
        with pytest.raises(IntegrityError, match="is damaged") as caught:
            made.read(0)
        assert str(file) in str(caught.value)
    file.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        opened(split.dataset.copies, np.sort(split.unlabeled)).read(0)


def test_a_window_that_is_too_small_says_what_it_needs(split):
    least = 4 * BLOCK + 2 * 8 * 64 * 5
    with pytest.raises(UsageError, match="too small") as caught:
        Stream(split.dataset.copies, np.arange(150), 5, 4, 1, least - 1)
    assert f"{least / 2**20:,.1f} MiB" in caught.value.why
    Stream(split.dataset.copies, np.arange(150), 5, 4, 1, least)


FLAGS = {"model": "wrn-10-1", "steps": 4, "threads": 1, "device": "cpu", "feed": "stream", "window": "1MiB"}
SETTINGS = ["checkpoint_every=2", "batch=8", "precision=fp32", "tensorboard=false"]


def start(split, runs, name="run"):
    return api.train(SETTINGS, {**FLAGS, "store": str(split)}, runs, name, quiet=True)


def test_ffcv_streams_the_same_batches(split, tiny_ffcv, opened):
    rows = np.sort(split.unlabeled)
    zarr, ffcv = opened(split.dataset.copies, rows), opened(open_store(tiny_ffcv).copies, rows)
    for step in (*range(40), 3):
        for expected, found in zip(zarr.read(step), ffcv.read(step), strict=True):
            np.testing.assert_array_equal(found, expected)
    ffcv.close()
    assert not [thread for thread in threading.enumerate() if "Epoch" in type(thread).__name__]


def test_a_streamed_run_is_resumed_bit_for_bit(tiny, tmp_path, monkeypatch):
    whole, _ = start(tiny.with_name("tiny_20"), tmp_path)
    save = checkpoint.save

    def stop_after_saving(path, state, identity):
        save(path, state, identity)
        if state.step == 2:
            raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop_after_saving)
        with pytest.raises(Interrupted, match="stopped"):
            start(tiny.with_name("tiny_20"), tmp_path, "broken")
    assert ours() == []
    api.resume(tmp_path / "broken", quiet=True)
    assert (whole / weights.FILE).read_bytes() == (tmp_path / "broken" / weights.FILE).read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("a method's mistake")], ids=["Ctrl-C", "exception"])
def test_threads_end_with_the_loop_however_it_ends(tiny, tmp_path, monkeypatch, error):
    def broken(*_):
        assert any(name.startswith("stream") for name in ours())
        raise error

    monkeypatch.setattr(loop, "build_step", lambda *_: broken)
    with pytest.raises(Interrupted if error is KeyboardInterrupt else RuntimeError):
        start(tiny.with_name("tiny_20"), tmp_path)
    assert ours() == []


def test_a_shard_that_is_lost_ends_the_run_with_its_name(tiny_copy, tmp_path):
    (tiny_copy / "copies/images/c/0/0/0/0/0").unlink()
    with pytest.raises(IntegrityError, match="copies/images/c/0/0/0/0/0' is missing"):
        start(tiny_copy.with_name("tiny_20"), tmp_path)
    assert ours() == []


def test_closing_does_not_wait_for_what_has_not_begun(split, opened, monkeypatch):
    array = split.dataset.copies
    read = array.read

    def slow(*args, **options):
        time.sleep(0.05)
        return read(*args, **options)

    monkeypatch.setattr(array, "read", slow)
    monkeypatch.setattr(streaming, "parallel", lambda place: 1)
    made = opened(array, np.arange(150), window=200 * BLOCK)
    made.read(0)
    began = time.perf_counter()
    made.close()
    assert time.perf_counter() - began < 1


def test_closing_ends_a_read_that_waits_in_another_thread(split, opened, monkeypatch):
    array, release, ended = split.dataset.copies, threading.Event(), []
    read = array.read

    def stuck(*args, **options):
        release.wait(20)
        return read(*args, **options)

    monkeypatch.setattr(array, "read", stuck)
    made = opened(array, np.arange(150))

    def wait() -> None:
        with pytest.raises(Stopped):
            [made.read(step) for step in range(1000)]
        ended.append(None)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.05)
    threading.Timer(0.1, release.set).start()
    made.close()
    waiting.join(20)
    assert ended
    with pytest.raises(Stopped):
        made.read(0)
