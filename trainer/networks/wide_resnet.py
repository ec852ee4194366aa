"""Wide residual networks as the original MixMatch and RealMix code builds them, with BatchNorm over groups of rows.

Where it differs from the usual PyTorch WRN: the first activation is shared by the residual branch and its shortcut, and
in every block conv1 reads the activated input, so that every parameter gets a gradient; LeakyReLU .1, BatchNorm ε 1e-3
with running momentum .001, fan-out initialisation. Fully convolutional up to the global average pool: 8×8 digits and
96×96 photographs both fit. Never touches an optimiser or a device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stores.errors import UsageError
from stores.format.fields import SMALLEST_SIDE
from trainer import distributed
from trainer.contract import Head
from trainer.functional.ops import wide, widen

SLOPE = 0.1
EPS = 1e-3
BACKBONE = ("stem", "blocks", "bn")  # the modules below the heads; all other parameters belong to a task
CLASSIFIER = "head"


def build_model(name: str, num_classes: int, bn_momentum: float = 0.001, heads: Sequence[Head] = ()) -> WideResNet:
    """A network by name: float32 or lower [n, 3, H, W] in [−1, 1] to logits float32 [n, num_classes].

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
        "for example wrn-10-1 (a small net for a CPU), wrn-28-2 (the paper's), wrn-37-2 (for 96×96 images)",
    )


class BatchNorm(nn.Module):
    """BatchNorm2d over groups of rows: each normalised by its own statistics, at most one moving the running ones.

    In training mode `forward(x, groups, update)` gives what `groups` separate passes would; the methods' rule is one
    updating group a step. Statistics are float32 also under autocast; the running variance takes the unbiased batch
    variance. In evaluation mode, or with `running`, it normalises by the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor, groups: int = 1, update: int | None = None, running: bool = False) -> Tensor:
        if running or not self.training:
            return self._normalise(x, update=True, training=False)
        if torch.compiler.is_compiling() or distributed.world() > 1:
            return self._jointly(x, groups, update)
        parts = [self._normalise(part, i == update, training=True) for i, part in enumerate(x.chunk(groups))]
        return parts[0] if groups == 1 else torch.cat(parts)

    def _normalise(self, x: Tensor, update: bool, training: bool) -> Tensor:
        mean, var = (self.running_mean, self.running_var) if update else (None, None)
        return F.batch_norm(x, mean, var, self.weight, self.bias, training, self.momentum, EPS)

    def _jointly(self, x: Tensor, groups: int, update: int | None) -> Tensor:
        """All groups in one pass: a reduction and a map that the compiler fuses with its neighbours.

        With several processes the statistics are those of all processes' rows.
        """
        grouped = x.view(groups, -1, *x.shape[1:])
        wide_rows = widen(grouped)
        var, mean = torch.var_mean(wide_rows, dim=(1, 3, 4), correction=0)  # [groups, C]
        mean, var = distributed.pooled(mean, var)
        if update is not None:
            count = grouped[0].numel() // x.shape[1] * distributed.world()
            with torch.no_grad():
                self.running_mean.lerp_(mean[update].to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_((var[update] * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(var + EPS)
        shift = self.bias - mean * scale
        y = wide_rows * scale[:, None, :, None, None] + shift[:, None, :, None, None]
        return y.to(x.dtype).view_as(x)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, momentum={self.momentum}"


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
        return h + self.shortcut(a if self.shared else x)


class WideResNet(nn.Module):
    """WRN (Zagoruyko & Komodakis 2016). `embed` gives the pooled features, `head` the class logits of them.

    Attributes:
        heads: the declared heads besides the classifier; the module of each has the head's name.
        joint: groups of rows go through the convolutions together, which is what a compiler and a GPU like, or (False)
            one after the other, which is faster where they are larger than the cache.
    """

    def __init__(
        self, groups: int, blocks: int, width: int, num_classes: int, bn_momentum: float, heads: Sequence[Head] = ()
    ) -> None:
        super().__init__()
        self.joint = False
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
        self.head = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # std √(2 / (k²·outputs))
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.heads, features = tuple(heads), {head.name: head.widths(num_classes, inputs)[-1] for head in heads}
        for head in heads:  # drawn last, so that the other weights are the same with them and without
            if hasattr(self, head.name) or head.name in ("features", "classes"):
                raise ValueError(f"a head cannot be called '{head.name}'")
            below = inputs if head.on is None else features[head.on]
            self.add_module(head.name, _layers(head, below, head.widths(num_classes, inputs)))

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
        return x.mean((2, 3), dtype=wide(x.dtype))

    def forward(
        self,
        rows: Tensor,
        groups: int = 1,
        update: int | None = None,
        *,
        running: bool = False,
        heads: Sequence[str] | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Class logits [n, num_classes] of images or, with `heads`, several outputs; float32 also under autocast.

        Args:
            rows: float32 or lower [n, 3, H, W] in [−1, 1], `groups` batches of equal size one after the other.
            groups: each is normalised by its own statistics, as if it went through the network alone.
            update: the group whose statistics move BatchNorm's running ones; None: none does.
            running: normalise by the running statistics, as in evaluation mode.
            heads: names of the outputs to return, by name: "features" [n, D], "classes" [n, num_classes], or those of
                the network's other heads.
        """
        if self.joint or groups == 1:
            features = self.embed(rows, groups, update, running)
        else:
            parts = enumerate(rows.chunk(groups))
            features = torch.cat([self.embed(part, 1, 0 if i == update else None, running) for i, part in parts])
        # In bf16 the logits would keep three digits, too few for sharpening and for ranking by confidence.
        with torch.autocast(features.device.type, enabled=False):
            if heads is None:
                return self.head(features)
            outputs = {"features": features}
            if "classes" in heads:
                outputs["classes"] = self.head(features)
            below = {head.on for head in self.heads if head.name in heads}
            for head in self.heads:
                if head.name in heads or head.name in below:
                    outputs[head.name] = getattr(self, head.name)(outputs[head.on or "features"])
            return {name: outputs[name] for name in heads}


def _layers(head: Head, inputs: int, widths: Sequence[int]) -> nn.Module:
    """A head's linear layers, with ReLU between them; a single layer is that layer itself."""
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *widths)):
        linear = nn.Linear(before, after, bias=head.bias)
        if head.init == "xavier":
            nn.init.xavier_normal_(linear.weight)
            if head.bias:
                nn.init.zeros_(linear.bias)
        layers += [nn.ReLU(), linear] if layers else [linear]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def activate(x: Tensor) -> Tensor:
    """LeakyReLU .1, in place: the input is always a BatchNorm's output, which its backward does not need."""
    return F.leaky_relu(x, SLOPE, inplace=True)


def kernels(model: nn.Module) -> list[Tensor]:
    """The parameters that weight decay shrinks: convolution and dense weights, never biases or BatchNorm."""
    return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
