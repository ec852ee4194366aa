"""Methods that are fitted at once, against scikit-learn and closed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from networks.embedded.linear import Neighbours, of_tensors, unit
from trainer.contract import Examples
from trainer.functional import logistic, spreading
from trainer.methods import FITTED, load_method

CLASSES = 3


def examples(count: int, features: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Examples:
    """Normal distributions around a centre for each class."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    centres = rng.normal(size=(CLASSES, features))
    x, u = (torch.from_numpy(centres[y] + rng.normal(size=(count, features))).to(dtype) for _ in range(2))
    return Examples(x, torch.from_numpy(y), lambda: u, CLASSES, seed)


# --- logistic regression --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "features"), [(60, 5), (12, 40)])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 30.0])
def test_logistic_regression_is_scikit_learns(count: int, features: int, strength: float) -> None:
    from sklearn.linear_model import LogisticRegression

    given = examples(count, features, dtype=torch.float64)
    weights, bias = logistic.fit(given.x, given.y, CLASSES, strength)
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(given.x.numpy(), given.y.numpy())
    ours = (given.x @ weights.T + bias).softmax(1)
    np.testing.assert_allclose(ours, theirs.predict_proba(given.x.numpy()), atol=1e-4)
    np.testing.assert_allclose(weights - weights.mean(0), theirs.coef_ - theirs.coef_.mean(0), atol=1e-3)


def test_the_minimum_has_no_slope() -> None:
    given = examples(30, 50, dtype=torch.float64)
    weights, bias = (part.requires_grad_() for part in logistic.fit(given.x, given.y, CLASSES, 0.1))
    loss = torch.nn.functional.cross_entropy(given.x @ weights.T + bias, given.y, reduction="sum")
    (0.1 * loss + 0.5 * weights.square().sum()).backward()
    assert max(weights.grad.abs().max().item(), bias.grad.abs().max().item()) < 1e-4


def test_the_strength_is_the_one_that_predicts_held_out_labels_best() -> None:
    """Noise wants a strong penalty, classes that are far apart a weak one."""
    near, far = examples(60, 20, dtype=torch.float64), examples(60, 20, dtype=torch.float64)
    noise = dataclasses.replace(near, x=torch.from_numpy(np.random.default_rng(1).normal(size=(60, 20))))
    far = dataclasses.replace(far, x=far.x + 20 * torch.eye(20, dtype=torch.float64)[far.y])
    chosen = [logistic.choose(given.x, given.y, CLASSES, 0) for given in (noise, far)]
    assert chosen[0] < 1e-2 < chosen[1]
    assert logistic.choose(far.x, far.y, CLASSES, 0) == chosen[1]


def test_one_label_in_a_class_cannot_be_held_out() -> None:
    given = examples(CLASSES, 4, dtype=torch.float64)
    assert logistic.choose(given.x, given.y, CLASSES, 0) == logistic.ALONE


# --- neighbours -----------------------------------------------------------------------------------------------------


def test_one_nearest_neighbour_is_scikit_learns() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    given, method = examples(45, 6), load_method("knn")
    network = of_tensors("neighbours", method.fit(given, method.Settings(neighbours=1)))
    theirs = KNeighborsClassifier(1, metric="cosine").fit(given.x.numpy(), given.y.numpy())
    u = given.unlabeled()
    assert (network(u).argmax(1).numpy() == theirs.predict(u.numpy())).all()


def test_votes_are_weighted_by_cosines() -> None:
    """Rows at 0°, 60° and 90° of the one asked about: with power 2 the votes are 1, ¼ and 0."""
    angles = torch.tensor([0.0, 60.0, 90.0]).deg2rad()
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    network = Neighbours(spreading.table(7 * rows, torch.eye(3), 3, 2.0))
    np.testing.assert_allclose(network(torch.tensor([[3.0, 0.0]])).exp().detach(), [[0.8, 0.2, 0.0]], atol=1e-5)
    outputs = network(torch.tensor([[3.0, 0.0]]), heads=("features", "classes"))
    assert outputs["features"].tolist() == [[3.0, 0.0]]


def test_spreading_is_the_solution_of_its_equation() -> None:
    """F = (1 − α)(I − α S)⁻¹ Y, rows normalised; scikit-learn's with the same graph gives it too."""
    from sklearn.semi_supervised import LabelSpreading

    given = examples(30, 5, dtype=torch.float64)
    rows, known, alpha = unit(given.x), torch.arange(30) < 6, 0.8
    y = torch.nn.functional.one_hot(given.y, CLASSES).double() * known.unsqueeze(1)
    found = spreading.spread(rows, y, 4, 2.0, alpha)
    cosine = (rows @ rows.T).fill_diagonal_(-2)
    nearest = torch.zeros(30, 30, dtype=torch.float64).scatter(1, cosine.topk(4, 1).indices, 1.0)
    graph = nearest * cosine.clamp(min=0) ** 2
    graph = (graph + graph.T).numpy()
    degree = graph.sum(1)
    s = graph / np.sqrt(np.outer(degree, degree))
    expected = np.linalg.solve(np.eye(30) - alpha * s, (1 - alpha) * y.numpy())
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    labels = np.where(known, given.y, -1)
    theirs = LabelSpreading(kernel=lambda a, b: graph, alpha=alpha, max_iter=1000, tol=1e-9).fit(rows.numpy(), labels)
    np.testing.assert_allclose(found, theirs.label_distributions_, atol=1e-3)


def test_what_no_label_reaches_is_uniform() -> None:
    rows = unit(torch.tensor([[1.0, 0, 0], [1, 0.1, 0], [0, 0, 1], [0, 0.1, 1]]))
    y = torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 0]])
    found = spreading.spread(rows, y, 1, 3.0, 0.9)
    np.testing.assert_allclose(found, [[1, 0], [1, 0], [0.5, 0.5], [0.5, 0.5]], atol=1e-3)


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FITTED)
def test_a_fit_is_the_same_again_and_better_than_chance(name: str) -> None:
    given, method = examples(60, 8), load_method(name)
    first, second = (method.fit(given, method.Settings()) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    network = of_tensors(method.NETWORK, first)
    right = (network(given.unlabeled()).argmax(1) == given.y).double().mean()
    assert right > 0.6


def test_label_spreading_takes_no_more_images_than_it_is_told() -> None:
    method, given = load_method("label_spreading"), examples(60, 8)
    table: dict[str, Tensor] = method.fit(given, method.Settings(most=10))
    assert len(table["rows"]) == 60 + 10
