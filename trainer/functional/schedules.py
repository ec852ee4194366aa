"""Ramps: plain numbers from the step counter, on the host. The first step has counter 0."""

from __future__ import annotations

import math
from typing import Literal

TSA = Literal["none", "linear", "log", "exp"]
LearningRate = Literal["constant", "cosine"]


def linear_ramp(step: float, length: float) -> float:
    """min(step / length, 1); no ramp (1 from the start) for length 0."""
    return min(max(step / length, 0.0), 1.0) if length > 0 else 1.0


def tsa_threshold(kind: TSA, step: int, steps: int, num_classes: int) -> float:
    """Threshold η of training-signal annealing, from 1/K to 1 over the run (UDA, Xie et al. 2020).

    η = a·(1 − 1/K) + 1/K with a = t/T (linear), 1 − e^(−5t/T) (log) or e^(5(t/T − 1)) (exp). "none" is 1 throughout.
    """
    progress = linear_ramp(step, steps)
    match kind:
        case "none":
            growth = 1.0
        case "linear":
            growth = progress
        case "log":
            growth = 1 - math.exp(-5 * progress)
        case "exp":
            growth = math.exp(5 * (progress - 1))
    return growth * (1 - 1 / num_classes) + 1 / num_classes


def learning_rate(kind: LearningRate, base: float, step: int, steps: int, warmup: int = 0) -> float:
    """Learning rate of a step: "constant", or "cosine", lr·cos(7πk/16K), which ends at a fifth (FixMatch §2.4).

    After `steps` it stays where it ended. In the first `warmup` steps it grows in equal steps, and is never 0.
    """
    rate = base if kind == "constant" else base * math.cos(7 * math.pi * min(step, steps) / (16 * steps))
    return rate * linear_ramp(step + 1, warmup)
