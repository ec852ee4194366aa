"""ReMixMatch: its formula, distribution alignment, rotations, its passes, and its switches."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy_losses as reference
import pytest
import torch
from method_batches import SIZES, SMALL, Watched, blend, make_batch, make_learner
from numpy.testing import assert_allclose
from torch import Tensor, nn

from stores.errors import UsageError
from trainer import config
from trainer.augment import ctaugment
from trainer.contract import Batch, Sizes
from trainer.functional import ops
from trainer.methods import remixmatch
from trainer.methods.remixmatch import Settings, rotate

Array = np.ndarray


class TwoHeads(nn.Module):
    """A linear network of float64 images, with classes and rotations to tell; sure of some images."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.rotation = (nn.Linear(12, 4).double() for _ in range(2))
        with torch.no_grad():
            self.classes.weight.mul_(8)

    def forward(
        self, rows: Tensor, groups: int = 1, update: int | None = None, *, running: bool = False, heads: Any = None
    ) -> Any:
        rows = rows.flatten(1)
        return {"rotation": self.rotation(rows)} if heads == ("rotation",) else self.classes(rows)


# --- a step, written again from the paper in float64 ----------------------------------------------------------------


def turned(images: Array) -> Array:
    """Pixel by pixel: quarters of a batch [n, C, S, S] by 0°, 180°, 90° counter-clockwise, 90° clockwise."""
    out, last = images.copy(), images.shape[2] - 1
    for n, image in enumerate(images):
        for i, j in np.ndindex(image.shape[1:]):
            source = [(i, j), (last - i, last - j), (j, last - i), (last - j, i)][4 * n // len(images)]
            out[n, :, i, j] = image[:, source[0], source[1]]
    return out


def expected(model: TwoHeads, batch: Batch, settings: Settings, data: Array, predicted: Array) -> dict[str, Any]:
    """Losses, slopes of the classes' head by rows, and of the rotations' head; `data` and `predicted`: [K]."""
    n, views_of_u = len(batch.x), len(batch.u)
    weak, *strong = map(reference.flat, batch.u)
    p = reference.predict(model.classes, weak)
    q = p * (1e-6 + data) / (1e-6 + predicted) if settings.align else p
    q = (q / q.sum(1, keepdims=True)) ** (1 / settings.temperature)
    q /= q.sum(1, keepdims=True)
    lam, partner = batch.draws["lam"].double().numpy(), batch.draws["partner"].numpy()
    rows = reference.blend(np.concatenate([reference.flat(batch.x), weak, *strong]), lam, partner)
    targets = reference.blend(np.concatenate([reference.hot(batch.y, 4), *[q] * views_of_u]), lam, partner)
    z = reference.logits(model.classes, rows)
    loss_x, slope_x = reference.cross_entropy(z[:n], targets[:n])
    by_entropy = settings.unlabeled_loss == "cross_entropy"
    loss_u, slope_u = (reference.cross_entropy if by_entropy else reference.squared_error)(z[n:], targets[n:])
    loss_pre, slope_pre = reference.cross_entropy(reference.logits(model.classes, strong[0]), q)
    weight_u, weight_pre = (batch.schedule[name].item() for name in ("weight_u", "weight_pre"))
    sides = turned(batch.u[1].detach().numpy()).reshape(n, -1)
    which = reference.hot(np.arange(n) * 4 // n, 4)
    loss_rotation, slope_rotation = reference.cross_entropy(reference.logits(model.rotation, sides), which)
    values = {"loss_x": loss_x, "loss_u": loss_u}
    if settings.lambda_pre > 0:
        values["loss_pre"] = loss_pre
    if settings.lambda_rotation > 0:
        values["loss_rotation"] = loss_rotation
    values["total"] = loss_x + weight_u * loss_u + weight_pre * loss_pre + settings.lambda_rotation * loss_rotation
    parts = [(rows[:n], slope_x), (rows[n:], weight_u * slope_u), (strong[0], weight_pre * slope_pre)]
    return {"values": values, "parts": parts, "rotation": (settings.lambda_rotation * slope_rotation).T @ sides}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strong_views": 4, "temperature": 0.3, "lambda_rotation": 2.0},
        {"strong_views": 1},
        {"strong_views": 2, "align": False},
        {"strong_views": 2, "lambda_pre": 0.0},
        {"strong_views": 2, "lambda_rotation": 0.0},
        {"strong_views": 2, "unlabeled_loss": "squared_error"},
        {"strong_views": 2, "policy": "none"},
    ],
)
def test_a_step_is_that_of_the_paper(options: dict[str, Any]) -> None:
    settings = Settings(rampup_steps=8, **options)
    batch = make_batch(remixmatch, settings, SMALL, dtype=torch.float64)
    learner = make_learner(remixmatch, settings, TwoHeads)
    model = learner.model
    rng = np.random.default_rng(3)
    data, history = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4), 128)
    if settings.align:
        learner.state |= {"p_data": torch.from_numpy(data), "p_model": torch.from_numpy(history)}
    assert batch.schedule["weight_u"].item() == 1.5 * 5 / 8
    wanted = expected(model, batch, settings, data, history.mean(0))
    losses = remixmatch.loss(learner, batch, settings)
    reference.matches(losses, model.classes, wanted["parts"], tolerance=1e-6, **wanted["values"])
    assert set(losses.metrics) - {"weight_u", "confidence"} == set(wanted["values"]) - {"total"}
    if settings.lambda_rotation > 0:
        assert model.rotation.weight.grad is not None
        assert_allclose(model.rotation.weight.grad, wanted["rotation"], rtol=1e-9, atol=1e-12)
    else:
        assert model.rotation.weight.grad is None
    assert len(batch.u) == 1 + settings.strong_views


