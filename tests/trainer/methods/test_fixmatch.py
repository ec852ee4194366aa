"""FixMatch: its formula, the threshold, one joint forward pass, and CTAugment learning from the probe."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy_losses as reference
import pytest
import torch
from method_batches import SIZES, SMALL, Linear, Watched, make_batch, make_learner
from torch import Tensor, nn

from stores.errors import UsageError
from trainer import config
from trainer.augment import ctaugment
from trainer.config import RunConfig
from trainer.contract import Batch, Learner
from trainer.methods import fixmatch


@pytest.mark.parametrize("options", [{}, {"threshold": 0.8, "lambda_u": 3.0, "ratio": 2}, {"threshold": 0.6}])
def test_a_step_is_that_of_the_paper(options: dict[str, Any]) -> None:
    settings = fixmatch.Settings(**options)
    batch = make_batch(fixmatch, settings, SMALL, dtype=torch.float64)
    learner = make_learner(fixmatch, settings, Linear)
    head = learner.model.head
    x, weak, strong = map(reference.flat, (batch.x, *batch.u))
    guess = reference.predict(head, weak)
    keep = guess.max(1) >= settings.threshold
    assert len(weak) == settings.ratio * SIZES.labeled
    assert 0 < keep.mean() < 1, "the example must show the threshold at work"
    loss_x, slope_x = reference.cross_entropy(reference.logits(head, x), reference.hot(batch.y, 4))
    loss_u, slope_u = reference.cross_entropy(reference.logits(head, strong), reference.hot(guess.argmax(1), 4), keep)
    reference.matches(
        fixmatch.loss(learner, batch, settings),
        head,
        [(x, slope_x), (strong, settings.lambda_u * slope_u)],
        loss_x=loss_x,
        loss_u=loss_u,
        total=loss_x + settings.lambda_u * loss_u,
        kept=keep.mean(),
        tolerance=1e-6,
    )


def of_logits(x: list, weak: list, strong: list, y: list) -> tuple[Learner, Batch]:
    """A network whose logits are its images."""
    rows = [torch.tensor(z, dtype=torch.float64, requires_grad=True) for z in (x, weak, strong)]
    network = lambda rows, groups=1, update=None: rows  # noqa: E731
    return Learner(network), Batch(rows[0], torch.tensor(y), tuple(rows[1:]), schedule={"weight_u": torch.tensor(1.0)})


def test_worked_example() -> None:
    """The weak logits have largest probabilities .936240 and .975559: the second row alone reaches the threshold."""
    learner, batch = of_logits([[0, 0, 0]], [[4, 1, 0], [5, 1, 0]], [[1, 1, 0], [1, 1, 0]], [0])
    losses = fixmatch.loss(learner, batch, fixmatch.Settings())
    assert losses.metrics["loss_u"].item() == pytest.approx(0.430997, abs=1e-6)
    assert losses.metrics["kept"].item() == 0.5
    losses.total.backward()
    weak, strong = batch.u
    assert weak.grad is None or not weak.grad.any(), "a pseudo-label has no gradient"
    assert strong.grad is not None
    assert strong.grad.any(1).tolist() == [False, True]


def test_a_row_on_the_threshold_counts() -> None:
    learner, batch = of_logits([[0, 0]], [[0, 0]], [[1, 0]], [0])
    assert fixmatch.loss(learner, batch, fixmatch.Settings(threshold=0.5)).metrics["kept"] == 1


@pytest.mark.parametrize("policy", ["randaugment", "ctaugment"])
def test_all_rows_go_through_the_network_once_and_update_together(policy: Any) -> None:
    settings = fixmatch.Settings(policy=policy)
    batch, learner = make_batch(fixmatch, settings), make_learner(fixmatch, settings)
    model = learner.model = Watched(learner.model)
    fixmatch.loss(learner, batch, settings).total.backward()
    (call,) = model.calls
    assert (call.groups, call.update) == (1, 0)
    torch.testing.assert_close(call.rows, torch.cat([batch.x, *batch.u]))
    assert len(call.rows) == 15 * SIZES.labeled


def test_views() -> None:
    plain = fixmatch.views(fixmatch.Settings())
    assert (plain.labeled, plain.unlabeled, plain.policy) == (("weak",), ("weak", "strong"), "randaugment")
    assert (plain.source, plain.labeled_in_unlabeled, plain.ratio, plain.teacher) == ("base", True, 7, False)
    learned = fixmatch.views(fixmatch.Settings(policy="ctaugment"))
    assert (learned.labeled, learned.policy) == (("weak", "probe"), "ctaugment")
    assert learned.cutout
    assert learned.teacher
    assert fixmatch.init_state(SIZES, fixmatch.Settings()) == {}


def test_published_settings() -> None:
    run, settings = config.build(fixmatch, "cifar10", [], {})
    assert (settings.threshold, settings.lambda_u, settings.ratio) == (0.95, 1.0, 7)
    assert (run.optimizer, run.lr, run.lr_schedule, run.momentum) == ("sgd", 0.03, "cosine", 0.9)
    assert (run.weight_decay, run.ema_decay) == (5e-4, None)
    assert config.build(fixmatch, "cifar100", [], {})[0].weight_decay == 1e-3
    assert RunConfig().optimizer == "adam"


@pytest.mark.parametrize("wrong", [{"policy": "uda"}, {"threshold": 1.1}, {"lambda_u": -1.0}, {"ratio": 0}])
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        config.check(fixmatch.Settings(**wrong))


# --- CTAugment ------------------------------------------------------------------------------------------------------


class Sure(nn.Module):
    """A teacher that predicts [.7, .2, .1, 0] for every image, and only as the evaluated model."""

    def forward(self, rows: Tensor, groups: int = 1, update: int | None = None, *, running: bool = False) -> Tensor:
        assert running
        assert not torch.is_grad_enabled()
        return torch.tensor([0.7, 0.2, 0.1, 1e-30]).log().expand(len(rows), 4)


def test_ctaugment_learns_from_the_averaged_networks_answer_to_the_probe() -> None:
    """Labels 0 have ω = .7, labels 1 have .2: m ← .99 m + .01 ω, image after image."""
    settings = fixmatch.Settings(policy="ctaugment", ratio=1)
    batch = make_batch(fixmatch, settings, dataclasses.replace(SIZES, labeled=2))
    batch.y = torch.tensor([0, 1])
    learner = make_learner(fixmatch, settings)
    learner.teacher = Sure()
    rotate, shear = 12, 13
    level = torch.zeros(2, 2, 2)
    level[0, 1], level[1, 0] = 0.999999, 0.5
    batch.draws = {"op": torch.tensor([[rotate, rotate], [rotate, shear]]), "level": level}
    learner.state["weights"][rotate, 8] = 0.5
    before = learner.state["weights"].clone()
    fixmatch.loss(learner, batch, settings)
    after = learner.state["weights"]
    assert after[rotate, 0].item() == pytest.approx(0.99 + 0.007)  # image 0, first operation
    assert after[rotate, 16].item() == pytest.approx(0.99 + 0.007)  # image 0, second operation
    assert after[rotate, 8].item() == pytest.approx(0.99 * 0.5 + 0.002)  # image 1
    assert after[shear, 0].item() == pytest.approx(0.99 + 0.002)
    assert int((after != before).sum()) == 4, "nothing else changes"


def test_without_ctaugment_nothing_is_learned() -> None:
    settings = fixmatch.Settings()
    learner = make_learner(fixmatch, settings)
    fixmatch.loss(learner, make_batch(fixmatch, settings), settings)
    assert learner.state == {}
    assert set(ctaugment.init_state()) == {"weights"}
    assert learner.teacher is None
