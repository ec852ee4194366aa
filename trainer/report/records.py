"""Runs as a report sees them: what their folders say, and which of them differ in nothing but their seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import config
from trainer.evaluation import outcomes
from trainer.evaluation.outcomes import Outcomes
from trainer.runs import metrics
from trainer.runs.run_dir import open_run

# what may differ between two seeds of one experiment
INCIDENTAL = {"seed", *config.marked("incidental")}


@dataclass
class Record:
    """One run.

    Attributes:
        path: its folder; config: config.json; result: result.json, None while it is not finished.
        train, evals: lines of metrics.jsonl by kind, in order of their steps.
        remote: its store may be asked for over the network.
        outcomes: what it says of each test image; None while it is not finished, and of runs of early versions.
        unreadable: how many lines of metrics.jsonl are damaged, and left out.
    """

    path: Path
    config: dict[str, Any]
    result: dict[str, Any] | None
    train: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    outcomes: Outcomes | None = None
    remote: bool = False
    unreadable: int = 0

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def run(self) -> dict[str, Any]:
        """The settings that every method has."""
        return self.config["run"]

    @property
    def store(self) -> dict[str, Any]:
        """What the run's record says of its store."""
        return self.config["store"]

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, the method's and the others."""
        return {**self.run, **self.config["settings"]}

    @property
    def step(self) -> int:
        """How far it came."""
        return max((line["step"] for line in (*self.train[-1:], *self.evals[-1:])), default=0)

    def score(self, name: str) -> float | None:
        """A number of result.json by name, `part.name` within a part; None if it is not there."""
        value: Any = self.result
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value


@dataclass
class Group:
    """Runs of one experiment with different seeds."""

    records: list[Record]

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs, or of their splits where all runs have one seed."""
        own = [record.run["seed"] for record in self.records]
        split = [record.store["split_seed"] for record in self.records]
        return split if len(set(own)) == 1 and len(set(split)) > 1 else own

    def mean(self, name: str) -> tuple[float, float | None, int] | None:
        """Mean of a score, its sample standard deviation (None of a single run), and of how many; None if of none."""
        values = [value for record in self.records if (value := record.score(name)) is not None]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def read(path: Path, remote: bool = False) -> Record:
    """Raises StoreError and IntegrityError as `trainer.runs.run_dir.open_run`."""
    run = open_run(path)
    lines, unreadable = metrics.read(path)
    train, evals = ([line for _, line in lines if line["kind"] == kind] for kind in ("train", "eval"))
    result = run.result()
    said = None if result is None else outcomes.read(run)
    return Record(path, run.config, result, train, evals, said, remote, unreadable)


def group(records: Sequence[Record]) -> list[Group]:
    """Runs that differ in nothing but seeds and machines together, in the order in which they first appear."""
    groups: dict[str, Group] = {}
    for record in records:
        groups.setdefault(json.dumps(_experiment(record), sort_keys=True), Group([])).records.append(record)
    return list(groups.values())


def by_data(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups on the same data together: the same images, classes and numbers of labels, whatever the seed."""
    found: dict[str, list[Group]] = {}
    for one in groups:
        found.setdefault(json.dumps(_data(one.first), sort_keys=True), []).append(one)
    return list(found.values())


def differing(groups: Sequence[Group]) -> list[str]:
    """Names of the settings that are not the same in all groups, method and store left out."""
    names = [
        name
        for name in dict.fromkeys(name for one in groups for name in one.first.settings)
        if name not in {*INCIDENTAL, "method"}
    ]
    values = {name: [one.first.settings[name] for one in groups if name in one.first.settings] for name in names}
    return [name for name, found in values.items() if any(value != found[0] for value in found)]


def _experiment(record: Record) -> dict[str, Any]:
    settings = {name: value for name, value in record.settings.items() if name not in INCIDENTAL}
    return {"settings": settings, "store": _data(record)}


def _data(record: Record) -> list[Any]:
    store = record.store
    counts = dict(store["counts"])
    if store["protocol"] == "cross-validation":  # some folds have an image more than others
        counts["labeled"] += counts.pop("valid")
    return [counts, *(store.get(key) for key in ("dataset_fingerprint", "protocol", "class_names", "gamma"))]
