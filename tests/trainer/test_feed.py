"""The loader: which samples, which pixels, wherever a run starts and wherever its images are held."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stores.errors import IntegrityError, ResourceError, StoreError, UsageError
from trainer.augment.views import make_batch
from trainer.config import RunConfig
from trainer.contract import Views
from trainer.data import memory, placement, sampler
from trainer.data.loader import Loader, sizes_of
from trainer.data.prefetch import Stopped
from trainer.data.resident import Resident
from trainer.data.to_device import tensors_of

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


def make(store, run=STILL, start=0, **views) -> Loader:
    return Loader(store, method(**views), None, run, CPU, start)


def who(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Row and copy that the fake store painted into pixel (0, 0), from scaled images [n, 3, H, W]."""
    pixel = ((images[:, :2, 0, 0] + 1) * 127.5).round().to(torch.int64).numpy()
    return pixel[:, 0], pixel[:, 1] - 1


def step_of(loader: Loader, step: int):
    """The batch that a method would see, and which of its samples are OOD."""
    raw = loader.batch(step)
    return make_batch(raw, loader.views, loader.schedule_names, {}), raw.ood


def test_a_batch_has_labelled_images_with_their_labels_and_two_views_of_one_copy(store):
    loader = make(store)
    for step in range(20):
        batch, ood = step_of(loader, step)
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
    loader = make(store, dataclasses.replace(STILL, shift=2, flip=True))
    batch, _ = step_of(loader, 0)
    assert not torch.equal(batch.u[0], batch.u[1])


