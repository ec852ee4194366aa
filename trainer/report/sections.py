"""The sections about one run: its numbers, error curves, classes, calibration, foreign images and settings.

Curves of losses and rates are TensorBoard's; the page has what that does not show.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from trainer.functional.foreign import share_told
from trainer.report import charts, classes, examples, pool, samples, significance, verdict
from trainer.report.charts import Series
from trainer.report.markup import Child, Markup, el, percent, table
from trainer.report.records import Record


def run(record: Record, images: bool = True) -> list[Child]:
    """All sections of a run; those with images are the larger part of a page."""
    return [
        el("p", _sentence(record), class_="lead"),
        el("p", said, class_="lead verdict") if (said := verdict.of_run(record)) else None,
        _numbers(record),
        _facts(record),
        _curves(record),
        _section("Classes", classes.section(record)),
        _calibration(record),
        _foreign(record),
        _section("Pseudo-labels", pool.quality(record)),
        _section("Images", examples.shown(record)) if images else None,
        _section("Copies in the store", samples.sheet(record)) if images else None,
        _settings(record),
    ]


def _section(title: str, *children: Child) -> Markup | None:
    return el("section", el("h3", title), children) if any(children) else None


def _sentence(record: Record) -> str:
    counts = record.store["counts"]
    text = (
        f"{record.run['model']} on {record.store['name']}: {counts['labeled']:,} labelled and "
        f"{counts['unlabeled']:,} unlabelled images, {len(record.store['class_names'])} classes, "
        f"seed {record.run['seed']}"
    )
    if record.result is None:
        return f"{text}. Not finished: step {record.step:,} of {record.run['steps']:,}."
    return f"{text}, {record.result['steps']:,} steps."


def _numbers(record: Record) -> Markup:
    """The most important numbers, as tiles."""
    tiles: list[tuple[str, str]] = []
    result = record.result
    if result is not None:
        step = result["best_step"]
        images = sum(map(sum, result["confusion"]))
        low, high = significance.wilson(round(result["error_last"] * images / 100), images)
        tiles = [
            (
                percent(result["error_last"]),
                f"test error, 95 % interval {100 * low:.1f} to {100 * high:.1f} %",
            ),
            (percent(result["error_median20"]), f"median of the last {result['median_of']}"),
            (
                percent(result["error_best_by_valid"]),
                "best by validation" + (": no validation set" if step is None else f", step {step:,}"),
            ),
            (percent(record.score("raw_error_last")), "of the live weights"),
        ]
    elif record.evals:
        tiles.append((percent(record.evals[-1]["test_error"]), f"test error at step {record.evals[-1]['step']:,}"))
    if (ece := record.score("calibration.ece")) is not None:
        tiles.append((percent(100 * ece), "calibration error (ECE)"))
    if (auroc := record.score("detection.auroc")) is not None:
        tiles.append((f"{auroc:.3f}", "AUROC of foreign images"))
    return el("div", [el("div", el("b", value), el("span", said)) for value, said in tiles], class_="tiles")


def _facts(record: Record) -> Markup | None:
    """What was run on which store."""
    store, run, counts = record.store, record.run, record.store["counts"]
    recipe = samples.recipe(record)
    protocol = f"{store['protocol']}, split seed {store['split_seed']}"
    if store["protocol"] == "mismatch":
        protocol += f", suggested γ {store.get('gamma') or 0:g}"
    parts = {"labeled": "labelled", "unlabeled": "unlabelled", "valid": "validation", "test": "test"}
    sizes = ", ".join(f"{counts[part]:,} {name}" for part, name in parts.items())
    rows: list[tuple[str, Child]] = [
        ("Method", f"{run['method']}, {run['model']}, {run['steps']:,} steps of {run['batch']}, seed {run['seed']}"),
        ("Store", [store["name"], " ", el("code", store["fingerprint"][:16])]),
        ("Dataset", [store["dataset"], " ", el("code", store["dataset_fingerprint"][:16])]),
        ("Copies", f"{store['num_copies']} of each image" + (f", recipe {recipe}" if recipe else "")),
        ("Split", protocol),
        ("Images", sizes),
        ("Machine", _machine(record)),
    ]
    if run.get("init"):
        rows.insert(1, ("Started from", run["init"]))
    rows += [("Differs from the paper", text) for text in record.config["deviations"]]
    if record.unreadable:
        rows.append(("Damaged", f"{record.unreadable} line(s) of metrics.jsonl, left out of the curves"))
    body = el("dl", [[el("dt", name), el("dd", value)] for name, value in rows])
    return _section("What was run", body)


def _machine(record: Record) -> str:
    device, run = record.config["device"], record.run
    parts = [str(device["name"]), f"{run['precision']}, {run['engine']}"]
    if device["kind"] == "cpu" and device.get("threads") is not None:
        parts.append(f"{device['threads']} thread" + "s" * (device["threads"] != 1))
    rates = [line["images_per_s"] for line in record.train]
    if rates:
        parts.append(f"{sorted(rates)[len(rates) // 2]:,.0f} images/s")
    if record.result is not None:
        parts.append(duration(record.result["seconds"]))
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 7 s`, `5 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def column(lines: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, value) of one metric, from the lines of metrics.jsonl that have it."""
    return [(line["step"], line[name]) for line in lines if name in line]


def _curves(record: Record) -> Markup | None:
    error = charts.lines(
        "Error in %",
        [
            Series("test, averaged", column(record.evals, "test_error"), 0),
            Series("test, live", column(record.evals, "raw_test_error"), 1),
            Series("validation, averaged", column(record.evals, "valid_error"), 2),
        ],
        lambda v: f"{v:.3g}",
        log=True,
        level=chance(record),
    )
    return _section("Curves", el("div", error, class_="charts")) if error else None


