"""Label spreading (Zhou et al. 2004): labels flow along a graph of nearest neighbours.

Fitted at once: F ← α S F + (1 − α) Y to its limit, S the normalised graph of labelled and unlabelled images. The
graph's weights are cosines to a power, as Iscen et al. (2019) have them for deep features. New images take the
weighted mean of their neighbours in the graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from networks.embedded.linear import unit
from trainer.contract import Examples, Views, option
from trainer.functional import ops, spreading

NAME = "label_spreading"
SUMMARY = "labels that spread along a graph of neighbouring embeddings; fitted at once"
NETWORK = "neighbours"


@dataclass(frozen=True)
class Settings:
    """Settings of label spreading."""

    neighbours: int = option(10, "images that each is joined to", min=1)
    power: float = option(3.0, "weights are cosines to this power", min=0)
    alpha: float = option(0.9, "share of its neighbours' labels that an image takes in each round", min=0, below=1)
    most: int = option(20_000, "unlabelled images in the graph, evenly spread if there are more", min=1)


def views(settings: Settings) -> Views:
    """It looks at the unlabelled images."""
    return Views(unlabeled=("weak",))


def fit(examples: Examples, settings: Settings) -> dict[str, Tensor]:
    """The table of the network `neighbours`: the embeddings of the graph and what has reached them."""
    u = examples.unlabeled()
    spread = np.linspace(0, len(u) - 1, min(len(u), settings.most)).astype(np.int64)
    rows = torch.cat([examples.x, u[spread]])
    y = torch.zeros(len(rows), examples.num_classes)
    y[: len(examples.x)] = ops.one_hot(examples.y, examples.num_classes)
    labels = spreading.spread(unit(rows), y, settings.neighbours, settings.power, settings.alpha)
    return spreading.table(rows, labels, settings.neighbours, settings.power)
