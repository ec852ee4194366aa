"""CTAugment: what it learns, against a loop; what it draws; and its views, against Pillow."""

from __future__ import annotations

import io
import math

import numpy as np
import pil_policies
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.augment import ctaugment, pixels
from trainer.augment import operations as ops
from trainer.augment.flip_shift import scale

BELOW_1 = float(np.nextafter(np.float32(1), np.float32(0)))


def as_tensors(draws: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in draws.items()}


def with_row(name: str, values: list[float]) -> dict[str, Tensor]:
    """A state in which an operation's weights are these, and 0 for the bins after them."""
    state = ctaugment.init_state()
    row = state["weights"][ops.NAMES.index(name)]
    row[: len(values)] = torch.tensor(values)
    row[len(values) :] = 0
    return state


def probe_of(name: str, level: float, method: float = 0.0, n: int = 1) -> dict[str, Tensor]:
    """Probe draws with this operation in the first layer and the identity in the second."""
    op = torch.tensor([ops.codes(name, "identity")] * n)
    return {"op": op, "level": torch.tensor([[[level, method], [0.5, 0.5]]] * n, dtype=torch.float64)}


def loop(weights: np.ndarray, op: np.ndarray, level: np.ndarray, omega: np.ndarray) -> np.ndarray:
    """The update, one image, layer and parameter after another, float64."""
    weights = weights.astype(np.float64)
    for i in range(len(op)):
        for j in range(op.shape[1]):
            name = ops.NAMES[op[i, j]]
            if name == "identity":
                continue
            rows = [(op[i, j], 8 if name == "posterize" else 17)] + [(19, 6)] * (name == "rescale")
            for k, (row, bins) in enumerate(rows):
                b = int(float(level[i, j, k]) * bins * 0.999)
                weights[row, b] = 0.99 * weights[row, b] + 0.01 * omega[i]
    return weights


def test_state() -> None:
    weights = ctaugment.init_state()["weights"]
    assert weights.shape == (20, 17) and weights.dtype == torch.float32
    bins = dict(zip([*ops.NAMES, "filter"], weights.sum(1).tolist(), strict=True))
    assert bins.pop("identity") == 0 and bins.pop("posterize") == 8 and bins.pop("filter") == 6
    assert len(bins) == 17 and set(bins.values()) == {17}


def test_the_state_survives_a_checkpoint() -> None:
    state = ctaugment.init_state()
    ctaugment.update(state, probe_of("rotate", 0.3), torch.tensor([0.25]))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["weights"], state["weights"])


def test_update_in_closed_form() -> None:
    state = ctaugment.init_state()
    before = state["weights"].clone()
    for omega, expected in ((0.6, 0.996), (0.2, 0.98804)):
        ctaugment.update(state, probe_of("rotate", 0.0), torch.tensor([omega]))
        assert state["weights"][ops.ROTATE, 0].item() == pytest.approx(expected, abs=1e-6)
    changed = state["weights"] != before
    assert changed.sum() == 1 and changed[ops.ROTATE, 0]
    ctaugment.update(state, probe_of("shear_x", 0.4), torch.tensor([1.0]))
    assert torch.equal(state["weights"] != before, changed), "ω = 1 leaves 1"


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [("rotate", 0, 0), ("rotate", 0.5, 8), ("rotate", 0.95, 16), ("rotate", 0.999999, 16), ("posterize", 0.5, 3)],
)
def test_bin_of_a_level(name: str, level: float, expected: int) -> None:
    state = ctaugment.init_state()
    ctaugment.update(state, probe_of(name, level), torch.tensor([0.0]))
    assert (state["weights"] == 0.99).nonzero().tolist() == [[ops.NAMES.index(name), expected]]


