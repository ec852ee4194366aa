"""`realmix-train compare`: what it says, what it trains, what it keeps."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from embedded_stores import copied

import realmix
from stores.errors import StoreError, UsageError
from trainer.commands.compare import numbers_of
from trainer.compare.plan import recipe, uses_unlabeled
from trainer.compare.verdict import gain, sentence
from trainer.reproduce.table import Cell


@pytest.fixture(scope="module")
def stores(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset store, with two labelled splits and embeddings."""
    from pipeline.splits.protocols import Request
    from pipeline.splits.split_stores import write_all
    from stores import open_store

    path = copied(tiny, tmp_path_factory.mktemp("compared") / "stores")
    write_all(open_store(path), [Request(labels=20, seed=2)])
    return path


def compare(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [Path(sys.executable).with_name("realmix-train"), "compare", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done


def cell(*errors: float) -> Cell:
    return Cell(errors, tuple(range(1, len(errors) + 1)), "", "store", None)


# --- the sentence ---------------------------------------------------------------------------------------------------


def test_gains_are_differences_on_the_same_seeds() -> None:
    found = gain(cell(10, 20, 30), cell(8, 17, 26))
    assert (found.mean, found.std, found.seeds) == (3, 1, 3)
    assert found.is_clear
    part = gain(Cell((10, 20), (1, 2), "", "", None), Cell((5, 9), (2, 3), "", "", None))
    assert (part.mean, part.std, part.seeds) == (15, None, 1)
    assert gain(Cell((10,), (1,), "", "", None), Cell((5,), (2,), "", "", None)) is None


@pytest.mark.parametrize(
    ("alone", "helped", "said"),
    [
        ([15, 16, 17], [5, 5, 6], "mine: the unlabelled images help: fixmatch takes 5.3 % of the test images"),
        ([15, 16, 17], [14, 17, 16], "the unlabelled images make no clear difference"),
        ([5, 6, 7], [9, 10, 12], "the unlabelled images do not help: even fixmatch"),
        ([15, 16], [5, 5], "2 seeds cannot tell whether the unlabelled images help"),
        ([15], [5], "1 seed cannot tell"),
        ([], [5], "it takes a method with the unlabelled images and one without"),
    ],
)
def test_the_sentence_claims_what_the_seeds_show(alone: list[float], helped: list[float], said: str) -> None:
    worse = cell(*(error + 30 for error in alone or helped))
    text = sentence("mine", {"probe": cell(*alone), "knn": worse if alone else cell()}, {"fixmatch": cell(*helped)})
    assert said in text
    assert ("knn" in text) is False


def test_who_looks_at_unlabelled_images() -> None:
    alone = {name for name in ("supervised", "probe", "knn") if not uses_unlabeled(name)}
    assert alone == {"supervised", "probe", "knn"}
    assert uses_unlabeled("label_spreading")
    assert uses_unlabeled("mixmatch")


# --- the plan -------------------------------------------------------------------------------------------------------


def test_a_dataset_store_stands_for_its_splits(stores: Path) -> None:
    made, paths, notes = recipe([str(stores)], "clusters", [], (1, 2), None, None)
    assert [Path(path).name for path in paths] == ["tiny_20"]
    assert (made.model, made.steps, made.vary, notes) == ("linear", 1000, "both", [])
    assert [row.name for row in made.rows][:3] == ["probe", "knn", "label_spreading"]


def test_without_other_splits_the_training_alone_varies(stores: Path) -> None:
    made, _, (note,) = recipe([str(stores.with_name("tiny_20"))], None, [], (1, 2, 3), None, None)
    assert made.vary == "training"
    assert "tiny_20_seed3" in note
    assert "probe" not in [row.name for row in made.rows], "it is fitted to embeddings"


def test_mistakes(stores: Path) -> None:
    with pytest.raises(UsageError, match="unknown method 'mixmtch'"):
        recipe([str(stores)], "clusters", ["mixmtch"], (1,), None, None)
    with pytest.raises(StoreError):
        recipe([str(stores.with_name("nothing"))], None, [], (1,), None, None)
    assert numbers_of("1-3,7,2") == (1, 2, 3, 7)
    for seeds in ("", "1-", "5-1", "x"):
        with pytest.raises(UsageError, match="--seeds"):
            numbers_of(seeds)


# --- the command ----------------------------------------------------------------------------------------------------

SMALL = ("--embeddings", "clusters", "--methods", "probe,mixmatch,label_spreading", "--steps", "30")


def test_a_comparison_on_embeddings(stores: Path, tmp_path: Path) -> None:
    words = (stores.with_name("tiny_20"), *SMALL, "--seeds", "1-2", "--runs", tmp_path)
    said = compare(*words).stdout
    assert "gain over probe" in said
    assert said.strip().splitlines()[-1].startswith("tiny_20: 2 seeds cannot tell")
    (folder,) = tmp_path.iterdir()
    assert folder.name == "linear_30_clusters"
    runs = {path.name: (path / "result.json").stat().st_mtime_ns for path in folder.iterdir() if path.is_dir()}
    assert len(runs) == 6
    assert {path.suffix for path in folder.iterdir() if path.is_file()} == {".md", ".csv", ".json", ".svg"}
    again = json.loads(compare(*words, "--json").stdout)
    assert {path.name: (path / "result.json").stat().st_mtime_ns for path in folder.iterdir() if path.is_dir()} == runs
    rows = {row["method"]: row for row in again["rows"]}
    assert rows["probe"]["gain"] is None
    assert rows["mixmatch"]["gain"] == pytest.approx(rows["probe"]["error"] - rows["mixmatch"]["error"])
    assert rows["mixmatch"]["seeds"] == [1, 2]
    assert rows["label_spreading"]["uses_unlabeled"]
    assert again["sentences"] == [said.strip().splitlines()[-1]]


def test_a_comparison_on_pixels(stores: Path, tmp_path: Path) -> None:
    words = (
        "--methods",
        "supervised,mixmatch",
        "--steps",
        "2",
        "--model",
        "wrn-10-1",
        "--set",
        "batch=8",
        "--seeds",
        "1",
    )
    said = json.loads(compare(stores.with_name("tiny_20"), *words, "--runs", tmp_path, "--json").stdout)
    assert said["baseline"] == "supervised"
    assert {row["store"] for row in said["rows"]} == {"tiny_20"}


def test_one_that_is_killed_goes_on(stores: Path, tmp_path: Path) -> None:
    """Interrupted while the first seed's network is trained, killed while the second's is; then it ends as ever."""
    split, runs = stores.with_name("tiny_20"), tmp_path / "killed"
    words = ["compare", str(split), *SMALL[:-1], "1500", "--seeds", "1-2", "--runs", str(runs)]
    before: dict[Path, int] = {}
    for seed, number, code in ((1, signal.SIGTERM, 130), (2, signal.SIGKILL, -signal.SIGKILL)):
        program = Path(sys.executable).with_name("realmix-train")
        process = subprocess.Popen([program, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        until = time.monotonic() + 300
        while not list(runs.glob(f"*/*mixmatch*_s{seed}/metrics.jsonl")) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=300)[1]
        assert process.returncode == code, said
        assert ("the same command continues" in said) is (number == signal.SIGTERM)
        assert before.items() <= (before := finished(runs)).items(), "what is finished is not trained again"
        assert len(before) < 6
    told = {"methods": SMALL[3].split(","), "steps": 1500, "seeds": (1, 2), "quiet": True}
    ended = realmix.compare(split, "clusters", runs=runs, **told)
    assert before.items() <= finished(runs).items()
    whole = realmix.compare(split, "clusters", runs=tmp_path / "whole", **told)
    assert without_times(ended.rows) == without_times(whole.rows)
    assert ended.sentences == whole.sentences


def finished(runs: Path) -> dict[Path, int]:
    """When each finished run ended."""
    return {path: path.stat().st_mtime_ns for path in runs.glob("*/*/result.json")}


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_methods_are_chosen_by_the_parts_that_were_held_out(stores: Path, tmp_path: Path) -> None:
    from pipeline.splits.protocols import Request
    from pipeline.splits.split_stores import write_all
    from stores import open_store
    from trainer.compare.run import Comparison

    folds = [str(path) for path in write_all(open_store(stores), [Request(folds=3)])]
    made, paths, notes = recipe([folds[0]], "clusters", ["probe", "knn"], (1, 2, 3), None, None, by="valid")
    assert notes == []
    comparison = Comparison(made, paths, [], tmp_path)
    comparison.train()
    folder = comparison.runs[0].path.parent
    said = json.loads((folder / f"{made.name}.json").read_text())
    assert made.name.endswith("_by_valid"), "beside the table of test errors"
    for row in said["rows"]:
        results = [read_result(run.path) for run in comparison.cells[row["method"], row["store"]]]
        assert row["errors"] == [result["valid_error_last"] for result in results]
        assert row["errors"] == [result["history"][-1]["valid_error"] for result in results]
    assert "Validation error in %" in (folder / f"{made.name}.md").read_text()
    with pytest.raises(UsageError, match="has no validation images"):
        recipe([str(stores.with_name("tiny_20"))], "clusters", ["probe"], (1,), None, None, by="valid")
    with pytest.raises(UsageError, match="there are no such images"):
        recipe([folds[0]], "clusters", ["probe"], (1,), None, None, by="train")


def read_result(path: Path) -> dict:
    return json.loads((path / "result.json").read_text())
