"""γ from features: one class by hand, mixtures whose share is known, and what must not be taken for a mismatch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.functional import mismatch_share
from trainer.functional.mismatch_share import direction, estimate, known_share

CLASSES, DIMENSIONS = 3, 8


def test_known_share_by_hand() -> None:
    """99 of 99 values lie below the last of x, whose share is .99, and 19 of u, 20 / 101, plus two standard errors."""
    off_x, off_u = 2 * (0.01 / (0.99 * 101)) ** 0.5, 2 * ((81 / 101) / (20 / 101 * 102)) ** 0.5
    expected = (20 / 101) / 0.99 * (1 + ((1 / (1 - off_x) - 1) ** 2 + off_u**2) ** 0.5)
    assert known_share(np.arange(99.0)[::-1], np.repeat([-1.0, 100], [19, 80])) == pytest.approx(expected)
    assert known_share(np.array([0.0, 1, 2, 9]), np.array([5.0, 5, 0, 5])) == 1, "four values cannot tell"


@pytest.mark.parametrize("foreign", [0, 0.01, 0.5, 3])
def test_values_beyond_all_labelled_ones_are_foreign(foreign: float) -> None:
    x = np.linspace(0, 1, 5000)
    u = np.concatenate([x, np.full(int(5000 * foreign), 2.0)])
    assert 0 <= known_share(x, u) - 1 / (1 + foreign) < 0.02


def test_nothing_is_foreign_without_evidence() -> None:
    x = np.linspace(0, 1, 50)
    assert known_share(x, x - 1) == 1, "more like labelled images than those are"
    assert known_share(x[:1], x + 9) == 1, "one labelled image tells nothing"
    assert known_share(x, x[:0]) == 1


def test_a_rarer_class_is_no_direction() -> None:
    """The same two images of two classes, nine to one among the labelled ones, one to nine among the others."""
    images, rare, often = np.eye(DIMENSIONS)[:2], np.repeat([0, 1], [9, 1]), np.repeat([0, 1], [1, 9])
    np.testing.assert_allclose(direction(images[often], often, images[rare], rare, CLASSES), 0, atol=1e-12)
    moved = images[rare] + np.eye(DIMENSIONS)[5]
    assert np.abs(direction(images[often], often, moved, rare, CLASSES)).argmax() == 5


def test_the_direction_is_fishers() -> None:
    """Two clouds of one class: (Σ_x + Σ_u + ridge) w = difference of the means."""
    rng = np.random.default_rng(0)
    x, u = rng.normal(0, 1, (60, 2)) * [1, 5], rng.normal(1, 1, (80, 2)) * [1, 5]
    none = np.zeros(80, np.int64)
    covariance = np.cov(x.T, bias=True) + np.cov(u.T, bias=True)
    covariance += mismatch_share.RIDGE * np.trace(covariance) / 2 * np.eye(2)
    expected = np.linalg.inv(covariance) @ (u.mean(0) - x.mean(0))
    np.testing.assert_allclose(direction(x, none[:60], u, none, CLASSES), expected)


def mixture(rng: np.random.Generator, count: int, shares: list[float], foreign: float) -> tuple[np.ndarray, np.ndarray]:
    """Features around a centre for each class, foreign ones around another, and the class whose centre is nearest."""
    centres = 4 * np.eye(DIMENSIONS)[: CLASSES + 1]
    which = rng.choice(CLASSES, count, p=shares)
    which[rng.permutation(count)[: round(foreign * count)]] = CLASSES
    features = centres[which] + rng.normal(0, 1, (count, DIMENSIONS))
    return features, ((features[:, None] - centres[None, :CLASSES]) ** 2).sum(2).argmin(1)


@pytest.mark.parametrize("foreign", [0, 0.25, 0.5, 0.75, 1])
@pytest.mark.parametrize("shares", [[1 / 3, 1 / 3, 1 / 3], [0.8, 0.2, 0]])
def test_mixtures_give_their_share(foreign: float, shares: list[float]) -> None:
    rng = np.random.default_rng(1)
    found = estimate(*mixture(rng, 2000, [1 / 3] * 3, 0), *mixture(rng, 3000, shares, foreign), CLASSES)
    assert found == pytest.approx(foreign, abs=0.07)


@pytest.mark.parametrize(("labels", "others"), [(24, 2000), (2000, 24), (60, 60), (4, 4)])
def test_few_images_give_too_little(labels: int, others: int) -> None:
    found = {0: [], 0.5: []}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for foreign, shares in found.items():
            x, u = (mixture(rng, count, [1 / 3] * 3, share) for count, share in ((labels, 0), (others, foreign)))
            shares.append(estimate(*x, *u, CLASSES))
    assert np.mean(found[0]) < 0.05
    assert np.mean(found[0.5]) < 0.5


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(4, 40), st.integers(4, 40), st.sampled_from([0.01, 1, 30]))
def test_any_features(seed: int, n: int, m: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, u = rng.normal(0, 1, (n, DIMENSIONS)), rng.normal(rng.uniform(0, 2), rng.uniform(0.1, 3), (m, DIMENSIONS))
    of_x, of_u = rng.integers(0, CLASSES, n), rng.integers(0, CLASSES, m)
    share = estimate(x, of_x, u, of_u, CLASSES)
    assert 0 <= share <= 1
    assert estimate(scale * x + 3, of_x, scale * u + 3, of_u, CLASSES) == pytest.approx(share, abs=1 / m)
    assert estimate(x, of_x, np.concatenate([x, x]), np.tile(of_x, 2), CLASSES) < 0.8
    same = np.ones((n, DIMENSIONS))
    assert estimate(same, of_x, same, of_x, CLASSES) == 0


@pytest.mark.parametrize(("n", "m"), [(3, 9), (9, 3), (0, 9)])
def test_too_few_to_compare(n: int, m: int) -> None:
    x, u = np.eye(DIMENSIONS)[np.zeros(n, np.int64)], np.eye(DIMENSIONS)[np.ones(m, np.int64)]
    assert estimate(x, np.zeros(n, np.int64), u, np.zeros(m, np.int64), CLASSES) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_say_nothing(value: float) -> None:
    rng, classes = np.random.default_rng(0), np.zeros(60, np.int64)
    x, u = rng.normal(0, 1, (60, 2)), rng.normal(9, 1, (60, 2))
    assert estimate(x, classes, u, classes, 1) > 0.3
    u[7, 1] = value
    assert estimate(x, classes, u, classes, 1) == 0
