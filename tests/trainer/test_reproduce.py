"""`realmix-train reproduce`: recipes, plans, tables by hand-worked numbers, and the command on tiny images."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from stores.errors import StoreError, UsageError
from trainer.methods import METHODS
from trainer.reproduce import picture, recipe, table
from trainer.reproduce.child import ASKED
from trainer.reproduce.plan import Planned, Scale, plan, scaled, split_of
from trainer.reproduce.recipe import load
from trainer.runs.run_dir import open_run, write_json

MINE = """
title = "Two methods"
source = "nobody's paper"
axis = "labels"
stores = "realmix-data build folder photos"
steps = 4
model = "wrn-10-1"
seeds = [1, 2]
vary = "training"
error = "last"
set = { batch = 4, tensorboard = false }
[columns]
"20" = "tiny_20"
[[rows]]
name = "Supervised"
method = "supervised"
published = ["20.0 ± 1.5"]
[[rows]]
name = "RealMix"
method = "realmix"
set = { gamma = 0.25 }
published = ["10.0"]
"""


@pytest.fixture
def mine(tmp_path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


CONFIG = {"run": {"batch": 4}, "store": {"image_size": [12, 10]}}

# ---- recipes ----


@pytest.mark.parametrize("store", ["../tiny_20", "/etc", "a/b"])
def test_the_stores_of_a_recipe_lie_where_the_stores_are(mine, store):
    mine.write_text(MINE.replace('"20" = "tiny_20"', f'"20" = "{store}"'))
    with pytest.raises(UsageError, match=r"the store '.*' cannot be the name"):
        load(str(mine))


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory, source) -> Path:
    """A folder with a small store in the place of every store that a shipped recipe names, 50 copies of each image.

    ImageNet's is built by the documented command from files as they are distributed.
    """
    from pipeline import api
    from pipeline.building.build import build
    from pipeline.recipes import load_recipe
    from pipeline.splits.protocols import Request
    from pipeline.splits.split_stores import write_all

    root, archive = tmp_path_factory.mktemp("stand_ins"), tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for batch in (*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"):
        pixels, labels = rng.integers(0, 256, (120, 3072), dtype=np.uint8), rng.permutation(1000)[:120] + 1
        np.savez(archive / f"{batch}.npz", data=pixels, labels=labels.tolist(), mean=np.zeros(3072, np.uint8))
    api.build("imagenet32", archive, copies=1, labels="all", name="imagenet32", root=root, cache=archive)

    recipes = [load(name) for name in recipe.known()]
    wanted = {
        split_of(store, one.split_and_training(seed)[0]): (store, seed)
        for one in recipes
        for row in one.rows
        for store in row.stores.values()
        for seed in one.seeds
    }
    assert {one.init[0] for one in recipes if one.init is not None} <= {path.name for path in root.iterdir()}
    datasets = {}
    more = ("cifar100", "imagenet30")
    for name in ("digits", "cifar10", "cifar10_erase", "cifar10_simple", "svhn", "svhn_extra", "stl10", *more):
        family, _, kind = name.partition("_")
        copies = load_recipe(kind if kind in ("erase", "simple") else "cutout", source.weak, (12, 12))
        data = replace(source, origin={"kind": name}, protocol=family)
        datasets[name], _ = build(root / name, data, copies, copies=50, seed=1, workers=2)
    for place, (store, seed) in wanted.items():
        name = max((name for name in datasets if store.startswith(f"{name}_")), key=len)
        request = Request(labels="all" if store == f"{name}_all" else 20, seed=seed)
        if any(f"_{protocol}" in store for protocol in ("mismatch", "openmatch", "iomatch", "fixed_known")):
            known, pool = ("ant", "bee", "cow"), ("cow", "dog", "eel")
            request = Request(labels=12, labeled_classes=known, unlabeled_classes=pool, seed=seed)
        write_all(datasets[name], [request], place)
    assert wanted.keys() <= {path.name for path in root.iterdir()}
    return root


@pytest.mark.parametrize("name", recipe.known())
def test_a_dry_run_of_every_shipped_recipe_finds_all_it_needs(name, stand_ins, command, tmp_path):
    one = load(name)
    assert {row.method for row in one.rows} <= set(METHODS)
    code, out, err = command("reproduce", name, "--stores", stand_ins, "--runs", tmp_path / "runs", "--dry-run")
    assert (code, err) == (0, "")
    cells = sum(len(row.stores) for row in one.rows) * len(one.seeds)
    assert out.count("to do") == cells + (one.init is not None), "rows that differ are different runs"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table6", "--set", "copies=51"], "--copies 51 is more than"),
        (["remixmatch-table3", "--set", "batch=6", "--row", "K = 1"], "'batch' must be a multiple of 4"),
        (["table1", "--set", "shift=12"], "'shift=12' is out of range"),
        (["table1", "--model", "wrn-11-1"], "unknown model 'wrn-11-1'"),
    ],
)
def test_a_dry_run_refuses_what_could_not_be_trained(words, said, stand_ins, command, tmp_path):
    code, out, err = command("reproduce", *words, "--stores", stand_ins, "--runs", tmp_path / "runs", "--dry-run")
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("name", "row", "column"),
    [
        ("table2", "Fully supervised", "50,000"),
        ("table3", "Fully supervised", "73,257"),
        ("remixmatch-table1-svhn", "ReMixMatch, 40 labels", "40, with extra"),
        ("remixmatch-table3", "no weak augmentation", "250"),
        ("remixmatch-table3", "40 labels, no rotation loss", "40"),
    ],
)
def test_a_row_trains(name, row, column, stand_ins, command, tmp_path):
    small = ["--model", "wrn-10-1", "--steps", 2, "--seeds", 1, "--threads", 1]
    small += [word for one in ("batch=4", "tensorboard=false") for word in ("--set", one)]
    code, out, err = command(
        "reproduce", name, "--row", row, "--column", column, "--stores", stand_ins, "--runs", tmp_path, *small
    )
    assert code == 0, err
    assert row in out
    assert len(list(tmp_path.rglob("result.json"))) == 1


@pytest.mark.parametrize(
    ("name", "rows", "column"),
    [
        ("openset", ("Supervised", "UASD", "OpenMatch", "IOMatch"), "20 of 100, 80"),
        ("openset-sweep", ("RealMix",), "0.6"),
    ],
)
def test_open_set_rows_say_how_foreign_images_are_told(name, rows, column, stand_ins, command, tmp_path):
    small = ["--model", "wrn-10-1", "--steps", 2, "--seeds", 1, "--threads", 1, "--column", column]
    small += [word for one in ("batch=4", "tensorboard=false") for word in ("--set", one)]
    chosen = [word for row in rows for word in ("--row", row)]
    code, out, err = command("reproduce", name, *chosen, "--stores", stand_ins, "--runs", tmp_path, *small)
    assert code == 0, err
    (path,) = tmp_path.rglob("*.md")
    table = path.read_text().replace("\\", "")
    for row in rows:
        assert f"| {row}, AUROC of foreign test images, % |" in table
        assert (f"| {row}, gain over the labels alone, points |" in table) == (
            "Supervised" in rows and row != "Supervised"
        )
    assert ("| OpenMatch, balanced accuracy over K + 1 classes, % |" in table) == ("OpenMatch" in rows)
    assert ("| *published* | *8.77* |" in table) == ("OpenMatch" in rows)
    assert "foreign test images" in out


def test_transfer_is_trained_from_the_pre_training_to_the_row(stand_ins, command, tmp_path):
    small = ["--model", "wrn-10-1", "--steps", 2, "--seeds", 1, "--threads", 1, "--column", 250]
    small += [word for one in ("batch=4", "tensorboard=false") for word in ("--set", one)]
    words = ["reproduce", "table4", "--row", "RealMix after transfer", "--stores", stand_ins, "--runs", tmp_path]
    code, _, err = command(*words, *small)
    assert code == 0, err
    first, second = sorted(tmp_path.rglob("result.json"), key=lambda path: len(path.parent.name))
    assert first.parent.name == "imagenet32_all_supervised_s1"
    config = open_run(second.parent).config
    assert config["settings"]["tsa"] == "linear"
    assert config["run"]["init"].startswith(str(first.parent))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("remixmatch-ablation", "remixmatch-table3"),
        ("remixmatch-table1", "remixmatch-table1-cifar10 or remixmatch-table1-svhn"),
    ],
)
def test_an_old_name_fails_with_the_right_one(old, new):
    with pytest.raises(UsageError, match=f"it is {new} now"):
        load(old)


def test_the_scale_of_the_papers():
    one = load("figure2")
    assert one.rows[0].stores == {"0 %": "cifar10_mismatch0"}
    assert (one.steps, one.model, one.seeds, one.error) == (500_000, "wrn-28-2", (1, 2), "median20")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("steps = 4", 'steps = "4"'), "'steps' is '4'"),
        (("steps = 4", ""), "lacks 'steps'"),
        (("axis", "axes"), "unknown key 'axes'"),
        (("[columns]", "[colums]"), "lacks 'columns'"),
        (('error = "last"', 'error = "lowest"'), "the error 'lowest'"),
        (('published = ["10.0"]', 'published = ["10.0", "9.0"]'), "2 published errors for 1 columns"),
        (('method = "realmix"', 'method = "realmix"\nonly = ["40"]'), "unknown column '40'"),
        (('method = "realmix"', 'method = "realmix"\ninit = true'), "does not say what is trained first"),
        (("title =", "title"), "is not TOML"),
        (("[columns]", "x = " + "[" * 5000), "is not TOML"),
        (("[columns]", "#" * 300_000), "is larger than"),
        (('name = "RealMix"', 'name = "Supervised"'), "'rows' has 'Supervised'"),
        (('published = ["10.0"]', 'published = ["ten"]'), "'published' has 'ten'"),
        (('published = ["10.0"]', 'published = ["1e300"]'), "'published' has '1e300'"),
        (('published = ["10.0"]', "published = [10.0]"), "'published' has 10.0"),
        (('published = ["10.0"]', 'published = ["10.0 ??"]'), "'published' has '10.0 ??'"),
        (('published = ["10.0"]', 'elsewhere = { "Another" = ["9.0", "8.0"] }'), "2 published errors for 1 columns"),
        (('published = ["10.0"]', 'elsewhere = { "Another" = "9.0" }'), "'elsewhere' has '9.0'"),
        (('published = ["10.0"]', 'elsewhere = { "Another" = ["nine"] }'), "'Another' has 'nine'"),
        (('"20" = "tiny_20"', '"20" = 20'), "'columns' has 20"),
        (("seeds = [1, 2]", 'seeds = ["a"]'), "'seeds' has 'a'"),
        (("steps = 4", "steps = 0"), "'steps' has 0"),
        (('vary = "training"', 'vary = "spilt"'), "did you mean split?"),
    ],
)
def test_a_wrong_recipe_is_one_error(command, mine, tiny, change, said):
    mine.write_text(MINE.replace(*change))
    code, out, err = command("reproduce", mine, "--stores", tiny.parent)
    assert code == 2
    assert said in err
    assert err.startswith("error: ")
    assert not out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["tabel1"], 2, "did you mean table1?"),
        (["none.toml"], 3, "'none.toml' does not exist"),
        (["table3"], 3, "realmix-data build svhn"),
        (["remixmatch-ablation"], 2, "it is remixmatch-table3 now"),
        (["table1", "--seeds", "1;2"], 2, "--seeds 1;2"),
        (["table1", "--seeds", "1", "--split-seeds", "2"], 2, "--seeds and --split-seeds exclude each other"),
        (["table1", "--row", "Realmix"], 2, "did you mean RealMix?"),
        (["table1", "--column", "10 %"], 2, "no column '10 %'"),
        (["table1", "--store", "nowhere"], 3, "'nowhere' is not a store"),
    ],
)
def test_a_mistake_is_one_error_before_anything_is_trained(command, words, code, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found, out, err = command("reproduce", *words)
    assert (found, out) == (code, "")
    assert said in err
    assert not list(tmp_path.iterdir())


def test_a_setting_that_no_row_has(command, mine, tiny, tmp_path):
    code, _, err = command(
        "reproduce", mine, "--stores", tiny.parent, "--set", "lambda_v=1", "--runs", tmp_path / "runs"
    )
    assert code == 2
    assert "no run of 'mine' has the setting 'lambda_v'\ndid you mean lambda_u?" in err


# ---- plans ----


def test_runs_are_named_after_what_they_are_and_settings_reach_those_that_have_them(mine, tiny, tmp_path):
    one = scaled(load(str(mine)), Scale(steps=3, settings=("lambda_u=7",)))
    runs = plan(one, Scale(settings=("lambda_u=7",)), str(tiny.parent), tmp_path)
    (first, second), (realmix, _) = runs["Supervised", "20"], runs["RealMix", "20"]
    folder = tmp_path / "wrn-10-1_3_batch4_lambda_u7"
    assert (first.path, second.path) == (folder / "tiny_20_supervised_s1", folder / "tiny_20_supervised_s2")
    assert realmix.path == folder / "tiny_20_realmix_gamma0.25_s1"
    assert "lambda_u=7" in realmix.words
    assert "lambda_u=7" not in first.words


@pytest.mark.parametrize(
    ("words", "names", "said"),
    [
        (
            ("--seeds", "1,2"),
            [
                "cifar10_all_supervised_mixuptrue_weight_decay0.002_s1",
                "cifar10_all_supervised_mixuptrue_weight_decay0.002_s2",
                "cifar10_250_mixmatch_s1",
                "cifar10_250_seed2_mixmatch_s2",
            ],
            None,
        ),
        (("--train-seeds", "1,2"), ["cifar10_250_mixmatch_s1", "cifar10_250_mixmatch_s2"], None),
        (
            ("--split-seeds", "1,2"),
            [
                "cifar10_250_mixmatch_s1",
                "cifar10_250_seed2_mixmatch_s1",
                "cifar10_all_supervised_mixuptrue_weight_decay0.002_s1",
            ],
            None,
        ),
        (("--seeds", "1,7"), [], "for cifar10_250_seed7: realmix-data split … --split-seed, or --train-seeds"),
    ],
)
def test_a_seed_is_a_split_and_a_training_or_one_of_them(words, names, said, stand_ins, command, tmp_path):
    rows = ["--row", "MixMatch", *([] if "--train-seeds" in words or said else ["--row", "Fully supervised"])]
    where = ["--stores", stand_ins, "--runs", tmp_path, "--dry-run", "--column", 250, "--column", "50,000"]
    code, out, err = command("reproduce", "table2", *rows, *where, *words)
    assert code == (3 if said else 0)
    assert not said or said in err
    assert sorted(Path(line.split()[-1]).name for line in out.splitlines()) == sorted(names)


def test_the_fold_of_stl10_is_its_split():
    assert [split_of("stl10_1000_fold1", seed) for seed in (1, 3)] == ["stl10_1000_fold1", "stl10_1000_fold3"]


def test_pre_training_comes_first_and_the_rows_start_from_it(mine, tiny, tmp_path):
    mine.write_text(
        MINE.replace('method = "realmix"', 'method = "realmix"\ninit = true').replace(
            "[columns]", '[init]\nstore = "tiny_20"\nmethod = "mixup"\n[columns]'
        )
    )
    runs = plan(load(str(mine)), Scale(), str(tiny.parent), tmp_path)
    (pre,) = runs["", ""]
    assert pre.path.name == "tiny_20_mixup_s1"
    assert [run.init for run in runs["RealMix", "20"]] == [pre.path] * 2
    assert runs["RealMix", "20"][0].path.name == "tiny_20_realmix_gamma0.25_after_tiny_20_mixup_s1_s1"
    assert [run.init for run in runs["Supervised", "20"]] == [None] * 2


def test_other_stores_take_the_place_of_the_columns_and_rows_of_other_stores_fall_together(tiny):
    store = str(tiny.parent / "tiny_20")
    one = scaled(load("table5"), Scale(stores=(store,)))
    assert one.columns == ("tiny_20",)
    assert [row.name for row in one.rows] == [
        "50 copies, CutOut",
        "25 copies, CutOut",
        "copies flipped and shifted only",
    ]
    assert all(row.published == {"tiny_20": ""} and row.stores == {"tiny_20": store} for row in one.rows)


# ---- tables, by hand ----


def finished(trained: Path, folder: Path, name: str, seed: int, error: float, ood: dict | None = None) -> Planned:
    run = folder / f"{name}_s{seed}"
    run.mkdir(parents=True)
    made = {"error_last": error, "error_median20": error + 1, "ood": ood, "seed": seed}
    for file, changes in (("config.json", {}), ("result.json", made)):
        content = json.loads((trained / "runs" / "first" / file).read_text()) | changes
        if file == "config.json":
            content["run"]["seed"] = seed
        write_json(run / file, content)
    return Planned(run, name, "20", seed, 4, ())


@pytest.fixture
def made(mine, trained, tmp_path):
    """A recipe, its finished runs (supervised 30, 33; RealMix 34), their cells."""
    one = load(str(mine))
    ood = {"masked": 30, "masked_ood": 15, "ood": 20, "rows": 120, "precision": 0.5, "recall": 0.75}
    supervised = [finished(trained, tmp_path, "Supervised", seed, error) for seed, error in ((1, 30.0), (2, 33.0))]
    realmix = [finished(trained, tmp_path, "RealMix", 1, 34.0, ood), Planned(tmp_path / "none", "", "", 2, 4, ())]
    runs = {("Supervised", "20"): supervised, ("RealMix", "20"): realmix}
    return one, table.cells(one, runs)


def test_a_cell_is_mean_and_sample_deviation_over_the_finished_seeds(made):
    _, found = made
    assert str(found["Supervised", "20"]) == "31.50 ± 2.12"  # √((1.5² + 1.5²) / 1)
    assert str(found["RealMix", "20"]) == "34.00"
    assert found["RealMix", "20"].seeds == (1,)


def test_the_page_says_what_is_reversed_what_is_smaller_and_what_the_mask_did(made):
    one, found = made
    paper = replace(one, steps=400, seeds=(1, 2, 3), settings={})
    page = table.markdown(one, paper, found, CONFIG)
    assert "| Supervised | 31.50 ± 2.12 |\n| *published* | *20.0 ± 1.5* |\n| RealMix | 34.00 |" in page
    assert "Published order: 0 of 1 pairs" in page
    assert "20: RealMix is ahead of Supervised in the paper, here behind by 2.50" in page
    assert "wrn-10-1, 4 steps of 4, images of 12 × 10, 1 to 2 seeds." in page
    assert "4 steps instead of 400, batches of 4 instead of 64, 2 of 3 seeds" in page
    assert "masked 0.25 of the unlabelled rows, 0.17 are foreign: precision 0.50, recall 0.75" in page
    assert "Scaled down" not in table.markdown(one, one, found, CONFIG)
    assert "over training runs on the same labelled split." in page
    assert "one labelled split" not in page.replace("the same labelled split", "")
    assert "2 of 3 seeds, one labelled split.**" in table.markdown(one, replace(paper, vary="both"), found, CONFIG)


def test_the_caption_says_how_few_seeds_there_are(made):
    one, found = made
    fewer = {key: replace(cell, errors=cell.errors[:1], seeds=cell.seeds[:1]) for key, cell in found.items()}
    assert "1 seed. Scaled down: 1 of 2 seeds." in table.caption(one, one, fewer, CONFIG)


def test_what_other_papers_print_is_theirs_and_what_was_not_verified_is_marked(made):
    one, found = made
    row = replace(one.rows[0], elsewhere={"Another (2020)": {"20": "19.0 ± 1.0 ?"}})
    one = replace(one, rows=(row, *one.rows[1:]))
    found = found | {
        ("Supervised", "20"): replace(found["Supervised", "20"], elsewhere={"Another (2020)": "19.0 ± 1.0 ?"})
    }
    page = table.markdown(one, one, found, CONFIG)
    assert "| *published* | *20.0 ± 1.5* |\n| *published in Another (2020)* | *19.0 ± 1.0 ?* |" in page
    assert "not verified against the paper" in page
    assert "Published order: 0 of 1 pairs" in page, "of the recipe's own paper"
    line = next(csv.DictReader(io.StringIO(table.as_csv(one, found))))
    assert (line["published"], line["elsewhere"], line["vary"]) == (
        "20.0 ± 1.5",
        "Another (2020): 19.0 ± 1.0 ?",
        "training",
    )


@pytest.mark.parametrize("published", ["0", "0.0 ± 0.0", "100 ± 100"])
def test_a_table_is_written_whatever_was_published(made, published):
    one, found = made
    row = replace(one.rows[0], name="[/ours]", published={"20": published})
    one = replace(one, rows=(row, *one.rows[1:]))
    cell = replace(found["Supervised", "20"], published=published)
    found = {("[/ours]", "20"): cell, ("RealMix", "20"): found["RealMix", "20"]}
    assert r"| \[/ours\] | 31.50" in table.markdown(one, one, found, CONFIG)
    assert "[/ours]" in picture.draw(one, found, table.caption(one, one, found, CONFIG))
    assert "[/ours]" in table.as_csv(one, found)


def test_the_csv_has_every_cell(made):
    rows = list(csv.DictReader(io.StringIO(table.as_csv(*made))))
    assert [(row["row"], row["mean"], row["std"], row["errors"], row["published"]) for row in rows] == [
        ("Supervised", "31.5000", "2.1213", "30.0000 33.0000", "20.0 ± 1.5"),
        ("RealMix", "34.0000", "", "34.0000", "10.0"),
    ]


@pytest.mark.parametrize("name", ["mine", "table1"])
def test_the_picture_is_xml_with_a_mark_for_every_number(made, name, tmp_path):
    one, found = made
    if name == "table1":
        one = load("table1")
        cell = found["Supervised", "20"]
        found = {(r.name, c): replace(cell, published=r.published[c]) for r in one.rows for c in r.stores}
    root = ElementTree.fromstring(picture.draw(one, found, "Caption <& more>"))
    marks = [element for element in root.iter() if element.tag.rpartition("}")[2] in ("circle", "rect")]
    assert len(marks) - 1 == len(found) + sum(bool(cell.published) for cell in found.values())
    words = " ".join(element.text or "" for element in root.iter())
    assert "Caption <& more>" in words
    assert all(row.name in words for row in one.rows)


# ---- the command ----


def test_it_trains_what_is_missing_and_nothing_twice(command, mine, tiny, tmp_path):
    runs = tmp_path / "runs"
    words = ["reproduce", mine, "--stores", tiny.parent, "--runs", runs, "--threads", 1]
    code, out, err = command(*words, "--row", "Supervised", "--seeds", 1)
    assert code == 0, err
    folder = runs / "wrn-10-1_4_batch4"
    first = folder / "tiny_20_supervised_s1" / "result.json"
    written = first.stat().st_mtime_ns
    assert "published" in out
    code, out, err = command(*words, "--jobs", 2)
    assert code == 0, err
    assert first.stat().st_mtime_ns == written
    assert sorted(path.name for path in folder.iterdir()) == [
        "mine.csv",
        "mine.md",
        "mine.svg",
        "tiny_20_realmix_gamma0.25_s1",
        "tiny_20_realmix_gamma0.25_s2",
        "tiny_20_supervised_s1",
        "tiny_20_supervised_s2",
    ]
    errors = [
        json.loads((folder / f"tiny_20_supervised_s{s}" / "result.json").read_text())["error_last"] for s in (1, 2)
    ]
    assert f"| Supervised | {sum(errors) / 2:.2f} ± " in (folder / "mine.md").read_text()
    assert open_run(folder / "tiny_20_realmix_gamma0.25_s1").config["settings"]["gamma"] == 0.25
    code, out, _ = command(*words, "--dry-run")
    assert out.count("finished ") == 4
    mine.write_text(MINE.replace("gamma = 0.25", "gamma = 0.25, alpha = 0.5"))
    (folder / "tiny_20_realmix_gamma0.25_s1").rename(folder / "tiny_20_realmix_gamma0.25_alpha0.5_s1")
    code, _, err = command(*words)
    assert code == 2
    assert "was trained with alpha=0.75, not 0.5" in err


def test_a_run_that_fails_is_named_and_the_others_finish(command, mine, tiny, tmp_path):
    folder = tmp_path / "runs" / "wrn-10-1_4_batch4"
    folder.mkdir(parents=True)
    (folder / "tiny_20_supervised_s1").write_text("no folder")
    code, out, err = command(
        "reproduce", mine, "--stores", tiny.parent, "--runs", tmp_path / "runs", "--seeds", 1, "--threads", 1
    )
    assert code == 1
    assert "1 of 2 runs failed" in err
    assert "tiny_20_supervised_s1' exists" in err
    assert "the same command tries them again" in err
    assert (folder / "tiny_20_realmix_gamma0.25_s1" / "result.json").is_file()
    assert "–" in out


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_killed_it_takes_its_runs_along_and_continues_them(mine, tiny, tmp_path, how):
    mine.write_text(MINE.replace("steps = 4", "steps = 60").replace("tensorboard = false", "eval_every = 5"))
    words = [
        sys.executable,
        "-m",
        "trainer",
        "reproduce",
        mine,
        "--stores",
        tiny.parent,
        "--runs",
        tmp_path / "runs",
        "--row",
        "Supervised",
        "--seeds",
        1,
        "--threads",
        1,
    ]
    run = tmp_path / "runs" / "wrn-10-1_60_batch4" / "tiny_20_supervised_s1"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        list(map(str, words)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _until(lambda: (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").stat().st_size > 0)
    process.send_signal(how)
    _, said = process.communicate(timeout=90)
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert "the same command continues" in said
    _until(lambda: _free(run))
    assert not (run / "result.json").exists()
    done = subprocess.run(
        list(map(str, words)), env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if '"eval"' in line]
    assert steps == list(range(5, 61, 5))


def test_a_run_whose_parent_is_gone_before_it_looks_does_not_train(tiny, tmp_path):
    words = [
        "--store",
        tiny.with_name("tiny_20"),
        "--runs",
        tmp_path,
        "--name",
        "orphan",
        "--steps",
        100_000,
        "--method",
        "supervised",
        "--model",
        "wrn-10-1",
        "--batch",
        4,
        "--device",
        "cpu",
    ]
    ours, theirs = os.pipe()
    os.close(theirs)  # as the end of the process that held it does
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, words)],
        stdin=ours,
        timeout=90,
        check=False,
        stderr=subprocess.DEVNULL,
        env={**os.environ, ASKED: "1"},
    )
    os.close(ours)
    assert done.returncode in (130, -signal.SIGTERM)
    assert not (tmp_path / "orphan" / "result.json").exists()


def test_a_run_that_is_being_trained_is_not_trained_a_second_time(trained, tmp_path, command):
    path = tmp_path / "first"
    shutil.copytree(trained / "runs" / "first", path)
    (path / "result.json").unlink()
    held = open_run(path)
    held.hold()
    with pytest.raises(StoreError, match="another process is training"):
        open_run(path).hold()
    code, _, err = command("--resume", path)
    assert code == 3
    assert "another process is training" in err
    held.close()
    code, _, err = command("--resume", path)
    assert code == 0, err


def _free(run: Path) -> bool:
    one = open_run(run)
    try:
        one.hold()
    except StoreError:
        return False
    one.close()
    return True


def _until(condition, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
