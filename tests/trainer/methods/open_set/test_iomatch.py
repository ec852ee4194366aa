"""IOMatch: its formula, targets over K + 1 classes by hand, alignment, its passes and presets."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy_losses as reference
import pytest
import torch
from method_batches import SIZES, SMALL, calls_of, make_batch, make_learner
from open_heads import Heads, detection, differences, matches, of_pairs, sigmoid
from torch import Tensor

from trainer import config
from trainer.functional import ops
from trainer.methods import load_method
from trainer.methods.open_set import iomatch


def double(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def close(actual: Tensor, *expected: float) -> None:
    torch.testing.assert_close(actual.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-7)


@pytest.mark.parametrize(
    ("r", "q", "error"),
    [
        ([0.9, 0.3, 0.5], (0.63, 0.06, 0.05, 0.26), 1.113668),
        ([0.2, 0.1, 0.1], (0.14, 0.02, 0.01, 0.83), 1.603668),
        ([0.6, 0.9, 0.9], (0.42, 0.18, 0.09, 0.31), 1.323668),
    ],
)
def test_targets_by_hand(r: list[float], q: tuple[float, ...], error: float) -> None:
    found = iomatch.unified(double([0.7, 0.2, 0.1]), double(r))
    close(found, *q)
    close(ops.cross_entropy(double([1.0, 0, 0, 0]), found), error)


def test_targets_are_soft() -> None:
    """FixMatch's hard label would give .407606."""
    close(ops.cross_entropy(double([2.0, 1, 0]), double([0.7, 0.2, 0.1])), 0.807606)


def test_alignment_by_hand() -> None:
    """The batch belongs to the history before it is used; batches that were not yet are not averaged in."""
    p, history = double([0.7, 0.2, 0.1], [0.98, 0.01, 0.01]), torch.zeros(128, 3, dtype=torch.float64)
    found = iomatch.aligned(p, history)
    close(found, 0.182900, 0.418053, 0.399047, 0.808098, 0.065967, 0.125935)
    close(history[-1], 0.84, 0.105, 0.055)
    iomatch.aligned(double([0.0, 0.5, 0.5]), history)
    close(history[-2:], 0.84, 0.105, 0.055, 0, 0.5, 0.5)
    assert not history[:-2].any()


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.6, "threshold_open": 0.6},
        {"lambda_u": 2.0, "lambda_detector": 0.5, "lambda_open": 0.75, "threshold": 0.4, "ratio": 2},
        {"align": True, "threshold": 0.6, "history": 3},
        {"open_share": 0.9, "threshold": 0.5},
    ],
)
def test_a_step_is_that_of_the_paper(options: dict[str, Any]) -> None:
    settings = iomatch.Settings(**{"open_share": 0.0} | options)
    batch, learner = make_batch(iomatch, settings, SMALL), make_learner(iomatch, settings, Heads)
    learner.state = {name: tensor.double() for name, tensor in learner.state.items()}
    net, (weak, strong) = learner.model, batch.u
    p = reference.softmax(net.logits("classes", weak))
    if settings.align:
        p = p * (0.25 + 1e-6) / (p.mean(0) + 1e-6)
        p /= p.sum(1, keepdims=True)
    r = sigmoid(differences(net.logits("detector", weak)))
    q = np.concatenate([p * r, (p * (1 - r)).sum(1, keepdims=True)], 1)
    inlier = q[:, -1] < 0.5
    keep = (p.max(1) >= settings.threshold) & inlier
    keep_open = q.max(1) >= settings.threshold_open
    assert 0 < keep.mean() < 1, "the example must show the mask at work"
    assert 0 < keep_open.mean() < 1
    assert (keep != keep_open).any()
    loss_x, slope_x = reference.cross_entropy(net.logits("classes", batch.x), reference.hot(batch.y, 4))
    loss_detector, slope_detector = detection(differences(net.logits("detector", batch.x)), batch.y.numpy())
    loss_u, slope_u = reference.cross_entropy(net.logits("classes", strong), p, keep)
    loss_open, slope_open = reference.cross_entropy(net.logits("open", strong), q, keep_open)
    weight = settings.lambda_open if settings.open_share == 0 else 0.0
    total = loss_x + settings.lambda_detector * loss_detector + settings.lambda_u * loss_u + weight * loss_open
    matches(
        iomatch.loss(learner, batch, settings),
        net,
        {
            "classes": [(batch.x, slope_x), (strong, settings.lambda_u * slope_u)],
            "detector": [(batch.x, settings.lambda_detector * of_pairs(slope_detector))],
            "open": [(strong, weight * slope_open)],
        },
        loss_x=loss_x,
        loss_u=loss_u,
        loss_detector=loss_detector,
        loss_open=loss_open,
        kept=keep.mean(),
        inliers=inlier.mean(),
        kept_open=keep_open.mean(),
        total=total,
    )


def test_all_rows_go_through_the_network_once_and_update_together() -> None:
    (call,) = calls_of(iomatch, iomatch.Settings())
    assert (call.groups, call.update, len(call.rows)) == (1, 0, 15 * SIZES.labeled)


def test_no_gradient_into_targets() -> None:
    settings = iomatch.Settings(threshold=0.3, threshold_open=0.3, open_share=0.0)
    batch, learner = make_batch(iomatch, settings, SMALL), make_learner(iomatch, settings, Heads)
    weak, strong = (images.requires_grad_() for images in batch.u)
    iomatch.loss(learner, batch, settings).total.backward()
    assert weak.grad is None or not weak.grad.any()
    assert strong.grad is not None
    assert strong.grad.any()


def test_the_open_loss_begins_after_1024_of_262144_steps() -> None:
    weights = [iomatch.schedule(step, 2**18, 6, iomatch.Settings())["weight_open"] for step in (1023, 1024)]
    assert weights == [0.0, 1.0]


def test_what_is_said_of_an_image() -> None:
    """Known and foreign: the classifier of K + 1 classes decides, not the detectors."""
    said = iomatch.judge({"open": double([0.0, 2, 0, 1], [0.0, 0, 0, 1])})
    close(said.score, 0.224515, 0.475367)
    assert said.label.tolist() == [1, 3]


def test_published_settings() -> None:
    run, settings = config.build(load_method("iomatch"), "cifar10", [], {})
    weights = (settings.lambda_u, settings.lambda_detector, settings.lambda_open)
    assert (weights, settings.threshold, settings.threshold_open, settings.ratio) == ((1, 1, 1), 0.95, 0.5, 7)
    assert (run.optimizer, run.lr, run.lr_schedule, run.weight_decay) == ("sgd", 0.03, "cosine", 5e-4)
    assert not settings.align
    run, settings = config.build(load_method("iomatch"), "cifar100", [], {})
    assert (settings.align, run.weight_decay) == (True, 1e-3)