# --- distribution alignment -----------------------------------------------------------------------------------------


def double(*rows: float) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_alignment_then_sharpening() -> None:
    q = ops.align(double(0.6, 0.3, 0.1).view(1, 3), double(0.5, 0.25, 0.25), double(0.7, 0.2, 0.1))
    assert q[0].tolist() == pytest.approx([0.406781, 0.355932, 0.237287], abs=1e-6)
    assert ops.sharpen(q, 0.5)[0].tolist() == pytest.approx([0.474857, 0.363561, 0.161581], abs=1e-6)


def test_nothing_to_align_changes_nothing() -> None:
    p, same = torch.rand(5, 4).double().softmax(1), double(0.4, 0.3, 0.2, 0.1)
    torch.testing.assert_close(ops.align(p, same, same), p)


def step_of_alignment(state: dict[str, Tensor], p: Tensor, labels: list[int]) -> Tensor:
    return remixmatch.aligned(p.view(1, 3), ops.one_hot(torch.tensor(labels), 3).double(), state)


def wide_state() -> dict[str, Tensor]:
    state = remixmatch.init_state(Sizes(64, 64, 3), Settings(policy="none"))
    return {name: tensor.double() for name, tensor in state.items()}


def test_predictions_of_128_batches_count() -> None:
    state, p, other = wide_state(), double(0.6, 0.3, 0.1), double(0.0, 0.0, 1.0)
    step_of_alignment(state, p, [0])
    assert state["p_model"].mean(0).tolist() == pytest.approx([0.335417, 0.333073, 0.331510], abs=1e-6)
    for _ in range(127):
        step_of_alignment(state, p, [0])
    torch.testing.assert_close(state["p_model"].mean(0), p)
    step_of_alignment(state, other, [0])
    torch.testing.assert_close(state["p_model"].mean(0), (127 * p + other) / 128)
    assert state["p_model"].shape == (128, 3)


def test_labels_are_averaged_slowly() -> None:
    state = wide_state()
    step_of_alignment(state, double(0.6, 0.3, 0.1), [0, 0])
    assert state["p_data"].tolist() == pytest.approx([0.334, 0.333, 0.333], abs=1e-6)


def test_a_step_is_aligned_by_the_steps_before_it() -> None:
    state, p = wide_state(), double(0.6, 0.3, 0.1)
    torch.testing.assert_close(step_of_alignment(state, p, [0])[0], p, msg="uniform at the first step")
    again = step_of_alignment(state, p, [0])[0]
    assert again[0] < p[0] * 0.999, "the network has predicted this class more often than the labels have it"


def test_the_guess_follows_the_labels_frequencies() -> None:
    """Predictions that are biased, labels that are not: the aligned ones are on average as frequent as the labels."""
    state, rng = wide_state(), np.random.default_rng(0)
    for _ in range(400):
        p = torch.from_numpy(rng.dirichlet([8.0, 1.0, 1.0], 64))
        q = remixmatch.aligned(p, ops.one_hot(torch.arange(63) % 3, 3).double(), state)
    assert p.mean(0)[0] > 0.75
    assert_allclose(q.mean(0), 1 / 3, atol=0.12)


# --- rotations ------------------------------------------------------------------------------------------------------


def test_turns_of_a_small_image() -> None:
    image = torch.tensor([[1, 2], [3, 4]])
    images, which = rotate(image.expand(4, 1, 2, 2))
    assert images[:, 0].tolist() == [[[1, 2], [3, 4]], [[4, 3], [2, 1]], [[2, 4], [1, 3]], [[3, 1], [4, 2]]]
    assert which.tolist() == [0, 1, 2, 3]
    _, which = rotate(torch.zeros(8, 3, 2, 2))
    assert which.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_batch_without_quarters_and_oblong_images_are_refused() -> None:
    remixmatch.check(Sizes(8, 8, 4), Settings())
    with pytest.raises(UsageError, match="batch=6"):
        remixmatch.check(Sizes(6, 6, 4), Settings())
    with pytest.raises(UsageError, match="square"):
        remixmatch.check(Sizes(8, 8, 4, (32, 40)), Settings())
    remixmatch.check(Sizes(6, 6, 4, (32, 40)), Settings(lambda_rotation=0.0))


# --- passes, views, settings ----------------------------------------------------------------------------------------


