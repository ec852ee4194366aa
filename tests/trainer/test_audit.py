"""`realmix-train audit`: labels flipped on purpose and pictures planted twice are found; mistakes are one error."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_embeddings import write_embeddings

from stores import SplitStore, open_store
from trainer.functional import label_errors
from trainer.functional.walks import Walks
from trainer.inference import audit as inference


def test_the_confident_joint_by_hand() -> None:
    """t = (0.7, 0.6): image 2 is confidently of class 1, image 5 of class 0; image 3 of neither."""
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.45, 0.55], [0.1, 0.9], [0.9, 0.1], [0.2, 0.8]])
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    found, classes = label_errors.suspects(probs, labels)
    assert (found.tolist(), classes.tolist()) == ([5, 2], [0, 1])


@given(st.integers(0, 1000), st.integers(2, 6), st.integers(1, 40))
def test_suspects_are_those_of_the_definition(seed: int, classes: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    probs, labels = rng.dirichlet(np.ones(classes), count), rng.integers(0, classes, count)
    found, best = label_errors.suspects(probs, labels)
    expected = {}
    for i, (row, label) in enumerate(zip(probs, labels, strict=True)):
        sure = [j for j in range(classes) if (labels == j).any() and row[j] >= probs[labels == j, j].mean()]
        if sure and max(sure, key=lambda j: row[j]) != label:
            expected[i] = max(sure, key=lambda j: row[j])
    assert dict(zip(found.tolist(), best.tolist(), strict=True)) == expected
    margins = probs[found, labels[found]] - probs[found, best]
    assert (np.diff(margins) >= 0).all()


def test_pairs_are_found_once_and_nothing_is_its_own_twin() -> None:
    rng = np.random.default_rng(0)
    among = rng.standard_normal((60, 8))
    among[7], among[30] = 2 * among[3], among[40] + 1e-4
    rows = 100 + np.arange(60)
    pairs = label_errors.duplicates(among[:20], rows[:20], among, rows, 0.05)
    assert [(one, other) for one, other, _ in pairs] == [(103, 107)], "30 and 40 are none of the first twenty"
    assert label_errors.duplicates(among[:1], rows[:1], among[:1], rows[:1], 0.05) == []


def test_guesses_are_those_of_walks_without_the_label() -> None:
    rng = np.random.default_rng(1)
    y = np.arange(9) % 3
    x, u = (rng.standard_normal((len(c), 6)) + 3 * np.eye(6)[c] for c in (y, rng.integers(0, 3, 40)))
    found = Walks(x, y, u).guesses()
    for i in range(9):
        rest = np.arange(9) != i
        met = Walks(x[rest], y[rest], np.concatenate([x[[i]], u])).met[0]
        expected = np.bincount(y[rest], met, 3) / met.sum()
        np.testing.assert_allclose(found[i], expected, atol=1e-8)


Planted = tuple[SplitStore, np.ndarray, list[tuple[int, int]]]  # the store, wrong labels, planted pairs


@pytest.fixture(scope="module")
def planted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A split store of 60 labels with embeddings that contradict six of them, and three pictures planted twice."""
    from pipeline.splits.protocols import Request
    from pipeline.splits.split_stores import write_all

    root = tmp_path_factory.mktemp("planted") / "stores"
    shutil.copytree(tiny.parent, root)
    dataset, rng = open_store(root / tiny.name), np.random.default_rng(5)
    store = open_store(write_all(dataset, [Request(labels=60)])[0])
    assert isinstance(store, SplitStore)
    truth = dataset.train_labels.copy()
    wrong = np.sort(rng.choice(store.labeled, 6, replace=False))
    truth[wrong] = (truth[wrong] + 1) % 5
    centres = 2 * rng.standard_normal((5, 24))
    train, test = (centres[y] + rng.standard_normal((len(y), 24)) for y in (truth, dataset.test_labels))
    right = np.setdiff1d(store.labeled, wrong)
    pairs = list(zip(right[:3].tolist(), store.unlabeled[:3].tolist(), strict=True))
    for row, twin in pairs:
        train[twin] = train[row] + 0.01 * rng.standard_normal(24)
    write_embeddings(root / tiny.name, "planted", train, test)
    return store, wrong, pairs


def test_wrong_labels_and_twins_are_found(planted, command, tmp_path) -> None:
    store, wrong, pairs = planted
    code, out, err = command("audit", store.path, "--embeddings", "planted", "-o", tmp_path / "a.csv", "--json")
    assert (code, err) == (0, "")
    with (tmp_path / "a.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert tuple(rows[0]) == inference.COLUMNS
    labels = [row for row in rows if row["kind"] == "label"]
    assert {int(row["row"]) for row in labels} >= set(wrong.tolist())
    assert len(labels) <= len(wrong) + 3
    names = store.class_names
    for row in labels:
        assert row["class"] == names[store.train_labels[int(row["row"])]] != row["probably"]
    twins = [row for row in rows if row["kind"] == "duplicate"]
    assert {(int(row["row"]), int(row["twin"])) for row in twins} == set(pairs)
    assert all(row["class"] and not row["twin_class"] for row in twins), "what is not labelled shows no class"
    summary = json.loads(out)
    assert (summary["labeled"], summary["labels"], summary["duplicates"]) == (60, len(labels), 3)


def test_lists_and_page_are_the_same_again_and_load_nothing(planted, command, tmp_path) -> None:
    store = planted[0]
    for name in ("one", "two"):
        words = ["audit", store.path, "--embeddings", "planted", "-o", tmp_path / f"{name}.jsonl", "--format", "jsonl"]
        code, out, err = command(*words, "--sheet", tmp_path / f"{name}.html")
        assert (code, err) == (0, "")
        assert "pairs that look like the same picture: 3" in out
    for kind in ("jsonl", "html"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()
    page = (tmp_path / "one.html").read_text()
    assert "Labels that look wrong" in page
    assert 'src="data:image/png' in page
    assert "http" not in page.replace("http-equiv", "")
    code, out, _ = command("audit", store.path, "--embeddings", "planted")
    assert "probably" in out
    assert "--sheet audit.html" in out


def test_many_labels_are_walked_among_in_parts(planted, monkeypatch) -> None:
    store, wrong, _ = planted
    monkeypatch.setattr(inference, "TOGETHER", 25)
    found = inference.audit(store.path, None, "planted", "cpu")
    assert len(set(found.rows[[i for i, *_ in found.wrong]]) & set(wrong)) >= 4


def test_a_run_is_audited_by_its_features(trained, command, tmp_path) -> None:
    code, out, err = command("audit", trained / "runs" / "first", "-o", tmp_path / "a.csv")
    assert (code, err) == (0, "")
    assert "labelled images: 12; labels that look wrong: " in out
    assert "the features were trained on these labels" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["stores/strange"], 2, "--embeddings NAME"),
        (["stores/strange", "--embeddings", "nothing"], 3, "nothing"),
        (["stores/tiny", "--embeddings", "nothing"], 3, "its splits"),
        (["stores/strange", "--embeddings", "x", "--store", "stores/strange"], 2, "--store goes with a run"),
        (["runs/first", "--embeddings", "x"], 2, "--embeddings goes with a store"),
        (["runs/nothing", "--embeddings", "x"], 3, "runs/nothing"),
        (["runs/first", "--format", "xml"], 2, "csv or jsonl"),
        (["runs/first", "-o", "nowhere/a.csv"], 2, "no folder 'nowhere'"),
    ],
)
def test_a_mistake_is_one_error(command, trained, monkeypatch, words, code, said) -> None:
    monkeypatch.chdir(trained)
    got, out, err = command("audit", *words)
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err
