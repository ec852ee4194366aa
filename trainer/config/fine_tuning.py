"""What fine-tuning a pretrained network changes about a run: defaults that training from scratch does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOURCES = ("timm:", "torchvision:")
LOADED: dict[str, Any] = {
    "steps": 5_000,
    "lr_schedule": "cosine",
    "bn": "frozen",
    "backbone_lr": 0.1,
    "largest_decay": 5e-6,  # 90 % of a loaded kernel is left after 20,000 steps; MixMatch's own decay leaves 45 %
}
RATES = {"adam": 1e-3, "sgd": 3e-3}  # FixMatch's own .03 diverges: pooled features are long vectors
FORGETS_BELOW, AVERAGES_FROM = 2_000, 5_000  # steps
SMALLEST_INPUT, LARGEST_INPUT, STRIDE = 96, 224, 32


def is_backbone(model: str | None) -> bool:
    """Whether it is a network of timm or torchvision."""
    return (model or "").startswith(SOURCES)


def preset(values: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of a run that starts from pretrained weights; {} of any other.

    Args:
        values: those of the method.
        asked: what the user said.
    """
    if not is_backbone(asked.get("model")) or (asked.get("weights") == "none" and not asked.get("init")):
        return {}
    optimizer = asked.get("optimizer", values.get("optimizer", "adam"))
    return LOADED | {"lr": RATES[optimizer]}


def averages(steps: int) -> dict[str, float]:
    """How fast BatchNorm and the average forget what they were loaded with.

    With momentum .001 the evaluated network would still hold 13.5 % of ImageNet's statistics after 2,000 steps.
    """
    return {
        "bn_momentum": 0.1 if steps < FORGETS_BELOW else 0.01,
        "ema_decay": 0.999 if steps >= AVERAGES_FROM else 0.99,
    }


def input_size(image_size: tuple[int, int]) -> int:
    """The side that images are resized to: their own, down to a multiple of 32, from 96 to 224."""
    side = min(image_size) // STRIDE * STRIDE
    return min(max(side, SMALLEST_INPUT), LARGEST_INPUT)
