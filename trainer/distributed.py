"""Several processes of one run (torchrun): each sends its share of the rows through the network, all see every row.

The batch is fixed and global. Every process prepares the same pixels, draws and targets from (seed, step), so MixUp,
guesses, masks and losses are those of one process; only the network's rows are divided. BatchNorm pools its statistics
over the processes and the logits are gathered, so the number of processes changes nothing but rounding.
"""

from __future__ import annotations

import atexit
import datetime
import inspect
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from networks.layers.processes import set_world, world
from stores.errors import Interrupted, RealMixError, UsageError

T = TypeVar("T")
LOST = ("closed by peer", "reset by peer", "broken pipe", "remote process", "communicator was aborted")

_rank = 0  # a plain number: the compiler takes it for a constant


def rank() -> int:
    """Which of them this is; 0 is the one that writes."""
    return _rank


def local_rank() -> int:
    """Which of the processes on this machine this is."""
    return int(os.environ.get("LOCAL_RANK", 0)) if world() > 1 else 0


def join(device: str) -> None:
    """Join the processes that torchrun started, if it did.

    Args:
        device: "cuda" or "cpu".

    Raises:
        UsageError: more processes than GPUs on this machine.
    """
    global _rank
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or world() > 1:
        return
    local = int(os.environ["LOCAL_RANK"])
    if device == "cuda" and local >= torch.cuda.device_count():
        raise UsageError(
            f"process {local} of this machine has no GPU",
            f"there are {torch.cuda.device_count()}",
            f"torchrun --nproc-per-node {torch.cuda.device_count()} starts one for each",
        )
    # one backend for tensors on each kind of device; gloo also carries what the host has to say
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(minutes=10))
    set_world(dist.get_world_size())
    _rank = dist.get_rank()
    if device == "cpu":  # an interpreter that ends beside gloo's threads may abort; NCCL could wait for a lost process
        atexit.register(leave)


def leave() -> None:
    """Leave the process group."""
    global _rank
    if world() > 1:
        dist.destroy_process_group()
        set_world(1)
        _rank = 0


def agree(stop: bool) -> bool:
    """Whether any process wants to stop: all of them hear the same answer."""
    if world() == 1:
        return stop
    wish = torch.tensor([float(stop)])
    dist.all_reduce(wish, dist.ReduceOp.MAX)
    return bool(wish.item())


def by_first(work: Callable[[], T]) -> T | None:
    """What process 0 does for all; the others wait for it and get None, or end quietly with its error's exit code."""
    if world() == 1:
        return work()
    failed: list[int] = [0]
    result: T | None = None
    error: RealMixError | Interrupted | None = None
    if _rank == 0:
        try:
            result = work()
        except (RealMixError, Interrupted) as caught:  # the others wait to hear of it
            error, failed = caught, [caught.exit_code]
    dist.broadcast_object_list(failed, src=0)
    if error is not None:
        raise error
    if failed[0]:
        raise SystemExit(failed[0])
    return result


def is_lost_process(error: RuntimeError) -> bool:
    """Whether a message to another process failed because that has ended; only the text tells."""
    said = str(error).lower()
    return world() > 1 and any(sign in said for sign in LOST)


def require_divisible(rows: int, what: str) -> None:
    """Raises UsageError unless every process gets as many of the rows."""
    if rows % world():
        raise UsageError(
            f"{rows} {what} cannot be divided among {world()} processes",
            "the batch of a step is fixed and shared",
            f"--batch a multiple of {world()}",
        )


def from_first(tensor: Tensor) -> None:
    """Overwrite a tensor with that of process 0, in all of them."""
    if world() > 1:
        dist.broadcast(tensor, src=0)


def averaging(network: nn.Module) -> nn.Module:
    """DistributedDataParallel averages gradients over the processes. Buffers are equal, see `processes.pooled`."""
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    still = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its name before 2.12
    options: Any = {still: False}
    return nn.parallel.DistributedDataParallel(network, **options)


class Divided(nn.Module):
    """A network whose rows are divided among the processes: called with all rows, it returns the outputs for all rows.

    `network` is DistributedDataParallel around the trained one, or a teacher. A gradient through the gathered outputs
    reaches this process's rows alone, times the number of processes, because DistributedDataParallel averages.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, rows: Tensor, groups: int = 1, update: int | None = None, **options: Any
    ) -> Tensor | dict[str, Tensor]:
        shares = rows.unflatten(0, (groups, world(), -1))  # every group's rows, one share a process
        found = self.network(shares[:, _rank].flatten(0, 1), groups, update, **options)
        if isinstance(found, Tensor):
            return _gathered(found, groups)
        return {name: _gathered(output, groups) for name, output in found.items()}


def _gathered(output: Tensor, groups: int) -> Tensor:
    """The outputs of all processes, in the order of the rows."""
    everyone = _from_all_processes(output).unflatten(1, (groups, -1))  # [processes, groups, rows of a share, K]
    return everyone.transpose(0, 1).flatten(0, 2)


# An operator of its own, so that the compiler takes it as it is.


@torch.library.custom_op("realmix::from_all_processes", mutates_args=())
def _from_all_processes(x: Tensor) -> Tensor:
    """[n, …] to [processes, n, …], in each process."""
    gathered = x.new_empty((world(), *x.shape))
    dist.all_gather(list(gathered.unbind()), x.contiguous())
    return gathered


@_from_all_processes.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((world(), *x.shape))


_from_all_processes.register_autograd(lambda context, gradient: gradient[_rank] * world())
