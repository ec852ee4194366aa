"""The vectorised recipes against loops, closed forms and the papers' numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.recipes import NAMES, Recipe, erase, from_spec, load_recipe
from pipeline.recipes.boxes import fill_boxes
from stores.errors import StoreError, UsageError

CIFAR = {"flip": True, "shift": 4}
VECTORISED = ("cutout", "erase", "simple")


def copies_of(recipe: Recipe, images: np.ndarray, params: np.ndarray) -> np.ndarray:
    out = np.zeros((len(images), params.shape[1], *images.shape[1:]), np.uint8)
    recipe.apply(images, params, out)
    return out


def images_of(n: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", VECTORISED)
def test_a_draw_depends_on_seed_row_and_copy_only(name: str) -> None:
    recipe = load_recipe(name, CIFAR, (32, 32))
    params = recipe.draw(1, np.arange(40), 50, (32, 32))
    assert params.dtype == np.int32
    assert params.shape == (40, 50, len(recipe.columns))
    assert np.array_equal(recipe.draw(1, np.arange(40), 25, (32, 32)), params[:, :25])
    some = np.array([31, 7, 8])
    assert np.array_equal(recipe.draw(1, some, 50, (32, 32)), params[some])
    assert not np.array_equal(recipe.draw(2, np.arange(40), 50, (32, 32)), params)
    assert len(np.unique(params.reshape(-1, params.shape[-1]), axis=0)) > 100


@pytest.mark.parametrize("name", VECTORISED)
def test_a_spec_makes_the_same_recipe_again(name: str) -> None:
    recipe = load_recipe(name, CIFAR, (32, 32))
    again = from_spec(json.loads(json.dumps(recipe.spec)))
    images, rows = images_of(3, (32, 32)), np.arange(3)
    params = recipe.draw(7, rows, 9, (32, 32))
    assert np.array_equal(again.draw(7, rows, 9, (32, 32)), params)
    assert np.array_equal(copies_of(again, images, params), copies_of(recipe, images, params))
    assert (again.name, again.columns, again.vectorised) == (name, recipe.columns, True)


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    n=st.integers(1, 4),
    copies=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    one_value=st.booleans(),
)
def test_filling_boxes_is_slice_assignment(
    size: tuple[int, int], n: int, copies: int, seed: int, one_value: bool
) -> None:
    rng = np.random.default_rng(seed)
    ends = [np.sort(rng.integers(0, length + 1, (n, copies, 2)), axis=-1) for length in size]  # often empty
    boxes = np.concatenate(ends, axis=-1).astype(np.int32)
    value = 127 if one_value else rng.integers(0, 256, (n, copies))
    out = rng.integers(0, 256, (n, copies, *size, 3), dtype=np.uint8)
    expected = out.copy()
    for i, j in np.ndindex(n, copies):
        top, bottom, left, right = boxes[i, j]
        expected[i, j, top:bottom, left:right] = np.broadcast_to(value, (n, copies))[i, j]
    fill_boxes(out, boxes, value)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("box", [(-1, 3, 0, 3), (0, 9, 0, 3), (0, 3, -1, 3), (0, 3, 0, 9)])
def test_a_box_outside_its_image_is_not_drawn(box: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="outside"):
        fill_boxes(np.zeros((1, 8, 8, 3), np.uint8), np.array([box]), 127)


def test_cutout_hides_what_the_closed_form_says() -> None:
    """A 16-pixel square around pixel c of 32 hides min(c+8, 32) − max(c−8, 0) rows: 14 on average, 8 in a corner."""
    recipe = load_recipe("cutout", CIFAR, (32, 32))
    top, bottom, left, right = np.moveaxis(recipe.draw(1, np.arange(2000), 50, (32, 32)), -1, 0)
    visible = {min(c + 8, 32) - max(c - 8, 0) for c in range(32)}
    assert set(np.unique(bottom - top)) == set(np.unique(right - left)) == visible == set(range(8, 17))
    assert np.mean(bottom - top) == pytest.approx(14, abs=0.05)
    assert np.mean((bottom - top) * (right - left)) == pytest.approx(196, abs=1)
    # Every centre is as likely as any other, in both directions and in any combination.
    centres = np.where(bottom - top == 16, top + 8, np.where(top == 0, bottom - 8, top + 8)) * 32
    centres = centres + np.where(right - left == 16, left + 8, np.where(left == 0, right - 8, left + 8))
    counts = np.bincount(centres.reshape(-1), minlength=1024)
    chi2 = np.sum((counts - counts.mean()) ** 2 / counts.mean())
    assert abs(chi2 - 1023) < 5 * np.sqrt(2 * 1023)


def test_cutout_of_a_corner_is_a_quarter() -> None:
    recipe = load_recipe("cutout", CIFAR, (32, 32))
    params = recipe.draw(1, np.arange(200), 50, (32, 32))
    corner = params[(params[..., 1] == 8) & (params[..., 3] == 8)]
    assert len(corner)
    assert (corner == (0, 8, 0, 8)).all()


def test_cutout_pixels() -> None:
    images = images_of(6, (32, 32)) | 128  # 127 appears nowhere
    recipe = load_recipe("cutout", CIFAR, (32, 32))
    params = recipe.draw(3, np.arange(6), 11, (32, 32))
    made = copies_of(recipe, images, params)
    for i, j in np.ndindex(6, 11):
        top, bottom, left, right = params[i, j]
        expected = images[i].copy()
        expected[top:bottom, left:right] = 127
        assert np.array_equal(made[i, j], expected)


@pytest.mark.parametrize(("size", "side"), [((8, 8), 4), ((96, 96), 48), ((20, 50), 10), ((28, 28), 14), ((1, 1), 1)])
def test_the_square_is_half_the_shorter_side(size: tuple[int, int], side: int) -> None:
    recipe = load_recipe("cutout", CIFAR, size)
    params = recipe.draw(1, np.arange(20), 50, size)
    assert (params[..., 1] - params[..., 0]).max() == (params[..., 3] - params[..., 2]).max() == side
    assert (params[..., 1] > params[..., 0]).all()
    assert (params[..., 3] > params[..., 2]).all()
    images = np.full((20, *size, 3), 200, np.uint8)
    areas = (copies_of(recipe, images, params) == 127).all(-1).sum((2, 3))
    assert np.array_equal(areas, (params[..., 1] - params[..., 0]) * (params[..., 3] - params[..., 2]))


@pytest.mark.parametrize(
    ("area", "ratio", "expected"),
    [(0.2, 0.5, (20, 10)), (0.2, 1, (14, 14)), (0.02, 0.3, (8, 2)), (0.4, 1, (20, 20)), (0.4, 1 / 0.3, (11, 36))],
)
def test_erased_sizes(area: float, ratio: float, expected: tuple[int, int]) -> None:
    assert tuple(map(int, erase.box_size(area * 1024, ratio))) == expected


def test_erase_keeps_seventy_percent_and_its_boxes_inside() -> None:
    recipe = load_recipe("erase", CIFAR, (32, 32))
    params = recipe.draw(1, np.arange(1000), 50, (32, 32))
    top, bottom, left, right, fill = np.moveaxis(params, -1, 0)
    erased = bottom > top
    assert erased.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.3 * 0.7 / 50_000))
    assert not params[~erased].any()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (bottom <= 32).all()
    assert (right <= 32).all()
    assert set(np.unique(fill[erased])) == set(range(256))
    # Within an image the copies differ: neither all erased nor none.
    assert 5 < erased.sum(1).mean() < 25
    assert erased.any(1).mean() > 0.99
    # The area's range: ⌊w⌋⌊h⌋ is below S ≤ .4·1024, and above what flooring can take from S ≥ .02·1024.
    area = ((bottom - top) * (right - left))[erased]
    assert area.max() <= 0.4 * 1024
    assert area.min() >= 0.02 * 1024 / 2


def test_erase_follows_the_loop_that_the_paper_s_code_runs() -> None:
    """Rejection in a plain loop with another generator gives the same distribution of boxes."""
    rng = np.random.default_rng(5)
    loop: list[tuple] = []
    while len(loop) < 4000:
        area, ratio = rng.uniform(0.02, 0.4) * 1024, rng.uniform(0.3, 1 / 0.3)
        w, h = int(np.sqrt(area / ratio)), int(np.sqrt(area * ratio))
        left, top = rng.integers(0, 32), rng.integers(0, 32)
        if left + w <= 32 and top + h <= 32:
            loop.append((top, top + h, left, left + w))
    recipe = load_recipe("erase", CIFAR, (32, 32))
    params = recipe.draw(2, np.arange(300), 50, (32, 32)).reshape(-1, 5)
    ours = params[params[:, 1] > 0][:4000, :4]
    spread = np.std(loop, axis=0) * np.sqrt(2 / 4000)
    assert (np.abs(np.mean(loop, axis=0) - ours.mean(0)) < 5 * spread).all()


def test_erase_pixels() -> None:
    images = images_of(8, (24, 40))
    recipe = load_recipe("erase", CIFAR, (24, 40))
    params = recipe.draw(3, np.arange(8), 20, (24, 40))
    made = copies_of(recipe, images, params)
    for i, j in np.ndindex(8, 20):
        top, bottom, left, right, fill = params[i, j]
        expected = images[i].copy()
        expected[top:bottom, left:right] = fill
        assert np.array_equal(made[i, j], expected)


def test_images_too_narrow_to_erase_are_refused() -> None:
    with pytest.raises(UsageError, match="too narrow"):
        load_recipe("erase", CIFAR, (1, 1000))
    recipe = load_recipe("erase", CIFAR, (4, 40))
    assert (recipe.draw(1, np.arange(50), 20, (4, 40))[..., 1] <= 4).all()


@pytest.mark.parametrize(("size", "shift"), [((32, 32), 4), ((8, 8), 1), ((9, 17), 2), ((5, 6), 0), ((70, 65), 9)])
def test_simple_flips_then_shifts_with_reflected_borders(size: tuple[int, int], shift: int) -> None:
    images = images_of(5, size)
    recipe = load_recipe("simple", {"flip": True, "shift": shift}, size)
    params = recipe.draw(1, np.arange(5), 40, size)
    made = copies_of(recipe, images, params)
    for i, j in np.ndindex(5, 40):
        flip, dy, dx = params[i, j]
        image = images[i, :, ::-1] if flip else images[i]
        padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
        assert np.array_equal(made[i, j], padded[shift + dy :, shift + dx :][: size[0], : size[1]])


def test_simple_draws_every_shift_and_half_the_flips() -> None:
    params = load_recipe("simple", CIFAR, (32, 32)).draw(1, np.arange(400), 50, (32, 32))
    assert params[..., 0].mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(20_000))
    offsets, counts = np.unique(params[..., 1:].reshape(-1, 2), axis=0, return_counts=True)
    assert len(offsets) == 81
    assert np.abs(counts / 20_000 - 1 / 81).max() < 5 * np.sqrt(1 / 81 / 20_000)
    assert (offsets.min(), offsets.max()) == (-4, 4)
    unflipped = load_recipe("simple", {"flip": False, "shift": 4}, (32, 32)).draw(1, np.arange(400), 50, (32, 32))
    assert not unflipped[..., 0].any()


def test_unknown_recipes() -> None:
    with pytest.raises(UsageError, match="did you mean cutout"):
        load_recipe("cutuot", CIFAR, (32, 32))
    with pytest.raises(UsageError, match=r"my\.yaml") as error:
        load_recipe("nothing like it", CIFAR, (32, 32))
    assert all(name in str(error.value) for name in NAMES)


@pytest.mark.parametrize("change", [{"kind": "newer"}, {"version": 2}])
def test_a_spec_of_a_newer_version_is_refused(change: dict) -> None:
    with pytest.raises(StoreError, match="newer"):
        from_spec(load_recipe("cutout", CIFAR, (32, 32)).spec | change)
