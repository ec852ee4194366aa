"""Guesses for unlabelled images whose classes are known, but not to the run: how good its pseudo-labels are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.evaluation.outcomes import UNKNOWN
from trainer.report import charts, classes
from trainer.report.markup import Child, Markup, el, table
from trainer.report.records import Record

LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)  # of confidence, from which guesses are counted; FixMatch takes 0.95


def quality(record: Record) -> Markup | None:
    """How often guesses are right, by their confidence and by class; None where no classes are known."""
    said = record.outcomes
    if said is None or not (known := said.pool_labels != UNKNOWN).any():
        return None
    right = (said.pool_guesses == said.pool_labels)[known]
    confidence, guesses = said.pool_confidences[known], said.pool_guesses[known]
    foreign = bool((said.pool_labels[known] < 0).any())
    rows = [(_from(level), *_counted(right, confidence >= level)) for level in LEVELS]
    figures = [charts.figure("Guesses by their confidence", table(("confidence", "guesses", "share", "right"), rows))]
    names = record.store["class_names"]
    by_class = [(name, *_counted(right, guesses == k)) for k, name in enumerate(names)]
    if len(names) <= classes.MANY:
        figures.append(
            charts.figure("By the class that was guessed", table(("class", "guesses", "share", "right"), by_class))
        )
    text = (
        f"{known.sum():,} unlabelled images have classes that the run was not told. The averaged weights guess them as "
        "below; a guess is what other methods call a pseudo-label."
        + (" Foreign images have no right guess." if foreign else "")
    )
    return el("div", el("p", text, class_="lead"), el("div", figures, class_="pair"))


def _from(level: float) -> str:
    return f"{level:g} and more" if level else "all"


def _counted(right: np.ndarray, chosen: np.ndarray) -> Sequence[Child]:
    """How many guesses there are, their share of all, and how many of them are right."""
    count = int(chosen.sum())
    return f"{count:,}", f"{100 * count / len(right):.1f} %", f"{100 * right[chosen].mean():.1f} %" if count else "–"
