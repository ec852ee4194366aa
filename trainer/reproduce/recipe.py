"""Recipes of tables and figures of papers: TOML files that say which methods train on which stores.

title = "…"                        # of the table
source = "…"                       # of the published numbers
axis = "labels"                    # how the columns differ
stores = "realmix-data build …"    # the commands that make the stores
steps = 500_000
model = "wrn-28-2"
seeds = [1, 2]
vary = "both"                      # the default: a seed is a labelled split and a training; or "split", "training"
error = "median20"                 # the default, as in the papers; or "last", "best_by_valid", "valid"
sweep = false                      # the default; true: headings are numbers, and the page has slopes between them
set = { batch = 16 }               # settings of all runs
[columns]                          # heading = split store
"250" = "cifar10_250"
[init]                             # a run whose network initialises the runs of rows with `init = true`
store = "imagenet32_all"
method = "supervised"
[[rows]]
name = "RealMix"
method = "realmix"
set = { gamma = 0.3 }              # settings of this row's runs
only = ["250"]                     # its columns; all by default
store = { "250" = "my_store" }     # another store than the column's
published = ["9.79 ± 0.75"]        # for each of the row's columns; "" where the paper has none; "9.79 ?": not verified
elsewhere = { "MixMatch (2019)" = ["…"] }  # what other papers print for the same; it does not count for the order
open_set = { auroc = ["…"], balanced = ["…"] }  # what the paper prints of foreign test images, in per cent
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from stores.errors import StoreError, UsageError, suggest
from stores.format import names

LARGEST = 1 << 18  # bytes of a file
ERRORS = {
    "median20": "error_median20",
    "last": "error_last",
    "best_by_valid": "error_best_by_valid",
    "valid": "valid_error_last",
}
UNVERIFIED = "?"  # after a published error that was not checked against the paper
Vary = Literal["both", "split", "training"]  # what a seed changes
RENAMED = {  # recipes of earlier versions
    "remixmatch-ablation": "remixmatch-table3",
    "remixmatch-table1": "remixmatch-table1-cifar10 or remixmatch-table1-svhn",
}


@dataclass(frozen=True)
class Row:
    """A row of a table: a method with its settings.

    Attributes:
        name: of the row.
        method: that is trained.
        settings: of the row's runs.
        stores: name of the split store of each column.
        published: published error of each column, "mean ± std" or "", with " ?" if it was not verified.
        elsewhere: the same by other papers, by the paper's name.
        open_set: published "auroc" and "balanced" accuracy of each column, see `trainer.reproduce.open_set`.
        init: whether its runs start from the recipe's pre-trained network.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    stores: Mapping[str, str]
    published: Mapping[str, str]
    elsewhere: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    open_set: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    init: bool = False


@dataclass(frozen=True)
class Recipe:
    """A recipe; its fields are those of the file, except for these.

    Attributes:
        name: of the file, without .toml.
        init: store and method of the pre-training run, if there is one.
        embeddings: that all runs train on, no key of a file; None: images.
    """

    name: str
    title: str
    source: str
    axis: str
    stores: str
    steps: int
    model: str
    seeds: tuple[int, ...]
    vary: Vary
    error: str
    settings: Mapping[str, Any]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    init: tuple[str, str] | None = None
    sweep: bool = False
    embeddings: str | None = None

    def split_and_training(self, seed: int) -> tuple[int, int]:
        """The seed of the labelled split and that of the training that a number of `seeds` stands for."""
        return (1 if self.vary == "training" else seed), (1 if self.vary == "split" else seed)


def known() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if file.name.endswith(".toml"))


