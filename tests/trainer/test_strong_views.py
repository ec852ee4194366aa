"""Strong views and probes, from what the loader draws to a method's batch: which step comes first, and with what."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.augment import ctaugment, flip_shift, randaugment
from trainer.augment.views import Raw, make_batch
from trainer.config import RunConfig
from trainer.contract import Batch, Views
from trainer.data.loader import Loader
from trainer.methods import load_method

RUN = RunConfig(batch=4, steps=100, flip=True, shift=2)


def make_loader(store: Any, seed: int = 1, **views: Any) -> Loader:
    declared = Views(**({"unlabeled": ("weak", "strong"), "ratio": 2} | views))
    method = SimpleNamespace(
        NAME="stub", views=lambda _: declared, draw=lambda *_: {"lam": np.ones(3, np.float32)}, schedule=lambda *_: {}
    )
    return Loader(store, method, None, dataclasses.replace(RUN, seed=seed), torch.device("cpu"))


def both(loader: Loader, step: int = 0, state: dict[str, Tensor] | None = None) -> tuple[Raw, Batch]:
    raw = loader.batch(step)
    return raw, make_batch(raw, loader.views, loader.schedule_names, state or {})


def planes(images: Tensor) -> Tensor:
    """Scaled views as [n, H, W, 3]."""
    return images.permute(0, 2, 3, 1)


def hole(view: Tensor) -> Tensor:
    """bool [n, H, W]: exactly mid-grey, which no uint8 pixel is."""
    return (planes(view) == 0).all(3)


def still(raw: Raw, place: int, centre: tuple[int, int], moved: tuple[int, int, int]) -> Raw:
    """The step with identities for operations, one cutout and one flip and shift in a view."""
    drawn = dict(raw.views[place])
    drawn["op"] = torch.zeros_like(drawn["op"])
    drawn["centre"] = torch.tensor(centre).expand_as(drawn["centre"])
    drawn["weak"] = torch.tensor(moved).expand_as(drawn["weak"])
    views = (*raw.views[:place], drawn, *raw.views[place + 1 :])
    return dataclasses.replace(raw, views=views)


@pytest.mark.parametrize(("policy", "at"), [("randaugment", 4), ("uda", 3)])
def test_fixmatch_cuts_out_after_the_shift_and_uda_before_it(store: Any, policy: Any, at: int) -> None:
    """A hole of half the side at (4, 4) of an 8 × 8 image that is shifted by one pixel: it stays, or moves along."""
    loader = make_loader(store, policy=policy)
    raw, _ = both(loader)
    raw = still(raw, 2, (4, 4), (0, 1, 1))
    strong = make_batch(raw, loader.views, (), {}).u[1]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[at - 2 : at + 2, at - 2 : at + 2] = True
    assert torch.equal(hole(strong), expected.expand(8, 8, 8))
    assert raw.u is not None
    moved = flip_shift.weak(raw.u, raw.views[2]["weak"])
    torch.testing.assert_close(strong.where(~expected, 0), moved.where(~expected, 0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("policy", ["randaugment", "uda", "ctaugment"])
def test_a_strong_view_is_its_policy_of_the_same_image(store: Any, policy: Any) -> None:
    loader = make_loader(store, policy=policy, cutout=True, labeled=("weak",))
    state = ctaugment.init_state()
    raw, batch = both(loader, state=state)
    assert raw.u is not None
    weak, drawn = raw.views[1]["weak"], raw.views[2]
    assert not torch.equal(weak, drawn["weak"]), "its own flip and shift"
    torch.testing.assert_close(batch.u[0], flip_shift.weak(raw.u, weak))
    moved = flip_shift.move(raw.u, drawn["weak"])
    if policy == "uda":
        pixels = planes(randaugment.apply(raw.u, drawn, "uda"))
        expected = flip_shift.move(pixels, drawn["weak"]).permute(0, 3, 1, 2)
    elif policy == "randaugment":
        expected = randaugment.apply(moved, drawn, "fixmatch")
    else:
        expected = ctaugment.apply(moved, drawn, state, cutout=True)
    torch.testing.assert_close(batch.u[1], expected)
    assert batch.u[1].shape == (8, 3, 8, 8)
    assert batch.u[1].dtype == torch.float32
    assert batch.u[1].abs().max() <= 1


@pytest.mark.parametrize("policy", ["randaugment", "uda", "ctaugment"])
def test_strong_views_are_a_function_of_seed_and_step(store: Any, policy: Any) -> None:
    state = ctaugment.init_state()
    wanted = {"policy": policy, "unlabeled": ("weak", "strong", "strong")}
    first, again, next_step, other = (
        both(make_loader(store, seed, **wanted), step, state)[1].u for seed, step in ((1, 3), (1, 3), (1, 4), (2, 3))
    )
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[1], next_step[1])
    assert not torch.equal(first[1], other[1])
    assert not torch.equal(first[1], first[2]), "each view draws for itself"


def test_ctaugment_reads_what_was_learned_from_the_methods_state(store: Any) -> None:
    loader = make_loader(store, policy="ctaugment", unlabeled=("weak", "strong"))
    state = ctaugment.init_state()
    before = both(loader, state=state)[1].u[1]
    state["weights"][:, 1:] = 0  # only the lowest bin is left
    after = both(loader, state=state)[1].u[1]
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", ["fixmatch", "remixmatch"])
def test_the_legacy_translation_can_be_asked_for(store: Any, name: str) -> None:
    """Translated by .3 of a pixel a probe is its weak view; by .3 of the side it is not."""
    method = load_method(name)
    family = {"policy": "ctaugment"} if name == "fixmatch" else {}
    moved = []
    for legacy in (True, False):
        views = dataclasses.asdict(method.views(method.Settings(cta_legacy=legacy, **family)))
        loader = make_loader(store, **views | {"heads": (), "teacher": False})
        raw = loader.batch(0)
        place = views["labeled"].index("probe")
        drawn = dict(raw.views[place])
        drawn["op"] = torch.full_like(drawn["op"], ctaugment.ops.NAMES.index("translate_x"))
        drawn["level"] = torch.ones_like(drawn["level"])
        still = dataclasses.replace(raw, views=(*raw.views[:place], drawn, *raw.views[place + 1 :]))
        probe = make_batch(still, loader.views, loader.schedule_names, ctaugment.init_state()).probe
        weak = flip_shift.scale(flip_shift.move(raw.x, drawn["weak"]))
        assert probe is not None
        moved.append(not torch.equal(probe, weak))
    assert moved == [False, True]


def test_a_probe_and_its_draws_reach_the_batch(store: Any) -> None:
    loader = make_loader(store, policy="ctaugment", labeled=("strong", "probe"))
    raw, batch = both(loader, state=ctaugment.init_state())
    drawn = raw.views[1]
    assert set(batch.draws) == {"lam", "op", "level"}
    assert torch.equal(batch.draws["op"], drawn["op"])
    assert torch.equal(batch.draws["level"], drawn["level"])
    assert batch.probe is not None
    torch.testing.assert_close(batch.probe, ctaugment.apply_probe(flip_shift.move(raw.x, drawn["weak"]), drawn))
    torch.testing.assert_close(
        batch.x,
        ctaugment.apply(flip_shift.move(raw.x, raw.views[0]["weak"]), raw.views[0], ctaugment.init_state(), False),
    )
    assert loader.images_per_step == 4 + 2 * 8, "a probe is not learnt from"


def test_views_carry_no_gradient(store: Any) -> None:
    state = {"weights": ctaugment.init_state()["weights"].requires_grad_()}
    _, batch = both(make_loader(store, policy="ctaugment", labeled=("strong", "probe")), state=state)
    assert batch.probe is not None
    assert not any(view.requires_grad for view in (batch.x, batch.probe, *batch.u))


@pytest.mark.parametrize("policy", ["randaugment", "uda", "ctaugment"])
def test_views_are_one_graph_for_the_compiler(store: Any, policy: Any) -> None:
    loader = make_loader(store, policy=policy, cutout=True, labeled=("weak",))
    state = ctaugment.init_state()
    raw, batch = both(loader, state=state)
    compiled = torch.compile(make_batch, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(raw, loader.views, (), state).u[1], batch.u[1])
