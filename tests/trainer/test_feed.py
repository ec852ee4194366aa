"""The feed: which samples, which pixels, independent of where a run starts and of what it runs on."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stores.errors import ResourceError, StoreError, UsageError
from trainer.augment.views import make_batch
from trainer.config import RunConfig
from trainer.contract import Views
from trainer.data import loader as feed_module
from trainer.data import memory, placement, sampler
from trainer.data import resident as pool_module
from trainer.data.loader import Feed
from trainer.data.prefetch import Prefetch

CPU = torch.device("cpu")
STILL = RunConfig(batch=4, steps=100, flip=False, shift=0)


def method(**views):
    """A method that asks for these views and draws one number a step."""
    declared = Views(**({"unlabeled": ("weak", "weak"), "source": "copies"} | views))
    return SimpleNamespace(
        NAME="stub",
        views=lambda settings: declared,
        draw=lambda rng, sizes, settings: {"lam": rng.random(sizes.labeled, np.float32)},
        schedule=lambda step, steps, num_classes, settings: {"w": step / steps, "k": float(num_classes)},
    )


def make(store, run=STILL, **views) -> Feed:
    return Feed(store, method(**views), None, run, CPU)


def who(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Row and copy that the fake store painted into pixel (0, 0), from scaled images [n, 3, H, W]."""
    pixel = ((images[:, :2, 0, 0] + 1) * 127.5).round().to(torch.int64).numpy()
    return pixel[:, 0], pixel[:, 1] - 1


def step_of(feed: Feed, step: int):
    """The batch that a method would see, and which of its samples are OOD."""
    raw = feed.batch(feed.prepare(step))
    return make_batch(raw, feed.views, feed.schedule_names, {}), raw.ood


def test_a_batch_has_labelled_images_with_their_labels_and_two_views_of_one_copy(store):
    feed = make(store)
    for step in range(20):
        batch, ood = step_of(feed, step)
        rows, copies = who(batch.x)
        assert set(rows) <= set(store.labeled)
        assert (copies == -1).all(), "labelled images are base images"
        np.testing.assert_array_equal(batch.y, store.train_labels[rows])
        u_rows, u_copies = who(batch.u[0])
        assert set(u_rows) <= set(store.unlabeled)
        np.testing.assert_array_equal(who(batch.u[1]), (u_rows, u_copies))
        assert ood is None
        assert batch.x.shape == batch.u[0].shape == (4, 3, 8, 8)
        assert batch.x.dtype == torch.float32
        assert -1 <= batch.x.min() <= batch.x.max() <= 1


def test_views_are_independent_draws(store):
    feed = make(store, dataclasses.replace(STILL, shift=2, flip=True))
    batch, _ = step_of(feed, 0)
    assert not torch.equal(batch.u[0], batch.u[1])


