"""`realmix-train foreign`: the list, the page and the cleaned split of a trained run."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from embedded_stores import clusters
from tiny_stores import build_stores

from pipeline.sources import Part
from stores import SplitStore, open_store
from trainer import api
from trainer.data.embedded import EmbeddedSplit
from trainer.data.split import open_split
from trainer.evaluation import scorer
from trainer.evaluation.scores import auroc
from trainer.report.foreign_sheet import chosen
from trainer.runs import checkpoint

COLUMNS = ["rank", "row", "file", "class", "confidence", "score", "foreign"]


@pytest.fixture
def strange(trained) -> SplitStore:
    found = open_store(trained / "stores" / "strange")
    assert isinstance(found, SplitStore)
    return found


def test_every_unlabelled_image_is_listed_once_by_its_score(trained, strange, command, tmp_path):
    code, out, err = command("foreign", trained / "runs" / "first", "-o", tmp_path / "list.csv")
    assert (code, err) == (0, "")
    assert f"of the {len(strange.unlabeled)} unlabelled images look foreign" in out
    with (tmp_path / "list.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == COLUMNS
    assert sorted(int(row["row"]) for row in rows) == sorted(strange.unlabeled.tolist())
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert {row["class"] for row in rows} <= set(strange.class_names)
    decided = [row["foreign"] == "True" for row in rows]
    assert decided == sorted(decided, reverse=True), "those that look most foreign are taken for foreign"


def test_the_same_in_json_lines_and_again(trained, command, tmp_path):
    run = trained / "runs" / "first"
    for name in ("one.jsonl", "two.jsonl"):
        code, out, err = command("foreign", run, "-o", tmp_path / name, "--format", "jsonl", "--json")
        assert (code, err) == (0, "")
    summary = json.loads(out)
    rows = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert list(rows[0]) == COLUMNS
    assert summary["images"] == len(rows)
    assert summary["foreign"] == sum(row["foreign"] for row in rows) == round(summary["share"] * len(rows))
    assert summary["features"] == "trained"


def test_without_a_file_the_most_foreign_ones_are_printed(trained, command):
    code, out, _ = command("foreign", trained / "runs" / "plain")
    assert code == 0
    assert "most foreign" in out
    assert "--sheet" in out


def test_the_page_shows_images_and_loads_nothing(trained, command, tmp_path):
    code, _, err = command("foreign", trained / "runs" / "first", "--sheet", tmp_path / "page.html")
    assert (code, err) == (0, "")
    found: list[str] = []

    class Sources(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.extend(value for key, value in attrs if key in ("src", "href"))

    text = (tmp_path / "page.html").read_text()
    Sources().feed(text)
    assert len(found) >= 40
    assert all(source.startswith("data:image/png;base64,") for source in found)
    assert "Most foreign" in text
    assert "Least foreign" in text


def test_a_cleaned_split_trains_and_lacks_the_foreign_images(trained, strange, command, tmp_path, monkeypatch):
    from trainer.evaluation import foreign as evaluation

    shutil.copytree(trained / "stores", tmp_path / "stores")
    judged = evaluation.judge

    def a_third(predictor):
        found = judged(predictor)
        foreign = found.score >= np.sort(found.score)[-len(found.score) // 3]
        return evaluation.Judged(**{**vars(found), "foreign": foreign})

    monkeypatch.setattr("trainer.inference.foreign.judge", a_third)
    store = tmp_path / "stores" / "strange"
    words = ["foreign", trained / "runs" / "first", "--store", store, "--split", "clean", "-o", tmp_path / "list.csv"]
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    assert "clean" in out
    with (tmp_path / "list.csv").open(newline="") as lines:
        kept = [int(row["row"]) for row in csv.DictReader(lines) if row["foreign"] == "False"]
    clean = open_store(tmp_path / "stores" / "clean")
    assert isinstance(clean, SplitStore)
    assert sorted(clean.unlabeled.tolist()) == sorted(kept)
    assert 0 < len(kept) < len(strange.unlabeled)
    for name in ("labeled", "valid", "test"):
        np.testing.assert_array_equal(getattr(clean, name), getattr(strange, name))
    assert (clean.gamma, clean.class_names) == (0.0, strange.class_names)
    small = ["--model", "wrn-10-1", "--steps", 2, "--runs", tmp_path / "runs", "--threads", 1, "--quiet"]
    code, _, err = command("--store", clean.path, "--method", "mixmatch", *small, "--set", "batch=4")
    assert code == 0, err
    code, _, err = command(*words)
    assert (code, err) == (0, ""), "the same split again is no other store"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "xml"], "csv or jsonl"),
        (["-o", "/nowhere/list.csv"], "no folder '/nowhere'"),
        (["--sheet", "/nowhere/page.html"], "no folder '/nowhere'"),
        (["--split", "../clean"], "--split"),
        (["--split", "tiny"], "'"),
    ],
)
def test_mistakes_are_one_clear_error_and_lose_nothing(words, said, trained, command):
    before = content(trained / "stores")
    code, out, err = command("foreign", trained / "runs" / "first", *words)
    assert (code, out) != (0, "")
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err
    assert content(trained / "stores") == before


def test_a_store_without_unlabelled_images_says_so(trained, strange, command, tmp_path):
    from stores.writer import write_split

    shutil.copytree(trained / "stores", tmp_path / "stores")
    arrays = {name: getattr(strange, name) for name in ("labeled", "unlabeled", "valid", "test")}
    arrays["unlabeled"] = arrays["unlabeled"][:0]
    kept = ("spec", "protocol", "seed", "gamma", "class_names", "class_map", "labeled_in_unlabeled", "dataset")
    counts = {name: len(array) for name, array in arrays.items()}
    write_split(
        tmp_path / "stores" / "none", {**{key: strange.manifest[key] for key in kept}, "counts": counts}, arrays
    )
    code, _, err = command("foreign", trained / "runs" / "first", "--store", tmp_path / "stores" / "none")
    assert code == 3
    assert "has no unlabelled images" in err


def test_on_embeddings_the_foreign_images_are_found_and_the_mask_is_told_how_many(trained, strange, command, tmp_path):
    stores = tmp_path / "stores"
    shutil.copytree(trained / "stores", stores)
    clusters(stores / "tiny")
    flags = {"store": str(stores / "strange"), "embeddings": "clusters", "steps": 4, "threads": 1, "device": "cpu"}
    settings = ["batch=4", "gamma=auto", "tensorboard=false"]
    run, _ = api.train(settings, {**flags, "method": "realmix"}, tmp_path / "runs", "embedded", quiet=True)
    code, out, err = command("foreign", run, "-o", tmp_path / "list.jsonl", "--format", "jsonl", "--json")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "list.jsonl").read_text().splitlines()]
    foreign = strange.train_labels[[row["row"] for row in rows]] < 0
    assert (auroc(np.array([row["score"] for row in rows]), foreign) or 0) > 0.95
    summary = json.loads(out)
    assert summary["features"] == "frozen"
    assert abs(summary["share"] - foreign.mean()) < 0.1
    assert summary["interval"][0] <= summary["share"] <= summary["interval"][1]
    masked = checkpoint.read(run, torch.device("cpu"))["method"]["gamma"]
    assert abs(masked - summary["share"]) < 1e-6, "training masks what the command reports"
    split = open_split(str(stores / "strange"), "clusters")
    assert isinstance(split, EmbeddedSplit)
    own = scorer.find(run)
    assert own is not None
    score = own.score(split.embeddings.test.read(np.arange(len(split.test_labels))))
    told = json.loads((run / "result.json").read_text())["open_set"]["default"]["auroc"]
    assert told == pytest.approx(auroc(score, split.test_labels < 0), abs=0.02), "test images are scored alike"


@pytest.mark.parametrize("embeddings", ["clusters", None])
def test_a_mask_by_features_drops_what_looks_foreign(trained, tmp_path, embeddings):
    stores = tmp_path / "stores"
    shutil.copytree(trained / "stores", stores)
    clusters(stores / "tiny")
    flags = {"store": str(stores / "strange"), "steps": 101 if embeddings else 2, "threads": 1, "device": "cpu"}
    flags |= {"embeddings": embeddings} if embeddings else {"model": "wrn-10-1"}
    settings = ["batch=4", "gamma=0.5", "ood_confidence=feature", "tensorboard=false", "log_every=101"]
    run, _ = api.train(settings, {**flags, "method": "realmix"}, tmp_path / "runs", "masked", quiet=True)
    state = checkpoint.read(run, torch.device("cpu"))["method"]
    assert state["gamma"] == 0.5
    store = open_store(stores / "strange")
    assert isinstance(store, SplitStore)
    foreign = store.train_labels[store.unlabeled] < 0
    assert state["known"].shape == foreign.shape
    if embeddings:
        assert (auroc(1 - state["known"].numpy(), foreign) or 0) > 0.95


def test_a_pool_that_may_hold_anything_is_masked_and_its_share_is_told(source, tmp_path, command):
    """Images that came without labels: γ is estimated unless it is given, and the last line and the page say it."""
    labels = np.where(
        (source.train.labels < 3) & (np.arange(len(source.train.labels)) % 3 == 0), source.train.labels, -1
    )
    build_stores(tmp_path, replace(source, train=Part(source.train.images, labels)))
    of_image = {image.tobytes(): label for image, label in zip(source.train.images, source.train.labels, strict=True)}
    truth = np.array([of_image[image.tobytes()] for image in open_store(tmp_path / "tiny").train_images.read()])
    clusters(tmp_path / "tiny", labels=truth)
    flags = ["--store", tmp_path / "tiny_20", "--embeddings", "clusters", "--runs", tmp_path / "runs", "--quiet"]
    words = ["--steps", 4, "--threads", 1, "--set", "batch=4", "--set", "tensorboard=false"]
    code, out, err = command(*flags, *words, "--method", "realmix", "--name", "masked")
    assert code == 0, err
    told = re.search(
        r"; about (\d+)% of your unlabelled images look foreign \(between \d+% and \d+%\): "
        rf"`realmix-train foreign {tmp_path}/runs/masked`$",
        out,
    )
    assert told, out
    foreign = (truth[open_store(tmp_path / "tiny_20").unlabeled] > 2).mean()
    assert abs(int(told[1]) / 100 - foreign) < 0.1
    config = json.loads((tmp_path / "runs" / "masked" / "config.json").read_text())
    assert config["settings"]["gamma"] == "auto"
    code, out, err = command("report", tmp_path / "runs" / "masked", "-o", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert f"about {told[1]}% of the unlabelled images look foreign" in (tmp_path / "page.html").read_text()


def test_what_a_page_shows() -> None:
    score = np.linspace(0, 1, 100)
    kinds = chosen(score, score > 0.7)
    assert list(kinds) == ["Most foreign", "At the border", "Least foreign"]
    assert kinds["Most foreign"][0] == 99
    assert kinds["Least foreign"][0] == 0
    assert set(kinds["At the border"]) == set(range(58, 82))
    assert list(chosen(score, np.zeros(100, bool))) == ["Most foreign", "Least foreign"]
