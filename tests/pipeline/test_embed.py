"""`realmix-data embed`: what it embeds, that it continues to the same bytes, what it says of mistakes and damage."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_stores import build_stores

from networks.loading.files import sha256_of
from pipeline.check import embeddings as deep
from pipeline.check.repair import ANEW, SAME, repair
from pipeline.embedding import estimate
from pipeline.embedding.frozen import load_frozen
from pipeline.embedding.job import Request, embed, prepare
from pipeline.recipes import from_spec
from stores import open_store
from stores.embeddings import open_embeddings
from stores.errors import RealMixError, StoreError, UsageError
from stores.format import journal, layout, manifest
from stores.verify import verify

NET = "timm:test_efficientnet"
REQUEST = Request(NET, "none", size=16, copies=3, recipe="cutout", recipe_copies=2, batch=50, name="net", device="cpu")
ROOT = Path(__file__).parents[2]
TOLERANCE = 0.12  # bf16 against fp32


@pytest.fixture(autouse=True, scope="module")
def small_files():
    """Several files per array, and one thread: the network is far too small for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "EMBEDDINGS_PER_FILE", 120)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset_path(source, tmp_path_factory) -> Path:
    return build_stores(tmp_path_factory.mktemp("embedded"), source)


@pytest.fixture(scope="module")
def made(dataset_path):
    return embed(open_store(dataset_path), REQUEST)[0]


@pytest.fixture
def own(made, dataset_path, tmp_path) -> Path:
    """A private copy of the dataset store and its embeddings; returns the path of the embeddings."""
    shutil.copytree(dataset_path.parent, tmp_path / "stores")
    return tmp_path / "stores" / made.path.name


def bytes_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    return bool((np.linalg.norm(ours - theirs, axis=-1) < TOLERANCE * np.linalg.norm(theirs, axis=-1)).all())


def by_hand(pixels: np.ndarray) -> np.ndarray:
    """The same network on one picture after another, in fp32 and without any of the job's ways."""
    backbone = load_frozen(NET, "none", 16, device="cpu").backbone
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        return torch.cat([backbone(image[None]) for image in images]).numpy()


def test_every_array_holds_what_the_network_makes_of_its_pictures(made, dataset_path):
    dataset = open_store(dataset_path)
    rows = np.array([0, 1, 39, 40, 149])
    assert close(made.train.read(rows), by_hand(dataset.train_images.read(rows)))
    assert close(made.test.read(), by_hand(dataset.test_images.read()))
    seed, size = dataset.manifest["spec"]["seed"], dataset.image_size
    weak = {"kind": "simple", "version": 1, "flip": 0.5, "shift": 2}
    for part, copies in (("copies", 3), ("strong", 2)):
        pixels = dataset.copies.read(rows, copies=copies)  # the recipe of both is the store's own
        shifts = from_spec(weak | {"name": "weak copies" if part == "copies" else "weak strong copies"})
        moved = np.empty_like(pixels)
        params = shifts.draw(seed, rows, copies, size)
        for i in range(len(rows)):
            shifts.apply(pixels[i], params[i][:, None], moved[i][:, None])
        assert (moved != pixels).any()
        found = getattr(made, part).read(rows)
        expected = by_hand(moved.reshape(-1, *moved.shape[2:])).reshape(found.shape)
        assert close(found, expected)
    assert verify(made.path) == []
    assert made.weights_sha256 == sha256_of(load_frozen(NET, "none", 16).backbone.net.state_dict())


def test_copies_that_are_read_are_those_that_are_made(made, source, tmp_path):
    """A store of a recipe that no box describes; without a second flip and shift."""
    dataset = open_store(build_stores(tmp_path, source, "simple"))
    store, new = embed(dataset, dataclasses.replace(REQUEST, recipe=None, recipe_copies=None))
    assert new and store.strong is None and store.manifest["spec"]["weak"] == dict(dataset.weak)
    rows = np.array([3, 77])
    pixels = dataset.copies.read(rows, copies=3)
    expected = by_hand(pixels.reshape(-1, *pixels.shape[2:])).reshape(2, 3, -1)
    assert close(store.copies.read(rows), expected)


