"""Every operation of the strong policies against Pillow, on photographs and images with hardly any levels."""

from __future__ import annotations

import numpy as np
import pil_policies
import pytest
import torch
from PIL import Image

from trainer.augment import operations as ops
from trainer.augment import warp
from trainer.augment.pixels import box, paint, planes
from trainer.augment.rescale import FILTERS, matrices, rescale
from trainer.augment.tone import adjust

MOVED = [name for name in ops.NAMES if name not in ("rescale", "cutout")]
SIZES = [(96, 96), (24, 40), (33, 17), (8, 8), (4, 3)]


def random_amounts(name: str, n: int, size: tuple[int, int]) -> np.ndarray:
    """float64 [n] over the operation's whole range, ends included."""
    rng = np.random.default_rng(1)
    whole = {"posterize": (1, 8), "solarize": (0, 256), "rotate": (-45, 45)}
    if name in whole:
        low, high = whole[name]
        return np.r_[low, high, rng.integers(low, high + 1, n - 2)].astype(np.float64)
    low, high = 0.0, 1.0
    if name in pil_policies.ENHANCERS:
        low, high = 0.1, 2.0
    elif name in pil_policies.AFFINE:
        high = 0.3 * {"translate_x": size[1], "translate_y": size[0]}.get(name, 1)
        low = -high
    return np.r_[low, high, rng.uniform(low, high, n - 2)]


def batched(images: np.ndarray, op: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """float32 [n, H, W, 3]."""
    pixels, code, by = planes(torch.from_numpy(images)), torch.from_numpy(op), torch.from_numpy(amount)
    place = warp.sources(code, by, images.shape[1:3])
    return adjust(warp.move(pixels, *place), code, by, range(len(ops.NAMES))).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", MOVED)
def test_an_operation_is_pillows_to_the_level(name: str) -> None:
    images = pil_policies.patches()
    amounts = random_amounts(name, len(images), (32, 32))
    expected = [
        np.asarray(pil_policies.transform(Image.fromarray(x), name, a)) for x, a in zip(images, amounts, strict=True)
    ]
    result = batched(images, np.full(len(images), ops.NAMES.index(name)), amounts)
    np.testing.assert_array_equal(result, np.stack(expected))


@pytest.mark.parametrize("size", SIZES)
def test_other_sizes_with_all_operations_in_one_batch(size: tuple[int, int]) -> None:
    images = pil_policies.patches(*size, count=30 * len(MOVED))
    names = MOVED * 30
    amounts = np.stack([random_amounts(name, 30, size) for name in MOVED], 1).ravel()
    result = batched(images, np.array(ops.codes(*names)), amounts)
    for x, name, amount, got in zip(images, names, amounts, result, strict=True):
        np.testing.assert_array_equal(got, pil_policies.transform(Image.fromarray(x), name, amount), err_msg=name)


@pytest.mark.parametrize("size", [(32, 32), *SIZES])
def test_rescale_with_every_filter(size: tuple[int, int]) -> None:
    images = pil_policies.patches(*size, count=60)
    method = np.arange(60) % len(FILTERS)
    margin = np.random.default_rng(2).uniform(0, 0.25, 60)
    margin[:12] = np.repeat([0, 0.25], 6)
    down, across = (matrices(side, torch.device("cpu")) for side in size)
    pixels = planes(torch.from_numpy(images))
    result = rescale(pixels, torch.from_numpy(margin), torch.from_numpy(method), down, across).permute(0, 2, 3, 1)
    for x, m, f, got in zip(images, margin, method, result.numpy(), strict=True):
        expected = pil_policies.transform(Image.fromarray(x), "rescale", m, f)
        np.testing.assert_array_equal(got, expected, err_msg=f"{m} {FILTERS[f]}")
    assert np.array_equal(result[:6].numpy(), images[:6]), "no margin, no change, by any filter"


def test_a_row_does_not_depend_on_the_others() -> None:
    images = pil_policies.patches(count=64)
    op = np.random.default_rng(3).permutation(64) % len(ops.NAMES)
    amount = np.where(op == ops.POSTERIZE, 3, np.random.default_rng(4).uniform(0.1, 1, 64))
    together = batched(images, op, amount)
    for i in range(0, 64, 7):
        assert np.array_equal(batched(images[i : i + 1], op[i : i + 1], amount[i : i + 1])[0], together[i])
    order = np.random.default_rng(5).permutation(64)
    assert np.array_equal(batched(images[order], op[order], amount[order]), together[order])


def test_what_geometry_exposes_is_0_and_false() -> None:
    images = planes(torch.from_numpy(pil_policies.patches(count=9)))
    op = torch.full((9,), ops.TRANSLATE_X)
    place = warp.sources(op, torch.arange(9, dtype=torch.float64), (32, 32))
    moved, shown = warp.move(images, *place), warp.move(torch.ones_like(images[:, :1], dtype=torch.bool), *place)
    for i in range(1, 9):
        assert torch.equal(moved[i, :, :, :-i], images[i, :, :, i:]), "content moves left"
        assert moved[i, :, :, -i:].eq(0).all()
        assert shown[i, :, :, :-i].all() and not shown[i, :, :, -i:].any()


def test_cutout_of_half_the_side() -> None:
    centres = torch.cartesian_prod(torch.arange(32), torch.arange(32))
    boxes = box(centres, 8, (32, 32))
    assert boxes.shape == (1024, 1, 32, 32)
    assert boxes.float().sum((1, 2, 3)).mean().item() == 196  # 19.140625 % of 1024
    assert boxes.any(3).float().sum((1, 2)).mean().item() == 14
    assert boxes[0].sum().item() == 64, "8 × 8 in the corner"
    assert boxes[0, 0, :8, :8].all()
    assert not box(centres, torch.zeros(1024), (32, 32)).any()
    each = box(torch.tensor([[16, 16], [16, 16]]), torch.tensor([2, 3]), (32, 20))
    assert each.sum((1, 2, 3)).tolist() == [16, 36]


def test_paint_is_one_colour_within_and_nothing_without() -> None:
    images = pil_policies.patches(count=10)
    where = box(torch.arange(20).view(10, 2), 4, (32, 32))
    painted = paint(planes(torch.from_numpy(images)), where, (1, 2, 255)).permute(0, 2, 3, 1).numpy()
    inside = where[:, 0].numpy()
    assert (painted[inside] == [1, 2, 255]).all()
    assert np.array_equal(painted[~inside], images[~inside])