def load(name: str) -> Recipe:
    """Load a recipe of this package by its name, or another one by its path, which ends in .toml.

    Raises:
        StoreError: the file does not exist.
        UsageError: there is no such recipe; or it is not TOML, lacks a key, or has an unknown key or a wrong type.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise StoreError(f"'{name}' does not exist", hint=f"recipes that come with realmix: {', '.join(known())}")
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise UsageError(f"'{name}' is not a recipe", f"it is larger than {LARGEST:,} bytes")
        name = path.stem
    elif name in known():
        text = _shipped().joinpath(f"{name}.toml").read_bytes()
    else:
        meant = f"it is {RENAMED[name]} now" if name in RENAMED else suggest(name, known())
        raise UsageError(f"unknown recipe '{name}'", meant, "one of your own is a path: ./my.toml")
    try:
        content = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a number that is too long
        raise UsageError(f"the recipe '{name}' is not TOML", str(error)) from None
    return _recipe(name, content)


def _recipe(name: str, content: dict[str, Any]) -> Recipe:
    take = _Taker(name, content)
    columns: dict[str, str] = take("columns", dict)
    take.check("columns", list(columns.values()), lambda value: isinstance(value, str), "text")
    error = take("error", str, "median20")
    if error not in ERRORS:
        raise UsageError(f"the recipe '{name}' asks for the error '{error}'", suggest(error, ERRORS))
    vary = take("vary", str, "both")
    if vary not in get_args(Vary):
        raise UsageError(f"the recipe '{name}' has seeds that vary '{vary}'", suggest(vary, get_args(Vary)))
    init = take("init", dict, {})
    recipe = Recipe(
        name,
        take("title", str),
        take("source", str, ""),
        take("axis", str, ""),
        take("stores", str, ""),
        take("steps", int),
        take("model", str),
        tuple(take("seeds", list)),
        vary,
        error,
        take("set", dict, {}),
        tuple(columns),
        tuple(_row(name, one, columns) for one in take("rows", list)),
        (str(init["store"]), str(init.get("method", "supervised"))) if "store" in init else None,
        take("sweep", bool, False),
    )
    take.finish()
    wanted = [str(store) for row in recipe.rows for store in row.stores.values()]
    for store in [*wanted, *([recipe.init[0]] if recipe.init is not None else [])]:
        names.require(store, f"recipe '{name}': the store")
    if recipe.sweep:
        take.check("columns", recipe.columns, _is_number, "a number, in a sweep")
        places = [float(column) for column in recipe.columns]
        take.check("columns", [places], lambda value: value == sorted(set(value)), "ascending, in a sweep")
    take.check("seeds", recipe.seeds, lambda value: type(value) is int and value >= 0, "a whole number")
    take.check("steps", [recipe.steps], lambda value: value > 0, "at least 1")
    rows = [row.name for row in recipe.rows]
    take.check("rows", rows, lambda value: rows.count(value) == 1, "the name of one row")
    if not recipe.rows or not recipe.columns or not recipe.seeds:
        raise UsageError(f"the recipe '{name}' has no rows, no columns or no seeds")
    if recipe.init is None and any(row.init for row in recipe.rows):
        raise UsageError(
            f"the recipe '{name}' has a row with init, but does not say what is trained first", hint="[init]"
        )
    return recipe


def _row(name: str, content: dict[str, Any], columns: Mapping[str, str]) -> Row:
    if not isinstance(content, dict):
        raise UsageError(f"the recipe {name} has the row {content!r}", "it must be a table")
    take = _Taker(f"{name}, row '{content.get('name', '?')}'", content)
    only = take("only", list, list(columns))
    own, published, elsewhere = take("store", dict, {}), take("published", list, []), take("elsewhere", dict, {})
    open_set = take("open_set", dict, {})
    take.check("only, store", [*only, *own.values()], lambda value: isinstance(value, str), "text")
    take.check("open_set", list(open_set), lambda value: value in ("auroc", "balanced"), "auroc or balanced")
    for key, lists in (("elsewhere", elsewhere), ("open_set", open_set)):
        take.check(key, list(lists.values()), lambda value: isinstance(value, list), "a list")
    printed = {"published": published, **elsewhere, **open_set}
    for paper, errors in printed.items():
        take.check(paper, errors, is_error, 'like "9.79 ± 0.75", in per cent')
    for heading in (*only, *own):
        if heading not in columns:
            raise UsageError(f"{take.where} has the unknown column '{heading}'", suggest(str(heading), columns))
    for errors in printed.values():
        if errors and len(errors) != len(only):
            raise UsageError(f"{take.where} has {len(errors)} published errors for {len(only)} columns")
    row = Row(
        take("name", str),
        take("method", str),
        take("set", dict, {}),
        {heading: own.get(heading, columns[heading]) for heading in only},
        dict(zip(only, published or [""] * len(only), strict=True)),
        {paper: dict(zip(only, errors, strict=True)) for paper, errors in elsewhere.items() if errors},
        {name: dict(zip(only, values, strict=True)) for name, values in open_set.items() if values},
        take("init", bool, False),
    )
    take.finish()
    return row


def is_error(value: Any) -> bool:
    """Whether this is a published error: a mean in per cent, with or without a deviation; or "" for none."""
    return isinstance(value, str) and (
        not value or (_ERROR.fullmatch(value) is not None and all(part <= 100 for part in mean_and_std(value)))
    )


def mean_and_std(published: str) -> tuple[float, float]:
    """The numbers of a published error, the deviation 0 if there is none: (9.79, 0.75) of "9.79 ± 0.75 ?"."""
    mean, _, std = published.rstrip(f" {UNVERIFIED}").partition("±")
    return float(mean), float(std or 0)


def _is_number(heading: str) -> bool:
    return re.fullmatch(r"\d{1,9}(\.\d{1,9})?", heading, re.ASCII) is not None


_ERROR = re.compile(r"\s*\d+(\.\d+)?\s*(±\s*\d+(\.\d+)?\s*)?( \?)?", re.ASCII)


class _Taker:
    """Takes the keys of a table and checks their types; `finish` refuses keys that were not taken.

    Args:
        where: name of the table, for errors.
        content: the table.
    """

    def __init__(self, where: str, content: dict[str, Any]) -> None:
        self.where, self._content, self._taken = f"the recipe {where}", dict(content), [""]

    def __call__(self, key: str, kind: type, default: Any = None) -> Any:
        self._taken.append(key)
        value = self._content.pop(key, default)
        if value is None:
            raise UsageError(f"{self.where} lacks '{key}'")
        if type(value) is not kind:
            raise UsageError(f"{self.where}: '{key}' is {value!r}", f"it must be a {kind.__name__}")
        return value

    def check(self, key: str, values: Sequence[Any], right: Callable[[Any], bool], what: str) -> None:
        """Refuse the first value that is not right."""
        for value in values:
            if not right(value):
                raise UsageError(f"{self.where}: '{key}' has {value!r}", f"it must be {what}")

    def finish(self) -> None:
        if self._content:
            unknown = next(iter(self._content))
            raise UsageError(f"{self.where} has the unknown key '{unknown}'", suggest(unknown, self._taken[1:]))


def _shipped() -> Any:
    return resources.files("trainer.reproduce").joinpath("recipes")