def test_a_recipe_in_processes_gives_distinct_copies(dataset_path, made):
    request = dataclasses.replace(REQUEST, copies=0, recipe="strong", recipe_copies=2, name="strong", weak=False)
    store, _ = embed(open_store(dataset_path), request)
    assert store.copies is None
    strong, plain = store.strong.read().astype(np.float32), made.train.read().astype(np.float32)
    assert (np.linalg.norm(strong[:, 0] - strong[:, 1], axis=-1) > 0).mean() > 0.9
    assert np.linalg.norm(strong - plain[:, None], axis=-1).max() > 0
    shutil.rmtree(store.path)


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.mark.parametrize("torn", [False, True])
def test_a_job_killed_at_any_write_continues_to_the_same_bytes(made, dataset_path, tmp_path, monkeypatch, torn):
    shutil.copytree(dataset_path, tmp_path / "tiny")
    expected, dataset, writes = bytes_of(made.path), open_store(tmp_path / "tiny"), 0
    plain = journal.append

    def deadly(store, records):
        nonlocal writes
        writes += 1
        if writes % 3 == 2:
            if torn:
                (store / records[0]["key"]).write_bytes(b"half")
                plain(store, records)
            raise Killed
        plain(store, records)

    monkeypatch.setattr(journal, "append", deadly)
    for _ in range(20):
        try:
            store, new = embed(dataset, REQUEST)
            break
        except Killed:
            with pytest.raises(StoreError, match="realmix-data embed"):
                open_embeddings(dataset, "net")
    assert new and writes > 10
    assert bytes_of(store.path) == expected
    assert embed(dataset, REQUEST)[1] is False


def test_two_at_once_are_refused(own):
    from stores.storage.lock import exclusive

    edit(own, lambda m: m.update(complete=False))
    with exclusive(own), pytest.raises(StoreError, match="another build is running"):
        embed(open_store(own.with_name("tiny")), REQUEST)


def test_another_network_is_another_store(own):
    dataset = open_store(own.with_name("tiny"))
    for change, said in (
        ({"size": 20}, "size"),
        ({"copies": 2}, "copies"),
        ({"batch": 8}, "batch"),
        ({"backbone": "timm:test_resnet"}, "backbone"),
        ({"weak": False}, "weak"),
    ):
        with pytest.raises(StoreError, match=said) as caught:
            embed(dataset, dataclasses.replace(REQUEST, **change))
        assert "--name" in str(caught.value)
    replaced, new = embed(dataset, dataclasses.replace(REQUEST, copies=1, recipe=None, recipe_copies=None), force=True)
    assert new and replaced.num_copies == 1 and replaced.strong is None and verify(own) == []
    assert sorted(p.name for p in own.iterdir() if p.is_dir()) == ["copies", "test", "train"]


def edit(path: Path, change) -> None:
    content = json.loads((path / "zarr.json").read_text())["attributes"]["realmix"]
    change(content)
    manifest.write(path, content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "timm:no_such_net"}, "no network"),
        ({"backbone": "resnet18"}, "unknown backbone"),
        ({"backbone": "timm:../../etc"}, "no network"),
        ({"weights": "missing.safetensors"}, "does not exist"),
        ({"copies": 6}, "has 5 of each image"),
        ({"copies": -1}, "has 5 of each image"),
        ({"recipe": "strnog"}, "strong"),
        ({"recipe": None}, "--recipe-copies needs --recipe"),
        ({"recipe_copies": 5000}, "from 1 to 4096"),
        ({"name": "../x"}, "cannot be the name"),
        ({"name": "x" * 250}, "cannot be the name"),
        ({"device": "tpu"}, "no device"),
        ({"size": 10**9}, "pixels"),
    ],
)
def test_a_mistake_is_said_and_leaves_nothing(dataset_path, change, said, made):
    before = sorted(dataset_path.parent.iterdir())
    with pytest.raises(RealMixError, match=said):
        embed(open_store(dataset_path), dataclasses.replace(REQUEST, **{"name": "mistake", **change}))
    assert sorted(dataset_path.parent.iterdir()) == before


