"""How far two ways to compute the same may lie apart: a bound from the arithmetic, not from what one processor gave.

Another instruction set, number of threads or compiler adds the same terms in another order and rounds elsewhere. Each
rounding errs by at most ε of what is rounded, so a value with n of them behind it is off by at most about n · ε of the
largest magnitude that went into it; a function that stretches differences multiplies that. In float64 the bound is far
below any mistake of a method, in float32 it is not: what can be compared in float64 is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from networks.wide_resnet import WideResNet
from trainer.augment import flip_shift

# Behind a gradient of the tests' networks: ten layers there and back, in each a sum of some hundred products and the
# mean and variance of some hundred pixels.
NETWORK = 10_000
FORWARD = 1_000  # behind its logits
# Adam divides a gradient by its size, at least 1e-8: so much does its step stretch the rounding of a tiny one.
ADAM = 1e8


def bound(dtype: torch.dtype, roundings: float = NETWORK, stretched: float = 1.0) -> float:
    """The largest relative difference that rounding explains."""
    return stretched * roundings * torch.finfo(dtype).eps


def assert_same(
    actual: Any,
    expected: Any,
    name: str = "",
    *,
    roundings: float = NETWORK,
    stretched: float = 1.0,
    dtype: torch.dtype | None = None,
) -> None:
    """Assert that tensors, or numbers, are equal up to rounding, relative to the largest magnitude among the expected.

    Args:
        dtype: that they were computed in, if it is not their own.
    """
    ours, theirs = (torch.as_tensor(value).detach() for value in (actual, expected))
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, (name, ours, theirs)
    limit = bound(dtype or theirs.dtype, roundings, stretched) * theirs.abs().max().item()
    gap = (ours - theirs).abs().max().item()
    assert gap <= limit, f"{name}: {gap:.2g} apart, rounding explains {limit:.2g}"


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """What is built and run within computes in float64: weak views, networks, losses, gradients, steps."""
    init, embed, scale = WideResNet.__init__, WideResNet.embed, flip_shift.scale

    def built(self: WideResNet, *sizes: Any) -> None:
        init(self, *sizes)
        self.double()

    def embedded(self: WideResNet, x: Tensor, *how: Any) -> Tensor:
        return embed(self, x.double(), *how)

    def scaled(images: Tensor) -> Tensor:
        return images.double().mul(2 / 255).sub(1).permute(0, 3, 1, 2)

    WideResNet.__init__, WideResNet.embed, flip_shift.scale = built, embedded, scaled  # type: ignore[method-assign]
    try:
        yield
    finally:
        WideResNet.__init__, WideResNet.embed, flip_shift.scale = init, embed, scale  # type: ignore[method-assign]
