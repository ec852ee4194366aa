"""Calibration and AUROC against values by hand, scikit-learn, and an independent loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from trainer.evaluation import scores


def test_calibration_by_hand():
    """Two images of confidence .9, one right; two of .6, both right: ECE = ½·|.5 − .9| + ½·|1 − .6| = .4."""
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    found = scores.calibration(probs, np.array([0, 1, 1, 1]))
    assert found["ece"] == pytest.approx(0.4)
    assert found["confidence"] == pytest.approx(0.75)
    assert found["nll"] == pytest.approx(-(np.log(0.9) + np.log(0.1) + 2 * np.log(0.6)) / 4)
    filled = {i: one for i, one in enumerate(found["bins"]) if one["count"]}
    assert {i: one["count"] for i, one in filled.items()} == {8: 2, 13: 2}  # (8/15, 9/15] and (13/15, 14/15]
    assert filled[13] == {"count": 2, "confidence": pytest.approx(0.9), "accuracy": 0.5}
    assert found["bins"][0] == {"count": 0, "confidence": None, "accuracy": None}


def test_a_sure_network_that_is_always_right_has_no_calibration_error():
    found = scores.calibration(np.eye(3), np.arange(3))
    assert (found["ece"], found["nll"], found["bins"][-1]["count"]) == (0, 0, 3)
    wrong = scores.calibration(np.eye(3), np.array([1, 2, 0]))
    assert wrong["ece"] == 1
    assert np.isfinite(wrong["nll"])


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_calibration_is_what_a_loop_says(n, classes, seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.3), n) * 0.999 + 0.001 / classes
    labels = rng.integers(0, classes, n)
    total = 0.0
    for i in range(15):
        rows = [r for r in range(n) if i / 15 < probs[r].max() <= (i + 1) / 15]
        if rows:
            right = np.mean([probs[r].argmax() == labels[r] for r in rows])
            total += len(rows) / n * abs(right - np.mean([probs[r].max() for r in rows]))
    found = scores.calibration(probs, labels)
    assert found["ece"] == pytest.approx(total, abs=1e-12)
    assert found["nll"] == pytest.approx(log_loss(labels, probs, labels=range(classes)))
    assert sum(one["count"] for one in found["bins"]) == n


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_scikit_learns(pairs):
    values, positive = np.array([v for v, _ in pairs], float), np.array([p for _, p in pairs])
    if positive.all() or not positive.any():
        assert scores.auroc(values, positive) is None
    else:
        assert scores.auroc(values, positive) == pytest.approx(roc_auc_score(positive, values))
        assert scores.auroc(-values, positive) == pytest.approx(1 - roc_auc_score(positive, values))


def test_the_score_of_foreign_images_is_one_minus_the_largest_probability():
    np.testing.assert_allclose(scores.ood_score(np.array([[0.2, 0.8], [0.5, 0.5]])), [0.2, 0.5])


def test_histogram_ends():
    counts = scores.histogram(np.array([0, 0.049, 0.05, 1.0]))
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (2, 1, 1, 4)
