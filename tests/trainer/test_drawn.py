"""Drawn copies are the stored ones, bit for bit, for every recipe that can be drawn; the others are taken as stored."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.building.build import build
from pipeline.recipes import load_recipe
from stores import open_store
from stores.copies import are_valid, boxes_of, is_drawable
from stores.errors import IntegrityError, UsageError
from trainer.config import RunConfig
from trainer.data import placement
from trainer.data.parametric import Drawn, box_tables, drawn_bytes, fill_boxes, fill_rows, fill_slices, row_tables
from trainer.data.resident import Resident

CPU = torch.device("cpu")
RNG = np.random.default_rng(3)


def built(place, source, recipe, copies=2):
    made = load_recipe(recipe, source.weak, source.train.images.shape[1:3])
    return open_store(build(place / recipe, source, made, copies=copies, seed=1, workers=2)[0].path)


@pytest.fixture(scope="module")
def erased(tmp_path_factory, source):
    """A store of the recipe erase, with more copies than fit into one chunk, and images whose rows are whole words."""
    wide = np.ascontiguousarray(np.tile(source.train.images[::4], (1, 1, 2, 1))[:, :, :16])
    part = dataclasses.replace(source.train, images=wide, labels=source.train.labels[::4])
    return built(tmp_path_factory.mktemp("erase"), dataclasses.replace(source, train=part, test=part), "erase", 60)


@pytest.fixture(scope="module")
def simple(tmp_path_factory, source):
    return built(tmp_path_factory.mktemp("simple"), source, "simple")


@pytest.fixture(scope="module")
def cut(tiny):
    return open_store(tiny)


@pytest.mark.parametrize("name", ["cut", "erased"])
def test_every_copy_is_the_stored_one(name, request):
    store = request.getfixturevalue(name)
    rows = RNG.permutation(store.num_images)
    pool = Drawn(store, rows, store.num_copies, CPU)
    stored = store.copies.read(rows)
    assert len(pool) == store.num_images * store.num_copies
    drawn = pool.take(np.arange(len(pool))).numpy().reshape(stored.shape)
    np.testing.assert_array_equal(drawn, stored)
    assert (stored != store.train_images.read(rows)[:, None]).any(), "some copies differ from their image"


@pytest.mark.parametrize("name", ["cut", "erased"])
def test_samples_are_those_of_a_pool_of_stored_copies(name, request):
    store = request.getfixturevalue(name)
    rows = np.sort(RNG.choice(store.num_images, 20, replace=False))
    drawn, stored = Drawn(store, rows, 3, CPU), Resident(store.copies, rows, 3, CPU)
    for count in (1, 7, 200):
        samples = RNG.integers(0, 60, count)
        assert torch.equal(drawn.take(samples), stored.take(samples))
    assert drawn.image_shape == stored.image_shape


def test_a_batch_does_not_change_the_images(cut):
    pool = Drawn(cut, np.arange(10), 5, CPU)
    first = pool.take(np.arange(50)).clone()
    assert torch.equal(pool.take(np.arange(50)), first)


@given(st.data())
def test_boxes_are_those_of_a_loop(data):
    """Both of the computer's ways, and the GPU's, run on the CPU."""
    height, width = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([1, 3, 8, 16, 300]))
    count, seed = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, height, width * 3), dtype=np.uint8)
    box = np.int32 if max(height, width) > 255 else np.uint8
    boxes = rng.integers(0, [height + 1] * 2 + [width + 1] * 2, (count, 4)).astype(box)  # some are empty
    values = rng.integers(0, 256, (count, 1), dtype=np.uint8)
    expected = images.copy()
    for image, (top, bottom, left, right), value in zip(expected, boxes.tolist(), values, strict=True):
        for row in range(top, bottom):
            for column in range(left, right):
                image[row, 3 * column : 3 * column + 3] = value
    word = np.int64 if width % 8 == 0 else np.uint8
    for convert, fill, tables in (
        (torch.tensor, fill_boxes, box_tables(height, width, 3, word)),
        (np.array, fill_rows, row_tables(width, 3, word)),
        (np.array, fill_slices, ()),
    ):
        arrays = [convert(a) for a in (images, boxes, values, *tables)]
        fill(*arrays)
        np.testing.assert_array_equal(np.asarray(arrays[0]), expected)


@pytest.mark.parametrize("recipe", ["cutout", "erase"])
@pytest.mark.parametrize("size", [(48, 48), (49, 20), (64, 64), (96, 96), (64, 300), (300, 64), (224, 224)])
def test_copies_of_photographs_are_the_stored_ones(recipe, size, source, tmp_path):
    images = RNG.integers(0, 256, (4, *size, 3), dtype=np.uint8)
    part = dataclasses.replace(source.train, images=images, labels=source.train.labels[:4])
    store = built(tmp_path, dataclasses.replace(source, train=part, test=part), recipe, 6)
    pool, rows = Drawn(store, np.array([3, 0, 1]), 5, CPU), np.array([3, 0, 1])
    drawn = pool.take(np.arange(15)).numpy().reshape(3, 5, *size, 3)
    np.testing.assert_array_equal(drawn, store.copies.read(rows, copies=5))


def test_what_can_be_drawn(cut, erased, simple):
    assert is_drawable(cut.manifest)
    assert is_drawable(erased.manifest)
    assert not is_drawable(simple.manifest)
    for change in (
        lambda m: m["spec"]["recipe"].update(version=2),
        lambda m: m["spec"]["recipe"].update(fill=300),
        lambda m: m["spec"]["recipe"].update(fill="127"),
        lambda m: m["spec"]["recipe"].update(kind=[]),
        lambda m: m.update(recipe_columns=["top"]),
        lambda m: m["spec"].update(recipe={}),
        lambda m: m.update(num_copies=0),
    ):
        other = copy.deepcopy(cut.manifest)
        change(other)
        assert not is_drawable(other)


def test_the_pool_is_drawn_by_itself_where_it_can_be(cut, simple, tiny_ffcv):
    ffcv = open_store(tiny_ffcv)

    def drawn(store, copies=5, **options):
        chosen = placement.choose(RunConfig(**options), store, 100, copies, CPU)
        assert chosen.size == (drawn_bytes(store, 100, copies) if chosen.drawn else 100 * (copies or 1) * 12 * 12 * 3)
        return chosen.drawn

    assert [drawn(store) for store in (cut, simple, ffcv)] == [True, False, False]
    assert [drawn(store, pool="stored") for store in (cut, simple, ffcv)] == [False] * 3
    assert drawn(ffcv, pool="drawn")
    assert not drawn(cut, copies=None, pool="drawn"), "images are images"
    with pytest.raises(UsageError, match="recipe 'simple' cannot be drawn"):
        drawn(simple, pool="drawn")
    with pytest.raises(UsageError, match="as they were stored"):
        drawn(cut, pool="drawn", feed="stream")
    assert not placement.choose(RunConfig(feed="stream"), cut, 100, 5, CPU).drawn


def test_the_memory_of_a_drawn_pool_is_what_it_says(cut, erased):
    for store, boxes in ((cut, 4), (erased, 5)):
        pool = Drawn(store, np.arange(30), 5, CPU)
        assert pool.nbytes == drawn_bytes(store, 30, 5)
        assert drawn_bytes(store, 30, 5) == 30 * (store.train_images.layout.row_bytes + 5 * boxes)


def test_a_mapped_drawn_pool_leaves_no_file(cut, tmp_path):
    pool = Drawn(cut, np.arange(10), 5, CPU, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(pool.take(np.arange(50)), Drawn(cut, np.arange(10), 5, CPU).take(np.arange(50)))


@pytest.mark.parametrize("box", [[0, 13, 0, 4], [-1, 3, 0, 4], [0, 4, 0, 13]])
def test_parameters_that_are_no_boxes_are_refused(cut, box, monkeypatch):
    store = open_store(cut.path)
    monkeypatch.setattr(store, "read_params", lambda rows: np.broadcast_to(np.array(box, np.int32), (len(rows), 5, 4)))
    with pytest.raises(IntegrityError, match="copies/params"):
        Drawn(store, np.arange(4), 5, CPU)


def test_what_the_params_of_a_copy_mean():
    params = np.array([[[1, 3, 0, 2, 9], [0, 0, 0, 0, 0]]], np.int32)
    boxes, values = boxes_of({"kind": "erase"}, params)
    assert boxes.tolist() == [[[1, 3, 0, 2], [0, 0, 0, 0]]]
    assert values.tolist() == [[9, 0]]
    boxes, value = boxes_of({"kind": "cutout", "fill": 127}, params[..., :4])
    assert boxes.tolist() == [[[1, 3, 0, 2], [0, 0, 0, 0]]]
    assert value == 127


@pytest.mark.parametrize(
    ("params", "valid"),
    [
        ([0, 4, 0, 6], True),
        ([0, 5, 0, 6], False),
        ([0, 4, 0, 7], False),
        ([-1, 4, 0, 6], False),
        ([0, 4, 0, 6, 255], True),
        ([0, 4, 0, 6, 256], False),
        ([0, 4, 0, 6, -1], False),
        ([0, 4, 7, 6], False),
    ],
)
def test_boxes_lie_within_their_image(params, valid):
    assert are_valid(np.array([params], np.int32), (4, 6)) == valid
    assert are_valid(np.empty((0, len(params)), np.int32), (4, 6))
