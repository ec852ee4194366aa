"""γ = auto: the share of foreign rows from confidences, in closed form, and RealMix masking by it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_batches import SIZES, Watched, make_batch, make_learner
from torch import Tensor

from stores.errors import UsageError
from trainer import config, mismatch_share, ops
from trainer.methods import realmix
from trainer.mismatch_share import BINS, LARGEST, WINDOW, init_state, observe, share

CONVERGED = 12 * WINDOW


def estimate(labeled: Tensor, unlabeled: Tensor, steps: int = CONVERGED) -> float:
    """γ after the same confidences at every step."""
    state = init_state()
    for _ in range(steps):
        observe(state, labeled, unlabeled)
    return share(state["confidences"]).item()


def cluster(centre: float, count: int) -> Tensor:
    return torch.linspace(centre - 0.04, centre + 0.04, count)


@pytest.mark.parametrize("foreign", [0, 8, 32, 57])
def test_two_clusters_give_their_share(foreign: int) -> None:
    unlabeled = torch.cat([cluster(0.5, foreign), cluster(0.93, 64 - foreign)])
    assert estimate(cluster(0.93, 64), unlabeled) == pytest.approx(foreign / 64, abs=1e-4)


def test_known_images_without_confidence_are_no_foreign_ones() -> None:
    """A fifth of the known images is hard, labelled or not: what exceeds it among the unlabelled is foreign."""
    hard = torch.cat([cluster(0.5, 20), cluster(0.93, 80)])
    assert estimate(hard, hard) == pytest.approx(0, abs=1e-4)
    half_foreign = torch.cat([cluster(0.5, 60), cluster(0.93, 40)])
    assert estimate(hard, half_foreign) == pytest.approx(0.5, abs=1e-4)


def test_a_single_cloud_is_no_mixture() -> None:
    cloud = torch.linspace(0, 1, 501)
    assert estimate(cloud, cloud) == pytest.approx(0, abs=1e-4)
    assert estimate(cloud, cloud.square()) > 0.1, "less confidence than the labelled ones"
    assert estimate(cloud.square(), cloud) == 0, "more confidence"


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 1.0])
def test_constant_confidences_are_no_mixture(value: float) -> None:
    rows = torch.full((64,), value)
    assert estimate(rows, rows) == 0


def test_all_foreign_leaves_a_tenth() -> None:
    assert estimate(torch.full((64,), 0.95), torch.full((64,), 0.3)) == pytest.approx(LARGEST)


def test_nothing_seen_gives_zero_and_the_share_grows_while_the_window_fills() -> None:
    assert share(init_state()["confidences"]).item() == 0
    labeled, unlabeled = torch.full((64,), 0.95), torch.tensor([0.3, 0.95])
    for steps in (1, 10, 100):
        assert estimate(labeled, unlabeled, steps) == pytest.approx(0.5 * (1 - (1 - 1 / WINDOW) ** steps), rel=1e-3)


def test_the_past_is_forgotten() -> None:
    state = init_state()
    labeled = torch.full((64,), 0.95)
    for _ in range(CONVERGED):
        observe(state, labeled, labeled)
    for _ in range(WINDOW):
        observe(state, labeled, torch.full((64,), 0.3))
    before = (1 - 1 / WINDOW) ** WINDOW
    assert share(state["confidences"]).item() == pytest.approx(1 - before, abs=1e-3)


def by_hand(labeled: np.ndarray, unlabeled: np.ndarray) -> float:
    """The formula over counts, threshold by threshold."""
    bins = [np.minimum((rows * BINS).astype(int), BINS - 1) for rows in (labeled, unlabeled)]
    best, chosen = -1.0, 0
    for t in range(BINS):
        parts = [[(b[side(b)] + 0.5, len(b)) for b in bins] for side in (lambda b: b <= t, lambda b: b > t)]  # noqa: B023
        weight = [sum(len(values) / n for values, n in part) / 2 for part in parts]
        if min(weight) < 1e-9:
            continue
        mean = [sum(values.sum() / n for values, n in part) / 2 / w for part, w in zip(parts, weight, strict=True)]
        between = weight[0] * weight[1] * (mean[0] - mean[1]) ** 2
        if between > best + 1e-6:
            best, chosen = between, t
    known, foreign = ((b <= chosen).mean() for b in bins)
    return float(np.clip((foreign - known) / max(1 - known, 1e-6), 0, LARGEST))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.5, 8), st.floats(0.5, 8))
def test_the_formula(seed: int, one: float, two: float) -> None:
    rng = np.random.default_rng(seed)
    labeled, unlabeled = rng.beta(one, 1, 40).astype(np.float32), rng.beta(two, 1, 70).astype(np.float32)
    counts = torch.stack([mismatch_share._histogram(torch.from_numpy(rows)) for rows in (labeled, unlabeled)])
    assert share(counts).item() == pytest.approx(by_hand(labeled, unlabeled), abs=2e-4)
    assert 0 <= share(counts) <= LARGEST


# --- RealMix with it ------------------------------------------------------------------------------------------------

AUTO = realmix.Settings(gamma="auto")


def test_setting() -> None:
    assert config.build(realmix, None, ["gamma=auto"], {})[1].gamma == "auto"
    assert config.build(realmix, None, ["gamma=.3"], {})[1].gamma == 0.3
    assert config.build(realmix, None, ["gamma=none"], {})[1].gamma is None
    assert config.load(realmix.Settings, dataclasses.asdict(AUTO), "config.json") == AUTO
    for wrong in ("gamma=automatic", "gamma=1.5"):
        with pytest.raises(UsageError, match="gamma"):
            config.build(realmix, None, [wrong], {})


def test_a_store_does_not_overrule_it(make_store) -> None:
    run, settings = config.build(realmix, None, ["gamma=auto"], {})
    assert config.resolve(run, settings, make_store(gamma=0.6))[1].gamma == "auto"


def test_unmixed_rows_are_observed_and_the_mask_drops_the_share() -> None:
    batch, learner = make_batch(realmix, AUTO), make_learner(realmix, AUTO)
    learner.state["confidences"][0, 90] = learner.state["confidences"][1, 90] = 0.5
    learner.state["confidences"][0, 95], learner.state["confidences"][1, 40] = 0.5, 0.5
    before = learner.state["confidences"].clone()
    watched = learner.model = Watched(learner.model)
    losses = realmix.loss(learner, batch, AUTO)
    guess, student = watched.calls
    assert (guess.groups, guess.differentiable, student.groups, student.update) == (3, False, 3, 0)
    torch.testing.assert_close(guess.rows, torch.cat([*batch.u, batch.x]))
    with torch.no_grad():
        sure = ops.softmax(watched.network(guess.rows, groups=3)).amax(1)
    expected = {"confidences": before}
    observe(expected, sure[12:], sure[:12])
    torch.testing.assert_close(learner.state["confidences"], expected["confidences"])
    gamma = share(expected["confidences"])
    assert 0.4 < gamma < 0.6
    torch.testing.assert_close(losses.metrics["gamma"], gamma)
    assert losses.keep_u is not None
    assert losses.keep_u.sum() == 2 * SIZES.unlabeled - int(gamma * 2 * SIZES.unlabeled)
    assert not learner.state["confidences"].requires_grad


def test_it_is_one_graph_and_the_state_moves() -> None:
    batch, learner, other = make_batch(realmix, AUTO), make_learner(realmix, AUTO), make_learner(realmix, AUTO)
    compiled = torch.compile(realmix.loss, backend="eager", fullgraph=True)
    for _ in range(2):
        total = compiled(other, batch, AUTO).total.item()
        assert total == pytest.approx(realmix.loss(learner, batch, AUTO).total.item(), rel=1e-5)
    torch.testing.assert_close(other.state["confidences"], learner.state["confidences"], atol=2e-3, rtol=0)
    assert learner.state["confidences"].sum().item() == pytest.approx(2 * (1 - (1 - 1 / WINDOW) ** 2), rel=1e-4)


def test_a_number_as_a_tensor_masks_as_the_number_does() -> None:
    from trainer.masks import ood_mask

    for rows in (1, 7, 100, 128):
        confidence = torch.rand(rows)
        for gamma in (0.0, 0.29, 0.5, 0.85, 1.0):
            for strict in (False, True):
                as_tensor = ood_mask(confidence, torch.tensor(gamma, dtype=torch.float64), strict)
                assert torch.equal(as_tensor, ood_mask(confidence, gamma, strict))
