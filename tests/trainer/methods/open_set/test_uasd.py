"""UASD: its formula, what it remembers and when, its threshold from validation images, its gate and ramp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy_losses as reference
import pytest
import torch
from method_batches import SIZES, SMALL, Linear, calls_of, make_batch, make_learner
from torch import Tensor

from trainer import config
from trainer.methods import load_method
from trainer.methods.open_set import uasd

FROM_THE_START = {"gate_share": 0.0, "rampup_share": 0.0}


def remembering(settings: Any) -> Any:
    """A learner that has seen images 0 to 24 a few times, and the others never; in float64."""
    learner = make_learner(uasd, settings, Linear)
    sums = 5 * torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).mul(2).softmax(1)
    sums[25:] = 0
    learner.state = {name: tensor.double() for name, tensor in learner.state.items()} | {"sums": sums}
    return learner


@pytest.mark.parametrize("options", [{"threshold": 0.6}, {"threshold": 0.4, "lambda_u": 3.0}])
def test_a_step_is_that_of_the_paper(options: dict[str, Any]) -> None:
    settings = uasd.Settings(**FROM_THE_START, **options)
    batch, learner = make_batch(uasd, settings, SMALL), remembering(settings)
    head, (u,), before = learner.model.head, batch.u, learner.state["sums"].numpy().copy()
    ids = batch.u_id.numpy()
    q = before[ids] / np.maximum(before[ids].sum(1, keepdims=True), 1)
    keep = q.max(1) >= settings.threshold
    assert 0 < keep.sum() < len(keep), "the example must show the threshold at work"
    loss_x, slope_x = reference.cross_entropy(
        reference.logits(head, reference.flat(batch.x)), reference.hot(batch.y, 4)
    )
    z = reference.logits(head, reference.flat(u))
    scale = len(keep) / keep.sum()  # a mean over kept rows
    loss_u, slope_u = reference.cross_entropy(z, q, keep * scale)
    reference.matches(
        uasd.loss(learner, batch, settings),
        head,
        [(reference.flat(batch.x), slope_x), (reference.flat(u), settings.lambda_u * slope_u)],
        loss_x=loss_x,
        loss_u=loss_u,
        kept=keep.mean(),
        confidence=q.max(1).mean(),
        total=loss_x + settings.lambda_u * loss_u,
    )
    after = before.copy()
    np.add.at(after, ids, reference.softmax(z))
    np.testing.assert_allclose(learner.state["sums"], after, rtol=1e-12)


def test_the_mean_of_what_was_predicted() -> None:
    sums = torch.tensor([[0.6, 0.4], [1.5, 0.5], [0.0, 0.0], [0.3, 0.2]], dtype=torch.float64)
    expected = torch.tensor([[0.6, 0.4], [0.75, 0.25], [0.0, 0.0], [0.3, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(uasd.mean(sums), expected)


def test_a_new_image_does_not_count_and_is_remembered() -> None:
    """A target is read before this step's prediction is added: otherwise a sure first guess would teach itself."""
    settings = uasd.Settings(**FROM_THE_START, threshold=0.0001)
    batch, learner = make_batch(uasd, settings, SMALL), make_learner(uasd, settings, Linear)
    learner.state["sums"].zero_()
    losses = uasd.loss(learner, batch, settings)
    assert losses.metrics["kept"] == losses.metrics["loss_u"] == 0
    seen = torch.zeros(50).index_add_(0, batch.u_id, torch.ones(len(batch.u_id)))
    torch.testing.assert_close(learner.state["sums"].sum(1), seen)
    assert uasd.loss(learner, batch, settings).metrics["kept"] == 1


def test_no_gradient_into_targets_and_rows_that_do_not_count() -> None:
    settings = uasd.Settings(**FROM_THE_START, threshold=0.6)
    batch, learner = make_batch(uasd, settings, SMALL), remembering(settings)
    keep = uasd.mean(learner.state["sums"][batch.u_id]).amax(1) >= 0.6
    images = batch.u[0].requires_grad_()
    uasd.loss(learner, batch, settings).total.backward()
    assert images.grad is not None
    assert images.grad.flatten(1).any(1).tolist() == keep.tolist()
    assert not any(tensor.requires_grad for tensor in learner.state.values())


def test_all_rows_go_through_the_network_once_and_update_together() -> None:
    (call,) = calls_of(uasd, uasd.Settings())
    assert (call.groups, call.update, len(call.rows)) == (1, 0, 2 * SIZES.labeled)


class Validation:
    """A predictor of three validation images, in chunks."""

    def __init__(self, probs: list[list[float]]) -> None:
        self._logits = torch.tensor(probs).log()

    def valid(self, *heads: str) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        assert heads == ("classes",)
        for rows in ([0, 1], [2]):
            yield np.array(rows), {"classes": self._logits[rows]}


def test_the_threshold_is_the_mean_confidence_of_validation_images() -> None:
    """Of their means over time: .9 and .5 for different classes are .55 of each, not .7."""
    state = {"valid": torch.zeros(3, 2), "threshold": torch.tensor(0.9)}
    uasd.hook(Validation([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]]), state, uasd.Settings())
    assert state["threshold"] == pytest.approx((0.9 + 0.6 + 0.5) / 3)
    uasd.hook(Validation([[0.1, 0.9], [0.6, 0.4], [0.7, 0.3]]), state, uasd.Settings())
    assert state["threshold"] == pytest.approx((0.5 + 0.6 + 0.6) / 3)


def test_without_validation_images_the_threshold_stays() -> None:
    state = {"threshold": torch.tensor(0.9)}
    uasd.hook(Validation([]), state, uasd.Settings())
    assert state["threshold"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("step", "weight"), [(99_999, 0.0), (100_000, 0.286505), (150_000, 0.731616), (200_000, 1.0), (400_000, 1.0)]
)
def test_gate_and_ramp(step: int, weight: float) -> None:
    found = uasd.schedule(step, 500_000, 6, uasd.Settings())["weight_u"]
    assert found == pytest.approx(weight, abs=6e-7)


def test_published_settings() -> None:
    run, settings = config.build(load_method("uasd"), "cifar10", [], {})
    assert (run.optimizer, run.lr, run.lr_schedule, run.weight_decay) == ("adam", 1e-3, "constant", 0.0)
    assert (settings.gate_share, settings.rampup_share, settings.threshold) == (0.2, 0.4, 0.9)
