"""FreeMatch: its formula, its thresholds and fairness term by hand, and where gradients go."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy_losses as reference
import pytest
import torch
from method_batches import SIZES, SMALL, Linear, calls_of, make_batch, make_learner
from torch import Tensor

from trainer import config
from trainer.contract import Batch, Learner, Losses, Sizes
from trainer.methods import freematch

WEAK, STRONG = [[4.0, 1, 0], [0, 2, 0]], [[2.0, 0, 0], [0, 1, 1.5]]


def of_logits(weak: list, strong: list, decay: float = 0.9, **options: Any) -> tuple[Learner, Batch, Losses]:
    """A step in float64 of a network whose logits are its images, K = 3."""
    rows = [torch.tensor(z, dtype=torch.float64, requires_grad=True) for z in ([[0.0, 0, 0]], weak, strong)]
    settings = freematch.Settings(decay=decay, **options)
    state = freematch.init_state(Sizes(1, len(weak), 3), settings)
    learner = Learner(
        lambda rows, update=None: rows, state={k: torch.full_like(v.double(), 1 / 3) for k, v in state.items()}
    )
    batch = Batch(rows[0], torch.tensor([0]), tuple(rows[1:]), schedule={"weight_u": torch.tensor(1.0)})
    return learner, batch, freematch.loss(learner, batch, settings)


def close(actual: Tensor, *expected: float) -> None:
    torch.testing.assert_close(actual.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-7)


@pytest.mark.parametrize(
    ("decay", "tau", "p", "h"),
    [
        (0.9, 0.386161, (0.352137, 0.341680, 0.306183), (0.35, 0.35, 0.3)),
        (0.999, 0.333862, (0.333521, 0.333417, 0.333062), None),
    ],
)
def test_averages_of_two_rows(decay: float, tau: float, p: tuple, h: tuple | None) -> None:
    """The largest probabilities are .936240 and .786986."""
    learner, _, losses = of_logits(WEAK, STRONG, decay)
    close(learner.state["tau"], tau)
    close(learner.state["p"], *p)
    if h is not None:
        close(learner.state["h"], *h)
    assert losses.metrics["tau"] == learner.state["tau"], "updated before it is used"


@pytest.mark.parametrize(
    ("decay", "thresholds"), [(0.9, (0.386161, 0.374693, 0.335767)), (0.999, (0.333862, 0.333757, 0.333402))]
)
def test_thresholds_by_which_rows_pass(decay: float, thresholds: tuple[float, ...]) -> None:
    """A row just above its class's threshold counts and one just below does not; decay = 1 holds the averages."""
    before = of_logits(WEAK, STRONG, decay)[0].state
    for c, threshold in enumerate(thresholds):
        for gap, kept in ((2e-6, 1), (-2e-6, 0)):
            largest = threshold + gap
            others = np.full(3, (1 - largest) / 2)
            others[c] = largest
            learner, batch, _ = of_logits([np.log(others).tolist()], [[0.0, 0, 0]])
            learner.state = {name: tensor.clone() for name, tensor in before.items()}
            settings = freematch.Settings(decay=1 - 1e-12)
            assert freematch.loss(learner, batch, settings).metrics["kept"] == kept


@pytest.mark.parametrize(
    ("weak", "strong", "value"),
    [(WEAK, STRONG, -9.460370), ([*WEAK, WEAK[0]], [*STRONG, [0.0, 2, 0]], -1.120973)],
)
def test_fairness_by_hand(weak: list, strong: list, value: float) -> None:
    """A class that no row hits costs 27.6·a_c; with all three hit, b = a would give −1.098441, the largest."""
    state = of_logits(WEAK, STRONG)[0].state
    z = torch.tensor(strong, dtype=torch.float64)
    keep = torch.ones(len(z), dtype=torch.float64)
    a = freematch.ratio(state["p"], state["h"])
    close(a, 0.335040, 0.325090, 0.339870)
    close(freematch.fairness(z, keep, state["p"], state["h"]), value)
    masked = torch.cat([z, z.flip(1)]), torch.cat([keep, 0 * keep])
    close(freematch.fairness(*masked, state["p"], state["h"]), value)
    close((a * a.log()).sum(), -1.098441)


def test_no_kept_row() -> None:
    _, batch, losses = of_logits([[0.1, 0, 0]], [[1.0, 0, 0]], least=0.9)
    assert (losses.metrics["kept"], losses.metrics["loss_f"], losses.metrics["loss_u"]) == (0, 0, 0)
    losses.total.backward()
    assert batch.u[1].grad is not None
    assert not batch.u[1].grad.any()


