"""Whether the unlabelled images help: gains over the labels alone, seed by seed, and one sentence about the best one.

Two methods are compared on the same seeds, that is, on the same labelled images. A difference is clear if its mean is
larger than its standard deviation over three seeds or more; anything else is no clear difference. The best of several
methods is chosen by the errors that are then reported, so a small lead flatters it.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainer.reproduce.gain import FEWEST, gain
from trainer.reproduce.table import Cell


def best(cells: Mapping[str, Cell]) -> str | None:
    """The method with the least mean error; None if none has been measured."""
    means = {name: cell.mean for name, cell in cells.items() if cell.mean is not None}
    return min(means, key=lambda name: means[name]) if means else None


def sentence(store: str, alone: Mapping[str, Cell], helped: Mapping[str, Cell], images: str = "test") -> str:
    """Whether the unlabelled images of a store help, by how much and with which method.

    Args:
        store: its name.
        alone: methods that look at labelled images only, by name.
        helped: those that look at the unlabelled ones too.
        images: which ones the errors are of, "test" or "validation".
    """
    without, with_ = best(alone), best(helped)
    if without is None or with_ is None:
        return f"{store}: it takes a method with the unlabelled images and one without them to compare."
    found = gain(alone[without], helped[with_])
    if found is None:
        return f"{store}: {with_} and {without} have no seed in common."
    errors = (
        f"{with_} takes {helped[with_].mean:.1f} % of the {images} images for another class, "
        f"{without}, the best method without them, {alone[without].mean:.1f} %"
    )
    over = f"{found.seeds} seed" + ("" if found.seeds == 1 else "s")
    spread = (
        f"{abs(found.mean):.1f}" + (f" ± {found.std:.1f}" if found.std is not None else "") + f" points over {over}"
    )
    if found.seeds < FEWEST:
        return f"{store}: {over} cannot tell whether the unlabelled images help: {errors}; --seeds 1-5 can."
    if not found.is_clear:
        return f"{store}: the unlabelled images make no clear difference: {errors}, which differ by {spread}."
    if found.mean < 0:
        return f"{store}: the unlabelled images do not help: even {errors}; worse by {spread}."
    return f"{store}: the unlabelled images help: {errors}; better by {spread}."
