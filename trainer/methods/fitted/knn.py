"""Nearest neighbours: the labelled images whose embeddings are most like an image's vote for its class.

Fitted at once: there is nothing to learn. Votes are weighted by a power of the cosine between standardised embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainer.contract import Examples, option
from trainer.functional import ops, spreading

NAME = "knn"
SUMMARY = "votes of the nearest labelled embeddings; fitted at once"
NETWORK = "neighbours"


@dataclass(frozen=True)
class Settings:
    """Settings of the nearest neighbours."""

    neighbours: int = option(5, "labelled images that vote", min=1)
    power: float = option(3.0, "votes are weighted by the cosine to this power", min=0)


def fit(examples: Examples, settings: Settings) -> dict[str, Tensor]:
    """The table of the network `neighbours`: the labelled embeddings and their classes."""
    targets = ops.one_hot(examples.y, examples.num_classes)
    return spreading.table(examples.x, targets, settings.neighbours, settings.power)
