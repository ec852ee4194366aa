"""Planning the runs of a recipe: their folders, their arguments, and whether they exist.

A seed of a recipe is a labelled split and a training run on it, unless the recipe or the user varies only one of them.
A run's folder is <runs>/<model>_<steps>[_<setting>…]/<store>_<method>[_<setting>…]_s<seed>: recipes with the same run
share it, and runs of another scale have other folders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stores import SplitStore
from stores.errors import StoreError, UsageError, suggest
from stores.format import names
from stores.storage.location import Location, locate
from trainer import config
from trainer.api import configure
from trainer.config import RunConfig
from trainer.data.split import open_split
from trainer.loop.assemble import require_trainable
from trainer.methods import load_method
from trainer.reproduce.recipe import Recipe, Row, Vary
from trainer.runs.record import Spec
from trainer.runs.run_dir import open_run

# what may differ between two runs of one cell: where and how they run, not what they compute
ELSEWHERE = config.marked("place", "incidental")


@dataclass(frozen=True)
class Scale:
    """The user's changes to a recipe; None: as in the recipe.

    Attributes:
        steps: of each run.
        model: of each run.
        seeds: of the runs.
        vary: what a seed changes.
        stores: paths of split stores that replace the recipe's columns.
        rows: names of the only rows; empty: all.
        columns: names of the only columns; empty: all.
        settings: "key=value" for each run whose method has the setting.
    """

    steps: int | None = None
    model: str | None = None
    seeds: tuple[int, ...] | None = None
    vary: Vary | None = None
    stores: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """A run of a table.

    Attributes:
        path: its folder.
        row: name of the row of its first cell; empty for the pre-training run.
        column: name of the column of its first cell; empty for the pre-training run.
        seed: the one of the recipe's seeds that it is for.
        steps: of the run.
        flags: arguments of `realmix-train`.
        init: folder of the run that it starts from.
        spec: what is trained there.
    """

    path: Path
    row: str
    column: str
    seed: int
    steps: int
    flags: tuple[str, ...]
    init: Path | None = None
    spec: Spec | None = field(default=None, compare=False, repr=False)

    @property
    def words(self) -> list[str]:
        """Arguments of `realmix-train`."""
        if (self.path / "config.json").exists():
            return ["--resume", str(self.path)]
        init = ["--init", str(self.init)] if self.init is not None else []
        return [*self.flags, "--runs", str(self.path.parent), "--name", self.path.name, *init]

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").is_file()


def scaled(recipe: Recipe, scale: Scale) -> Recipe:
    """The recipe with the user's changes.

    Other stores become the columns, without published errors.
    """
    changes: dict[str, Any] = {
        name: value for name in ("steps", "model", "seeds", "vary") if (value := getattr(scale, name))
    }
    if scale.steps and scale.steps < recipe.steps:
        changes["error"] = "last"  # the last 20 evaluations of a short run reach far back
    if scale.stores:
        columns = {Path(store).name: store for store in scale.stores}
        rows, seen = [], set()
        for row in recipe.rows:
            what = (row.method, str(row.settings), row.init)
            if what not in seen:  # rows may have differed only in their stores
                none = dict.fromkeys(columns, "")
                rows.append(dataclasses.replace(row, stores=columns, published=none, elsewhere={}, open_set={}))
            seen.add(what)
        changes |= {"columns": tuple(columns), "rows": tuple(rows)}
    return _chosen(dataclasses.replace(recipe, **changes), scale)


def _chosen(recipe: Recipe, scale: Scale) -> Recipe:
    """The recipe with the chosen rows and columns only."""
    names = [row.name for row in recipe.rows]
    for what, chosen, known in (("row", scale.rows, names), ("column", scale.columns, recipe.columns)):
        for one in chosen:
            if one not in known:
                raise UsageError(f"the recipe '{recipe.name}' has no {what} '{one}'", suggest(one, known))
    columns = tuple(column for column in recipe.columns if not scale.columns or column in scale.columns)
    rows = []
    for row in recipe.rows:
        stores = {column: store for column, store in row.stores.items() if column in columns}
        if stores and (not scale.rows or row.name in scale.rows):
            rows.append(dataclasses.replace(row, stores=stores))
    return dataclasses.replace(recipe, columns=columns, rows=tuple(rows))


def plan(recipe: Recipe, scale: Scale, root: str, runs: Path) -> dict[tuple[str, str], list[Planned]]:
    """Plan and check all runs of a scaled recipe.

    Args:
        recipe: as returned by `scaled`.
        scale: the user's changes.
        root: folder of the stores, or s3://bucket/….
        runs: folder of the runs.

    Returns:
        A run for each seed, by (row, column).

    Raises:
        StoreError: a store is missing, or a run in `runs` was trained from another one.
        UsageError: a setting is wrong, or a run in `runs` has other settings.
    """
    opened: dict[str, SplitStore] = {}
    missing = []
    splits = [recipe.split_and_training(number)[0] for number in recipe.seeds]
    named = [store for row in recipe.rows for store in row.stores.values()]
    wanted = {split_of(store, split): store for store in named for split in splits}
    if recipe.init is not None and any(row.init for row in recipe.rows):
        wanted[split_of(recipe.init[0], splits[0])] = recipe.init[0]
    for name, store in wanted.items():
        place: Location = locate(name) if store in scale.stores else locate(root) / name
        try:
            opened[name] = open_split(place, recipe.embeddings)
        except StoreError as error:
            if name in scale.stores or not error.what.endswith("is not a store"):
                raise
            missing.append(name)
    if missing:
        others = [name for name in missing if name not in wanted.values()]
        more = f"\nfor {', '.join(others)}: realmix-data split … --split-seed, or --train-seeds for one split alone"
        raise StoreError(
            f"no store {', '.join(missing)} in '{root}'",
            "the recipe trains from it",
            f"make it: {recipe.stores}" + more * bool(others),
        )
    _require_known(recipe, scale.settings)
    make = _Maker(recipe, scale, opened, runs)
    found = {}
    first = None
    if recipe.init is not None and any(row.init for row in recipe.rows):
        store, method = recipe.init
        first = make(Row("", method, {}, {"": store}, {}), "", recipe.seeds[0], None)
        found["", ""] = [first]
    for row in recipe.rows:
        for column in row.stores:
            init = first.path if row.init and first is not None else None
            cell = [make(row, column, number, init) for number in recipe.seeds]
            found[row.name, column] = list({run.path: run for run in cell}.values())  # all labels are one split
    return found


def split_of(store: str, seed: int) -> str:
    """The split store of another labelled draw: "cifar10_250" is "cifar10_250_seed2", a fold 1 fold 2 for seed 2."""
    if seed == 1 or store.endswith("_all"):  # all labels are drawn in one way only
        return store
    start, fold, _ = store.rpartition("_fold")
    return f"{start}_fold{seed}" if fold else f"{store}_seed{seed}"


class _Maker:
    """Plans single runs from what all runs share.

    Args:
        recipe: the recipe.
        scale: the user's changes.
        stores: split stores by name.
        runs: folder of the runs.
    """

    def __init__(self, recipe: Recipe, scale: Scale, stores: Mapping[str, SplitStore], runs: Path) -> None:
        self._recipe, self._scale, self._stores = recipe, scale, stores
        everywhere = [f"{key}={_text(value)}" for key, value in recipe.settings.items()]
        self._settings = [*everywhere, *map(config.without_component, scale.settings)]
        named = [one for one in self._settings if one.partition("=")[0] not in ELSEWHERE]
        on = [] if recipe.embeddings is None else [recipe.embeddings]
        self._folder = runs / _file_name(f"{recipe.model}_{recipe.steps}", [*on, *named])

    def __call__(self, row: Row, column: str, number: int, init: Path | None) -> Planned:
        recipe = self._recipe
        split, seed = recipe.split_and_training(number)
        store = self._stores[split_of(row.stores[column], split)]
        method = load_method(row.method)
        own = [f"{key}={_text(value)}" for key, value in row.settings.items()]
        fields = {*config.types_of(method.Settings), *config.types_of(RunConfig)}
        assignments = [one for one in self._settings if one.partition("=")[0] in fields] + own
        flags = {"steps": recipe.steps, "model": recipe.model, "seed": seed}
        spec = configure(store, assignments, {**flags, "method": row.method})
        require_trainable(spec)
        after = [f"after_{init.name}"] if init is not None else []
        name = _file_name(f"{store.name}_{row.method}", [*own, *after])
        words = ["--store", str(store.path), "--method", row.method]
        words += [] if recipe.embeddings is None else ["--embeddings", recipe.embeddings]
        words += [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        words += [word for one in assignments for word in ("--set", one)]
        place = self._folder / f"{name}_s{seed}"
        planned = Planned(place, row.name, column, number, recipe.steps, tuple(words), init, spec)
        if (planned.path / "config.json").exists():
            _require_same(planned.path, store, spec.run, spec.settings)
        return planned


def _require_known(recipe: Recipe, assignments: Sequence[str]) -> None:
    """Raise a UsageError for a setting of the user that no run of the recipe has."""
    fields = set(config.types_of(RunConfig)) - set(config.FROM_FLAGS)
    for row in recipe.rows:
        fields |= set(config.types_of(load_method(row.method).Settings))
    for one in assignments:
        name, equals, _ = config.without_component(one).partition("=")
        if not equals:
            raise UsageError(f"'--set {one}' is no key=value")
        if name not in fields:
            raise UsageError(f"no run of '{recipe.name}' has the setting '{name}'", suggest(name, fields))


def _require_same(path: Path, store: SplitStore, run: RunConfig, settings: Any) -> None:
    """Raise a StoreError or UsageError if the run at `path` is not the planned one."""
    record = open_run(path).config
    if record["store"]["fingerprint"] != store.fingerprint:
        raise StoreError(
            f"'{path}' was trained from another store than '{store.path}'",
            "their fingerprints differ",
            "choose another --runs",
        )
    planned = {
        key: value for key, value in dataclasses.asdict(run).items() if key not in ELSEWHERE and value is not None
    }
    planned |= {key: value for key, value in dataclasses.asdict(settings).items() if value is not None}
    recorded = {**record["run"], **record["settings"]}
    for key, value in planned.items():
        if recorded.get(key) != value:
            raise UsageError(
                f"'{path}' was trained with {key}={recorded.get(key)}, not {value}",
                "its error belongs in another table",
                "choose another --runs",
            )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _file_name(start: str, parts: Sequence[str]) -> str:
    name = "_".join([start, *parts]).replace("=", "").replace("/", "-").replace(" ", "")
    return names.require(name, "a run's folder")
