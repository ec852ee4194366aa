"""RealMix: a whole step against plain NumPy, annealing and mask at work, draws and ramps."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import numpy as np
import numpy_losses as reference
import pytest
import torch
from method_batches import SMALL, Linear, Watched, make_batch, make_learner
from numpy.testing import assert_allclose

from trainer import config
from trainer.contract import Batch, Learner, Losses, Sizes
from trainer.functional import ops, schedules
from trainer.methods import load_method, realmix


def step(settings: realmix.Settings) -> tuple[Losses, Batch, Learner]:
    batch = make_batch(realmix, settings, SMALL, dtype=torch.float64)
    learner = make_learner(realmix, settings, Linear)
    return realmix.loss(learner, batch, settings), batch, learner


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 0.0},
        {"gamma": 0.4},
        {"gamma": 1.0},
        {"gamma": 0.4, "ood_confidence": "target", "temperature": 0.3},
        {"gamma": 0.2, "tsa": "linear", "alpha": 0.01},
        {"gamma": 0.0, "tsa": "exp", "alpha": 0.01},
    ],
)
def test_a_step_is_that_of_the_paper(options: dict[str, Any]) -> None:
    settings = realmix.Settings(**{"lambda_u": 20.0, "rampup_steps": 8, "tsa": "none", **options})
    batch = make_batch(realmix, settings, SMALL, dtype=torch.float64)
    learner = make_learner(realmix, settings, Linear)
    with torch.no_grad():
        batch.y[:3] = learner.model(batch.x[:3]).argmax(1)  # three labels that it knows, for annealing to drop
    losses = realmix.loss(learner, batch, settings)

    head, views = learner.model.head, [reference.flat(view) for view in batch.u]
    q = (sum(reference.predict(head, view) for view in views) / 2) ** (1 / settings.temperature)
    q /= q.sum(1, keepdims=True)
    lam, partner = batch.draws["lam"], batch.draws["partner"]
    rows = reference.blend(np.concatenate([reference.flat(batch.x), *views]), lam, partner)
    targets = reference.blend(np.concatenate([reference.hot(batch.y, 4), q, q]), lam, partner)
    p, eta, weight_u = reference.predict(head, rows), batch.schedule["tsa_threshold"].item(), 20 * 5 / 8
    keep_x, keep_u = np.ones(6), np.ones(12)
    if settings.tsa != "none":
        for i in range(6):
            keep_x[i] = any(targets[i, c] > 0 and p[i, c] < targets[i, c] * eta for c in range(4))
    assert settings.gamma is not None
    confidence = p[6:].max(1) if settings.ood_confidence == "mixed" else np.concatenate([q, q]).max(1)
    keep_u[np.argsort(confidence, kind="stable")[: int(settings.gamma * 12 + 1e-6)]] = 0
    mean_x, mean_u = (keep * len(keep) / max(keep.sum(), 1) for keep in (keep_x, keep_u))
    loss_x, slope_x = reference.cross_entropy(reference.logits(head, rows[:6]), targets[:6], mean_x)
    loss_u, slope_u = reference.squared_error(reference.logits(head, rows[6:]), targets[6:], mean_u)

    assert (keep_x.min() == 0) == (settings.tsa != "none"), "the example must show annealing at work"
    reference.matches(
        losses,
        head,
        [(rows[:6], slope_x), (rows[6:], weight_u * slope_u)],
        loss_x=loss_x,
        loss_u=loss_u,
        total=loss_x + weight_u * loss_u,
        tsa_kept=keep_x.mean(),
        ood_kept=keep_u.mean(),
    )
    assert losses.keep_u is not None
    assert_allclose(losses.keep_u, keep_u)


def test_annealing_really_drops_rows() -> None:
    settings = realmix.Settings(gamma=0.0, tsa="linear")
    batch = make_batch(realmix, settings, SMALL, dtype=torch.float64)
    learner = make_learner(realmix, settings, Linear)
    batch.draws = {"lam": torch.ones(18), "partner": torch.arange(18)}  # no mixing: hard labels
    with torch.no_grad():  # a network that knows rows 0, 1 and 2
        known = 20 * ops.one_hot(batch.y, 4).double() * (torch.arange(6) < 3)[:, None]
        learner.model.head.weight.copy_((torch.linalg.pinv(batch.x.flatten(1)) @ known).T)
        learner.model.head.bias.zero_()
    batch.schedule = {**batch.schedule, "tsa_threshold": torch.tensor(0.2)}
    losses = realmix.loss(learner, batch, settings)
    assert losses.metrics["tsa_kept"].item() == 0, "even a uniform prediction, ¼, exceeds the threshold"
    assert losses.metrics["loss_x"].item() == 0
    batch.schedule = {**batch.schedule, "tsa_threshold": torch.tensor(0.5)}
    losses = realmix.loss(learner, batch, settings)
    assert losses.metrics["tsa_kept"].item() == 0.5
    assert losses.metrics["loss_x"].item() == pytest.approx(math.log(4), rel=1e-6), "the mean over the three kept rows"
    legacy = realmix.loss(learner, batch, dataclasses.replace(settings, tsa_legacy=True))
    assert legacy.metrics["tsa_kept"].item() > 0.5


def test_mask_telemetry_is_view_major() -> None:
    """With the guess as confidence both views of a sample have one confidence: the two halves drop the same samples."""
    losses, batch, learner = step(realmix.Settings(tsa="none", gamma=0.5, ood_confidence="target"))
    assert losses.keep_u is not None
    assert losses.keep_u.shape == (12,)
    with torch.no_grad():
        least = ops.guess([learner.model(view) for view in batch.u], 0.5).amax(1).argsort()[:3]
    dropped = torch.zeros(6).index_fill(0, least, 1)
    assert_allclose(losses.keep_u, torch.cat([1 - dropped, 1 - dropped]))


def test_by_features_an_image_is_dropped_whatever_the_network_says() -> None:
    """Nothing until the features have been looked at; then those of the batch that labels are farthest from."""
    settings = realmix.Settings(tsa="none", gamma=0.5, ood_confidence="feature")
    batch, learner = make_batch(realmix, settings, SMALL), make_learner(realmix, settings, Linear)
    assert realmix.loss(learner, batch, settings).metrics["ood_kept"].item() == 1
    learner.state["gamma"].fill_(0.5)
    learner.state["known"].copy_(torch.rand(len(learner.state["known"])))
    known = learner.state["known"][batch.u_id]
    kept = torch.ones(6).index_fill(0, known.argsort()[:3], 0)
    losses = realmix.loss(learner, batch, settings)
    assert losses.keep_u is not None
    assert_allclose(losses.keep_u, torch.cat([kept, kept]))


def test_authors_count_masks_one_row_more() -> None:
    exact, strict = (
        step(realmix.Settings(tsa="none", gamma=0.5, ood_strict=strict))[0].keep_u for strict in (False, True)
    )
    assert exact is not None
    assert strict is not None
    assert (exact.sum(), strict.sum()) == (6, 5)


def test_guess_has_no_gradient_and_the_student_sees_each_row_once() -> None:
    settings = realmix.Settings(tsa="none", gamma=0.2)
    batch, learner = make_batch(realmix, settings), make_learner(realmix, settings)
    model = learner.model = Watched(learner.model)
    realmix.loss(learner, batch, settings)
    assert [(call.groups, call.update, call.differentiable) for call in model.calls] == [(2, None, False), (3, 0, True)]


@pytest.mark.parametrize(
    ("alpha", "mean"), [(0.1, 0.941576), (0.25, 0.88138), (0.5, 0.81831), (0.75, 0.778209), (1.0, 0.75)]
)
def test_mean_of_the_mixing_weight(alpha: float, mean: float) -> None:
    rng = np.random.default_rng(0)
    drawn = realmix.draw(rng, Sizes(labeled=20_000, unlabeled=20_000, num_classes=10), realmix.Settings(alpha=alpha))
    lam = drawn["lam"]
    assert lam.dtype == np.float32
    assert lam.shape == (60_000,)
    assert ((lam >= 0.5) & (lam <= 1)).all()
    assert abs(lam.mean() - mean) < 4 * lam.std() / math.sqrt(len(lam))
    assert drawn["partner"].dtype == np.int64
    assert (np.sort(drawn["partner"]) == np.arange(60_000)).all()


def test_ramps() -> None:
    settings = realmix.Settings(tsa="linear")
    assert realmix.schedule(0, 100, 10, settings) == {"weight_u": 0, "tsa_threshold": pytest.approx(0.1)}
    assert realmix.schedule(8192, 16384, 10, settings) == {"weight_u": 37.5, "tsa_threshold": pytest.approx(0.55)}
    assert set(get_args(schedules.TSA)) == {"none", "linear", "log", "exp"}


@pytest.mark.parametrize(("labels", "chosen"), [(40, "linear"), (250, "linear"), (251, "none"), (2400, "none")])
def test_few_labels_are_annealed_unless_the_user_says_otherwise(make_store, labels: int, chosen: str) -> None:
    store = make_store()
    store.labeled = np.zeros(labels, np.int64)
    for words, expected in (([], chosen), (["tsa=auto"], chosen), (["tsa=none"], "none"), (["tsa=exp"], "exp")):
        run, asked = config.build(load_method("realmix"), None, words, {})
        assert config.resolve(run, asked, store)[1].tsa == expected


def test_a_run_that_recorded_no_annealing_goes_on_without() -> None:
    recorded = dataclasses.asdict(realmix.Settings(tsa="none", gamma=0.0))
    assert config.load(realmix.Settings, recorded, "config.json").tsa == "none"