def passes(settings: Settings, labeled: int = 64) -> tuple[list[Any], Batch]:
    batch = make_batch(remixmatch, settings, dataclasses.replace(SIZES, labeled=labeled, image_size=(4, 4)))
    learner = make_learner(remixmatch, settings)
    model = learner.model = Watched(learner.model)
    remixmatch.loss(learner, batch, settings)
    return model.calls, batch


def test_three_passes_of_which_the_last_of_the_mixed_batches_updates() -> None:
    """K = 8: the updating batch holds 57 of its own rows and 7 labelled ones."""
    (guess, student, rotation), batch = passes(Settings())
    assert (guess.groups, guess.update, guess.differentiable) == (1, None, False)
    torch.testing.assert_close(guess.rows, batch.u[0])
    assert (student.groups, student.update, student.differentiable) == (11, 10, True)
    assert (rotation.groups, rotation.update, rotation.differentiable) == (1, None, True)
    torch.testing.assert_close(rotation.rows, rotate(batch.u[1])[0])
    torch.testing.assert_close(student.rows[:64], batch.u[1])
    mixed = blend(torch.cat([batch.x, *batch.u]), batch.draws["lam"], batch.draws["partner"])
    torch.testing.assert_close(student.rows[-64:], torch.cat([mixed[9 * 64 : 9 * 64 + 57], mixed[57:64]]))


def test_parts_that_are_off_cost_no_pass() -> None:
    calls, _ = passes(Settings(strong_views=1, lambda_pre=0.0, lambda_rotation=0.0, policy="none", align=False), 8)
    assert [(call.groups, call.update) for call in calls] == [(1, None), (3, 2)]


def test_guesses_use_the_batchs_own_statistics() -> None:
    """Doubling the scale of the weak views hardly changes the guesses: the first convolution is normalised."""
    settings = Settings(strong_views=2)
    batch, learner = make_batch(remixmatch, settings), make_learner(remixmatch, settings)
    model = learner.model
    with torch.no_grad():
        before, after = (ops.softmax(model(scale * batch.u[0])) for scale in (1, 2))
    torch.testing.assert_close(before, after, atol=0.02, rtol=0)


def test_views() -> None:
    wanted = remixmatch.views(Settings())
    assert (wanted.labeled, wanted.unlabeled) == (("strong", "probe"), ("weak", *["strong"] * 8))
    assert (wanted.policy, wanted.cutout, wanted.teacher) == ("ctaugment", False, True)
    assert [head.name for head in wanted.heads] == ["rotation"]
    assert (wanted.source, wanted.labeled_in_unlabeled, wanted.ratio) == ("base", True, 1)
    plain = remixmatch.views(Settings(policy="none", lambda_rotation=0.0, strong_views=2))
    assert (plain.labeled, plain.unlabeled, plain.policy) == (("weak",), ("weak", "weak", "weak"), None)
    assert not (plain.teacher or plain.heads)


def test_state() -> None:
    state = remixmatch.init_state(Sizes(64, 64, 5), Settings())
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "weights": tuple(ctaugment.init_state()["weights"].shape),
        "p_data": (5,),
        "p_model": (128, 5),
    }
    assert remixmatch.init_state(Sizes(64, 64, 5), Settings(policy="none", align=False)) == {}


def test_probe_teaches_ctaugment() -> None:
    settings = Settings(strong_views=1)
    batch, learner = make_batch(remixmatch, settings), make_learner(remixmatch, settings)
    before = learner.state["weights"].clone()
    omega = ctaugment.closeness(ops.softmax(learner.teacher(batch.probe, running=True)), batch.y)
    by_hand = {"weights": before.clone()}
    ctaugment.update(by_hand, batch.draws, omega)
    remixmatch.loss(learner, batch, settings)
    assert not torch.equal(before, learner.state["weights"])
    torch.testing.assert_close(learner.state["weights"], by_hand["weights"])


def test_draws() -> None:
    drawn = remixmatch.draw(np.random.default_rng(0), Sizes(64, 64, 10), Settings())
    assert drawn["lam"].shape == (640,)
    assert sorted(drawn["partner"]) == list(range(640))


def test_ramps() -> None:
    assert remixmatch.schedule(8192, 10**6, 10, Settings()) == {"weight_u": 0.75, "weight_pre": 0.25}
    assert remixmatch.schedule(0, 10**6, 10, Settings(rampup_steps=0)) == {"weight_u": 1.5, "weight_pre": 0.5}


def test_published_settings() -> None:
    settings = Settings()
    assert (settings.strong_views, settings.alpha, settings.temperature) == (8, 0.75, 0.5)
    assert (settings.lambda_u, settings.lambda_pre, settings.lambda_rotation) == (1.5, 0.5, 0.5)
    assert settings.rampup_steps == 16384
    assert remixmatch.PRESETS["stl10"]["strong_views"] == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"strong_views": 0},
        {"alpha": 0.0},
        {"temperature": 0.0},
        {"lambda_u": -1.0},
        {"lambda_pre": -1.0},
        {"lambda_rotation": -1.0},
        {"rampup_steps": -1},
        {"policy": "uda"},
        {"unlabeled_loss": "l2"},
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        config.check(Settings(**wrong))
