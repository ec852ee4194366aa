"""RandAugment: its lists and magnitudes, the distribution of its draws, and the whole policy against Pillow."""

from __future__ import annotations

import numpy as np
import pil_policies
import pytest
import torch
from torch import Tensor

from trainer.augment import operations as ops
from trainer.augment import pixels, randaugment
from trainer.augment.randaugment import KINDS, Variant


def as_tensors(draws: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in draws.items()}


@pytest.mark.parametrize("variant", ["fixmatch", "uda"])
@pytest.mark.parametrize("size", [(32, 32), (96, 96), (24, 40), (8, 8)])
def test_the_policy_is_pillows_with_transparency(variant: Variant, size: tuple[int, int]) -> None:
    images = pil_policies.patches(*size, count=150 if size != (32, 32) else 700)
    draws = randaugment.draw(np.random.default_rng(0), len(images), size, variant)
    view = randaugment.apply(torch.from_numpy(images), as_tensors(draws), variant)
    assert view.dtype == torch.float32 and view.shape == (len(images), 3, *size)
    assert view.permute(0, 2, 3, 1).is_contiguous(), "channels_last"
    for i, image in enumerate(images):
        names = [ops.NAMES[code] for code in draws["op"][i]]
        expected = pil_policies.randaugment(image, names, draws["amount"][i], draws["centre"][i])
        np.testing.assert_allclose(view[i].permute(1, 2, 0), expected, atol=1e-6, err_msg=str(names))


def test_lists() -> None:
    assert len(set(KINDS["fixmatch"])) == 14 and len(set(KINDS["uda"])) == 15
    assert set(KINDS["uda"]) - set(KINDS["fixmatch"]) == {ops.INVERT, ops.CUTOUT}
    assert set(KINDS["fixmatch"]) - set(KINDS["uda"]) == {ops.IDENTITY}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rotate", [3, 6, 9, 12, 15, 18, 21, 24, 27]),
        ("shear_x", [0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.21, 0.24, 0.27]),
        ("shear_y", [0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.21, 0.24, 0.27]),
        ("translate_x", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("translate_y", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("color", [0.28, 0.46, 0.64, 0.82, 1, 1.18, 1.36, 1.54, 1.72]),
        ("sharpness", [0.28, 0.46, 0.64, 0.82, 1, 1.18, 1.36, 1.54, 1.72]),
        ("posterize", [4, 4, 3, 3, 2, 2, 2, 1, 1]),
        ("solarize", [231, 205, 180, 154, 128, 103, 77, 52, 26]),
        ("cutout", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("autocontrast", [1] * 9),
        ("equalize", [1] * 9),
        ("invert", [1] * 9),
    ],
)
def test_magnitudes(name: str, expected: list[float]) -> None:
    op, magnitude = np.full(9, ops.NAMES.index(name)), np.arange(1, 10)
    signed = name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    np.testing.assert_allclose(randaugment.amounts(op, magnitude, np.ones(9, int), (32, 32)), expected)
    backward = randaugment.amounts(op, magnitude, -np.ones(9, int), (32, 32))
    np.testing.assert_allclose(backward, np.array(expected) * (-1 if signed else 1))
    in_pixels = {"translate_x": 6, "translate_y": 3, "cutout": 3}.get(name, 1)
    larger = randaugment.amounts(op, magnitude, np.ones(9, int), (96, 192))
    np.testing.assert_allclose(larger, np.array(expected) * in_pixels)


@pytest.mark.parametrize("variant", ["fixmatch", "uda"])
def test_distribution_of_the_draws(variant: Variant) -> None:
    n = 20_000
    draws = randaugment.draw(np.random.default_rng(3), n, (32, 20), variant)
    again = randaugment.draw(np.random.default_rng(3), n, (32, 20), variant)
    assert {name: (values.shape, values.dtype) for name, values in draws.items()} == {
        "op": ((n, 2), np.int64),
        "amount": ((n, 2), np.float64),
        "centre": ((n, 3, 2), np.int64),
    }
    assert all(np.array_equal(draws[name], again[name]) for name in draws)
    op, amount, centre = draws.values()
    kinds = KINDS[variant]
    for code in kinds:
        share = 0.5 / len(kinds) + 0.5 * (code == ops.IDENTITY)
        assert abs((op == code).mean() - share) < 5 * (share / (2 * n)) ** 0.5
    share = 0.5 + 0.5 / 14 * (variant == "fixmatch")
    assert abs((op == ops.IDENTITY).mean() - share) < 0.02
    assert abs(np.corrcoef((op == ops.IDENTITY).T)[0, 1]) < 0.04, "the layers are independent"
    degrees = amount[op == ops.ROTATE]
    assert set(degrees) == {sign * 3 * m for m in range(1, 10) for sign in (-1, 1)}
    assert abs(degrees.mean()) < 5 * 17 / len(degrees) ** 0.5
    assert abs(np.abs(degrees).mean() - 15) < 5 * 8 / len(degrees) ** 0.5
    for axis, side in enumerate((32, 20)):
        counts = np.bincount(centre[:, :, axis].ravel(), minlength=side)
        assert len(counts) == side
        assert np.abs(counts - 3 * n / side).max() < 5 * (3 * n / side) ** 0.5


def test_what_geometry_exposes_and_what_is_cut_out_is_mid_grey() -> None:
    image = torch.full((3, 32, 32, 3), 255, dtype=torch.uint8)
    draws = {
        "op": torch.tensor([[ops.TRANSLATE_X, ops.IDENTITY], [ops.TRANSLATE_X, ops.INVERT], [0, 0]]),
        "amount": torch.tensor([[9.0, 1.0]] * 3, dtype=torch.float64),
        "centre": torch.zeros(3, 3, 2, dtype=torch.int64),
    }
    view = randaugment.apply(image, draws, "uda")
    assert view[:, :, :8, :8].eq(0).all(), "CutOut"
    assert view[0, :, :, 23:].eq(0).all()
    assert view[0, :, 8:, :23].eq(1).all()
    assert view[1, :, :, 23:].eq(1).all(), "invert makes an opaque image of it: black, then white"
    assert view[2, :, 8:].eq(1).all()


def test_in_parts_on_a_cpu_it_is_the_same_view(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(pil_policies.patches(count=50))
    draws = as_tensors(randaugment.draw(np.random.default_rng(6), 50, (32, 32), "uda"))
    whole = randaugment.apply(images, draws, "uda")
    assert torch.equal(whole, randaugment.apply(images, draws, "uda"))
    some = torch.tensor([31, 4, 17])
    rows = randaugment.apply(images[some], {name: x[some] for name, x in draws.items()}, "uda")
    assert torch.equal(rows, whole[some]), "a row does not depend on the others"
    monkeypatch.setattr(pixels, "CACHED", 7 * 1024)
    parts = randaugment.apply(images, draws, "uda")
    assert torch.equal(parts, whole)
    assert parts.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("variant", ["fixmatch", "uda"])
def test_it_compiles_into_one_graph(variant: Variant) -> None:
    images = torch.from_numpy(pil_policies.patches(8, 8, count=20))
    draws = as_tensors(randaugment.draw(np.random.default_rng(6), 20, (8, 8), variant))
    compiled = torch.compile(randaugment.apply, fullgraph=True, backend="eager")
    assert torch.equal(compiled(images, draws, variant), randaugment.apply(images, draws, variant))