@pytest.mark.parametrize("copies", [None, 2, 1])
def test_an_epoch_shows_every_copy_of_every_image_once(store, copies):
    feed = make(store, dataclasses.replace(STILL, copies=copies))
    pairs = 28 * (copies or 4)
    seen = [pair for step in range(pairs // 4) for pair in zip(*who(step_of(feed, step)[0].u[0]), strict=True)]
    assert len(seen) == len(set(seen)) == pairs
    assert {copy for _, copy in seen} == set(range(copies or 4))
    assert {row for row, _ in seen} == set(store.unlabeled)


def test_the_labelled_stream_is_one_permutation_after_another(store):
    feed = make(store)
    rows = np.concatenate([who(step_of(feed, step)[0].x)[0] for step in range(6)])  # 24 = 4 epochs of 6
    epochs = rows.reshape(4, 6)
    assert (np.sort(epochs) == store.labeled).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1


def same(a, b) -> bool:
    (batch, ood), (other, other_ood) = a, b
    tensors = [batch.x, batch.y, *batch.u, *batch.draws.values(), *batch.schedule.values()]
    others = [other.x, other.y, *other.u, *other.draws.values(), *other.schedule.values()]
    return all(map(torch.equal, tensors, others)) and (ood is None or torch.equal(ood, other_ood))


def test_a_step_does_not_depend_on_the_steps_before(make_store):
    store = make_store(protocol="mismatch", ood=(2,))
    run = dataclasses.replace(STILL, flip=True, shift=2)
    whole = make(store, run)
    steps = [step_of(whole, step) for step in range(sampler.BLOCK + 2)]
    for step in (sampler.BLOCK + 1, 0, sampler.BLOCK, 5):
        assert same(step_of(make(store, run), step), steps[step])
        assert same(step_of(whole, step), steps[step])
    assert not same(steps[0], steps[1])


def test_seeds_differ(store):
    assert not same(step_of(make(store), 0), step_of(make(store, dataclasses.replace(STILL, seed=2)), 0))


def test_schedule_and_draws_reach_the_batch(store):
    batch, _ = step_of(make(store), 25)
    assert {name: float(value) for name, value in batch.schedule.items()} == {"w": 0.25, "k": 3.0}
    assert all(value.ndim == 0 and value.dtype == torch.float32 for value in batch.schedule.values())
    assert batch.draws["lam"].shape == (4,)


def test_ood_flags_are_the_samples_of_other_classes(make_store):
    store = make_store(protocol="mismatch", ood=(1, 2))
    feed = make(store, ratio=3)
    found = set()
    for step in range(10):
        batch, ood = step_of(feed, step)
        rows, _ = who(batch.u[0])
        np.testing.assert_array_equal(ood, store.dataset.train_labels[rows] > 0)
        assert batch.u[0].shape[0] == len(ood) == 12
        found |= set(ood.tolist())
    assert found == {True, False}


def test_base_images_serve_methods_that_augment_themselves(no_copies):
    feed = make(no_copies, unlabeled=("weak",), source="base")
    rows, copies = who(step_of(feed, 3)[0].u[0])
    assert set(rows) <= set(no_copies.unlabeled)
    assert (copies == -1).all()
    assert (feed.copies, feed.num_unlabeled, feed.images_per_step) == (None, 28, 8)


def test_the_pool_may_hold_the_labelled_images_too(store):
    feed = make(store, unlabeled=("weak",), source="base", labeled_in_unlabeled=True)
    seen = np.concatenate([who(step_of(feed, step)[0].u[0])[0] for step in range(17)])  # two epochs of 34
    assert (np.bincount(seen) == 2).all()
    assert set(seen) == set(store.labeled) | set(store.unlabeled)


def test_a_supervised_method_loads_no_pool(no_copies):
    feed = make(no_copies, unlabeled=())
    batch, ood = step_of(feed, 0)
    assert batch.u == ()
    assert ood is None
    assert (feed.num_unlabeled, feed.images_per_step) == (0, 4)


def test_what_the_store_lacks_is_said(store, no_copies):
    with pytest.raises(StoreError, match="holds no copies"):
        make(no_copies)
    with pytest.raises(UsageError, match="--copies 5 is more"):
        make(store, dataclasses.replace(STILL, copies=5))
    store.unlabeled = np.empty(0, np.int64)
    with pytest.raises(StoreError, match="no unlabelled images"):
        make(store)


def test_a_home_that_is_too_small_is_refused_with_its_size(store, monkeypatch):
    size = (6 + 28 * 4) * 8 * 8 * 3
    run = dataclasses.replace(STILL, feed="host")
    monkeypatch.setattr(memory, "free_memory", lambda home: size)
    with pytest.raises(ResourceError, match=r"0\.00 GiB") as caught:
        make(store, run)
    assert "--feed stream" in caught.value.hint
    monkeypatch.setattr(memory, "free_memory", lambda home: 2 * size)
    assert make(store, run).home.size == size


def test_free_memory_is_part_of_the_machines_memory():
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.free_memory(CPU) <= pages


HOMES = [
    ("auto", "cpu", 112, 0, "host"), ("auto", "cpu", 111, 112, "mapped"), ("auto", "cpu", 111, 111, "stream"),
    ("auto", "cuda", 167, 0, "device"), ("auto", "cuda", 166, 0, "host"), ("auto", "cuda", 111, 0, "stream"),
    ("resident", "cpu", 1, 0, "mapped"), ("resident", "cuda", 167, 0, "device"), ("host", "cuda", 1, 0, "host"),
    ("device", "cuda", 1, 0, "device"), ("mapped", "cuda", 999, 0, "mapped"), ("stream", "cuda", 999, 0, "stream"),
]  # fmt: skip


@pytest.mark.parametrize(("feed", "device", "memory_free", "disk_free", "kind"), HOMES)
def test_the_home_follows_from_size_and_free_memory(feed, device, memory_free, disk_free, kind, store, monkeypatch):
    """Of 6 more images and 28 × 4 copies of 192 bytes; free memory and disk in per cent of that."""
    size = (6 + 28 * 4) * 192
    monkeypatch.setattr(placement, "free_memory", lambda device: size * memory_free // 100)
    monkeypatch.setattr(placement.shutil, "disk_usage", lambda path: SimpleNamespace(free=size * disk_free // 100))
    run = dataclasses.replace(STILL, feed=feed, window="1MB")
    home = placement.choose(run, store.dataset, 28, 4, torch.device(device), others=6)
    assert home.kind == kind
    assert home.device.type == (device if kind == "device" else "cpu")
    assert home.size == (1_000_000 if kind == "stream" else size)
    assert home.drawn is False


def test_a_home_says_what_it_is():
    size = 3 << 29
    for home, said in {
        placement.Home("device", torch.device("cuda", 0), False, size): "in GPU memory (1.50 GiB)",
        placement.Home("device", CPU, False, size): "in memory (1.50 GiB)",
        placement.Home("host", CPU, True, size): "copies drawn from images in memory (1.50 GiB)",
        placement.Home("stream", CPU, False, size): "streamed from the store through a window (1.50 GiB)",
        placement.Home("host", CPU, False, 1 << 19): "in memory (0.5 MiB)",
        placement.Home("mapped", CPU, False, size): "in a mapped scratch file (1.50 GiB)",
    }.items():
        assert str(home) == said


@pytest.mark.parametrize("kind", ["resident", "stream"])
def test_what_decides_the_order_is_settled_once(kind, store, monkeypatch):
    """A resumed run may find more or less memory; its order must stay."""
    views = method().views(None)
    monkeypatch.setattr(placement, "free_memory", lambda device: 0 if kind == "stream" else 1 << 40)
    monkeypatch.setattr(placement.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    settled = feed_module.settle(store, views, STILL, CPU)
    assert settled == dataclasses.replace(STILL, feed=kind)
    assert feed_module.settle(store, views, settled, CPU) == settled
    monkeypatch.undo()
    with make(store, settled) as feed:
        assert (feed.home.kind == "stream") == (kind == "stream")


@pytest.mark.parametrize("home", ["host", "device", "mapped", "stream"])
@pytest.mark.parametrize("options", [{}, {"copies": 3}, {"batch": 10}], ids=str)
@pytest.mark.parametrize("views", [{}, {"source": "base"}, {"source": "base", "labeled_in_unlabeled": True}], ids=str)
def test_a_batchs_pixels_are_the_stores_at_its_ids(home, options, views, store):
    run = dataclasses.replace(STILL, feed=home, **options)
    dataset = store.dataset
    with make(store, run, **views) as feed:
        for step in (0, 1, 2, 40, 3):
            work = feed.prepare(step)
            raw = feed.batch(work)
            np.testing.assert_array_equal(raw.x, dataset.train_images.values[work.x_rows])
            np.testing.assert_array_equal(raw.y, store.train_labels[work.x_rows])
            if views:
                assert (work.u_copies == -1).all()
                expected = dataset.train_images.values[work.u_rows]
            else:
                assert work.u_copies.max() < (options.get("copies") or 4)
                expected = dataset.copies.values[work.u_rows, work.u_copies]
            np.testing.assert_array_equal(raw.u, expected)
            assert set(work.u_rows) <= set(feed_module.pool_rows(store, feed.views))


def test_a_mapped_pool_leaves_no_file_and_says_when_there_is_no_room(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (6, 3, 2, 2, 3), dtype=np.uint8)

    def read(rows, copies, out):
        out[...] = values[rows, :copies]

    array = SimpleNamespace(shape=values.shape, read=read)
    pool = pool_module.Pool(array, np.array([5, 1]), 2, CPU, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (pool.take(np.array([3, 0])).numpy() == values[[1, 5], [1, 0]]).all()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match="no room for"):
        pool_module.Pool(array, np.array([5, 1]), 2, CPU, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_prefetch_keeps_the_order_and_runs_at_most_depth_ahead():
    done = []
    release = threading.Semaphore(0)

    def prepare(step: int) -> int:
        done.append(step)
        release.release()
        return step * step

    with Prefetch(prepare, range(3, 7), depth=2) as ahead:
        for expected in (3, 4, 5, 6):
            release.acquire()
            assert ahead.take() == expected**2
            assert len(done) <= expected - 3 + 3
        with pytest.raises(IndexError, match="no step is left"):
            ahead.take()
    assert done == [3, 4, 5, 6]


def test_prefetch_raises_a_threads_error_where_its_step_is_asked_for_and_ends_the_thread():
    def prepare(step: int) -> int:
        if step == 1:
            raise ResourceError("broken")
        return step

    ahead = Prefetch(prepare, range(5))
    assert ahead.take() == 0
    with pytest.raises(ResourceError, match="broken"), ahead:
        ahead.take()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]
