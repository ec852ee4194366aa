"""Foreign images by walks: the closed forms against walks without the labels, scores and shares on known mixtures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation.scores import auroc
from trainer.functional.foreign import share
from trainer.functional.walks import SURVIVAL, Walks

CLASSES = 8


def blobs(rng: np.random.Generator, labels: int, known: int, each: int = 40, width: float = 0.35):
    """Features of `CLASSES` clusters of which `known` are labelled: x, y, u, and which of u are foreign."""
    centres = rng.standard_normal((CLASSES, 24))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    classes = np.repeat(np.arange(CLASSES), each)
    features = centres[classes] + width * rng.standard_normal((len(classes), 24)) / np.sqrt(24) * 2
    labeled = np.concatenate([np.flatnonzero(classes == c)[:labels] for c in range(known)])
    rest = np.setdiff1d(np.arange(len(classes)), labeled)
    return features[labeled], classes[labeled], features[rest], classes[rest] >= known


def without(x: np.ndarray, y: np.ndarray, u: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """Scores of the dropped labelled images if they had no labels, from walks of their own."""
    order = np.concatenate([np.flatnonzero(dropped), np.flatnonzero(~dropped)])
    moved = int(dropped.sum())
    return Walks(x[order[moved:]], y[order[moved:]], np.concatenate([x[order[:moved]], u])).scores[:moved]


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_left_out_in_closed_form_is_what_walks_without_it_give(seed: int) -> None:
    x, y, u, _ = blobs(np.random.default_rng(seed), labels=3, known=5)
    one, by_class = Walks(x, y, u).left_out()
    for i in range(len(x)):
        np.testing.assert_allclose(one[i], without(x, y, u, np.arange(len(x)) == i)[0], rtol=0, atol=1e-8)
    for c in range(5):
        np.testing.assert_allclose(by_class[y == c], without(x, y, u, y == c), rtol=0, atol=1e-8)


def test_two_images_and_a_label_by_hand() -> None:
    """With three images each is everyone's neighbour, by ties of one weight: from u a step leads to x or to u'."""
    x, u = np.array([[1.0, 0.0]]), np.array([[0.9, 0.1], [0.8, 0.3]])
    met = SURVIVAL / 2 / (1 - SURVIVAL / 2)  # h = α (1 + h) / 2
    np.testing.assert_allclose(Walks(x, np.array([0]), u).scores, 1 - met, atol=1e-12)


@pytest.mark.parametrize("known", [3, 5, 6])
@pytest.mark.parametrize("labels", [3, 10])
def test_foreign_clusters_are_found_and_counted(labels: int, known: int) -> None:
    for seed in range(3):
        x, y, u, foreign = blobs(np.random.default_rng(seed), labels, known)
        walks = Walks(x, y, u)
        found = share(walks)
        assert found is not None
        assert (auroc(walks.scores, foreign) or 0) > 0.97
        assert abs(found.value - foreign.mean()) < 0.12
        assert found.low <= found.value <= found.high
        decided = walks.scores > found.threshold
        assert (decided == foreign).mean() > 0.9
        assert found.separation > 0.7


def test_only_the_classes_of_the_pool_count() -> None:
    """Two known classes overlap. If the pool has them only, more of it looks foreign than of the labelled images."""
    rng, centres = np.random.default_rng(3), 4 * np.eye(8)
    centres[1] = centres[0] + 0.5 * centres[7]  # the two
    far = np.concatenate([centres[2:5], -centres[2:5]])  # foreign
    y = np.repeat(np.arange(5), 20)
    x = centres[y] + rng.standard_normal((100, 8))
    pool = np.concatenate([np.repeat(centres[:2], 60, 0), np.repeat(far[3:], 40, 0)])
    for values, truth in ((pool, 0.5), (pool[:120], 0)):
        found = share(Walks(x, y, values + rng.standard_normal(values.shape)))
        assert found is not None
        assert abs(found.value - truth) <= 0.07


@pytest.mark.parametrize("labels", [2, 3, 10])
def test_where_nothing_is_foreign_nothing_is_counted(labels: int) -> None:
    values = []
    for seed in range(5):
        x, y, u, _ = blobs(np.random.default_rng(seed), labels, CLASSES)
        found = share(Walks(x, y, u))
        assert found is not None
        values.append(found.value)
        assert found.low <= 0.03
    assert np.median(values) <= 0.03


def test_other_images_score_as_those_walked_from() -> None:
    x, y, u, foreign = blobs(np.random.default_rng(0), 5, 5)
    half = np.arange(len(u)) % 2 == 0
    walks = Walks(x, y, u[half])
    assert (auroc(walks.places.score(u[~half]), foreign[~half]) or 0) > 0.97
    assert (auroc(walks.places.score(u[half]), foreign[half]) or 0) > 0.97


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 20))
@settings(max_examples=15, deadline=None)
def test_neither_scale_nor_the_order_of_images_matters(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, u, _ = blobs(rng, 3, 5, each=12)
    scores = Walks(x, y, u).scores
    order = rng.permutation(len(u))
    np.testing.assert_allclose(Walks(x * scale, y, u[order] * scale).scores, scores[order], atol=1e-7)


def test_labels_that_cannot_tell_give_no_share() -> None:
    x, y, u, _ = blobs(np.random.default_rng(0), 1, 5)
    assert share(Walks(x, y, u)) is None
    x, y, u, _ = blobs(np.random.default_rng(0), 5, 1)
    assert share(Walks(x, y, u)) is None


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_features_that_are_all_alike_say_nothing_and_do_no_harm(value: float) -> None:
    x, u = np.full((6, 4), value), np.full((30, 4), value)
    walks = Walks(x, np.arange(6) % 2, u)
    assert np.isfinite(walks.scores).all()
    found = share(walks)
    assert found is not None
    assert 0 <= found.value <= 1


def test_features_that_are_not_finite_are_refused() -> None:
    x, y, u, _ = blobs(np.random.default_rng(0), 2, 3, each=5)
    u[3, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        Walks(x, y, u)
