"""The recipes print what the papers print: every published number, once in published.csv and again in a recipe."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from trainer.reproduce import recipe
from trainer.reproduce.recipe import UNVERIFIED, Recipe, load

with Path(__file__).with_name("published.csv").open(newline="") as lines:
    PUBLISHED = list(csv.DictReader(lines))

ROOT = Path(__file__).parents[2]

# Where the published numbers of each recipe are printed: paper and places in it.
PLACES = {
    "table1": ("RealMix", {"table 1"}),
    "figure2": ("RealMix", {"table 1", "figure 2"}),
    "table2": ("RealMix", {"table 2"}),
    "figure3": ("RealMix", {"table 2"}),
    "table3": ("RealMix", {"table 3"}),
    "table4": ("RealMix", {"table 4"}),
    "table5": ("RealMix", {"table 5"}),
    "table6": ("RealMix", {"table 6"}),
    "masks": ("RealMix", {"table 1"}),
    "remixmatch-table1-cifar10": ("ReMixMatch", {"table 1, CIFAR-10"}),
    "remixmatch-table1-svhn": ("ReMixMatch", {"table 1, SVHN"}),
    "remixmatch-table2": ("ReMixMatch", {"table 2"}),
    "remixmatch-table3": ("ReMixMatch", {"table 3"}),
    "fixmatch": ("FixMatch", {"table 2"}),
    "mixmatch-svhn-extra": ("MixMatch (2019)", {"SVHN with extra"}),
    "openset": ("IOMatch", {"CIFAR"}),
    "openset-openmatch": ("OpenMatch", {"CIFAR"}),
    "openset-imagenet30": ("IOMatch", {"ImageNet-30"}),
}
DATASETS = {
    "cifar10": "CIFAR-10",
    "svhn": "SVHN",
    "stl10": "STL-10",
    "imagenet30": "ImageNet-30",
}  # places in MixMatch's paper
OURS = {"masks": {"γ of the paper": "RealMix"}}  # rows of other names


def printed(paper: str, places: set[str]) -> dict[tuple[str, str], str]:
    """The numbers in published.csv by row and column, as recipes write them."""
    return {
        (line["row"], line["column"]): line["value"] + (f" {UNVERIFIED}" if line["verified"] == "no" else "")
        for line in PUBLISHED
        if line["paper"] == paper and line["place"] in places
    }


def quoted(one: Recipe) -> dict[tuple[str, str, str, str], str]:
    """The numbers of other papers in a recipe, by paper, data set, row and column."""
    return {
        (paper, DATASETS[row.stores[column].split("_")[0]], row.name, column): value
        for row in one.rows
        for paper, values in row.elsewhere.items()
        for column, value in values.items()
        if value
    }


def test_every_recipe_of_a_paper_is_compared() -> None:
    assert {*recipe.known()} == {*PLACES, "digits", "openset-sweep"}
    places = {(paper, place) for paper, known in PLACES.values() for place in known}
    places |= {(paper, f"{place}, {measure}") for paper, place in places for measure in ("auroc", "balanced")}
    others = {place for one in recipe.known() for place, *_ in quoted(load(one))}
    assert all((line["paper"], line["place"]) in places or line["paper"] in others for line in PUBLISHED)


@pytest.mark.parametrize("name", PLACES)
def test_a_recipe_publishes_what_its_paper_prints_and_nothing_else(name: str) -> None:
    one, names = load(name), OURS.get(name, {})
    written = {
        (names.get(row.name, row.name), column): value
        for row in one.rows
        for column, value in row.published.items()
        if value
    }
    expected = printed(*PLACES[name])
    if name == "masks":  # of table 1, one row
        expected = {key: value for key, value in expected.items() if key[0] == "RealMix"}
    if name == "figure3":
        assert not any(row.published.get(column) for row in one.rows for column in ("500", "1,000")), "only drawn"
    assert written == expected


@pytest.mark.parametrize("name", ["openset", "openset-openmatch", "openset-imagenet30"])
def test_what_is_printed_of_foreign_images(name: str) -> None:
    one, ((place,), measures) = load(name), (PLACES[name][1], ("auroc", "balanced"))
    written = {
        (measure, row.name, column): value
        for row in one.rows
        for measure, values in row.open_set.items()
        for column, value in values.items()
        if value
    }
    papers = {"OpenMatch (2021)", PLACES[name][0]}
    expected = {
        (measure, row, column): value
        for paper in papers
        for measure in measures
        for (row, column), value in printed(paper, {f"{place}, {measure}"}).items()
    }
    assert written == expected
    assert written


def test_numbers_of_other_papers_are_theirs() -> None:
    written = {key: value for name in recipe.known() for key, value in quoted(load(name)).items()}
    papers = {paper for paper, *_ in written}
    expected = {
        (paper, place, row, column): value
        for paper in papers
        for place in DATASETS.values()
        for (row, column), value in printed(paper, {place}).items()
    }
    assert written == expected
    for name in recipe.known():
        for key, value in quoted(load(name)).items():
            assert value == expected[key]


@pytest.mark.parametrize("line", PUBLISHED, ids=lambda line: f"{line['paper']} {line['row']} {line['column']}")
def test_a_published_error_is_one(line: dict[str, str]) -> None:
    assert recipe.is_error(line["value"])
    assert line["verified"] in ("yes", "no")
    mean, std = recipe.mean_and_std(line["value"])
    is_error = not line["place"].endswith(("auroc", "balanced"))
    assert 0 < mean < (80 if is_error else 100)
    assert 0 <= std < 7


CITED = re.compile(r"([A-Z][a-z]+)(?:, [A-Z][A-Za-z ]+)*(?: & [A-Z][a-z]+)?(?: et al\.)?,? (20[0-9]{2})\b")


def test_the_bibliography_has_every_paper_that_a_method_cites() -> None:
    entries = re.findall(r"@\w+\{([a-z]+)([0-9]{4})", (ROOT / "docs/papers.bib").read_text())
    files = [file for folder in ("methods", "augment") for file in (ROOT / "trainer" / folder).rglob("*.py")]
    cited = {(name.lower(), year) for file in files for name, year in CITED.findall(file.read_text())}
    assert ("nair", "2019") in cited
    assert cited - set(entries) == set()