def test_rescale_learns_its_filter_too_and_the_identity_nothing() -> None:
    state = ctaugment.init_state()
    ctaugment.update(state, probe_of("rescale", 0.5, 0.5), torch.tensor([0.0]))
    assert (state["weights"] == 0.99).nonzero().tolist() == [[ops.RESCALE, 8], [ctaugment.METHOD, 2]]
    state = ctaugment.init_state()
    ctaugment.update(state, probe_of("identity", 0.5, 0.5), torch.tensor([0.0]))
    assert torch.equal(state["weights"], ctaugment.init_state()["weights"])


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 80), seed=st.integers(0, 2**32 - 1), kinds=st.integers(1, 19))
def test_update_of_a_batch_is_the_loop_over_its_images(n: int, seed: int, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    draws = ctaugment.draw_probe(rng, n, (32, 32))
    draws["op"] %= kinds  # few kinds: many hits of one bin
    draws["level"] = np.where(rng.random(draws["level"].shape) < 0.3, 0.5, draws["level"])
    omega = rng.random(n)
    state = {"weights": ctaugment.init_state()["weights"].double() * torch.from_numpy(rng.uniform(0.5, 1, (20, 17)))}
    expected = loop(state["weights"].numpy(), draws["op"], draws["level"], omega)
    ctaugment.update(state, as_tensors(draws), torch.from_numpy(omega))
    np.testing.assert_allclose(state["weights"].numpy(), expected, rtol=0, atol=1e-14)


def test_update_repeats_bit_for_bit_and_depends_on_the_order() -> None:
    draws, omega = probe_of("rotate", 0.0, n=2), torch.tensor([0.0, 1.0])
    results = []
    for values in (omega, omega, omega.flip(0)):
        state = ctaugment.init_state()
        ctaugment.update(state, draws, values)
        results.append(state["weights"][ops.ROTATE, 0].item())
    assert results[0] == results[1]
    assert results[0] == pytest.approx(0.99 * 0.99 + 0.01)
    assert results[2] == pytest.approx(0.99)


def test_closeness() -> None:
    probs = torch.tensor([[0.7, 0.2, 0.1], [1, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(ctaugment.closeness(probs, torch.tensor([0, 0, 0])), torch.tensor([0.7, 1.0, 0.0]))


def test_probabilities() -> None:
    probs = ctaugment.probabilities(with_row("rotate", [1, 1, 0.85, 0.70]))[ops.ROTATE]
    np.testing.assert_allclose(probs[:4], [0.350694, 0.350694, 0.298611, 0], atol=1e-6)
    assert probs[4:].eq(0).all()
    for value in (1.0, 0.5):
        probs = ctaugment.probabilities({"weights": ctaugment.init_state()["weights"] * value})
        assert torch.allclose(probs[ops.ROTATE], torch.tensor(1 / 17))
        assert torch.allclose(probs[ops.POSTERIZE], torch.tensor([1 / 8] * 8 + [0.0] * 9))
        assert torch.allclose(probs[ctaugment.METHOD], torch.tensor([1 / 6] * 6 + [0.0] * 11))
    assert not probs.isnan().any()


def test_levels_come_from_the_weights() -> None:
    n = 40_000
    draws = as_tensors(ctaugment.draw(np.random.default_rng(0), n, (32, 32)))
    draws["op"].fill_(ops.ROTATE)
    levels = ctaugment.levels(draws, with_row("rotate", [1, 1, 0.85, 0.70]))[..., 0]
    bins = (levels * 17).floor().long()
    share = torch.bincount(bins.flatten(), minlength=4)[:5] / (2 * n)
    np.testing.assert_allclose(share, [0.350694, 0.350694, 0.298611, 0], atol=5 * math.sqrt(0.25 / (2 * n)))
    within = levels * 17 - bins
    assert abs(within.mean() - 0.5) < 5 * math.sqrt(1 / 12 / (2 * n))
    assert within.min() >= 0 and within.max() < 1


@pytest.mark.parametrize("uniform", [0.0, BELOW_1])
def test_no_uniform_number_draws_a_bin_of_probability_0(uniform: float) -> None:
    draws = {"op": torch.full((1, 2), ops.ROTATE), "uniform": torch.full((1, 2, 4), uniform)}
    weights = [0.1] * 3 + [0.9] * 5 + [0.1] * 9
    bins = ctaugment.levels(draws, with_row("rotate", weights))[..., 0] * 17 - uniform
    assert bins.round().tolist() == [[3 if uniform == 0 else 7] * 2]
    every = ctaugment.init_state()
    for code in range(len(ops.NAMES)):
        draws["op"].fill_(code)
        levels = ctaugment.levels(draws, every)
        assert levels.min() >= 0 and levels.max() <= 1


def test_distribution_of_the_draws() -> None:
    n = 20_000
    draws = ctaugment.draw(np.random.default_rng(1), n, (32, 20))
    probe = ctaugment.draw_probe(np.random.default_rng(1), n, (32, 20))
    shapes = [{name: (x.shape[1:], x.dtype) for name, x in each.items()} for each in (draws, probe)]
    assert shapes == [
        {"op": ((2,), np.int64), "uniform": ((2, 4), np.float32), "centre": ((3, 2), np.int64)},
        {"op": ((2,), np.int64), "level": ((2, 2), np.float32), "centre": ((2, 2), np.int64)},
    ]
    for each in (draws, probe):
        counts = np.bincount(each["op"].ravel(), minlength=19)
        assert len(counts) == 19 and np.abs(counts - 2 * n / 19).max() < 5 * (2 * n / 19) ** 0.5
        assert each["centre"].reshape(-1, 2).max(0).tolist() == [31, 19] and each["centre"].min() == 0
    for values in (draws["uniform"], probe["level"]):
        assert values.min() >= 0 and values.max() < 1 and abs(values.mean() - 0.5) < 0.01


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brightness", [0.1, 1.05, 2.0]),
        ("posterize", [1, 4, 8]),
        ("rotate", [-45, 0, 45]),
        ("cutout", [0, 4, 8]),  # half of a side of 1, 8, 16
        ("solarize", [0, 127, 255]),
        ("shear_x", [-0.3, 0, 0.3]),
        ("translate_x", [-9.6, 0, 9.6]),
        ("translate_y", [-9.6, 0, 9.6]),
        ("rescale", [0, 0.125, 0.25]),
        ("invert", [0, 0.5, 1]),
    ],
)
def test_what_a_level_means(name: str, expected: list[float]) -> None:
    level = torch.tensor([0, 0.5, 1], dtype=torch.float64)
    op = torch.full((3,), ops.NAMES.index(name))
    np.testing.assert_allclose(ctaugment.amounts(op, level, (32, 32)), expected, atol=1e-12)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (96, 96), (24, 40), (8, 8)])
