"""γ = auto: RealMix masks the share that its hook estimates."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from method_batches import SIZES, make_batch, make_learner
from rounding import assert_same

from stores.errors import UsageError
from trainer import api, config
from trainer.functional import mismatch_share
from trainer.methods import realmix
from trainer.methods.realmix import LARGEST

AUTO = realmix.Settings(tsa="none", gamma="auto")


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


def test_the_mask_drops_the_share_in_the_state() -> None:
    batch, learner = make_batch(realmix, AUTO), make_learner(realmix, AUTO)
    assert realmix.hook_every(1000, realmix.Settings(gamma=0.5)) is None
    assert learner.state["gamma"] == 0, "nothing is masked before the first estimate"
    for share in (0.0, 0.3, 0.5):
        learner.state["gamma"].fill_(share)
        losses = realmix.loss(learner, batch, AUTO)
        fixed = realmix.loss(learner, batch, realmix.Settings(tsa="none", gamma=share))
        assert losses.keep_u is not None
        assert losses.keep_u.sum() == 2 * SIZES.unlabeled - int(share * 2 * SIZES.unlabeled)
        assert_same(losses.total, fixed.total)
        assert losses.metrics["gamma"] == learner.state["gamma"]
        assert "gamma" not in fixed.metrics


def test_a_metric_is_not_the_state() -> None:
    batch, learner = make_batch(realmix, AUTO), make_learner(realmix, AUTO)
    metrics = realmix.loss(learner, batch, AUTO).metrics
    learner.state["gamma"].fill_(0.5)
    assert metrics["gamma"] == 0, "telemetry reads it later"


def test_it_is_one_graph_that_follows_the_state() -> None:
    batch, learner = make_batch(realmix, AUTO), make_learner(realmix, AUTO)
    compiled = torch.compile(realmix.loss, backend="eager", fullgraph=True)
    for share in (0.0, 0.4, 0.8):
        learner.state["gamma"].fill_(share)
        assert_same(compiled(learner, batch, AUTO).total, realmix.loss(learner, batch, AUTO).total)


def test_a_number_as_a_tensor_masks_as_the_number_does() -> None:
    from trainer.functional.masks import ood_mask

    for rows in (1, 7, 100, 128):
        confidence = torch.rand(rows)
        for gamma in (0.0, 0.29, 0.5, 0.85, 1.0):
            for strict in (False, True):
                as_tensor = ood_mask(confidence, torch.tensor(gamma, dtype=torch.float64), strict)
                assert torch.equal(as_tensor, ood_mask(confidence, gamma, strict))


def lines(tiny, runs, monkeypatch, share: float) -> list[dict]:
    """Training lines of a run of 40 steps, in which every estimate is `share`."""
    seen = []
    monkeypatch.setattr(realmix, "EVERY", (2, 500))
    monkeypatch.setattr(mismatch_share, "estimate", lambda *features: seen.append(features) or share)
    flags = {"store": str(tiny.with_name("tiny_20")), "model": "wrn-10-1", "steps": 40, "batch": 4, "threads": 1}
    words = ["gamma=auto", "log_every=1", "eval_every=40", "tensorboard=false", "precision=fp32", "engine=eager"]
    path, _ = api.train(words, {**flags, "device": "cpu"}, runs, "run", quiet=True)
    assert len(seen) == 20 + 1, "once more of the finished run"
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == "train"]


def test_it_is_estimated_now_and_then(tiny, tmp_path, monkeypatch) -> None:
    records = lines(tiny, tmp_path, monkeypatch, 0.25)
    assert [record["gamma"] for record in records] == [0, 0, *[0.25] * 38]
    assert [record["ood_kept"] for record in records] == [1, 1, *[0.75] * 38]


def test_some_rows_are_left(tiny, tmp_path, monkeypatch) -> None:
    records = lines(tiny, tmp_path, monkeypatch, 1.0)
    assert records[-1]["gamma"] == pytest.approx(LARGEST)
    assert records[-1]["ood_kept"] > 0


@pytest.mark.parametrize(("steps", "between"), [(300, 100), (4000, 200), (500_000, 500)])
def test_how_often(steps: int, between: int) -> None:
    assert realmix.hook_every(steps, AUTO) == between
