"""Scores of foreign images against their definitions in float64, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.functional import ood_scores


@pytest.fixture
def logits() -> np.ndarray:
    return 30 * np.random.default_rng(0).standard_normal((50, 5))


def test_scores_of_logits(logits: np.ndarray) -> None:
    probs = torch.softmax(torch.from_numpy(logits), 1).numpy()
    np.testing.assert_allclose(ood_scores.one_minus_confidence(logits), 1 - probs.max(1), atol=1e-12)
    np.testing.assert_allclose(ood_scores.max_logit(logits), -logits.max(1))
    np.testing.assert_allclose(ood_scores.energy(logits), -torch.logsumexp(torch.from_numpy(logits), 1).numpy())


def test_logits_of_any_size_give_numbers() -> None:
    huge = np.array([[1e5, -1e5, 0.0], [-1e5, -1e5, -1e5]])
    np.testing.assert_allclose(ood_scores.one_minus_confidence(huge), [0, 2 / 3])
    np.testing.assert_allclose(ood_scores.energy(huge), [-1e5, 1e5 - np.log(3)])


def test_centres_and_neighbours_by_hand() -> None:
    x, y = np.array([[1.0, 0.0], [0.0, 3.0], [0.0, -1.0]]), np.array([0, 0, 2])
    features = np.array([[2.0, 2.0], [-1.0, 0.0], [0.0, -5.0]])
    middle = np.sqrt(0.5)  # the class's mean lies between its two images
    np.testing.assert_allclose(ood_scores.centre(features, x, y), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(ood_scores.nearest(features, x), [1 - middle, 1, 0], atol=1e-12)


@pytest.mark.parametrize(("images", "width"), [(40, 6), (6, 40)])
def test_mahalanobis_is_the_distance_by_the_shrunk_covariance(images: int, width: int) -> None:
    rng = np.random.default_rng(1)
    x, y, features = rng.standard_normal((images, width)), np.arange(images) % 2, rng.standard_normal((9, width))
    means = [x[y == label].mean(0) for label in (0, 1)]
    apart = x - np.stack(means)[y]
    covariance = apart.T @ apart / images
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / width * np.eye(width)
    away = [features - mean for mean in means]
    expected = np.min([np.einsum("nd,de,ne->n", one, np.linalg.inv(shrunk), one) for one in away], 0)
    np.testing.assert_allclose(ood_scores.mahalanobis(features, x, y), expected, rtol=1e-9)


def test_one_label_a_class_gives_distances_to_it() -> None:
    x = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = ood_scores.mahalanobis(np.array([[1.0, 2.0], [0.0, 0.0]]), x, np.array([0, 1]))
    np.testing.assert_allclose(found, [20, 10])
