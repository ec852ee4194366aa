"""The comparison of several runs: mean ± standard deviation over seeds, error curves, error by class.

Runs on different data are not ranked against each other: each data set has a table of its own.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.report import charts, classes, records, sections, significance, verdict
from trainer.report.charts import Series
from trainer.report.markup import Child, Markup, el, percent, table
from trainer.report.records import Group, Record, differing

SCORES = (  # name in result.json, heading, factor, decimals
    ("error_last", "last, %", 1, 2),
    ("error_median20", "median, %", 1, 2),
    ("error_best_by_valid", "best by valid., %", 1, 2),
    ("valid_error_last", "validation, %", 1, 2),
    ("raw_error_last", "live weights, %", 1, 2),
    ("calibration.ece", "ECE, %", 100, 2),
    ("detection.auroc", "AUROC", 1, 3),
    ("open_set.auroc", "AUROC, test", 1, 3),
    ("open_set.balanced", "open accuracy, %", 100, 2),
)

LARGER = {"detection.auroc", "open_set.auroc", "open_set.balanced"}  # is better


def compare(groups: Sequence[Group]) -> list[Child]:
    """The sections of a comparison: for each data set verdict, table, curves and classes, then a list of all runs."""
    sets = records.by_data(groups)
    found: list[Child] = []
    for these in sets:
        heading = "Comparison" if len(sets) == 1 else f"On {_store(these[0])}"
        found += _on_one(heading, these, labels(these))
    return [*found, el("section", el("h3", "Runs"), _runs(groups, labels(groups)))]


def _on_one(heading: str, groups: Sequence[Group], names: Sequence[str]) -> list[Child]:
    """The sections about runs on the same data."""
    said = verdict.of_groups(groups, names)
    note = (
        f"Test errors of the averaged weights; {median_said(groups)}; ± is the standard deviation over seeds (n − 1). "
        "Bold is what is better than every other row of its column by more than chance: with 95 % by Student's t over "
        "three seeds or more; the last error with fewer by a bootstrap over the test images."
    )
    section = el(
        "section",
        el("h2", heading),
        el("p", said, class_="lead verdict") if said else None,
        scores(groups, names),
        el("p", note, class_="note"),
        el("div", _curves(groups, names), class_="charts"),
    )
    return [section, _by_class(groups, names)]


def median_said(groups: Sequence[Group]) -> str:
    """Of how many evaluations the median is: 20, or what there were."""
    counts = sorted({r.result["median_of"] for one in groups for r in one.records if r.result is not None})
    of = "–".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "20"
    return f"the median is that of the last {of} evaluation" + ("" if of == "1" else "s")


def labels(groups: Sequence[Group]) -> list[str]:
    """A short name for each group: its method, the settings that differ from the method's other groups, and the store.

    Model and steps are named if any two groups that make steps differ in them, the store if there are several.
    """
    stepping = [one for one in groups if one.first.run["steps"] > 1]  # the others are fitted at once
    everywhere = [name for name in differing(stepping) if name in ("model", "steps")]
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


def scores(groups: Sequence[Group], names: Sequence[str]) -> Markup:
    """The table: a row for each group, a column for each score."""
    shown = [score for score in SCORES if any(one.mean(score[0]) for one in groups)]
    best = {name: _clearly_best(groups, name) for name, *_ in shown}
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
            cells.append([el("b", text) if one is best[name] else text, fewer])
        cells.append(_time(one))
        rows.append(cells)
    return table(("", "seeds", *(heading for _, heading, _, _ in shown), "time"), rows)


def _clearly_best(groups: Sequence[Group], score: str) -> Group | None:
    """The group that is better than every other one by more than chance; None without one."""
    sign = -1 if score in LARGER else 1
    means = [(sign * mean[0], i) for i, one in enumerate(groups) if (mean := one.mean(score)) is not None]
    if len(means) < 2:
        return None
    first = groups[min(means)[1]]
    others = [groups[i] for _, i in means if groups[i] is not first]
    found = [significance.difference(other, first, score) for other in others]
    clear = all(one is not None and one.is_clear and sign * one.mean > 0 for one in found)
    return first if clear else None


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
            level=sections.chance(groups[0].first),
            note="Mean over seeds; the band spans all of them." if any(len(one.records) > 1 for one in groups) else "",
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
    return charts.varying(found)


def _by_class(groups: Sequence[Group], names: Sequence[str]) -> Markup | None:
    """Mean error of each class, if all groups have the same classes, at most `classes.MANY`."""
    finished = [(one, name) for one, name in zip(groups, names, strict=True) if one.mean("error_last")]
    known = {tuple(one.first.store["class_names"]) for one, _ in finished}
    if len(known) != 1 or len(next(iter(known))) > classes.MANY:
        return None
    rows = []
    for name in next(iter(known)):
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
            numbers = [percent(record.score(name)) for name in ("error_last", "error_median20")]
            seeds = (record.run["seed"], record.store["split_seed"])
            rows.append((el("a", record.name, href=f"#{anchor(record)}"), *numbers, *seeds, state, label))
    head = ("run", "last", "median", "seed", "split seed", "state", "")
    return table(head, rows, numbers=slice(1, 5))


def anchor(record: Record) -> str:
    """The id of the element of a run."""
    return "run-" + "".join(c if c.isalnum() else f"-{ord(c):x}" for c in str(record.path.resolve()))
