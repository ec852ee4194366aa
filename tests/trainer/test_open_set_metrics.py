"""Known against foreign test images: accuracy by hand, whose scores count, and the same numbers from `eval`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import api as stores_api
from stores import open_store
from trainer import api
from trainer.evaluation import open_set, scores
from trainer.reproduce import sweep
from trainer.reproduce.open_set import lines as table_of
from trainer.reproduce.recipe import load
from trainer.reproduce.table import Cell

QUICK = ["eval_every=4", "batch=4", "precision=fp32", "tensorboard=false"]


def test_accuracy_by_hand() -> None:
    """K = 2: class 0 has 3 of 4 right, class 1 one of 2, of 6 foreign images 4 are rejected."""
    labels = np.array([0] * 4 + [1] * 2 + [2] * 6)
    predicted = np.array([0, 0, 0, 2, 1, 0, 2, 2, 2, 2, 0, 1])
    assert open_set.right(labels, predicted) == pytest.approx((0.666667, 0.638889), abs=1e-6)


@pytest.mark.parametrize("classes", [6, 55])
def test_rejecting_everything_and_nothing(classes: int) -> None:
    labels = np.repeat(np.arange(classes + 1), 3)
    assert open_set.right(labels, np.full(len(labels), classes))[1] == pytest.approx(1 / (classes + 1))
    assert open_set.right(labels, labels % classes)[1] == pytest.approx(classes / (classes + 1))


def test_auroc_counts_ties_as_half() -> None:
    score, foreign = np.array([0.9, 0.5, 0.5, 0.5, 0.3, 0.1, 0.5]), np.arange(7) < 3
    assert scores.auroc(score, foreign) == pytest.approx(0.833333, abs=1e-6)
    assert scores.auroc(np.full(7, 0.5), foreign) == 0.5


@pytest.fixture(scope="module")
def split(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three known classes of five, by OpenMatch's protocol."""
    root = tmp_path_factory.mktemp("open") / "stores"
    shutil.copytree(tiny, root / "tiny")
    (made,) = stores_api.split(
        root / "tiny", protocol="openmatch", labeled_classes="ant,bee,cow", labels=6, valid=6, name="open"
    )
    return made.path


def train(split: Path, runs: Path, method: str, *more: str) -> tuple[Path, dict[str, Any]]:
    flags = {"store": str(split), "method": method, "model": "wrn-10-1", "steps": 4, "threads": 1, "device": "cpu"}
    return api.train([*QUICK, *more], flags, runs, method, quiet=True)


@pytest.mark.parametrize("method", ["openmatch", "iomatch", "supervised"])
def test_a_run_and_eval_measure_the_same(split: Path, method: str, tmp_path: Path, command: Any) -> None:
    path, result = train(split, tmp_path, method)
    store, found = open_store(split), result["open_set"]
    assert (found["known"], found["foreign"]) == (len(store.test), len(store.foreign))
    judges = method != "supervised"
    assert found["by"] == ("heads" if judges else "confidence")
    assert found["rejects"] == ("heads" if judges else "validation")
    for name in ("auroc", "fpr95", "accuracy", "balanced"):
        assert 0 <= found[name] <= 1
    code, out, _ = command("eval", path, "--device", "cpu", "--json")
    assert code == 0
    again = json.loads(out)["averaged"]["open_set"]
    again.pop("default"), found.pop("default")
    assert again == pytest.approx(found, abs=1e-6)
    (path / "checkpoint.pt").unlink()
    code, out, _ = command("eval", path, "--device", "cpu", "--json")
    assert (code, json.loads(out)["averaged"]["open_set"]["by"]) == (0, "confidence"), "the heads are gone with it"
    code, out, _ = command("eval", path, "--device", "cpu")
    assert "foreign test images" in out


def test_without_validation_images_a_classifier_rejects_nothing(split: Path, tmp_path: Path) -> None:
    root = split.parent
    classes = {"labeled_classes": "ant,bee,cow", "labels": 6}
    (made,) = stores_api.split(root / "tiny", protocol="iomatch", **classes, name="unheld")
    found = train(made.path, tmp_path, "supervised")[1]["open_set"]
    assert (found["rejects"], found["accuracy"], found["balanced"]) == (None, None, None)
    assert 0 <= found["auroc"] <= 1


def test_a_store_of_all_classes_has_no_foreign_images(tiny: Path, tmp_path: Path) -> None:
    assert train(tiny.with_name("tiny_20"), tmp_path, "supervised")[1]["open_set"] is None


def test_the_report_says_it(split: Path, tmp_path: Path, command: Any) -> None:
    paths = [train(split, tmp_path, method)[0] for method in ("supervised", "openmatch")]
    code, _, _ = command("report", *paths, "-o", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert code == 0
    assert "AUROC, test" in text
    assert "foreign test images" in text
    assert "rejected by its heads" in text
    assert "rejected above 95 % of the validation images" in text


def cell(*errors: float, **measures: float | None) -> Cell:
    told = tuple({"auroc": None, "balanced": None} | measures for _ in errors) if measures else ()
    return Cell(errors, tuple(range(1, len(errors) + 1)), "", "store", None, open_set=told)


def test_a_table_of_foreign_images_beside_published_ones() -> None:
    """Gains are seed by seed; a closed-set method without validation images has an AUROC alone."""
    one = load("openset")
    found = {(row.name, column): cell() for row in one.rows for column in one.columns}
    column = "6 of 10, 24"
    found["Supervised", column] = cell(50, 60, auroc=0.5)
    found["IOMatch", column] = cell(40, 52, auroc=0.875, balanced=0.75)
    lines = {line[0]: line[1] for line in table_of(one, found) if line[0] != "published"}
    assert lines["IOMatch, AUROC of foreign test images, %"] == "87.5 ± 0.0"
    assert lines["IOMatch, gain over the labels alone, points"] == "+9.00 ± 1.41"
    assert lines["Supervised, AUROC of foreign test images, %"] == "50.0 ± 0.0"
    assert not any(name.startswith(("Supervised, gain", "Supervised, balanced", "FixMatch")) for name in lines)
    assert ["published", "75.08", "78.96", "45.94", "58.52", "46.36", "60.78", "39.96", "54.39"] in table_of(one, found)
    assert table_of(one, {key: cell(50) for key in found}) == []


def test_slopes_of_a_sweep() -> None:
    at, accuracy = [0, 0.2, 0.4, 0.5, 0.6, 0.8, 1], [0.638, 0.643, 0.632, 0.629, 0.628, 0.621, 0.629]
    expected = {"R": -0.016429, "GM": 0.037429, "WAD": -0.055, "BAD": 0.04, "P": 0.333333}
    assert sweep.measures(at, accuracy) == pytest.approx(expected, abs=6e-7)
    one = load("openset-sweep")
    found = {(row.name, column): cell() for row in one.rows for column in one.columns}
    assert sweep.markdown(one, found) == ""
    found |= {("UASD", column): cell(100 - 100 * right) for column, right in zip(one.columns, accuracy, strict=True)}
    assert "| UASD | -0.016 | 0.037 | -0.055 | 0.040 | 0.333 |" in sweep.markdown(one, found).replace("\\", "")
    assert sweep.markdown(dataclasses.replace(one, sweep=False), found) == ""
