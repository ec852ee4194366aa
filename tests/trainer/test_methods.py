"""The methods: a whole RealMix step against plain NumPy, its BatchNorm discipline, its masks, and the baseline."""

from __future__ import annotations

import copy
import dataclasses
import math
import subprocess
import sys
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from stores.errors import UsageError
from trainer import ops, schedules
from trainer.methods import METHODS, load_method, realmix, supervised
from trainer.methods.contract import Batch, Learner, Losses, Sizes
from trainer.models import build_model

SIZES = Sizes(labeled=6, unlabeled=6, num_classes=4)


def make_batch(settings: realmix.Settings, step: int = 5, side: int = 8, dtype: torch.dtype = torch.float32) -> Batch:
    rng = np.random.default_rng(7)
    shape = (SIZES.labeled, 3, side, side)
    images = [torch.from_numpy(rng.uniform(-1, 1, shape)).to(dtype) for _ in range(3)]
    drawn = realmix.draw(rng, SIZES, settings)
    ramps = realmix.schedule(step, 10, SIZES.num_classes, settings)
    return Batch(
        x=images[0],
        y=torch.from_numpy(rng.integers(0, SIZES.num_classes, SIZES.labeled)),
        u=tuple(images[1:]),
        draws={name: torch.from_numpy(array) for name, array in drawn.items()},
        schedule={name: torch.tensor(value, dtype=torch.float32) for name, value in ramps.items()},
    )


