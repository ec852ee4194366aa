"""Pseudo-Label: a step against plain NumPy, the mask of single images, and the one of the authors' code."""

from __future__ import annotations

import math

import numpy as np
import numpy_losses as reference
import pytest
import torch
from method_batches import SMALL, Linear, make_batch, make_learner
from torch import Tensor

from trainer.contract import Batch, Learner
from trainer.methods import pseudo_label
from trainer.runs.telemetry import Telemetry


@pytest.mark.parametrize("legacy", [False, True])
def test_a_step_is_that_of_the_paper(legacy: bool) -> None:
    settings = pseudo_label.Settings(lambda_u=3.0, rampup_share=1.0, threshold=0.7, legacy_broadcast=legacy)
    batch = make_batch(pseudo_label, settings, SMALL, dtype=torch.float64)
    learner = make_learner(pseudo_label, settings, Linear)
    losses = pseudo_label.loss(learner, batch, settings)

    head, x, u = learner.model.head, reference.flat(batch.x), reference.flat(batch.u[0])
    p = reference.predict(head, u)
    mask = np.array([1.0 if max(row) > 0.7 else 0.0 for row in p])
    assert 0 < mask.mean() < 1, "the example must show the mask at work"
    loss_x, slope_x = reference.cross_entropy(reference.logits(head, x), reference.hot(batch.y, 4))
    loss_u, slope_u = reference.cross_entropy(
        reference.logits(head, u), reference.hot(p.argmax(1), 4), mask.mean() if legacy else mask
    )
    parts = [(x, slope_x), (u, 1.5 * slope_u)]
    reference.matches(losses, head, parts, loss_x=loss_x, loss_u=loss_u, total=loss_x + 1.5 * loss_u, kept=mask.mean())
    assert losses.keep_u is not None
    assert (losses.keep_u.numpy() == mask).all()


def step_of(logits_u: list[list[float]], **settings: float | bool) -> tuple[float, Tensor]:
    """loss_u and mask where the network predicts this for the unlabelled images."""
    z = torch.tensor(logits_u, dtype=torch.float64)
    labeled = torch.zeros_like(z)
    images = torch.zeros(len(z), 3, 1, 1)
    batch = Batch(images, torch.zeros(len(z), dtype=torch.int64), (images,), schedule={"weight_u": torch.tensor(1.0)})
    learner = Learner(lambda rows, groups, update: torch.cat([labeled, z]))
    losses = pseudo_label.loss(learner, batch, pseudo_label.Settings(**settings))
    assert losses.keep_u is not None
    return losses.metrics["loss_u"].item(), losses.keep_u


@pytest.mark.parametrize(("legacy", "expected"), [(False, 0.5), (True, 0.75)])
def test_an_image_without_confidence_is_not_trained_and_counts_in_the_mean(legacy: bool, expected: float) -> None:
    """Losses 1 and 2, mask 1 and 0; among 10 classes, a cross-entropy of c has p_max = e^−c."""
    rows = [[math.log(9 / (math.exp(c) - 1)), *[0.0] * 9] for c in (1, 2)]
    loss_u, keep = step_of(rows, threshold=0.3, legacy_broadcast=legacy)
    assert loss_u == pytest.approx(expected, rel=1e-6)
    assert keep.tolist() == [1, 0]


def test_a_confidence_on_the_threshold_is_not_enough() -> None:
    assert step_of([[0.0, 0.0], [0.1, 0.0]], threshold=0.5)[1].tolist() == [0, 1]


def test_the_mask_tells_how_many_images_of_no_class_it_dropped() -> None:
    loss_u, keep = step_of([[9.0, 0.0], [0.0, 0.1], [0.0, 9.0]])
    telemetry = Telemetry(1)
    losses = pseudo_label.Losses(torch.tensor(loss_u), {}, keep)
    telemetry.add(losses, torch.tensor([False, True, True]))
    flushed = telemetry.flush()
    assert (flushed["ood_precision"], flushed["ood_recall"]) == (1.0, 0.5)
