"""timm's networks (Wightman 2019): `timm:NAME`, for example `timm:tf_efficientnet_lite0`.

A name may end with a tag of its weights (`timm:vit_tiny_patch16_224.augreg_in21k`). Downloads are timm's, from the
Hugging Face hub, and are kept where it keeps them.
"""

from __future__ import annotations

import re
from typing import Any

from networks.loading.hub import offline_if_unreachable
from networks.loading.source import Source, downloaded, require, unknown
from stores.errors import UsageError


def build(name: str, pretrained: bool) -> Source:
    """A network of timm without its classifier.

    Args:
        name: "timm:NAME".
        pretrained: with timm's weights, else with random ones.

    Raises:
        UsageError: timm is not installed, has no such network, or no weights of it.
        StorageError: the hub cannot be reached.
    """
    timm, own = require("timm", name), name.removeprefix("timm:")
    if not re.fullmatch(r"[a-z0-9_]+(\.[A-Za-z0-9_]+)?", own) or not timm.is_model(own):
        raise unknown(name, timm.list_models())
    options: dict[str, Any] = {"num_classes": 0}
    try:
        if pretrained:
            with offline_if_unreachable():
                net = downloaded(lambda: timm.create_model(own, pretrained=True, **options), name)
        else:
            net = timm.create_model(own, **options)
    except TypeError as error:
        raise UsageError(f"'{own}' cannot be used without its classifier", str(error)) from None
    config = net.pretrained_cfg
    mean, std = config["mean"], config["std"]
    preprocessing = {
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "interpolation": config["interpolation"] if config["interpolation"] == "bilinear" else "bicubic",
        "crop": float(config["crop_pct"]),
        "squash": config.get("crop_mode") == "squash",
        "size": int(config["input_size"][-1]),
    }
    width = getattr(net, "head_hidden_size", None) or net.num_features
    above = config.get("classifier") or ()
    return Source(net, width, preprocessing, (above,) if isinstance(above, str) else tuple(above))


def layers(net: Any) -> dict[str, int]:
    """The layer of every parameter by name, from 0 for the stem, as timm's own layer decay counts them."""
    from timm.models import group_parameters

    found: dict[str, int] = group_parameters(net, net.group_matcher(coarse=False), reverse=True)
    return found


def set_size(net: Any, name: str, size: int, native: int) -> None:
    """Prepare a network for another side of its input: position embeddings are resampled, as timm does it.

    Raises:
        UsageError: the network takes one size only.
    """
    if size == native or not net.pretrained_cfg.get("fixed_input_size", False):
        return
    if not hasattr(net, "set_input_size"):
        raise UsageError(f"'{name}' takes images of {native} pixels only", hint=f"input_size={native}")
    try:
        net.set_input_size(img_size=size)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(f"'{name}' cannot take images of {size} pixels", str(error).split("\n")[0]) from None