def test_an_embedding_too_large_for_float16_is_an_error(dataset_path, monkeypatch, made):
    monkeypatch.setattr("pipeline.embedding.frozen.Frozen._embed", lambda self, x: torch.full((len(x), 256), torch.inf))
    with pytest.raises(RealMixError, match="not finite"):
        embed(open_store(dataset_path), dataclasses.replace(REQUEST, name="large"))
    shutil.rmtree(dataset_path.with_name("tiny.large"))


def test_an_estimate_writes_nothing(dataset_path, monkeypatch, made):
    monkeypatch.setattr(estimate, "BUDGET_S", 0.05)
    dataset = open_store(dataset_path)
    before = sorted(dataset_path.parent.iterdir())
    frozen, content = prepare(dataset, dataclasses.replace(REQUEST, name="later"))
    found = estimate.estimate(dataset, frozen, content, dataset_path.with_name("tiny.later"))
    assert found.pictures == {"train": 150, "test": 30, "copies": 450, "strong": 300}
    assert found.total_bytes == 930 * 256 * 2 and found.fits and found.seconds >= 0
    assert sorted(dataset_path.parent.iterdir()) == before
    estimate.show(found)


def test_a_sample_is_embedded_again(own):
    store, frozen = open_embeddings(open_store(own.with_name("tiny")), "net"), load_frozen(NET, "none", 16)
    dataset = open_store(own.with_name("tiny"))
    assert deep.check_sample(store, dataset, frozen, lambda *_: None) == []
    other = dataclasses.replace(frozen, precision="fp32", batch=64)
    assert deep.check_sample(store, dataset, other, lambda *_: None) == []
    array = store.train.layout
    numbers = store.train.read()[::-1].copy()  # every image has another's embedding
    from hostile import put_file

    from stores.format.shards import encode

    for index in range(array.num_files):
        start, stop = array.rows(index)
        put_file(own, array.key(index), encode(array, index, numbers[start:stop]))
    assert verify(own) == []
    store = open_embeddings(dataset, "net")
    problems = deep.check_sample(store, dataset, frozen, lambda *_: None)
    assert problems and all("train/embeddings: row" in problem for problem in problems)


def test_repair_gives_the_same_bytes_or_proves_the_network(own):
    expected = bytes_of(own)
    (own / "train/embeddings/c/1/0").unlink()
    assert repair(own).restored == {"train/embeddings/c/1/0": SAME}
    assert bytes_of(own) == expected
    edit(own, lambda m: m["files"]["train/embeddings/c/1/0"].update(sha256="0" * 64))  # as of another processor
    assert repair(own, dry_run=True).restored == {"train/embeddings/c/1/0": ANEW}
    assert repair(own).restored == {"train/embeddings/c/1/0": ANEW} and verify(own) == []


def test_what_cannot_be_embedded_again_is_lost(own):
    key = "train/embeddings/c/1/0"
    (own / key).unlink()
    edit(own, lambda m: m["spec"].update(weights_sha256="1" * 64))
    report = repair(own)
    assert not report.restored and "another weights" in report.lost[key]
    edit(own, lambda m: m.update(weights="file"))
    assert "--weights FILE" in repair(own).lost[key]
    with pytest.raises(UsageError, match="came from a file"):
        deep.load_again({**open_embeddings(open_store(own.with_name("tiny")), "net").manifest}, None)
    shutil.rmtree(own.with_name("tiny"))
    assert "is gone" in repair(own).lost[key]
