"""Wide residual networks as the original MixMatch and RealMix code builds them, and the switch of their BatchNorm.

Where it differs from the usual PyTorch WRN: the first activation is shared by the residual branch and its shortcut, and
in every block conv1 reads the activated input, so that every parameter gets a gradient; LeakyReLU .1, BatchNorm ε 1e-3
with running momentum .001, fan-out initialisation. Fully convolutional up to the global average pool: 8×8 digits and
96×96 photographs both fit. Never touches an optimiser or a device.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stores.errors import UsageError
from trainer.ops import wide

SLOPE = 0.1
EPS = 1e-3


def build_model(name: str, num_classes: int, bn_momentum: float = 0.001) -> WideResNet:
    """A network by name: float32 or lower [n, 3, H, W] in [−1, 1] to logits float32 [n, num_classes].

    Args:
        name: `wrn-{depth}-{width}`. depth = 6n+4: three groups of n blocks, widths 16w·(1, 2, 4); depth = 8n+5: four
            groups, widths 16w·(1, 2, 4, 8). WRN-28-2 is the paper's, WRN-37-2 the one for 96×96 images.
        bn_momentum: share of the newest batch in the running statistics (PyTorch's sense).

    Raises:
        UsageError: no network has this name.
    """
    match = re.fullmatch(r"wrn-(\d+)-(\d+)", name)
    depth, width = map(int, match.groups()) if match else (0, 0)
    for groups in (3, 4):
        blocks, rest = divmod(depth - groups - 1, 2 * groups)
        if rest == 0 and blocks > 0 and width > 0:
            return WideResNet(groups, blocks, width, num_classes, bn_momentum)
    raise UsageError(
        f"unknown model '{name}'",
        "a name is wrn-{depth}-{width} with depth 6n+4 (three groups of blocks) or 8n+5 (four)",
        "for example wrn-10-1 (a small net for a CPU), wrn-28-2 (the paper's), wrn-37-2 (for 96×96 images)",
    )


class BatchNorm(nn.Module):
    """BatchNorm2d whose training mode can leave the running statistics alone, see `batch_stats_only`.

    Statistics are float32 also under autocast. The running variance takes the unbiased batch variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.update = True
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.update:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, self.momentum, EPS)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, EPS
        )

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, momentum={self.momentum}"


class batch_stats_only:
    """Context: training-mode BatchNorm normalises by the batch's own statistics and does not update the running ones.

    The methods' rule is one updating forward a step; every other forward runs in here. In evaluation mode no effect.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = getattr(model, "norms", None)  # found once, when the network was built; a foreign one is searched
        self.norms = tuple(m for m in model.modules() if isinstance(m, BatchNorm)) if norms is None else norms
        self.before = [norm.update for norm in self.norms]

    def __enter__(self) -> None:
        for norm in self.norms:
            norm.update = False

    def __exit__(self, *error: object) -> None:
        for norm, update in zip(self.norms, self.before, strict=True):
            norm.update = update


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

    def forward(self, x: Tensor) -> Tensor:
        a = activate(self.bn1(x))
        h = self.conv2(activate(self.bn2(self.conv1(a))))
        return h + self.shortcut(a if self.shared else x)


class WideResNet(nn.Module):
    """WRN (Zagoruyko & Komodakis 2016). `embed` gives the pooled features, `head` the logits of them.

    `norms` are its BatchNorm layers.
    """

    def __init__(self, groups: int, blocks: int, width: int, num_classes: int, bn_momentum: float) -> None:
        super().__init__()
        widths = [16 * width * 2**group for group in range(groups)]
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        layers: list[nn.Module] = []
        inputs = 16
        for group, outputs in enumerate(widths):
            for block in range(blocks):
                stride = 2 if group > 0 and block == 0 else 1
                layers.append(Block(inputs, outputs, stride, shared=group == block == 0, momentum=bn_momentum))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.bn = BatchNorm(inputs, bn_momentum)
        self.head = nn.Linear(inputs, num_classes)
        self.norms = tuple(m for m in self.modules() if isinstance(m, BatchNorm))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # std √(2 / (k²·outputs))
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def embed(self, x: Tensor) -> Tensor:
        """Images [n, 3, H, W] to features [n, 16·width·2^(groups−1)], float32 also under autocast."""
        x = activate(self.bn(self.blocks(self.stem(x))))
        return x.mean((2, 3), dtype=wide(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        features = self.embed(x)
        # In bf16 the logits would keep three digits, too few for sharpening and for ranking by confidence.
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features)


def activate(x: Tensor) -> Tensor:
    """LeakyReLU .1, in place: the input is always a BatchNorm's output, which its backward does not need."""
    return F.leaky_relu(x, SLOPE, inplace=True)


def kernels(model: nn.Module) -> list[Tensor]:
    """The parameters that weight decay shrinks: convolution and dense weights, never biases or BatchNorm."""
    return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
