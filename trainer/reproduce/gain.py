"""What one method gains over another, on the same seeds, that is, on the same labelled images."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from trainer.reproduce.table import Cell

FEWEST = 3  # seeds from which a difference can be clear


@dataclass(frozen=True)
class Gain:
    """Error of one method minus that of another one, in points, over the seeds that both have.

    Attributes:
        mean: over these seeds.
        std: standard deviation over them; None for fewer than two.
        seeds: their number.
    """

    mean: float
    std: float | None
    seeds: int

    @property
    def is_clear(self) -> bool:
        """Whether it is not explained by the choice of labelled images and by chance in training."""
        return self.seeds >= FEWEST and self.std is not None and abs(self.mean) > self.std

    def __str__(self) -> str:
        return f"{self.mean:+.2f}" + (f" ± {self.std:.2f}" if self.std is not None else "")


def gain(baseline: Cell, other: Cell) -> Gain | None:
    """What the other method gains over the baseline; None without a common seed."""
    before, after = (dict(zip(cell.seeds, cell.errors, strict=True)) for cell in (baseline, other))
    differences = [before[seed] - after[seed] for seed in before if seed in after]
    if not differences:
        return None
    std = statistics.stdev(differences) if len(differences) > 1 else None
    return Gain(statistics.fmean(differences), std, len(differences))
