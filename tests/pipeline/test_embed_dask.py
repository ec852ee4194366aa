"""`realmix-data embed … --dask`, on a real Dask cluster of two processes."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from dask_cluster import Cluster, bytes_of, dask_cluster
from tiny_stores import build_stores

from networks.pretrained import load_backbone
from pipeline.embedding.job import Request, embed
from stores import open_store
from stores.errors import RealMixError
from stores.format import journal, layout
from stores.verify import verify

NET = "timm:test_efficientnet"
REQUEST = Request(NET, "none", size=16, copies=3, recipe="cutout", recipe_copies=2, batch=50, name="net", device="cpu")


@pytest.fixture(scope="module", autouse=True)
def small_files() -> Iterator[None]:
    """Several files per array, and one thread here and in the workers: the network is far too small for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "EMBEDDINGS_PER_FILE", 60)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dask(small_files, tmp_path_factory) -> Iterator[Cluster]:
    with dask_cluster(tmp_path_factory.mktemp("cluster") / "dask") as running:
        yield running


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory) -> dict[str, bytes]:
    """What this machine makes."""
    return bytes_of(embed(open_store(build_stores(tmp_path_factory.mktemp("here"), source)), REQUEST)[0].path)


@pytest.fixture
def place(source, tmp_path) -> Path:
    """A dataset store of the test's own."""
    return build_stores(tmp_path, source)


def test_interrupted_then_made_by_two_workers_of_which_one_is_killed(dask, place, expected):
    made, done = place.with_name("tiny.net"), []

    def interrupt(what: str, pictures: int, of: int) -> None:
        if what == "images" and pictures:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        embed(open_store(place), REQUEST, dask=dask.address, progress=interrupt)
    assert len(journal.read(made)) == 1

    def kill(what: str, pictures: int, of: int) -> None:
        done.append((what, pictures, of))
        if what == "copies" and dask.workers[0].poll() is None:
            dask.workers[0].kill()

    assert embed(open_store(place), REQUEST, dask=dask.address, progress=kill)[1]
    assert dask.workers[0].wait() == -signal.SIGKILL and done[-1] == ("strong copies", 300, 300)
    assert done[0][1] > 0  # what was there was not made again
    assert bytes_of(made) == expected and verify(made) == []
    assert not embed(open_store(place), REQUEST, dask="not even asked:1")[1]


def weights_file(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    safetensors.torch.save_file(load_backbone(NET, "none", 16).net.state_dict(), path)
    return path


def test_every_worker_must_have_the_same_weights(dask, place, tmp_path, monkeypatch):
    """/proc/self/cwd is another folder in each process."""
    if dask.workers[0].poll() is not None:
        dask.add_worker()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    weights_file(Path("w.safetensors"), seed=1)
    request = dataclasses.replace(REQUEST, weights="/proc/self/cwd/w.safetensors")
    with pytest.raises(RealMixError, match=r"worker tcp://127.*: '/proc/self/cwd/w.safetensors' does not exist"):
        embed(open_store(place), request, dask=dask.address)
    others = [weights_file(folder / "w.safetensors", seed=2) for folder in dask.folders]
    with pytest.raises(RealMixError, match=r"worker tcp://127.*: this is not the network .*: another weights"):
        embed(open_store(place), request, dask=dask.address)
    for other in others:
        weights_file(other, seed=1)
    store, new = embed(open_store(place), request, dask=dask.address)
    assert new and store.manifest["weights"] == "file" and verify(store.path) == []


def test_the_address_of_no_scheduler_leaves_nothing(place, monkeypatch):
    monkeypatch.setattr("pipeline.building.cluster.CONNECT_S", 0.5)
    before = sorted(place.parent.iterdir())
    with pytest.raises(RealMixError, match="no Dask scheduler answers"):
        embed(open_store(place), REQUEST, dask="127.0.0.1:1")
    assert sorted(place.parent.iterdir()) == before
