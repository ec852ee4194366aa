"""What networks need to know of the other processes of a run: how many there are, and sums over them.

`trainer.distributed` says when processes join and leave; a network alone is one of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

_world = 1  # a plain number: the compiler takes it for a constant


def world() -> int:
    """How many processes share the run."""
    return _world


def set_world(number: int) -> None:
    """Say how many processes share the run from here on; they have a process group."""
    global _world
    _world = number


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within, this process works for itself: all of them do the same work, and get the same result."""
    number = world()
    set_world(1)
    try:
        yield
    finally:
        set_world(number)


def pooled(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance over the rows of all processes, each having as many; differentiable."""
    if world() == 1:
        return mean, var
    mean, square = (sum_over_processes(torch.stack([mean, var + mean.square()])) / world()).unbind()
    return mean, square - mean.square()


# An operator of its own, so that the compiler takes it as it is.


@torch.library.custom_op("realmix::sum_over_processes", mutates_args=())
def sum_over_processes(x: Tensor) -> Tensor:
    """The sum over all processes, in each of them."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


@sum_over_processes.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


sum_over_processes.register_autograd(lambda context, gradient: sum_over_processes(gradient))
