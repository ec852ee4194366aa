"""A step's inputs on their way to the GPU: copied on a stream of their own, ahead of the step, without anybody waiting.

The thread that prepares a step enters `aside`, moves what it made and records an event; the training thread makes its
stream wait for the event, which the host does not. On a CPU all of it is the identity. Pages for the way come from
torch's caching host allocator, which hands them out again when the copy from them is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Transfer:
    """Moves tensors to `device`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:  # what a pool was loaded by comes first
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def aside(self) -> contextlib.AbstractContextManager[object]:
        """What the calling thread asks of the GPU within goes to the transfer's own stream."""
        return torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext()

    def send(self, inputs: T) -> tuple[T, torch.cuda.Event | None]:
        """Move every tensor of `inputs` (see `each_tensor`), within `aside`; and the event that they are there."""
        if self._stream is None:
            return inputs, None
        sent = each_tensor(inputs, self._move)
        event = torch.cuda.Event()
        event.record(self._stream)
        return sent, event

    def receive(self, inputs: T, event: torch.cuda.Event | None) -> T:
        """What was sent, for the current stream of the calling thread: its next work comes after the event."""
        if event is None:
            return inputs
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(event)

        def used(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)  # its memory belongs to the other stream, which must not reuse it yet
            return tensor

        return each_tensor(inputs, used)

    def _move(self, tensor: Tensor) -> Tensor:
        if tensor.device == self._device:
            return tensor
        return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(self._device, non_blocking=True)


def each_tensor(inputs: T, change: Callable[[Tensor], Tensor]) -> T:
    """The same dataclass, mapping or tuple with every tensor in it changed; anything else stays as it is."""
    found: Any = inputs
    if isinstance(found, Tensor):
        return change(found)  # type: ignore[return-value]
    if isinstance(found, Mapping):
        return {name: each_tensor(value, change) for name, value in found.items()}  # type: ignore[return-value]
    if isinstance(found, tuple):
        return tuple(each_tensor(value, change) for value in found)  # type: ignore[return-value]
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        fields = {f.name: each_tensor(getattr(found, f.name), change) for f in dataclasses.fields(found)}
        return dataclasses.replace(found, **fields)  # type: ignore[return-value]
    return inputs
