"""What every method promises: the contract, BatchNorm's discipline, where gradients go, one graph, float32 losses.

Parametrised over METHODS: a new method is tested by being named there (`method_batches` says what else it may need).
What is particular to one is in methods/.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from method_batches import SIZES, SMALL, Linear, Watched, active, make_batch, make_learner, named, updating_rows
from rounding import assert_same
from torch import Tensor

from stores.errors import UsageError
from trainer import api, config
from trainer.methods import METHODS, load_method
from trainer.runs.record import Spec

LABELS_ALONE = {"supervised"}  # no unlabelled loss
every_method = pytest.mark.parametrize("name", METHODS)
with_unlabelled_loss = pytest.mark.parametrize("name", [name for name in METHODS if name not in LABELS_ALONE])


# --- the contract ---------------------------------------------------------------------------------------------------


@every_method
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


@every_method
def test_losses_are_finite(name: str) -> None:
    method, settings = active(name)
    batch = make_batch(method, settings)
    losses = method.loss(make_learner(method, settings), batch, settings)
    assert losses.total.shape == ()
    assert losses.total.requires_grad
    assert math.isfinite(losses.total.item())
    assert "loss_x" in losses.metrics
    assert ("loss_u" in losses.metrics) == (name not in LABELS_ALONE)
    for metric, value in losses.metrics.items():
        assert value.shape == (), metric
        assert math.isfinite(value.item()), metric
    if losses.keep_u is not None:
        assert losses.keep_u.shape == (len(batch.u) * SIZES.unlabeled,)
        assert 0 < losses.keep_u.mean() < 1, "the example must show the mask at work"
        assert set(losses.keep_u.tolist()) == {0.0, 1.0}


@every_method
def test_draws_have_one_shape_and_a_mixing_weight_a_row(name: str) -> None:
    method, settings = active(name)
    first, second = (make_batch(method, settings, step=step).draws for step in (0, 9))
    assert {key: (values.shape, values.dtype) for key, values in first.items()} == {
        key: (values.shape, values.dtype) for key, values in second.items()
    }
    for key, lam in first.items():
        if key.startswith("lam"):
            assert lam.dtype == torch.float32
            assert lam.min() >= 0.5
            assert lam.max() <= 1
            assert len(lam.unique()) == len(lam) >= SIZES.labeled, "one λ for a whole batch is another method"


@every_method
def test_a_short_run_from_a_store(name: str, make_store: Any, tmp_path: Path) -> None:
    """Views, draws, schedule and metrics pass through feed, engine, telemetry and checkpoint."""
    store, method = make_store(ood=(2,), protocol="mismatch", gamma=0.4), load_method(name)
    flags = {"method": name, "model": "wrn-10-1", "batch": 4, "steps": 2, "device": "cpu", "precision": "fp32"}
    flags |= {"engine": "eager", "threads": 1, "tensorboard": False}
    run, settings, deviations = config.resolve(*config.build(method, "digits", [], flags), store)
    result = api.execute(Spec(store, method, settings, run, tuple(deviations)), tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert result["steps"] == 2
    assert all(math.isfinite(line["loss"]) for line in lines if line["kind"] == "train")


# --- BatchNorm and gradients ----------------------------------------------------------------------------------------


@every_method
def test_running_statistics_move_once_a_step_by_the_rows_that_the_method_names(name: str) -> None:
    method, settings = active(name)
    batch, learner = make_batch(method, settings), make_learner(method, settings)
    manual = copy.deepcopy(learner.model)
    model = learner.model = Watched(learner.model)
    teacher = None
    if learner.teacher is not None:
        teacher = learner.teacher = Watched(learner.teacher)
    method.loss(learner, batch, settings).total.backward()

    assert not any(call.moved for call in (teacher.calls if teacher else []))
    assert [call.moved for call in model.calls] == [call.update is not None for call in model.calls]
    (updating,) = [call for call in model.calls if call.update is not None]
    expected = updating_rows(name, batch)
    torch.testing.assert_close(updating.rows.chunk(updating.groups)[updating.update], expected)
    manual(expected, update=0)
    for (buffer, ours), theirs in zip(model.network.named_buffers(), manual.buffers(), strict=True):
        assert_same(ours, theirs, buffer)
    assert model.network.blocks[0].bn1.running_mean.any()


@with_unlabelled_loss
def test_the_unlabelled_loss_reaches_every_parameter_of_the_student(name: str) -> None:
    """By the difference that its weight makes: a student overwritten by its teacher would make none."""
    method, settings = active(name)
    batch, learner = make_batch(method, settings), make_learner(method, settings)
    heads = {head.name for head in method.views(settings).heads}
    named = {key: value for key, value in learner.model.named_parameters() if key.split(".")[0] not in heads}

    def slopes(weight: float) -> list[Tensor]:
        batch.schedule = {**batch.schedule, "weight_u": torch.tensor(weight)}
        return list(torch.autograd.grad(method.loss(learner, batch, settings).total, list(named.values())))

    assert "weight_u" in batch.schedule
    for parameter, on, off in zip(named, slopes(1.0), slopes(0.0), strict=True):
        assert (on - off).abs().sum() > 1e-7, parameter


@every_method
def test_no_gradient_reaches_a_teacher(name: str) -> None:
    method, settings = active(name)
    learner = make_learner(method, settings)
    if learner.teacher is None:
        assert not method.views(settings).teacher
        return
    learner.teacher.requires_grad_(True)
    method.loss(learner, make_batch(method, settings), settings).total.backward()
    assert all(parameter.grad is None for parameter in learner.teacher.parameters())


@every_method
def test_processes_that_share_the_rows_have_one_gradient(name: str) -> None:
    """Two processes, written out: each has the logits of all rows, a gradient through half of them, doubled.

    Their mean must be the gradient of a single process (`trainer.distributed.Divided`).
    """
    method, settings = active(name)
    batch = make_batch(method, settings, SMALL, dtype=torch.float64)

    def step(network: Any) -> list[Tensor]:
        learner = make_learner(method, settings, Linear)
        student = learner.model
        learner.model = network(student) if network else student
        total = method.loss(learner, batch, settings).total
        return list(torch.autograd.grad(total, list(student.parameters())))

    def divided(rank: int) -> Any:
        def over(network: Linear) -> Any:
            def forward(rows: Tensor, groups: int = 1, update: int | None = None, **options: Any) -> Any:
                shares = rows.unflatten(0, (groups, 2, -1))
                own = network(shares[:, rank].flatten(0, 1)).unflatten(0, (groups, -1))
                other = network(shares[:, 1 - rank].flatten(0, 1)).detach().unflatten(0, (groups, -1))
                own = own.detach() + 2 * (own - own.detach())
                return named(torch.stack([own, other] if rank == 0 else [other, own], 1).flatten(0, 2), **options)

            return forward

        return over

    for alone, first, second in zip(step(None), step(divided(0)), step(divided(1)), strict=True):
        assert_same((first + second) / 2, alone, stretched=1 / getattr(settings, "xi", 1))


# --- compiler and precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in METHODS if active(name)[0].views(active(name)[1]).one_graph])
def test_step_is_one_graph_for_the_compiler(name: str) -> None:
    method, settings = active(name)
    batch, learner, other = make_batch(method, settings), make_learner(method, settings), make_learner(method, settings)
    compiled = torch.compile(method.loss, backend="eager", fullgraph=True)
    assert_same(compiled(other, batch, settings).total, method.loss(learner, batch, settings).total)
    for ours, theirs in zip(other.model.buffers(), learner.model.buffers(), strict=True):
        assert_same(ours, theirs)


@every_method
def test_autocast_keeps_the_loss_in_float32_and_loses_no_gradient(name: str) -> None:
    """Weights that autocast caches in the guesses, which have no gradient, must not be used again by the student."""
    method, settings = active(name)
    batch = make_batch(method, settings, dtype=torch.float32)
    learner = make_learner(method, settings, dtype=torch.float32)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = method.loss(learner, batch, settings)
        assert losses.total.dtype == torch.float32
        assert {value.dtype for value in losses.metrics.values()} == {torch.float32}
        slopes = torch.autograd.grad(losses.total, list(learner.model.parameters()))
        gradients.append(torch.cat([slope.flatten() for slope in slopes]))
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.98


# --- published settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family", "settings", "weight_decay"),
    [
        ("supervised", "svhn", {"smoothing": 0.01}, 0.002),
        ("mixup", "cifar10", {"beta": 0.75}, 0.02),
        ("mixup", "svhn", {"beta": 0.25}, 0.02),
        ("pi_model", "cifar10", {"lambda_u": 20}, 0.02),
        ("pi_model", "svhn", {"lambda_u": 5}, 0.2),
        ("pseudo_label", "cifar10", {"lambda_u": 1, "threshold": 0.95}, 0.02),
        ("pseudo_label", "svhn", {"lambda_u": 2, "threshold": 0.95}, 0.02),
        ("vat", "cifar10", {"lambda_u": 0.3, "epsilon": 6, "entropy": 0.06}, 0.02),
        ("vat", "svhn", {"lambda_u": 0.3, "epsilon": 6, "entropy": 0.06}, 0.02),
        ("mean_teacher", "cifar10", {"lambda_u": 50}, 0.2),
        ("mean_teacher", "svhn", {"lambda_u": 150}, 0.02),
        ("ict", "cifar10", {"beta": 0.75, "lambda_u": 1000}, 0.02),
        ("ict", "svhn", {"beta": 0.5, "lambda_u": 20}, 0.02),
        ("mixmatch", "cifar10", {"alpha": 0.75, "lambda_u": 75, "temperature": 0.5, "rampup_steps": 16384}, 0.02),
        ("mixmatch", "svhn", {"alpha": 0.75, "lambda_u": 250}, 0.02),
        ("mixmatch", "stl10", {"alpha": 0.75, "lambda_u": 50}, 0.02),
        ("realmix", "cifar10", {"alpha": 0.75, "lambda_u": 75, "temperature": 0.5, "rampup_steps": 16384}, 0.02),
        ("realmix", "svhn", {"alpha": 0.75, "lambda_u": 250}, 0.02),
    ],
)
def test_published_settings(name: str, family: str, settings: dict[str, float], weight_decay: float) -> None:
    run, chosen = config.build(load_method(name), family, [], {})
    assert {key: getattr(chosen, key) for key in settings} == settings
    assert (run.optimizer, run.lr, run.weight_decay, run.lr_schedule) == ("adam", 0.002, weight_decay, "constant")


@pytest.mark.parametrize("name", ["pi_model", "pseudo_label", "vat", "mean_teacher", "ict"])
@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.0), (104858, 0.250001), (209715, 0.4999995), (209716, 0.500002), (419431, 1.0)]
)
def test_ramps_relative_to_the_length_of_the_run(name: str, step: int, share: float) -> None:
    method = load_method(name)
    settings = method.Settings(lambda_u=2.0)
    assert method.schedule(step, 2**20, 10, settings)["weight_u"] == pytest.approx(2 * share, abs=2e-6)


@pytest.mark.parametrize(
    ("name", "unlabeled", "source", "teacher"),
    [
        ("supervised", (), "base", False),
        ("mixup", ("weak",), "base", False),
        ("pi_model", ("weak", "weak"), "base", False),
        ("pseudo_label", ("weak",), "base", False),
        ("vat", ("weak",), "base", False),
        ("mean_teacher", ("weak", "weak"), "base", True),
        ("ict", ("weak",), "base", True),
        ("mixmatch", ("weak", "weak"), "base", False),
        ("realmix", ("weak", "weak"), "copies", False),
    ],
)
def test_views_of_the_mixmatch_family(name: str, unlabeled: tuple[str, ...], source: str, teacher: bool) -> None:
    method = load_method(name)
    declared = method.views(method.Settings())
    assert (declared.labeled, declared.unlabeled, declared.source) == (("weak",), unlabeled, source)
    assert (declared.labeled_in_unlabeled, declared.ratio, declared.teacher) == (False, 1, teacher)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("supervised", {"smoothing": 1.0}),
        ("supervised", {"beta": 0.0}),
        ("mixup", {"beta": 0.0}),
        ("mixup", {"lambda_u": -1.0}),
        ("pi_model", {"lambda_u": -1.0}),
        ("pi_model", {"rampup_share": 1.1}),
        ("pseudo_label", {"lambda_u": -1.0}),
        ("pseudo_label", {"threshold": 1.1}),
        ("pseudo_label", {"rampup_share": -0.1}),
        ("vat", {"lambda_u": -1.0}),
        ("vat", {"epsilon": 0.0}),
        ("vat", {"xi": 0.0}),
        ("vat", {"entropy": -1.0}),
        ("vat", {"direction": "there"}),
        ("vat", {"rampup_share": 2.0}),
        ("mean_teacher", {"lambda_u": -1.0}),
        ("mean_teacher", {"rampup_share": 2.0}),
        ("ict", {"beta": 0.0}),
        ("ict", {"lambda_u": -1.0}),
        ("ict", {"rampup_share": 2.0}),
        ("mixmatch", {"alpha": 0.0}),
        ("mixmatch", {"lambda_u": -1.0}),
        ("mixmatch", {"temperature": 0.0}),
        ("mixmatch", {"rampup_steps": -1}),
        ("mixmatch", {"num_views": 0}),
        ("mixmatch", {"num_views": 5}),
        ("mixmatch", {"mixup": "all"}),
        ("realmix", {"alpha": 0.0}),
        ("realmix", {"gamma": 1.5}),
        ("realmix", {"gamma": -0.1}),
        ("realmix", {"tsa": "cosine"}),
        ("realmix", {"temperature": 0.0}),
        ("realmix", {"lambda_u": -1.0}),
        ("realmix", {"rampup_steps": -1}),
        ("realmix", {"ood_confidence": "max"}),
    ],
)
def test_settings_out_of_range(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        config.check(load_method(name).Settings(**wrong))
