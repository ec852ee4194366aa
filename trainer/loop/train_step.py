"""The step engine: from a step's raw inputs to updated weights, in eager mode or compiled, without waiting.

    views → method's loss → backward → optimizer → kernel decay → average

`eager` runs each operation by itself. `compiled` turns views, networks and loss into one fused graph and, on a GPU,
records the whole step, optimizer and average included, as one CUDA graph that a single launch replays. Both make the
same update up to rounding. The order within a step is fixed: BatchNorm's running statistics move in the forward pass,
then the optimizer, then the decay of the kernels, then the average.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from networks.network import Network
from trainer import distributed
from trainer.augment.views import Raw, make_batch
from trainer.config import RunConfig
from trainer.contract import Learner, Losses, Method, Options, Views
from trainer.data.to_device import each_tensor, tensors_of
from trainer.loop import optimizer
from trainer.loop.optimizer import Group
from trainer.runs.checkpoint import State

Step = Callable[[Raw], Losses]
WARM_UP = 3  # steps that run as they are before one is recorded: cuDNN and the compiler choose their kernels in them


def build_step(state: State, method: Method, settings: Options, run: RunConfig, names: tuple[str, ...]) -> Step:
    """The function that makes one update of `state` from a step's inputs.

    Args:
        run: a resolved configuration.
        names: of the schedule's entries.
    """
    declared, compiled = method.views(settings), run.engine == "compiled"
    if compiled:
        logging.getLogger("torch.utils.cpp_extension").setLevel(
            logging.ERROR
        )  # it warns of a CUDA that nobody asked for
    learner = build_learner(state, declared, compiled)
    groups = optimizer.groups_of(state.model, run)

    def loss(raw: Raw) -> Losses:
        batch = make_batch(raw, declared, names, learner.state)  # grey levels are exact: bf16 holds half of them
        with torch.autocast(raw.x.device.type, torch.bfloat16, enabled=run.precision == "bf16"):
            losses = method.loss(learner, batch, settings)
        metrics = {name: value.detach() for name, value in losses.metrics.items()}
        return Losses(losses.total, metrics, losses.keep_u)

    if compiled and declared.one_graph and distributed.world() == 1:
        loss = torch.compile(loss, fullgraph=True, dynamic=False)

    def step(raw: Raw) -> Losses:
        losses = loss(raw)
        state.optimizer.zero_grad()
        losses.total.backward()
        update(state, groups, raw.schedule, run)
        return losses

    return Recorded(step) if run.device == "cuda" and run.cuda_graph else step


@torch.no_grad()
def update(state: State, groups: list[Group], schedule: Tensor, run: RunConfig) -> None:
    """Optimizer, decay and average, from the gradients that are there. `schedule`: see `Raw`."""
    optimizer.update(state.optimizer, groups, schedule[-1], schedule[-2], run.optimizer == "adam")
    state.ema.update()


def build_learner(state: State, declared: Views, compiled: bool) -> Learner:
    """The networks as a method calls them: compiled one by one where the whole loss is not, divided among processes."""
    by_network = compiled and (not declared.one_graph or distributed.world() > 1)

    def prepared(network: nn.Module, trained: bool) -> nn.Module:
        for module in network.modules():
            if isinstance(module, Network):
                module.joint = compiled or next(network.parameters()).is_cuda
        if by_network:
            network = torch.compile(network, fullgraph=True, dynamic=False)  # type: ignore[assignment]
        if distributed.world() == 1:
            return network
        if trained:
            network = distributed.averaging(network)
        return distributed.Divided(network)

    teacher = prepared(state.ema.teacher(), trained=False) if declared.teacher else None
    return Learner(prepared(state.model, trained=True), teacher, state.method)


class Recorded:
    """A step as one CUDA graph: the first steps run as they are, the next one is recorded, then all are replayed.

    Recording computes nothing; every call makes exactly one update, so a resumed run makes the same ones.
    """

    def __init__(self, step: Step) -> None:
        self._step, self._done = step, 0
        self._stream: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, raw: Raw) -> Losses:
        if self._graph is None and self._done < WARM_UP:
            self._done += 1
            return self._aside(raw)
        if self._graph is None:
            self._raw = each_tensor(raw, torch.empty_like)
            _copy(self._raw, raw)
            torch.cuda.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            # thread_local: the feed's thread may take memory meanwhile
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._losses = self._step(self._raw)
        else:
            _copy(self._raw, raw)
        self._graph.replay()
        return self._losses

    def _aside(self, raw: Raw) -> Losses:
        """On a stream of its own, as recording will be: what autograd remembers of a stream must be the same."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            losses = self._step(raw)
        torch.cuda.current_stream().wait_stream(self._stream)
        return losses


@torch.no_grad()
def _copy(to: Raw, source: Raw) -> None:
    """The next step's inputs, into the memory that the recorded step reads."""
    for place, tensor in zip(tensors_of(to), tensors_of(source), strict=True):
        place.copy_(tensor, non_blocking=True)
