"""The frozen network of a job: from uint8 pictures to float16 embeddings, as fast as its bare forward pass.

On a CPU pictures are resized as uint8, which takes a hundredth of the forward pass where float products take a tenth;
the network gets them in channels-last order, which convolutions there read one and a half times as fast.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from networks.hardware import multiplies_bf16, usable
from networks.loading.files import sha256_of
from networks.pretrained import Backbone, load_backbone
from stores.embeddings import Network
from stores.errors import RealMixError, StoreError, UsageError

BATCH = {"cpu": 64, "cuda": 256}
RANDOM = 0  # torch's seed for random weights
LIBRARIES = ("torch", "timm", "torchvision")


@dataclass(frozen=True)
class Frozen:
    """A network in inference mode.

    Attributes:
        backbone: on its device.
        network: what a manifest says of it.
        device: "cpu" or "cuda".
        precision: "fp32" or "bf16", of its products.
        batch: pictures of one forward pass.
    """

    backbone: Backbone
    network: Network
    device: str
    precision: str
    batch: int

    @torch.inference_mode()
    def __call__(self, pictures: np.ndarray) -> Tensor:
        """Embed pictures in batches.

        Args:
            pictures: uint8 [n, H, W, 3].

        Returns:
            float16 [n, D] on the device; numbers that it cannot hold are infinite.
        """
        parts = [self._embed(pictures[i : i + self.batch]) for i in range(0, len(pictures), self.batch)]
        return torch.cat(parts)

    def _embed(self, pictures: np.ndarray) -> Tensor:
        images = self.images(torch.from_numpy(pictures).to(self.device, non_blocking=True).permute(0, 3, 1, 2))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            features: Tensor = self.backbone(images)
        return features.half()

    def images(self, pixels: Tensor) -> Tensor:
        """What the backbone takes: uint8 [n, 3, H, W] to float32 [n, 3, h, w] in [−1, 1]."""
        size, (height, width) = self.backbone.size, pixels.shape[-2:]
        if self.device == "cpu" and height == width != size:
            mode = self.backbone.preprocessing["interpolation"]
            pixels = F.interpolate(pixels, size=(size, size), mode=mode, antialias=True)
        return pixels.float().div_(127.5).sub_(1)


def load_frozen(
    backbone: str,
    weights: str = "pretrained",
    size: int | None = None,
    *,
    device: str = "auto",
    precision: str | None = None,
    batch: int | None = None,
) -> Frozen:
    """Load a network.

    Args:
        backbone: "timm:NAME" or "torchvision:NAME".
        weights: "pretrained", "none" or a file.
        size: side in pixels that pictures are resized to; None: that of the weights.
        device: "auto", "cpu" or "cuda".
        precision: None: bf16 where the device multiplies it.
        batch: pictures of one forward pass; None: 64 on a CPU, 256 on a GPU.

    Raises:
        UsageError: an unknown name, a size that it cannot take, or an extra that is not installed.
        StoreError: the weights are not there.
    """
    kind = usable(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM)
        net = load_backbone(backbone, weights, size)
    net.preprocessing = {**net.preprocessing, "crop": 1.0}  # pictures of a store are cropped already
    net = net.eval().requires_grad_(False).to(kind)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
    network = Network(
        backbone=backbone,
        weights=weights if weights in ("pretrained", "none") else "file",
        weights_sha256=net.weights_sha256 or sha256_of(net.net.state_dict()),
        size=net.size,
        preprocessing=net.preprocessing,
        num_features=net.num_features,
    )
    precision = precision or ("bf16" if multiplies_bf16(kind) else "fp32")
    frozen = Frozen(net, network, kind, precision, batch or BATCH[kind])
    _try(frozen)
    return frozen


def load_again(content: dict[str, Any], weights: str | None, device: str = "auto") -> Frozen:
    """The network of a manifest of embeddings.

    Args:
        content: the manifest.
        weights: the file, if the weights came from one.
        device: "auto", "cpu" or "cuda".

    Raises:
        UsageError: the weights came from a file, and none is named.
        StoreError: the weights are others, or are not there.
    """
    spec, how = content["spec"], content["arithmetic"]
    if content["weights"] == "file" and weights is None:
        raise UsageError("the weights of these embeddings came from a file", hint="--weights FILE names it")
    frozen = load_frozen(
        spec["backbone"],
        weights or content["weights"],
        spec["size"],
        device=device,
        precision=how["precision"],
        batch=how["batch"],
    )
    made = frozen.network
    for what, here, there in (
        ("weights", made.weights_sha256, spec["weights_sha256"]),
        ("preprocessing", made.preprocessing, spec["preprocessing"]),
        ("number of features", made.num_features, content["num_features"]),
    ):
        if here != there:
            raise StoreError(
                f"this is not the network that the embeddings were made with: another {what}",
                f"{str(here)[:60]} here, {str(there)[:60]} there",
                "name its weights with --weights FILE, or install the versions in `realmix-data info`",
            )
    return frozen


def _try(frozen: Frozen) -> None:
    """Embed two grey pictures: a network of another form than its name says must not be found out in the job."""
    size, expected = frozen.backbone.size, frozen.network.num_features
    try:
        found = frozen(np.full((2, size, size, 3), 127, np.uint8))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        what = f"'{frozen.network.backbone}' cannot embed pictures of {size} pixels"
        raise RealMixError(what, str(error).split("\n")[0], "choose another --size or backbone") from None
    if found.shape != (2, expected):
        raise RealMixError(
            f"'{frozen.network.backbone}' gives no pooled features", f"two pictures became {tuple(found.shape)}"
        )


def versions() -> dict[str, str]:
    """Of the libraries that embeddings depend on, those that are installed."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def facts(frozen: Frozen) -> dict[str, Any]:
    """The network in a few words, for the command's first line."""
    network = frozen.network
    return {"backbone": network.backbone, "size": network.size, "features": network.num_features}
