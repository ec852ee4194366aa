"""VAT: the adversarial direction in closed form, a whole step against NumPy, and what the direction leaves alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy_losses as reference
import pytest
import torch
from method_batches import SMALL, Linear, make_batch, make_learner
from rounding import assert_same, bound
from torch import Tensor

from networks.build import build_model
from trainer.contract import Learner
from trainer.functional import ops
from trainer.methods import vat


def t64(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def linear(*weight: list[float]) -> Any:
    return lambda rows: rows @ t64(*weight).T


TWO, THREE = linear([1, 0], [0, 2]), linear([1, 0], [0, 1], [-1, 1])


@pytest.mark.parametrize(
    ("epsilon", "logits", "paper", "mixmatch"),
    [(6.0, [-2.683282, 10.733126], 6.015058, 0.693126), (0.5, [-0.223607, 0.894427], 0.148732, 0.134828)],
)
def test_two_classes(epsilon: float, logits: list[float], paper: float, mixmatch: float) -> None:
    clean, r = vat.adversary(TWO, t64([0, 0]), t64([1, 1]), 1e-3, epsilon)
    torch.testing.assert_close(r / epsilon, t64([-0.447214, 0.894427]), rtol=0, atol=1e-5)
    moved = TWO(r)
    torch.testing.assert_close(moved, t64(logits), rtol=0, atol=1e-4)
    assert ops.kl_divergence(clean, moved).item() == pytest.approx(paper, abs=1e-4)
    assert ops.kl_divergence(moved, clean).item() == pytest.approx(mixmatch, abs=1e-4)


def test_the_sign_follows_the_noise() -> None:
    _, r = vat.adversary(TWO, t64([0, 0]), t64([1, -1]), 1e-3, 1.0)
    torch.testing.assert_close(r, t64([0.447214, -0.894427]), rtol=0, atol=1e-5)


def test_noise_without_a_slope_moves_nothing() -> None:
    """(2, 1) raises both logits alike."""
    _, r = vat.adversary(TWO, t64([0, 0], [0, 0]), t64([2, 1], [1, 1]), 1e-3, 6.0)
    assert torch.isfinite(r).all()
    assert (r[0] == 0).all()
    assert r[1].norm().item() == pytest.approx(6, rel=1e-6)


def test_three_classes() -> None:
    clean, r = vat.adversary(THREE, t64([0.3, -0.2]), t64([1, 0]), 1e-3, 6.0)
    torch.testing.assert_close(clean.softmax(1), t64([0.486415, 0.295025, 0.218560]), rtol=0, atol=1e-6)
    torch.testing.assert_close(r / 6, t64([0.871614, -0.490193]), rtol=0, atol=1e-4)
    torch.testing.assert_close(r / 6, t64([0.871585, -0.490245]), rtol=0, atol=2e-6)
    assert not r.requires_grad
    assert not clean.requires_grad


@pytest.mark.parametrize("entropy", [0.0, 0.06])
@pytest.mark.parametrize("direction", ["paper", "mixmatch"])
def test_a_step_is_that_of_the_paper(direction: str, entropy: float) -> None:
    """The direction from the Hessian of the divergence, H = Wᵀ(diag p − ppᵀ)W; ξ → 0."""
    settings = vat.Settings(lambda_u=0.6, epsilon=0.8, xi=1e-6, entropy=entropy, direction=direction, rampup_share=1.0)
    batch = make_batch(vat, settings, SMALL, dtype=torch.float64)
    learner = make_learner(vat, settings, Linear)
    losses = vat.loss(learner, batch, settings)

    head, x, u = learner.model.head, reference.flat(batch.x), reference.flat(batch.u[0])
    weight, p, noise = head.weight.detach().numpy(), reference.predict(head, u), reference.flat(batch.draws["noise"])
    moved = np.empty_like(u)
    for i in range(len(u)):
        hessian = weight.T @ (np.diag(p[i]) - np.outer(p[i], p[i])) @ weight
        moved[i] = u[i] + 0.8 * hessian @ noise[i] / np.linalg.norm(hessian @ noise[i])
    q = reference.predict(head, moved)
    if direction == "paper":
        rows, slope_u = (p * np.log(p / q)).sum(1), q - p
    else:
        rows = (q * np.log(q / p)).sum(1)
        slope_u = q * (np.log(q / p) - rows[:, None])
    uncertain = -(p * np.log(p)).sum(1)
    slope_entropy = -p * (np.log(p) + uncertain[:, None])
    loss_x, slope_x = reference.cross_entropy(reference.logits(head, x), reference.hot(batch.y, 4))
    total = loss_x + 0.3 * rows.mean() + entropy * uncertain.mean()
    parts = [(x, slope_x), (moved, 0.3 * slope_u / 6), (u, entropy * slope_entropy / 6)]
    reference.matches(
        losses, head, parts, 1e-5, loss_x=loss_x, loss_u=rows.mean(), entropy=uncertain.mean(), total=total
    )


def test_the_direction_touches_neither_gradients_nor_statistics() -> None:
    torch.manual_seed(0)
    model = build_model("wrn-10-1", 4, bn_momentum=0.1).double()
    before = [buffer.clone() for buffer in model.buffers()]
    u = torch.rand(6, 3, 8, 8, dtype=torch.float64) * 2 - 1
    _, r = vat.adversary(model, u, torch.randn_like(u), 1e-2, 6.0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(map(torch.equal, before, model.buffers()))
    # the length is that of r's 192 pixels; `unit` adds 1e-6 to a square of at least 1
    assert (r.flatten(1).norm(dim=1) - 6).abs().max() < 6 * (0.5e-6 + bound(torch.float64))


def test_the_direction_is_found_in_float32_with_the_default_xi() -> None:
    """Against float64 and a tiny ξ. In bf16, or with ξ = 1e-6 in float32, it would be rounding noise."""
    torch.manual_seed(0)
    model, u = build_model("wrn-10-1", 4), torch.rand(6, 3, 8, 8) * 2 - 1
    noise, truth = torch.randn_like(u), build_model("wrn-10-1", 4).double()
    truth.load_state_dict(model.state_dict())
    _, expected = vat.adversary(truth, u.double(), noise.double(), 1e-5, 1.0)

    def cosine(xi: float) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            _, r = vat.adversary(model, u, noise, xi, 1.0)
        assert r.dtype == torch.float32
        return (r.double() * expected).sum((1, 2, 3)).mean().item()

    assert cosine(vat.Settings().xi) > 0.99
    assert cosine(1e-6) < 0.9


def test_noise_is_normal_and_of_the_size_of_the_images() -> None:
    noise = vat.draw(np.random.default_rng(0), vat.Sizes(8, 16, 10, (20, 30)), vat.Settings())["noise"]
    assert noise.shape == (16, 3, 20, 30)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 4 / math.sqrt(noise.size)
    assert noise.std() == pytest.approx(1, abs=0.02)


def test_without_entropy_its_weight_is_all_that_is_missing() -> None:
    """The clean images then need no gradient: they are left out of the student's pass."""
    totals = {}
    for weight in (0.0, 0.06):
        settings = vat.Settings(entropy=weight, rampup_share=0.0)
        batch, learner = make_batch(vat, settings), make_learner(vat, settings)
        losses = vat.loss(Learner(learner.model), batch, settings)
        totals[weight] = losses.total.item() - weight * losses.metrics["entropy"].item()
    assert_same(totals[0.0], totals[0.06], dtype=torch.float64, stretched=100)  # 1 / ξ


def test_a_compiled_network_gives_the_same_step() -> None:
    """What the engine does where the loss cannot be one graph: the network is, also under a gradient for its input."""
    settings = vat.Settings(rampup_share=0.0)
    gradients = []
    for compiled in (False, True):
        batch, learner = make_batch(vat, settings), make_learner(vat, settings)
        parameters, buffers = list(learner.model.parameters()), list(learner.model.buffers())
        if compiled:
            learner.model = torch.compile(learner.model, backend="eager", fullgraph=True, dynamic=False)
        total = vat.loss(learner, batch, settings).total
        gradients.append([total.detach(), *torch.autograd.grad(total, parameters), *buffers])
    for alone, other in zip(*gradients, strict=True):
        assert_same(other, alone, stretched=1 / settings.xi)  # the direction is a difference of two passes ξ apart
