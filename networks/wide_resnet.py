"""Wide residual networks as the original MixMatch and RealMix code builds them, with BatchNorm over groups of rows.

Where it differs from the usual PyTorch WRN: the first activation is shared by the residual branch and its shortcut, and
in every block conv1 reads the activated input, so that every parameter gets a gradient; LeakyReLU .1, BatchNorm ε 1e-3
with running momentum .001, fan-out initialisation. Fully convolutional up to the global average pool: 8×8 digits and
96×96 photographs both fit. Never touches an optimiser or a device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.head import Head
from networks.layers.batch_norm import BatchNorm
from networks.network import Network
from stores.errors import UsageError
from stores.format.fields import SMALLEST_SIDE

SLOPE = 0.1


def build_wide_resnet(name: str, num_classes: int, bn_momentum: float, heads: Sequence[Head] = ()) -> WideResNet:
    """A wide residual network by name.

    Args:
        name: `wrn-{depth}-{width}`. depth = 6n+4: three groups of n blocks, widths 16w·(1, 2, 4); depth = 8n+5: four
            groups, widths 16w·(1, 2, 4, 8). WRN-28-2 is the paper's, WRN-37-2 the one for 96×96 images.
        bn_momentum: share of the newest batch in the running statistics (PyTorch's sense).
        heads: heads besides the classifier.

    Raises:
        UsageError: no network has this name.
    """
    match = re.fullmatch(r"wrn-([0-9]{1,3})-([0-9]{1,3})", name)
    depth, width = map(int, match.groups()) if match else (0, 0)
    for groups in (3, 4):
        blocks, rest = divmod(depth - groups - 1, 2 * groups)
        if rest == 0 and blocks > 0 and width > 0:
            return WideResNet(groups, blocks, width, num_classes, bn_momentum, heads)
    raise UsageError(
        f"unknown model '{name}'",
        "a name is wrn-{depth}-{width} with depth 6n+4 (three groups of blocks) or 8n+5 (four)",
        "for example wrn-10-1 (a small net for a CPU), wrn-28-2 (the paper's), wrn-37-2 (for 96×96 images), or a "
        "pretrained one: timm:NAME, torchvision:NAME",
    )


class Block(nn.Module):
    """Pre-activation residual block: two 3×3 convolutions, and a 1×1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, shared: bool, momentum: float) -> None:
        super().__init__()
        self.shared = shared  # activate before the residual: the shortcut too reads the activation
        self.bn1 = BatchNorm(inputs, momentum)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = BatchNorm(outputs, momentum)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, groups: int = 1, update: int | None = None, running: bool = False) -> Tensor:
        a = activate(self.bn1(x, groups, update, running))
        h = self.conv2(activate(self.bn2(self.conv1(a), groups, update, running)))
        result: Tensor = h + self.shortcut(a if self.shared else x)
        return result


class WideResNet(Network):
    """WRN (Zagoruyko & Komodakis 2016). `embed` gives the pooled features, `head` the class logits of them."""

    def __init__(
        self, groups: int, blocks: int, width: int, num_classes: int, bn_momentum: float, heads: Sequence[Head] = ()
    ) -> None:
        super().__init__()
        self.halvings = groups - 1
        widths = [16 * width * 2**group for group in range(groups)]
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        layers: list[nn.Module] = []
        inputs = 16
        for group, outputs in enumerate(widths):
            for block in range(blocks):
                stride = 2 if group > 0 and block == 0 else 1
                layers.append(Block(inputs, outputs, stride, shared=group == block == 0, momentum=bn_momentum))
                inputs = outputs
        self.blocks = nn.ModuleList(layers)
        self.bn = BatchNorm(inputs, bn_momentum)
        self.add_heads(inputs, num_classes, heads)

    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # std √(2 / (k²·outputs))

    def check(self, batch: int, size: tuple[int, int]) -> None:
        """Refuse what cannot be normalised: a batch of images of this (height, width) of which too little is left.

        Raises:
            UsageError: a side is too short, or the last layers would see one value a channel, whose variance is none.
        """
        if min(size) < SMALLEST_SIDE:
            why = f"a side must have {SMALLEST_SIDE} pixels at least: each block would see little but its padding"
            raise UsageError(f"images of {size[1]}×{size[0]} pixels are too small to train on", why)
        if batch == 1 and max(size) <= 2**self.halvings:
            why = f"of {size[0]}×{size[1]} pixels the last layers see one, and one value cannot be normalised"
            raise UsageError("'batch=1' is too small for such small images", why, "--batch 2")

    def embed(self, x: Tensor, groups: int = 1, update: int | None = None, running: bool = False) -> Tensor:
        """Images [n, 3, H, W] to features [n, 16·width·2^(groups−1)], float32 also under autocast."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, groups, update, running)
        x = activate(self.bn(x, groups, update, running))
        return x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


def activate(x: Tensor) -> Tensor:
    """LeakyReLU .1, in place: the input is always a BatchNorm's output, which its backward does not need."""
    return F.leaky_relu(x, SLOPE, inplace=True)
