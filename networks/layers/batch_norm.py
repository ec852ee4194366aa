"""BatchNorm over groups of rows: methods send several batches through a network at once, each normalised by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from networks.layers import processes
from stores.errors import UsageError

KNOWN = ("BatchNorm1d", "BatchNorm2d", "BatchNormAct2d")  # the last one is timm's: an activation follows


class BatchNorm(nn.Module):
    """BatchNorm over groups of rows: each normalised by its own statistics, at most one moving the running ones.

    In training mode `forward(x, groups, update)` gives what `groups` separate passes would; the methods' rule is one
    updating group a step. Statistics are float32 also under autocast; the running variance takes the unbiased batch
    variance. In evaluation mode, or with `running`, it normalises by the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, momentum: float, eps: float = 1e-3) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor, groups: int = 1, update: int | None = None, running: bool = False) -> Tensor:
        if running or not self.training:
            return self._normalise(x, update=True, training=False)
        if torch.compiler.is_compiling() or processes.world() > 1:
            return self._jointly(x, groups, update)
        parts = [self._normalise(part, i == update, training=True) for i, part in enumerate(x.chunk(groups))]
        return parts[0] if groups == 1 else torch.cat(parts)

    def _normalise(self, x: Tensor, update: bool, training: bool) -> Tensor:
        mean, var = (self.running_mean, self.running_var) if update else (None, None)
        return F.batch_norm(x, mean, var, self.weight, self.bias, training, self.momentum, self.eps)

    def _jointly(self, x: Tensor, groups: int, update: int | None) -> Tensor:
        """All groups in one pass: a reduction and a map that the compiler fuses with its neighbours.

        With several processes the statistics are those of all processes' rows.
        """
        grouped = x.view(groups, -1, *x.shape[1:])
        wide_rows = grouped.to(torch.promote_types(x.dtype, torch.float32))
        over = (1, *range(3, grouped.dim()))
        var, mean = torch.var_mean(wide_rows, dim=over, correction=0)  # [groups, C]
        mean, var = processes.pooled(mean, var)
        if update is not None:
            count = grouped[0].numel() // x.shape[1] * processes.world()
            with torch.no_grad():
                self.running_mean.lerp_(mean[update].to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_((var[update] * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        place = (groups, 1, -1, *[1] * (x.dim() - 2))
        y = wide_rows * scale.view(place) + shift.view(place)
        return y.to(x.dtype).view_as(x)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, momentum={self.momentum}"


@dataclass
class Rows:
    """How the rows of the pass at hand are normalised, for networks that pass on nothing but tensors.

    Attributes:
        groups: batches of equal size, one after the other.
        update: the group that moves the running statistics.
        running: the running statistics normalise all of them.
    """

    groups: int = 1
    update: int | None = None
    running: bool = False


class ConvertedBatchNorm(BatchNorm):
    """What a network's own BatchNorm became: the same tensors under the same names, ε and what follows it."""

    def __init__(self, norm: _BatchNorm, momentum: float, rows: Rows) -> None:
        super().__init__(norm.num_features, momentum, norm.eps)
        self.weight, self.bias = norm.weight, norm.bias
        assert norm.running_mean is not None and norm.running_var is not None
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.after = nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        rows = self.rows
        result: Tensor = self.after(super().forward(x, rows.groups, rows.update, rows.running))
        return result


def convert(net: nn.Module, momentum: float, rows: Rows) -> bool:
    """Make every BatchNorm of a network normalise as `rows` says, in place; other normalisations stay as they are.

    Args:
        momentum: share of the newest batch in the running statistics (PyTorch's sense).

    Returns:
        whether there was any.

    Raises:
        UsageError: one computes something else besides.
    """
    found = False
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, _BatchNorm):
                continue
            if type(child).__name__ not in KNOWN or child.weight is None or child.running_mean is None:
                raise UsageError(
                    f"'{type(child).__name__}' cannot normalise groups of rows", "it is no plain BatchNorm"
                )
            setattr(module, name, ConvertedBatchNorm(child, momentum, rows))
            found = True
    return found