def chance(record: Record) -> tuple[str, float] | None:
    """What guessing would give, as a level of a chart of errors."""
    found = verdict.chance_error(record)
    return None if found is None else ("Always the most frequent class", found)


def _calibration(record: Record) -> Markup | None:
    calibration = record.score("calibration")
    if not isinstance(calibration, dict):
        return None
    facts = [
        ("Expected calibration error", percent(100 * calibration["ece"])),
        ("Mean confidence", percent(100 * calibration["confidence"])),
        ("Accuracy", percent(100 - (record.score("error_last") or 0))),
        ("Negative log-likelihood", f"{calibration['nll']:.3f}"),
    ]
    text = (
        "How sure the averaged weights are of test images, against how often they are right. "
        "Bars below the diagonal: too sure. Confidence is the largest probability."
    )
    side = el("div", el("p", text), el("dl", [[el("dt", name), el("dd", value)] for name, value in facts]))
    return _section("Calibration", el("div", charts.reliability(calibration["bins"]), side, class_="pair"))


def _foreign(record: Record) -> Markup | None:
    """How many images look foreign, where that is not known; on mismatch stores, how well they are told apart."""
    estimate, detection, mask = record.score("foreign"), record.score("detection"), record.score("ood")
    figures: list[Child] = []
    notes: list[str] = []
    if isinstance(estimate, dict) and (estimate["told"] or isinstance(detection, dict)):
        told = share_told(estimate["share"], estimate["interval"], "the")
        notes.append(f"Estimate from {estimate['features']} features of {estimate['images']:,} images: {told}.")
    if isinstance(detection, dict):
        groups = (("known classes", detection["known_bins"], 0), ("foreign classes", detection["foreign_bins"], 1))
        shown = [one for one in groups if sum(one[1])]
        scored = "fpr95" in detection  # runs of early versions had no other score than confidence
        title = "Score of foreign images, of unlabelled ones" if scored else "Largest probability of unlabelled images"
        figures.append(charts.histograms(title, shown, "score" if scored else "largest probability"))
        notes += _told_apart(detection) if scored else _worth("1 − the largest probability", detection)
    series = charts.varying(
        [
            Series("precision", column(record.train, "ood_precision"), 0),
            Series("recall", column(record.train, "ood_recall"), 1),
        ]
    )
    level = None
    if isinstance(mask, dict) and mask.get("rows"):
        share = mask["ood"] / mask["rows"]
        level = ("Precision of chance", share)
        dropped = f"{100 * mask['masked'] / mask['rows']:.1f} %"
        foreign = "none" if mask["precision"] is None else f"{100 * mask['precision']:.1f} %"
        notes.append(
            f"Over the whole run the mask dropped {dropped} of the unlabelled rows. Of the dropped rows {foreign} were "
            f"foreign (precision), of all rows {100 * share:.1f} %."
        )
        if mask["recall"] is not None:
            notes[-1] += f" It dropped {100 * mask['recall']:.1f} % of the foreign rows (recall)."
    figures.append(charts.lines("The mask over time", series, lambda v: f"{v:.2g}", top=1, level=level))
    if isinstance(tested := record.score("open_set"), dict):
        notes.append(_tested(tested))
    if not any(figures) and not notes:
        return None
    said = [el("p", note, class_="note") for note in notes]
    return _section("Foreign images", el("div", figures, class_="charts"), said)


def _told_apart(detection: dict[str, Any]) -> list[str]:
    """What the scores of foreign images are worth, in words."""
    said = _worth("the score", detection)
    if detection["fpr95"] is not None:
        passing = f"Where 95 % of the known images pass, so do {100 * detection['fpr95']:.0f} % of the foreign ones."
        said += [passing, *_worth("1 − the largest probability", detection["confidence"])]
    return said


def _tested(one: dict[str, Any]) -> str:
    """What is said of known and foreign test images, in words."""
    by = "its own heads' score" if one["by"] == "heads" else "1 − the largest probability"
    said = f"Of {one['known']:,} known and {one['foreign']:,} foreign test images: AUROC {one['auroc']:.3f} by {by}"
    if one["default"] is not None:
        said += f", {one['default']['auroc']:.3f} by the score"
    if one["balanced"] is None:
        return said + "."
    what = "rejected by its heads" if one["rejects"] == "heads" else "rejected above 95 % of the validation images"
    return (
        f"{said}. With foreign images {what}, accuracy over known classes and one for all foreign images is "
        f"{percent(100 * one['balanced'], 1)} (mean of the classes)."
    )


def _worth(score: str, quality: dict[str, Any]) -> list[str]:
    auroc = quality["auroc"]
    if auroc is None:
        return []
    worse = "; this is worse than guessing" if auroc < 0.5 else ""
    return [
        f"AUROC {auroc:.3f}: how well {score} tells foreign from known unlabelled images at the end of the run; "
        f"0.5 is chance, 1 is perfect{worse}."
    ]


def _settings(record: Record) -> Markup:
    config = record.config
    run = {name: value for name, value in config["run"].items() if name != "store"}
    store = {name: record.store[name] for name in ("path", "fingerprint", "dataset_fingerprint")}
    tables = [("Method", config["settings"]), ("Run", run), ("Versions", config.get("versions", {})), ("Store", store)]
    blocks = [
        el("div", el("h4", title), table(("setting", "value"), [(k, _value(v)) for k, v in rows.items()], slice(0)))
        for title, rows in tables
        if rows
    ]
    command = config.get("command")
    said = el("p", el("code", shlex.join(command))) if command else None
    return el("details", el("summary", "Every setting, versions, command"), said, el("div", blocks, class_="settings"))


def _value(value: Any) -> str:
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
