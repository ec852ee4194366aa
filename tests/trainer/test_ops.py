"""Operations of the methods against values worked out by hand (float64) and against their algebraic properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor

from trainer.functional import ops

Z = [2.0, 1.0, 0.0]


def t64(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def near(actual: Tensor, expected: object, tolerance: float = 1e-6) -> None:
    assert_allclose(actual.detach().numpy(), np.asarray(expected), rtol=0, atol=tolerance)


def random_logits(seed: int, rows: int, classes: int) -> Tensor:
    return 4 * torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("probs", "temperature", "expected"),
    [
        ([0.5, 0.3, 0.2], 0.5, [0.657895, 0.236842, 0.105263]),
        ([0.5, 0.3, 0.2], 0.25, [0.865651, 0.112188, 0.022161]),
        ([0.5, 0.3, 0.2], 1.0, [0.5, 0.3, 0.2]),
        ([0.6, 0.4], 0.5, [0.692308, 0.307692]),
        ([0.25] * 4, 0.3, [0.25] * 4),
        ([0.0, 1.0, 0.0], 0.5, [0.0, 1.0, 0.0]),
    ],
)
def test_sharpen(probs: list[float], temperature: float, expected: list[float]) -> None:
    near(ops.sharpen(t64(probs), temperature)[0], expected)


def test_sharpen_does_not_underflow() -> None:
    near(ops.sharpen(torch.tensor([[2e-3, 1e-3, 1e-3]]), 0.01), [[1, 0, 0]])


def test_sharpening_a_softmax_divides_its_logits() -> None:
    probs = ops.softmax(t64(Z))
    near(probs[0], [0.665241, 0.244728, 0.090031])
    near(ops.sharpen(probs, 0.4)[0], [0.918423, 0.075389, 0.006188])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(2, 12), st.floats(0.05, 1.0))
def test_sharpen_stays_in_the_simplex_and_keeps_the_order(seed: int, classes: int, temperature: float) -> None:
    probs = ops.softmax(random_logits(seed, 5, classes))
    sharp = ops.sharpen(probs, temperature)
    near(sharp.sum(1), np.ones(5), 1e-12)
    assert (sharp.argmax(1) == probs.argmax(1)).all()
    assert (sharp.gather(1, probs.argsort(1)).diff(dim=1) >= 0).all()
    assert (sharp.amax(1) >= probs.amax(1) - 1e-12).all()


def test_guess_averages_before_it_sharpens_and_has_no_gradient() -> None:
    views = [t64([0.7, 0.2, 0.1]).log().requires_grad_(), t64([0.3, 0.4, 0.3]).log().requires_grad_()]
    q = ops.guess(views, 0.5)
    near(q[0], [0.657895, 0.236842, 0.105263])
    assert not q.requires_grad


def test_targets() -> None:
    hard = ops.one_hot(torch.tensor([1]), 10)
    assert hard.dtype == torch.float32
    smooth = ops.smooth(hard.double(), 0.001)[0]
    near(smooth[[1, 0]], [0.9991, 0.0001], 1e-12)
    near(smooth.sum(), 1.0, 1e-12)
    assert torch.equal(ops.smooth(hard, 0.0), hard)


def test_mixup_of_one_pair() -> None:
    lam = torch.tensor([0.7, 1.0], dtype=torch.float64)
    partner = torch.tensor([1, 0])
    near(ops.mixup(t64([1, 2], [3, -2]), lam, partner)[0], [1.6, 0.8], 1e-12)
    near(ops.mixup(t64([1, 0], [0, 1]), lam, partner)[0], [0.7, 0.3], 1e-12)


def test_mixup_gives_each_row_its_own_weight() -> None:
    mixed = ops.mixup(torch.eye(2, dtype=torch.float64), torch.tensor([0.9, 0.6]), torch.tensor([1, 0]))
    near(mixed, [[0.9, 0.1], [0.4, 0.6]], 1e-7)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_mixup_keeps_mass_and_the_rows_that_meet_themselves(seed: int, rows: int) -> None:
    random = torch.Generator().manual_seed(seed)
    targets = ops.softmax(random_logits(seed, rows, 4))
    images = torch.randn(rows, 3, 2, 2, generator=random, dtype=torch.float64)
    lam = 0.5 + torch.rand(rows, generator=random) / 2
    partner = torch.randperm(rows, generator=random)
    mixed = ops.mixup(targets, lam, partner)
    near(mixed.sum(1), np.ones(rows), 1e-12)
    assert (mixed >= 0).all()
    assert torch.equal(ops.mixup(images, lam, torch.arange(rows)), images)
    weight = lam.double().view(-1, 1, 1, 1)
    assert_allclose(ops.mixup(images, lam, partner), weight * images + (1 - weight) * images[partner], atol=1e-12)


@pytest.mark.parametrize(
    ("others", "offsets"),
    [
        (2, [0, 21, 42, 64]),
        (3, [0, 16, 32, 48, 64]),
        (5, [0, 10, 20, 31, 42, 53, 64]),
        (9, [0, 6, 12, 18, 24, 30, 36, 43, 50, 57, 64]),
    ],
)
def test_pieces_of_a_batch_of_64(others: int, offsets: list[int]) -> None:
    assert ops.pieces(64, others + 1) == np.diff(offsets).tolist()


def test_interleave_of_three_batches() -> None:
    a, b, c = (torch.tensor([0, 1, 2]) + 10 * i for i in range(3))
    mixed = ops.interleave([a, b, c])
    assert [batch.tolist() for batch in mixed] == [[0, 11, 22], [10, 1, 12], [20, 21, 2]]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(1, 20))
def test_interleave_is_its_own_inverse_and_loses_no_row(batches: int, rows: int) -> None:
    x = torch.arange(batches * rows * 2).view(batches, rows, 2)
    mixed = ops.interleave(x.unbind())
    assert torch.equal(torch.stack(ops.interleave(mixed)), x)
    assert torch.equal(torch.cat(mixed)[:, 0].sort().values, x[..., 0].flatten())


def test_interleaving_changes_no_row_of_a_net_without_batchnorm() -> None:
    net = torch.nn.Linear(5, 3).double()
    x = torch.randn(3, 7, 5, dtype=torch.float64)
    there_and_back = ops.interleave([net(batch) for batch in ops.interleave(x.unbind())])
    assert_allclose(torch.stack(there_and_back).detach(), net(x).detach(), atol=1e-12)


def test_interleaved_first_batch_is_a_mixture_of_all() -> None:
    first = ops.interleave([torch.full((64,), i) for i in range(3)])[0]
    assert torch.bincount(first).tolist() == [21, 21, 22]


def test_cross_entropy() -> None:
    near(ops.cross_entropy(t64([0.5, 0.2, 0.3]).log(), t64([0.7, 0.3, 0.0])), [0.968034])
    near(ops.cross_entropy(t64(Z), ops.softmax(t64(Z))), [0.832396])
    near(ops.cross_entropy(torch.zeros(1, 10), torch.full((1, 10), 0.1)), [2.302585])
    near(ops.cross_entropy(t64([0.5, 0.15, 0.25, 0.1]).log(), t64([0.7, 0.3, 0, 0])), [1.054339])


def test_squared_error_has_its_gradient_in_the_student() -> None:
    student, teacher = t64(Z).requires_grad_(), t64([1.0, 1.0, 0.0]).requires_grad_()
    near(ops.softmax(teacher)[0], [0.422319, 0.422319, 0.155362])
    value = ops.squared_error(student, ops.softmax(teacher))
    near(value, [0.031606])
    near(3 * value, [0.094818], 2e-6)
    value.sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    swapped = t64([1.0, 1.0, 0.0]).requires_grad_()
    other = ops.squared_error(swapped, ops.softmax(t64(Z)))
    near(other, value.detach())
    other.sum().backward()
    assert not torch.allclose(swapped.grad, student.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given_dtype", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_narrow_types_are_computed_in_float32(given_dtype: torch.dtype, computed: torch.dtype) -> None:
    logits = torch.tensor([Z], dtype=given_dtype)
    targets = torch.tensor([[1.0, 0.0, 0.0]], dtype=given_dtype)
    assert ops.sharpen(ops.softmax(logits), 0.5).dtype == computed
    assert ops.cross_entropy(logits, targets).dtype == computed
    assert ops.squared_error(logits, targets).dtype == computed
    assert ops.mixup(logits, torch.tensor([0.75]), torch.tensor([0])).dtype == computed
    assert ops.cross_entropy(logits, targets).item() == pytest.approx(-math.log(0.665241), abs=1e-5)
