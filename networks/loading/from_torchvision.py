"""torchvision's classification networks: `torchvision:NAME`, for example `torchvision:resnet18`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from networks.loading.source import Source, downloaded, require, unknown
from networks.network import in_order
from stores.errors import UsageError

SEVERAL_OUTPUTS = ("googlenet", "inception_v3")


def build(name: str, pretrained: bool) -> Source:
    """A network of torchvision without the last linear layer of its classifier.

    Args:
        name: "torchvision:NAME".
        pretrained: with torchvision's newest weights, else with random ones.

    Raises:
        UsageError: torchvision is not installed, has no such network, or one that has no single linear classifier.
        StorageError: the weights cannot be downloaded.
    """
    models, own = require("torchvision", name).models, name.removeprefix("torchvision:")
    if own not in models.list_models(module=models):
        raise unknown(name, models.list_models(module=models))
    with torch.device("cpu"):  # some compute their widths with tensors, which the device "meta" cannot
        weights = "DEFAULT" if pretrained else None
        net = downloaded(lambda: models.get_model(own, weights=weights), name)
    last = [key for key, module in net.named_modules() if isinstance(module, nn.Linear)][-1:]
    if not last or own in SEVERAL_OUTPUTS:
        raise UsageError(f"'{own}' cannot be used without its classifier", "it does not end in one linear layer")
    above, _, place = last[0].rpartition(".")
    classifier = net.get_submodule(last[0])
    setattr(net.get_submodule(above), place, nn.Identity())
    return Source(net, int(classifier.in_features), _preprocessing(models, own), (last[0],))


def _preprocessing(models: Any, own: str) -> dict[str, Any]:
    """What the newest weights say about their input."""
    presets = models.get_model_weights(own).DEFAULT.transforms()
    bilinear = presets.interpolation.value == "bilinear"
    size, before = int(presets.crop_size[0]), presets.resize_size[0]
    return {
        "mean": [float(value) for value in presets.mean],
        "std": [float(value) for value in presets.std],
        "interpolation": "bilinear" if bilinear else "bicubic",
        "crop": size / before,
        "squash": False,
        "size": size,
    }


def layers(net: nn.Module) -> dict[str, int]:
    """The layer of every parameter by name, from 0, in the order of the modules."""
    return in_order([name for name, _ in net.named_parameters()])


def set_size(net: nn.Module, name: str, size: int, native: int) -> None:
    """Raises UsageError if the network cannot take images of another side: torchvision's transformers cannot."""
    if size == native:
        return
    try:
        with torch.no_grad(), torch.device("cpu"):
            net.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as error:
        why = str(error).split("\n")[0]
        raise UsageError(f"'{name}' cannot take images of {size} pixels", why, f"input_size={native}") from None
    finally:
        net.train()