@pytest.mark.parametrize("copies", [None, 2, 1])
def test_an_epoch_shows_every_copy_of_every_image_once(store, copies):
    loader = make(store, dataclasses.replace(STILL, copies=copies))
    pairs = 28 * (copies or 4)
    seen = [pair for step in range(pairs // 4) for pair in zip(*who(step_of(loader, step)[0].u[0]), strict=True)]
    assert len(seen) == len(set(seen)) == pairs
    assert {copy for _, copy in seen} == set(range(copies or 4))
    assert {row for row, _ in seen} == set(store.unlabeled)


def test_the_labelled_stream_is_one_permutation_after_another(store):
    loader = make(store)
    rows = np.concatenate([who(step_of(loader, step)[0].x)[0] for step in range(6)])  # 24 = 4 epochs of 6
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
    loader = make(store, ratio=3)
    found = set()
    for step in range(10):
        batch, ood = step_of(loader, step)
        rows, _ = who(batch.u[0])
        np.testing.assert_array_equal(ood, store.dataset.train_labels[rows] > 0)
        assert batch.u[0].shape[0] == len(ood) == 12
        found |= set(ood.tolist())
    assert found == {True, False}


def test_base_images_serve_methods_that_augment_themselves(no_copies):
    loader = make(no_copies, unlabeled=("weak",), source="base")
    rows, copies = who(step_of(loader, 3)[0].u[0])
    assert set(rows) <= set(no_copies.unlabeled)
    assert (copies == -1).all()
    assert (loader.copies, loader.num_unlabeled, loader.images_per_step) == (None, 28, 8)


def test_the_pool_may_hold_the_labelled_images_too(store):
    loader = make(store, unlabeled=("weak",), source="base", labeled_in_unlabeled=True)
    seen = np.concatenate([who(step_of(loader, step)[0].u[0])[0] for step in range(17)])  # two epochs of 34
    assert (np.bincount(seen) == 2).all()
    assert set(seen) == set(store.labeled) | set(store.unlabeled)


def test_a_supervised_method_loads_no_pool(no_copies):
    loader = make(no_copies, unlabeled=())
    batch, ood = step_of(loader, 0)
    assert batch.u == ()
    assert ood is None
    assert (loader.num_unlabeled, loader.images_per_step) == (0, 4)


def test_what_the_store_lacks_is_said(store, no_copies):
    with pytest.raises(StoreError, match="holds no copies"):
        make(no_copies)
    with pytest.raises(UsageError, match="--copies 5 is more"):
        make(store, dataclasses.replace(STILL, copies=5))
    store.unlabeled = np.empty(0, np.int64)
    with pytest.raises(StoreError, match="no unlabelled images"):
        make(store)


def test_memory_that_is_too_small_is_refused_with_its_size(store, monkeypatch):
    size = (6 + 28 * 4) * 8 * 8 * 3
    run = dataclasses.replace(STILL, feed="host")
    monkeypatch.setattr(memory, "free_memory", lambda home: size)
    with pytest.raises(ResourceError, match=r"0\.00 GiB") as caught:
        make(store, run)
    assert "--feed stream" in caught.value.hint
    monkeypatch.setattr(memory, "free_memory", lambda home: 2 * size)
    assert make(store, run).placement.size == size


def test_free_memory_is_part_of_the_machines_memory():
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.free_memory(CPU) <= pages


KINDS = [
    ("auto", "cpu", 112, 0, "host"),
    ("auto", "cpu", 111, 112, "mapped"),
    ("auto", "cpu", 111, 111, "stream"),
    ("auto", "cuda", 167, 0, "device"),
    ("auto", "cuda", 166, 0, "host"),
    ("auto", "cuda", 111, 0, "stream"),
    ("resident", "cpu", 1, 0, "mapped"),
    ("resident", "cuda", 167, 0, "device"),
    ("host", "cuda", 1, 0, "host"),
    ("device", "cuda", 1, 0, "device"),
    ("mapped", "cuda", 999, 0, "mapped"),
    ("stream", "cuda", 999, 0, "stream"),
]


@pytest.mark.parametrize(("feed", "device", "memory_free", "disk_free", "kind"), KINDS)
def test_the_placement_follows_from_size_and_free_memory(
    feed, device, memory_free, disk_free, kind, store, monkeypatch
):
    """Of 6 labelled images and 28 × 4 copies of 192 bytes; free memory and disk in per cent of that."""
    size = (6 + 28 * 4) * 192
    monkeypatch.setattr(placement, "free_memory", lambda device: size * memory_free // 100)
    monkeypatch.setattr(placement.shutil, "disk_usage", lambda path: SimpleNamespace(free=size * disk_free // 100))
    run = dataclasses.replace(STILL, feed=feed, window="1MB")
    placed = placement.place(store, method().views(None), run, torch.device(device))
    assert placed.kind == kind
    assert placed.device.type == (device if kind == "device" else "cpu")
    assert placed.size == (1_000_000 if kind == "stream" else size)
    assert placed.drawn is False


def test_a_placement_says_what_it_is():
    size = 3 << 29
    for placed, said in {
        placement.Placement("device", torch.device("cuda", 0), False, size): "in GPU memory (1.50 GiB)",
        placement.Placement("device", CPU, False, size): "in memory (1.50 GiB)",
        placement.Placement("host", CPU, True, size): "copies drawn from images in memory (1.50 GiB)",
        placement.Placement("stream", CPU, False, size): "streamed from the store through a window (1.50 GiB)",
        placement.Placement("host", CPU, False, 1 << 19): "in memory (0.5 MiB)",
        placement.Placement("mapped", CPU, False, size): "in a mapped scratch file (1.50 GiB)",
    }.items():
        assert str(placed) == said


@pytest.mark.parametrize("feed", ["resident", "stream"])
def test_what_decides_the_order_stays_when_a_run_is_resumed(feed, store, monkeypatch):
    """A resumed run may find more or less memory."""
    views = method().views(None)
    monkeypatch.setattr(placement, "free_memory", lambda device: 0 if feed == "stream" else 1 << 40)
    monkeypatch.setattr(placement.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    placed = placement.place(store, views, STILL, CPU)
    assert placed.feed == feed
    monkeypatch.undo()
    resumed = dataclasses.replace(STILL, feed=placed.feed)
    with make(store, resumed) as loader:
        assert loader.placement.feed == feed


def test_one_process_that_has_to_stream_makes_all_stream(store, monkeypatch):
    monkeypatch.setattr(placement.distributed, "agree", lambda streams: True)
    assert placement.place(store, method().views(None), STILL, CPU).kind == "stream"
    resident = dataclasses.replace(STILL, feed="resident")
    assert placement.place(store, method().views(None), resident, CPU).kind == "host"


def test_a_loader_takes_the_placement_that_was_decided(store):
    placed = placement.Placement("stream", CPU, False, 1 << 20)
    with Loader(store, method(), None, STILL, CPU, placement=placed) as loader:
        assert loader.placement is placed
        streamed = [raw.u_id for _, raw in zip(range(3), loader, strict=False)]
    with make(store, dataclasses.replace(STILL, feed="stream", window="1MiB")) as loader:
        assert all(map(torch.equal, streamed, [raw.u_id for _, raw in zip(range(3), loader, strict=False)]))


def test_sizes_are_those_of_the_run(store):
    sizes = sizes_of(store, method(ratio=2, labeled_in_unlabeled=True).views(None), STILL)
    assert (sizes.labeled, sizes.unlabeled, sizes.num_classes, sizes.image_size) == (4, 8, 3, (8, 8))
    assert (sizes.num_unlabeled, sizes.num_valid) == (34, 6)
    assert make(store).sizes.unlabeled == 4


PLACEMENTS = ["host", "device", "mapped", "stream"]


@pytest.mark.parametrize("feed", PLACEMENTS)
@pytest.mark.parametrize("options", [{}, {"copies": 3}, {"batch": 10}], ids=str)
@pytest.mark.parametrize("views", [{}, {"source": "base"}, {"source": "base", "labeled_in_unlabeled": True}], ids=str)
def test_a_batchs_pixels_are_the_stores_at_its_ids(feed, options, views, store):
    run, dataset = dataclasses.replace(STILL, feed=feed, **options), store.dataset
    with make(store, run, **views) as loader:
        rows = placement.unlabeled_rows(store, loader.views)
        for step in (0, 1, 2, 40, 3):
            raw = loader.batch(step)
            x_rows = raw.x[:, 0, 0, 0].numpy()  # painted there
            assert set(x_rows) <= set(store.labeled)
            np.testing.assert_array_equal(raw.x, dataset.train_images.values[x_rows])
            np.testing.assert_array_equal(raw.y, store.train_labels[x_rows])
            u_rows, copies = rows[raw.u_id.numpy()], raw.u[:, 0, 0, 1].numpy().astype(int) - 1
            if views:
                assert (copies == -1).all()
                expected = dataset.train_images.values[u_rows]
            else:
                assert copies.max() < (options.get("copies") or 4)
                expected = dataset.copies.values[u_rows, copies]
            np.testing.assert_array_equal(raw.u, expected)
            assert raw.u_id.dtype == torch.int64


def equal(a, b) -> bool:
    ours, theirs = tensors_of(a), tensors_of(b)
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("feed", PLACEMENTS)
@pytest.mark.parametrize("start", [0, 7])
def test_iterating_gives_the_batch_of_each_step(feed, start, make_store):
    store = make_store(protocol="mismatch", ood=(2,))
    run = dataclasses.replace(STILL, feed=feed, steps=60, flip=True, shift=2)
    with make(store, run) as single, make(store, run, start) as loader:
        assert len(loader) == 60 - start
        assert iter(loader) is loader
        for step, raw in enumerate(loader, start):
            assert equal(raw, single.batch(step))
            assert loader.step == step + 1
        assert step == 59
        assert len(loader) == 0
        assert list(loader) == []
        assert loader.waited >= 0


def test_a_supervised_loader_iterates_too(no_copies):
    with make(no_copies, unlabeled=()) as loader:
        for step, raw in enumerate(loader):
            assert equal(raw, loader.batch(step))
            assert raw.u is raw.u_id is raw.second is raw.second_id is None
        assert step == 99


# --- the second unlabelled stream


@pytest.mark.parametrize("feed", PLACEMENTS)
@pytest.mark.parametrize("source", ["base", "copies"])
def test_the_second_stream_starts_with_all_images_and_has_views_of_its_own(feed, source, store):
    run = dataclasses.replace(STILL, feed=feed, shift=2)
    declared = {"source": source, "ratio": 7, "second": ("weak", "weak")}
    with make(store, run, **declared) as loader, make(store, run, source=source, ratio=7) as plain:
        rows, seen = placement.unlabeled_rows(store, loader.views), []
        for step, raw in zip(range(8), loader, strict=False):
            np.testing.assert_array_equal(raw.second[:, 0, 0, 0], rows[raw.second_id])
            assert (raw.second[:, 0, 0, 1] > 0).all() == (source == "copies")
            assert raw.second.shape == raw.u.shape == (28, 8, 8, 3)
            assert len(raw.views) == 5
            assert len({tuple(view["weak"].ravel().tolist()) for view in raw.views}) == 5
            if feed != "stream":  # whose window is another one
                assert equal(
                    dataclasses.replace(raw, second=None, second_id=None, views=raw.views[:3]), plain.batch(step)
                )
                assert not torch.equal(raw.u_id, raw.second_id)
            seen += raw.second_id.tolist()
        assert set(seen) == set(range(28))
        assert loader.images_per_step == 4 + 4 * 28


@pytest.mark.parametrize("feed", PLACEMENTS)
def test_a_replaced_second_stream_takes_effect_at_its_step_and_is_the_same_when_resumed(feed, store):
    run = dataclasses.replace(STILL, feed=feed, steps=40)
    chosen = np.array([20, 3, 3, 11, 27, 5])
    mask = torch.zeros(28, dtype=torch.bool)
    mask[chosen] = True
    with make(store, run, second=("weak",)) as loader, make(store, run, second=("weak",)) as single:
        before = [next(loader) for _ in range(10)]
        loader.replace_second(chosen, 10)
        waited = loader.waited
        after = list(loader)
        assert len(after) == 30
        assert loader.waited >= waited
        assert all(equal(raw, single.batch(step)) for step, raw in enumerate(before))
        ids = torch.cat([raw.second_id for raw in after])
        assert set(ids.tolist()) == set(chosen)
        for step, raw in enumerate(after, 10):
            assert equal(
                dataclasses.replace(raw, second=None, second_id=None),
                dataclasses.replace(single.batch(step), second=None, second_id=None),
            )
    with make(store, run, 25, second=("weak",)) as resumed:
        resumed.replace_second(mask, 25)
        assert all(map(equal, resumed, after[15:]))


def test_a_second_stream_that_cannot_be_is_refused(store):
    with make(store, second=("weak",)) as loader:
        for wrong in (np.array([28]), np.array([-1]), np.empty(0, np.int64), np.zeros(28, bool)):
            with pytest.raises(ValueError, match="positions"):
                loader.replace_second(wrong, 0)
    with make(store) as loader, pytest.raises(ValueError, match="no second"):
        loader.replace_second(np.array([1]), 0)


# --- how it ends


@pytest.mark.parametrize("feed", ["host", "stream"])
def test_an_error_surfaces_at_its_step_and_every_time(feed, store):
    broken = method()
    schedule = broken.schedule

    def failing(step, *given):
        if step == 5:
            raise IntegrityError("of step 5")
        return schedule(step, *given)

    broken.schedule = failing
    with Loader(store, broken, None, dataclasses.replace(STILL, feed=feed), CPU) as loader:
        assert len([next(loader) for _ in range(5)]) == loader.step == 5
        for _ in range(2):
            with pytest.raises(IntegrityError, match="of step 5"):
                next(loader)
        assert loader.step == 5


def test_a_damaged_block_ends_the_iteration_before_anything_of_it_is_used(store, monkeypatch):
    run = dataclasses.replace(STILL, feed="stream", window="32KiB")
    with make(store, run) as loader:
        rows = placement.unlabeled_rows(store, loader.views)
        whole = list(loader)
    of_block = [(rows[raw.u_id] // 8 == 2).any() for raw in whole]
    read = store.dataset.copies.read

    def damaged(wanted, *args, **options):
        if np.any(np.asarray(wanted) // 8 == 2):
            raise IntegrityError("block 2 is damaged")
        return read(wanted, *args, **options)

    monkeypatch.setattr(store.dataset.copies, "read", damaged)
    with make(store, run) as loader:
        good = []
        with pytest.raises(IntegrityError, match="block 2"):
            good.extend(loader)
        with pytest.raises(IntegrityError, match="block 2"):
            next(loader)
    assert loader.step <= of_block.index(True)


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("stream", "loader"))]


@pytest.mark.parametrize("feed", ["host", "stream"])
def test_threads_end_with_the_loader_wherever_it_is(feed, store):
    run = dataclasses.replace(STILL, feed=feed)
    loader = make(store, run, second=("weak",))
    with contextlib.suppress(ZeroDivisionError), loader:
        next(loader)
        assert ours()
        1 / 0  # noqa: B018 - the loop's error
    assert ours() == []
    loader.close()
    with pytest.raises(Stopped):
        list(loader)
    assert ours() == []
    with make(store, run):
        assert ours() == []


def test_stop_ends_a_wait_for_a_batch(store, monkeypatch):
    release, waiting = threading.Event(), threading.Event()
    read = store.dataset.copies.read

    def stuck(*args, **options):
        waiting.set()
        release.wait(20)
        return read(*args, **options)

    monkeypatch.setattr(store.dataset.copies, "read", stuck)
    loader = make(store, dataclasses.replace(STILL, feed="stream"))
    threading.Thread(target=lambda: waiting.wait(20) and loader.stop()).start()
    with pytest.raises(Stopped):
        next(loader)
    assert loader.step == 0
    assert loader.waited > 0
    release.set()
    loader.close()
    assert ours() == []


def test_a_scratch_file_has_no_name_and_says_when_there_is_no_room(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (6, 3, 2, 2, 3), dtype=np.uint8)

    def read(rows, copies, out):
        out[...] = values[rows, :copies]

    array = SimpleNamespace(shape=values.shape, read=read)
    pool = Resident(array, np.array([5, 1]), 2, CPU, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (pool.take(np.array([3, 0])).numpy() == values[[1, 5], [1, 0]]).all()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match="no room for"):
        Resident(array, np.array([5, 1]), 2, CPU, tmp_path)
    assert list(tmp_path.iterdir()) == []
