"""Pretrained backbones by name: images in [−1, 1] of any size to pooled features.

    backbone = load_backbone("timm:tf_efficientnet_lite0").eval()
    features = backbone(images)  # float32 [n, 3, H, W] to float32 [n, 1280]

A backbone holds all that its weights expect of their input: it resizes images on the device to its own size and brings
them to the mean and the standard deviation that it was trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from networks.head import Head
from networks.layers.batch_norm import Rows, convert
from networks.layers.resize import resize
from networks.loading import files, from_timm, from_torchvision
from networks.network import Network
from stores.errors import UsageError

SOURCES = {"timm": from_timm, "torchvision": from_torchvision}
LARGEST_SIZE = 4096


class Pretrained(Network):
    """A backbone with heads, as the trainer trains it.

    Its BatchNorm normalises groups of rows. Dropout and stochastic depth are off: they would draw from a generator
    whose state no checkpoint holds.
    """

    def __init__(self, backbone: Backbone, num_classes: int, bn_momentum: float, heads: Sequence[Head] = ()) -> None:
        super().__init__()
        self.rows, self.backbone = Rows(), backbone
        self.has_batch_norm = convert(backbone.net, bn_momentum, self.rows)
        for module in backbone.net.modules():
            for name in ("p", "drop_prob"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        self.add_heads(backbone.num_features, num_classes, heads)

    def check(self, batch: int, size: tuple[int, int]) -> None:
        """Raises UsageError where BatchNorm would see a single row: its last layers may leave one value a channel."""
        if batch == 1 and self.has_batch_norm and not self.frozen:
            raise UsageError("'batch=1' is too small", "BatchNorm needs several images", "--batch 2, or bn=frozen")

    def layers(self) -> dict[str, int]:
        source = SOURCES[self.backbone.name.split(":")[0]]
        return {f"backbone.net.{name}": layer for name, layer in source.layers(self.backbone.net).items()}

    def embed(self, x: Tensor, groups: int = 1, update: int | None = None, running: bool = False) -> Tensor:
        rows = self.rows
        rows.groups, rows.update, rows.running = groups, update, running
        features: Tensor = self.backbone(x)
        return features


class Backbone(nn.Module):
    """A network without its classifier, from images to pooled features.

    Attributes:
        name: as `load_backbone` takes it.
        num_features: D.
        size: side of the input in pixels, after resizing.
        preprocessing: mean and std of RGB in [0, 1]; interpolation, crop and squash as in `layers.resize`.
        weights_sha256: of the tensors that were loaded, see `files.sha256_of`; "" of a random network.
        net: the network itself.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        net: nn.Module,
        name: str,
        num_features: int,
        size: int,
        preprocessing: dict[str, Any],
        weights_sha256: str,
    ) -> None:
        super().__init__()
        self.net, self.name, self.num_features, self.size = net, name, num_features, size
        self.preprocessing, self.weights_sha256 = preprocessing, weights_sha256
        mean, std = (torch.tensor(preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
        # (x/2 + ½ − mean) / std for x in [−1, 1]; they follow from the name, so no file of weights holds them
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)

    def describe(self) -> dict[str, Any]:
        """What a record says of it, for JSON."""
        return {"name": self.name, "sha256": self.weights_sha256, "size": self.size, **self.preprocessing}

    def forward(self, images: Tensor) -> Tensor:
        """Float [n, 3, H, W] in [−1, 1] to float32 [n, D], also under autocast."""
        how = self.preprocessing
        images = resize(images, self.size, how["interpolation"], how["crop"], how["squash"])
        features: Tensor = self.net(images * self.scale + self.shift)
        return features.to(torch.promote_types(features.dtype, torch.float32))


def is_pretrained(name: str) -> bool:
    """Whether a model's name is that of such a backbone."""
    return name.startswith(tuple(f"{source}:" for source in SOURCES))


def load_backbone(name: str, weights: str = "pretrained", size: int | None = None) -> Backbone:
    """Load a backbone.

    Args:
        name: "timm:NAME" or "torchvision:NAME" of any of their classification networks.
        weights: "pretrained" downloads those of timm or torchvision, unless they are there already; "none" draws random
            ones from torch's generator; else a .safetensors or .pth file with tensors under the network's own names, or
            the model.safetensors of a run that trained it.
        size: side of the input in pixels; None: that of the weights.

    Returns:
        the backbone, in training mode, on the CPU.

    Raises:
        UsageError: timm or torchvision is not installed, has no such network, or it takes no such size; or the file
            holds another network.
        StorageError: the weights cannot be downloaded.
        StoreError, IntegrityError: the file is missing or damaged.
    """
    source = SOURCES.get(name.split(":")[0])
    if source is None or not is_pretrained(name):
        raise UsageError(
            f"unknown backbone '{name}'",
            "networks of timm and torchvision have pretrained weights",
            "a name is timm:NAME or torchvision:NAME; `realmix-train --init RUN` trains a run's network further",
        )
    if size is not None and not 1 <= size <= LARGEST_SIZE:
        raise UsageError(f"a backbone takes no images of {size} pixels", f"a side has 1 to {LARGEST_SIZE}")
    tensors = {} if weights in ("pretrained", "none") else files.read(Path(weights))  # before a network is built
    found = source.build(name, weights == "pretrained")
    if tensors:
        files.fill(found.net, tensors, name, Path(weights), found.classifier)
    digest = "" if weights == "none" else files.sha256_of(found.net.state_dict())
    native = found.preprocessing.pop("size")
    source.set_size(found.net, name, size or native, native)
    return Backbone(found.net, name, found.num_features, size or native, found.preprocessing, digest)
