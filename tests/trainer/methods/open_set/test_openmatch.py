"""OpenMatch: its formula, who is an inlier and when, its passes, its warm-up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy_losses as reference
import pytest
import torch
from method_batches import SIZES, SMALL, Watched, active, make_batch, make_learner
from open_heads import Heads, detection, differences, matches, of_pairs, sigmoid
from torch import Tensor

from trainer import config
from trainer.contract import Batch
from trainer.methods import load_method
from trainer.methods.open_set import openmatch

Array = np.ndarray


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.9},
        {"lambda_entropy": 0.7, "lambda_consistency": 2.0, "lambda_u": 3.0, "ratio": 3},
        {"lambda_u": 0.0, "lambda_consistency": 0.0},
    ],
)
def test_a_step_is_that_of_the_paper(options: dict[str, Any]) -> None:
    settings = openmatch.Settings(warmup_share=0.0, **options)
    batch, learner = make_batch(openmatch, settings, SMALL), make_learner(openmatch, settings, Heads)
    net = learner.model
    x, (one, two), (weak, strong) = torch.cat([batch.x, *batch.more_x]), batch.u, batch.second
    y = np.tile(batch.y.numpy(), 2)

    loss_x, slope_x = reference.cross_entropy(net.logits("classes", x), reference.hot(y, 4))
    loss_detector, slope_detector = detection(differences(net.logits("detector", x)), y)
    d_1, d_2 = (differences(net.logits("detector", images)) for images in (one, two))
    p_1, p_2 = sigmoid(d_1), sigmoid(d_2)
    entropies = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in (p_1, p_2)]
    loss_entropy = float(np.mean(entropies))
    loss_consistency = float(2 * ((p_1 - p_2) ** 2).sum(1).mean())
    slopes = []
    for own, other, d in ((p_1, p_2, d_1), (p_2, p_1, d_2)):
        bend = own * (1 - own)
        slopes.append(
            -settings.lambda_entropy * d * bend / (2 * d.size)
            + settings.lambda_consistency * 4 * (own - other) * bend / len(d)
        )
    guess = reference.softmax(net.logits("classes", weak))
    keep = guess.max(1) >= settings.threshold
    target = reference.hot(guess.argmax(1), 4)
    loss_u, slope_u = reference.cross_entropy(net.logits("classes", strong), target, keep)
    if settings.threshold:
        assert 0 < keep.mean() < 1, "the example must show the threshold at work"

    total = loss_x + loss_detector + settings.lambda_u * loss_u
    total += settings.lambda_entropy * loss_entropy + settings.lambda_consistency * loss_consistency
    matches(
        openmatch.loss(learner, batch, settings),
        net,
        {
            "classes": [(x, slope_x), (strong, settings.lambda_u * slope_u)],
            "detector": [(x, of_pairs(slope_detector)), (one, of_pairs(slopes[0])), (two, of_pairs(slopes[1]))],
        },
        loss_x=loss_x,
        loss_u=loss_u,
        loss_detector=loss_detector,
        loss_entropy=loss_entropy,
        loss_consistency=loss_consistency,
        kept=keep.mean(),
        total=total,
    )


def test_only_the_pool_and_the_labelled_images_move_the_statistics() -> None:
    method, settings = active("openmatch")
    batch, learner = make_batch(method, settings), make_learner(method, settings)
    model = learner.model = Watched(learner.model)
    openmatch.loss(learner, batch, settings)
    first, second = model.calls
    assert (first.groups, first.update, len(first.rows)) == (1, 0, 6 * SIZES.labeled)
    assert (second.groups, second.update, len(second.rows)) == (1, None, 4 * SIZES.labeled)


def test_no_gradient_into_pseudo_labels() -> None:
    settings = openmatch.Settings()
    batch, learner = make_batch(openmatch, settings, SMALL), make_learner(openmatch, settings, Heads)
    weak, strong = (images.requires_grad_() for images in batch.second)
    openmatch.loss(learner, batch, settings).total.backward()
    assert weak.grad is None or not weak.grad.any()
    assert strong.grad is not None
    assert strong.grad.any()


# --- judging the pool -----------------------------------------------------------------------------------------------


class Pool:
    """A predictor of six images, K = 2, in chunks; everything that is asked of it is remembered."""

    def __init__(self, step: int, certainty: list[float], steps: int = 1000) -> None:
        self.step, self.steps, self.num_classes, self.frozen = step, steps, 2, False
        self._certainty, self.asked = torch.tensor(certainty), list[tuple[str, ...]]()

    def unlabeled(self, *heads: str, **options: Any) -> Iterator[tuple[Array, dict[str, Tensor]]]:
        assert not options, "all of them are judged"
        self.asked.append(heads)
        for rows in ([0, 1, 2, 3], [4, 5]):
            d = self._certainty[rows]
            # class 1 is predicted; the detector of class 0 is sure of everything, which must not matter
            detector = torch.stack([0 * d, 0 * d, 9 + 0 * d, d], 1)
            yield np.array(rows), {"classes": torch.stack([0 * d, 1 + 0 * d], 1), "detector": detector}


SETTINGS = openmatch.Settings(fewest=2)


def judged(step: int, certainty: list[float], state: dict[str, Tensor], settings: Any = SETTINGS) -> list[bool]:
    openmatch.hook(Pool(step, certainty), state, settings)
    return state["second"].tolist()


def fresh() -> dict[str, Tensor]:
    return {"second": torch.ones(6, dtype=torch.bool), "inliers": torch.ones(())}


def test_who_is_an_inlier() -> None:
    """Less than ½ for "not" of the predicted class; exactly ½ is not in."""
    state = fresh()
    assert judged(100, [3.0, 0.0, -1.0, 1e-3, -1e-3, 5.0], state) == [True, False, False, True, False, True]
    assert state["inliers"] == 0.5


def test_a_rejected_image_may_come_back() -> None:
    """The whole pool is judged each time, not those that are in."""
    state = fresh()
    judged(100, [1.0, 1.0, -1.0, -1.0, -1.0, -1.0], state)
    assert judged(150, [-1.0, -1.0, 1.0, 1.0, -1.0, -1.0], state) == [False, False, True, True, False, False]


def test_too_few_inliers_leave_the_last_set_and_say_so() -> None:
    state = fresh()
    judged(100, [1.0, 1.0, 1.0, -1.0, -1.0, -1.0], state)
    assert judged(150, [1.0, *[-1.0] * 5], state) == [True, True, True, False, False, False]
    assert state["inliers"] == pytest.approx(1 / 6)


def test_nothing_is_judged_during_the_warm_up() -> None:
    state = fresh()
    assert all(judged(49, [-1.0] * 6, state))
    assert openmatch.warmup(1000, SETTINGS) == openmatch.hook_every(1000, SETTINGS) == 50


@pytest.mark.parametrize(("steps", "every", "warm"), [(2**19, 1024, 10240), (1000, 50, 50), (20, 1, 1), (2, 1, 1)])
def test_the_first_judgement_is_at_the_end_of_the_warm_up(steps: int, every: int, warm: int) -> None:
    settings = openmatch.Settings()
    assert openmatch.hook_every(steps, settings) == every
    assert openmatch.warmup(steps, settings) == warm
    weights = [openmatch.schedule(step, steps, 6, settings)["weight_u"] for step in (warm - 1, warm)]
    assert weights == [0.0, 1.0]


def test_what_is_said_of_an_image() -> None:
    outputs = {
        "classes": torch.tensor([[0.0, 3, 1], [3.0, 0, 0]]),
        "detector": torch.tensor([[0.0, 1, -1, 2, 0, 0]] * 2),
    }
    said = openmatch.judge(outputs)
    torch.testing.assert_close(said.score, torch.tensor([0.731059, 0.119203]), rtol=0, atol=1e-6)
    assert said.label.tolist() == [3, 0]


def test_published_settings() -> None:
    run, settings = config.build(load_method("openmatch"), "cifar10", [], {})
    weights = (settings.lambda_u, settings.lambda_entropy, settings.lambda_consistency, settings.threshold)
    assert (weights, settings.ratio, settings.every) == ((1.0, 0.1, 0.5, 0.0), 2, 1024)
    assert (run.optimizer, run.lr, run.lr_schedule, run.weight_decay) == ("sgd", 0.03, "cosine", 5e-4)
    run, settings = config.build(load_method("openmatch"), "cifar100", [], {})
    assert (settings.lambda_consistency, run.weight_decay) == (1.0, 5e-4)


def test_the_order_of_the_rows_changes_nothing() -> None:
    settings = openmatch.Settings()
    batch, learner = make_batch(openmatch, settings, SMALL), make_learner(openmatch, settings, Heads)
    turned = Batch(
        batch.x.flip(0),
        batch.y.flip(0),
        tuple(view.flip(0) for view in batch.u),
        schedule=batch.schedule,
        second=tuple(view.flip(0) for view in batch.second),
        more_x=tuple(view.flip(0) for view in batch.more_x),
    )
    totals = [openmatch.loss(learner, one, settings).total.item() for one in (batch, turned)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-12)
