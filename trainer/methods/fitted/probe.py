"""Linear probe: L2 logistic regression on the embeddings of the labelled images, the baseline for frozen backbones.

It is fitted at once by L-BFGS, without augmented copies; the strength of the penalty is chosen by cross-validation on
the labels. It is what most people do with a pretrained network, and what unlabelled images have to beat.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainer.contract import Examples, option
from trainer.functional import logistic

NAME = "probe"
SUMMARY = "logistic regression on the labelled embeddings; fitted at once"


@dataclass(frozen=True)
class Settings:
    """Settings of the probe."""

    strength: float | None = option(
        None,
        "C, the inverse of the penalty's weight; unset: by cross-validation, 0.0001 if a class has one label",
        above=0,
    )


def fit(examples: Examples, settings: Settings) -> dict[str, Tensor]:
    """Weights of the network `linear`."""
    x, y, classes = examples.x.double(), examples.y, examples.num_classes
    strength = settings.strength or logistic.choose(x, y, classes, examples.seed)
    weights, bias = logistic.fit(x, y, classes, strength)
    return {"head.weight": weights.float(), "head.bias": bias.float()}
