"""The comparison of several runs: mean ± standard deviation over seeds, error curves, error by class."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.report import charts, sections
from trainer.report.charts import Series
from trainer.report.markup import Child, Markup, el, table
from trainer.report.records import Group, Record, differing

SCORES = (  # name in result.json, heading, factor, decimals
    ("error_last", "last", 1, 2),
    ("error_median20", "median of 20", 1, 2),
    ("error_best_by_valid", "best by valid.", 1, 2),
    ("raw_error_last", "live weights", 1, 2),
    ("calibration.ece", "ECE", 100, 2),
    ("detection.auroc", "AUROC", 1, 3),
    ("open_set.auroc", "AUROC, test", 1, 3),
    ("open_set.balanced", "open accuracy", 100, 2),
)

LARGER = {"detection.auroc", "open_set.auroc", "open_set.balanced"}  # is better


def compare(groups: Sequence[Group]) -> list[Child]:
    """The sections of a comparison: table, curves, classes, and a list of all runs."""
    names = labels(groups)
    return [
        el(
            "section",
            el("h2", "Comparison"),
            _table(groups, names),
            el(
                "p",
                "Test error and ECE in per cent; ± is the standard deviation over seeds (n − 1). Of each column the "
                "best mean is bold.",
                class_="note",
            ),
            el("div", _curves(groups, names), class_="charts"),
        ),
        _by_class(groups, names),
        el("section", el("h3", "Runs"), _runs(groups, names)),
    ]


def labels(groups: Sequence[Group]) -> list[str]:
    """A short name for each group: its method, the settings that differ from the method's other groups, and the store.

    Model and steps are named if any two groups differ in them, the store if there are several.
    """
    everywhere = [name for name in differing(groups) if name in ("model", "steps")]
    stores = {_store(one) for one in groups}
    found = []
    for one in groups:
        settings = one.first.settings
        rivals = [other for other in groups if other.first.settings["method"] == settings["method"]]
        words = [str(settings["method"])]
        for name in dict.fromkeys((*everywhere, *differing(rivals))):
            if name == "init":
                words += [f"after {Path(settings[name]).parent.name}"] if settings[name] else []
            elif name in settings:
                words.append(f"{name}={_brief(settings[name])}")
        if len(stores) > 1:
            words.append(f"on {_store(one)}")
        found.append(" ".join(words))
    return [name if found.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(found)]


def _store(group: Group) -> str:
    return "/".join(dict.fromkeys(record.store["name"] for record in group.records))


def _brief(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(groups: Sequence[Group], names: Sequence[str]) -> Markup:
    shown = [score for score in SCORES if any(one.mean(score[0]) for one in groups)]
    best = {}
    for name, *_ in shown:
        means = [found[0] for one in groups if (found := one.mean(name)) is not None]
        best[name] = (max if name in LARGER else min)(means) if len(means) > 1 else None
    rows = []
    for one, label in zip(groups, names, strict=True):
        cells: list[Child] = [label, ", ".join(map(str, one.seeds))]
        for name, _, factor, digits in shown:
            found = one.mean(name)
            if found is None:
                cells.append("–")
                continue
            mean, spread, count = found
            text = f"{factor * mean:.{digits}f}" + ("" if spread is None else f" ± {factor * spread:.{digits}f}")
            fewer = f" (n = {count})" if count < len(one.records) else ""
            cells.append([el("b", text) if mean == best[name] else text, fewer])
        cells.append(_time(one))
        rows.append(cells)
    return table(("", "seeds", *(heading for _, heading, _, _ in shown), "time"), rows)


def _time(group: Group) -> str:
    found = group.mean("seconds")
    return sections.duration(found[0]) if found else "–"


def _curves(groups: Sequence[Group], names: Sequence[str]) -> list[Markup]:
    return [
        charts.lines(
            "Test error in %, averaged weights",
            _over_seeds(groups, names, "test_error"),
            lambda v: f"{v:.3g}",
            log=True,
            note="Mean over seeds; the band spans all of them.",
        ),
        charts.lines("Precision of the mask", _over_seeds(groups, names, "ood_precision"), lambda v: f"{v:.2g}", top=1),
        charts.lines("Recall of the mask", _over_seeds(groups, names, "ood_recall"), lambda v: f"{v:.2g}", top=1),
    ]


def _over_seeds(groups: Sequence[Group], names: Sequence[str], what: str) -> list[Series]:
    """A line for each group: the mean over its runs at each step that all of them have."""
    found = []
    for i, (one, name) in enumerate(zip(groups, names, strict=True)):
        at: dict[float, list[float]] = defaultdict(list)
        for record in one.records:
            for line in record.evals if what == "test_error" else record.train:
                masked_nothing = what == "ood_recall" and "ood_precision" not in line
                if what in line and not masked_nothing:
                    at[line["step"]].append(line[what])
        whole = {step: values for step, values in sorted(at.items()) if len(values) == len(one.records)}
        points = [(step, statistics.fmean(values)) for step, values in whole.items()]
        several = len(one.records) > 1
        band = [(step, min(values), max(values)) for step, values in whole.items()] if several else ()
        found.append(Series(name, points, i, band))
    return found


def _by_class(groups: Sequence[Group], names: Sequence[str]) -> Markup | None:
    """Mean error of each class, if all groups have the same classes, at most `sections.MANY`."""
    finished = [(one, name) for one, name in zip(groups, names, strict=True) if one.mean("error_last")]
    classes = {tuple(one.first.store["class_names"]) for one, _ in finished}
    if len(classes) != 1 or len(next(iter(classes))) > sections.MANY:
        return None
    rows = []
    for name in next(iter(classes)):
        cells: list[Child] = [name]
        for one, _ in finished:
            values = [value for record in one.records if (value := _class_error(record, name)) is not None]
            cells.append(f"{statistics.fmean(values):.1f}" if values else "–")
        rows.append(cells)
    head = ("class", *(name for _, name in finished))
    return el("section", el("h3", "Test error by class in %, mean over seeds"), table(head, rows))


def _class_error(record: Record, name: str) -> float | None:
    return record.result["per_class_error"].get(name) if record.result is not None else None


def _runs(groups: Sequence[Group], names: Sequence[str]) -> Markup:
    rows = []
    for one, label in zip(groups, names, strict=True):
        for record in one.records:
            state = "finished" if record.result is not None else f"at {record.step:,} of {record.run['steps']:,}"
            numbers = [sections.percent(record.score(name)) for name in ("error_last", "error_median20")]
            seeds = (record.run["seed"], record.store["split_seed"])
            rows.append((el("a", record.name, href=f"#{anchor(record)}"), *numbers, *seeds, state, label))
    head = ("run", "last", "median of 20", "seed", "split seed", "state", "")
    return table(head, rows, numbers=slice(1, 5))


def anchor(record: Record) -> str:
    """The id of the element of a run."""
    return "run-" + "".join(c if c.isalnum() else f"-{ord(c):x}" for c in str(record.path.resolve()))
