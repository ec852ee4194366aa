"""Contact sheets: unlabelled images by how foreign they look (the most, the least, those at the border), and others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.report.markup import Markup, el
from trainer.report.page import document
from trainer.report.samples import photo

EACH = 24  # images of a kind


def chosen(score: np.ndarray, foreign: np.ndarray) -> dict[str, np.ndarray]:
    """Which images are shown, int64 positions by heading: those that look most foreign first.

    Args:
        score: float [m].
        foreign: bool [m], the decision.
    """
    order = np.argsort(-score, kind="stable")
    border = int(foreign.sum())
    kinds = {"Most foreign": order[:EACH]}
    if 0 < border < len(order):
        kinds["At the border"] = order[max(0, border - EACH // 2) : border + EACH // 2]
    return kinds | {"Least foreign": order[::-1][:EACH]}


def sheet(
    title: str, said: Sequence[str], kinds: dict[str, list[tuple[np.ndarray, str, str]]], command: str = "foreign"
) -> str:
    """The HTML of the page.

    Args:
        title: heading of the page.
        said: paragraphs below it.
        kinds: images uint8 [H, W, 3] by heading, each with its name and a line below it.
        command: that writes the page.
    """
    body: list[Markup] = [el("header", el("h1", title), [el("p", line) for line in said])]
    for heading, images in kinds.items():
        body += [el("h2", heading), el("div", [photo(*one) for one in images], class_="photos")]
    return document(title, body, command)