@pytest.mark.parametrize(
    "options",
    [
        {"least": 0.5, "decay": 0.5},
        {"least": 0.6, "most": 0.65, "lambda_f": 0.5, "ratio": 2, "saf_sign": -1},
        {"lambda_u": 3.0, "lambda_f": 0.2, "decay": 0.2},
    ],
)
def test_a_step_is_that_of_the_paper(options: dict[str, Any]) -> None:
    settings = freematch.Settings(**options)
    batch, learner = make_batch(freematch, settings, SMALL), make_learner(freematch, settings, Linear)
    learner.state = {name: tensor.double() for name, tensor in learner.state.items()}
    head = learner.model.head
    x, weak, strong = map(reference.flat, (batch.x, *batch.u))
    guess, m = reference.predict(head, weak), settings.decay
    target = reference.hot(guess.argmax(1), 4)
    tau = m / 4 + (1 - m) * guess.max(1).mean()
    p, h = (m / 4 + (1 - m) * rows.mean(0) for rows in (guess, target))
    threshold = np.clip(tau * p / p.max(), settings.least, settings.most)
    keep = guess.max(1) >= threshold[guess.argmax(1)]
    assert 0 < keep.mean() < 1, "the example must show the thresholds at work"
    loss_x, slope_x = reference.cross_entropy(reference.logits(head, x), reference.hot(batch.y, 4))
    loss_u, slope_u = reference.cross_entropy(reference.logits(head, strong), target, keep)

    own = reference.predict(head, strong)
    hit, kept = reference.hot(own.argmax(1), 4)[keep].mean(0), own[keep].mean(0)
    a, r = p / h / (p / h).sum(), np.divide(kept, hit, out=np.zeros(4), where=hit > 0)
    b = r / r.sum()
    loss_f = float((a * np.log(b + 1e-12)).sum())
    slope_b = a / (b + 1e-12)
    slope_r = (slope_b - (slope_b * b).sum()) / r.sum()
    slope_p = np.divide(slope_r, hit, out=np.zeros(4), where=hit > 0) * keep[:, None] / keep.sum()
    slope_f = own * (slope_p - (slope_p * own).sum(1, keepdims=True))

    weight = settings.lambda_f * settings.saf_sign
    reference.matches(
        freematch.loss(learner, batch, settings),
        head,
        [(x, slope_x), (strong, settings.lambda_u * slope_u + weight * slope_f)],
        loss_x=loss_x,
        loss_u=loss_u,
        loss_f=loss_f,
        tau=tau,
        kept=keep.mean(),
        total=loss_x + settings.lambda_u * loss_u + weight * loss_f,
    )


def test_no_gradient_into_weak_logits_and_masked_rows() -> None:
    learner, batch, losses = of_logits([*WEAK, [0.1, 0, 0]], [*STRONG, [0.0, 3, 0]], least=0.5)
    losses.total.backward()
    weak, strong = batch.u
    assert weak.grad is None or not weak.grad.any()
    assert strong.grad is not None
    assert strong.grad.any(1).tolist() == [True, True, False]
    assert not any(tensor.requires_grad for tensor in learner.state.values())


def test_the_order_of_the_rows_changes_nothing() -> None:
    first = of_logits([*WEAK, [0.1, 0, 0]], [*STRONG, [0.0, 3, 0]])
    other = of_logits([[0.1, 0, 0], *WEAK[::-1]], [[0.0, 3, 0], *STRONG[::-1]])
    close(other[2].total, first[2].total.item())
    for name, tensor in first[0].state.items():
        close(other[0].state[name], *tensor.flatten().tolist())


def test_all_rows_go_through_the_network_once_and_update_together() -> None:
    (call,) = calls_of(freematch, freematch.Settings())
    assert (call.groups, call.update, len(call.rows)) == (1, 0, 15 * SIZES.labeled)


def test_published_settings() -> None:
    run, settings = config.build(freematch, "cifar10", [], {})
    assert (settings.lambda_u, settings.lambda_f, settings.ratio, settings.decay) == (1.0, 0.01, 7, 0.999)
    assert (run.optimizer, run.lr, run.lr_schedule, run.weight_decay) == ("sgd", 0.03, "cosine", 5e-4)
    assert config.build(freematch, "cifar100", [], {})[0].weight_decay == 1e-3
    svhn = config.build(freematch, "svhn", [], {})[1]
    assert (svhn.least, svhn.most) == (0.9, 0.95), "the thresholds' range on SVHN"
