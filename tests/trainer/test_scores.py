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


def test_auroc_and_fpr_by_hand():
    known, foreign = np.arange(1, 21) / 100, np.array([0.05, 0.19, 0.195, 0.5])
    both, which = np.concatenate([known, foreign]), np.arange(24) >= 20
    assert scores.auroc(both, which) == pytest.approx(0.775)
    assert scores.fpr95(both, which) == 0.5  # t = 0.19, which 0.05 and 0.19 do not exceed
    assert scores.fpr95(-both, ~which) == 0.8  # foreign as the positives: t = 0.05
    assert scores.fpr95(np.zeros(6), np.arange(6) < 2) == 1, "what is tied passes together"
    assert scores.fpr95(known, np.zeros(20, bool)) is scores.fpr95(known, np.ones(20, bool)) is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=60))
def test_fpr_is_the_least_at_which_95_per_cent_of_the_known_pass(pairs):
    values, foreign = np.array([v for v, _ in pairs], float), np.array([f for _, f in pairs])
    if foreign.all() or not foreign.any():
        return
    passing = [t for t in values if 100 * (values[~foreign] <= t).sum() >= 95 * (~foreign).sum()]
    assert scores.fpr95(values, foreign) == min((values[foreign] <= t).mean() for t in passing)


def test_histogram_ends():
    counts = scores.histogram(np.array([0, 0.049, 0.05, 1.0]))
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (2, 1, 1, 4)
