"""UDA: its formula, threshold before and target after sharpening, its own annealing, one joint forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy_losses as reference
import pytest
import torch
from method_batches import SIZES, SMALL, Linear, Watched, make_batch, make_learner

from stores.errors import UsageError
from trainer import config
from trainer.contract import Batch, Learner
from trainer.methods import uda


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0.9, "temperature": 1.0, "lambda_u": 2.0, "ratio": 2},
        {"tsa": "linear", "threshold": 0.4},
        {"tsa": "exp", "threshold": 0.4},
    ],
)
def test_a_step_is_that_of_the_paper(options: dict[str, Any]) -> None:
    settings = uda.Settings(**options)
    batch = make_batch(uda, settings, SMALL, dtype=torch.float64)
    learner = make_learner(uda, settings, Linear)
    head = learner.model.head
    with torch.no_grad():
        batch.y[:3] = learner.model(batch.x[:3]).argmax(1)  # three labels that it knows, for annealing to drop
    x, weak, strong = map(reference.flat, (batch.x, *batch.u))
    y = reference.hot(batch.y, 4)

    keep_x = (reference.predict(head, x) * y).sum(1) <= batch.schedule["tsa_threshold"].item()
    assert keep_x.all() == (settings.tsa == "none"), "the example must show annealing at work"
    share = len(y) / max(keep_x.sum(), 1)
    loss_x, slope_x = reference.cross_entropy(reference.logits(head, x), y, keep_x * share)

    z_weak = reference.logits(head, weak)
    keep_u = reference.softmax(z_weak).max(1) > settings.threshold
    assert 0 < keep_u.mean() < 1, "the example must show the threshold at work"
    q = reference.softmax(z_weak / settings.temperature)
    cross, slope_u = reference.cross_entropy(reference.logits(head, strong), q, keep_u)
    loss_u = cross + (keep_u * (q * np.log(q)).sum(1)).mean()
    reference.matches(
        uda.loss(learner, batch, settings),
        head,
        [(x, slope_x), (strong, settings.lambda_u * slope_u)],
        loss_x=loss_x,
        loss_u=loss_u,
        total=loss_x + settings.lambda_u * loss_u,
        tsa_kept=keep_x.mean(),
        kept=keep_u.mean(),
        tolerance=1e-6,
    )


def of_logits(x: list, weak: list, strong: list, y: list, eta: float = 1.0) -> tuple[Learner, Batch]:
    """A network whose logits are its images."""
    rows = [torch.tensor(z, dtype=torch.float64, requires_grad=True) for z in (x, weak, strong)]
    network = lambda rows, groups=1, update=None: rows  # noqa: E731
    schedule = {"weight_u": torch.tensor(1.0), "tsa_threshold": torch.tensor(eta)}
    return Learner(network), Batch(rows[0], torch.tensor(y), tuple(rows[1:]), schedule=schedule)


@pytest.mark.parametrize(("temperature", "divergence"), [(0.4, 0.856842), (1.0, 0.604830)])
def test_worked_example(temperature: float, divergence: float) -> None:
    """Largest probabilities .665241 and .936240: the second row alone counts, by its prediction before sharpening."""
    learner, batch = of_logits([[0, 0, 0]], [[2, 1, 0], [4, 1, 0]], [[1, 1, 0], [1, 1, 0]], [0])
    losses = uda.loss(learner, batch, uda.Settings(temperature=temperature))
    assert losses.metrics["loss_u"].item() == pytest.approx(divergence / 2, abs=1e-6)
    losses.total.backward()
    weak, strong = batch.u
    assert weak.grad is None or not weak.grad.any(), "a target has no gradient"
    assert strong.grad is not None
    assert strong.grad.any(1).tolist() == [False, True]


def test_a_row_on_the_threshold_does_not_count() -> None:
    learner, batch = of_logits([[0, 0]], [[0, 0]], [[1, 0]], [0])
    assert uda.loss(learner, batch, uda.Settings(threshold=0.5)).metrics["kept"] == 0


def test_annealing_drops_what_exceeds_the_threshold_and_averages_over_the_rest() -> None:
    """p_y = ½ lies on the threshold and is kept, unlike in RealMix; the mean is over one row, not two."""
    learner, batch = of_logits([[0, 0], [3, 0]], [[0, 0]], [[0, 0]], [0, 0], eta=0.5)
    losses = uda.loss(learner, batch, uda.Settings(tsa="linear"))
    assert losses.metrics["tsa_kept"] == 0.5
    assert losses.metrics["loss_x"].item() == pytest.approx(np.log(2))
    learner, batch = of_logits([[3, 0]], [[0, 0]], [[0, 0]], [0], eta=0.5)
    losses = uda.loss(learner, batch, uda.Settings(tsa="linear"))
    losses.total.backward()
    assert losses.total.item() == 0, "all rows dropped: no loss, no division by zero"
    assert batch.x.grad is None or not batch.x.grad.any()


def test_all_rows_go_through_the_network_once_and_update_together() -> None:
    settings = uda.Settings()
    batch, learner = make_batch(uda, settings), make_learner(uda, settings)
    model = learner.model = Watched(learner.model)
    uda.loss(learner, batch, settings).total.backward()
    (call,) = model.calls
    assert (call.groups, call.update) == (1, 0)
    torch.testing.assert_close(call.rows, torch.cat([batch.x, *batch.u]))
    assert len(call.rows) == 15 * SIZES.labeled


def test_views() -> None:
    wanted = uda.views(uda.Settings())
    assert (wanted.labeled, wanted.unlabeled, wanted.policy) == (("weak",), ("weak", "strong"), "uda")
    assert (wanted.source, wanted.labeled_in_unlabeled, wanted.ratio, wanted.teacher) == ("base", True, 7, False)


def test_published_settings() -> None:
    run, settings = config.build(uda, "svhn", [], {})
    assert (settings.temperature, settings.threshold, settings.lambda_u, settings.tsa) == (0.4, 0.8, 1.0, "none")
    assert (run.optimizer, run.lr, run.lr_schedule, run.weight_decay) == ("sgd", 0.03, "cosine", 5e-4)
    assert run.ema_decay == 0.9999


def test_a_run_too_short_for_the_papers_average_gets_the_automatic_one() -> None:
    assert config.build(uda, None, ["steps=100000"], {})[0].ema_decay is None
    assert config.build(uda, None, [], {"steps": 300_000})[0].ema_decay == 0.9999
    assert config.build(uda, None, ["ema_decay=.9999"], {"steps": 100})[0].ema_decay == 0.9999
    assert config.build(uda, None, ["ema_decay=none"], {})[0].ema_decay is None


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"threshold": -0.1}, {"lambda_u": -1.0}, {"ratio": 0}, {"tsa": "cosine"}]
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        config.check(uda.Settings(**wrong))