class Linear(nn.Module):
    """A network whose gradients can be written down."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, SIZES.num_classes).double()

    def forward(self, x: Tensor, groups: int = 1, update: int | None = None) -> Tensor:
        return self.head(x.flatten(1))


# --- a step of RealMix, written again from the paper in float64 -----------------------------------------------------


def np_softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def reference(weight: np.ndarray, bias: np.ndarray, batch: Batch, settings: realmix.Settings) -> dict[str, Any]:
    """Losses, masks and the gradient of the total for z = xWᵀ + b."""
    lam, partner = batch.draws["lam"].double().numpy()[:, None], batch.draws["partner"].numpy()
    eta, weight_u = batch.schedule["tsa_threshold"].item(), batch.schedule["weight_u"].item()
    x, u1, u2 = (images.double().numpy().reshape(SIZES.labeled, -1) for images in (batch.x, *batch.u))
    n, k = SIZES.labeled, SIZES.num_classes
    average = sum(np_softmax(u @ weight.T + bias) for u in (u1, u2)) / 2
    q = average ** (1 / settings.temperature)
    q /= q.sum(1, keepdims=True)
    rows, labels = np.concatenate([x, u1, u2]), np.concatenate([np.eye(k)[batch.y.numpy()], q, q])
    rows, labels = lam * rows + (1 - lam) * rows[partner], lam * labels + (1 - lam) * labels[partner]
    p = np_softmax(rows @ weight.T + bias)
    keep_x, keep_u = np.ones(n), np.ones(2 * n)
    if settings.tsa != "none":
        for i in range(n):
            keep_x[i] = any(labels[i, c] > 0 and p[i, c] < labels[i, c] * eta for c in range(k))
    assert settings.gamma is not None
    confidence = p[n:].max(1) if settings.ood_confidence == "mixed" else np.concatenate([q, q]).max(1)
    keep_u[np.argsort(confidence, kind="stable")[: int(settings.gamma * 2 * n + 1e-6)]] = 0
    errors_x = -(labels[:n] * np.log(p[:n])).sum(1)
    errors_u = ((labels[n:] - p[n:]) ** 2).sum(1)
    loss_x = (keep_x * errors_x).sum() / max(keep_x.sum(), 1)
    loss_u = (keep_u * errors_u).sum() / max(keep_u.sum() * k, 1)
    slope_x = keep_x[:, None] * (p[:n] - labels[:n]) / max(keep_x.sum(), 1)
    gap = p[n:] - labels[n:]
    slope_u = 2 * p[n:] * (gap - (p[n:] * gap).sum(1, keepdims=True)) * keep_u[:, None] / max(keep_u.sum() * k, 1)
    slope = np.concatenate([slope_x, weight_u * slope_u])
    return {
        "loss_x": loss_x,
        "loss_u": loss_u,
        "total": loss_x + weight_u * loss_u,
        "keep_x": keep_x,
        "keep_u": keep_u,
        "weight_grad": slope.T @ rows,
        "bias_grad": slope.sum(0),
    }


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
    torch.manual_seed(3)
    settings = realmix.Settings(lambda_u=20.0, rampup_steps=8, **options)
    batch = make_batch(settings, side=2, dtype=torch.float64)
    model = Linear(12)
    with torch.no_grad():
        model.head.weight.mul_(8)
        batch.y[:3] = model(batch.x[:3]).argmax(1)  # three labels that it knows, for annealing to drop
    losses = realmix.loss(Learner(model), batch, settings)
    losses.total.backward()
    expected = reference(model.head.weight.detach().numpy(), model.head.bias.detach().numpy(), batch, settings)
    for name in ("loss_x", "loss_u"):
        assert losses.metrics[name].item() == pytest.approx(expected[name], rel=1e-10, abs=1e-14)
    assert losses.total.item() == pytest.approx(expected["total"], rel=1e-10)
    assert losses.keep_u is not None
    assert_allclose(losses.keep_u, expected["keep_u"])
    assert losses.metrics["tsa_kept"].item() == pytest.approx(expected["keep_x"].mean())
    assert losses.metrics["ood_kept"].item() == pytest.approx(expected["keep_u"].mean())
    assert (expected["keep_x"].min() == 0) == (settings.tsa != "none"), "the example must show annealing at work"
    assert model.head.weight.grad is not None
    assert model.head.bias.grad is not None
    assert_allclose(model.head.weight.grad, expected["weight_grad"], rtol=1e-9, atol=1e-12)
    assert_allclose(model.head.bias.grad, expected["bias_grad"], rtol=1e-9, atol=1e-12)


def test_annealing_really_drops_rows() -> None:
    torch.manual_seed(0)
    model = Linear(12)
    settings = realmix.Settings(gamma=0.0, tsa="linear")
    batch = make_batch(settings, step=0, side=2, dtype=torch.float64)
    batch.draws = {"lam": torch.ones(18), "partner": torch.arange(18)}  # no mixing: hard labels
    with torch.no_grad():  # a network that knows rows 0, 1 and 2
        known = 20 * ops.one_hot(batch.y, 4).double() * (torch.arange(6) < 3)[:, None]
        model.head.weight.copy_((torch.linalg.pinv(batch.x.flatten(1)) @ known).T)
        model.head.bias.zero_()
    batch.schedule = {**batch.schedule, "tsa_threshold": torch.tensor(0.2)}
    losses = realmix.loss(Learner(model), batch, settings)
    assert losses.metrics["tsa_kept"].item() == 0, "even a uniform prediction, ¼, exceeds the threshold"
    assert losses.metrics["loss_x"].item() == 0
    batch.schedule = {**batch.schedule, "tsa_threshold": torch.tensor(0.5)}
    losses = realmix.loss(Learner(model), batch, settings)
    assert losses.metrics["tsa_kept"].item() == 0.5
    assert losses.metrics["loss_x"].item() == pytest.approx(math.log(4), rel=1e-6), "the mean over the three kept rows"
    legacy = realmix.loss(Learner(model), batch, dataclasses.replace(settings, tsa_legacy=True))
    assert legacy.metrics["tsa_kept"].item() > 0.5


def test_without_gamma_and_annealing_it_is_mixmatch() -> None:
    """RealMix's own parts are off: the plain means of MixMatch's two losses."""
    torch.manual_seed(0)
    settings = realmix.Settings(gamma=0.0)
    losses = realmix.loss(Learner(build_model("wrn-10-1", 4)), make_batch(settings), settings)
    assert losses.metrics["tsa_kept"] == losses.metrics["ood_kept"] == 1


def test_mask_telemetry_is_view_major() -> None:
    """With the guess as confidence both views of a sample have one confidence: the two halves drop the same samples."""
    torch.manual_seed(0)
    settings = realmix.Settings(gamma=0.5, ood_confidence="target")
    model, batch = Linear(12), make_batch(realmix.Settings(gamma=0.5), side=2, dtype=torch.float64)
    keep = realmix.loss(Learner(model), batch, settings).keep_u
    assert keep is not None
    assert keep.shape == (12,)
    with torch.no_grad():
        least = ops.guess([model(view) for view in batch.u], 0.5).amax(1).argsort()[:3]
    dropped = torch.zeros(6).index_fill(0, least, 1)
    assert_allclose(keep, torch.cat([1 - dropped, 1 - dropped]))


def test_authors_count_masks_one_row_more() -> None:
    torch.manual_seed(0)
    model, batch = Linear(12), make_batch(realmix.Settings(gamma=0.5), side=2, dtype=torch.float64)
    exact, strict = (
        realmix.loss(Learner(model), batch, realmix.Settings(gamma=0.5, ood_strict=s)).keep_u for s in (False, True)
    )
    assert exact is not None
    assert strict is not None
    assert (exact.sum(), strict.sum()) == (6, 5)


# --- BatchNorm and gradients on a real network ----------------------------------------------------------------------


def interleaved_first_batch(model: nn.Module, batch: Batch, settings: realmix.Settings) -> Tensor:
    """The images of the batch that may update BatchNorm, written out: a third of each kind."""
    rows = torch.cat([batch.x, *batch.u])
    lam = batch.draws["lam"].view(-1, 1, 1, 1)
    mixed = lam * rows + (1 - lam) * rows[batch.draws["partner"]]
    return torch.cat([mixed[0:2], mixed[8:10], mixed[16:18]])


def test_running_statistics_move_once_a_step_by_the_interleaved_batch() -> None:
    torch.manual_seed(0)
    settings = realmix.Settings(gamma=0.2)
    batch = make_batch(settings)
    model = build_model("wrn-10-1", 4, bn_momentum=0.1)
    manual = copy.deepcopy(model)
    realmix.loss(Learner(model), batch, settings)
    manual(interleaved_first_batch(manual, batch, settings), update=0)
    for (name, ours), theirs in zip(model.named_buffers(), manual.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5, msg=name)
    assert not torch.equal(model.blocks[0].bn1.running_mean, torch.zeros(16))


def test_guess_has_no_gradient_and_the_unlabelled_loss_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    settings = realmix.Settings(gamma=0.2, rampup_steps=0)
    batch, model = make_batch(settings), build_model("wrn-10-1", 4)
    with_gradient: list[bool] = []
    model.register_forward_hook(lambda module, inputs, output: with_gradient.append(output.requires_grad))
    losses = realmix.loss(Learner(model), batch, settings)
    assert with_gradient == [False, True]
    batch.schedule = {**batch.schedule, "weight_u": torch.tensor(0.0)}
    labelled = realmix.loss(Learner(model), batch, settings)
    unlabelled = torch.autograd.grad(losses.total - labelled.total, list(model.parameters()))
    assert losses.metrics["loss_u"] > 0
    assert all(gradient.abs().sum() > 0 for gradient in unlabelled[:-1])


def test_autocast_loses_no_gradient() -> None:
    """Weights that autocast caches in the guesses, which have no gradient, must not be used again by the student."""
    torch.manual_seed(0)
    settings = realmix.Settings(gamma=0.2, rampup_steps=0)
    batch, model = make_batch(settings), build_model("wrn-10-1", 4)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = realmix.loss(Learner(model), batch, settings)
        assert losses.total.dtype == torch.float32
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(losses.total, list(model.parameters()))]))
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.98


@pytest.mark.parametrize("method", [realmix, supervised])
def test_step_is_one_graph_for_the_compiler(method: Any) -> None:
    torch.manual_seed(0)
    settings = method.Settings(**({"gamma": 0.4, "tsa": "linear"} if method is realmix else {}))
    batch, model = make_batch(realmix.Settings(gamma=0.4, tsa="linear")), build_model("wrn-10-1", 4, bn_momentum=0.1)
    other = copy.deepcopy(model)
    compiled = torch.compile(method.loss, backend="eager", fullgraph=True)
    total = compiled(Learner(other), batch, settings).total.item()
    assert total == pytest.approx(method.loss(Learner(model), batch, settings).total.item(), rel=1e-5)
    for ours, theirs in zip(other.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


# --- draws, ramps, settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "mean"), [(0.1, 0.941576), (0.25, 0.88138), (0.5, 0.81831), (0.75, 0.778209), (1.0, 0.75)]
)
def test_mean_of_the_mixing_weight(alpha: float, mean: float) -> None:
    rng = np.random.default_rng(0)
    sizes = Sizes(labeled=20_000, unlabeled=20_000, num_classes=10)
    drawn = realmix.draw(rng, sizes, realmix.Settings(alpha=alpha))
    lam = drawn["lam"]
    assert lam.dtype == np.float32
    assert lam.shape == (60_000,)
    assert ((lam >= 0.5) & (lam <= 1)).all()
    assert abs(lam.mean() - mean) < 4 * lam.std() / math.sqrt(len(lam))
    assert drawn["partner"].dtype == np.int64
    assert (np.sort(drawn["partner"]) == np.arange(60_000)).all()


def test_ramps_of_realmix() -> None:
    settings = realmix.Settings(tsa="linear")
    assert realmix.schedule(0, 100, 10, settings) == {"weight_u": 0, "tsa_threshold": pytest.approx(0.1)}
    assert realmix.schedule(8192, 16384, 10, settings) == {"weight_u": 37.5, "tsa_threshold": pytest.approx(0.55)}


def test_views() -> None:
    wanted = realmix.views(realmix.Settings())
    assert (wanted.unlabeled, wanted.source, wanted.labeled_in_unlabeled) == (("weak", "weak"), "copies", False)
    assert wanted.ratio == 1
    assert supervised.views(supervised.Settings()).unlabeled == ()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(name: str) -> None:
    method = load_method(name)
    assert name == method.NAME
    assert method.SUMMARY
    hints = get_type_hints(method.Settings)
    for field in dataclasses.fields(method.Settings):
        assert field.metadata["help"], field.name
        assert field.name in hints
        assert field.default is not dataclasses.MISSING
    for overrides in method.PRESETS.values():
        method.Settings(**{key: value for key, value in overrides.items() if key != "run"})


def test_unknown_method() -> None:
    with pytest.raises(UsageError, match="unknown method 'realmxi'") as caught:
        load_method("realmxi")
    assert "did you mean realmix?" in str(caught.value)


def test_naming_the_methods_does_not_import_torch() -> None:
    code = "import sys, trainer.methods as m; assert 'realmix' in m.METHODS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (realmix, {"alpha": 0.0}),
        (realmix, {"gamma": 1.5}),
        (realmix, {"gamma": -0.1}),
        (realmix, {"tsa": "cosine"}),
        (realmix, {"temperature": 0.0}),
        (realmix, {"lambda_u": -1.0}),
        (realmix, {"rampup_steps": -1}),
        (realmix, {"ood_confidence": "max"}),
        (supervised, {"smoothing": 1.0}),
        (supervised, {"beta": 0.0}),
    ],
)
def test_settings_out_of_range(method: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        method.Settings(**wrong)


def test_published_settings() -> None:
    settings = realmix.Settings()
    assert (settings.alpha, settings.lambda_u, settings.temperature, settings.rampup_steps) == (0.75, 75, 0.5, 16384)
    assert realmix.PRESETS["svhn"]["lambda_u"] == 250
    assert supervised.PRESETS["svhn"] == {"smoothing": 0.01, "run": {"weight_decay": 0.002}}
    assert set(get_args(schedules.TSA)) == {"none", "linear", "log", "exp"}


# --- supervised -----------------------------------------------------------------------------------------------------


def supervised_step(
    model: nn.Module, settings: supervised.Settings, lam: list[float] | None = None
) -> tuple[Losses, Batch]:
    torch.manual_seed(1)
    draws = {} if lam is None else {"lam": torch.tensor(lam, dtype=torch.float64)}
    batch = Batch(torch.randn(4, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 3]), draws=draws)
    return supervised.loss(Learner(model), batch, settings), batch


def test_supervised_is_mean_cross_entropy_with_smoothed_labels() -> None:
    model = Linear(12)
    for smoothing in (0.0, 0.1):
        losses, batch = supervised_step(model, supervised.Settings(smoothing=smoothing))
        expected = nn.functional.cross_entropy(model(batch.x), batch.y, label_smoothing=smoothing)
        assert losses.total.item() == pytest.approx(expected.item(), rel=1e-6)
        assert losses.metrics["loss_x"].item() == losses.total.item()
        assert losses.keep_u is None


def test_supervised_mixup_pairs_the_batch_with_its_reverse() -> None:
    model, lam = Linear(12), [0.9, 0.8, 0.7, 0.6]
    losses, batch = supervised_step(model, supervised.Settings(mixup=True, smoothing=0.5), lam)
    expected = 0.0
    for i, weight in enumerate(lam):
        log_p = model(weight * batch.x[i : i + 1] + (1 - weight) * batch.x[3 - i : 4 - i]).log_softmax(1)[0]
        expected -= (weight * log_p[i] + (1 - weight) * log_p[3 - i]).item() / 4
    assert losses.total.item() == pytest.approx(expected, rel=1e-6)


def test_supervised_draws() -> None:
    assert supervised.draw(np.random.default_rng(0), SIZES, supervised.Settings()) == {}
    lam = supervised.draw(np.random.default_rng(0), Sizes(20_000, 0, 10), supervised.Settings(mixup=True))["lam"]
    assert lam.dtype == np.float32
    assert lam.min() >= 0.5
    assert abs(lam.mean() - 0.81831) < 4 * lam.std() / math.sqrt(len(lam))


def test_supervised_updates_the_running_statistics_once() -> None:
    torch.manual_seed(0)
    model = build_model("wrn-10-1", 4, bn_momentum=0.1)
    manual = copy.deepcopy(model)
    batch = make_batch(realmix.Settings())
    losses = supervised.loss(Learner(model), batch, supervised.Settings())
    losses.total.backward()
    manual(batch.x, update=0)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), manual.buffers(), strict=True))
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