def test_views_are_pillows(size: tuple[int, int], legacy: bool) -> None:
    images = pil_policies.patches(*size, count=100 if size != (32, 32) else 500)
    n = len(images)
    rng = np.random.default_rng(2)
    draws, probe = ctaugment.draw(rng, n, size), ctaugment.draw_probe(rng, n, size)
    state = ctaugment.init_state()
    state["weights"] *= torch.rand(20, 17) * 0.4 + 0.6
    levels = ctaugment.levels(as_tensors(draws), state).double().numpy()
    x = torch.from_numpy(images)
    views = [
        (ctaugment.apply(x, as_tensors(draws), state, cutout=False, legacy=legacy), draws, levels),
        (ctaugment.apply_probe(x, as_tensors(probe), legacy=legacy), probe, probe["level"].astype(np.float64)),
    ]
    for view, drawn, level in views:
        assert view.dtype == torch.float32 and view.permute(0, 2, 3, 1).is_contiguous()
        result = ((view.permute(0, 2, 3, 1) + 1) * 127.5).round().numpy()
        for i in range(n):
            names = [ops.NAMES[code] for code in drawn["op"][i]]
            expected = pil_policies.ctaugment(images[i], names, level[i], drawn["centre"][i], legacy)
            np.testing.assert_array_equal(result[i], expected, err_msg=str(names))


def test_the_last_cutout_is_grey_and_legacy_translation_is_nothing() -> None:
    images = torch.from_numpy(pil_policies.patches(count=9))
    draws = as_tensors(ctaugment.draw(np.random.default_rng(0), 9, (32, 32)))
    draws["op"] = torch.tensor([ops.codes("translate_x", "translate_y")] * 9)
    draws["centre"][:, 2] = 0
    state = ctaugment.init_state()
    still = ctaugment.apply(images, draws, state, cutout=False, legacy=True)
    assert torch.equal(still, scale(images))
    assert not torch.equal(still, ctaugment.apply(images, draws, state, cutout=False))
    cut = ctaugment.apply(images, draws, state, cutout=True, legacy=True)
    assert torch.allclose(cut[:, :, :8, :8], torch.tensor(127 * 2 / 255 - 1), atol=1e-6)
    assert torch.equal(cut[:, :, 8:], still[:, :, 8:]) and torch.equal(cut[..., 8:], still[..., 8:])


def test_a_row_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(pil_policies.patches(count=40))
    draws = as_tensors(ctaugment.draw(np.random.default_rng(5), 40, (32, 32)))
    state = ctaugment.init_state()
    whole = ctaugment.apply(images, draws, state, cutout=True)
    some = torch.tensor([31, 4, 17])
    rows = ctaugment.apply(images[some], {name: x[some] for name, x in draws.items()}, state, cutout=True)
    assert torch.equal(rows, whole[some])
    monkeypatch.setattr(pixels, "CACHED", 7 * 1024)
    assert torch.equal(ctaugment.apply(images, draws, state, cutout=True), whole)


def test_everything_compiles_into_one_graph() -> None:
    images = torch.from_numpy(pil_policies.patches(8, 8, count=9))
    rng = np.random.default_rng(6)
    draws, probe = as_tensors(ctaugment.draw(rng, 9, (8, 8))), as_tensors(ctaugment.draw_probe(rng, 9, (8, 8)))
    omega = torch.rand(9)

    def step(state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        ctaugment.update(state, probe, omega)
        return ctaugment.apply(images, draws, state, cutout=True), ctaugment.apply_probe(images, probe)

    states = [ctaugment.init_state() for _ in range(2)]
    expected = step(states[0])
    result = torch.compile(step, fullgraph=True, backend="eager")(states[1])
    assert all(torch.equal(a, b) for a, b in zip(expected, result, strict=True))
    assert torch.equal(states[0]["weights"], states[1]["weights"])
    assert not torch.equal(states[0]["weights"], ctaugment.init_state()["weights"])
