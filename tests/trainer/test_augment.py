"""Weak views against a plain flip, np.pad and crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rounding import assert_same

from stores import draws
from trainer.augment.flip_shift import draw_weak, scale, weak


def naive(image: np.ndarray, flipped: int, down: int, right: int, *, shift: int) -> np.ndarray:
    """uint8 [H, W, 3]: flip, pad, crop."""
    if flipped:
        image = image[:, ::-1]
    height, width = image.shape[:2]
    padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
    return padded[shift + down : shift + down + height, shift + right : shift + right + width]


@pytest.mark.parametrize(("shape", "shift"), [((32, 32), 4), ((8, 8), 1), ((6, 9), 5)])
def test_every_shift_with_and_without_flip(shape: tuple[int, int], shift: int) -> None:
    grid = np.mgrid[0:2, -shift : shift + 1, -shift : shift + 1].reshape(3, -1).T
    assert len(grid) == 2 * (2 * shift + 1) ** 2
    images = np.random.default_rng(0).integers(0, 256, (len(grid), *shape, 3), np.uint8)
    expected = np.stack([naive(image, *grid[i], shift=shift) for i, image in enumerate(images)])
    views = weak(torch.from_numpy(images), torch.from_numpy(np.ascontiguousarray(grid)))
    assert torch.equal(views, scale(torch.from_numpy(expected)))


def test_the_border_is_reflected_without_its_edge() -> None:
    image = torch.arange(5, dtype=torch.uint8).view(1, 5, 1, 1).expand(1, 5, 5, 3).contiguous()
    view = weak(image, torch.tensor([[0, -2, 0]]))
    assert ((view[0, 0, :, 0] + 1) * 255 / 2).round().tolist() == [2, 1, 0, 1, 2]


def test_scale() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    scaled = scale(pixels)
    assert scaled.dtype == torch.float32
    assert scaled.shape == (1, 3, 16, 16)
    expected = torch.arange(256, dtype=torch.float64) * (2 / 255) - 1
    assert_same(scaled[0, 0].flatten().double(), expected, roundings=3, dtype=torch.float32)  # 2 / 255, ×, −
    assert (scaled.min().item(), scaled.max().item()) == (-1, 1)
    assert scaled.is_contiguous(memory_format=torch.channels_last)


def test_views_do_not_change_the_images_and_come_in_channels_last() -> None:
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    before = images.clone()
    view = weak(images, torch.from_numpy(draw_weak(np.random.default_rng(0), 4, True, 2)))
    assert torch.equal(images, before)
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_draws_cover_every_shift_evenly() -> None:
    n = 81 * 400
    table = draw_weak(draws.generator(1, "weak"), n, flip=True, shift=4)
    assert table.dtype == np.int64
    counts = np.bincount((table[:, 1] + 4) * 9 + table[:, 2] + 4, minlength=81)
    assert len(counts) == 81
    assert ((counts - 400) ** 2 / 400).sum() < 145  # χ² with 80 degrees of freedom: about one in 10⁵
    assert abs(table[:, 0].mean() - 0.5) < 4 * 0.5 / np.sqrt(n)


def test_draws_without_flip_or_shift() -> None:
    assert not draw_weak(np.random.default_rng(0), 100, flip=False, shift=4)[:, 0].any()
    assert not draw_weak(np.random.default_rng(0), 100, flip=True, shift=0)[:, 1:].any()


def test_draws_differ_between_samples_and_depend_on_the_counter_alone() -> None:
    one, again, other = (draw_weak(draws.generator(1, "weak", step), 64, True, 4) for step in (5, 5, 6))
    assert (one == again).all()
    assert (one != other).any()
    assert len(np.unique(one, axis=0)) > 32
