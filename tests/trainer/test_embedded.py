"""Training on embeddings: which embeddings are views of which images, and that nothing but the store decides it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embedded_stores import COPIES, FEATURES, STRONG, copied
from test_resume import assert_equal as assert_same_run

from networks.embedded import linear
from stores.errors import ResourceError, StoreError, UsageError
from trainer import api
from trainer.augment.views import make_batch
from trainer.data import embedded
from trainer.data.loader import Loader
from trainer.data.split import open_split
from trainer.inference.reevaluate import reevaluate
from trainer.methods import FITTED, METHODS, load_method
from trainer.runs import checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stores(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The split store tiny_20, with embeddings beside its dataset store."""
    return copied(tiny, tmp_path_factory.mktemp("embedded") / "stores").with_name("tiny_20")


def spec_of(split: Path, embeddings: str, method: str, **flags: Any) -> Any:
    given = {"method": method, "embeddings": embeddings, "steps": 4, "batch": 8, "device": "cpu", **flags}
    return api.configure(open_split(str(split)), [], given)


def loader_of(spec: Any, start: int = 0) -> Loader:
    return Loader(spec.store, spec.method, spec.settings, spec.run, CPU, start, spec.placement)


def origin(store: Any, views: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Which row and which copy standardised embeddings [n, D] are of."""
    mean, std = store.standard
    values = (views.numpy() * std + mean)[:, :2]
    assert np.abs(values - values.round()).max() < 0.05, "an embedding as it was stored, and no mixture"
    return values[:, 0].round().astype(int), values[:, 1].round().astype(int)


# --- views ----------------------------------------------------------------------------------------------------------


def test_the_statistics_are_those_of_the_images_that_the_run_may_look_at(stores: Path) -> None:
    store = embedded.EmbeddedSplit(open_split(str(stores)), "clusters")
    rows = np.concatenate([store.labeled, store.unlabeled])
    values = store.embeddings.train.read(rows).astype(np.float64)
    mean, std = store.standard
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(std, values.std(0), rtol=1e-4)
    samples = embedded.samples_of(store)
    np.testing.assert_allclose(samples.train.read(rows).std(0), 1, rtol=1e-4)
    expected = (store.embeddings.test.read().astype(np.float64) - values.mean(0)) / values.std(0)
    np.testing.assert_allclose(samples.test.read(), expected, rtol=1e-3, atol=1e-3)


def test_a_constant_feature_stays_finite(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = embedded.EmbeddedSplit(open_split(str(stores)), "clusters")
    read = store.embeddings.train.read
    monkeypatch.setattr(store.embeddings.train, "read", lambda rows: read(rows) * (np.arange(16) > 0))
    assert store.standard[1][0] == 1


@pytest.mark.parametrize("method", ["mixmatch", "realmix"])
def test_weak_views_are_an_image_and_distinct_copies_of_it(stores: Path, method: str) -> None:
    spec = spec_of(stores, "numbered", method)
    with loader_of(spec) as loader:
        seen, taken = set(), set()
        for raw in loader:
            batch = make_batch(raw, loader.views, loader.schedule_names, {})
            rows, copies = zip(*(origin(spec.store, view) for view in batch.u), strict=True)
            assert (rows[0] == rows[1]).all()
            assert (copies[0] != copies[1]).all()
            taken |= {*copies[0], *copies[1]}
            assert (np.sort(spec.store.unlabeled)[batch.u_id.numpy()] == rows[0]).all()
            seen |= set(rows[0])
            labeled, _ = origin(spec.store, batch.x)
            assert (spec.store.train_labels[labeled] == batch.y.numpy()).all()
        assert len(seen) == 4 * 8, "no image comes twice before all came once"
        assert taken == {0, *(100 + i for i in range(COPIES))}


def test_strong_views_come_from_the_strong_copies(stores: Path) -> None:
    spec = spec_of(stores, "numbered", "fixmatch")
    with loader_of(spec) as loader:
        weak, strong = make_batch(next(loader), loader.views, loader.schedule_names, {}).u
    (rows, weak_copies), (strong_rows, strong_copies) = (origin(spec.store, view) for view in (weak, strong))
    assert (rows == strong_rows).all()
    assert set(weak_copies) == {0, *(100 + i for i in range(COPIES))}
    assert set(strong_copies) == {200 + i for i in range(STRONG)}
    assert f"{STRONG} strong copies" in embedded.describe(spec.store, loader.views)


def test_strong_views_are_further_copies_where_there_are_no_strong_ones(stores: Path) -> None:
    spec = spec_of(stores, "few", "fixmatch")
    with loader_of(spec) as loader:
        weak, strong = make_batch(next(loader), loader.views, loader.schedule_names, {}).u
    (_, weak_copies), (_, strong_copies) = (origin(spec.store, view) for view in (weak, strong))
    assert (weak_copies != strong_copies).all()
    assert {*weak_copies, *strong_copies} == {0, *(100 + i for i in range(COPIES))}
    assert "further copies" in embedded.describe(spec.store, loader.views)


def test_without_copies_every_view_is_the_image(stores: Path) -> None:
    spec = spec_of(stores, "plain", "mixmatch")
    with loader_of(spec) as loader:
        first, second = make_batch(next(loader), loader.views, loader.schedule_names, {}).u
    assert torch.equal(first, second)
    assert (origin(spec.store, first)[1] == 0).all()
    assert "every view is the image itself" in embedded.describe(spec.store, loader.views)


def test_the_first_copies_alone(stores: Path) -> None:
    spec = spec_of(stores, "numbered", "mixmatch", copies=2)
    with loader_of(spec) as loader:
        views = make_batch(next(loader), loader.views, loader.schedule_names, {}).u
    assert {copy for view in views for copy in origin(spec.store, view)[1]} == {0, 100, 101}


def test_batches_are_a_function_of_seed_and_step(stores: Path) -> None:
    spec, other = spec_of(stores, "numbered", "fixmatch"), spec_of(stores, "numbered", "fixmatch", seed=2)
    with loader_of(spec) as whole, loader_of(spec, 2) as later, loader_of(other) as strange:
        batches = list(whole)
        for i, raw in enumerate(later):
            assert torch.equal(raw.u, batches[2 + i].u)
            assert torch.equal(raw.x, batches[2 + i].x)
        assert torch.equal(whole.batch(1).u, batches[1].u)
        assert not torch.equal(next(strange).u, batches[0].u)


def test_a_second_stream_takes_the_chosen_images(stores: Path) -> None:
    store = embedded.EmbeddedSplit(open_split(str(stores)), "numbered")
    run = spec_of(stores, "numbered", "fixmatch").run
    rows = np.sort(store.unlabeled)
    given = (rows, ("weak",), 4, run, "order unlabeled", CPU, ("weak", "strong"))
    some = embedded.open_views(store, *given).subset(np.array([3, 5]), "order second")
    samples, views = some.read(0, 2)
    assert views.shape == (8, 2, FEATURES)
    found, copies = origin(store, views.flatten(0, 1))
    assert (found.reshape(8, 2) == rows[[3, 5]][samples][:, None]).all()
    assert (copies.reshape(8, 2)[:, 1] >= 200).all()


# --- every method ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*METHODS, *FITTED])
def test_every_method_trains_on_embeddings(stores: Path, name: str, tmp_path: Path) -> None:
    flags = {"store": str(stores), "embeddings": "numbered", "method": name, "steps": 2, "batch": 8, "device": "cpu"}
    path, result = api.train([], flags, tmp_path, quiet=True)
    assert 0 <= result["error_last"] <= 100
    assert result["model"] in ("linear", "neighbours")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["loss"]) for line in lines if line["kind"] == "train")
    assert json.loads((path / "config.json").read_text())["store"]["embedding"]["num_features"] == FEATURES
    again = reevaluate(path, None, "cpu")
    assert again["averaged"]["test_error"] == pytest.approx(result["error_last"])


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_unlabelled_embeddings_help_where_classes_are_clusters(stores: Path, model: str, tmp_path: Path) -> None:
    flags = {"store": str(stores), "embeddings": "clusters", "model": model, "steps": 200, "batch": 16, "device": "cpu"}
    _, result = api.train(["threads=1"], {**flags, "method": "mixmatch"}, tmp_path, quiet=True)
    assert result["error_last"] < 15


@pytest.mark.parametrize("name", ["mixmatch", "remixmatch", "freematch", "probe"])
def test_a_resumed_run_is_the_uninterrupted_one(
    stores: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, stopped = checkpoint.save, tmp_path / "stopped" / "run"

    def save_and_copy(folder: Path, state: checkpoint.State, identity: dict[str, Any]) -> None:
        save(folder, state, identity)
        if state.step in (0, 2):  # what a kill at this moment would have left
            shutil.rmtree(stopped, ignore_errors=True)
            shutil.copytree(folder, stopped)

    monkeypatch.setattr(checkpoint, "save", save_and_copy)
    flags = {"store": str(stores), "embeddings": "numbered", "method": name, "steps": 4, "batch": 8, "device": "cpu"}
    whole, result = api.train(["checkpoint_every=2", "eval_every=2"], flags, tmp_path / "runs", quiet=True)
    resumed, again = api.resume(stopped.rename(tmp_path / "resumed"), quiet=True)
    assert again["steps"] == result["steps"]
    assert_same_run(resumed, whole)


def test_a_store_that_is_open_names_its_embeddings_in_the_runs_record(stores: Path) -> None:
    """Otherwise the run could not be resumed."""
    opened = open_split(str(stores), "numbered")
    spec = api.configure(opened, [], {"method": "mixmatch", "steps": 4, "batch": 8, "device": "cpu"})
    assert spec.run.embeddings == "numbered"


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sets", "said"),
    [
        ({"method": "remixmatch"}, ["lambda_rotation=0.5"], "rotates images"),
        ({"method": "remixmatch"}, ["policy=ctaugment"], "CTAugment changes pixels"),
        ({"method": "fixmatch"}, ["policy=ctaugment"], "CTAugment changes pixels"),
        ({"model": "wrn-10-1"}, [], "'wrn-10-1' does not read embeddings"),
        ({"init": "runs/x"}, [], "--init cannot be given with --embeddings"),
        ({"feed": "stream"}, [], "held in memory"),
        ({"copies": 9}, [], "they are of 3 of each image"),
        ({"embeddings": "numberd"}, [], "did you mean numbered"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_error(
    stores: Path, flags: dict[str, Any], sets: list[str], said: str, tmp_path: Path
) -> None:
    given = {"store": str(stores), "embeddings": "numbered", "steps": 2, "method": "mixmatch", **flags}
    with pytest.raises((UsageError, StoreError)) as caught:
        api.train(sets, given, tmp_path, quiet=True)
    assert said in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_networks_and_methods_of_embeddings_need_some(stores: Path, tmp_path: Path) -> None:
    for flags, said in (({"method": "probe"}, "fitted to embeddings"), ({"model": "linear"}, "reads embeddings")):
        with pytest.raises(UsageError) as caught:
            api.train([], {"store": str(stores), "steps": 2, **flags}, tmp_path, quiet=True)
        assert said in str(caught.value)


def test_more_embeddings_than_memory(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(stores, "numbered", "mixmatch")
    monkeypatch.setattr("trainer.data.memory.free_memory", lambda device: 1000)
    with pytest.raises(ResourceError):
        loader_of(spec)


def test_what_a_head_says_comes_from_the_labels() -> None:
    """Random weights of a thousand features would be noise that a few labels never take away."""
    heads = load_method("openmatch").views(load_method("openmatch").Settings()).heads
    outputs = linear.build("linear", 1000, 3, heads)(torch.randn(4, 1000), heads=("classes", "detector"))
    assert not any(output.any() for output in outputs.values())
