"""γ from features: one class by hand, mixtures whose share is known, and what must not be taken for a mismatch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import assert_same

from trainer.evaluation import mismatch_share
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.mismatch_share import Sample, direction, estimate, known_share
from trainer.networks.wide_resnet import build_model

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


# --- images of a store ----------------------------------------------------------------------------------------------


def seen_by(store: object) -> Evaluator:
    return Evaluator(store, build_model("wrn-10-1", store.num_classes), torch.device("cpu"), bf16=False)


def test_features_are_the_networks(store) -> None:
    images, evaluator = torch.from_numpy(store.dataset.train_images.read(np.arange(7))), seen_by(store)
    features, classes = evaluator.features(images)
    assert (features.shape, features.dtype) == ((7, 64), np.float64)
    logits = evaluator.model.head(torch.from_numpy(features).float())
    assert_same(logits, evaluator.logits(images), roundings=features.shape[1])
    assert (classes == logits.argmax(1).numpy()).all()


def test_a_store_is_sampled(store, monkeypatch) -> None:
    evaluator, seen = seen_by(store), []
    monkeypatch.setattr(evaluator, "features", lambda images: seen.append(images) or (np.ones((len(images), 2)),) * 2)
    monkeypatch.setattr(mismatch_share, "estimate", lambda *rows: 0.25)
    assert Sample(store).share(evaluator) == 0.25
    assert torch.equal(seen[0], torch.from_numpy(store.dataset.train_images.read(store.labeled)))
    assert torch.equal(seen[1], torch.from_numpy(store.dataset.train_images.read(store.unlabeled)))
    monkeypatch.setattr(mismatch_share, "IMAGES", 5)
    store.unlabeled = np.concatenate([store.unlabeled, store.labeled])
    Sample(store).share(evaluator)
    assert [len(images) for images in seen[2:]] == [5, 5]
    assert torch.equal(seen[3][-1], torch.from_numpy(store.dataset.train_images.read(np.array([33])))[0]), "unlabelled"


def test_a_broken_network_says_nothing(store) -> None:
    evaluator = seen_by(store)
    evaluator.model.bn.weight.data.fill_(np.inf)
    assert Sample(store).share(evaluator) == 0


def test_large_images_are_fewer(store, monkeypatch) -> None:
    monkeypatch.setattr(mismatch_share, "MEMORY", 10 * store.dataset.train_images.read(np.arange(1)).nbytes)
    assert [len(images) for images in Sample(store)._images] == [6, 10]


@pytest.mark.parametrize("part", ["labeled", "unlabeled"])
def test_too_few_to_compare(store, part: str) -> None:
    setattr(store, part, getattr(store, part)[:3])
    assert Sample(store).share(seen_by(store)) == 0
